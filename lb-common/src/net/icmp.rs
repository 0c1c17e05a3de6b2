//! ICMP errors that a router makes (RFC 792, RFC 1191, RFC 4443).

use super::{
    ip::{Ends, IpHeader},
    letter::Letter,
};

/// What is the matter with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// It is larger than the way takes: L3 bytes.
    TooBig(u32),
    /// Its TTL or hop limit ends here.
    TimeExceeded,
    /// Nobody serves the port that it was sent to.
    PortUnreachable,
}

/// Length of the header of an error, words.
pub const WORDS: usize = 2;

/// Writes the headers of an error about the packet that `letter` quotes the first `quoted` bytes of. Returns the
/// length of the whole, bytes.
#[inline(always)]
pub fn head<H: IpHeader>(
    letter: &mut Letter,
    ends: &Ends<H::Addr>,
    error: IcmpError,
    quoted: u32,
) -> u32 {
    let payload = 4 * WORDS as u32 + quoted;
    H::head(letter, ends, H::ICMP, payload, true);
    let [first, second] = H::error(error);
    letter.put(H::WORDS, [first, second]);
    let seed = if H::HAS_ICMP_PSEUDO {
        H::pseudo_sum(letter, H::ICMP, payload)
    } else {
        0
    };
    let [low, high] = letter.checksum(H::WORDS, payload, seed);
    let [kind, code, ..] = first.to_ne_bytes();
    letter.put(H::WORDS, [u32::from_ne_bytes([kind, code, low, high])]);
    4 * H::WORDS as u32 + payload
}
