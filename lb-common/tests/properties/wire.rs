//! Packets with every field drawn at random, byte by byte from the RFCs, and what their checksums should be,
//! calculated in full and in the plainest way.

use lb_common::{
    fake::FakePacket,
    net::{
        addr::{Addr, Family},
        ip::proto,
    },
};
use proptest::{collection::vec, prelude::*};

/// An address and a port.
pub(crate) type End<A> = (A, u16);

/// What stands in a packet besides its ends.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) l4: L4,
    pub(crate) ttl: u8,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// IPv6: twenty bits.
    pub(crate) flow_label: u32,
    pub(crate) id: u16,
    pub(crate) may_fragment: bool,
    /// IPv4: whole words.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// What follows the packet in its frame.
    pub(crate) padding: Vec<u8>,
    /// What is added to the right checksums, of the IP header and of the rest.
    pub(crate) damage: (u16, u16),
}

impl Shape {
    /// Nothing special but what it carries.
    pub(crate) fn plain(l4: L4) -> Self {
        Self {
            l4,
            ttl: 64,
            tos: 0,
            flow_label: 0,
            id: 1,
            may_fragment: false,
            options: Vec::new(),
            payload: b"fulcrum".to_vec(),
            padding: Vec::new(),
            damage: (0, 0),
        }
    }
}

/// A transport header.
#[derive(Clone, Debug)]
pub(crate) enum L4 {
    Tcp {
        flags: u8,
        numbers: [u32; 2],
        window: [u16; 2],
        options: Vec<u8>,
    },
    Udp {
        has_checksum: bool,
    },
    Sctp {
        tag: u32,
        chunk: u8,
    },
}

impl L4 {
    pub(crate) fn protocol(&self) -> u8 {
        match self {
            Self::Tcp { .. } => proto::TCP,
            Self::Udp { .. } => proto::UDP,
            Self::Sctp { .. } => proto::SCTP,
        }
    }
}

/// Any bytes in whole words, as options are.
fn words(most: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<[u8; 4]>(), 0..=most).prop_map(|words| words.concat())
}

/// A transport header of one protocol that opens a connection, or that follows later.
fn l4(protocol: u8, opens: bool) -> BoxedStrategy<L4> {
    match protocol {
        proto::TCP => (any::<u8>(), any::<[u32; 2]>(), any::<[u16; 2]>(), words(10))
            .prop_map(move |(flags, numbers, window, options)| L4::Tcp {
                // SYN without RST and ACK; or ACK without SYN.
                flags: if opens {
                    flags & !0x14 | 0x02
                } else {
                    flags & !0x02 | 0x10
                },
                numbers,
                window,
                options,
            })
            .boxed(),
        proto::UDP => any::<bool>()
            .prop_map(|has_checksum| L4::Udp { has_checksum })
            .boxed(),
        // INIT; or DATA, SACK, HEARTBEAT and its answer.
        _ => (any::<u32>(), prop::sample::select(vec![0_u8, 3, 4, 5]))
            .prop_map(move |(tag, chunk)| L4::Sctp {
                tag: if opens { 0 } else { tag },
                chunk: if opens { 1 } else { chunk },
            })
            .boxed(),
    }
}

/// A packet of one protocol, whatever its ends.
pub(crate) fn shape(protocol: u8, opens: bool) -> impl Strategy<Value = Shape> {
    let damage = prop_oneof![
        3 => Just((0, 0)),
        1 => (0_u16..0xffff, Just(0)),
        1 => (Just(0), 0_u16..0xffff),
    ];
    (
        l4(protocol, opens),
        2_u8..,
        any::<u8>(),
        0_u32..1 << 20,
        (any::<u16>(), any::<bool>()),
        words(10),
        (vec(any::<u8>(), 0..1_300), vec(any::<u8>(), 0..20)),
        damage,
    )
        .prop_map(
            |(
                l4,
                ttl,
                tos,
                flow_label,
                (id, may_fragment),
                options,
                (payload, padding),
                damage,
            )| Shape {
                l4,
                ttl,
                tos,
                flow_label,
                id,
                may_fragment,
                options,
                payload,
                padding,
                damage,
            },
        )
}

