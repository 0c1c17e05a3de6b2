//! IPv4 header (RFC 791). Options are carried along unread.

use bytemuck::{Pod, Zeroable};

use super::{
    addr::Addr4,
    csum::{self, Delta},
    eth::ether_type,
    icmp::{IcmpError, Message, Quote},
    ip::{Ends, Ip, IpHeader, Piece, proto},
    letter::Letter,
};
use crate::{abi::Reason, datapath::Packet};

/// The header without options, on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4 {
    /// Version, and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_len: [u8; 2],
    /// Names the fragments of one datagram.
    pub id: [u8; 2],
    /// Three flags, thirteen bits of offset.
    pub frag: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Checksum of the header.
    pub check: [u8; 2],
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

/// Of packets that are made here.
const TTL: u8 = 64;
/// RFC 792.
const DEST_UNREACH: u8 = 3;
/// RFC 1191 section 4: the next hop's MTU stands in the last two bytes of the header.
const FRAG_NEEDED: u8 = 4;
/// RFC 792.
const PORT_UNREACH: u8 = 3;
/// RFC 792.
const TIME_EXCEEDED: u8 = 11;
/// RFC 792.
const PARAMETER_PROBLEM: u8 = 12;
/// RFC 792.
const ECHO: u8 = 8;
/// Version 4, and a header of five words.
const PLAIN: u8 = 0x45;
/// Something follows this fragment.
const MORE_FRAGMENTS: u16 = 0x2000;
/// Where a fragment begins in its datagram, in units of 8 bytes; zero in the first one, which has the ports.
const OFFSET: u16 = 0x1fff;
/// A router must not cut the packet up.
const DONT_FRAGMENT: u16 = 0x4000;
/// Where the part that a router rewrites begins.
const TAIL_AT: u32 = 8;

/// TTL to destination: what changes on the way through.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tail {
    ttl: u8,
    proto: u8,
    check: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4>() == 20 && align_of::<Ipv4>() == 1);
const _: () = assert!(size_of::<Tail>() == 12);

impl IpHeader for Ipv4 {
    type Addr = Addr4;
    const ETHER_TYPE: u16 = ether_type::IPV4;
    const WORDS: usize = 5;
    const HAS_ICMP_PSEUDO: bool = false;
    const ICMP: u8 = 1;
    /// RFC 1812 section 4.3.2.3: the whole error takes up to 576 bytes.
    const QUOTE_MAX: u32 = 576 - 28;
    const PIECES_NAME_PROTOCOL: bool = true;

    #[inline(always)]
    fn read<P: Packet>(packet: &mut P, ends: &mut Ends<Addr4>) -> Result<Ip, Reason> {
        let Some(header) = packet.read::<Self>(0) else {
            return Err(Reason::PassMalformed);
        };
        let l4 = u32::from(header.version_ihl & 0x0f) * 4;
        let len = match u32::from(u16::from_be_bytes(header.total_len)) {
            // Segmentation offload beyond 64 KiB ("BIG TCP") leaves the field zero.
            0 if packet.len() > u32::from(u16::MAX) => packet.len(),
            len => len,
        };
        if header.version_ihl >> 4 != 4 || l4 < 20 || len < l4 || len > packet.len() {
            return Err(Reason::PassMalformed);
        }
        if !proto::has_ports(header.proto) && header.proto != Self::ICMP {
            return Err(Reason::PassProtocol);
        }
        ends.src = Addr4 {
            be32: u32::from_ne_bytes(header.src),
        };
        ends.dst = Addr4 {
            be32: u32::from_ne_bytes(header.dst),
        };
        let frag = u16::from_be_bytes(header.frag);
        let piece = Piece::new(frag & OFFSET == 0, frag & MORE_FRAGMENTS == 0);
        Ok(Ip {
            proto: header.proto,
            ttl: header.ttl,
            shed: 0,
            may_fragment: frag & DONT_FRAGMENT == 0,
            l4,
            len,
            piece,
            id: match piece {
                Piece::Whole => 0,
                _ => u32::from(u16::from_ne_bytes(header.id)),
            },
        })
    }

    #[inline(always)]
    fn plain<P: Packet>(packet: &P, ends: &mut Ends<Addr4>) -> Option<Ip> {
        let header = packet.read::<Self>(0)?;
        let frag = u16::from_be_bytes(header.frag);
        let len = u32::from(u16::from_be_bytes(header.total_len));
        let is_plain = header.version_ihl == PLAIN
            && frag & (OFFSET | MORE_FRAGMENTS) == 0
            && matches!(header.proto, proto::TCP | proto::UDP);
        if !is_plain || !packet.holds(len) {
            return None;
        }
        ends.src = Addr4 {
            be32: u32::from_ne_bytes(header.src),
        };
        ends.dst = Addr4 {
            be32: u32::from_ne_bytes(header.dst),
        };
        Some(Ip {
            proto: header.proto,
            ttl: header.ttl,
            shed: 0,
            may_fragment: frag & DONT_FRAGMENT == 0,
            l4: size_of::<Self>() as u32,
            len,
            piece: Piece::Whole,
            id: 0,
        })
    }

