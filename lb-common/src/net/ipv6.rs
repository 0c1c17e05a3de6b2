//! IPv6 header (RFC 8200). It has no checksum of its own.

use bytemuck::{Pod, Zeroable};

use super::{
    addr::{Addr, Addr6},
    csum::Delta,
    eth::ether_type,
    icmp::{IcmpError, Message, Quote, REACH},
    ip::{Ends, Ip, IpHeader, Piece, proto},
    letter::Letter,
};
use crate::{abi::Reason, datapath::Packet};

/// Length of the fixed header, bytes.
const LEN: u32 = 40;
/// Hop limit of packets that are made here.
const HOPS: u8 = 64;
/// RFC 4443 section 3.1.
const DEST_UNREACH: u8 = 1;
/// RFC 4443 section 3.1.
const PORT_UNREACH: u8 = 4;
/// RFC 4443 section 3.2.
const TOO_BIG: u8 = 2;
/// RFC 4443 section 3.3.
const TIME_EXCEEDED: u8 = 3;
/// RFC 4443 section 3.4.
const PARAMETER_PROBLEM: u8 = 4;
/// RFC 4443 section 4.1.
const ECHO: u8 = 128;
/// Next-header values of the headers that may stand before the payload's (RFC 8200 section 4): options for every hop,
/// which the stack makes itself where segmentation offload goes beyond 64 KiB ("BIG TCP": a jumbo option, RFC 2675);
const HOP_BY_HOP: u8 = 0;
/// addresses on the way;
const ROUTING: u8 = 43;
/// a fragment;
const FRAGMENT: u8 = 44;
/// options for the receiver.
const OPTIONS: u8 = 60;
/// Next-header value of nothing (RFC 8200 section 4.7).
const NO_NEXT: u8 = 59;
/// Extension headers that are walked over in a quoted packet at most.
const QUOTED_EXTENSIONS: u32 = 4;
/// Such headers that are read; one with more is passed.
const MAX_EXTENSIONS: usize = 6;
/// Bytes that they take at most.
const EXTENSIONS_LEN: u32 = 128;
/// Longest transport header that is read, bytes.
const TRANSPORT_LEN: u32 = 20;
/// Where a fragment begins in its datagram, in units of 8 bytes, shifted by three reserved bits; zero in the first
/// one, which has the ports.
const OFFSET: u16 = 0xfff8;
/// Something follows this fragment.
const MORE_FRAGMENTS: u16 = 1;
/// Where next header and hop limit stand.
const HOPS_AT: u32 = 6;
/// Where the source address stands.
const SRC_AT: u32 = 8;
/// Where the destination address stands.
const DST_AT: u32 = 24;

/// The header on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: [u8; 4],
    /// Length of what follows the header, bytes.
    pub payload_len: [u8; 2],
    /// Protocol of the payload, or of the first extension header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: [[u8; 4]; 4],
    /// Destination address.
    pub dst: [[u8; 4]; 4],
}

const _: () = assert!(size_of::<Ipv6>() == 40 && align_of::<Ipv6>() == 1);

impl IpHeader for Ipv6 {
    type Addr = Addr6;
    const ETHER_TYPE: u16 = ether_type::IPV6;
    const WORDS: usize = 10;
    const HAS_ICMP_PSEUDO: bool = true;
    /// `ICMPv6`.
    const ICMP: u8 = 58;
    /// RFC 4443 section 2.4 (c): as much as fits into 1280 bytes.
    const QUOTE_MAX: u32 = 1280 - 48;
    const PIECES_NAME_PROTOCOL: bool = false;

    #[inline(always)]
    fn read<P: Packet>(packet: &mut P, ends: &mut Ends<Addr6>) -> Result<Ip, Reason> {
        let Some(header) = packet.read::<Self>(0) else {
            return Err(Reason::PassMalformed);
        };
        let len = match u32::from(u16::from_be_bytes(header.payload_len)) {
            // Segmentation offload beyond 64 KiB ("BIG TCP") leaves the field zero.
            0 if packet.len() > u32::from(u16::MAX) => packet.len(),
            payload => LEN + payload,
        };
        if header.version_class_label[0] >> 4 != 6 || len > packet.len() {
            return Err(Reason::PassMalformed);
        }
        let payload = if proto::has_ports(header.next_header) {
            Payload::at_once(header.next_header)
        } else {
            Payload(walk(packet, header.next_header))
        };
        // A later fragment names what the first one begins with: options for the receiver, perhaps.
        let piece = payload.piece();
        let has_ports = proto::has_ports(payload.proto()) || payload.proto() == Self::ICMP;
        if !has_ports && (piece != Piece::Later || payload.proto() != OPTIONS) {
            return Err(Reason::PassProtocol);
        }
        let l4 = payload.at();
        ends.src = address(header.src);
        ends.dst = address(header.dst);
        Ok(Ip {
            proto: payload.proto(),
            ttl: header.hop_limit,
            may_fragment: false,
            // Segmentation takes the jumbo option out again.
            shed: if header.payload_len == [0; 2] {
                (l4 - LEN) as u8
            } else {
                0
            },
            l4,
            len,
            piece,
            id: payload.id(),
        })
    }

