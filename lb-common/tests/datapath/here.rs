//! Backends that are processes of this node: the stack receives on the packet's own way, and what answers is
//! translated on its way out.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{
            DropNoRoute, HitOriginal, HitReply, Open, OpenedForTc, PassNoService, PassProtocol,
            PassToTc, Resolved,
        },
        place,
    },
    datapath::{
        Verdict,
        Via::{Kernel, Stack},
    },
    fake::{FakeTables, PacketSpec, Transport},
    net::addr::{Addr, Addr4},
};

use crate::world::{
    ACK, BACKEND_PORT, CLIENT_PORT, SYN, SYN_ACK, UDP, World, answer, backend, for_both_families,
    forwarded, hands_over, leaves, local_pod, node_addr, outsider, remote_pod, renamed, request,
    sends, to_gateway,
};

for_both_families!(
    a_pod_and_an_outside_client_reach_a_process_of_the_node,
    a_flow_opened_before_the_stack_is_answered_on_the_way_out,
    nothing_else_is_touched_on_the_way_out,
    a_forged_answer_is_not_translated,
    the_nodes_address_inside_a_pods_prefix_is_the_nodes,
    an_address_of_nobody_is_no_address_of_the_nodes,
    a_datagram_moves_on_from_a_process_that_left,
);

const EXCHANGES: [(Transport, Transport); 2] = [(SYN, SYN_ACK), (UDP, UDP)];

/// What the process gets: another destination, no hop less.
fn received<A: Addr>(request: &PacketSpec<A>) -> PacketSpec<A> {
    let client = (request.ends.src, request.sport);
    renamed(request, client, (node_addr(), BACKEND_PORT))
}

fn a_pod_and_an_outside_client_reach_a_process_of_the_node<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let clients: [(_, FakeTables<'_, A, false, false>); 3] = [
        (local_pod(9), world.pod()),
        (outsider(1), world.uplink()),
        (remote_pod(9), world.uplink()),
    ];
    for (client, program) in clients {
        for (transport, reply) in EXCHANGES {
            // One hop is enough: the packet has arrived.
            let open = PacketSpec {
                ttl: 1,
                ..request(client, transport)
            };
            let there = received(&open);
            hands_over(&world.node, program, &open, &there, Stack, &[Open]);
            hands_over(&world.node, program, &open, &there, Stack, &[HitOriginal]);
            let (back, home) = (answer(&there, reply), answer(&open, reply));
            for _ in 0..2 {
                hands_over(
                    &world.node,
                    world.egress(),
                    &back,
                    &home,
                    Stack,
                    &[HitReply],
                );
            }
        }
    }
}

fn a_flow_opened_before_the_stack_is_answered_on_the_way_out<A: Addr>() {
    for local in [true, false] {
        let world = if local {
            World::<A>::with_backend_here()
        } else {
            World::<A>::new().and_backends(1, |_| node_addr(), 0)
        };
        for (transport, reply) in EXCHANGES {
            let open = request(outsider(1), transport);
            let (there, packet) = (received(&open), open.packet());
            let opened = [PassToTc, OpenedForTc];
            leaves(&world.node, world.xdp(), &packet, Verdict::Pass, &opened);
            let hit = [HitOriginal];
            hands_over(&world.node, world.uplink(), &open, &there, Stack, &hit);
            leaves(
                &world.node,
                world.xdp(),
                &packet,
                Verdict::Pass,
                &[PassToTc],
            );
            let (back, home) = (answer(&there, reply), answer(&open, reply));
            hands_over(
                &world.node,
                world.egress(),
                &back,
                &home,
                Stack,
                &[HitReply],
            );
        }
    }
}

