//! Fragments beside others that look like them, and beside what happens at the same moment.

use std::cell::Cell;

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{
            DropEdit, FragmentHeld, FragmentsReleased, HitOriginal, HitReply, Open, PassFragment,
            PassNoService,
        },
        Service, ServiceKey,
        node::features,
        place, service_flags,
    },
    datapath::Verdict,
    fake::{FakePacket, PacketSpec},
    net::{
        addr::{Addr, Addr4, Family},
        ip::proto,
    },
};

use crate::{
    fragments::{ID, SIZE, cut, held, long, sent},
    icmp_made::message,
    interleaved::{Interleaved, Moment},
    world::{
        CLIENT_PORT, POD_DEVICE, SERVICE_PORT, UDP, World, addr, answer, assert_counts,
        for_both_families, forwarded, leaves, local_pod, outsider, renamed, request, vip,
    },
};

for_both_families!(
    only_its_own_pieces_come_in_with_a_first,
    what_passes_on_the_way_out_lets_nothing_in,
    pieces_follow_their_flow_though_its_backend_has_gone,
    a_piece_without_a_flow_is_not_kept_once_its_first_has_come,
    a_first_that_comes_at_the_same_moment_is_followed,
    let_in_by_the_first_a_piece_does_not_go_on_by_itself_too,
    a_first_that_is_lost_over_the_others_is_dropped,
    without_a_shelf_nothing_is_kept,
    what_another_cpu_has_noted_a_tick_ahead_counts,
    a_ping_in_pieces_is_nobodys,
);

fn only_its_own_pieces_come_in_with_a_first<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let spec = long(request(local_pod::<A>(9), UDP));
    let pieces = cut(&spec);
    let other_vip = cut(&renamed(
        &spec,
        (local_pod::<A>(9), CLIENT_PORT),
        (vip(2), SERVICE_PORT),
    ));
    let other_number = spec.packet().cut(SIZE, ID + 1);
    for piece in [&other_vip[1], &pieces[1], &other_number[1]] {
        held(&world, piece);
    }
    sent(&world, world.pod(), &pieces[..1], FragmentsReleased);
    let own = (POD_DEVICE, pieces[1].clone());
    assert_eq!(world.node.take_released(), [own]);
}

#[test]
fn pieces_of_another_protocol_stay_where_they_are() {
    let world = World::<Addr4>::with_local_backends(1);
    let pieces = cut(&long(request::<Addr4>(local_pod(9), UDP)));
    let mut other = pieces[1].clone();
    other.bytes_mut()[9] = proto::TCP;
    held(&world, &other);
    sent(&world, world.pod(), &pieces[..1], Open);
    assert_eq!(world.node.take_released(), []);
}

/// Nothing is kept there, so nothing is let in: what others have kept is for the device that it came by.
fn what_passes_on_the_way_out_lets_nothing_in<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let elsewhere = PacketSpec::new((local_pod::<A>(9), CLIENT_PORT), (outsider(1), 53), UDP);
    let pieces = cut(&long(elsewhere));
    held(&world, &pieces[1]);
    for program in [world.egress(), world.lo()] {
        let counts = &[PassNoService];
        leaves(&world.node, program, &pieces[0], Verdict::Pass, counts);
    }
    assert_eq!(world.node.take_released(), []);
}

/// Its first fragment went to the backend that was there then; half a datagram is of no use to another one.
fn pieces_follow_their_flow_though_its_backend_has_gone<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    world.serve(&[1]);
    let spec = long(request(local_pod::<A>(9), UDP));
    let pieces = cut(&spec);
    let mut out = sent(&world, world.pod(), &pieces[..1], Open);
    world.leave(1, &[2]);
    out.extend(sent(&world, world.pod(), &pieces[1..], HitOriginal));
    let whole = FakePacket::join(&out);
    let expected = forwarded(&spec, local_pod::<A>(1)).packet();
    assert_eq!(whole.bytes(), expected.bytes());
    // The answer to it comes all the same.
    let back = long(answer(&forwarded(&spec, local_pod::<A>(1)), UDP));
    sent(&world, world.pod(), &cut(&back), HitReply);
}

