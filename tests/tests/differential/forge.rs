//! Packets of every kind, well formed at first, and what can be wrong with them.

use lb_common::net::{
    addr::{Addr, Family},
    ip::proto,
};

use crate::luck::Luck;

/// From and to, addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends<A> {
    pub(crate) src: (A, u16),
    pub(crate) dst: (A, u16),
}

impl<A: Copy> Ends<A> {
    pub(crate) fn turned(self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
        }
    }
}

const IPV6_FRAGMENT: u8 = 44;

/// A whole packet: its numbers, options and payload are random, its checksums right.
pub(crate) fn packet<A: Addr>(luck: &mut Luck, ends: Ends<A>, protocol: u8, flags: u8) -> Vec<u8> {
    let segment = segment(luck, ends, protocol, flags);
    let options = match luck.below(8) {
        0 => 4 * luck.below(11),
        _ => 0,
    };
    let ttl = match luck.below(12) {
        0 => luck.pick(&[0, 1, 2, 255]),
        _ => 64,
    };
    wrap(luck, ends, (protocol, ttl, options), &segment)
}

/// A transport segment with a right checksum.
fn segment<A: Addr>(luck: &mut Luck, ends: Ends<A>, protocol: u8, flags: u8) -> Vec<u8> {
    let mut segment = [ends.src.1.to_be_bytes(), ends.dst.1.to_be_bytes()].concat();
    let payload = match luck.below(10) {
        0 => 1_200 + luck.below(400),
        _ => luck.below(80),
    };
    match protocol {
        proto::TCP => {
            let words = if luck.once_in(4) { luck.below(11) } else { 0 };
            segment.extend(luck.bytes(8));
            segment.extend([80 + 16 * u8::try_from(words).expect("few"), flags]);
            segment.extend(luck.bytes(2));
            segment.extend([0; 4]);
            segment.extend(luck.bytes(words * 4 + payload));
        }
        proto::UDP => {
            segment.extend(length(8 + payload));
            segment.extend([0; 2]);
            segment.extend(luck.bytes(payload));
        }
        _ => {
            segment.extend(luck.bytes(4));
            segment.extend([0; 4]);
            segment.extend([flags, luck.byte() & 1]);
            segment.extend(length(4 + payload));
            segment.extend(luck.bytes(payload));
        }
    }
    sign(luck, ends, protocol, &mut segment);
    segment
}

fn sign<A: Addr>(luck: &mut Luck, ends: Ends<A>, protocol: u8, segment: &mut [u8]) {
    let check_at = match protocol {
        proto::TCP => 16,
        proto::UDP if luck.once_in(6) => return,
        proto::UDP => 6,
        _ => {
            let check = crc32c(segment).to_le_bytes();
            segment[8..12].copy_from_slice(&check);
            return;
        }
    };
    let check = checksum(&[&pseudo(ends, protocol, segment.len()), segment]);
    segment[check_at..check_at + 2].copy_from_slice(&check);
}

