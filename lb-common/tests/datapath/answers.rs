//! What a sender is told whose packet is dropped: whole ICMP errors, built here a second time from the RFCs.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{
            self, AnswerLimited, Answered, DropTooBig, DropTtl, Fragmented, HitOriginal, Open,
            Resolved,
        },
    },
    datapath::{
        Verdict,
        Via::{Host, Kernel},
    },
    fake::{FakeNode, FakePacket, FakeTables, PacketSpec, error_about},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        icmp::IcmpError,
    },
};

use crate::world::{
    ACK, MTU, SYN, SYN_ACK, UDP, World, answer, assert_counts, for_both_families, forwarded,
    hands_over, local_pod, node_addr, outsider, remote_pod, renamed, request, sends, to_gateway,
    to_pod, vip,
};

for_both_families!(
    a_quote_is_as_long_as_the_packet_and_no_longer_than_it_may_be,
    a_size_is_told_from_the_address_that_was_dialled,
    without_an_address_of_its_own_the_node_answers_as_the_service,
    a_backend_is_told_about_what_it_sent,
    an_answer_to_the_node_itself_comes_by_the_hosts_device,
    a_packet_of_many_segments_is_quoted_from_its_beginning,
    answers_are_bounded_in_rate_and_come_back,
);

/// Runs a packet and asserts the error that its sender gets, and everything that was counted.
#[track_caller]
pub(crate) fn answers<A: Addr>(
    node: &FakeNode<A>,
    program: FakeTables<'_, A, false, false>,
    packet: &FakePacket,
    expected: &[u8],
    reason: Reason,
) {
    let mut after = packet.clone();
    let outcome = program.run(&mut after);
    assert_eq!(outcome.verdict, Verdict::Back, "{:?}", node.take_counts());
    assert_counts(node, &[reason, Answered]);
    assert_eq!(after.bytes(), expected);
}

/// The last hop of a datagram of so many bytes of payload.
fn last_hop<A: Addr>(payload: usize) -> PacketSpec<A> {
    PacketSpec {
        ttl: 1,
        // No byte like its neighbours: a quote that is cut wrongly shows.
        payload: (0..payload)
            .map(|n| u8::try_from(n % 251).expect("small"))
            .collect(),
        ..request(local_pod(9), UDP)
    }
}

/// Every length around those at which something changes: whole words, odd bytes, the longest quote.
fn a_quote_is_as_long_as_the_packet_and_no_longer_than_it_may_be<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let longest = if A::FAMILY == Family::V4 { 548 } else { 1_232 };
    let headers = last_hop::<A>(0).packet().bytes().len();
    // One after the other in one work area: what a longer quote left behind must not be summed up.
    let around = |len: usize| len - headers - 5..len - headers + 6;
    for payload in around(longest)
        .rev()
        .chain((0..12).rev())
        .chain([400, 1_400])
    {
        let packet = last_hop::<A>(payload).packet();
        let told = error_about(
            &packet,
            IcmpError::TimeExceeded,
            (node_addr::<A>(), local_pod(9)),
        );
        answers(&world.node, world.pod(), &packet, &told, DropTtl);
        world.wait(4);
    }
}

#[test]
fn ip_options_are_quoted_too() {
    let world = World::<Addr4>::with_local_backends(1);
    for words in 0..=10 {
        let packet = PacketSpec {
            options: vec![1; words * 4],
            ..last_hop::<Addr4>(7)
        }
        .packet();
        let ends = (node_addr::<Addr4>(), local_pod(9));
        let told = error_about(&packet, IcmpError::TimeExceeded, ends);
        answers(&world.node, world.pod(), &packet, &told, DropTtl);
    }
}

fn too_big<A: Addr>(client: A) -> PacketSpec<A> {
    PacketSpec {
        payload: vec![5; MTU as usize],
        ..request(client, UDP)
    }
}

fn a_size_is_told_from_the_address_that_was_dialled<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    for mtu in [1_280, 1_281, 1_400] {
        let narrow = lb_common::abi::NextHop {
            mtu,
            ..to_gateway()
        };
        world
            .node
            .set_route(remote_pod(1), lb_common::datapath::Route::Neighbour, narrow);
        for (program, client) in [(world.pod(), local_pod(9)), (world.uplink(), outsider(1))] {
            let packet = too_big::<A>(client).packet();
            let told = error_about(&packet, IcmpError::TooBig(mtu), (vip::<A>(1), client));
            answers(&world.node, program, &packet, &told, DropTooBig);
        }
    }
}

fn without_an_address_of_its_own_the_node_answers_as_the_service<A: Addr>() {
    let world = World::<A>::with_config(NodeConfig {
        addr4: Addr4::default(),
        addr6: Addr6::default(),
        ..World::<A>::config()
    })
    .and_backends(1, local_pod, 0);
    let packet = last_hop::<A>(3).packet();
    let told = error_about(
        &packet,
        IcmpError::TimeExceeded,
        (vip::<A>(1), local_pod(9)),
    );
    answers(&world.node, world.pod(), &packet, &told, DropTtl);
}

