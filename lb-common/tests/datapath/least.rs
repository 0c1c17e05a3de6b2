//! Services whose backends are chosen by how many connections they have.

use lb_common::{
    abi::{
        Backend,
        backend_flags::{COUNTED, LOCAL, of_weight},
        service_flags::LEAST_CONNECTIONS,
    },
    datapath::{Verdict, Via},
    fake::{FakePacket, PacketSpec},
    net::addr::Addr,
};

use crate::world::{
    ACK, FIN, RST, SYN, SYN_ACK, UDP, World, answer, backend, for_both_families, forwarded,
    local_pod, remote_pod, request,
};

for_both_families!(
    who_has_fewer_connections_is_preferred,
    weights_count,
    a_connection_counts_from_its_first_packet_to_its_end,
    whoever_sends_last_ends_it_once,
    a_count_below_none_is_none,
    nobody_counts_for_other_services,
    a_backend_that_another_has_become_loses_nothing,
);

fn world<A: Addr>(n: u8) -> World<A> {
    let world = World::new();
    world.choose_by(LEAST_CONNECTIONS);
    world.and_backends(n, local_pod, LOCAL | COUNTED)
}

fn dial<A: Addr>(world: &World<A>, sport: u16) -> (PacketSpec<A>, FakePacket) {
    let syn = PacketSpec {
        sport,
        ..request(local_pod(9), SYN)
    };
    let mut packet = syn.packet();
    let verdict = world.pod().run(&mut packet).verdict;
    assert!(matches!(
        verdict,
        Verdict::Send(Via::Kernel | Via::Neighbour)
    ));
    (syn, packet)
}

fn counts<A: Addr>(world: &World<A>) -> Vec<(u32, u32)> {
    world.node.connections().into_iter().collect()
}

fn who_has_fewer_connections_is_preferred<A: Addr>() {
    let world = world::<A>(2);
    world.node.set_connections(1, 1_000);
    for port in 1_000..1_400 {
        dial(&world, port);
    }
    // The busy one is chosen if chance names it twice, which is once in four times.
    let [(_, first), (_, second)] = counts(&world)[..] else {
        panic!("{:?}", counts(&world));
    };
    assert_eq!(first + second, 1_400);
    assert!((230..370).contains(&second), "{second}");
    // Equals stay near each other: chance alone would have them differ by ten and more.
    let world = self::world::<A>(2);
    for port in 1_000..1_400 {
        dial(&world, port);
        let [first, second] =
            [1, 2].map(|id| world.node.connections().get(&id).copied().unwrap_or(0));
        assert!(first.abs_diff(second) <= 8, "{first} and {second}");
    }
}

fn weights_count<A: Addr>() {
    let world = world::<A>(2);
    let heavy = backend(local_pod(2), LOCAL | COUNTED | of_weight(3));
    world.node.set_backend(2, Some(heavy));
    world.serve(&[1, 2, 2, 2]);
    for port in 1_000..1_400 {
        dial(&world, port);
    }
    let [(_, light), (_, heavy)] = counts(&world)[..] else {
        panic!("{:?}", counts(&world));
    };
    assert!(
        light.abs_diff(100) <= 8 && light + heavy == 400,
        "{light} and {heavy}"
    );
}

fn a_connection_counts_from_its_first_packet_to_its_end<A: Addr>() {
    let world = world::<A>(1);
    let (syn, sent) = dial(&world, 1_000);
    assert_eq!(sent, forwarded(&syn, local_pod(1)).packet());
    assert_eq!(counts(&world), [(1, 1)]);
    let there = forwarded(&syn, local_pod(1));
    let run = |spec: &PacketSpec<A>, transport| {
        let spec = PacketSpec {
            transport,
            ..spec.clone()
        };
        world.pod().run(&mut spec.packet());
    };
    run(&syn, SYN);
    run(&answer(&there, SYN), SYN_ACK);
    run(&syn, ACK);
    run(&syn, FIN);
    assert_eq!(counts(&world), [(1, 1)]);
    run(&answer(&there, SYN), FIN);
    assert_eq!(counts(&world), [(1, 0)]);
    run(&syn, RST);
    run(&syn, ACK);
    assert_eq!(counts(&world), [(1, 0)]);
    // A datagram's end is silence: the agent sees it.
    let query = request(local_pod(9), UDP);
    run(&query, UDP);
    assert_eq!(counts(&world), [(1, 1)]);
}

fn whoever_sends_last_ends_it_once<A: Addr>() {
    for resets in [false, true] {
        let world = world::<A>(1);
        let (syn, _) = dial(&world, 1_000);
        let there = forwarded(&syn, local_pod(1));
        let back = |transport| world.pod().run(&mut answer(&there, transport).packet());
        back(SYN_ACK);
        let on = PacketSpec {
            transport: ACK,
            ..syn.clone()
        };
        world.pod().run(&mut on.packet());
        if resets {
            back(RST);
        } else {
            back(FIN);
            let end = PacketSpec {
                transport: FIN,
                ..syn
            };
            world.pod().run(&mut end.packet());
        }
        back(RST);
        assert_eq!(counts(&world), [(1, 0)]);
    }
}

fn a_count_below_none_is_none<A: Addr>() {
    let world = world::<A>(2);
    world.node.set_connections(1, 0_u32.wrapping_sub(50));
    world.node.set_connections(2, 1);
    for port in 1_000..1_040 {
        dial(&world, port);
    }
    let [(_, first), (_, second)] = counts(&world)[..] else {
        panic!("{:?}", counts(&world));
    };
    assert!(first > u32::MAX - 40 && second < 30, "{first} and {second}");
}

fn nobody_counts_for_other_services<A: Addr>() {
    let world = World::<A>::new().and_backends(2, remote_pod, 0);
    let (syn, _) = dial(&world, 1_000);
    let reset = PacketSpec {
        transport: RST,
        ..syn
    };
    world.pod().run(&mut reset.packet());
    assert_eq!(counts(&world), []);
}

fn a_backend_that_another_has_become_loses_nothing<A: Addr>() {
    let world = world::<A>(1);
    let (syn, _) = dial(&world, 1_000);
    let there = forwarded(&syn, local_pod(1));
    world.pod().run(&mut answer(&there, SYN_ACK).packet());
    let on = PacketSpec {
        transport: ACK,
        ..syn
    };
    world.pod().run(&mut on.packet());
    let next = Backend {
        generation: 2,
        ..backend(local_pod(1), LOCAL | COUNTED)
    };
    world.node.set_backend(1, Some(next));
    world.pod().run(&mut answer(&there, RST).packet());
    assert_eq!(counts(&world), [(1, 1)]);
}
