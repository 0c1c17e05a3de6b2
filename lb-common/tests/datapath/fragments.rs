//! Fragments follow the first one of their datagram, in whatever order they come.

use lb_common::{
    abi::{
        Fragment,
        Reason::{
            self, DropFragment, DropTtl, FragmentHeld, FragmentsReleased, HitOriginal, HitReply,
            Open, PassFragment, PassMalformed, PassNoService, PassProtocol, PassToTc,
            RejectNoBackend, Resolved,
        },
        capacity, place,
    },
    datapath::Verdict,
    fake::{FakePacket, FakeTables, FakeWordRows, PacketSpec, StdWord},
    fragment::record,
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};

use crate::{
    made,
    world::{
        BACKEND_PORT, CLIENT_PORT, NOW, POD_DEVICE, SERVICE_PORT, SYN, UDP, UPLINK, World, addr,
        answer, assert_counts, delivered, for_both_families, forwarded, leaves, local_pod,
        node_addr, outsider, remote_pod, renamed, request, vip,
    },
};

for_both_families!(
    in_order_all_follow_the_first,
    answers_follow_their_first,
    a_new_source_and_port_reach_all_pieces,
    early_ones_wait_for_the_first,
    pieces_come_in_again_by_their_own_device,
    neither_another_source_nor_another_number_is_the_same_datagram,
    a_record_lives_two_seconds,
    what_was_kept_too_long_is_given_up,
    a_second_datagram_of_one_number_has_its_own_ports,
    others_traffic_passes,
    a_stray_inside_a_service_cidr_goes_nowhere,
    one_source_fills_one_set,
    nothing_is_kept_on_the_way_out,
    before_the_stack_fragments_are_left_to_tc,
    nobody_is_told_about_a_later_fragment,
    the_oldest_record_of_a_source_gives_way,
);

/// Bytes of payload of each piece but the last.
pub(crate) const SIZE: usize = 64;
/// As [`PacketSpec`] numbers its packets.
pub(crate) const ID: u32 = 0x1234;
pub(crate) const TWO_SECONDS: u32 = 120;

/// A datagram of four pieces.
pub(crate) fn long<A: Addr>(spec: PacketSpec<A>) -> PacketSpec<A> {
    PacketSpec {
        payload: (0..=220).collect(),
        may_fragment: true,
        ..spec
    }
}

pub(crate) fn cut<A: Addr>(spec: &PacketSpec<A>) -> Vec<FakePacket> {
    spec.packet().cut(SIZE, ID)
}

/// Runs pieces, each of which is sent on and counted once more than its own reasons; what they have become.
#[track_caller]
pub(crate) fn sent<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    pieces: &[FakePacket],
    reason: Reason,
) -> Vec<FakePacket> {
    let run = |piece: &FakePacket| {
        let mut packet = piece.clone();
        let outcome = program.run(&mut packet);
        let counts = world.node.take_counts();
        assert!(matches!(outcome.verdict, Verdict::Send(_)), "{counts:?}");
        assert!(counts.contains_key(&reason), "{counts:?}");
        assert!(packet.device_sum_valid());
        packet
    };
    pieces.iter().map(run).collect()
}

#[track_caller]
pub(crate) fn held<A: Addr>(world: &World<A>, piece: &FakePacket) {
    let counts = &[FragmentHeld];
    leaves(&world.node, world.pod(), piece, Verdict::Drop, counts);
}

#[track_caller]
fn assert_joined<A: Addr>(pieces: &[FakePacket], expected: &PacketSpec<A>) {
    let whole = FakePacket::join(pieces);
    assert_eq!(whole.bytes(), expected.packet().bytes());
    assert!(whole.checksums_valid());
}

