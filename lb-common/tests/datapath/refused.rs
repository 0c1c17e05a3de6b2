//! What a client is told whom nobody serves: whole packets, built a second time from the RFCs.

use lb_common::{
    abi::{
        Reason::{self, AnswerLimited, Answered, RejectNoBackend, RejectNotServed},
        Service, ServiceKey, place, service_flags,
    },
    datapath::{Verdict, Via},
    fake::{FakePacket, FakeTables, PacketSpec, error_about},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        icmp::IcmpError,
    },
};

use crate::{
    made::{Segment, tcp},
    truth::{Cell, Endpoints, From, Front},
    world::{
        CLIENT_PORT, SERVICE_PORT, UDP, World, addr, assert_counts, for_both_families, leaves,
        local_pod, node_addr, outsider, request, vip,
    },
};

for_both_families!(
    a_syn_is_reset_behind_all_that_it_numbers,
    what_acknowledges_is_reset_at_what_it_acknowledges,
    what_does_not_acknowledge_is_reset_behind_it,
    a_reset_is_never_answered_and_costs_no_answer,
    options_are_no_payload,
    what_pads_a_frame_is_no_payload,
    a_packet_of_many_segments_is_answered_as_one,
    a_datagram_is_answered_by_an_error_from_where_it_was_sent,
    every_kind_of_address_answers_every_kind_of_client,
    nobody_is_told_at_an_address_of_many_or_none,
    resets_and_errors_are_bounded_apart,
);

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const PORTS: (u16, u16) = (CLIENT_PORT, SERVICE_PORT);

/// A service address that nobody serves any more, and whose other ports nobody ever did.
fn unserved<A: Addr>() -> World<A> {
    let world = World::<A>::new();
    world
        .node
        .set_place(addr(96, 0), World::<A>::net_bits(), place::SERVICES);
    let other = Service {
        id: 1_000,
        version: 1,
        flags: service_flags::ANY_PORT,
        ..Service::default()
    };
    world
        .node
        .set_service(ServiceKey::new(vip(1), 0, 0), Some(other));
    world
}

/// The reset that answers what was sent to `dialled`.
fn reset<A: Addr>((dialled, client): (A, A), ports: (u16, u16), numbers: (u32, u32)) -> FakePacket {
    let flags = if numbers.0 == 0 { RST | ACK } else { RST };
    let segment = Segment {
        ports: (ports.1, ports.0),
        seq: numbers.0,
        ack: numbers.1,
        flags,
        ..Segment::default()
    };
    tcp(dialled, client, &segment)
}

/// Runs a packet and asserts what its sender gets, by which way, and everything that was counted.
#[track_caller]
fn told<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    packet: &FakePacket,
    expected: &[u8],
    (verdict, reason): (Verdict, Reason),
) {
    let mut after = packet.clone();
    assert_eq!(program.run(&mut after).verdict, verdict);
    assert_counts(&world.node, &[reason, Answered]);
    assert_eq!(after.bytes(), expected);
    assert!(after.device_sum_valid());
}

/// Asserts the reset of a segment that a pod sends to port 80, which nobody serves, or to port 81, which nobody has.
#[track_caller]
fn is_reset<A: Addr>(world: &World<A>, segment: &Segment, numbers: (u32, u32)) {
    let packet = tcp::<A>(local_pod(9), vip(1), segment);
    let expected = reset((vip::<A>(1), local_pod(9)), segment.ports, numbers);
    let reason = match segment.ports.1 {
        SERVICE_PORT => RejectNoBackend,
        _ => RejectNotServed,
    };
    let how = (Verdict::Back, reason);
    told(world, world.pod(), &packet, expected.bytes(), how);
}

fn a_syn_is_reset_behind_all_that_it_numbers<A: Addr>() {
    let world = unserved::<A>();
    for seq in [0, 1, 0x1234_5678, u32::MAX - 100, u32::MAX - 1, u32::MAX] {
        for payload in [0, 1, 2, 3, 100, 1_400] {
            for (flags, numbered) in [(SYN, 1), (SYN | PSH, 1), (SYN | 0xc0, 1), (SYN | FIN, 2)] {
                let segment = Segment {
                    ports: PORTS,
                    seq,
                    flags,
                    // Means nothing where nothing is acknowledged.
                    ack: 77,
                    payload: vec![7; payload],
                    ..Segment::default()
                };
                let len = u32::try_from(payload).expect("short");
                let next = seq.wrapping_add(len).wrapping_add(numbered);
                is_reset(&world, &segment, (0, next));
            }
        }
    }
}

