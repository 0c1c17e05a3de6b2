//! The packet that the program is run on: the first one of a connection, as short as it can be.

use std::net::IpAddr;

use lb_common::net::{csum, eth::ether_type};

use super::Question;
use crate::desired::Protocol;

/// Both MACs of the frame: nobody looks at them.
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
/// Far from ending.
const TTL: u8 = 64;

/// An Ethernet frame with the packet of a question.
pub fn frame(question: &Question) -> Vec<u8> {
    let segment = segment(question);
    let (ether_type, ip) = match (question.from.ip(), question.to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let addresses = [src.octets(), dst.octets()].concat();
            (ether_type::IPV4, ipv4(question, &addresses, segment.len()))
        }
        (src, dst) => {
            let octets = |addr| match addr {
                IpAddr::V4(addr) => std::net::Ipv4Addr::to_ipv6_mapped(&addr).octets(),
                IpAddr::V6(addr) => addr.octets(),
            };
            let addresses = [octets(src), octets(dst)].concat();
            (ether_type::IPV6, ipv6(question, &addresses, segment.len()))
        }
    };
    [&MACS[..], &ether_type.to_be_bytes(), &ip, &segment].concat()
}

fn ipv4(question: &Question, addresses: &[u8], payload: usize) -> Vec<u8> {
    let [high, low] = length(20 + payload);
    let protocol = question.protocol.number();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, TTL, protocol, 0, 0];
    header.extend(addresses);
    let check = csum::checksum(&header, 0).to_ne_bytes();
    header[10..12].copy_from_slice(&check);
    header
}

fn ipv6(question: &Question, addresses: &[u8], payload: usize) -> Vec<u8> {
    let [high, low] = length(payload);
    let protocol = question.protocol.number();
    [&[0x60, 0, 0, 0, high, low, protocol, TTL], addresses].concat()
}

/// A SYN, a datagram, an INIT; nobody checks its checksum.
fn segment(question: &Question) -> Vec<u8> {
    let ports = [
        question.from.port().to_be_bytes(),
        question.to.port().to_be_bytes(),
    ]
    .concat();
    let rest: &[u8] = match question.protocol {
        Protocol::Tcp => &[0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0],
        Protocol::Udp => &[0, 8, 0, 0],
        Protocol::Sctp => &[
            0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0,
            1,
        ],
    };
    [&ports, rest].concat()
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}
