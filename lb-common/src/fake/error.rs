//! ICMP errors built byte by byte from the RFCs: what the datapath's own are compared with.

use std::net::IpAddr;

use super::FakePacket;
use crate::net::{
    addr::{Addr, Family},
    icmp::IcmpError,
};

/// The ICMP error about a packet, from the first of these addresses to the second.
///
/// # Panics
/// Never: a quote is short.
pub fn error_about<A: Addr>(packet: &FakePacket, error: IcmpError, ends: (A, A)) -> Vec<u8> {
    let addresses = [octets(ends.0), octets(ends.1)].concat();
    match A::FAMILY {
        Family::V4 => error4(packet.bytes(), error, &addresses),
        Family::V6 => error6(packet.bytes(), error, &addresses),
    }
}

/// RFC 792, RFC 1191; up to 576 bytes (RFC 1812 section 4.3.2.3).
fn error4(quoted: &[u8], error: IcmpError, addresses: &[u8]) -> Vec<u8> {
    let quote = &quoted[..quoted.len().min(576 - 28)];
    let mut icmp = match error {
        IcmpError::TooBig(mtu) => [&[3, 4, 0, 0], &mtu.to_be_bytes()[..]].concat(),
        IcmpError::TimeExceeded => vec![11, 0, 0, 0, 0, 0, 0, 0],
        IcmpError::PortUnreachable => vec![3, 3, 0, 0, 0, 0, 0, 0],
    };
    icmp.extend(quote);
    sign(&mut icmp, 2, &[]);
    let len = u16::try_from(20 + icmp.len()).expect("short").to_be_bytes();
    let mut ip = vec![0x45, 0xc0, len[0], len[1], 0, 0, 0x40, 0, 64, 1, 0, 0];
    ip.extend(addresses);
    sign(&mut ip, 10, &[]);
    [ip, icmp].concat()
}

/// RFC 4443; up to 1280 bytes (section 2.4 (c)).
fn error6(quoted: &[u8], error: IcmpError, addresses: &[u8]) -> Vec<u8> {
    let quote = &quoted[..quoted.len().min(1280 - 48)];
    let mut icmp = match error {
        IcmpError::TooBig(mtu) => [&[2, 0, 0, 0], &mtu.to_be_bytes()[..]].concat(),
        IcmpError::TimeExceeded => vec![3, 0, 0, 0, 0, 0, 0, 0],
        IcmpError::PortUnreachable => vec![1, 4, 0, 0, 0, 0, 0, 0],
    };
    icmp.extend(quote);
    let len = u16::try_from(icmp.len()).expect("short").to_be_bytes();
    let pseudo = [addresses, &[0, 0, len[0], len[1], 0, 0, 0, 58]].concat();
    sign(&mut icmp, 2, &pseudo);
    let ip = [&[0x60, 0, 0, 0, len[0], len[1], 58, 64], addresses].concat();
    [ip, icmp].concat()
}

/// Writes the checksum of `bytes` and a pseudo header at `at`, the plain way (RFC 1071).
fn sign(bytes: &mut [u8], at: usize, pseudo: &[u8]) {
    let mut sum = 0_u32;
    for part in [pseudo, bytes] {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = u16::try_from(sum).expect("folded");
    bytes[at..at + 2].copy_from_slice(&(!sum).to_be_bytes());
}

fn octets<A: Addr>(addr: A) -> Vec<u8> {
    match addr.to_ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
