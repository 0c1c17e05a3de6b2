//! `flows`: one slot per direction of a connection; the protocol is in [`crate::flow::table`].

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// One direction of one connection: what arrives, and what it becomes.
///
/// 64 bytes for IPv4, one cache line; 128 for IPv6 with all that a miss reads in the first line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSlot<A> {
    /// `version << 3 | state`; see [`crate::flow::slot::State`].
    pub state: u32,
    /// Belongs to the *position*, not to the flow in it: where the flows that call it home were put.
    pub home: u32,
    /// Source address of the packets of this direction.
    pub src: A,
    /// Destination address of the packets of this direction.
    pub dst: A,
    /// Source port, host byte order.
    pub sport: u16,
    /// Destination port, host byte order.
    pub dport: u16,
    /// IANA protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// See [`crate::flow::slot::flags`].
    pub flags: u16,
    /// Tick of the last packet of this direction.
    pub last_seen: u32,
    /// Position of the other direction.
    pub twin: u32,
    /// The backend that was chosen.
    pub backend: u32,
    /// [`crate::abi::Backend::generation`] when it was chosen.
    pub generation: u16,
    /// [`crate::abi::next_hop::NextHopRef`].
    pub next_hop: u16,
    /// Source address after the rewrite.
    pub new_src: A,
    /// Destination address after the rewrite.
    pub new_dst: A,
    /// Source port after the rewrite, host byte order.
    pub new_sport: u16,
    /// Destination port after the rewrite, host byte order.
    pub new_dport: u16,
    /// Packets, approximate: two CPUs may lose one.
    pub packets: u32,
    /// L3 bytes, approximate.
    pub bytes: u64,
}

const _: () = assert!(size_of::<FlowSlot<Addr4>>() == 64);
const _: () = assert!(size_of::<FlowSlot<Addr6>>() == 128);
const _: () = assert!(core::mem::offset_of!(FlowSlot<Addr6>, next_hop) < 64);
// IPv6 ends 16 bytes short of two lines; userspace reads slots as bytes and never relies on the tail.
impl Plain for FlowSlot<Addr4> {}
impl Plain for FlowSlot<Addr6> {}
