//! SCTP: a checksum over all of a packet but the addresses, associations that stay where they are, and ABORTs.

use lb_common::{
    abi::{
        Reason::{
            self, Answered, HitOriginal, HitReply, Open, PassMalformed, RejectNoBackend,
            RejectNoFlow, Reopened, Resolved,
        },
        SlotRange,
    },
    datapath::{
        Verdict,
        Via::{self, Host, Kernel, Neighbour},
    },
    fake::{FakePacket, FakeTables, error_about},
    net::{
        addr::{Addr, Addr4, Addr6},
        icmp::IcmpError,
    },
};
use proptest::prelude::*;

use crate::{
    made::{routed, sctp},
    truth::{Cell, Endpoints, From, Front, HERE, publish, set_backends, set_slots},
    world::{
        BACKEND_PORT, CLIENT_PORT, SERVICE_PORT, World, assert_counts, backend, for_both_families,
        leaves, local_pod, node_addr, outsider, remote_pod, vip,
    },
};

for_both_families!(
    an_association_is_forwarded_and_answered,
    without_a_checksum_none_is_made,
    a_port_that_stays_alters_no_checksum,
    an_association_stays_when_its_backend_leaves,
    a_new_association_moves_on_when_its_backend_never_answered,
    a_beginning_is_refused_under_its_own_tag,
    anything_else_is_refused_under_the_tag_that_it_bore,
    what_must_not_be_answered_is_not,
    the_node_itself_is_refused_by_the_hosts_device,
    a_packet_without_a_chunk_is_not_answered,
    a_size_is_told_as_for_any_protocol,
);

const TAG: u32 = 0x1122_3344;
const INITIATE_TAG: u32 = 0xaabb_ccdd;
const DATA: u8 = 0;

/// An INIT chunk (RFC 9260 section 3.3.2): tag, window, streams out and in, first TSN.
fn init() -> Vec<u8> {
    let mut chunk = vec![1, 0, 0, 20];
    chunk.extend(INITIATE_TAG.to_be_bytes());
    chunk.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    chunk
}

/// Any other chunk, with `len` bytes of value.
fn chunk(kind: u8, len: u8) -> Vec<u8> {
    let mut chunk = vec![kind, 3, 0, 4 + len];
    chunk.extend((0..len).map(|n| n.wrapping_mul(37)));
    chunk
}

/// A service with a remote endpoint, or with a local one before it.
fn served<A: Addr>(ids: &[u8]) -> World<A> {
    let world = World::<A>::new();
    set_backends(&world);
    serve(&world, 1, ids);
    world
}

fn serve<A: Addr>(world: &World<A>, version: u32, ids: &[u8]) {
    set_slots(world, 1, ids);
    let service = lb_common::abi::Service {
        version,
        cluster: SlotRange {
            base: 1,
            count: u32::try_from(ids.len()).expect("few"),
        },
        ..cell().service::<A>()
    };
    publish(world, vip(1), service);
}

fn cell() -> Cell {
    Cell {
        front: Front::ClusterIp,
        from: From::PodDevice,
        endpoints: Endpoints::HereAndThere,
        external_local: false,
        internal_local: false,
        knows_pods: true,
        mode: 0,
        prefers: false,
    }
}

/// Runs a packet and asserts what is sent by which way, and everything that was counted.
#[track_caller]
fn becomes<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    packet: &[u8],
    expected: &[u8],
    via: Via,
    counts: &[Reason],
) {
    let mut after = FakePacket::new(packet.to_vec());
    let verdict = program.run(&mut after).verdict;
    assert_eq!(verdict, Verdict::Send(via));
    assert_counts(&world.node, counts);
    assert_eq!(after.bytes(), expected);
    assert!(after.device_sum_valid());
}

fn to_service<A: Addr>(client: A, chunks: &[u8]) -> Vec<u8> {
    sctp((client, CLIENT_PORT), (vip(1), SERVICE_PORT), TAG, chunks)
}

/// There and back, twice each way.
fn exchange<A: Addr>(chunks: &[u8], back: &[u8]) {
    let world = served::<A>(&[2]);
    let (pod, out): (A, A) = (local_pod(9), outsider(1));
    let server = (remote_pod(2), BACKEND_PORT);
    for (client, seen, program) in [(pod, pod, world.pod()), (out, node_addr(), world.uplink())] {
        let there = sctp((seen, CLIENT_PORT), server, TAG, chunks);
        let home = sctp((vip(1), SERVICE_PORT), (client, CLIENT_PORT), 7, back);
        let answer = sctp(server, (seen, CLIENT_PORT), 7, back);
        let (sent, got) = (routed(&there), routed(&home));
        let packet = to_service(client, chunks);
        let counts = &[Resolved, Open];
        becomes(&world, program, &packet, &sent, Kernel, counts);
        let counts = &[Resolved, HitReply];
        becomes(&world, world.uplink(), &answer, &got, Kernel, counts);
        let hit = &[HitOriginal];
        becomes(&world, program, &packet, &sent, Neighbour, hit);
        let hit = &[HitReply];
        becomes(&world, world.uplink(), &answer, &got, Neighbour, hit);
    }
}

