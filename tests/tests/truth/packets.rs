//! The first packet of a connection of each protocol, and the ends of what became of it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use lb_common::{
    fake::{FakePacket, PacketSpec, Transport},
    net::{addr::Addr, csum},
};
use lb_tests::truth::Protocol;

/// Control bits of a segment that opens a connection, and of the answer.
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
/// IANA's number of SCTP.
const SCTP: u8 = 132;
/// Length of an IPv4 header without options, and of every IPv6 header.
const HEADER: [usize; 2] = [20, 40];

/// The first packet of a connection.
pub(crate) fn first<A: Addr>(
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<FakePacket> {
    packet::<A>(protocol, SYN, from, to)
}

/// What is answered to it.
pub(crate) fn answer<A: Addr>(
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<FakePacket> {
    packet::<A>(protocol, SYN_ACK, from, to)
}

fn packet<A: Addr>(
    protocol: Protocol,
    control: u8,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<FakePacket> {
    let end = |address: SocketAddr| {
        let addr = A::from_ip(address.ip()).context("an address of another family")?;
        Ok::<_, anyhow::Error>((addr, address.port()))
    };
    let transport = match protocol {
        Protocol::Tcp => Transport::Tcp(control),
        Protocol::Udp | Protocol::Sctp => Transport::Udp,
    };
    let packet = PacketSpec::new(end(from)?, end(to)?, transport).packet();
    Ok(match protocol {
        Protocol::Sctp => as_init(&packet),
        Protocol::Tcp | Protocol::Udp => packet,
    })
}

/// Source and destination of a packet that may have been rewritten.
pub(crate) fn addresses(packet: &FakePacket) -> Option<(IpAddr, IpAddr)> {
    let bytes = packet.bytes();
    let [source, destination] = if is_ipv6(bytes)? {
        [8, 24].map(|at| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<16>()?)))
    } else {
        [12, 16].map(|at| Some(IpAddr::from(*bytes.get(at..)?.first_chunk::<4>()?)))
    };
    Some((source?, destination?))
}

/// The same with the ports of its transport header.
pub(crate) fn ends(packet: &FakePacket) -> Option<(SocketAddr, SocketAddr)> {
    let (source, destination) = addresses(packet)?;
    let bytes = packet.bytes();
    let header = HEADER[usize::from(is_ipv6(bytes)?)];
    let port = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    Some((
        SocketAddr::new(source, port(header)?),
        SocketAddr::new(destination, port(header + 2)?),
    ))
}

/// An association's first packet (RFC 9260, section 3.3.2) with the ports of a datagram.
fn as_init(datagram: &FakePacket) -> FakePacket {
    let mut bytes = datagram.bytes().to_vec();
    let v6 = bytes.first().is_some_and(|first| first >> 4 == 6);
    let header = HEADER[usize::from(v6)];
    // Ports; tag 0; the checksum, which nobody of this test looks at.
    bytes.truncate(header + 4);
    bytes.extend([0; 8]);
    // INIT of 20 bytes: tag, window, streams out and in, first TSN.
    bytes.extend([
        1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1,
    ]);
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    if v6 {
        let payload = len - 40;
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
        bytes[6] = SCTP;
    } else {
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[9] = SCTP;
        bytes[10..12].fill(0);
        let check = csum::checksum(&bytes[..header], 0);
        bytes[10..12].copy_from_slice(&check.to_ne_bytes());
    }
    FakePacket::new(bytes)
}

fn is_ipv6(bytes: &[u8]) -> Option<bool> {
    Some(bytes.first()? >> 4 == 6)
}
