//! What the two IP headers have in common: the seam that keeps the families from being written twice.

use bytemuck::Pod;

use super::{
    icmp::{IcmpError, Message, Quote},
    letter::Letter,
};
use crate::{
    abi::Reason,
    datapath::Packet,
    net::{addr::Addr, csum::Delta},
};

/// IANA protocol numbers.
pub mod proto {
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 9260.
    pub const SCTP: u8 = 132;

    /// True if it has connections, which begin and end.
    #[inline(always)]
    pub fn has_connections(proto: u8) -> bool {
        matches!(proto, TCP | SCTP)
    }

    /// True if its packets begin with two ports.
    #[inline(always)]
    pub fn has_ports(proto: u8) -> bool {
        matches!(proto, TCP | UDP | SCTP)
    }
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Piece {
    /// All of it.
    #[default]
    Whole = 0,
    /// A fragment with the ports in it.
    First = 1,
    /// A fragment without them.
    Later = 2,
}

impl Piece {
    /// By where it begins in the datagram, and whether something follows it.
    #[inline(always)]
    pub fn new(is_first: bool, is_last: bool) -> Self {
        match (is_first, is_last) {
            (true, true) => Self::Whole,
            (true, false) => Self::First,
            (false, _) => Self::Later,
        }
    }
}

/// What the datapath needs of an IP header besides the addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ip {
    /// Protocol of the payload, IANA number.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A router may cut it into fragments.
    pub may_fragment: bool,
    /// Bytes of its headers that only the packet as the stack holds it has, not the ones that it is cut into.
    pub shed: u8,
    /// Where the payload begins, bytes from the IP header.
    pub l4: u32,
    /// Length of the packet, bytes from the IP header.
    pub len: u32,
    /// Which part of a datagram it is.
    pub piece: Piece,
    /// What its fragments have in common, in the order of the bytes in memory; 0 for a packet that is whole.
    pub id: u32,
}

/// One family's header on the wire.
pub trait IpHeader: Pod {
    /// The addresses it carries.
    type Addr: Addr;
    /// The packet's `EtherType`, host byte order.
    const ETHER_TYPE: u16;
    /// Length of the header in a [`Letter`], words.
    const WORDS: usize;
    /// Whether the checksum of ICMP covers a pseudo header.
    const HAS_ICMP_PSEUDO: bool;
    /// IANA protocol number of the family's ICMP.
    const ICMP: u8;
    /// How much of a packet an ICMP error quotes at most, bytes.
    const QUOTE_MAX: u32;

    /// Whether the fragments of one datagram all name its protocol, which is then part of what names the datagram
    /// (RFC 791); else their identification is enough (RFC 8200 section 4.5).
    const PIECES_NAME_PROTOCOL: bool;

    /// Reads the header at the packet's beginning; the addresses go to `ends`.
    ///
    /// # Errors
    /// The reason to pass the packet: malformed, a protocol that has no ports.
    fn read<P: Packet>(packet: &mut P, ends: &mut Ends<Self::Addr>) -> Result<Ip, Reason>;

    /// Reads a header as most are: of a whole packet of TCP or UDP, which follows it at once. `None`: perhaps it is another
    /// one, to be read as any may be.
    fn plain<P: Packet>(packet: &P, ends: &mut Ends<Self::Addr>) -> Option<Ip>;

    /// Writes new addresses and `hops` hops less; the header's own checksum follows. Returns what the
    /// addresses do to a pseudo header's sum. `None`: it could not be written.
    fn write<P: Packet>(
        packet: &mut P,
        old: &Ends<Self::Addr>,
        new: &Ends<Self::Addr>,
        hops: u8,
    ) -> Option<Delta>;

    /// Writes the header of a packet that is made here, with `payload` bytes of protocol `proto`; `urgent`: with the
    /// precedence of network control.
    fn head(letter: &mut Letter, ends: &Ends<Self::Addr>, proto: u8, payload: u32, urgent: bool);

    /// The sum of the pseudo header of a packet whose header is written, not folded (RFC 9293 section 3.1, RFC 8200
    /// section 8.1).
    fn pseudo_sum(letter: &Letter, proto: u8, payload: u32) -> u64;

    /// The first two words of an ICMP error, its checksum left zero, from the least significant byte on.
    fn error(error: IcmpError) -> [u32; 2];

    /// Type of the ICMP message that answers an echo request.
    const ECHO_REPLY: u8;

    /// What an ICMP message of this type is.
    fn message(kind: u8) -> Message;

    /// Reads the header of the packet that an ICMP error quotes at `at`; its addresses go to `ends`. `None`: it is
    /// none of this family, or has no ports.
    fn quoted<P: Packet>(packet: &P, at: u32, ends: &mut Ends<Self::Addr>) -> Option<Quote>;

    /// Writes new addresses into such a header; its own checksum follows. Returns what the addresses do to a pseudo
    /// header's sum, and what was written to the sum over the packet that quotes it. `None`: it could not be written.
    fn write_quoted<P: Packet>(
        packet: &mut P,
        at: u32,
        old: &Ends<Self::Addr>,
        new: &Ends<Self::Addr>,
    ) -> Option<(Delta, Delta)>;
}

/// Where a packet comes from and where it goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ends<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
}

impl<A: Addr> Ends<A> {
    /// The other way round.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
        }
    }

    /// What it does to a sum when these addresses give way to `new` ones.
    #[inline(always)]
    pub fn delta(&self, new: &Self) -> Delta {
        Delta::replace_words(self.src.words(), new.src.words())
            .and(Delta::replace_words(self.dst.words(), new.dst.words()))
    }
}
