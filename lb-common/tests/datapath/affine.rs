//! Affinity where something is short: room, the backend of a datagram, the tables of XDP; and how clients spread.

use std::collections::BTreeSet;

use lb_common::{
    abi::{
        Reason::{AffinityFull, Open, PassToTc, Reopened, Resolved},
        Service, SlotRange, service_flags,
    },
    datapath::{Verdict, Via::Kernel},
    fake::PacketSpec,
    flow::clock::seconds,
    net::addr::Addr,
};

use crate::{
    affinity::{BACKENDS, TIMEOUT_S, dials, given, id_of, remembered, service, sticky},
    truth::{ends_of, publish},
    world::{
        SYN, UDP, addr, backend, for_both_families, forwarded, local_pod, outsider, remote_pod,
        sends, to_gateway, to_pod, vip,
    },
};

for_both_families!(
    without_room_a_client_is_served_all_the_same,
    a_datagram_that_moves_on_takes_the_client_with_it,
    before_the_stack_a_client_stays_too,
    new_clients_get_equal_shares,
);

fn without_room_a_client_is_served_all_the_same<A: Addr>() {
    let world = sticky::<A>();
    world.node.set_affinity_room(1);
    let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
    for sport in 1..10 {
        let spec = dials(local_pod::<A>(10), vip(1), sport, SYN);
        let mut packet = spec.packet();
        let verdict = world.pod().run(&mut packet).verdict;
        assert_eq!(verdict, Verdict::Send(Kernel));
        let counts = [Open, Resolved, AffinityFull].map(|reason| (reason, 1));
        assert_eq!(world.node.take_counts(), counts.into());
    }
    // Who has a place keeps it.
    world.wait(seconds(TIMEOUT_S));
    let again = given(&world, &dials(local_pod(9), vip(1), 2, SYN));
    assert_eq!(again, first);
    assert_eq!(world.node.affinity().len(), 1);
}

fn a_datagram_that_moves_on_takes_the_client_with_it<A: Addr>() {
    let world = sticky::<A>();
    let query = dials(local_pod(9), vip(1), 1, UDP);
    let first = given(&world, &query);
    let left = id_of(first);
    world.node.set_backend(left, None);
    world.node.set_backend(9, Some(backend(remote_pod(9), 0)));
    crate::truth::set_slots(&world, 30, &[9]);
    let moved = Service {
        version: 103,
        cluster: SlotRange { base: 30, count: 1 },
        ..service::<A>(service_flags::CLUSTER_IP)
    };
    publish(&world, vip(1), moved);
    let there = forwarded(&query, remote_pod(9));
    let way = (Kernel, to_gateway());
    let counts = &[Resolved, Reopened, Open];
    sends(&world.node, world.pod(), &query, &there, way, counts);
    let known = remembered(&world, local_pod(9)).expect("a client");
    assert_eq!(known.backend, 9);
    // All are back; new connections follow the new one.
    world.node.set_backend(left, Some(backend(first, 0)));
    let all = Service {
        version: 104,
        ..service::<A>(service_flags::CLUSTER_IP)
    };
    publish(&world, vip(1), all);
    for sport in 2..20 {
        let spec = dials(local_pod(9), vip(1), sport, UDP);
        assert_eq!(given(&world, &spec), remote_pod(9));
    }
}

fn before_the_stack_a_client_stays_too<A: Addr>() {
    let world = sticky::<A>();
    let mut seen = BTreeSet::new();
    for sport in 1..=20 {
        let spec = dials(outsider::<A>(1), vip(1), sport, SYN);
        let mut packet = spec.packet();
        assert_eq!(world.xdp().run(&mut packet).verdict, Verdict::Pass);
        assert_eq!(world.node.take_counts()[&PassToTc], 1);
        world.uplink().run(&mut packet);
        seen.insert(ends_of::<A>(packet.bytes()).dst);
    }
    assert_eq!(seen.len(), 1);
    let way = (Kernel, to_pod());
    let backend = seen.pop_first().expect("one");
    world.node.take_counts();
    let spec = dials(outsider(1), vip(1), 21, SYN);
    let there = forwarded(&spec, backend);
    let counts = &[Resolved, Open];
    sends(&world.node, world.uplink(), &spec, &there, way, counts);
}

fn new_clients_get_equal_shares<A: Addr>() {
    const CLIENTS: u32 = 8_000;
    let world = sticky::<A>();
    world.node.seed(0xaff1);
    let mut shares = [0_u32; BACKENDS as usize];
    for n in 0..CLIENTS {
        let [_, _, net, host] = n.to_be_bytes();
        let spec = dials(addr(100 + net, host), vip(1), 1_000, UDP);
        let first = given(&world, &spec);
        shares[id_of(first) as usize - 1] += 1;
        let again = PacketSpec { sport: 2, ..spec };
        assert_eq!(given(&world, &again), first);
        if n % 100 == 99 {
            // Their flows make room for those of others.
            world.wait(seconds(32));
        }
    }
    let expected = f64::from(CLIENTS) / f64::from(BACKENDS);
    let chi: f64 = shares
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    // Seven degrees of freedom: one in a thousand uniform sources goes beyond 24.3.
    assert!(chi < 24.3, "{shares:?}: chi-square {chi}");
    assert_eq!(world.node.affinity().len(), CLIENTS as usize);
}