fn in_order_all_follow_the_first<A: Addr>() {
    let world = World::<A>::with_local_backends(3);
    let spec = long(request(local_pod::<A>(9), UDP));
    let pieces = cut(&spec);
    assert_eq!(pieces.len(), 4);
    let mut out = sent(&world, world.pod(), &pieces[..1], Open);
    out.extend(sent(&world, world.pod(), &pieces[1..], HitOriginal));
    let whole = FakePacket::join(&out);
    let to =
        (1..=3).find(|n| whole.bytes() == forwarded(&spec, local_pod::<A>(*n)).packet().bytes());
    assert!(to.is_some() && whole.checksums_valid());
}

fn answers_follow_their_first<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let open = long(request(local_pod::<A>(9), UDP));
    sent(&world, world.pod(), &cut(&open)[..1], Open);
    let back = long(answer(&forwarded(&open, local_pod::<A>(1)), UDP));
    let out = sent(&world, world.pod(), &cut(&back), HitReply);
    assert_joined(&out, &long(delivered(&open, UDP)));
}

fn a_new_source_and_port_reach_all_pieces<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    for client in 1..=2 {
        let spec = long(request(outsider::<A>(client), UDP));
        let mut packets = cut(&spec);
        let first = packets.remove(0);
        let mut out = sent(&world, world.uplink(), &[first], Open);
        out.extend(sent(&world, world.uplink(), &packets, HitOriginal));
        let whole = FakePacket::join(&out);
        assert!(whole.checksums_valid());
        let at = if size_of::<A>() == 4 { 20 } else { 40 };
        let ports = &whole.bytes()[at..at + 4];
        let sport = u16::from_be_bytes([ports[0], ports[1]]);
        // The second client's port is the first's.
        assert_eq!(client == 1, sport == CLIENT_PORT);
        let there = renamed(
            &spec,
            (node_addr(), sport),
            (remote_pod::<A>(1), BACKEND_PORT),
        );
        assert_joined(&out, &PacketSpec { ttl: 63, ..there });
    }
}

fn early_ones_wait_for_the_first<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let spec = long(request(local_pod::<A>(9), UDP));
    for round in 0..3 {
        let pieces = cut(&spec);
        for piece in pieces[1..].iter().rev() {
            held(&world, piece);
        }
        let mut first = pieces[0].clone();
        let outcome = world.pod().run(&mut first);
        assert!(matches!(outcome.verdict, Verdict::Send(_)));
        let opened = [Open, Resolved, FragmentsReleased];
        // The next hop's time is over too.
        let hit = [HitOriginal, Resolved, FragmentsReleased];
        assert_counts(&world.node, if round == 0 { &opened } else { &hit });
        let released = world.node.take_released();
        assert_eq!(released.len(), 3);
        let released: Vec<_> = released.into_iter().map(|(_, piece)| piece).collect();
        let mut out = sent(&world, world.pod(), &released, HitOriginal);
        out.push(first);
        assert_joined(&out, &forwarded(&spec, local_pod::<A>(1)));
        assert_eq!(world.node.take_released(), []);
        world.wait(TWO_SECONDS + 1);
    }
}

fn pieces_come_in_again_by_their_own_device<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let pieces = cut(&long(request(outsider::<A>(1), UDP)));
    let counts = &[FragmentHeld];
    leaves(&world.node, world.pod(), &pieces[2], Verdict::Drop, counts);
    leaves(
        &world.node,
        world.uplink(),
        &pieces[1],
        Verdict::Drop,
        counts,
    );
    sent(&world, world.uplink(), &pieces[..1], FragmentsReleased);
    let mut released = world.node.take_released();
    released.sort_by_key(|(ifindex, _)| *ifindex);
    assert_eq!(
        released,
        [(UPLINK, pieces[1].clone()), (POD_DEVICE, pieces[2].clone())]
    );
}

