//! Which backend a new connection gets, also when the service changes under our eyes.

use std::cell::Cell;

use lb_common::{
    abi::{
        Backend,
        Reason::{self, DropServiceChanged, Open, Resolved},
        ServiceKey,
    },
    datapath::{Verdict, Via::Kernel},
    fake::{FakePacket, PacketSpec},
    net::addr::Addr,
};

use crate::interleaved::{Interleaved, Moment};

use crate::world::{
    SERVICE_PORT, SYN, UDP, World, backend, for_both_families, forwarded, leaves, local_pod,
    request, vip,
};

for_both_families!(
    backends_get_equal_shares,
    a_flow_keeps_its_backend,
    another_services_backend_is_never_taken,
    a_service_that_changed_is_read_again,
    a_service_that_keeps_changing_is_given_up,
    a_service_that_vanished_is_given_up,
);

fn backends_get_equal_shares<A: Addr>() {
    const BACKENDS: u8 = 8;
    const CONNECTIONS: u32 = 8_000;
    let world = World::<A>::with_local_backends(BACKENDS);
    world.node.seed(0x5eed);
    let mut shares = [0_u32; BACKENDS as usize];
    for n in 0..CONNECTIONS {
        // The table is small: datagrams nobody answers give their places to newer ones.
        let port = 1_024 + u16::try_from(n).expect("a port");
        let query = PacketSpec {
            sport: port,
            ..request::<A>(local_pod(9), UDP)
        };
        let mut packet = query.packet();
        assert_eq!(world.pod().run(&mut packet).verdict, Verdict::Send(Kernel));
        let share = (1..=BACKENDS).find(|id| packet == forwarded(&query, local_pod(*id)).packet());
        shares[usize::from(share.expect("it goes to a backend")) - 1] += 1;
    }
    let expected = f64::from(CONNECTIONS) / f64::from(BACKENDS);
    let chi: f64 = shares
        .iter()
        .map(|n| (f64::from(*n) - expected).powi(2) / expected)
        .sum();
    // Seven degrees of freedom: one in a thousand uniform sources goes beyond 24.3.
    assert!(chi < 24.3, "{shares:?}: chi-square {chi}");
    assert_eq!(world.node.take_counts()[&Open], CONNECTIONS.into());
}

fn a_flow_keeps_its_backend<A: Addr>() {
    let world = World::<A>::with_local_backends(8);
    let syn = request::<A>(local_pod(9), SYN);
    let mut first = syn.packet();
    world.pod().run(&mut first);
    for _ in 0..50 {
        let mut next = syn.packet();
        world.pod().run(&mut next);
        assert_eq!(next, first);
    }
}

/// The slot still names a backend whose id has been given away.
fn another_services_backend_is_never_taken<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let other = Backend {
        service: World::<A>::SERVICE + 1,
        ..backend(local_pod(1), 0)
    };
    world.node.set_backend(1, Some(other));
    let syn = request::<A>(local_pod(9), SYN).packet();
    leaves(
        &world.node,
        world.pod(),
        &syn,
        Verdict::Drop,
        &[DropServiceChanged],
    );
    world.node.set_slot(1, 0);
    leaves(
        &world.node,
        world.pod(),
        &syn,
        Verdict::Drop,
        &[DropServiceChanged],
    );
}

fn a_service_that_changed_is_read_again<A: Addr>() {
    let (verdict, counts, packet) = changing::<A>(1, |world, _| world.serve(&[2]));
    assert_eq!(verdict, Verdict::Send(Kernel));
    assert_eq!(counts, [Open, Resolved]);
    assert_eq!(
        packet,
        forwarded(&request::<A>(local_pod(9), SYN), local_pod(2)).packet()
    );
}

fn a_service_that_keeps_changing_is_given_up<A: Addr>() {
    let (verdict, counts, packet) =
        changing::<A>(u32::MAX, |world, left| world.serve(&[1 + left % 2]));
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(counts, [DropServiceChanged]);
    assert_eq!(packet, request::<A>(local_pod(9), SYN).packet());
}

fn a_service_that_vanished_is_given_up<A: Addr>() {
    let (verdict, counts, packet) = changing::<A>(1, |world, _| {
        world
            .node
            .set_service(ServiceKey::new(vip(1), SERVICE_PORT, 6), None);
    });
    assert_eq!(verdict, Verdict::Drop);
    assert_eq!(counts, [DropServiceChanged]);
    assert_eq!(packet, request::<A>(local_pod(9), SYN).packet());
}

/// Runs a SYN to a service of backend 1 that `change` changes meanwhile.
fn changing<A: Addr>(
    changes: u32,
    change: impl Fn(&World<A>, u32),
) -> (Verdict, Vec<Reason>, FakePacket) {
    let world = World::<A>::with_local_backends(2);
    world.serve(&[1]);
    let mut packet = request::<A>(local_pod(9), SYN).packet();
    let left = Cell::new(changes);
    let tables = Interleaved::new(world.pod(), |moment| {
        if moment == Moment::ServiceRead
            && let Some(next) = left.get().checked_sub(1)
        {
            left.set(next);
            change(&world, next);
        }
    });
    let verdict = tables.run(&mut packet);
    (
        verdict,
        world.node.take_counts().into_keys().collect(),
        packet,
    )
}
