//! Next hops are believed for a second; then the kernel is asked, and confirms the neighbour.

use lb_common::{
    abi::{
        NextHop,
        Reason::{HitOriginal, Open, Resolved},
    },
    datapath::{
        HopMemory, Route, Tables,
        Via::{self, Kernel, Neighbour},
    },
    fake::PacketSpec,
    flow::clock::{NEXT_HOP_VALID, seconds},
    net::addr::Addr,
};

use crate::world::{
    ACK, SYN, World, answer, backend, for_both_families, forwarded, local_pod, remote_pod, request,
    sends, to_gateway, to_pod,
};

for_both_families!(
    the_kernel_is_asked_every_second,
    one_flow_prolongs_the_next_hop_of_another,
    a_gateway_that_fails_over_is_followed,
    a_smaller_mtu_is_noticed,
    an_idle_next_hop_gives_its_place_away,
    no_neighbour_gets_the_entry_that_stands_for_none,
);

fn opened<A: Addr>(world: &World<A>, client: u8) -> PacketSpec<A> {
    let syn = request(local_pod(client), SYN);
    let there = forwarded(&syn, remote_pod(1));
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_gateway()),
        &[Resolved, Open],
    );
    PacketSpec {
        transport: ACK,
        ..syn
    }
}

#[track_caller]
fn follows<A: Addr>(world: &World<A>, packet: &PacketSpec<A>, via: Via, hop: NextHop) {
    let there = forwarded(packet, remote_pod(1));
    let counts = match via {
        Kernel => vec![Resolved, HitOriginal],
        _ => vec![HitOriginal],
    };
    sends(
        &world.node,
        world.pod(),
        packet,
        &there,
        (via, hop),
        &counts,
    );
}

fn the_kernel_is_asked_every_second<A: Addr>() {
    assert_eq!(NEXT_HOP_VALID, seconds(1));
    let world = World::<A>::with_remote_backends(1);
    let data = opened(&world, 9);
    follows(&world, &data, Neighbour, to_gateway());
    world.wait(NEXT_HOP_VALID);
    follows(&world, &data, Neighbour, to_gateway());
    world.wait(1);
    follows(&world, &data, Kernel, to_gateway());
    follows(&world, &data, Neighbour, to_gateway());
    world.wait(NEXT_HOP_VALID + 1);
    follows(&world, &data, Kernel, to_gateway());
}

fn one_flow_prolongs_the_next_hop_of_another<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let (one, other) = (opened(&world, 8), opened(&world, 9));
    world.wait(NEXT_HOP_VALID + 1);
    follows(&world, &one, Kernel, to_gateway());
    follows(&world, &other, Neighbour, to_gateway());
}

fn a_gateway_that_fails_over_is_followed<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let data = opened(&world, 9);
    let standby = NextHop {
        macs: NextHop::join_macs([2, 9, 9, 9, 9, 9], [2; 6]),
        ..to_gateway()
    };
    world
        .node
        .set_route(remote_pod(1), Route::Neighbour, standby);
    follows(&world, &data, Neighbour, to_gateway());
    world.wait(NEXT_HOP_VALID + 1);
    follows(&world, &data, Kernel, standby);
    follows(&world, &data, Neighbour, standby);
}

fn a_smaller_mtu_is_noticed<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let data = opened(&world, 9);
    let narrow = NextHop {
        mtu: 1_280,
        ..to_gateway()
    };
    world
        .node
        .set_route(remote_pod(1), Route::Neighbour, narrow);
    world.wait(NEXT_HOP_VALID + 1);
    follows(&world, &data, Kernel, narrow);
    follows(&world, &data, Neighbour, narrow);
}

/// All 1,024 places are used by neighbours of which nobody asks any more. A new one takes a place of
/// theirs, and the flow that still points at it does not follow it there.
fn an_idle_next_hop_gives_its_place_away<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let data = opened(&world, 9);
    // An answered flow keeps its place in the flow table, whatever comes.
    let back = answer(&forwarded(&data, remote_pod(1)), ACK);
    world.uplink().run(&mut back.packet());
    world.pod().run(&mut data.packet());
    world.wait(seconds(65));
    world.node.set_backend(2, Some(backend(local_pod(1), 0)));
    world.serve(&[2]);
    for n in 0..20_000_u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let macs = NextHop::join_macs([2, 1, a, b, c, d], [2; 6]);
        world
            .node
            .set_route(local_pod(1), Route::Neighbour, NextHop { macs, ..to_pod() });
        let sport = u16::try_from(n).expect("a port");
        let syn = PacketSpec {
            sport,
            ..request::<A>(local_pod(8), SYN)
        };
        world.pod().run(&mut syn.packet());
    }
    world.node.take_counts();
    follows(&world, &data, Kernel, to_gateway());
}

/// Of 5,000 neighbours five would have index 0 by their hash, whose references mean other things.
fn no_neighbour_gets_the_entry_that_stands_for_none<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    for n in 0..5_000_u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let macs = NextHop::join_macs([2, 1, a, b, c, d], [2; 6]);
        let hop = NextHop {
            macs,
            ..to_gateway()
        };
        world.node.set_route(remote_pod(1), Route::Neighbour, hop);
        let sport = u16::try_from(n).expect("a port");
        let syn = PacketSpec {
            sport,
            ..request::<A>(local_pod(8), SYN)
        };
        world.pod().run(&mut syn.packet());
        // All places are taken after a while; their time is up, and others may have them.
        world.wait(seconds(61));
    }
    let mut first = NextHop::default();
    let memory = Tables::<A>::hop(&world.pod(), 0).expect("there is an entry 0");
    memory.read(&mut first);
    assert_eq!(first, NextHop::default());
}