/// The packet of this shape between these ends.
pub(crate) fn packet<A: Addr>(
    shape: &Shape,
    (src, sport): End<A>,
    (dst, dport): End<A>,
) -> FakePacket {
    let mut segment = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    segment.extend(rest_of(shape));
    let mut bytes = ip_header(shape, (src, dst), segment.len());
    let l4 = bytes.len();
    bytes.extend(segment);
    sign(&mut bytes, l4, shape);
    bytes.extend(&shape.padding);
    FakePacket::new(bytes)
}

/// The transport header behind the ports, its checksum zero, and the payload.
fn rest_of(shape: &Shape) -> Vec<u8> {
    let mut rest = Vec::new();
    match &shape.l4 {
        L4::Tcp {
            flags,
            numbers: [seq, ack],
            window: [window, urgent],
            options,
        } => {
            rest.extend(seq.to_be_bytes());
            rest.extend(ack.to_be_bytes());
            rest.extend([in_words(5, options) << 4, *flags]);
            rest.extend(window.to_be_bytes());
            rest.extend([0, 0]);
            rest.extend(urgent.to_be_bytes());
            rest.extend(options);
        }
        L4::Udp { .. } => {
            rest.extend(length(8 + shape.payload.len()));
            rest.extend([0, 0]);
        }
        L4::Sctp { tag, chunk } => {
            rest.extend(tag.to_be_bytes());
            rest.extend([0; 4]);
            rest.extend([*chunk, 0]);
            rest.extend(length(4 + shape.payload.len()));
        }
    }
    rest.extend(&shape.payload);
    rest
}

/// So many words and these options.
fn in_words(fixed: u8, options: &[u8]) -> u8 {
    fixed + u8::try_from(options.len() / 4).expect("few")
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("short").to_be_bytes()
}

/// RFC 791 section 3.1, RFC 8200 section 3.
fn ip_header<A: Addr>(shape: &Shape, ends: (A, A), segment: usize) -> Vec<u8> {
    let addresses = [octets(ends.0), octets(ends.1)].concat();
    let mut header = Vec::new();
    if A::FAMILY == Family::V6 {
        let first = 6 << 28 | u32::from(shape.tos) << 20 | shape.flow_label;
        header.extend(first.to_be_bytes());
        header.extend(length(segment));
        header.extend([shape.l4.protocol(), shape.ttl]);
        header.extend(addresses);
        return header;
    }
    header.extend([0x40 | in_words(5, &shape.options), shape.tos]);
    header.extend(length(20 + shape.options.len() + segment));
    header.extend(shape.id.to_be_bytes());
    header.extend([if shape.may_fragment { 0 } else { 0x40 }, 0]);
    header.extend([shape.ttl, shape.l4.protocol(), 0, 0]);
    header.extend(addresses);
    header.extend(&shape.options);
    header
}

/// Writes the checksums, with the damage that the shape asks for.
fn sign(bytes: &mut [u8], l4: usize, shape: &Shape) {
    if bytes[0] >> 4 == 4 {
        let check = damaged(!sum(&[&bytes[..l4]]), shape.damage.0);
        bytes[10..12].copy_from_slice(&check);
    }
    let at = l4 + check_at(shape.l4.protocol());
    match shape.l4 {
        L4::Sctp { .. } => {
            let check = crc32c(&bytes[l4..]) ^ u32::from(shape.damage.1);
            bytes[at..at + 4].copy_from_slice(&check.to_le_bytes());
        }
        L4::Udp {
            has_checksum: false,
        } => {}
        _ => {
            let mut check = damaged(!transport_sum(bytes, l4), shape.damage.1);
            if check == [0, 0] && shape.l4.protocol() == proto::UDP {
                check = [0xff; 2];
            }
            bytes[at..at + 2].copy_from_slice(&check);
        }
    }
}

