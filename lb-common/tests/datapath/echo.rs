//! Echo requests to service addresses.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{self, AnswerLimited, DropUnallocated, EchoAnswered, PassProtocol, PassToTc},
        Service, ServiceKey,
        node::features,
        place, service_flags,
    },
    datapath::{Verdict, Via},
    fake::{FakePacket, FakeTables},
    net::addr::{Addr, Family},
};

use crate::{
    icmp_made::{less, message},
    world::{
        World, addr, for_both_families, leaves, local_pod, node_addr, outsider, remote_pod, vip,
    },
};

for_both_families!(
    every_client_is_answered_where_it_came_from,
    an_answer_has_all_hops_and_any_size,
    addresses_outside_of_the_prefixes_answer_too,
    an_address_that_no_service_has_is_dropped,
    nobody_else_is_answered_for,
    answers_are_bounded,
    switched_off_nothing_is_answered,
);

/// Identifier and sequence number.
const NUMBERS: u32 = 0x1234_0007;

fn config(features: u32) -> NodeConfig {
    NodeConfig {
        features,
        ..World::<lb_common::net::addr::Addr4>::config()
    }
}

/// A service address in a prefix of services.
fn world<A: Addr>(features: u32) -> World<A> {
    let world = World::<A>::with_config(config(features));
    let bits = World::<A>::net_bits();
    world.node.set_place(addr(96, 0), bits, place::SERVICES);
    add_address(&world, vip(1));
    world
}

fn add_address<A: Addr>(world: &World<A>, at: A) {
    let any = Service {
        id: 1_000,
        version: 1,
        flags: service_flags::ANY_PORT,
        ..Service::default()
    };
    world.node.set_service(ServiceKey::new(at, 0, 0), Some(any));
}

fn types<A: Addr>() -> (u8, u8) {
    match A::FAMILY {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    }
}

fn ask<A: Addr>(src: A, dst: A, payload: &[u8]) -> FakePacket {
    message(src, dst, ([types::<A>().0, 0], NUMBERS), payload)
}

fn reply<A: Addr>(src: A, dst: A, payload: &[u8]) -> FakePacket {
    message(src, dst, ([types::<A>().1, 0], NUMBERS), payload)
}

#[track_caller]
fn is_answered<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    request: &FakePacket,
    expected: &FakePacket,
    verdict: Verdict,
) {
    let mut packet = request.clone();
    assert_eq!(program.run(&mut packet).verdict, verdict);
    assert_eq!(world.node.take_counts(), [(EchoAnswered, 1)].into());
    assert_eq!(packet.bytes(), expected.bytes());
    assert!(packet.device_sum_valid());
}

fn every_client_is_answered_where_it_came_from<A: Addr>() {
    let world = world::<A>(features::ECHO);
    for (program, client, verdict) in [
        (world.pod(), local_pod::<A>(9), Verdict::Back),
        (world.uplink(), outsider(9), Verdict::Back),
        (world.uplink(), remote_pod(9), Verdict::Back),
        (world.host(), node_addr(), Verdict::Send(Via::Host)),
        (world.lo(), node_addr(), Verdict::Send(Via::Host)),
    ] {
        let request = ask(client, vip(1), b"are you there?");
        let expected = reply(vip(1), client, b"are you there?");
        is_answered(&world, program, &request, &expected, verdict);
    }
    // Before the stack nothing is answered; on the way out nothing comes by that is not on its way.
    let request = ask(outsider(9), vip::<A>(1), b"");
    leaves(
        &world.node,
        world.xdp(),
        &request,
        Verdict::Pass,
        &[PassToTc],
    );
    leaves(
        &world.node,
        world.egress(),
        &request,
        Verdict::Pass,
        &[PassProtocol],
    );
}

fn an_answer_has_all_hops_and_any_size<A: Addr>() {
    let world = world::<A>(features::ECHO);
    for len in [0, 1, 2, 3, 56, 57, 1_400, 8_000, 60_000] {
        let payload: Vec<u8> = (0..251).cycle().take(len).collect();
        for hops in [0, 1, 63, 64] {
            let request = less(&ask(outsider(9), vip::<A>(1), &payload), hops);
            let expected = reply(vip(1), outsider::<A>(9), &payload);
            is_answered(&world, world.uplink(), &request, &expected, Verdict::Back);
        }
    }
}

fn addresses_outside_of_the_prefixes_answer_too<A: Addr>() {
    let world = world::<A>(features::ECHO);
    add_address(&world, addr(203, 5));
    let request = ask(outsider(9), addr::<A>(203, 5), b"x");
    let expected = reply(addr(203, 5), outsider::<A>(9), b"x");
    is_answered(&world, world.uplink(), &request, &expected, Verdict::Back);
}

fn an_address_that_no_service_has_is_dropped<A: Addr>() {
    let world = world::<A>(features::ECHO);
    for (program, client) in [
        (world.pod(), local_pod(9)),
        (world.uplink(), outsider(9)),
        (world.host(), node_addr()),
    ] {
        let request = ask(client, vip::<A>(2), b"x");
        leaves(
            &world.node,
            program,
            &request,
            Verdict::Drop,
            &[DropUnallocated],
        );
    }
}

fn nobody_else_is_answered_for<A: Addr>() {
    let world = world::<A>(features::ECHO);
    // The node answers at its own addresses, also where a service has them.
    add_address(&world, node_addr());
    for to in [node_addr::<A>(), local_pod(1), remote_pod(1), outsider(1)] {
        let request = ask(outsider(9), to, b"x");
        leaves(
            &world.node,
            world.uplink(),
            &request,
            Verdict::Pass,
            &[PassProtocol],
        );
    }
    // An answer is no question, and nobody asks from an address of many or of none.
    let other = reply(outsider(9), vip::<A>(1), b"x");
    leaves(
        &world.node,
        world.uplink(),
        &other,
        Verdict::Pass,
        &[PassProtocol],
    );
    let nobody = ask(A::default(), vip::<A>(1), b"x");
    leaves(
        &world.node,
        world.uplink(),
        &nobody,
        Verdict::Pass,
        &[PassProtocol],
    );
    let host = ask(node_addr(), outsider::<A>(1), b"x");
    leaves(
        &world.node,
        world.host(),
        &host,
        Verdict::Drop,
        &[Reason::DropNotService],
    );
}

fn answers_are_bounded<A: Addr>() {
    let world = world::<A>(features::ECHO);
    let request = ask(outsider(9), vip::<A>(1), b"x");
    let n_back = (0..10_000)
        .filter(|_| world.uplink().run(&mut request.clone()).verdict == Verdict::Back)
        .count();
    assert_eq!(n_back, 4_096);
    let expected = [
        (EchoAnswered, 4_096),
        (AnswerLimited, 10_000 - 4_096),
        (Reason::RejectNotServed, 10_000 - 4_096),
    ];
    assert_eq!(world.node.take_counts(), expected.into());
}

fn switched_off_nothing_is_answered<A: Addr>() {
    let world = world::<A>(0);
    for to in [vip::<A>(1), vip(2)] {
        let request = ask(outsider(9), to, b"x");
        leaves(
            &world.node,
            world.uplink(),
            &request,
            Verdict::Pass,
            &[PassProtocol],
        );
    }
}
