//! Clients that stay with their backend: `sessionAffinity: ClientIP`.

use std::collections::BTreeSet;

use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend,
        Reason::{Open, Resolved},
        Service, SlotRange, backend_flags, service_flags,
    },
    datapath::{Role, Verdict, Via::Kernel},
    fake::{PacketSpec, Transport},
    flow::clock::seconds,
    net::addr::Addr,
};

use crate::{
    truth::{ends_of, publish},
    world::{
        NOW, POD_DEVICE, SERVICE_PORT, SYN, UDP, World, addr, backend, for_both_families,
        local_pod, node_addr, outsider, remote_pod, vip,
    },
};

for_both_families!(
    a_client_stays_with_its_backend_whatever_it_dials,
    without_affinity_nothing_is_remembered,
    another_client_and_another_service_are_others,
    a_connection_begins_the_time_anew_and_a_packet_does_not,
    the_time_ends_at_its_tick,
    a_backend_that_left_the_list_is_not_stayed_with,
    a_backend_that_became_another_is_not_stayed_with,
    a_backend_of_another_list_is_not_stayed_with,
);

pub(crate) const BACKENDS: u8 = 8;
pub(crate) const TIMEOUT_S: u32 = 30;

/// A service with affinity; all of its backends are pods of this node.
pub(crate) fn sticky<A: Addr>() -> World<A> {
    let world = World::<A>::with_local_backends(BACKENDS);
    publish(&world, vip(1), service::<A>(service_flags::CLUSTER_IP));
    world
}

pub(crate) fn service<A: Addr>(flags: u32) -> Service {
    Service {
        id: World::<A>::SERVICE,
        version: 100,
        cluster: SlotRange {
            base: 1,
            count: BACKENDS.into(),
        },
        external_local: SlotRange { base: 20, count: 1 },
        flags,
        affinity_timeout_s: TIMEOUT_S,
        ..Service::default()
    }
}

pub(crate) fn dials<A: Addr>(client: A, at: A, sport: u16, transport: Transport) -> PacketSpec<A> {
    PacketSpec::new((client, sport), (at, SERVICE_PORT), transport)
}

/// Which backend a first packet goes to; a new connection, and nothing else to be told of it.
#[track_caller]
pub(crate) fn given<A: Addr>(world: &World<A>, spec: &PacketSpec<A>) -> A {
    let mut packet = spec.packet();
    let outcome = world.pod().run(&mut packet);
    assert_eq!(outcome.verdict, Verdict::Send(Kernel));
    let counts = world.node.take_counts();
    assert_eq!(counts, [Open, Resolved].map(|reason| (reason, 1)).into());
    ends_of::<A>(packet.bytes()).dst
}

/// True if a connection that the client began now would go where its last one went.
fn is_affine<A: Addr>(world: &World<A>, client: A) -> bool {
    let spec = dials(client, vip(1), 65_000, SYN);
    let dry = world.node.dry(Role::Pod, POD_DEVICE);
    dry.explain(&spec.packet()).1.call.is_affine
}

/// What a backend's id comes to stand for.
type Change<A> = fn(Backend<A>) -> Option<Backend<A>>;

/// What is remembered of a client of the service.
pub(crate) fn remembered<A: Addr>(world: &World<A>, client: A) -> Option<Affinity> {
    let key = AffinityKey::new(client, World::<A>::SERVICE);
    world.node.affinity().get(&key).copied()
}

pub(crate) fn id_of<A: Addr>(pod: A) -> u32 {
    let ids = 1..=u32::from(BACKENDS);
    let is_it = |id: &u32| local_pod::<A>(u8::try_from(*id).expect("few")) == pod;
    ids.into_iter().find(is_it).expect("a backend")
}

