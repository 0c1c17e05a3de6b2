//! `fragments`: which ports the first fragment of a datagram had, for those that follow it.

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// One datagram whose first fragment was seen; the protocol is in [`crate::fragment::record`].
///
/// 32 bytes for IPv4, 64 for IPv6: two of them, or one, to a cache line.
#[repr(C, align(32))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment<A> {
    /// Odd while it is written; 0: never was.
    pub stamp: u32,
    /// Tick of the first fragment.
    pub seen: u32,
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// The datagram's identification, in the order of the bytes in memory.
    pub id: u32,
    /// `dport << 16 | sport`, each in host byte order.
    pub ports: u32,
    /// IANA protocol number.
    pub proto: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Fragment<Addr4>>() == 32);
const _: () = assert!(size_of::<Fragment<Addr6>>() == 64);
impl Plain for Fragment<Addr4> {}
impl Plain for Fragment<Addr6> {}
