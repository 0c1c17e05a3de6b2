//! Packets that are made here, as words in memory order: their checksums are sums over words and nothing is
//! ever unaligned.

use super::csum;

/// Words of the longest one, the 1280 bytes that every IPv6 link takes (RFC 4443 section 2.4 (c)), and one more:
/// the word after a quote is always there.
const WORDS: usize = 321;

/// One packet, from its IP header on, and how many were written lately.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// The bound on ICMP errors.
    pub errors: Budget,
    /// The bound on resets, which cost their receiver no more than the packet that caused them.
    pub resets: Budget,
    /// The packet, words in memory order.
    pub words: [u32; WORDS],
}

impl Default for Letter {
    fn default() -> Self {
        Self {
            errors: Budget::default(),
            resets: Budget::default(),
            words: [0; WORDS],
        }
    }
}

/// How many letters were sent lately, of one kind.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The span of time that is counted in.
    span: u32,
    /// How many were sent in it.
    spent: u32,
}

/// ICMP errors that one CPU sends within a span, each family for itself: about ten thousand a second, what
/// Linux allows itself (`net.ipv4.icmp_msgs_per_sec`).
pub const ERRORS_PER_SPAN: u32 = 640;
/// The same for resets: about 65,000 a second.
pub const RESETS_PER_SPAN: u32 = 4_096;
/// Ticks of a span, as a binary logarithm: four of 16.8 ms.
const SPAN_SHIFT: u32 = 2;

impl Budget {
    /// True if one more may be sent at `now` (ticks of [`crate::flow::clock`]) where `most` may in a span; it counts
    /// as sent.
    #[inline(always)]
    pub fn spend(&mut self, now: u32, most: u32) -> bool {
        let span = now >> SPAN_SHIFT;
        if span != self.span {
            *self = Self { span, spent: 0 };
        }
        self.spent += 1;
        self.spent <= most
    }
}

impl Letter {
    /// Writes words from `at` on.
    #[inline(always)]
    pub fn put<const N: usize>(&mut self, at: usize, words: [u32; N]) {
        for (place, word) in self.words.iter_mut().skip(at).zip(words) {
            *place = word;
        }
    }

    /// The one's-complement sum over `len` bytes from word `from` on, not folded. The bytes up to the next
    /// whole word must be zero.
    #[inline(always)]
    pub fn sum(&self, from: usize, len: u32) -> u64 {
        let words = len.div_ceil(4) as usize;
        let mut sum = 0;
        for (_, word) in (0..words).zip(self.words.iter().skip(from)) {
            sum += u64::from(*word);
        }
        sum
    }

    /// The checksum (memory order) over `len` bytes from word `from` on, and `seed`; where it will stand must be zero.
    #[inline(always)]
    pub fn checksum(&self, from: usize, len: u32, seed: u64) -> [u8; 2] {
        checksum(seed + self.sum(from, len))
    }
}

/// The checksum (memory order) of what sums up to this.
#[inline(always)]
pub(super) fn checksum(sum: u64) -> [u8; 2] {
    (!csum::fold16(sum)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let mut budget = Budget::default();
        let sent = (0..1_000).filter(|_| budget.spend(7, 64)).count();
        assert_eq!(sent, 64);
        assert!(!budget.spend(7, 64));
        assert!(budget.spend(8, 64));
    }
}
