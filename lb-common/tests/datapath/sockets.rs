//! The node's own connected sockets, whose port is also a node port: what they are sent stays theirs.

use lb_common::{
    abi::Reason::{
        self, HitOriginal, Open, PassNoService, PassOwnSocket, PassToTc, RejectNoBackend, Resolved,
    },
    datapath::{Verdict, Via::Kernel},
    fake::{FakeTables, PacketSpec, Transport},
    flow::FlowKey,
    net::addr::Addr,
};

use crate::{
    truth::{Cell, Endpoints, From, Front},
    world::{
        ACK, CLIENT_PORT, SYN, UDP, World, for_both_families, forwarded, is_reset, leaves,
        node_addr, outsider, remote_pod, sends, to_gateway,
    },
};

for_both_families!(
    an_own_connection_with_the_number_of_a_node_port_goes_on,
    a_syn_to_a_node_port_begins_a_connection_all_the_same,
    without_a_socket_a_node_port_is_a_node_port,
    a_socket_for_other_packets_is_none_for_these,
    a_cluster_ip_is_nobodys_own,
    a_known_flow_is_older_than_any_socket,
    on_the_loopback_device_too,
    what_nobody_serves_is_still_the_sockets,
);

/// Every segment but the one that opens a connection.
fn later() -> impl Iterator<Item = Transport> {
    let flags = (0..=u8::MAX).filter(|flags| flags & 0b1_0110 != 0b0_0010);
    flags.map(Transport::Tcp)
}

fn cell(front: Front, from: From) -> Cell {
    Cell {
        front,
        from,
        endpoints: Endpoints::There,
        external_local: false,
        internal_local: false,
        knows_pods: true,
        mode: 0,
        prefers: false,
    }
}

/// The node has dialled a server outside from the node port's number, by this transport.
fn connected<A: Addr>(front: Front, transport: Transport) -> (World<A>, PacketSpec<A>) {
    let cell = cell(front, From::Outside);
    let (world, back) = (cell.world::<A>(), cell.dials(CLIENT_PORT, transport));
    world.node.add_socket(back.key());
    (world, back)
}

#[track_caller]
fn passes<A: Addr, const XDP: bool>(
    world: &World<A>,
    program: FakeTables<'_, A, XDP, false>,
    spec: &PacketSpec<A>,
    reason: Reason,
) {
    let packet = spec.packet();
    leaves(&world.node, program, &packet, Verdict::Pass, &[reason]);
}

fn an_own_connection_with_the_number_of_a_node_port_goes_on<A: Addr>() {
    for front in [Front::NodePort, Front::LoadBalancer, Front::ExternalIp] {
        let (world, back) = connected::<A>(front, ACK);
        for transport in later() {
            let back = PacketSpec {
                transport,
                ..back.clone()
            };
            passes(&world, world.uplink(), &back, PassOwnSocket);
            passes(&world, world.xdp(), &back, PassOwnSocket);
            passes(&world, world.pod(), &back, PassOwnSocket);
        }
        let (world, back) = connected::<A>(front, UDP);
        for _ in 0..2 {
            passes(&world, world.uplink(), &back, PassOwnSocket);
            passes(&world, world.xdp(), &back, PassOwnSocket);
        }
    }
}

/// Opens it, and is sent on from the node's own address.
#[track_caller]
fn opens<A: Addr>(world: &World<A>, open: &PacketSpec<A>) {
    let mut there = forwarded(open, remote_pod(2));
    there.ends.src = node_addr();
    let counts = &[Resolved, Open];
    let way = (Kernel, to_gateway());
    sends(&world.node, world.uplink(), open, &there, way, counts);
}

fn a_syn_to_a_node_port_begins_a_connection_all_the_same<A: Addr>() {
    let (world, back) = connected::<A>(Front::NodePort, ACK);
    let syn = PacketSpec {
        transport: SYN,
        ..back
    };
    opens(&world, &syn);
}

fn without_a_socket_a_node_port_is_a_node_port<A: Addr>() {
    let cell = cell(Front::NodePort, From::Outside);
    let world = cell.world::<A>();
    // A RST is never answered.
    let late = |flags: &u8| flags & 0b1_0110 != 0b0_0010 && flags & 0b100 == 0;
    for transport in (0..=u8::MAX).filter(late).map(Transport::Tcp) {
        let late = cell.dials::<A>(CLIENT_PORT, transport);
        is_reset(&world, world.uplink(), &late);
        let counts = &[PassToTc];
        leaves(
            &world.node,
            world.xdp(),
            &late.packet(),
            Verdict::Pass,
            counts,
        );
    }
    opens(&world, &cell.dials(CLIENT_PORT, UDP));
}

/// All five parts of the key count.
fn a_socket_for_other_packets_is_none_for_these<A: Addr>() {
    let cell = cell(Front::NodePort, From::Outside);
    let key: FlowKey<A> = cell.dials(CLIENT_PORT, UDP).key();
    let mut others = [key; 5];
    others[0].ends.src = outsider(2);
    others[1].ends.dst = outsider(3);
    others[2].sport += 1;
    others[3].dport += 1;
    others[4].proto = 6;
    for other in others {
        let world = cell.world::<A>();
        world.node.add_socket(other);
        opens(&world, &cell.dials(CLIENT_PORT, UDP));
    }
}

/// No socket of the node's own is bound there, so none is asked for.
fn a_cluster_ip_is_nobodys_own<A: Addr>() {
    let (world, back) = connected::<A>(Front::ClusterIp, ACK);
    is_reset(&world, world.uplink(), &back);
    let (world, back) = connected::<A>(Front::ClusterIp, UDP);
    opens(&world, &back);
}

fn a_known_flow_is_older_than_any_socket<A: Addr>() {
    for transport in [SYN, UDP] {
        let cell = cell(Front::NodePort, From::PodDevice);
        let world = cell.world::<A>();
        let open = cell.dials::<A>(CLIENT_PORT, transport);
        let there = forwarded(&open, remote_pod(2));
        let way = (Kernel, to_gateway());
        let counts = &[Resolved, Open];
        sends(&world.node, world.pod(), &open, &there, way, counts);
        world.node.add_socket(open.key());
        let way = (lb_common::datapath::Via::Neighbour, to_gateway());
        let counts = &[HitOriginal];
        sends(&world.node, world.pod(), &open, &there, way, counts);
    }
}

/// Both ends of such a connection may be the node's own.
fn on_the_loopback_device_too<A: Addr>() {
    let cell = cell(Front::NodePort, From::Host);
    let world = cell.world::<A>();
    let back = cell.dials::<A>(CLIENT_PORT, UDP);
    world.node.add_socket(back.key());
    passes(&world, world.lo(), &back, PassOwnSocket);
    // TCP is left alone there without a question.
    for transport in later() {
        let segment = PacketSpec {
            transport,
            ..back.clone()
        };
        passes(&world, world.lo(), &segment, PassNoService);
    }
}

fn what_nobody_serves_is_still_the_sockets<A: Addr>() {
    let cell = Cell {
        endpoints: Endpoints::Nowhere,
        ..cell(Front::NodePort, From::Outside)
    };
    let world = cell.world::<A>();
    let back = cell.dials::<A>(CLIENT_PORT, UDP);
    let verdict = world.uplink().run(&mut back.packet()).verdict;
    assert_eq!(verdict, Verdict::Back);
    assert_eq!(world.node.take_counts()[&RejectNoBackend], 1);
    world.node.add_socket(back.key());
    passes(&world, world.uplink(), &back, PassOwnSocket);
}
