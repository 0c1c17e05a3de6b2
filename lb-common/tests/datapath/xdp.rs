//! The XDP host forwards what leaves by a device that it may send by, and leaves all else to TC.

use lb_common::{
    abi::{
        NextHop,
        Reason::{
            self, HitOriginal, HitReply, Open, OpenedForTc, PassNoService, PassToTc, Resolved,
            XdpForward,
        },
    },
    datapath::{
        Route, Verdict,
        Via::{Kernel, Neighbour},
    },
    fake::PacketSpec,
    flow::clock::NEXT_HOP_VALID,
    net::addr::Addr,
};

use crate::world::{
    ACK, SYN, SYN_ACK, UDP, World, answer, delivered, for_both_families, forwarded, leaves,
    local_pod, node_addr, outsider, remote_pod, request, sends, to_gateway, to_pod,
};

for_both_families!(
    a_remote_backend_is_reached_and_answers_before_the_stack,
    flows_have_the_way_from_each_other,
    a_local_backend_is_left_to_tc,
    what_leaves_by_another_device_is_left_to_tc,
    a_device_that_takes_frames_from_drivers_is_sent_by,
    what_tc_would_drop_is_left_to_tc,
    what_xdp_cannot_reach_is_chosen_as_often,
    an_unresolved_neighbour_is_left_to_tc,
    both_hosts_follow_one_flow,
    what_is_not_ours_passes,
);

fn masqueraded<A: Addr>(request: &PacketSpec<A>) -> PacketSpec<A> {
    let mut masqueraded = forwarded(request, remote_pod(1));
    masqueraded.ends.src = node_addr();
    masqueraded
}

/// Opened at once, then once a second to TC, which asks the FIB and lets the kernel confirm the neighbour; else before the
/// stack. Here one neighbour is on both ways.
fn a_remote_backend_is_reached_and_answers_before_the_stack<A: Addr>() {
    for (transport, reply) in [(SYN, SYN_ACK), (UDP, UDP)] {
        let world = World::<A>::with_remote_backends(1);
        let request = request(outsider(1), transport);
        let there = masqueraded(&request);
        leaves(
            &world.node,
            world.xdp(),
            &request.packet(),
            Verdict::Pass,
            &[PassToTc, OpenedForTc],
        );
        let (asked, known) = ((Kernel, to_gateway()), (Neighbour, to_gateway()));
        sends(
            &world.node,
            world.uplink(),
            &request,
            &there,
            asked,
            &[Resolved, HitOriginal],
        );
        let (back, home) = (answer(&there, reply), delivered(&request, reply));
        for (packet, sent, hit) in [(&back, &home, HitReply), (&request, &there, HitOriginal)] {
            let counts = [hit, XdpForward];
            sends(&world.node, world.xdp(), packet, sent, known, &counts);
        }
        // The kernel confirms the neighbour every second.
        world.wait(NEXT_HOP_VALID + 1);
        first_goes_to_tc(&world, &back, &home, HitReply);
    }
}

/// Asserts that XDP leaves a known flow's packet to TC, and forwards the next one.
fn first_goes_to_tc<A: Addr>(
    world: &World<A>,
    packet: &PacketSpec<A>,
    sent: &PacketSpec<A>,
    hit: Reason,
) {
    let (asked, known) = ((Kernel, to_gateway()), (Neighbour, to_gateway()));
    leaves(
        &world.node,
        world.xdp(),
        &packet.packet(),
        Verdict::Pass,
        &[PassToTc],
    );
    sends(
        &world.node,
        world.uplink(),
        packet,
        sent,
        asked,
        &[Resolved, hit],
    );
    sends(
        &world.node,
        world.xdp(),
        packet,
        sent,
        known,
        &[hit, XdpForward],
    );
}

fn flows_have_the_way_from_each_other<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world.note_way(to_gateway());
    let query = request(outsider(1), UDP);
    let there = masqueraded(&query);
    let known = (Neighbour, to_gateway());
    let opened = [Open, XdpForward];
    sends(&world.node, world.xdp(), &query, &there, known, &opened);
    let (back, home) = (answer(&there, UDP), delivered(&query, UDP));
    for (packet, sent, hit) in [(&back, &home, HitReply), (&query, &there, HitOriginal)] {
        let counts = [hit, XdpForward];
        sends(&world.node, world.xdp(), packet, sent, known, &counts);
    }
    world.wait(NEXT_HOP_VALID + 1);
    let late = PacketSpec {
        sport: 41_000,
        ..query
    };
    let counts = [PassToTc, OpenedForTc];
    leaves(
        &world.node,
        world.xdp(),
        &late.packet(),
        Verdict::Pass,
        &counts,
    );
}

/// The way that the FIB names is by a device other than the one that packets come by.
fn a_device_that_takes_frames_from_drivers_is_sent_by<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let elsewhere = NextHop {
        ifindex: 3,
        ..to_gateway()
    };
    world
        .node
        .set_route(remote_pod(1), Route::Neighbour, elsewhere);
    world.note_way(elsewhere);
    let query = request(outsider(1), UDP);
    let (there, known) = (masqueraded(&query), (Neighbour, elsewhere));
    let counts = [PassToTc, OpenedForTc];
    let left = query.packet();
    leaves(&world.node, world.xdp(), &left, Verdict::Pass, &counts);
    world.node.add_xdp_device(3);
    let hit = [HitOriginal, XdpForward];
    sends(&world.node, world.xdp(), &query, &there, known, &hit);
    let another = PacketSpec {
        sport: 41_000,
        ..query
    };
    let there = masqueraded(&another);
    let opened = [Open, XdpForward];
    sends(&world.node, world.xdp(), &another, &there, known, &opened);
}