fn a_client_stays_with_its_backend_whatever_it_dials<A: Addr>() {
    let world = sticky::<A>();
    let (lb, external) = (addr(150, 1), addr(151, 1));
    for (at, flags) in [
        (node_addr(), service_flags::NODE_PORT),
        (lb, service_flags::LOAD_BALANCER),
        (external, service_flags::EXTERNAL_IP),
    ] {
        publish(&world, at, service::<A>(flags));
    }
    let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
    for at in [vip(1), node_addr(), lb, external] {
        for sport in 2..=20 {
            for transport in [SYN, UDP] {
                let spec = dials(local_pod(9), at, sport, transport);
                // Another address before the same backend: only the port may have to be another.
                let mut packet = spec.packet();
                world.pod().run(&mut packet);
                assert_eq!(ends_of::<A>(packet.bytes()).dst, first, "{at}");
            }
        }
    }
    let expected = Affinity {
        backend: id_of(first),
        generation: 1,
        pad: 0,
        last_opened: NOW,
    };
    assert_eq!(remembered(&world, local_pod(9)), Some(expected));
    assert_eq!(world.node.affinity().len(), 1);
}

fn without_affinity_nothing_is_remembered<A: Addr>() {
    let world = World::<A>::with_local_backends(BACKENDS);
    let spread: BTreeSet<_> = (1..=60)
        .map(|sport| given(&world, &dials(local_pod(9), vip(1), sport, SYN)))
        .collect();
    assert_eq!(spread.len(), usize::from(BACKENDS));
    assert!(world.node.affinity().is_empty());
    assert!(!is_affine(&world, local_pod(9)));
}

fn another_client_and_another_service_are_others<A: Addr>() {
    let world = sticky::<A>();
    let other = Service {
        id: World::<A>::SERVICE + 1,
        cluster: SlotRange { base: 40, count: 1 },
        ..service::<A>(service_flags::CLUSTER_IP)
    };
    let lone = Backend {
        service: other.id,
        ..backend(remote_pod(1), 0)
    };
    world.node.set_backend(9, Some(lone));
    world.node.set_slot(40, 9);
    publish(&world, vip(2), other);
    let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
    let there = given(&world, &dials(local_pod(9), vip(2), 1, SYN));
    assert_eq!(there, remote_pod(1));
    // It did not make the client forget, nor does another client.
    for client in 10..40 {
        given(&world, &dials(local_pod(client), vip(1), 1, SYN));
    }
    let again = given(&world, &dials(local_pod(9), vip(1), 2, SYN));
    assert_eq!(again, first);
    assert_eq!(world.node.affinity().len(), 32);
}

fn a_connection_begins_the_time_anew_and_a_packet_does_not<A: Addr>() {
    let world = sticky::<A>();
    let half = seconds(TIMEOUT_S) / 2;
    let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
    for sport in 2..10 {
        world.wait(half + 1);
        let again = given(&world, &dials(local_pod(9), vip(1), sport, SYN));
        assert_eq!(again, first);
        let known = remembered(&world, local_pod(9)).expect("a client");
        assert_eq!(known.last_opened, world.node.now());
    }
    let last = dials::<A>(local_pod(9), vip(1), 9, SYN);
    let opened = world.node.now();
    for _ in 0..2 {
        world.wait(half);
        assert_eq!(
            world.pod().run(&mut last.packet()).verdict,
            Verdict::Send(Kernel)
        );
        let known = remembered(&world, local_pod(9)).expect("a client");
        assert_eq!(known.last_opened, opened);
    }
    world.wait(2);
    assert!(!is_affine(&world, local_pod(9)));
}

fn the_time_ends_at_its_tick<A: Addr>() {
    for (timeout_s, begin) in [
        (1, NOW),
        (TIMEOUT_S, NOW),
        (10_800, u32::MAX - 100),
        (86_400, u32::MAX),
    ] {
        let world = sticky::<A>();
        world.node.set_now(begin);
        let service = Service {
            affinity_timeout_s: timeout_s,
            ..service::<A>(service_flags::CLUSTER_IP)
        };
        publish(&world, vip(1), service);
        assert!(!is_affine(&world, local_pod(9)));
        given(&world, &dials(local_pod(9), vip(1), 1, SYN));
        let last = begin.wrapping_add(seconds(timeout_s));
        for (now, expected) in [
            (begin, true),
            (last, true),
            (last.wrapping_add(1), false),
            (last.wrapping_add(1_000_000), false),
            // Another CPU was a tick ahead.
            (begin.wrapping_sub(1), true),
        ] {
            world.node.set_now(now);
            assert_eq!(is_affine(&world, local_pod(9)), expected, "{timeout_s}");
        }
    }
}

