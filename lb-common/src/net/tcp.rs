//! TCP header (RFC 9293 section 3.1), as far as a balancer reads it.

use bytemuck::{Pod, Zeroable};

use super::{
    ip::{Ends, IpHeader, proto},
    letter::Letter,
};

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
    /// The sender has no more to say.
    pub const FIN: u8 = 1 << 0;
    /// Sequence numbers begin.
    pub const SYN: u8 = 1 << 1;
    /// The connection is reset.
    pub const RST: u8 = 1 << 2;
    /// Something is acknowledged.
    pub const ACK: u8 = 1 << 4;

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

    /// True if nothing begins or ends with it.
    #[inline(always)]
    pub fn goes_on(self) -> bool {
        self.0 & (Self::SYN | Self::FIN | Self::RST) == 0
    }

    /// Something is acknowledged.
    #[inline(always)]
    pub fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// The control bits that take a number of the sequence: SYN and FIN.
    #[inline(always)]
    fn numbered(self) -> u32 {
        u32::from(self.0 & Self::SYN != 0) + u32::from(self.0 & Self::FIN != 0)
    }

    /// The answer to a first segment: SYN and ACK, and no RST.
    #[inline(always)]
    pub fn accepts(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN | Self::ACK
    }

    /// A first segment: SYN, and neither ACK nor RST.
    #[inline(always)]
    pub fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }
}

/// Writes the reset that answers a segment with `payload` bytes to nobody (RFC 9293 section 3.10.7.1); `ends` are
/// those of the answer. Returns the length of the whole, bytes.
#[inline(always)]
pub fn reset<H: IpHeader>(
    letter: &mut Letter,
    ends: &Ends<H::Addr>,
    segment: &Tcp,
    payload: u32,
) -> u32 {
    const LEN: u32 = size_of::<Tcp>() as u32;
    let flags = Flags::from_bits(segment.flags);
    let [[a, b], [c, d]] = [segment.dport, segment.sport];
    let (seq, ack, control) = if flags.ack() {
        (u32::from_ne_bytes(segment.ack), 0, Flags::RST)
    } else {
        let next = u32::from_be_bytes(segment.seq)
            .wrapping_add(payload)
            .wrapping_add(flags.numbered());
        (0, next.to_be(), Flags::RST | Flags::ACK)
    };
    H::head(letter, ends, proto::TCP, LEN, false);
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let rest = u32::from_ne_bytes([5 << 4, control, 0, 0]);
    letter.put(H::WORDS, [ports, seq, ack, rest, 0]);
    let seed = H::pseudo_sum(letter, proto::TCP, LEN);
    let [low, high] = letter.checksum(H::WORDS, LEN, seed);
    letter.put(H::WORDS + 4, [u32::from_ne_bytes([low, high, 0, 0])]);
    4 * H::WORDS as u32 + LEN
}