fn a_local_backend_is_left_to_tc<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = request(outsider(1), SYN);
    leaves(
        &world.node,
        world.xdp(),
        &syn.packet(),
        Verdict::Pass,
        &[PassToTc, OpenedForTc],
    );
    let there = forwarded(&syn, local_pod(1));
    sends(
        &world.node,
        world.uplink(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &[Resolved, HitOriginal],
    );
    // Also when the flow is known.
    leaves(
        &world.node,
        world.xdp(),
        &syn.packet(),
        Verdict::Pass,
        &[PassToTc],
    );
}

fn what_leaves_by_another_device_is_left_to_tc<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let elsewhere = NextHop {
        ifindex: 3,
        ..to_gateway()
    };
    world
        .node
        .set_route(remote_pod(1), Route::Neighbour, elsewhere);
    let syn = request(outsider(1), SYN);
    leaves(
        &world.node,
        world.xdp(),
        &syn.packet(),
        Verdict::Pass,
        &[PassToTc, OpenedForTc],
    );
    let there = masqueraded(&syn);
    sends(
        &world.node,
        world.uplink(),
        &syn,
        &there,
        (Kernel, elsewhere),
        &[Resolved, HitOriginal],
    );
    let data = PacketSpec {
        transport: ACK,
        ..syn
    };
    leaves(
        &world.node,
        world.xdp(),
        &data.packet(),
        Verdict::Pass,
        &[PassToTc],
    );
}

fn what_tc_would_drop_is_left_to_tc<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let left = |packet: PacketSpec<A>, counts: &[Reason]| {
        leaves(
            &world.node,
            world.xdp(),
            &packet.packet(),
            Verdict::Pass,
            counts,
        );
    };
    // Ports of their own: one node's address stands for all of them.
    let from = |client| PacketSpec {
        sport: 40_000 + u16::from(client),
        ..request::<A>(outsider(client), UDP)
    };
    let last_hop = |query: &PacketSpec<A>| PacketSpec {
        ttl: 1,
        ..query.clone()
    };
    let too_big = |query: &PacketSpec<A>| PacketSpec {
        payload: vec![0; 1_500],
        ..query.clone()
    };
    left(last_hop(&from(2)), &[PassToTc, OpenedForTc]);
    left(too_big(&from(3)), &[PassToTc, OpenedForTc]);
    world
        .node
        .set_route(remote_pod(1), Route::None, to_gateway());
    left(from(4), &[PassToTc, OpenedForTc]);
    let query = from(1);
    world
        .node
        .set_route(remote_pod(1), Route::Neighbour, to_gateway());
    world.note_way(to_gateway());
    let (there, way) = (masqueraded(&query), (Neighbour, to_gateway()));
    sends(
        &world.node,
        world.xdp(),
        &query,
        &there,
        way,
        &[Open, XdpForward],
    );
    left(last_hop(&query), &[PassToTc]);
    left(too_big(&query), &[PassToTc]);
}

/// XDP reaches one of two backends. If TC chose again for the other, it would be chosen for one client in
/// four only.
fn what_xdp_cannot_reach_is_chosen_as_often<A: Addr>() {
    let world = World::<A>::with_remote_backends(2);
    let elsewhere = NextHop {
        ifindex: 3,
        ..to_gateway()
    };
    world
        .node
        .set_route(remote_pod(2), Route::Neighbour, elsewhere);
    world.note_way(to_gateway());
    for port in 1..=2_000 {
        let syn = PacketSpec {
            sport: port,
            ..request::<A>(outsider(1), SYN)
        };
        if world.xdp().run(&mut syn.packet()).verdict == Verdict::Pass {
            let verdict = world.uplink().run(&mut syn.packet()).verdict;
            assert_eq!(verdict, Verdict::Send(Kernel), "port {port}");
        }
    }
    let counts = world.node.take_counts();
    assert_eq!(counts[&OpenedForTc], counts[&HitOriginal]);
    // Half of them, give or take six standard deviations; a second choice would leave 500.
    assert!((866..=1_134).contains(&counts[&OpenedForTc]), "{counts:?}");
}

fn an_unresolved_neighbour_is_left_to_tc<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world
        .node
        .set_route(remote_pod(1), Route::Unresolved, to_gateway());
    let syn = request::<A>(outsider(1), SYN).packet();
    leaves(
        &world.node,
        world.xdp(),
        &syn,
        Verdict::Pass,
        &[PassToTc, OpenedForTc],
    );
}

/// TC opens, XDP goes on, TC goes on: one table, one answer.
fn both_hosts_follow_one_flow<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let syn = request(outsider(1), SYN);
    let data = PacketSpec {
        transport: ACK,
        ..syn.clone()
    };
    let (there, more) = (masqueraded(&syn), masqueraded(&data));
    let (asked, known) = ((Kernel, to_gateway()), (Neighbour, to_gateway()));
    sends(
        &world.node,
        world.uplink(),
        &syn,
        &there,
        asked,
        &[Resolved, Open],
    );
    sends(
        &world.node,
        world.xdp(),
        &data,
        &more,
        known,
        &[HitOriginal, XdpForward],
    );
    sends(
        &world.node,
        world.uplink(),
        &data,
        &more,
        known,
        &[HitOriginal],
    );
}

fn what_is_not_ours_passes<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let to_node = answer(&request::<A>(node_addr(), ACK), ACK).packet();
    leaves(
        &world.node,
        world.xdp(),
        &to_node,
        Verdict::Pass,
        &[PassNoService],
    );
}
