//! From bytes to a flow key: headers read once, each with one bounds check.

use super::{Packet, Work};
use crate::{
    abi::Reason,
    flow::FlowKey,
    net::{
        addr::Addr,
        ip::{Ends, Ip, IpHeader, Piece, proto},
        sctp,
        tcp::{Flags, Tcp},
        udp::Udp,
    },
};

/// What a packet is, by its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// One with ports, and so a flow.
    Ports,
    /// One of ICMP, of which [`Work::key`] has the addresses alone.
    Icmp,
}

/// What the headers of a packet as most are say: a whole one of TCP or UDP, whose headers have nothing special.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain<A> {
    /// See [`Work::key`].
    pub key: FlowKey<A>,
    /// See [`Work::ip`].
    pub ip: Ip,
    /// See [`Work::tcp`].
    pub tcp: Flags,
    /// See [`Work::segment_len`].
    pub segment_len: u32,
}

impl<A: Addr> Plain<A> {
    /// Reads the headers, at places that are known beforehand. `None`: perhaps it is another packet.
    #[inline(always)]
    pub(super) fn read<P: Packet>(packet: &P) -> Option<Self> {
        let at = size_of::<A::Header>() as u32;
        let mut ends = Ends::default();
        let ip = A::Header::plain(packet, &mut ends)?;
        let (sport, dport, tcp, headers) = if ip.proto == proto::TCP {
            let header = packet.read::<Tcp>(at)?;
            if header.offset >> 4 < 5 {
                return None;
            }
            let headers = at + u32::from(header.offset >> 4) * 4;
            let flags = Flags::from_bits(header.flags);
            (header.sport, header.dport, flags, headers)
        } else {
            let header = packet.read::<Udp>(at)?;
            let headers = at + size_of::<Udp>() as u32;
            (header.sport, header.dport, Flags::default(), headers)
        };
        if headers > ip.len {
            return None;
        }
        Some(Self {
            key: FlowKey {
                ends,
                sport: u16::from_be_bytes(sport),
                dport: u16::from_be_bytes(dport),
                proto: ip.proto,
            },
            ip,
            tcp,
            segment_len: packet.segment_len(ip.len, headers),
        })
    }

    /// Keeps it for those who look closer.
    #[inline(always)]
    pub(super) fn keep(&self, work: &mut Work<A>) {
        work.ip = self.ip;
        work.tcp = self.tcp;
        work.segment_len = self.segment_len;
    }
}

/// Reads the headers. The ports of a later fragment are left as they are: it has none.
///
/// # Errors
/// The reason to pass the packet untouched.
#[inline(always)]
pub(super) fn parse<A: Addr, P: Packet>(
    packet: &mut P,
    work: &mut Work<A>,
) -> Result<Parsed, Reason> {
    work.ip.piece = Piece::Whole;
    let ip = A::Header::read(packet, &mut work.key.ends)?;
    if ip.piece != Piece::Whole && ip.proto == A::Header::ICMP {
        return Err(Reason::PassFragment);
    }
    if ip.piece == Piece::Later {
        work.key.proto = ip.proto;
        work.tcp = Flags::default();
        work.segment_len = ip.len;
        work.ip = ip;
        return Ok(Parsed::Ports);
    }
    let (sport, dport, tcp, headers) = if ip.proto == proto::TCP {
        let Some(header) = packet.read::<Tcp>(ip.l4) else {
            return Err(Reason::PassMalformed);
        };
        let headers = ip.l4 + u32::from(header.offset >> 4) * 4;
        // Else the header could end in what pads the frame.
        if header.offset >> 4 < 5 {
            return Err(Reason::PassMalformed);
        }
        (
            header.sport,
            header.dport,
            Flags::from_bits(header.flags),
            headers,
        )
    } else if ip.proto == A::Header::ICMP {
        work.segment_len = ip.len;
        work.ip = ip;
        return Ok(Parsed::Icmp);
    } else {
        // SCTP begins with the same two ports.
        let Some(header) = packet.read::<Udp>(ip.l4) else {
            return Err(Reason::PassMalformed);
        };
        let (flags, len) = if ip.proto == proto::SCTP {
            let Some([chunk, ..]) = packet.read::<[u8; 4]>(ip.l4 + sctp::CHUNK_AT) else {
                return Err(Reason::PassMalformed);
            };
            (sctp::as_tcp(chunk), sctp::CHUNK_AT + 4)
        } else {
            (Flags::default(), size_of::<Udp>() as u32)
        };
        (header.sport, header.dport, flags, ip.l4 + len)
    };
    if headers > ip.len {
        return Err(Reason::PassMalformed);
    }
    work.key.sport = u16::from_be_bytes(sport);
    work.key.dport = u16::from_be_bytes(dport);
    work.key.proto = ip.proto;
    work.tcp = tcp;
    work.segment_len = packet.segment_len(ip.len, headers - u32::from(ip.shed));
    work.ip = ip;
    Ok(Parsed::Ports)
}