fn neither_another_source_nor_another_number_is_the_same_datagram<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let spec = long(request(local_pod::<A>(9), UDP));
    sent(&world, world.pod(), &cut(&spec)[..1], Open);
    let other_source = cut(&long(request(local_pod::<A>(8), UDP)));
    let other_vip = cut(&renamed(
        &spec,
        (local_pod::<A>(9), CLIENT_PORT),
        (vip(2), SERVICE_PORT),
    ));
    let other_number = spec.packet().cut(SIZE, ID + 1);
    for pieces in [other_source, other_vip, other_number] {
        held(&world, &pieces[1]);
    }
    sent(&world, world.pod(), &cut(&spec)[1..], HitOriginal);
    assert_eq!(world.node.take_released(), []);
}

#[test]
fn the_protocol_is_part_of_what_names_an_ipv4_datagram() {
    let world = World::<Addr4>::with_local_backends(1);
    let pieces = cut(&long(request::<Addr4>(local_pod(9), UDP)));
    sent(&world, world.pod(), &pieces[..1], Open);
    let mut other = pieces[1].clone();
    other.bytes_mut()[9] = proto::TCP;
    held(&world, &other);
    other.bytes_mut()[9] = 50;
    let counts = &[PassProtocol];
    leaves(&world.node, world.pod(), &other, Verdict::Pass, counts);
}

/// Its fragments name what the first begins with: options for the receiver, here.
#[test]
fn an_ipv6_datagram_may_begin_with_options() {
    let world = World::<Addr6>::with_local_backends(1);
    let whole = long(request::<Addr6>(local_pod(9), UDP)).packet();
    let mut bytes = whole.bytes().to_vec();
    bytes.splice(40..40, [proto::UDP, 0, 1, 4, 0, 0, 0, 0]);
    bytes[6] = 60;
    let len = u16::try_from(bytes.len() - 40)
        .expect("short")
        .to_be_bytes();
    bytes[4..6].copy_from_slice(&len);
    let pieces = FakePacket::new(bytes).cut(SIZE, ID);
    let counts = &[PassFragment];
    leaves(&world.node, world.pod(), &pieces[1], Verdict::Pass, counts);
    let mut out = sent(&world, world.pod(), &pieces[..1], Open);
    out.extend(sent(&world, world.pod(), &pieces[1..], HitOriginal));
    let mut joined = FakePacket::join(&out).bytes().to_vec();
    joined.drain(40..48);
    joined[6] = proto::UDP;
    let len = u16::try_from(joined.len() - 40)
        .expect("short")
        .to_be_bytes();
    joined[4..6].copy_from_slice(&len);
    let expected = forwarded(&long(request::<Addr6>(local_pod(9), UDP)), local_pod(1)).packet();
    assert_eq!(joined, expected.bytes());
}

fn a_record_lives_two_seconds<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    sent(&world, world.pod(), &pieces[..1], Open);
    world.wait(TWO_SECONDS);
    sent(&world, world.pod(), &pieces[1..2], HitOriginal);
    world.wait(1);
    held(&world, &pieces[2]);
}

fn what_was_kept_too_long_is_given_up<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    held(&world, &pieces[1]);
    world.wait(TWO_SECONDS + 1);
    sent(&world, world.pod(), &pieces[..1], Open);
    assert_eq!(world.node.take_released(), []);
    // Its buffer is the first to be taken.
    let other = long(request::<A>(local_pod::<A>(9), UDP))
        .packet()
        .cut(SIZE, 7);
    let counts = &[DropFragment, FragmentHeld];
    leaves(&world.node, world.pod(), &other[1], Verdict::Drop, counts);
}

fn a_second_datagram_of_one_number_has_its_own_ports<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for port in [CLIENT_PORT, CLIENT_PORT + 1] {
        let spec = renamed(
            &long(request(local_pod::<A>(9), UDP)),
            (local_pod::<A>(9), port),
            (vip(1), SERVICE_PORT),
        );
        let mut out = sent(&world, world.pod(), &cut(&spec)[..1], Open);
        out.extend(sent(&world, world.pod(), &cut(&spec)[1..], HitOriginal));
        assert_joined(&out, &forwarded(&spec, local_pod::<A>(1)));
    }
}