/// A port that no service has: there is nothing to open a connection to, and none can be in the middle.
fn what_acknowledges_is_reset_at_what_it_acknowledges<A: Addr>() {
    let world = unserved::<A>();
    for flags in [ACK, ACK | PSH, ACK | FIN, ACK | SYN, ACK | SYN | FIN] {
        for ack in [1, 0x8000_0000, u32::MAX] {
            for payload in [0, 1, 500] {
                let segment = Segment {
                    ports: (CLIENT_PORT, 81),
                    seq: 5,
                    ack,
                    flags,
                    payload: vec![7; payload],
                    ..Segment::default()
                };
                is_reset(&world, &segment, (ack, 0));
            }
        }
    }
}

fn what_does_not_acknowledge_is_reset_behind_it<A: Addr>() {
    let world = unserved::<A>();
    for (flags, numbered) in [(0, 0), (PSH, 0), (FIN, 1), (SYN, 1), (SYN | FIN, 2)] {
        for seq in [9, u32::MAX] {
            let segment = Segment {
                ports: (CLIENT_PORT, 81),
                seq,
                flags,
                payload: vec![7; 10],
                ..Segment::default()
            };
            let next = seq.wrapping_add(10 + numbered);
            is_reset(&world, &segment, (0, next));
        }
    }
}

fn a_reset_is_never_answered_and_costs_no_answer<A: Addr>() {
    let world = unserved::<A>();
    for flags in (0..=u8::MAX).filter(|flags| flags & RST != 0) {
        for _ in 0..40 {
            let segment = Segment {
                ports: (CLIENT_PORT, 81),
                flags,
                ..Segment::default()
            };
            let packet = tcp::<A>(local_pod(9), vip(1), &segment);
            let counts = &[RejectNotServed];
            leaves(&world.node, world.pod(), &packet, Verdict::Drop, counts);
        }
    }
    let syn = Segment {
        ports: PORTS,
        flags: SYN,
        ..Segment::default()
    };
    is_reset(&world, &syn, (0, 1));
}

fn options_are_no_payload<A: Addr>() {
    let world = unserved::<A>();
    for words in 0..=10 {
        let segment = Segment {
            ports: PORTS,
            seq: 1_000,
            flags: SYN,
            options: vec![1; words * 4],
            payload: vec![7; 3],
            ..Segment::default()
        };
        is_reset(&world, &segment, (0, 1_004));
    }
}

/// Neither are those of IPv4; the answer has none.
#[test]
fn options_of_the_ip_header_are_no_payload() {
    let world = unserved::<Addr4>();
    for words in 0..=10_usize {
        let packet = PacketSpec {
            options: vec![1; words * 4],
            ..request::<Addr4>(local_pod(9), crate::world::SYN)
        };
        // Its sequence number is 1, its payload seven bytes long.
        let expected = reset((vip::<Addr4>(1), local_pod(9)), PORTS, (0, 9));
        let how = (Verdict::Back, RejectNoBackend);
        let packet = packet.packet();
        told(&world, world.pod(), &packet, expected.bytes(), how);
    }
}

fn what_pads_a_frame_is_no_payload<A: Addr>() {
    let world = unserved::<A>();
    let syn = Segment {
        ports: PORTS,
        seq: 1_000,
        flags: SYN,
        ..Segment::default()
    };
    let mut bytes = tcp::<A>(local_pod(9), vip(1), &syn).bytes().to_vec();
    bytes.extend([0; 6]);
    let expected = reset((vip::<A>(1), local_pod(9)), PORTS, (0, 1_001));
    let how = (Verdict::Back, RejectNoBackend);
    let packet = FakePacket::new(bytes);
    told(&world, world.pod(), &packet, expected.bytes(), how);
}

fn a_packet_of_many_segments_is_answered_as_one<A: Addr>() {
    let world = unserved::<A>();
    for len in [60_000, 100_000] {
        let payload = vec![7; len];
        let segment = Segment {
            ports: PORTS,
            seq: 1_000,
            flags: SYN,
            payload,
            ..Segment::default()
        };
        let packet = tcp::<A>(local_pod(9), vip(1), &segment).cut_into(1_400);
        let next = 1_001 + u32::try_from(len).expect("short");
        let expected = reset((vip::<A>(1), local_pod(9)), PORTS, (0, next));
        let how = (Verdict::Back, RejectNoBackend);
        told(&world, world.pod(), &packet, expected.bytes(), how);
    }
}