/// Requests, answers of other backends, what no flow is about: it was done where the packet came in.
fn nothing_else_is_touched_on_the_way_out<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let open = request(outsider(1), SYN);
    let mut there = forwarded(&open, remote_pod(1));
    there.ends.src = node_addr();
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.uplink(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
    let other = PacketSpec {
        sport: 7,
        ..answer(&there, ACK)
    };
    for spec in [
        open,
        there.clone(),
        answer(&there, SYN_ACK),
        other,
        request(local_pod(1), SYN),
        request(local_pod(1), UDP),
        request(local_pod(1), ACK),
    ] {
        let counts = &[PassNoService];
        leaves(
            &world.node,
            world.egress(),
            &spec.packet(),
            Verdict::Pass,
            counts,
        );
    }
    let mut other = request::<A>(local_pod(1), UDP).packet();
    other.bytes_mut()[if size_of::<A>() == 4 { 9 } else { 6 }] = 136;
    leaves(
        &world.node,
        world.egress(),
        &other,
        Verdict::Pass,
        &[PassProtocol],
    );
}

/// With this node's address as its source it comes from outside: the stack drops it as it is, and would not
/// if it had the service's.
fn a_forged_answer_is_not_translated<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let open = request(outsider(1), SYN);
    let there = received(&open);
    hands_over(&world.node, world.uplink(), &open, &there, Stack, &[Open]);
    let forged = answer(&there, ACK).packet();
    let passed = &[PassNoService];
    for program in [world.uplink(), world.pod(), world.lo()] {
        leaves(&world.node, program, &forged, Verdict::Pass, passed);
    }
    leaves(&world.node, world.xdp(), &forged, Verdict::Pass, passed);
}

/// As a bridge has one: there a process of the node answers, no pod.
fn the_nodes_address_inside_a_pods_prefix_is_the_nodes<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let bridge = local_pod(254);
    world
        .node
        .set_place(bridge, World::<A>::addr_bits(), place::NODE);
    // The FIB does not forward to it.
    let none = lb_common::datapath::Route::None;
    world.node.set_route(bridge, none, to_gateway());
    world.node.set_backend(1, Some(backend(bridge, 0)));
    let open = request(local_pod(9), SYN);
    let there = renamed(&open, (local_pod(9), CLIENT_PORT), (bridge, BACKEND_PORT));
    hands_over(&world.node, world.pod(), &open, &there, Stack, &[Open]);
}

fn an_address_of_nobody_is_no_address_of_the_nodes<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let bits = World::<A>::addr_bits();
    world.node.set_place(node_addr(), bits, place::PODS);
    for (program, client) in [
        (world.pod(), local_pod(9)),
        (world.uplink(), outsider(1)),
        (world.host(), node_addr()),
    ] {
        let syn = request::<A>(client, SYN).packet();
        leaves(&world.node, program, &syn, Verdict::Drop, &[DropNoRoute]);
    }
}

/// And the late answer of the process is still translated.
fn a_datagram_moves_on_from_a_process_that_left<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let query = request(local_pod(9), UDP);
    let old = received(&query);
    hands_over(&world.node, world.pod(), &query, &old, Stack, &[Open]);
    world.node.set_backend(2, Some(backend(remote_pod(1), 0)));
    world.leave(1, &[2]);
    let there = forwarded(&query, remote_pod(1));
    let counts = [Resolved, lb_common::abi::Reason::Reopened, Open];
    let way = (Kernel, to_gateway());
    sends(&world.node, world.pod(), &query, &there, way, &counts);
    let (back, home) = (answer(&old, UDP), answer(&query, UDP));
    hands_over(
        &world.node,
        world.egress(),
        &back,
        &home,
        Stack,
        &[HitReply],
    );
}

/// Nothing of this needs the host's pair.
#[test]
fn without_a_pair_pods_reach_processes_of_the_node() {
    let config = NodeConfig {
        host_ifindex: 0,
        ..World::<Addr4>::config()
    };
    let world = World::<Addr4>::with_config(config).and_backends(1, |_| node_addr(), 0);
    let open = request(local_pod(9), SYN);
    let there = received(&open);
    hands_over(&world.node, world.pod(), &open, &there, Stack, &[Open]);
}