fn an_association_is_forwarded_and_answered<A: Addr>() {
    exchange::<A>(&init(), &chunk(2, 24));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn any_payload_keeps_a_right_checksum_v4(
        there in prop::collection::vec(any::<u8>(), 0..1_400),
        back in prop::collection::vec(any::<u8>(), 0..1_400),
    ) {
        exchange::<Addr4>(&[init(), there].concat(), &[chunk(2, 24), back].concat());
    }

    #[test]
    fn any_payload_keeps_a_right_checksum_v6(
        there in prop::collection::vec(any::<u8>(), 0..1_400),
        back in prop::collection::vec(any::<u8>(), 0..1_400),
    ) {
        exchange::<Addr6>(&[init(), there].concat(), &[chunk(2, 24), back].concat());
    }
}

/// Zero stands for a checksum that the device has yet to make, or that both ends do without (RFC 9653).
fn without_a_checksum_none_is_made<A: Addr>() {
    let world = served::<A>(&[2]);
    let at = if size_of::<A>() == 4 { 28 } else { 48 };
    let unchecked = |mut packet: Vec<u8>| {
        packet[at..at + 4].fill(0);
        packet
    };
    let client = (local_pod::<A>(9), CLIENT_PORT);
    let server = (remote_pod(2), BACKEND_PORT);
    let packet = unchecked(to_service(local_pod::<A>(9), &init()));
    let there = unchecked(routed(&sctp(client, server, TAG, &init())));
    let counts = &[Resolved, Open];
    becomes(&world, world.pod(), &packet, &there, Kernel, counts);
    let answer = unchecked(sctp(server, client, 7, &chunk(2, 24)));
    let home = sctp((vip(1), SERVICE_PORT), client, 7, &chunk(2, 24));
    let home = unchecked(routed(&home));
    let counts = &[Resolved, HitReply];
    becomes(&world, world.uplink(), &answer, &home, Kernel, counts);
}

fn a_port_that_stays_alters_no_checksum<A: Addr>() {
    let world = served::<A>(&[2]);
    let same = lb_common::abi::Backend {
        port: SERVICE_PORT,
        ..backend(remote_pod(2), 0)
    };
    world.node.set_backend(2, Some(same));
    let client = (local_pod::<A>(9), CLIENT_PORT);
    let there = sctp(client, (remote_pod(2), SERVICE_PORT), TAG, &init());
    let packet = to_service(local_pod::<A>(9), &init());
    let counts = &[Resolved, Open];
    let sent = routed(&there);
    becomes(&world, world.pod(), &packet, &sent, Kernel, counts);
}

/// Another endpoint knows nothing of it ("TCP and SCTP untouched", row 58 of the table of features).
fn an_association_stays_when_its_backend_leaves<A: Addr>() {
    let world = served::<A>(&[2]);
    let (pod, client) = (local_pod::<A>(9), (local_pod::<A>(9), CLIENT_PORT));
    let server = (remote_pod(2), BACKEND_PORT);
    let sent = routed(&sctp(client, server, TAG, &init()));
    let packet = to_service(pod, &init());
    let counts = &[Resolved, Open];
    becomes(&world, world.pod(), &packet, &sent, Kernel, counts);
    world.node.set_backend(2, None);
    serve(&world, 2, &[HERE]);
    for kind in [DATA, 3, 4, 5, 7, 10] {
        let sent = routed(&sctp(client, server, TAG, &chunk(kind, 16)));
        let packet = to_service(pod, &chunk(kind, 16));
        let hit = &[HitOriginal];
        becomes(&world, world.pod(), &packet, &sent, Neighbour, hit);
    }
}

