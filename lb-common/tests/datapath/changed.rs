//! A service that changes under our eyes, once and twice, at every moment: nothing is done by half of each version.

use std::cell::{Cell, RefCell};

use lb_common::{
    abi::{
        AffinityKey, Backend,
        Reason::{
            Answered, DropNoLocalBackend, DropServiceChanged, DropSourceRange, Open,
            RejectNoBackend, Resolved,
        },
        Service, ServiceKey, SlotRange, service_flags,
    },
    datapath::{Verdict, Via::Kernel},
    fake::FakePacket,
    net::addr::Addr,
};

use crate::{
    interleaved::{Interleaved, Moment},
    truth::{ends_of, publish},
    world::{
        SERVICE_PORT, SYN, UDP, World, assert_counts, backend, for_both_families, local_pod,
        request, vip,
    },
};

for_both_families!(
    one_change_is_seen_or_comes_too_late,
    two_changes_are_one_if_the_second_comes_before_the_look,
    two_changes_between_looks_are_given_up,
    three_changes_are_given_up_too,
    endpoints_that_come_meanwhile_are_used,
    endpoints_that_go_meanwhile_are_missed,
    a_policy_that_comes_meanwhile_holds,
    a_guard_that_comes_meanwhile_holds,
    a_service_that_became_another_is_the_other,
    what_was_given_up_is_not_remembered,
    a_slot_that_names_anothers_backend_is_not_remembered,
    a_service_that_is_missed_at_first_sight_is_found,
);

const BACKENDS: u8 = 4;
/// Above all versions that a world gives by itself.
const VERSION: u32 = 100;

/// The service whose one endpoint is this backend; each has a slot of its own, as the agent gives.
fn alone<A: Addr>(id: u8) -> Service {
    Service {
        id: World::<A>::SERVICE,
        version: VERSION + u32::from(id),
        cluster: SlotRange {
            base: 10 + u32::from(id),
            count: 1,
        },
        flags: service_flags::CLUSTER_IP,
        ..Service::default()
    }
}

fn world<A: Addr>() -> World<A> {
    let world = World::<A>::with_local_backends(BACKENDS);
    for id in 1..=BACKENDS {
        world.node.set_slot(10 + u32::from(id), id.into());
    }
    publish(&world, vip(1), alone::<A>(1));
    world
}

/// Runs a first packet while the service becomes these, each right after it was looked at for so many times.
fn run<A: Addr>(world: &World<A>, changes: &[(u32, Service)]) -> (Verdict, FakePacket) {
    let looks = Cell::new(0);
    let left = RefCell::new(changes.to_vec());
    let tables = Interleaved::new(world.pod(), |moment| {
        if moment != Moment::ServiceRead {
            return;
        }
        looks.set(looks.get() + 1);
        left.borrow_mut().retain(|(look, service)| {
            if *look == looks.get() {
                publish(world, vip(1), *service);
            }
            *look != looks.get()
        });
    });
    let mut packet = request::<A>(local_pod(9), SYN).packet();
    let verdict = tables.run(&mut packet);
    assert!(left.borrow().is_empty(), "{} looks", looks.get());
    (verdict, packet)
}

/// Asserts that the packet goes to this backend in spite of the changes.
#[track_caller]
fn goes_to<A: Addr>(world: &World<A>, changes: &[(u32, Service)], id: u8) {
    let (verdict, packet) = run(world, changes);
    assert_eq!(verdict, Verdict::Send(Kernel));
    assert_counts(&world.node, &[Open, Resolved]);
    assert_eq!(ends_of::<A>(packet.bytes()).dst, local_pod(id));
}

#[track_caller]
fn is_given_up<A: Addr>(world: &World<A>, changes: &[(u32, Service)]) {
    let (verdict, mut packet) = run(world, changes);
    assert_eq!(verdict, Verdict::Drop);
    assert_counts(&world.node, &[DropServiceChanged]);
    assert_eq!(packet, request::<A>(local_pod(9), SYN).packet());
    // The retransmit finds it settled.
    world.node.take_counts();
    let settled = world.pod().run(&mut packet).verdict;
    assert_eq!(settled, Verdict::Send(Kernel));
}

/// The second look is at the version: what comes behind it comes behind the packet.
fn one_change_is_seen_or_comes_too_late<A: Addr>() {
    goes_to(&world::<A>(), &[(1, alone::<A>(2))], 2);
    goes_to(&world::<A>(), &[(2, alone::<A>(2))], 1);
}

fn two_changes_are_one_if_the_second_comes_before_the_look<A: Addr>() {
    let changes = [(1, alone::<A>(2)), (2, alone::<A>(3))];
    goes_to(&world::<A>(), &changes, 3);
    let changes = [(1, alone::<A>(2)), (4, alone::<A>(3))];
    goes_to(&world::<A>(), &changes, 2);
}

fn two_changes_between_looks_are_given_up<A: Addr>() {
    let changes = [(1, alone::<A>(2)), (3, alone::<A>(3))];
    is_given_up(&world::<A>(), &changes);
    // Also if all is again as it was, but for the version.
    let back = Service {
        version: VERSION + 50,
        ..alone::<A>(1)
    };
    is_given_up(&world::<A>(), &[(1, alone::<A>(2)), (3, back)]);
}

fn three_changes_are_given_up_too<A: Addr>() {
    for third in [2, 4] {
        let changes = [
            (1, alone::<A>(2)),
            (third, alone::<A>(3)),
            (3, alone::<A>(4)),
        ];
        is_given_up(&world::<A>(), &changes);
    }
}

