//! ICMP (RFC 792, RFC 1191, RFC 4443): errors that a router makes, and what is read of those that others make.

use super::{
    ip::{Ends, IpHeader, proto},
    letter::{Letter, checksum},
    tcp, udp,
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
/// Bytes from the ICMP header to its checksum.
pub const CHECK_AT: u32 = 2;
/// Bytes from the ICMP header to the packet that an error quotes.
pub const QUOTE_AT: u32 = 4 * WORDS as u32;
/// How much of a quoted packet's transport header an error has at least (RFC 792), bytes: ports and little else.
pub const QUOTED_LEAST: u32 = 8;
/// The first bytes of an error, from its IP header on, all of which is read and written is in; what is quoted
/// behind further headers is let alone.
pub const REACH: u32 = 0x100;

/// What a message is to a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An error that ends with the packet that it is about.
    Error,
    /// Such an error whose sender is the news: a trace is made of them.
    TimeExceeded,
    /// An echo request.
    Echo,
    /// Anything else.
    Other,
}

/// What the header of a quoted packet says besides the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Protocol of the payload, one with ports.
    pub proto: u8,
    /// Where the payload begins, bytes from the IP header of the error.
    pub l4: u32,
    /// Where it ends, by its own account; the quote may end before.
    pub end: u32,
}

impl Quote {
    /// The quote, if its ports are inside of it and of what is read.
    #[inline(always)]
    pub fn checked(self) -> Option<Self> {
        // A checksum may stand 18 bytes behind.
        let is_in_reach = self.l4 + 20 <= REACH;
        (is_in_reach && self.l4 + QUOTED_LEAST <= self.end && proto::has_ports(self.proto))
            .then_some(self)
    }

    /// Where the transport checksum stands, and whether zero means that there is none; `None`: it is not quoted, or
    /// one that cannot be brought up to date without the rest of the packet (SCTP). `len`: the error's length.
    #[inline(always)]
    pub fn check(self, len: u32) -> Option<(u32, bool)> {
        let (at, zero_is_none) = match self.proto {
            proto::TCP => (self.l4 + tcp::CHECK_AT, false),
            proto::UDP => (self.l4 + udp::CHECK_AT, true),
            _ => return None,
        };
        (at + 2 <= len.min(self.end)).then_some((at, zero_is_none))
    }
}

/// Writes the headers of an error about the packet that `letter` quotes the first `quoted` bytes of. Returns the
/// length of the whole, bytes. `sum` is [`Letter::sum`]: it goes over the whole quote.
#[inline(always)]
pub fn head<H: IpHeader>(
    letter: &mut Letter,
    ends: &Ends<H::Addr>,
    error: IcmpError,
    quoted: u32,
    sum: impl FnOnce(&Letter, usize, u32) -> u64,
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
    let [low, high] = checksum(seed + sum(letter, H::WORDS, payload));
    let [kind, code, ..] = first.to_ne_bytes();
    letter.put(H::WORDS, [u32::from_ne_bytes([kind, code, low, high])]);
    4 * H::WORDS as u32 + payload
}