fn a_datagram_is_answered_by_an_error_from_where_it_was_sent<A: Addr>() {
    let world = unserved::<A>();
    let headers = if A::FAMILY == Family::V4 { 28 } else { 48 };
    let quotes = if A::FAMILY == Family::V4 { 548 } else { 1_232 };
    for port in [SERVICE_PORT, 81] {
        for payload in [0, 1, 2, 3, 4, quotes - headers - 1, quotes - headers, 1_400] {
            let datagram = PacketSpec {
                dport: port,
                payload: vec![9; payload],
                ..request::<A>(local_pod(9), UDP)
            };
            let packet = datagram.packet();
            let ends = (vip::<A>(1), local_pod(9));
            let expected = error_about(&packet, IcmpError::PortUnreachable, ends);
            let reason = if port == 81 {
                RejectNotServed
            } else {
                RejectNoBackend
            };
            let how = (Verdict::Back, reason);
            told(&world, world.pod(), &packet, &expected, how);
            world.wait(4);
        }
    }
}

fn every_kind_of_address_answers_every_kind_of_client<A: Addr>() {
    for front in Front::ALL {
        for from in From::ALL {
            let cell = Cell {
                front,
                from,
                endpoints: Endpoints::Nowhere,
                external_local: false,
                internal_local: false,
                knows_pods: true,
                mode: 0,
                prefers: false,
            };
            let (world, ends) = (cell.world::<A>(), (front.addr::<A>(), from.addr::<A>()));
            let verdict = match from {
                From::Host | From::Loopback => Verdict::Send(Via::Host),
                _ => Verdict::Back,
            };
            let how = (verdict, RejectNoBackend);
            let syn = cell.dials::<A>(CLIENT_PORT, crate::world::SYN).packet();
            let expected = reset(ends, PORTS, (0, 9));
            told(&world, from.program(&world), &syn, expected.bytes(), how);
            let query = cell.dials::<A>(CLIENT_PORT, UDP).packet();
            let expected = error_about(&query, IcmpError::PortUnreachable, ends);
            told(&world, from.program(&world), &query, &expected, how);
        }
    }
}

fn nobody_is_told_at_an_address_of_many_or_none<A: Addr>() {
    let world = unserved::<A>();
    let sources: &[&str] = match A::FAMILY {
        Family::V4 => &["0.0.0.0", "224.0.0.1", "239.1.2.3", "255.255.255.255"],
        Family::V6 => &["::", "ff02::1", "ff0e::1234"],
    };
    for source in sources {
        let source = A::from_ip(source.parse().expect("literal")).expect("its family");
        for transport in [crate::world::SYN, UDP] {
            for program in [world.pod(), world.uplink(), world.host(), world.lo()] {
                let packet = request::<A>(source, transport).packet();
                let counts = &[RejectNoBackend];
                leaves(&world.node, program, &packet, Verdict::Drop, counts);
            }
        }
    }
}

/// Asserts that exactly so many packets are answered in one span, and the next one is not.
fn answered_in_a_span<A: Addr>(world: &World<A>, packet: &FakePacket, most: u32) {
    for _ in 0..most {
        let verdict = world.uplink().run(&mut packet.clone()).verdict;
        assert_eq!(verdict, Verdict::Back);
    }
    let counts = world.node.take_counts();
    assert_eq!(counts[&Answered], u64::from(most));
    let limited = &[RejectNoBackend, AnswerLimited];
    leaves(&world.node, world.uplink(), packet, Verdict::Drop, limited);
}

fn resets_and_errors_are_bounded_apart<A: Addr>() {
    let world = unserved::<A>();
    let query = request::<A>(outsider(1), UDP).packet();
    let syn = request::<A>(outsider(1), crate::world::SYN).packet();
    for _ in 0..2 {
        answered_in_a_span(&world, &query, 640);
        answered_in_a_span(&world, &syn, 4_096);
        let limited = &[RejectNoBackend, AnswerLimited];
        leaves(&world.node, world.uplink(), &query, Verdict::Drop, limited);
        world.wait(4);
    }
}

/// The two families' budgets are two: the work areas are.
#[test]
fn a_node_without_an_address_refuses_all_the_same() {
    let config = lb_common::abi::NodeConfig {
        addr4: Addr4::default(),
        addr6: Addr6::default(),
        ..World::<Addr6>::config()
    };
    let world = World::<Addr6>::with_config(config);
    let packet = request::<Addr6>(node_addr(), UDP).packet();
    let expected = error_about(
        &packet,
        IcmpError::PortUnreachable,
        (vip::<Addr6>(1), node_addr()),
    );
    let how = (Verdict::Send(Via::Host), RejectNoBackend);
    told(&world, world.host(), &packet, &expected, how);
}
