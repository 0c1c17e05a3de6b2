//! The Internet checksum, incrementally.
//!
//! RFC 1624 (3): with HC the checksum in the header, m the old and m' the new word,
//! HC' = ~(~HC + ~m + m'). The sum is of 16-bit words, but one's-complement addition does not care how
//! words are grouped (RFC 1071 section 2): differences are gathered over 32-bit words in a `u64` and
//! folded once. Nothing here is byte-swapped: the sum of words in memory order is in memory order
//! (RFC 1071 section 2 (B)).

/// The change of a sum, ready to be applied to any checksum that covers the changed words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a header was changed: its checksum must be"]
pub struct Delta(u64);

impl Delta {
    /// `old` gave way to `new`, both as they stand in memory.
    #[inline(always)]
    pub fn replace(old: u32, new: u32) -> Self {
        Self(u64::from(!old) + u64::from(new))
    }

    /// `old` gave way to `new`, word by word.
    #[inline(always)]
    pub fn replace_words(old: [u32; 4], new: [u32; 4]) -> Self {
        let [old0, old1, old2, old3] = old;
        let [new0, new1, new2, new3] = new;
        Self::replace(old0, new0)
            .and(Self::replace(old1, new1))
            .and(Self::replace(old2, new2))
            .and(Self::replace(old3, new3))
    }

    /// True if what changed adds up to nothing.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        // Both zeros of one's complement.
        matches!(self.fold32(), 0 | 0xffff_ffff)
    }

    /// Both changes. Up to 2^30 of them fit before a carry could be lost.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a 32-bit one's-complement sum, as the kernel's `bpf_l4_csum_replace` takes it.
    #[inline(always)]
    pub fn fold32(self) -> u32 {
        let once = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        ((once & 0xffff_ffff) + (once >> 32)) as u32
    }

    /// A transport checksum after the change. `zero_is_none`: zero stands for "no checksum" and stays,
    /// and a sum that comes out as zero is sent as all ones (RFC 768).
    #[inline(always)]
    pub fn update(self, check: u16, zero_is_none: bool) -> u16 {
        match self.apply(check) {
            _ if zero_is_none && check == 0 => 0,
            0 if zero_is_none => 0xffff,
            check => check,
        }
    }

    /// The checksum `check` (memory order) after the change; RFC 1624 (3).
    #[inline(always)]
    pub fn apply(self, check: u16) -> u16 {
        !fold16(u64::from(!check) + self.0)
    }
}

/// A one's-complement sum folded to 16 bits.
#[inline(always)]
pub fn fold16(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum (memory order) over `bytes`, in full; for tests and packets that are made, not changed.
///
/// `seed` is the sum of a pseudo header, not complemented, 0 without one.
pub fn checksum(bytes: &[u8], seed: u64) -> u16 {
    !fold16(sum(bytes, seed))
}

/// The one's-complement sum of `bytes` as 16-bit words in memory order, an odd last byte padded.
pub fn sum(bytes: &[u8], seed: u64) -> u64 {
    let mut total = seed;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        if let [a, b] = word {
            total += u64::from(u16::from_ne_bytes([*a, *b]));
        }
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1624_section_4() {
        // HC = 0xdd2f, m = 0x5555, m' = 0x3285: HC' = 0x0000, where equation 2 gives 0xffff.
        let delta = Delta::replace(u32::from(0x5555_u16), u32::from(0x3285_u16));
        assert_eq!(delta.apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn an_incremental_change_equals_a_full_sum(
            mut data in proptest::collection::vec(any::<u8>(), 8..128),
            at in 0_usize..31,
            new in any::<u32>(),
        ) {
            let at = (at * 4).min(data.len() / 4 * 4 - 4);
            let before = checksum(&data, 0);
            let old: [u8; 4] = data[at..at + 4].try_into().expect("four bytes");
            data[at..at + 4].copy_from_slice(&new.to_ne_bytes());
            let delta = Delta::replace(u32::from_ne_bytes(old), new);
            let after = delta.apply(before);
            let full = checksum(&data, 0);
            // Both zeros of one's complement stand for the same sum.
            prop_assert!(after == full || (after ^ full == 0xffff && (after == 0 || full == 0)));
        }

        #[test]
        fn changing_there_and_back_is_no_change(check in any::<u16>(), old in any::<u32>(), new in any::<u32>()) {
            let there = Delta::replace(old, new).apply(check);
            let back = Delta::replace(new, old).apply(there);
            prop_assert!(back == check || (back ^ check == 0xffff && (back == 0 || check == 0)));
        }
    }
}