fn others_traffic_passes<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let pieces = cut(&long(PacketSpec::new(
        (local_pod::<A>(9), CLIENT_PORT),
        (outsider::<A>(1), 53),
        UDP,
    )));
    let (first, later) = (&pieces[0], &pieces[1]);
    held(&world, later);
    let counts = &[PassNoService, FragmentsReleased];
    leaves(&world.node, world.pod(), first, Verdict::Pass, counts);
    assert_eq!(world.node.take_released(), [(POD_DEVICE, later.clone())]);
    let counts = &[PassFragment];
    leaves(&world.node, world.pod(), later, Verdict::Pass, counts);
}

fn a_stray_inside_a_service_cidr_goes_nowhere<A: Addr>() {
    let world = World::<A>::new();
    world
        .node
        .set_place(addr(96, 0), World::<A>::net_bits(), place::SERVICES);
    let pieces = cut(&long(request(local_pod::<A>(9), UDP)));
    world.pod().run(&mut pieces[0].clone());
    assert!(world.node.take_counts().contains_key(&RejectNoBackend));
    let counts = &[DropFragment];
    leaves(&world.node, world.pod(), &pieces[1], Verdict::Drop, counts);
}

fn one_source_fills_one_set<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let numbered = |client, to, id| {
        let spec = PacketSpec::new((client, CLIENT_PORT), (to, SERVICE_PORT), UDP);
        long(spec).packet().cut(SIZE, id)
    };
    let (near, far) = (local_pod::<A>(9), outsider::<A>(1));
    for id in 0..capacity::PIECES_PER_SET {
        held(&world, &numbered(near, vip(1), id)[1]);
    }
    let more = |to| numbered(near, to, 1000).remove(1);
    let passed = &[PassFragment];
    leaves(&world.node, world.pod(), &more(far), Verdict::Pass, passed);
    let dropped = &[DropFragment];
    let to_node = more(node_addr());
    leaves(&world.node, world.pod(), &to_node, Verdict::Drop, dropped);
    world
        .node
        .set_place(addr(96, 0), World::<A>::net_bits(), place::SERVICES);
    leaves(
        &world.node,
        world.pod(),
        &more(vip(1)),
        Verdict::Drop,
        dropped,
    );
    // Others have sets of their own, or half of this one.
    let mut displaced = 0;
    for client in 10..50 {
        let piece = numbered(local_pod::<A>(client), vip(1), 1).remove(1);
        assert_eq!(world.pod().run(&mut piece.clone()).verdict, Verdict::Drop);
        let counts = world.node.take_counts();
        assert_eq!(counts.get(&FragmentHeld), Some(&1));
        displaced += counts.get(&DropFragment).copied().unwrap_or(0);
    }
    assert!((1..20).contains(&displaced), "{displaced}");
    // The oldest went, and a source with half of the set displaces nobody.
    world.wait(TWO_SECONDS + 1);
    held_again(&world, &numbered(near, vip(1), 2000)[1]);
}

#[track_caller]
fn held_again<A: Addr>(world: &World<A>, piece: &FakePacket) {
    let counts = &[DropFragment, FragmentHeld];
    leaves(&world.node, world.pod(), piece, Verdict::Drop, counts);
}

fn nothing_is_kept_on_the_way_out<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let pieces = cut(&long(request(outsider::<A>(1), UDP)));
    for program in [world.egress(), world.lo()] {
        let counts = &[PassFragment];
        leaves(&world.node, program, &pieces[1], Verdict::Pass, counts);
    }
    // What the node's own server answers is translated all the same.
    let open = long(request(outsider::<A>(1), UDP));
    let mut received = sent(&world, world.uplink(), &cut(&open)[..1], Open);
    received.extend(sent(&world, world.uplink(), &cut(&open)[1..], HitOriginal));
    let there = renamed(
        &open,
        (outsider::<A>(1), CLIENT_PORT),
        (node_addr(), BACKEND_PORT),
    );
    assert_joined(&received, &there);
    let back = long(answer(&there, UDP));
    let out = sent(&world, world.egress(), &cut(&back), HitReply);
    let home = renamed(
        &back,
        (vip(1), SERVICE_PORT),
        (outsider::<A>(1), CLIENT_PORT),
    );
    assert_joined(&out, &home);
}

