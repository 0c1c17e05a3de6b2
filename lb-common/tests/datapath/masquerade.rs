//! Source NAT: where the reply would not come back through this node otherwise, and nowhere else.

use std::collections::BTreeSet;

use lb_common::{
    abi::Reason::{DropPortInUse, HitReply, Open, PortRemapped, Resolved},
    datapath::{Verdict, Via::Kernel},
    fake::PacketSpec,
    net::addr::Addr,
};

use crate::world::{
    CLIENT_PORT, SERVICE_PORT, SNAT_PORT, SNAT_PORTS, SYN, SYN_ACK, UDP, World, answer, delivered,
    for_both_families, forwarded, leaves, local_pod, node_addr, outsider, remote_pod, request,
    sends, to_gateway, to_pod, vip,
};

for_both_families!(
    an_outside_client_of_a_remote_backend_is_masqueraded,
    a_pod_of_this_node_is_not_masqueraded,
    a_pod_of_another_node_is_masqueraded_before_a_remote_backend_alone,
    an_outside_client_of_a_local_backend_keeps_its_address,
    a_taken_port_is_replaced,
    without_ports_a_taken_one_is_refused,
    remapped_ports_stay_in_their_range,
);

/// What a request from outside becomes under the node's address.
fn masqueraded<A: Addr>(request: &PacketSpec<A>, backend: A) -> PacketSpec<A> {
    let mut masqueraded = forwarded(request, backend);
    masqueraded.ends.src = node_addr();
    masqueraded
}

fn an_outside_client_of_a_remote_backend_is_masqueraded<A: Addr>() {
    for (transport, reply) in [(SYN, SYN_ACK), (UDP, UDP)] {
        let world = World::<A>::with_remote_backends(1);
        let request = request(outsider(1), transport);
        let there = masqueraded(&request, remote_pod(1));
        let way = (Kernel, to_gateway());
        sends(
            &world.node,
            world.uplink(),
            &request,
            &there,
            way,
            &[Resolved, Open],
        );
        let (back, home) = (answer(&there, reply), delivered(&request, reply));
        sends(
            &world.node,
            world.uplink(),
            &back,
            &home,
            way,
            &[Resolved, HitReply],
        );
    }
}

fn a_pod_of_this_node_is_not_masqueraded<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let near = request(local_pod(9), SYN);
    sends(
        &world.node,
        world.pod(),
        &near,
        &forwarded(&near, remote_pod(1)),
        (Kernel, to_gateway()),
        &[Resolved, Open],
    );
}

/// One that dialled this node, as by its node port: a backend elsewhere would answer it on a way past this node.
fn a_pod_of_another_node_is_masqueraded_before_a_remote_backend_alone<A: Addr>() {
    let far = request(remote_pod(9), SYN);
    let world = World::<A>::with_remote_backends(1);
    sends(
        &world.node,
        world.uplink(),
        &far,
        &masqueraded(&far, remote_pod(1)),
        (Kernel, to_gateway()),
        &[Resolved, Open],
    );
    let world = World::<A>::with_local_backends(1);
    sends(
        &world.node,
        world.uplink(),
        &far,
        &forwarded(&far, local_pod(1)),
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
}

fn an_outside_client_of_a_local_backend_keeps_its_address<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = request(outsider(1), SYN);
    let there = forwarded(&syn, local_pod(1));
    sends(
        &world.node,
        world.uplink(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
    let (back, home) = (answer(&there, SYN_ACK), delivered(&syn, SYN_ACK));
    sends(
        &world.node,
        world.pod(),
        &back,
        &home,
        (Kernel, to_gateway()),
        &[Resolved, HitReply],
    );
}

/// One client, one port, two service addresses, one backend: to the backend they would be one.
fn second_service<A: Addr>(world: &World<A>) -> [PacketSpec<A>; 2] {
    world.serve_at(vip(2), &[1]);
    let first = request(outsider(1), SYN);
    let second = PacketSpec::new((outsider(1), CLIENT_PORT), (vip(2), SERVICE_PORT), SYN);
    [first, second]
}

fn a_taken_port_is_replaced<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let [first, second] = second_service(&world);
    let there = masqueraded(&first, remote_pod(1));
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.uplink(),
        &first,
        &there,
        way,
        &[Resolved, Open],
    );
    let mut packet = second.packet();
    assert_eq!(
        world.uplink().run(&mut packet).verdict,
        Verdict::Send(Kernel)
    );
    let counts = world.node.take_counts();
    assert_eq!(
        counts,
        [Resolved, Open, PortRemapped]
            .map(|reason| (reason, 1))
            .into()
    );
    let port = source_port::<A>(packet.bytes());
    let there = PacketSpec {
        sport: port,
        ..masqueraded(&second, remote_pod(1))
    };
    assert_eq!(packet, there.packet());
    let (back, home) = (answer(&there, SYN_ACK), delivered(&second, SYN_ACK));
    sends(
        &world.node,
        world.uplink(),
        &back,
        &home,
        way,
        &[Resolved, HitReply],
    );
    let (back, home) = (
        answer(&masqueraded(&first, remote_pod(1)), SYN_ACK),
        delivered(&first, SYN_ACK),
    );
    sends(
        &world.node,
        world.uplink(),
        &back,
        &home,
        way,
        &[Resolved, HitReply],
    );
}

fn without_ports_a_taken_one_is_refused<A: Addr>() {
    let world = World::<A>::with_snat_ports(0).and_backends(1, remote_pod, 0);
    let [first, second] = second_service(&world);
    let there = masqueraded(&first, remote_pod(1));
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.uplink(),
        &first,
        &there,
        way,
        &[Resolved, Open],
    );
    let counts = [Resolved, DropPortInUse];
    leaves(
        &world.node,
        world.uplink(),
        &second.packet(),
        Verdict::Drop,
        &counts,
    );
}

fn remapped_ports_stay_in_their_range<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let mut ports = BTreeSet::new();
    for client in 1..=200 {
        let syn = request::<A>(outsider(client), SYN);
        let mut packet = syn.packet();
        assert_eq!(
            world.uplink().run(&mut packet).verdict,
            Verdict::Send(Kernel)
        );
        let port = source_port::<A>(packet.bytes());
        assert!(ports.insert(port), "two clients share port {port}");
        let range = u32::from(SNAT_PORT)..u32::from(SNAT_PORT) + SNAT_PORTS;
        assert!(
            port == CLIENT_PORT || range.contains(&port.into()),
            "{port}"
        );
    }
    assert!(
        ports.contains(&CLIENT_PORT),
        "the first client keeps its own port"
    );
}

fn source_port<A: Addr>(packet: &[u8]) -> u16 {
    let at = if size_of::<A>() == 4 { 20 } else { 40 };
    u16::from_be_bytes([packet[at], packet[at + 1]])
}