    #[inline(always)]
    fn plain<P: Packet>(packet: &P, ends: &mut Ends<Addr6>) -> Option<Ip> {
        let header = packet.read::<Self>(0)?;
        let len = LEN + u32::from(u16::from_be_bytes(header.payload_len));
        let is_plain = header.version_class_label[0] >> 4 == 6
            && matches!(header.next_header, proto::TCP | proto::UDP);
        if !is_plain || !packet.holds(len) {
            return None;
        }
        ends.src = address(header.src);
        ends.dst = address(header.dst);
        Some(Ip {
            proto: header.next_header,
            ttl: header.hop_limit,
            may_fragment: false,
            shed: 0,
            l4: LEN,
            len,
            piece: Piece::Whole,
            id: 0,
        })
    }

    #[inline(always)]
    fn write<P: Packet>(
        packet: &mut P,
        old: &Ends<Addr6>,
        new: &Ends<Addr6>,
        hops: u8,
    ) -> Option<Delta> {
        let [next_header, hop_limit] = packet.read::<[u8; 2]>(HOPS_AT)?;
        let rest = [next_header, hop_limit.wrapping_sub(hops)];
        packet.write(HOPS_AT, rest)?;
        packet.write(SRC_AT, octets(new.src))?;
        packet.write(DST_AT, octets(new.dst))?;
        let addresses = old.delta(new);
        let change = Delta::replace(
            u32::from(u16::from_ne_bytes([next_header, hop_limit])),
            u32::from(u16::from_ne_bytes(rest)),
        );
        // No checksum of its own that would make up for the change.
        packet.change_sum(addresses.and(change));
        Some(addresses)
    }

    #[inline(always)]
    fn head(letter: &mut Letter, ends: &Ends<Addr6>, proto: u8, payload: u32, _urgent: bool) {
        let length = u32::from_ne_bytes([(payload >> 8) as u8, payload as u8, proto, HOPS]);
        letter.put(0, [u32::from_ne_bytes([0x60, 0, 0, 0]), length]);
        letter.put(2, ends.src.words());
        letter.put(6, ends.dst.words());
    }

    #[inline(always)]
    fn pseudo_sum(letter: &Letter, proto: u8, payload: u32) -> u64 {
        letter.sum(2, 32) + u64::from(payload.to_be()) + u64::from(u32::from(proto).to_be())
    }

    #[inline(always)]
    fn error(error: IcmpError) -> [u32; 2] {
        let (kind, code, mtu) = match error {
            IcmpError::TooBig(mtu) => (TOO_BIG, 0, mtu),
            IcmpError::TimeExceeded => (TIME_EXCEEDED, 0, 0),
            IcmpError::PortUnreachable => (DEST_UNREACH, PORT_UNREACH, 0),
        };
        [u32::from_ne_bytes([kind, code, 0, 0]), mtu.to_be()]
    }

    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn message(kind: u8) -> Message {
        match kind {
            DEST_UNREACH | TOO_BIG | PARAMETER_PROBLEM => Message::Error,
            TIME_EXCEEDED => Message::TimeExceeded,
            ECHO => Message::Echo,
            _ => Message::Other,
        }
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, at: u32, ends: &mut Ends<Addr6>) -> Option<Quote> {
        let header = packet.read::<Self>(at)?;
        if header.version_class_label[0] >> 4 != 6 {
            return None;
        }
        ends.src = address(header.src);
        ends.dst = address(header.dst);
        let (proto, l4) = walk_quoted(packet, header.next_header, at + LEN)?;
        let quote = Quote {
            proto,
            l4,
            end: at + LEN + u32::from(u16::from_be_bytes(header.payload_len)),
        };
        quote.checked()
    }

    #[inline(always)]
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: u32,
        old: &Ends<Addr6>,
        new: &Ends<Addr6>,
    ) -> Option<(Delta, Delta)> {
        packet.write(at + SRC_AT, octets(new.src))?;
        packet.write(at + DST_AT, octets(new.dst))?;
        let addresses = old.delta(new);
        Some((addresses, addresses))
    }
}