fn before_the_stack_fragments_are_left_to_tc<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    for piece in &cut(&long(request(outsider::<A>(1), UDP))) {
        let counts = &[PassToTc];
        leaves(&world.node, world.xdp(), piece, Verdict::Pass, counts);
    }
}

fn nobody_is_told_about_a_later_fragment<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let spec = long(request(local_pod::<A>(9), UDP));
    sent(&world, world.pod(), &cut(&spec)[..1], Open);
    let last_hop = cut(&PacketSpec { ttl: 1, ..spec });
    let counts = &[DropTtl];
    leaves(
        &world.node,
        world.pod(),
        &last_hop[1],
        Verdict::Drop,
        counts,
    );
}

/// Twice as many datagrams as there is room for: those of others stay.
fn the_oldest_record_of_a_source_gives_way<A: Addr>() {
    let rows = FakeWordRows::<StdWord>::new(capacity::FRAGMENTS + 1, size_of::<Fragment<A>>());
    let hash_key = World::<A>::config().hash_key;
    let of = |client| request(local_pod::<A>(client), UDP).key();
    let victims = |client: u32| 1000 * client..1000 * client + 200;
    for id in victims(1) {
        record::note(&&rows, &hash_key, &of(1), id, NOW);
    }
    for id in 0..2 * capacity::FRAGMENTS {
        record::note(&&rows, &hash_key, &of(9), id, NOW + 1);
    }
    let assert_known = |client, id| {
        let known = record::find(&&rows, &hash_key, &of(client), id, NOW + 3);
        assert!(known.is_known(), "client {client}, {id}");
        assert_eq!((known.sport(), known.dport()), (CLIENT_PORT, SERVICE_PORT));
    };
    for id in victims(1) {
        assert_known(1, id);
    }
    // Who comes to a table that is full has a place too.
    for id in victims(2) {
        record::note(&&rows, &hash_key, &of(2), id, NOW + 2);
    }
    for id in victims(2) {
        assert_known(2, id);
    }
}

/// A checksum over ports and all that follows them cannot be made from a part.
#[test]
fn sctp_in_pieces_is_dropped_where_its_ports_change() {
    let world = World::<Addr4>::with_local_backends(1);
    let key = |port| lb_common::abi::ServiceKey::new(vip::<Addr4>(1), port, proto::SCTP);
    let service = lb_common::abi::Service {
        id: World::<Addr4>::SERVICE,
        version: 9,
        cluster: lb_common::abi::SlotRange { base: 1, count: 1 },
        flags: lb_common::abi::service_flags::CLUSTER_IP,
        ..Default::default()
    };
    for (port, reason) in [(SERVICE_PORT, DropFragment), (BACKEND_PORT, Open)] {
        world.node.set_service(key(port), Some(service));
        let chunk = [&[1, 0, 0, 200][..], &[7; 196]].concat();
        let client = (local_pod::<Addr4>(9), port);
        let whole = made::sctp(client, (vip(1), port), 0, &chunk);
        let first = FakePacket::new(whole).cut(SIZE, ID).remove(0);
        world.pod().run(&mut first.clone());
        let counts = world.node.take_counts();
        assert!(counts.contains_key(&reason), "{counts:?}");
    }
}

/// The ports, and all of the header that is read, are in the first or nowhere.
#[test]
fn a_first_fragment_without_its_transport_header_passes() {
    let world = World::<Addr4>::with_local_backends(1);
    let tiny = request::<Addr4>(local_pod(9), SYN).packet().cut(8, ID);
    let counts = &[PassMalformed];
    leaves(&world.node, world.pod(), &tiny[0], Verdict::Pass, counts);
    held(&world, &tiny[1]);
}
