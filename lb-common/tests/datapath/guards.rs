//! Whom a guard lets in: the source ranges of a load balancer, as prefixes of a space of their own.

use lb_common::{
    abi::{
        Reason::{DropNoLocalBackend, DropSourceRange, HitOriginal, Open, Resolved},
        Service, place,
    },
    datapath::{Verdict, Via::Kernel},
    fake::{FakeTables, PacketSpec},
    net::addr::Addr,
};

use crate::{
    truth::{Cell, Endpoints, From, Front, THERE, publish},
    world::{
        SERVICE_PORT, SYN, UDP, World, addr, for_both_families, leaves, local_pod, node_addr,
        outsider, remote_pod,
    },
};

for_both_families!(
    who_is_in_a_range_comes_in,
    the_longest_prefix_decides,
    a_range_may_be_everybody,
    a_guard_without_ranges_lets_nobody_in,
    pods_and_the_node_are_kept_out_too,
    who_is_kept_out_is_not_told_that_nobody_serves,
    spaces_are_never_mixed_up,
    who_came_in_stays,
);

const GUARD: u32 = 5;
/// A load balancer's address with endpoints here and there.
const CELL: Cell = Cell {
    front: Front::LoadBalancer,
    from: From::Outside,
    endpoints: Endpoints::HereAndThere,
    external_local: false,
    internal_local: false,
    knows_pods: true,
    mode: 0,
    prefers: false,
};

fn guarded<A: Addr>(cell: &Cell, guard: u32) -> World<A> {
    let world = cell.world::<A>();
    let service = Service {
        guard,
        version: 2,
        ..cell.service::<A>()
    };
    publish(&world, cell.front.addr(), service);
    world
}

/// Bits of the prefixes that `addr(net, _)` share.
fn net<A: Addr>() -> u32 {
    World::<A>::net_bits()
}

fn dials<A: Addr>(client: A) -> PacketSpec<A> {
    let to = (Front::LoadBalancer.addr(), SERVICE_PORT);
    // Ports of their own: one address of the node's stands for many of them.
    let last = client.to_ip().to_string().bytes().fold(0_u16, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(byte.into())
    });
    PacketSpec::new((client, last), to, SYN)
}

#[track_caller]
fn comes_in<A: Addr>(world: &World<A>, program: FakeTables<'_, A, false, false>, client: A) {
    let mut packet = dials(client).packet();
    let verdict = program.run(&mut packet).verdict;
    let counts = world.node.take_counts();
    assert_eq!(verdict, Verdict::Send(Kernel), "{client}: {counts:?}");
    assert_eq!(counts, [Open, Resolved].map(|reason| (reason, 1)).into());
}

#[track_caller]
fn is_kept_out<A: Addr>(world: &World<A>, program: FakeTables<'_, A, false, false>, client: A) {
    let packet = dials(client).packet();
    let counts = &[DropSourceRange];
    leaves(&world.node, program, &packet, Verdict::Drop, counts);
}

fn who_is_in_a_range_comes_in<A: Addr>() {
    let world = guarded::<A>(&CELL, GUARD);
    let all = World::<A>::addr_bits();
    world
        .node
        .set_prefix(GUARD, outsider(1), all, place::ALLOWED);
    world
        .node
        .set_prefix(GUARD, outsider(16), all - 3, place::ALLOWED);
    for n in [1, 16, 23] {
        comes_in(&world, world.uplink(), outsider(n));
    }
    for n in [0, 2, 15, 24] {
        is_kept_out(&world, world.uplink(), outsider(n));
        let packet = dials::<A>(outsider(n)).packet();
        let counts = &[DropSourceRange];
        leaves(&world.node, world.xdp(), &packet, Verdict::Drop, counts);
    }
}

fn the_longest_prefix_decides<A: Addr>() {
    let world = guarded::<A>(&CELL, GUARD);
    let all = World::<A>::addr_bits();
    // A code that is not the one.
    let denied = place::PODS;
    for (prefix, bits, code) in [
        (A::default(), 0, denied),
        (outsider(0), net::<A>(), place::ALLOWED),
        (outsider(64), all - 5, denied),
        (outsider(70), all, place::ALLOWED),
    ] {
        world.node.set_prefix(GUARD, prefix, bits, code);
    }
    for n in [1, 63, 70, 96] {
        comes_in(&world, world.uplink(), outsider(n));
    }
    for n in [64, 69, 71, 95] {
        is_kept_out(&world, world.uplink(), outsider(n));
    }
    is_kept_out(&world, world.uplink(), addr(201, 1));
}

fn a_range_may_be_everybody<A: Addr>() {
    let world = guarded::<A>(&CELL, GUARD);
    world
        .node
        .set_prefix(GUARD, A::default(), 0, place::ALLOWED);
    comes_in(&world, world.uplink(), outsider(1));
    comes_in(&world, world.pod(), local_pod(9));
    comes_in(&world, world.host(), node_addr());
}