    #[inline(always)]
    fn write<P: Packet>(
        packet: &mut P,
        old: &Ends<Addr4>,
        new: &Ends<Addr4>,
        hops: u8,
    ) -> Option<Delta> {
        let mut tail = packet.read::<Tail>(TAIL_AT)?;
        let ttl = tail.ttl.wrapping_sub(hops);
        let addresses = old.delta(new);
        let change = Delta::replace(
            u32::from(u16::from_ne_bytes([tail.ttl, tail.proto])),
            u32::from(u16::from_ne_bytes([ttl, tail.proto])),
        );
        let check = addresses.and(change).apply(u16::from_ne_bytes(tail.check));
        tail.ttl = ttl;
        tail.check = check.to_ne_bytes();
        tail.src = new.src.be32.to_ne_bytes();
        tail.dst = new.dst.be32.to_ne_bytes();
        // The header sums to zero before and after: a checksum over the whole packet does not change.
        packet.write(TAIL_AT, tail)?;
        Some(addresses)
    }

    #[inline(always)]
    fn head(letter: &mut Letter, ends: &Ends<Addr4>, proto: u8, payload: u32, urgent: bool) {
        let len = 20 + payload;
        // RFC 1812 section 4.3.2.5: precedence "internetwork control"; RFC 6864: one datagram, id 0.
        let tos = if urgent { 0xc0 } else { 0 };
        let mut ip = [
            u32::from_ne_bytes([0x45, tos, (len >> 8) as u8, len as u8]),
            u32::from_ne_bytes([0, 0, 0x40, 0]),
            u32::from_ne_bytes([TTL, proto, 0, 0]),
            ends.src.be32,
            ends.dst.be32,
        ];
        let sum = ip.iter().map(|word| u64::from(*word)).sum();
        let [low, high] = (!csum::fold16(sum)).to_ne_bytes();
        ip[2] = u32::from_ne_bytes([TTL, proto, low, high]);
        letter.put(0, ip);
    }

    #[inline(always)]
    fn pseudo_sum(letter: &Letter, proto: u8, payload: u32) -> u64 {
        letter.sum(3, 8) + u64::from(payload.to_be()) + u64::from(u32::from(proto).to_be())
    }

    #[inline(always)]
    fn error(error: IcmpError) -> [u32; 2] {
        let (kind, code, mtu) = match error {
            IcmpError::TooBig(mtu) => (DEST_UNREACH, FRAG_NEEDED, mtu.min(0xffff)),
            IcmpError::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            IcmpError::PortUnreachable => (DEST_UNREACH, PORT_UNREACH, 0),
        };
        [u32::from_ne_bytes([kind, code, 0, 0]), mtu.to_be()]
    }

    const ECHO_REPLY: u8 = 0;

    #[inline(always)]
    fn message(kind: u8) -> Message {
        match kind {
            DEST_UNREACH | PARAMETER_PROBLEM => Message::Error,
            TIME_EXCEEDED => Message::TimeExceeded,
            ECHO => Message::Echo,
            _ => Message::Other,
        }
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: u32, ends: &mut Ends<Addr4>) -> Option<Quote> {
        let header = packet.read::<Self>(at)?;
        let len = u32::from(header.version_ihl & 0x0f) * 4;
        let is_first = u16::from_be_bytes(header.frag) & OFFSET == 0;
        if header.version_ihl >> 4 != 4 || len < 20 || !is_first {
            return None;
        }
        ends.src = Addr4 {
            be32: u32::from_ne_bytes(header.src),
        };
        ends.dst = Addr4 {
            be32: u32::from_ne_bytes(header.dst),
        };
        let quote = Quote {
            proto: header.proto,
            l4: at + len,
            end: at + u32::from(u16::from_be_bytes(header.total_len)),
        };
        quote.checked()
    }

    #[inline(always)]
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: u32,
        old: &Ends<Addr4>,
        new: &Ends<Addr4>,
    ) -> Option<(Delta, Delta)> {
        let mut tail = packet.read::<Tail>(at + TAIL_AT)?;
        let addresses = old.delta(new);
        let before = u16::from_ne_bytes(tail.check);
        let check = addresses.apply(before);
        tail.check = check.to_ne_bytes();
        tail.src = new.src.be32.to_ne_bytes();
        tail.dst = new.dst.be32.to_ne_bytes();
        packet.write(at + TAIL_AT, tail)?;
        let written = addresses.and(Delta::replace(before.into(), check.into()));
        Some((addresses, written))
    }
}