fn a_piece_without_a_flow_is_not_kept_once_its_first_has_come<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let elsewhere = PacketSpec::new((local_pod::<A>(9), CLIENT_PORT), (outsider(1), 53), UDP);
    let pieces = cut(&long(elsewhere));
    let counts = &[PassNoService];
    leaves(&world.node, world.pod(), &pieces[0], Verdict::Pass, counts);
    let is_held = Cell::new(false);
    let program = Interleaved::new(world.pod(), |moment| {
        is_held.set(is_held.get() || moment == Moment::PieceHeld);
    });
    assert_eq!(program.run(&mut pieces[1].clone()), Verdict::Pass);
    assert!(!is_held.get(), "it was copied for nothing");
    assert_counts(&world.node, &[PassFragment]);
}

/// The first comes right before the piece is put on the shelf, and does not see it there: nobody else will let it in.
fn a_first_that_comes_at_the_same_moment_is_followed<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    let program = Interleaved::new(world.pod(), |moment| {
        if moment == Moment::PieceComes {
            Interleaved::new(world.pod(), |_| {}).run(&mut pieces[0].clone());
        }
    });
    let verdict = program.run(&mut pieces[1].clone());
    assert!(matches!(verdict, Verdict::Send(_)), "{verdict:?}");
    let counts = world.node.take_counts();
    assert!(counts.contains_key(&HitOriginal) && !counts.contains_key(&FragmentHeld));
    // Its buffer is free again: nothing comes in with another first of that name.
    world.pod().run(&mut pieces[0].clone());
    assert_eq!(world.node.take_released(), []);
}

/// The first comes right after the piece was put on the shelf, and lets it in.
fn let_in_by_the_first_a_piece_does_not_go_on_by_itself_too<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    let program = Interleaved::new(world.pod(), |moment| {
        if moment == Moment::PieceHeld {
            Interleaved::new(world.pod(), |_| {}).run(&mut pieces[0].clone());
        }
    });
    assert_eq!(program.run(&mut pieces[1].clone()), Verdict::Drop);
    assert!(world.node.take_counts().contains_key(&FragmentHeld));
    let own = (POD_DEVICE, pieces[1].clone());
    assert_eq!(world.node.take_released(), [own]);
}

fn a_first_that_is_lost_over_the_others_is_dropped<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    held(&world, &pieces[1]);
    let program = Interleaved::new(world.pod(), |_| {}).damaging();
    assert_eq!(program.run(&mut pieces[0].clone()), Verdict::Drop);
    assert_eq!(world.node.take_counts().get(&DropEdit), Some(&1));
}

fn without_a_shelf_nothing_is_kept<A: Addr>() {
    let config = NodeConfig {
        piece_sets: 0,
        ..World::<A>::config()
    };
    let world = World::<A>::with_config(config);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    let counts = &[PassFragment];
    leaves(&world.node, world.pod(), &pieces[1], Verdict::Pass, counts);
    world.pod().run(&mut pieces[0].clone());
    assert_eq!(world.node.take_released(), []);
}

fn what_another_cpu_has_noted_a_tick_ahead_counts<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    held(&world, &pieces[1]);
    world.node.set_now(world.node.now() - 1);
    sent(&world, world.pod(), &pieces[..1], FragmentsReleased);
    world.node.set_now(world.node.now() - 1);
    sent(&world, world.pod(), &pieces[2..3], HitOriginal);
}

/// Who answers half of a request answers another one.
fn a_ping_in_pieces_is_nobodys<A: Addr>() {
    let config = NodeConfig {
        features: features::ECHO,
        ..World::<A>::config()
    };
    let world = World::<A>::with_config(config);
    let any = Service {
        id: 1_000,
        version: 1,
        flags: service_flags::ANY_PORT,
        ..Service::default()
    };
    world
        .node
        .set_place(addr(96, 0), World::<A>::net_bits(), place::SERVICES);
    world
        .node
        .set_service(ServiceKey::new(vip(1), 0, 0), Some(any));
    let request = match A::FAMILY {
        Family::V4 => [8, 0],
        Family::V6 => [128, 0],
    };
    let ping = message(local_pod::<A>(9), vip(1), (request, 7), &[1; 200]);
    for piece in &ping.cut(SIZE, ID) {
        let counts = &[PassFragment];
        leaves(&world.node, world.pod(), piece, Verdict::Pass, counts);
    }
}