/// It still serves what it has: it ends, or is not ready.
fn a_backend_that_left_the_list_is_not_stayed_with<A: Addr>() {
    let world = sticky::<A>();
    let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
    let id = id_of(first);
    let ending = Backend {
        flags: backend_flags::SERVING | backend_flags::LOCAL | backend_flags::IN_EXTERNAL_LOCAL,
        ..backend(first, 0)
    };
    world.node.set_backend(id, Some(ending));
    let others: Vec<_> = (1..=BACKENDS).filter(|n| u32::from(*n) != id).collect();
    crate::truth::set_slots(&world, 1, &others);
    let fewer = Service {
        version: 101,
        cluster: SlotRange {
            base: 1,
            count: u32::from(BACKENDS) - 1,
        },
        ..service::<A>(service_flags::CLUSTER_IP)
    };
    publish(&world, vip(1), fewer);
    assert!(!is_affine(&world, local_pod(9)));
    let second = given(&world, &dials(local_pod(9), vip(1), 2, SYN));
    assert_ne!(second, first);
    // It comes back, but the client has another by now.
    world.node.set_backend(id, Some(backend(first, 0)));
    publish(&world, vip(1), service::<A>(service_flags::CLUSTER_IP));
    let third = given(&world, &dials(local_pod(9), vip(1), 3, SYN));
    assert_eq!(third, second);
}

fn a_backend_that_became_another_is_not_stayed_with<A: Addr>() {
    let others: [Change<A>; 3] = [
        |backend| {
            Some(Backend {
                generation: backend.generation + 1,
                ..backend
            })
        },
        |backend| {
            Some(Backend {
                service: backend.service + 1,
                ..backend
            })
        },
        |_| None,
    ];
    for other in others {
        let world = sticky::<A>();
        let first = given(&world, &dials(local_pod(9), vip(1), 1, SYN));
        assert!(is_affine(&world, local_pod(9)));
        let changed = other(backend(first, backend_flags::LOCAL));
        world.node.set_backend(id_of(first), changed);
        // Nothing but the affinity names it any more.
        world.serve(&[]);
        let rest: Vec<_> = (1..=BACKENDS)
            .filter(|n| u32::from(*n) != id_of(first))
            .collect();
        crate::truth::set_slots(&world, 1, &rest);
        let fewer = SlotRange {
            base: 1,
            count: u32::from(BACKENDS) - 1,
        };
        let service = Service {
            version: 102,
            cluster: fewer,
            ..service::<A>(service_flags::CLUSTER_IP)
        };
        publish(&world, vip(1), service);
        assert!(!is_affine(&world, local_pod(9)));
        let second = given(&world, &dials(local_pod(9), vip(1), 2, SYN));
        assert_ne!(second, first);
        let again = given(&world, &dials(local_pod(9), vip(1), 3, SYN));
        assert_eq!(again, second);
    }
}

/// Of two endpoints the policy leaves an outside client the one here, whatever it had before.
fn a_backend_of_another_list_is_not_stayed_with<A: Addr>() {
    let world = World::<A>::new();
    crate::truth::set_backends(&world);
    crate::truth::set_slots(&world, 1, &[2]);
    crate::truth::set_slots(&world, 20, &[1]);
    let lone = SlotRange { base: 1, count: 1 };
    let internal = Service {
        cluster: lone,
        ..service::<A>(service_flags::CLUSTER_IP)
    };
    publish(&world, vip(1), internal);
    let local = Service {
        cluster: lone,
        ..service::<A>(service_flags::NODE_PORT | service_flags::EXTERNAL_LOCAL)
    };
    publish(&world, node_addr(), local);
    let dial = |at: A, sport| {
        let mut packet = dials(outsider(1), at, sport, SYN).packet();
        world.uplink().run(&mut packet);
        ends_of::<A>(packet.bytes()).dst
    };
    assert_eq!(dial(vip(1), 1), remote_pod(2));
    assert_eq!(dial(node_addr(), 2), local_pod(1));
    // The one here is in the other list too: the client stays.
    assert_eq!(dial(vip(1), 3), local_pod(1));
    assert_eq!(dial(vip(1), 4), local_pod(1));
    assert_eq!(world.node.affinity().len(), 1);
}
