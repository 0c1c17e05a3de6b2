//! Packets built byte by byte from the RFCs, with options and numbers that [`lb_common::fake::PacketSpec`] has none of.

use std::net::IpAddr;

use lb_common::{
    fake::FakePacket,
    net::{
        addr::{Addr, Family},
        ip::proto,
    },
};

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn octets<A: Addr>(addr: A) -> Vec<u8> {
    match addr.to_ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071), the plain way.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).expect("folded")).to_be_bytes()
}

/// An IP packet as our own are: 64 hops, not to be cut; without options (RFC 791, RFC 8200).
pub(crate) fn ip<A: Addr>(src: A, dst: A, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = if A::FAMILY == Family::V4 { 20 } else { 0 };
    let [high, low] = u16::try_from(header + payload.len())
        .unwrap_or(0)
        .to_be_bytes();
    let ends = [octets(src), octets(dst)].concat();
    let mut packet = match A::FAMILY {
        Family::V4 => vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0],
        Family::V6 => vec![0x60, 0, 0, 0, high, low, protocol, 64],
    };
    packet.extend(ends);
    if A::FAMILY == Family::V4 {
        let check = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&check);
    }
    [&packet, payload].concat()
}

/// The same packet with one hop less.
pub(crate) fn routed(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    packet[10..12].fill(0);
    let check = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&check);
    packet
}

/// A TCP segment (RFC 9293 section 3.1) in its packet.
pub(crate) fn tcp<A: Addr>(src: A, dst: A, segment: &Segment) -> FakePacket {
    let Segment { ports, .. } = segment;
    let words = u8::try_from(5 + segment.options.len() / 4).expect("few");
    let mut bytes = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    bytes.extend(segment.seq.to_be_bytes());
    bytes.extend(segment.ack.to_be_bytes());
    bytes.extend([words << 4, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&segment.options);
    bytes.extend(&segment.payload);
    let len = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    let ends = [octets(src), octets(dst)].concat();
    let check = checksum(&[&ends, &len, &[0, 0, 0, proto::TCP], &bytes]);
    bytes[16..18].copy_from_slice(&check);
    FakePacket::new(ip(src, dst, proto::TCP, &bytes))
}

/// An SCTP packet (RFC 9260 section 3) in its IP packet.
pub(crate) fn sctp<A: Addr>(
    (src, sport): (A, u16),
    (dst, dport): (A, u16),
    tag: u32,
    chunks: &[u8],
) -> Vec<u8> {
    let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    bytes.extend(tag.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(chunks);
    let check = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&check);
    ip(src, dst, proto::SCTP, &bytes)
}

/// `CRC32c` as it stands in a packet (RFC 9260 appendix A): most significant bit first over bits that come least
/// significant first, as the appendix draws it, not by the table that it also gives.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut remainder = u32::MAX;
    for bit in bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1))
    {
        let carry = remainder >> 31 ^ u32::from(bit);
        remainder <<= 1;
        if carry == 1 {
            remainder ^= 0x1edc_6f41;
        }
    }
    // The remainder's highest power goes out first, in the lowest bit.
    (!remainder).reverse_bits().to_le_bytes()
}
