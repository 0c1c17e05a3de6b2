//! What is told of a packet: the flow that it has beside what its service would say, and no way that is missing.

use lb_common::{
    abi::{
        NextHop,
        Reason::{HitOriginal, Open, PassNoService, RejectNoBackend},
        ServiceKey, SlotRange,
    },
    datapath::{Decision, Explained, Role, Via, Work},
    fake::PacketSpec,
    flow::Direction,
    net::addr::Addr,
};

use crate::{
    truth::{Cell, HERE, THERE, endpoint},
    world::{
        SERVICE_PORT, SYN, UDP, World, for_both_families, local_pod, node_addr, outsider,
        remote_pod, request, vip,
    },
};

for_both_families!(
    a_known_flow_is_told_beside_what_the_service_says,
    affinity_is_told_and_not_prolonged,
    a_missing_way_alters_no_decision,
    what_comes_by_the_nodes_pair_and_is_no_service_is_told_as_it_is,
);

/// Asserts what is told of a packet that comes by a pod's device.
#[track_caller]
fn tells<A: Addr>(world: &World<A>, spec: &PacketSpec<A>, expected: &Explained) -> Work<A> {
    let dry = world.node.dry(Role::Pod, crate::world::POD_DEVICE);
    let (told, work) = dry.explain(&spec.packet());
    assert_eq!(told, *expected);
    work
}

fn a_known_flow_is_told_beside_what_the_service_says<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let open = request::<A>(local_pod(9), SYN);
    world.pod().run(&mut open.packet());
    let hit = Decision::Send(HitOriginal, Via::Neighbour);
    // The flow's next hop is known; a new connection's would be asked for.
    world.pod().run(&mut open.packet());
    let mut expected = Explained {
        decision: hit,
        flow: Some(Direction::Original),
        service: Ok(()),
    };
    tells(&world, &open, &expected);
    world.serve(&[]);
    expected.service = Err(Decision::Reject(RejectNoBackend));
    let work = tells(&world, &open, &expected);
    assert_eq!(work.flow.rewrite.ends.dst, remote_pod(1));
    let key = ServiceKey::new(vip(1), SERVICE_PORT, 6);
    world.node.set_service(key, None);
    expected.service = Err(Decision::Pass(PassNoService));
    tells(&world, &open, &expected);
    let other = PacketSpec { sport: 1, ..open };
    let none = Explained {
        decision: Decision::Pass(PassNoService),
        flow: None,
        service: Err(Decision::Pass(PassNoService)),
    };
    tells(&world, &other, &none);
}

fn affinity_is_told_and_not_prolonged<A: Addr>() {
    let world = crate::affinity::sticky::<A>();
    let spec = request::<A>(local_pod(9), SYN);
    let opens = Explained {
        decision: Decision::Send(Open, Via::Kernel),
        flow: None,
        service: Ok(()),
    };
    let work = tells(&world, &spec, &opens);
    assert!(!work.call.is_affine && world.node.affinity().is_empty());
    let first = crate::affinity::given(
        &world,
        &PacketSpec {
            sport: 1,
            ..spec.clone()
        },
    );
    let before = world.node.affinity();
    world.wait(100);
    let work = tells(&world, &spec, &opens);
    assert!(work.call.is_affine);
    assert_eq!(work.flow.rewrite.ends.dst, first);
    // All of the list is told, not only the one that the client has.
    let all = SlotRange { base: 1, count: 8 };
    assert_eq!(work.call.range, all);
    assert_eq!(world.node.affinity(), before);
}

/// For a node that is only asked about, there are no routes at all.
fn a_missing_way_alters_no_decision<A: Addr>() {
    for mode in 0..3 {
        for cell in Cell::all(mode).iter().filter(|cell| !cell.prefers) {
            let (role, device) = cell.from.device();
            let told = [true, false].map(|has_routes| {
                let world = cell.world::<A>();
                if !has_routes {
                    for id in [HERE, THERE] {
                        world.node.set_route(
                            endpoint(id),
                            lb_common::datapath::Route::None,
                            NextHop::default(),
                        );
                    }
                }
                let packet = cell.dials::<A>(1, SYN).packet();
                let (told, work) = world.node.dry(role, device).explain(&packet);
                assert!(has_routes || work.hop == NextHop::default());
                (told, work.call, work.flow.rewrite)
            });
            assert_eq!(told[0], told[1], "{cell:?}");
        }
    }
}

/// It would go round in circles, and so is dropped; what is told is why.
fn what_comes_by_the_nodes_pair_and_is_no_service_is_told_as_it_is<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let spec = PacketSpec::new((node_addr::<A>(), 1), (outsider(1), 2), UDP);
    let dry = world.node.dry(Role::Host, crate::world::HOST_PEER);
    let (told, _) = dry.explain(&spec.packet());
    assert_eq!(told.decision, Decision::Pass(PassNoService));
}
