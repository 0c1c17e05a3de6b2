//! SCTP common header (RFC 9260 section 3.1), as far as a balancer reads it.

use bytemuck::{Pod, Zeroable};

use super::{
    crc32c,
    ip::{Ends, IpHeader, proto},
    letter::Letter,
    tcp::Flags,
};

/// Bytes from the common header to its checksum.
pub const CHECK_AT: u32 = 8;
/// Bytes from the common header to the first chunk.
pub const CHUNK_AT: u32 = 12;
/// Chunk type: the first packet of an association.
const INIT: u8 = 1;
/// Chunk type: the answer to it.
const INIT_ACK: u8 = 2;
/// Chunk type: the end of one.
const ABORT: u8 = 6;
/// Chunk type: the sender has no more to say.
const SHUTDOWN: u8 = 7;
/// Chunk type: nor has the other.
const SHUTDOWN_ACK: u8 = 8;
/// Chunk type: the last step of a beginning.
const COOKIE_ACK: u8 = 11;
/// Chunk type: the last step of an orderly end.
const SHUTDOWN_COMPLETE: u8 = 14;
/// What a packet's first chunk does to its association, as the control bits of the TCP segment that does the same to a
/// connection. INIT and SHUTDOWN COMPLETE stand alone, ABORT and SHUTDOWN first or alone (RFC 9260 section 6.10).
#[inline(always)]
pub fn as_tcp(chunk: u8) -> Flags {
    Flags::from_bits(match chunk {
        INIT => Flags::SYN,
        INIT_ACK => Flags::SYN | Flags::ACK,
        ABORT => Flags::RST,
        SHUTDOWN | SHUTDOWN_ACK => Flags::FIN | Flags::ACK,
        _ => Flags::ACK,
    })
}

/// Flag of an ABORT: its tag is the one that its receiver has used.
const TAG_REFLECTED: u8 = 1;

/// The common header, and the beginning of the first chunk, on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Sctp {
    /// Source port.
    pub sport: [u8; 2],
    /// Destination port.
    pub dport: [u8; 2],
    /// Verification tag: what the receiver has chosen; zero in an INIT.
    pub tag: [u8; 4],
    /// `CRC32c` over the packet with this field zero, least significant byte first.
    pub check: [u8; 4],
    /// Type of the first chunk.
    pub chunk: u8,
    /// Flags of the first chunk.
    pub chunk_flags: u8,
    /// Length of the first chunk, bytes.
    pub chunk_len: [u8; 2],
    /// The first four bytes of its value: in an INIT the sender's tag.
    pub initiate_tag: [u8; 4],
}

const _: () = assert!(size_of::<Sctp>() == 20 && align_of::<Sctp>() == 1);

impl Sctp {
    /// True if it must not be answered where nobody knows its association (RFC 9260 section 8.4, 2, 6 and 7).
    #[inline(always)]
    pub fn is_silenced(&self) -> bool {
        matches!(self.chunk, ABORT | COOKIE_ACK | SHUTDOWN_COMPLETE)
    }
}

/// Writes the ABORT that answers a packet to nobody (RFC 9260 section 8.4); `ends` are those of the answer. Returns
/// the length of the whole, bytes.
#[inline(always)]
pub fn abort<H: IpHeader>(letter: &mut Letter, ends: &Ends<H::Addr>, packet: &Sctp) -> u32 {
    const LEN: u32 = 16;
    let [[a, b], [c, d]] = [packet.dport, packet.sport];
    let ports = u32::from_ne_bytes([a, b, c, d]);
    let (tag, flags) = if packet.chunk == INIT {
        (packet.initiate_tag, 0)
    } else {
        (packet.tag, TAG_REFLECTED)
    };
    let tag = u32::from_ne_bytes(tag);
    let chunk = u32::from_ne_bytes([ABORT, flags, 0, 4]);
    let check = crc32c::of_words([ports, tag, 0, chunk]).to_le();
    H::head(letter, ends, proto::SCTP, LEN, false);
    letter.put(H::WORDS, [ports, tag, check, chunk]);
    4 * H::WORDS as u32 + LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_chunk_opens_goes_on_finishes_or_ends() {
        let told = |chunk| {
            let flags = as_tcp(chunk);
            [flags.opens(), flags.accepts(), flags.fin(), flags.rst()]
        };
        assert_eq!(told(INIT), [true, false, false, false]);
        assert_eq!(told(INIT_ACK), [false, true, false, false]);
        for chunk in [SHUTDOWN, SHUTDOWN_ACK] {
            assert_eq!(told(chunk), [false, false, true, false], "{chunk}");
        }
        assert_eq!(told(ABORT), [false, false, false, true]);
        for chunk in [0, 3, 4, 5, 10, COOKIE_ACK, SHUTDOWN_COMPLETE] {
            assert_eq!(told(chunk), [false; 4], "{chunk}");
        }
    }
}
