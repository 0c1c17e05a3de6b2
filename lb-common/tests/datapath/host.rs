//! The node's own processes as clients: they dial by the host's pair, and are answered there.

use lb_common::{
    abi::{
        NextHop,
        Reason::{
            DropNoRoute, DropNotService, HitOriginal, HitReply, Open, PassNoService, PortRemapped,
            Resolved,
        },
    },
    datapath::{
        Route, Verdict,
        Via::{Host, Kernel, Neighbour},
    },
    fake::{PacketSpec, Transport},
    net::addr::Addr,
};

use crate::world::{
    ACK, BACKEND_PORT, CLIENT_PORT, HOST_DEVICE, SERVICE_PORT, SYN, SYN_ACK, UDP, World, answer,
    for_both_families, hands_over, is_reset, leaves, local_pod, node_addr, preferred, remote_pod,
    renamed, request, sends, to_gateway, to_pod, vip,
};

for_both_families!(
    a_pod_of_this_node_is_reached_and_answers_by_the_hosts_device,
    a_remote_backend_sees_the_preferred_source,
    without_a_preferred_source_the_nodes_address_is_taken,
    a_taken_port_is_replaced,
    a_backend_on_this_very_node_is_reached_and_answers,
    what_is_no_service_goes_no_further,
    the_nodes_own_sockets_are_left_alone_on_loopback,
    a_backend_that_is_routed_to_the_services_is_refused,
);

/// Both kinds of datagrams and what answers them.
const EXCHANGES: [(Transport, Transport); 2] = [(SYN, SYN_ACK), (UDP, UDP)];

/// An exchange of a process of the node at `from` with a backend that sees it as `seen`; the answer comes by `pods` or not.
fn exchange<A: Addr>(world: &World<A>, seen: A, backend: A, way: NextHop, is_pod: bool) {
    for (transport, reply) in EXCHANGES {
        let open = request(node_addr(), transport);
        let there = renamed(&open, (seen, CLIENT_PORT), (backend, BACKEND_PORT));
        let opened = [Resolved, Open];
        sends(
            &world.node,
            world.host(),
            &open,
            &there,
            (Kernel, way),
            &opened,
        );
        let hit = [HitOriginal];
        sends(
            &world.node,
            world.host(),
            &open,
            &there,
            (Neighbour, way),
            &hit,
        );
        // All hops are left: nobody routed it.
        let (back, home) = (answer(&there, reply), answer(&open, reply));
        let program = if is_pod { world.pod() } else { world.uplink() };
        for _ in 0..2 {
            hands_over(&world.node, program, &back, &home, Host, &[HitReply]);
        }
    }
}

fn a_pod_of_this_node_is_reached_and_answers_by_the_hosts_device<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    exchange(&world, node_addr(), local_pod(1), to_pod(), true);
    // As if the process had dialled the backend.
    let world = World::<A>::with_local_backends(1);
    world.node.set_preferred_source(preferred());
    exchange(&world, preferred(), local_pod(1), to_pod(), true);
}

fn a_remote_backend_sees_the_preferred_source<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world.node.set_preferred_source(preferred());
    exchange(&world, preferred(), remote_pod(1), to_gateway(), false);
}

fn without_a_preferred_source_the_nodes_address_is_taken<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    // Dialled from another of its addresses.
    let open = request(preferred(), SYN);
    let (seen, backend) = ((node_addr(), CLIENT_PORT), (remote_pod(1), BACKEND_PORT));
    let there = renamed(&open, seen, backend);
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.host(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
    let (back, home) = (answer(&there, SYN_ACK), answer(&open, SYN_ACK));
    hands_over(&world.node, world.uplink(), &back, &home, Host, &[HitReply]);
}

/// Two service addresses before one backend, dialled from one port: the answers must be told apart.
fn a_taken_port_is_replaced<A: Addr>() {
    for (world, backend) in [
        (World::<A>::with_local_backends(1), local_pod(1)),
        (World::<A>::with_remote_backends(1), remote_pod(1)),
    ] {
        world.serve_at(vip(2), &[1]);
        let first = request(node_addr::<A>(), SYN);
        let second = renamed(&first, (node_addr(), CLIENT_PORT), (vip(2), SERVICE_PORT));
        assert_eq!(
            world.host().run(&mut first.packet()).verdict,
            Verdict::Send(Kernel)
        );
        world.node.take_counts();
        let mut packet = second.packet();
        assert_eq!(world.host().run(&mut packet).verdict, Verdict::Send(Kernel));
        let counts = [Resolved, Open, PortRemapped].map(|reason| (reason, 1));
        assert_eq!(world.node.take_counts(), counts.into());
        let at = if size_of::<A>() == 4 { 20 } else { 40 };
        let port = u16::from_be_bytes([packet.bytes()[at], packet.bytes()[at + 1]]);
        assert_ne!(port, CLIENT_PORT);
        let there = renamed(&second, (node_addr(), port), (backend, BACKEND_PORT));
        assert_eq!(packet, there.packet());
        let (back, home) = (answer(&there, SYN_ACK), answer(&second, SYN_ACK));
        hands_over(&world.node, world.uplink(), &back, &home, Host, &[HitReply]);
    }
}