/// It knows nothing of the service: the error is about its own packet, from whom it thinks it talks to.
fn a_backend_is_told_about_what_it_sent<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let syn = request(outsider(1), SYN);
    let mut there = forwarded(&syn, remote_pod(1));
    there.ends.src = node_addr();
    let out = (Kernel, to_gateway());
    sends(
        &world.node,
        world.uplink(),
        &syn,
        &there,
        out,
        &[Resolved, Open],
    );
    let data = PacketSpec {
        payload: vec![3; MTU as usize],
        ..answer(&there, ACK)
    };
    let ends = (node_addr::<A>(), remote_pod(1));
    let told = error_about(&data.packet(), IcmpError::TooBig(MTU), ends);
    answers(
        &world.node,
        world.uplink(),
        &data.packet(),
        &told,
        DropTooBig,
    );
    let last = PacketSpec {
        ttl: 1,
        ..answer(&there, SYN_ACK)
    };
    let told = error_about(&last.packet(), IcmpError::TimeExceeded, ends);
    answers(&world.node, world.uplink(), &last.packet(), &told, DropTtl);
}

fn an_answer_to_the_node_itself_comes_by_the_hosts_device<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for program in [world.host(), world.lo()] {
        let packet = too_big::<A>(node_addr()).packet();
        let told = error_about(&packet, IcmpError::TooBig(MTU), (vip(1), node_addr::<A>()));
        let mut after = packet.clone();
        assert_eq!(program.run(&mut after).verdict, Verdict::Send(Host));
        assert_counts(&world.node, &[DropTooBig, Answered]);
        assert_eq!(after.bytes(), told);
    }
}

fn a_packet_of_many_segments_is_quoted_from_its_beginning<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let packet = PacketSpec {
        payload: vec![9; 60_000],
        ..request::<A>(local_pod(9), SYN)
    }
    .packet()
    .cut_into(MTU);
    let ends = (vip::<A>(1), local_pod(9));
    let told = error_about(&packet, IcmpError::TooBig(MTU), ends);
    answers(&world.node, world.pod(), &packet, &told, DropTooBig);
}

/// The bound counts what is sent, not what is dropped; after a span there is room again.
fn answers_are_bounded_in_rate_and_come_back<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let packet = last_hop::<A>(3).packet();
    let ends = (node_addr::<A>(), local_pod(9));
    let told = error_about(&packet, IcmpError::TimeExceeded, ends);
    for _ in 0..2 {
        for _ in 0..640 {
            answers(&world.node, world.pod(), &packet, &told, DropTtl);
        }
        for _ in 0..100 {
            let mut silent = packet.clone();
            assert_eq!(world.pod().run(&mut silent).verdict, Verdict::Drop);
            assert_counts(&world.node, &[DropTtl, AnswerLimited]);
            assert_eq!(silent.bytes(), packet.bytes());
        }
        world.wait(4);
    }
}

/// The stack cuts it up: it gets the packet as the backend shall see it, with all its hops.
#[test]
fn what_may_be_cut_is_left_to_the_stack() {
    let world = World::<Addr4>::with_local_backends(1);
    let big = |payload| PacketSpec {
        may_fragment: true,
        payload: vec![5; payload],
        ..request(local_pod(9), UDP)
    };
    let all_hops = |spec: &PacketSpec<Addr4>| PacketSpec {
        ttl: spec.ttl,
        ..forwarded(spec, local_pod(1))
    };
    let query = big(1_473);
    let there = all_hops(&query);
    let opened = [Fragmented, Resolved, Open];
    hands_over(&world.node, world.pod(), &query, &there, Host, &opened);
    let hit = [Fragmented, HitOriginal];
    hands_over(&world.node, world.pod(), &query, &there, Host, &hit);
    let fits = big(1_472);
    let way = (lb_common::datapath::Via::Neighbour, to_pod());
    let there = forwarded(&fits, local_pod(1));
    sends(&world.node, world.pod(), &fits, &there, way, &[HitOriginal]);
    // Without hops left the stack would answer from another address.
    let last = PacketSpec { ttl: 1, ..query };
    let ends = (node_addr::<Addr4>(), local_pod(9));
    let told = error_about(&last.packet(), IcmpError::TimeExceeded, ends);
    answers(&world.node, world.pod(), &last.packet(), &told, DropTtl);
}

/// Without the host's device there is no way to the stack: the sender is told.
#[test]
fn without_the_hosts_device_nothing_is_cut() {
    let world = World::<Addr4>::with_config(NodeConfig {
        host_ifindex: 0,
        ..World::<Addr4>::config()
    })
    .and_backends(1, local_pod, 0);
    let query = PacketSpec {
        may_fragment: true,
        ..too_big::<Addr4>(local_pod(9))
    };
    let told = error_about(
        &query.packet(),
        IcmpError::TooBig(MTU),
        (vip::<Addr4>(1), local_pod(9)),
    );
    answers(&world.node, world.pod(), &query.packet(), &told, DropTooBig);
}

/// The host's own packets lose no hop, so that one is enough.
#[test]
fn what_the_node_sends_may_have_one_hop() {
    let world = World::<Addr4>::with_local_backends(1);
    let syn = PacketSpec {
        ttl: 1,
        ..request(node_addr(), SYN)
    };
    let there = renamed(&syn, (node_addr(), syn.sport), (local_pod(1), 8_080));
    sends(
        &world.node,
        world.host(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
}