/// The first header of a quoted packet from `at` on that is no extension, and where it begins. `None`: there are too
/// many, or they are a later fragment's.
#[inline(always)]
fn walk_quoted<P: Packet>(packet: &P, first: u8, at: u32) -> Option<(u8, u32)> {
    let (mut next, mut at) = (first, at);
    for _ in 0..QUOTED_EXTENSIONS {
        if !matches!(next, HOP_BY_HOP | ROUTING | OPTIONS | FRAGMENT) {
            return Some((next, at));
        }
        if at >= REACH {
            return None;
        }
        let [following, len, offset @ ..] =
            packet.read::<[u8; 4]>(at).unwrap_or([NO_NEXT, 0, 0, 0]);
        let len = if next == FRAGMENT {
            if u16::from_be_bytes(offset) & OFFSET != 0 {
                return None;
            }
            8
        } else {
            (u32::from(len) + 1) * 8
        };
        next = following;
        at += len;
    }
    Some((next, at))
}

/// Where the payload begins and what it is, in one word, as it comes back from a call of its own: the low bytes are
/// its protocol, where it begins and which piece it is; the high half names the datagram. Zero: not found.
#[derive(Clone, Copy)]
struct Payload(u64);

impl Payload {
    #[inline(always)]
    fn new(proto: u8, at: u32, piece: Piece, id: u32) -> Self {
        let low = u32::from(proto) | at << 8 | (piece as u32) << 16;
        Self(u64::from(id) << 32 | u64::from(low))
    }

    /// The payload that follows the fixed header.
    #[inline(always)]
    fn at_once(proto: u8) -> Self {
        Self::new(proto, LEN, Piece::Whole, 0)
    }

    #[inline(always)]
    fn proto(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    fn at(self) -> u32 {
        u32::from((self.0 >> 8) as u8)
    }

    #[inline(always)]
    fn piece(self) -> Piece {
        match (self.0 >> 16) as u8 {
            0 => Piece::Whole,
            1 => Piece::First,
            _ => Piece::Later,
        }
    }

    #[inline(always)]
    fn id(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Goes over the extension headers that may stand before the payload; 0: there are too many, they end nowhere, or
/// another node is to have the packet first.
///
/// A call of its own in the BPF object, for the few packets that have any.
#[inline(never)]
fn walk<P: Packet>(packet: &mut P, first: u8) -> u64 {
    packet.reach(LEN + EXTENSIONS_LEN + TRANSPORT_LEN);
    let (mut next, mut at) = (first, LEN);
    let (mut piece, mut id) = (Piece::Whole, 0);
    let mut is_fragment = false;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | OPTIONS => {
                let Some(word) = packet.read::<u32>(at) else {
                    return 0;
                };
                let [following, eights, _, left] = word.to_ne_bytes();
                // Options for every hop come first; what has addresses left to go to is not for its destination.
                if next == HOP_BY_HOP && at != LEN || next == ROUTING && left != 0 {
                    return 0;
                }
                next = following;
                at += (u32::from(eights) + 1) * 8;
            }
            FRAGMENT if !is_fragment => {
                let Some(words) = packet.read::<u64>(at) else {
                    return 0;
                };
                let [following, _, high, low, name @ ..] = words.to_ne_bytes();
                let offset = u16::from_be_bytes([high, low]);
                is_fragment = true;
                piece = Piece::new(offset & OFFSET == 0, offset & MORE_FRAGMENTS == 0);
                if piece != Piece::Whole {
                    id = u32::from_ne_bytes(name);
                }
                next = following;
                at += 8;
                // What follows is the middle of something.
                if piece == Piece::Later {
                    break;
                }
            }
            _ => break,
        }
        if at > LEN + EXTENSIONS_LEN {
            return 0;
        }
    }
    if at > LEN + EXTENSIONS_LEN {
        return 0;
    }
    Payload::new(next, at, piece, id).0
}

#[inline(always)]
fn address(bytes: [[u8; 4]; 4]) -> Addr6 {
    let [a, b, c, d] = bytes;
    Addr6 {
        be32: [
            u32::from_ne_bytes(a),
            u32::from_ne_bytes(b),
            u32::from_ne_bytes(c),
            u32::from_ne_bytes(d),
        ],
    }
}

#[inline(always)]
fn octets(addr: Addr6) -> [[u8; 4]; 4] {
    let [a, b, c, d] = addr.words();
    [
        a.to_ne_bytes(),
        b.to_ne_bytes(),
        c.to_ne_bytes(),
        d.to_ne_bytes(),
    ]
}