fn damaged(check: u16, damage: u16) -> [u8; 2] {
    let sum = u32::from(check) + u32::from(damage);
    ((sum & 0xffff) as u16 + (sum >> 16) as u16).to_be_bytes()
}

fn check_at(protocol: u8) -> usize {
    match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => 8,
    }
}

pub(crate) fn octets<A: Addr>(addr: A) -> Vec<u8> {
    addr.words()[..size_of::<A>() / 4]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

/// The one's complement sum of RFC 1071, folded.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// The sum over pseudo header and segment.
fn transport_sum(bytes: &[u8], l4: usize) -> u16 {
    let (addresses, protocol, end) = match bytes[0] >> 4 {
        4 => (&bytes[12..20], bytes[9], total_len(bytes)),
        _ => (&bytes[8..40], bytes[6], total_len(bytes)),
    };
    let len = u32::try_from(end - l4).expect("short").to_be_bytes();
    sum(&[addresses, &len, &[0, protocol], &bytes[l4..end]])
}

/// Bytes of the packet itself, without what pads its frame.
fn total_len(bytes: &[u8]) -> usize {
    match bytes[0] >> 4 {
        4 => usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        _ => 40 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]])),
    }
}

/// `CRC32c`, bit by bit (RFC 9260 appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// What of a packet says who talks to whom, how wrong its checksums are, and all the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen<A> {
    pub(crate) src: End<A>,
    pub(crate) dst: End<A>,
    pub(crate) ttl: u8,
    /// Of the IPv4 header and of the transport header, by full recomputation: zero if right.
    pub(crate) errors: (u32, Option<u32>),
    /// Every byte but addresses, ports, TTL and checksums, which are zero.
    pub(crate) rest: Vec<u8>,
}

/// Takes a packet apart that has ports.
pub(crate) fn seen<A: Addr>(packet: &FakePacket) -> Seen<A> {
    let bytes = packet.bytes();
    let is_v4 = A::FAMILY == Family::V4;
    let (l4, protocol, ttl_at, ends) = if is_v4 {
        (usize::from(bytes[0] & 0x0f) * 4, bytes[9], 8, 12..20)
    } else {
        (40, bytes[6], 7, 8..40)
    };
    let segment = &bytes[l4..total_len(bytes)];
    let check_at = check_at(protocol);
    let check_len = if protocol == proto::SCTP { 4 } else { 2 };
    let check = &segment[check_at..check_at + check_len];
    let l4_error = match protocol {
        proto::SCTP => {
            let mut blank = segment.to_vec();
            blank[8..12].fill(0);
            let there = u32::from_le_bytes([check[0], check[1], check[2], check[3]]);
            Some(there ^ crc32c(&blank))
        }
        proto::UDP if check == [0, 0] => None,
        _ => Some(u32::from(transport_sum(bytes, l4)) % 0xffff),
    };
    let mut rest = bytes.to_vec();
    rest[ttl_at] = 0;
    rest[ends.clone()].fill(0);
    rest[l4..l4 + 4].fill(0);
    rest[l4 + check_at..l4 + check_at + check_len].fill(0);
    if is_v4 {
        rest[10..12].fill(0);
    }
    let ip_error = if is_v4 {
        u32::from(sum(&[&bytes[..l4]])) % 0xffff
    } else {
        0
    };
    let (src, dst) = bytes[ends].split_at(size_of::<A>());
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    Seen {
        src: (address(src), port(0)),
        dst: (address(dst), port(2)),
        ttl: bytes[ttl_at],
        errors: (ip_error, l4_error),
        rest,
    }
}

fn address<A: Addr>(octets: &[u8]) -> A {
    let mut words = [0; 4];
    for (word, octets) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
    }
    A::from_words(words)
}