fn a_guard_without_ranges_lets_nobody_in<A: Addr>() {
    let world = guarded::<A>(&CELL, GUARD);
    is_kept_out(&world, world.uplink(), outsider(1));
    is_kept_out(&world, world.pod(), local_pod(9));
    is_kept_out(&world, world.host(), node_addr());
    // No guard is not one without ranges.
    let open = guarded::<A>(&CELL, 0);
    comes_in(&open, open.uplink(), outsider(1));
}

/// Whatever the policy exempts them from.
fn pods_and_the_node_are_kept_out_too<A: Addr>() {
    for external_local in [false, true] {
        let cell = Cell {
            external_local,
            ..CELL
        };
        let world = guarded::<A>(&cell, GUARD);
        let lone = World::<A>::addr_bits();
        for allowed in [local_pod(8), remote_pod(8)] {
            world.node.set_prefix(GUARD, allowed, lone, place::ALLOWED);
        }
        comes_in(&world, world.pod(), local_pod(8));
        comes_in(&world, world.uplink(), remote_pod(8));
        is_kept_out(&world, world.pod(), local_pod(9));
        is_kept_out(&world, world.uplink(), remote_pod(9));
        is_kept_out(&world, world.host(), node_addr());
        is_kept_out(&world, world.lo(), node_addr());
        world
            .node
            .set_prefix(GUARD, node_addr(), lone, place::ALLOWED);
        comes_in(&world, world.host(), node_addr());
    }
}

/// Nor that the policy keeps him from those that do.
fn who_is_kept_out_is_not_told_that_nobody_serves<A: Addr>() {
    for (endpoints, external_local) in [
        (Endpoints::Nowhere, false),
        (Endpoints::Nowhere, true),
        (Endpoints::There, true),
    ] {
        let cell = Cell {
            endpoints,
            external_local,
            ..CELL
        };
        let world = guarded::<A>(&cell, GUARD);
        is_kept_out(&world, world.uplink(), outsider(1));
        let counts = &[DropSourceRange];
        let packet = dials::<A>(outsider(1)).packet();
        leaves(&world.node, world.xdp(), &packet, Verdict::Drop, counts);
        let lone = World::<A>::addr_bits();
        world
            .node
            .set_prefix(GUARD, outsider(1), lone, place::ALLOWED);
        if endpoints == Endpoints::There {
            let counts = &[DropNoLocalBackend];
            leaves(&world.node, world.uplink(), &packet, Verdict::Drop, counts);
        } else {
            let verdict = world.uplink().run(&mut packet.clone()).verdict;
            assert_eq!(verdict, Verdict::Back);
        }
    }
}

/// A guard's number may be any, and a code of one space means nothing in another.
fn spaces_are_never_mixed_up<A: Addr>() {
    for guard in [1, place::ALLOWED, 0x0100_0000, u32::MAX] {
        let world = guarded::<A>(&CELL, guard);
        let lone = World::<A>::addr_bits();
        // Allowed among the node's places, and by every other guard.
        for other in [place::NODE_SPACE, guard.wrapping_add(1), guard ^ 0x100] {
            world
                .node
                .set_prefix(other, outsider(1), lone, place::ALLOWED);
        }
        is_kept_out(&world, world.uplink(), outsider(1));
        // A guard that calls it a pod's makes no pod of it: it would not be masqueraded.
        let alone = Service {
            guard: 0,
            version: 3,
            cluster: lb_common::abi::SlotRange { base: 2, count: 1 },
            ..CELL.service::<A>()
        };
        publish(&world, Front::LoadBalancer.addr(), alone);
        world.node.set_prefix(guard, outsider(2), lone, place::PODS);
        let mut packet = dials::<A>(outsider(2)).packet();
        world.uplink().run(&mut packet);
        let ends = crate::truth::ends_of::<A>(packet.bytes());
        assert_eq!(ends.src, node_addr());
        assert_eq!(ends.dst, remote_pod(THERE));
        world.node.take_counts();
    }
}

/// A guard is asked where a connection begins.
fn who_came_in_stays<A: Addr>() {
    for transport in [SYN, UDP] {
        let world = guarded::<A>(&CELL, 0);
        let spec = CELL.dials::<A>(40_000, transport);
        let mut first = spec.packet();
        world.uplink().run(&mut first);
        let service = Service {
            guard: GUARD,
            version: 3,
            ..CELL.service::<A>()
        };
        publish(&world, Front::LoadBalancer.addr(), service);
        world.node.take_counts();
        let mut next = spec.packet();
        world.uplink().run(&mut next);
        assert_eq!(next, first);
        assert_eq!(world.node.take_counts(), [(HitOriginal, 1)].into());
    }
}
