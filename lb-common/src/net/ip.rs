//! What the two IP headers have in common: the seam that keeps the families from being written twice.

use bytemuck::Pod;

use super::icmp::{IcmpError, Letter};
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
    /// Where the payload begins, bytes from the IP header.
    pub l4: u32,
    /// Length of the packet, bytes from the IP header.
    pub len: u32,
}

/// One family's header on the wire.
pub trait IpHeader: Pod {
    /// The addresses it carries.
    type Addr: Addr;
    /// The packet's `EtherType`, host byte order.
    const ETHER_TYPE: u16;
    /// Where the quoted packet begins in a [`Letter`], words.
    const QUOTE_AT: usize;
    /// How much of a packet an ICMP error quotes at most, bytes.
    const QUOTE_MAX: u32;

    /// Reads the header at the packet's beginning; the addresses go to `ends`.
    ///
    /// # Errors
    /// The reason to pass the packet: malformed, a fragment, a protocol that has no ports.
    fn read<P: Packet>(packet: &P, ends: &mut Ends<Self::Addr>) -> Result<Ip, Reason>;

    /// Writes new addresses and `hops` hops less; the header's own checksum follows. Returns what the
    /// addresses do to a pseudo header's sum. `None`: it could not be written.
    fn write<P: Packet>(
        packet: &mut P,
        old: &Ends<Self::Addr>,
        new: &Ends<Self::Addr>,
        hops: u8,
    ) -> Option<Delta>;

    /// Writes the headers of an ICMP error about the packet that `letter` quotes the first `quoted` bytes of.
    /// Returns the length of the whole, bytes.
    fn head_error(
        letter: &mut Letter,
        ends: &Ends<Self::Addr>,
        error: IcmpError,
        quoted: u32,
    ) -> u32;
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
    /// What it does to a sum when these addresses give way to `new` ones.
    #[inline(always)]
    pub fn delta(&self, new: &Self) -> Delta {
        Delta::replace_words(self.src.words(), new.src.words())
            .and(Delta::replace_words(self.dst.words(), new.dst.words()))
    }
}