fn a_new_association_moves_on_when_its_backend_never_answered<A: Addr>() {
    let world = served::<A>(&[2]);
    let (pod, client) = (local_pod::<A>(9), (local_pod::<A>(9), CLIENT_PORT));
    let packet = to_service(pod, &init());
    let sent = routed(&sctp(client, (remote_pod(2), BACKEND_PORT), TAG, &init()));
    let counts = &[Resolved, Open];
    becomes(&world, world.pod(), &packet, &sent, Kernel, counts);
    // While it serves, the retransmit of a beginning goes where the beginning went.
    serve(&world, 2, &[HERE]);
    let hit = &[HitOriginal];
    becomes(&world, world.pod(), &packet, &sent, Neighbour, hit);
    // Nobody has answered, and nobody will.
    world.node.set_backend(2, None);
    let sent = routed(&sctp(client, (local_pod(1), BACKEND_PORT), TAG, &init()));
    let counts = &[Resolved, Reopened, Open];
    becomes(&world, world.pod(), &packet, &sent, Kernel, counts);
}

/// The ABORT (RFC 9260 sections 3.3.7 and 8.4) from the service to a client.
fn abort<A: Addr>(client: A, tag: u32, flags: u8) -> Vec<u8> {
    let (from, to) = ((vip(1), SERVICE_PORT), (client, CLIENT_PORT));
    sctp(from, to, tag, &[6, flags, 0, 4])
}

#[track_caller]
fn is_aborted<A: Addr>(world: &World<A>, packet: &[u8], expected: &[u8]) {
    let mut after = FakePacket::new(packet.to_vec());
    assert_eq!(world.pod().run(&mut after).verdict, Verdict::Back);
    assert_counts(&world.node, &[RejectNoBackend, Answered]);
    assert_eq!(after.bytes(), expected);
}

fn a_beginning_is_refused_under_its_own_tag<A: Addr>() {
    let world = served::<A>(&[]);
    let pod = local_pod::<A>(9);
    // An INIT bears no tag itself; that it should alters nothing.
    for tag in [0, TAG] {
        let from = (pod, CLIENT_PORT);
        let packet = sctp(from, (vip(1), SERVICE_PORT), tag, &init());
        is_aborted(&world, &packet, &abort(pod, INITIATE_TAG, 0));
    }
}

fn anything_else_is_refused_under_the_tag_that_it_bore<A: Addr>() {
    let world = served::<A>(&[]);
    let pod = local_pod::<A>(9);
    for kind in [DATA, 2, 3, 4, 5, 7, 8, 9, 10, 12, 192] {
        let mut packet = FakePacket::new(to_service(pod, &chunk(kind, 24)));
        assert_eq!(world.pod().run(&mut packet).verdict, Verdict::Back);
        assert_counts(&world.node, &[RejectNoFlow, Answered]);
        assert_eq!(packet.bytes(), abort(pod, TAG, 1));
    }
}

/// "To avoid two ends that answer each other for ever" (RFC 9260 section 8.4); nor does it take from what others are told.
fn what_must_not_be_answered_is_not<A: Addr>() {
    let world = served::<A>(&[]);
    let pod = local_pod::<A>(9);
    for kind in [6, 11, 14] {
        for len in [0, 24] {
            for _ in 0..1_000 {
                let packet = FakePacket::new(to_service(pod, &chunk(kind, len)));
                let counts = &[RejectNoFlow];
                leaves(&world.node, world.pod(), &packet, Verdict::Drop, counts);
            }
        }
    }
    is_aborted(
        &world,
        &to_service(pod, &init()),
        &abort(pod, INITIATE_TAG, 0),
    );
}

fn the_node_itself_is_refused_by_the_hosts_device<A: Addr>() {
    let world = served::<A>(&[]);
    for program in [world.host(), world.lo()] {
        let packet = to_service(node_addr::<A>(), &init());
        let expected = abort(node_addr::<A>(), INITIATE_TAG, 0);
        let counts = &[RejectNoBackend, Answered];
        becomes(&world, program, &packet, &expected, Host, counts);
    }
}

fn a_packet_without_a_chunk_is_not_answered<A: Addr>() {
    let world = served::<A>(&[]);
    let packet = FakePacket::new(to_service(local_pod::<A>(9), &[]));
    leaves(
        &world.node,
        world.pod(),
        &packet,
        Verdict::Pass,
        &[PassMalformed],
    );
}

fn a_size_is_told_as_for_any_protocol<A: Addr>() {
    let world = served::<A>(&[2]);
    let value = [init(), vec![5; 1_500]].concat();
    let packet = FakePacket::new(to_service(local_pod::<A>(9), &value));
    let ends = (vip::<A>(1), local_pod(9));
    let expected = error_about(&packet, IcmpError::TooBig(1_500), ends);
    let mut after = packet;
    assert_eq!(world.pod().run(&mut after).verdict, Verdict::Back);
    assert_counts(&world.node, &[Reason::DropTooBig, Answered]);
    assert_eq!(after.bytes(), expected);
}
