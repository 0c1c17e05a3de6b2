//! ICMP messages, whole ones, and packets for them to quote: with options, as fragments, cut short.

use lb_common::{
    fake::{FakePacket, PacketSpec},
    net::addr::{Addr, Family},
};

use crate::made::{checksum, ip, octets};

/// Type, code and the word behind them.
pub(crate) type Kind = ([u8; 2], u32);

/// Errors that are told from the address that was dialled, and those that name the router.
pub(crate) fn kinds<A: Addr>() -> (Vec<Kind>, Vec<Kind>) {
    match A::FAMILY {
        Family::V4 => (
            vec![
                ([3, 0], 0),
                ([3, 3], 0),
                ([3, 4], 1_280),
                ([3, 13], 0),
                ([12, 0], 0x0100_0000),
            ],
            vec![([11, 0], 0), ([11, 1], 0)],
        ),
        Family::V6 => (
            vec![([1, 0], 0), ([1, 4], 0), ([2, 0], 1_280), ([4, 1], 6)],
            vec![([3, 0], 0), ([3, 1], 0)],
        ),
    }
}

pub(crate) fn unreachable<A: Addr>() -> Kind {
    kinds::<A>().0[1]
}

pub(crate) fn time_exceeded<A: Addr>() -> Kind {
    kinds::<A>().1[0]
}

/// An ICMP message, checksum and all.
pub(crate) fn message<A: Addr>(src: A, dst: A, (kind, word): Kind, body: &[u8]) -> FakePacket {
    let mut icmp = [&kind[..], &[0, 0], &word.to_be_bytes(), body].concat();
    let (protocol, pseudo) = match A::FAMILY {
        Family::V4 => (1, Vec::new()),
        Family::V6 => {
            let len = u32::try_from(icmp.len()).expect("short").to_be_bytes();
            let pseudo = [&octets(src)[..], &octets(dst), &len, &[0, 0, 0, 58]].concat();
            (58, pseudo)
        }
    };
    let check = checksum(&[&pseudo, &icmp]);
    icmp[2..4].copy_from_slice(&check);
    FakePacket::new(ip(src, dst, protocol, &icmp))
}

/// The same with `hops` hops less.
pub(crate) fn less(packet: &FakePacket, hops: u8) -> FakePacket {
    let mut bytes = packet.bytes().to_vec();
    if bytes[0] >> 4 == 6 {
        bytes[7] -= hops;
    } else {
        bytes[8] -= hops;
        resign(&mut bytes);
    }
    FakePacket::new(bytes)
}

/// Makes the checksum of an IPv4 header anew.
pub(crate) fn resign(bytes: &mut [u8]) {
    let header = usize::from(bytes[0] & 0xf) * 4;
    bytes[10..12].fill(0);
    let check = checksum(&[&bytes[..header]]);
    bytes[10..12].copy_from_slice(&check);
}

/// The packet with so many bytes of options, or of extension headers, behind its fixed header.
pub(crate) fn with_options(packet: &FakePacket, len: usize) -> FakePacket {
    let mut bytes = packet.bytes().to_vec();
    if bytes[0] >> 4 == 6 {
        let payload = u16::from_be_bytes([bytes[4], bytes[5]]) + u16::try_from(len).expect("short");
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
        // Hop by hop, then for the destination: one header of eight bytes, the other of the rest.
        let mut options = vec![60, 0, 1, 4, 0, 0, 0, 0];
        let rest = len - 8;
        options.extend([bytes[6], u8::try_from(rest / 8 - 1).expect("short"), 1]);
        options.resize(len, 0);
        bytes[6] = 0;
        bytes.splice(40..40, options);
    } else {
        let total = u16::from_be_bytes([bytes[2], bytes[3]]) + u16::try_from(len).expect("short");
        bytes[0] += u8::try_from(len / 4).expect("short");
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes.splice(20..20, vec![1; len]);
        resign(&mut bytes);
    }
    FakePacket::new(bytes)
}

/// Bytes of the fixed IP header.
pub(crate) fn header<A: Addr>() -> usize {
    match A::FAMILY {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// The quote of as many bytes of a packet's transport header, and what it becomes if that packet was once `origin`.
pub(crate) fn quotes<A: Addr>(
    quoted: &PacketSpec<A>,
    origin: &PacketSpec<A>,
    len: usize,
) -> (Vec<u8>, Vec<u8>) {
    let l4 = header::<A>();
    let (quoted, origin) = (quoted.packet(), origin.packet());
    let end = (l4 + len).min(quoted.bytes().len());
    let before = quoted.bytes()[..end].to_vec();
    let mut after = origin.bytes()[..end].to_vec();
    let check = if before[if l4 == 20 { 9 } else { 6 }] == 6 {
        16
    } else {
        6
    };
    // A checksum of which only the first byte is quoted is let alone.
    if end == l4 + check + 1 {
        after[end - 1] = before[end - 1];
    }
    (before, after)
}

/// Makes a quoted packet a fragment at this offset (in eight bytes), more to follow.
pub(crate) fn fragment<A: Addr>(packet: &FakePacket, offset: u16) -> Vec<u8> {
    let mut bytes = packet.bytes().to_vec();
    if A::FAMILY == Family::V4 {
        bytes[6..8].copy_from_slice(&(0x2000 | offset).to_be_bytes());
        resign(&mut bytes);
        return bytes;
    }
    let payload = u16::from_be_bytes([bytes[4], bytes[5]]) + 8;
    bytes[4..6].copy_from_slice(&payload.to_be_bytes());
    let [high, low] = (offset << 3 | 1).to_be_bytes();
    let header = [bytes[6], 0, high, low, 1, 2, 3, 4];
    bytes[6] = 44;
    bytes.splice(40..40, header);
    bytes
}