/// The stack gets both directions by the host's device; what answers leaves by the loopback device.
fn a_backend_on_this_very_node_is_reached_and_answers<A: Addr>() {
    let world = World::<A>::with_backend_here();
    for (transport, reply) in EXCHANGES {
        let open = request(node_addr(), transport);
        let client = (node_addr(), CLIENT_PORT);
        let there = renamed(&open, client, (node_addr(), BACKEND_PORT));
        hands_over(&world.node, world.host(), &open, &there, Host, &[Open]);
        hands_over(
            &world.node,
            world.host(),
            &open,
            &there,
            Host,
            &[HitOriginal],
        );
        let (back, home) = (answer(&there, reply), answer(&open, reply));
        hands_over(&world.node, world.lo(), &back, &home, Host, &[HitReply]);
    }
}

/// Its route leads here: what was passed would come round again.
fn what_is_no_service_goes_no_further<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let dropped = |packet: &lb_common::fake::FakePacket| {
        let counts = &[DropNotService];
        leaves(&world.node, world.host(), packet, Verdict::Drop, counts);
    };
    for transport in [SYN, ACK, UDP] {
        let other = request(node_addr::<A>(), transport);
        let (client, port) = ((node_addr(), CLIENT_PORT), SERVICE_PORT + 1);
        dropped(&renamed(&other, client, (vip(1), port)).packet());
        dropped(&renamed(&other, client, (vip(9), SERVICE_PORT)).packet());
        // Another protocol, cut short.
        let protocol_at = if size_of::<A>() == 4 { 9 } else { 6 };
        for protocol in [1, 58, 132] {
            let mut packet = other.packet();
            packet.bytes_mut()[protocol_at] = protocol;
            dropped(&packet);
        }
        let whole = other.packet();
        for len in 0..whole.bytes().len() {
            let cut = lb_common::fake::FakePacket::new(whole.bytes()[..len].to_vec());
            dropped(&cut);
        }
    }
    is_reset(&world, world.host(), &request(node_addr(), ACK));
}

/// A socket of the node's own may listen where a service does, and be in the middle of a connection.
fn the_nodes_own_sockets_are_left_alone_on_loopback<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let passes = |spec: &PacketSpec<A>| {
        let counts = &[PassNoService];
        leaves(
            &world.node,
            world.lo(),
            &spec.packet(),
            Verdict::Pass,
            counts,
        );
    };
    for flags in (0..=u8::MAX).filter(|flags| flags & 0b1_0110 != 0b0_0010) {
        passes(&request(node_addr(), Transport::Tcp(flags)));
    }
    let ends = |port| {
        renamed(
            &request(node_addr(), SYN),
            (node_addr(), 1),
            (node_addr(), port),
        )
    };
    passes(&ends(SERVICE_PORT));
    let open = request(node_addr(), SYN);
    let client = (node_addr(), CLIENT_PORT);
    let there = renamed(&open, client, (local_pod(1), BACKEND_PORT));
    let way = (Kernel, to_pod());
    sends(
        &world.node,
        world.lo(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
    let (back, home) = (answer(&there, SYN_ACK), answer(&open, SYN_ACK));
    hands_over(&world.node, world.pod(), &back, &home, Host, &[HitReply]);
}

/// A service whose backend is a service address: each round would end where it began, with all its hops.
fn a_backend_that_is_routed_to_the_services_is_refused<A: Addr>() {
    let world = World::<A>::new().and_backends(1, |_| vip(1), 0);
    let pair = NextHop {
        ifindex: HOST_DEVICE,
        ..to_gateway()
    };
    world.node.set_route(vip(1), Route::Neighbour, pair);
    for (program, client) in [
        (world.host(), node_addr()),
        (world.pod(), local_pod(9)),
        (world.uplink(), remote_pod(9)),
    ] {
        let syn = request::<A>(client, SYN).packet();
        leaves(&world.node, program, &syn, Verdict::Drop, &[DropNoRoute]);
    }
}