fn pseudo<A: Addr>(ends: Ends<A>, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = [octets(ends.src.0), octets(ends.dst.0)].concat();
    pseudo.extend(u32::try_from(len).expect("short").to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// An IP header, with so many bytes of options (IPv4) or sometimes an extension header (IPv6).
fn wrap<A: Addr>(
    luck: &mut Luck,
    ends: Ends<A>,
    (protocol, ttl, options): (u8, u8, usize),
    payload: &[u8],
) -> Vec<u8> {
    let addresses = [octets(ends.src.0), octets(ends.dst.0)].concat();
    if A::FAMILY == Family::V4 {
        let words = u8::try_from(5 + options / 4).expect("few");
        let total = length(20 + options + payload.len());
        let mut header = vec![0x40 | words, luck.byte(), total[0], total[1]];
        header.extend(luck.bytes(2));
        header.extend([luck.pick(&[0x40, 0]), 0, ttl, protocol, 0, 0]);
        header.extend(addresses);
        header.extend(luck.bytes(options));
        let check = checksum(&[&header]);
        header[10..12].copy_from_slice(&check);
        return [&header, payload].concat();
    }
    // Hop-by-hop or destination options, padded to whole eights.
    let extension = if options == 0 {
        Vec::new()
    } else {
        let len = options.next_multiple_of(8);
        let mut extension = vec![protocol, u8::try_from(len / 8 - 1).expect("short"), 1];
        extension.push(u8::try_from(len - 4).expect("short"));
        extension.resize(len, 0);
        extension
    };
    let next = if extension.is_empty() {
        protocol
    } else {
        luck.pick(&[0, 60])
    };
    let len = length(extension.len() + payload.len());
    let mut header = vec![
        0x60 | luck.byte() & 0x0f,
        luck.byte(),
        luck.byte(),
        luck.byte(),
    ];
    header.extend([len[0], len[1], next, ttl]);
    header.extend(addresses);
    [&header, &extension, payload].concat()
}

/// A fragment of a datagram: of this offset in units of eight bytes, the last one unless `more` follow.
pub(crate) fn fragment<A: Addr>(
    luck: &mut Luck,
    ends: Ends<A>,
    protocol: u8,
    (id, offset, more): (u16, u16, bool),
) -> Vec<u8> {
    let content = if offset == 0 {
        segment(luck, ends, protocol, 0x10)
    } else {
        luck.bytes(64)
    };
    if A::FAMILY == Family::V4 {
        let mut packet = wrap(luck, ends, (protocol, 64, 0), &content);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        let field = offset | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet[10..12].fill(0);
        let check = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&check);
        return packet;
    }
    let field = offset << 3 | u16::from(more);
    let [a, b] = field.to_be_bytes();
    let mut header = vec![protocol, 0, a, b, 0, 0];
    header.extend(id.to_be_bytes());
    wrap(
        luck,
        ends,
        (IPV6_FRAGMENT, 64, 0),
        &[header, content].concat(),
    )
}

/// An ICMP error from `router` to the sender of a packet, which it quotes up to `len` bytes.
pub(crate) fn error<A: Addr>(luck: &mut Luck, router: A, about: &[u8], len: usize) -> Vec<u8> {
    let src: A = address(about);
    let ends = Ends {
        src: (router, 0),
        dst: (src, 0),
    };
    let (kinds, protocol): (&[[u8; 2]], u8) = match A::FAMILY {
        Family::V4 => (&[[3, 4], [11, 0], [3, 3], [3, 1], [12, 0]], 1),
        Family::V6 => (&[[2, 0], [3, 0], [1, 4], [1, 0], [4, 0]], 58),
    };
    let mut icmp = luck.pick(kinds).to_vec();
    icmp.extend([0, 0, 0, 0]);
    icmp.extend(1_280_u16.to_be_bytes());
    icmp.extend(&about[..about.len().min(len)]);
    signed_icmp(luck, ends, protocol, icmp)
}

/// An echo request.
pub(crate) fn echo<A: Addr>(luck: &mut Luck, src: A, dst: A) -> Vec<u8> {
    let ends = Ends {
        src: (src, 0),
        dst: (dst, 0),
    };
    let (kind, protocol) = match A::FAMILY {
        Family::V4 => (8, 1),
        Family::V6 => (128, 58),
    };
    let mut icmp = vec![kind, 0, 0, 0];
    let len = luck.below(100);
    icmp.extend(luck.bytes(4 + len));
    signed_icmp(luck, ends, protocol, icmp)
}

fn signed_icmp<A: Addr>(
    luck: &mut Luck,
    ends: Ends<A>,
    protocol: u8,
    mut icmp: Vec<u8>,
) -> Vec<u8> {
    let pseudo = match A::FAMILY {
        Family::V4 => Vec::new(),
        Family::V6 => pseudo(ends, protocol, icmp.len()),
    };
    let check = checksum(&[&pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&check);
    wrap(luck, ends, (protocol, 64, 0), &icmp)
}

/// Something goes wrong: bytes are lost or added, a header lies, a bit is flipped.
pub(crate) fn spoil(luck: &mut Luck, packet: &mut Vec<u8>) {
    match luck.below(5) {
        0 => packet.truncate(luck.below(packet.len() + 1)),
        1 => {
            let more = luck.below(40);
            packet.extend(luck.bytes(more));
        }
        // Version and header length, total length, payload length, next header, offset, fragment field.
        2 => {
            let at = luck.pick(&[0, 2, 3, 4, 5, 6, 7, 9, 24, 25, 32, 44, 45, 52]);
            let value = luck.byte();
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        _ if packet.is_empty() => {}
        3 => {
            let at = luck.below(packet.len().min(80));
            packet[at] ^= 1 << luck.below(8);
        }
        _ => {
            let at = luck.below(packet.len());
            packet[at] = luck.byte();
        }
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("short").to_be_bytes()
}

/// The source address of a packet.
fn address<A: Addr>(packet: &[u8]) -> A {
    let at = if A::FAMILY == Family::V4 { 12 } else { 8 };
    let octets = packet.get(at..at + size_of::<A>()).unwrap_or_default();
    let mut words = [0; 4];
    for (word, octets) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
    }
    A::from_words(words)
}

fn octets<A: Addr>(addr: A) -> Vec<u8> {
    let words = addr.words();
    let words = words.iter().take(size_of::<A>() / 4);
    words.flat_map(|word| word.to_ne_bytes()).collect()
}

/// The Internet checksum (RFC 1071), the plain way; each part but the last is of whole words.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
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
