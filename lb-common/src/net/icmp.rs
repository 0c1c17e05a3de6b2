//! ICMP errors that a router makes (RFC 792, RFC 1191, RFC 4443).
//!
//! A [`Letter`] is one error as words in memory order, so that its checksum is a sum over words and
//! nothing is ever unaligned.

/// What is the matter with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// It is larger than the way takes: L3 bytes.
    TooBig(u32),
    /// Its TTL or hop limit ends here.
    TimeExceeded,
}

/// Words of the longest error, the 1280 bytes that every IPv6 link takes (RFC 4443 section 2.4 (c)), and one more:
/// the word after a quote is always there.
const WORDS: usize = 321;

/// One ICMP error, from its IP header on, and how many were written lately.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Letter {
    /// When they were counted, and how many; the rate's bound.
    pub budget: Budget,
    /// The packet, words in memory order.
    pub words: [u32; WORDS],
}

impl Default for Letter {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            words: [0; WORDS],
        }
    }
}

/// A bound on how many errors are sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The span of time that is counted in.
    span: u32,
    /// How many were sent in it.
    spent: u32,
}

/// Errors that one CPU sends within a span, each family for itself: about a thousand a second.
const PER_SPAN: u32 = 64;
/// Ticks of a span, as a binary logarithm: four of 16.8 ms.
const SPAN_SHIFT: u32 = 2;

impl Budget {
    /// True if one more may be sent at `now` (ticks of [`crate::flow::clock`]); it counts as sent.
    #[inline(always)]
    pub fn spend(&mut self, now: u32) -> bool {
        let span = now >> SPAN_SHIFT;
        if span != self.span {
            *self = Self { span, spent: 0 };
        }
        self.spent += 1;
        self.spent <= PER_SPAN
    }
}

impl Letter {
    /// Writes words from `at` on.
    #[inline(always)]
    pub(super) fn put<const N: usize>(&mut self, at: usize, words: [u32; N]) {
        for (place, word) in self.words.iter_mut().skip(at).zip(words) {
            *place = word;
        }
    }

    /// The one's-complement sum over `len` bytes from word `from` on, not folded. The bytes up to the next
    /// whole word must be zero.
    #[inline(always)]
    pub(super) fn sum(&self, from: usize, len: u32) -> u64 {
        let words = len.div_ceil(4) as usize;
        let mut sum = 0;
        for (_, word) in (0..words).zip(self.words.iter().skip(from)) {
            sum += u64::from(*word);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let mut budget = Budget::default();
        let sent = (0..1_000).filter(|_| budget.spend(7)).count();
        assert_eq!(sent, PER_SPAN as usize);
        assert!(!budget.spend(7));
        assert!(budget.spend(8));
    }
}