fn endpoints_that_come_meanwhile_are_used<A: Addr>() {
    let world = world::<A>();
    let none = Service {
        version: VERSION,
        cluster: SlotRange::default(),
        ..alone::<A>(1)
    };
    publish(&world, vip(1), none);
    goes_to(&world, &[(1, alone::<A>(2))], 2);
}

fn endpoints_that_go_meanwhile_are_missed<A: Addr>() {
    let world = world::<A>();
    let none = Service {
        cluster: SlotRange::default(),
        ..alone::<A>(2)
    };
    let (verdict, _) = run(&world, &[(1, none)]);
    assert_eq!(verdict, Verdict::Back);
    assert_counts(&world.node, &[RejectNoBackend, Answered]);
}

fn a_policy_that_comes_meanwhile_holds<A: Addr>() {
    let world = world::<A>();
    let local = Service {
        flags: service_flags::CLUSTER_IP | service_flags::INTERNAL_LOCAL,
        ..alone::<A>(2)
    };
    let (verdict, _) = run(&world, &[(1, local)]);
    assert_eq!(verdict, Verdict::Drop);
    assert_counts(&world.node, &[DropNoLocalBackend]);
    let here = Service {
        version: VERSION + 50,
        internal_local: SlotRange { base: 13, count: 1 },
        ..local
    };
    publish(&world, vip(1), alone::<A>(1));
    goes_to(&world, &[(1, here)], 3);
}

fn a_guard_that_comes_meanwhile_holds<A: Addr>() {
    let world = world::<A>();
    let guarded = Service {
        guard: 9,
        ..alone::<A>(2)
    };
    let (verdict, _) = run(&world, &[(1, guarded)]);
    assert_eq!(verdict, Verdict::Drop);
    assert_counts(&world.node, &[DropSourceRange]);
    // And one that goes is gone.
    goes_to(&world, &[(1, alone::<A>(3))], 3);
}

/// The frontend is another service port's by now, and the old one's backend is no answer.
fn a_service_that_became_another_is_the_other<A: Addr>() {
    let world = world::<A>();
    let other = Service {
        id: World::<A>::SERVICE + 1,
        // The same version by chance.
        version: alone::<A>(1).version,
        ..alone::<A>(4)
    };
    let its = Backend {
        service: other.id,
        ..backend(local_pod(4), 0)
    };
    world.node.set_backend(4, Some(its));
    goes_to(&world, &[(1, other)], 4);
}

fn what_was_given_up_is_not_remembered<A: Addr>() {
    let sticky = |id| Service {
        affinity_timeout_s: 30,
        ..alone::<A>(id)
    };
    let world = world::<A>();
    publish(&world, vip(1), sticky(1));
    let (verdict, _) = run(&world, &[(1, sticky(2)), (3, sticky(3))]);
    assert_eq!(verdict, Verdict::Drop);
    assert!(world.node.affinity().is_empty());
    world.node.take_counts();
    // What replaced it is remembered, under the service that it is.
    let other = Service {
        id: World::<A>::SERVICE + 1,
        ..sticky(4)
    };
    let its = Backend {
        service: other.id,
        ..backend(local_pod(4), 0)
    };
    world.node.set_backend(4, Some(its));
    publish(&world, vip(1), sticky(1));
    goes_to(&world, &[(1, other)], 4);
    let known = world.node.affinity();
    let key = AffinityKey::new(local_pod::<A>(9), other.id);
    assert_eq!(known.len(), 1);
    assert_eq!(known[&key].backend, 4);
}

/// Its id was given away, and the slot not yet written again: the packet is dropped, and leaves nothing behind.
fn a_slot_that_names_anothers_backend_is_not_remembered<A: Addr>() {
    let world = world::<A>();
    let sticky = Service {
        affinity_timeout_s: 30,
        ..alone::<A>(1)
    };
    publish(&world, vip(1), sticky);
    let others = Backend {
        service: World::<A>::SERVICE + 1,
        ..backend(local_pod(1), 0)
    };
    world.node.set_backend(1, Some(others));
    let (verdict, _) = run(&world, &[]);
    assert_eq!(verdict, Verdict::Drop);
    assert_counts(&world.node, &[DropServiceChanged]);
    assert!(world.node.affinity().is_empty());
}

/// The kernel may miss a key whose value is being replaced, though it was there all the time.
fn a_service_that_is_missed_at_first_sight_is_found<A: Addr>() {
    for transport in [SYN, UDP] {
        let world = World::<A>::with_local_backends(1);
        let syn = request::<A>(local_pod(9), transport);
        let key = ServiceKey::new(vip(1), SERVICE_PORT, syn.key().proto);
        world.node.set_service(key, None);
        let tables = Interleaved::new(world.pod(), |moment| {
            if moment == Moment::ServiceRead {
                world.serve(&[1]);
            }
        });
        let mut packet = syn.packet();
        assert_eq!(
            tables.run(&mut packet),
            Verdict::Drop,
            "changes all the time"
        );
        let is_missed = Cell::new(true);
        world.node.set_service(key, None);
        let tables = Interleaved::new(world.pod(), |moment| {
            if moment == Moment::ServiceRead && is_missed.take() {
                world.serve(&[1]);
            }
        });
        let mut packet = syn.packet();
        assert_eq!(tables.run(&mut packet), Verdict::Send(Kernel));
        assert_eq!(ends_of::<A>(packet.bytes()).dst, local_pod(1));
    }
}
