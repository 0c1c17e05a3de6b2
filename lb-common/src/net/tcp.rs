//! TCP header (RFC 9293 section 3.1), as far as a balancer reads it.

use bytemuck::{Pod, Zeroable};

/// Bytes from the TCP header to its checksum.
pub const CHECK_AT: u32 = 16;

/// The header without options, on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Tcp {
    /// Source port.
    pub sport: [u8; 2],
    /// Destination port.
    pub dport: [u8; 2],
    /// Sequence number.
    pub seq: [u8; 4],
    /// Acknowledgement number.
    pub ack: [u8; 4],
    /// Header length in words (upper half) and reserved bits.
    pub offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window.
    pub window: [u8; 2],
    /// Checksum over pseudo header, header and payload.
    pub check: [u8; 2],
    /// Urgent pointer.
    pub urgent: [u8; 2],
}

const _: () = assert!(size_of::<Tcp>() == 20 && align_of::<Tcp>() == 1);

/// The control bits of a segment; all zero for UDP.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    const FIN: u8 = 1 << 0;
    const SYN: u8 = 1 << 1;
    const RST: u8 = 1 << 2;
    const ACK: u8 = 1 << 4;

    /// The bits as they stand in the header.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// The sender has no more to say.
    #[inline(always)]
    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// The connection is reset.
    #[inline(always)]
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// A first segment: SYN, and neither ACK nor RST.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}
