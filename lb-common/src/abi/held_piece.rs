//! `pieces`: fragments that came before the first one of their datagram.

use super::Plain;

/// Bytes of the longest frame that is kept: jumbo frames of 9,216 bytes, and what stands before them.
pub const FRAME_LEN: usize = 9_248;

/// One fragment of either family, as it came; the protocol is in [`crate::fragment::shelf`].
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldPiece {
    /// `version << 2 | state`: see [`crate::fragment::shelf::State`].
    pub state: u32,
    /// Tick of its coming.
    pub held_at: u32,
    /// Which datagram it belongs to.
    pub key: PieceKey,
    /// The device that it came by.
    pub ifindex: u32,
    /// Bytes before its IP header.
    pub l2: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// Zero.
    pub pad: u32,
    /// The frame.
    pub frame: [u8; FRAME_LEN],
}

/// What the fragments of one datagram have in common.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PieceKey {
    /// Source address, words beyond its length zero.
    pub src: [u32; 4],
    /// Destination address, likewise.
    pub dst: [u32; 4],
    /// The identification, in the order of the bytes in memory.
    pub id: u32,
    /// `EtherType << 16`, and for IPv4 the IANA protocol number.
    pub kind: u32,
}

const _: () = assert!(size_of::<PieceKey>() == 40);
const _: () = assert!(size_of::<HeldPiece>() == 64 + FRAME_LEN);
impl Plain for HeldPiece {}
