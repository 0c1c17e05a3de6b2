//! Pods that packets are handed to past the host side of their device, as long as nothing is in the way there.

use lb_common::{
    abi::Reason::{HitOriginal, Open, Resolved},
    datapath::{
        Route, Verdict,
        Via::{self, Kernel, Neighbour},
    },
    fake::{FakeTables, PacketSpec},
    flow::clock::NEXT_HOP_VALID,
    net::addr::Addr,
};

use crate::world::{
    ACK, BACKEND_PORT, CLIENT_PORT, SYN, World, assert_counts, for_both_families, local_pod,
    node_addr, outsider, renamed, request, sends, to_pod,
};

for_both_families!(
    all_packets_go_straight_to_a_pod_and_overtake_none,
    an_obstacle_is_noticed_within_a_second_and_its_end_too,
    another_flow_to_the_pod_keeps_its_next_hop,
    what_goes_out_goes_by_the_device,
    a_neighbour_that_is_not_resolved_is_by_the_kernel,
);

/// How a packet from outside was sent, and whether past the device.
fn sent<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    spec: &PacketSpec<A>,
) -> (Via, bool) {
    let outcome = program.run(&mut spec.packet());
    assert_eq!(
        outcome.hop.ifindex,
        to_pod().ifindex,
        "{:?}",
        world.node.take_counts()
    );
    let Verdict::Send(via) = outcome.verdict else {
        panic!("{:?}", outcome.verdict);
    };
    (via, outcome.hop.is_straight())
}

fn world<A: Addr>() -> World<A> {
    let world = World::with_local_backends(1);
    world.node.set_peer_device(to_pod().ifindex, true);
    world
}

fn from<A: Addr>(client: u8) -> [PacketSpec<A>; 2] {
    [SYN, ACK].map(|transport| request(outsider(client), transport))
}

fn all_packets_go_straight_to_a_pod_and_overtake_none<A: Addr>() {
    let world = world::<A>();
    let [syn, data] = from(9);
    let straight = (Neighbour, true);
    assert_eq!(sent(&world, world.uplink(), &syn), straight);
    assert_counts(&world.node, &[Resolved, Open]);
    for _ in 0..3 {
        assert_eq!(sent(&world, world.uplink(), &data), straight);
        assert_counts(&world.node, &[HitOriginal]);
        world.wait(NEXT_HOP_VALID + 1);
        assert_eq!(sent(&world, world.uplink(), &data), straight);
        assert_counts(&world.node, &[Resolved, HitOriginal]);
    }
    for program in [world.pod(), world.host()] {
        assert_eq!(sent(&world, program, &request(local_pod(7), SYN)), straight);
        world.node.take_counts();
    }
}

fn an_obstacle_is_noticed_within_a_second_and_its_end_too<A: Addr>() {
    let world = world::<A>();
    let [syn, data] = from(9);
    assert_eq!(sent(&world, world.uplink(), &syn), (Neighbour, true));
    world.node.set_peer_device(to_pod().ifindex, false);
    world.wait(NEXT_HOP_VALID);
    assert_eq!(sent(&world, world.uplink(), &data), (Neighbour, true));
    world.wait(1);
    assert_eq!(sent(&world, world.uplink(), &data), (Kernel, false));
    assert_eq!(sent(&world, world.uplink(), &data), (Neighbour, false));
    world.node.set_peer_device(to_pod().ifindex, true);
    world.wait(NEXT_HOP_VALID + 1);
    assert_eq!(sent(&world, world.uplink(), &data), (Neighbour, true));
}

/// The mark stands in the word that tells whether a flow's reference is still good.
fn another_flow_to_the_pod_keeps_its_next_hop<A: Addr>() {
    let world = world::<A>();
    let ([one, data], [other, more]) = (from(8), from(9));
    for has_peer in [true, false, true] {
        world.node.set_peer_device(to_pod().ifindex, has_peer);
        world.wait(NEXT_HOP_VALID + 1);
        let (_, is_straight) = sent(&world, world.uplink(), &one);
        assert_eq!(is_straight, has_peer);
        sent(&world, world.uplink(), &other);
        world.node.take_counts();
        for spec in [&data, &more] {
            assert_eq!(sent(&world, world.uplink(), spec), (Neighbour, has_peer));
            assert_counts(&world.node, &[HitOriginal]);
        }
    }
}

fn what_goes_out_goes_by_the_device<A: Addr>() {
    let world = world::<A>();
    let open = request(node_addr(), SYN);
    let there = renamed(
        &open,
        (node_addr(), CLIENT_PORT),
        (local_pod(1), BACKEND_PORT),
    );
    let way = (Kernel, to_pod());
    sends(
        &world.node,
        world.lo(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
}

fn a_neighbour_that_is_not_resolved_is_by_the_kernel<A: Addr>() {
    let world = world::<A>();
    world
        .node
        .set_route(local_pod(1), Route::Unresolved, to_pod());
    let [syn, data] = from(9);
    assert_eq!(sent(&world, world.uplink(), &syn).0, Kernel);
    assert_eq!(sent(&world, world.uplink(), &data).0, Kernel);
}
