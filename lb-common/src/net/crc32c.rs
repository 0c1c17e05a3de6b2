//! `CRC32c` (RFC 9260 appendix A), and what a change of a packet's first word does to it.
//!
//! The checksum of SCTP covers the whole packet, but a CRC is linear: the difference that a changed word makes
//! depends on that word's difference and on how many bytes follow it, not on what they are. So ports are
//! rewritten without reading the payload.

/// Castagnoli's polynomial, bits reversed: bit 31 stands for x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// A length has at most this many bits.
const LENGTH_BITS: usize = 17;

/// What 2^k zero bytes make of a remainder, nibble by nibble: `ZERO_BYTES[k][n][v]` is what becomes of the value `v` in
/// the `n`th nibble. A remainder is the sum of its nibbles, and so is what becomes of it.
static ZERO_BYTES: [[[u32; 16]; 8]; LENGTH_BITS] = zero_bytes();

const fn zero_bytes() -> [[[u32; 16]; 8]; LENGTH_BITS] {
    let mut tables = [[[0; 16]; 8]; LENGTH_BITS];
    // x^8, and then x^(8 * 2^k), modulo the polynomial.
    let mut power = 1 << (31 - 8);
    let mut k = 0;
    while k < LENGTH_BITS {
        let mut at = 0;
        while at < 8 * 16 {
            let (nibble, value) = (at / 16, at % 16);
            tables[k][nibble][value] = multiply((value as u32) << (4 * nibble), power);
            at += 1;
        }
        power = multiply(power, power);
        k += 1;
    }
    tables
}

/// Remainder of the product of two remainders.
const fn multiply(a: u32, b: u32) -> u32 {
    let (mut factor, mut product) = (b, 0);
    let mut bit = 0;
    while bit < 32 {
        // From x^0 on.
        if a << bit >> 31 == 1 {
            product ^= factor;
        }
        factor = factor >> 1 ^ if factor & 1 == 1 { POLYNOMIAL } else { 0 };
        bit += 1;
    }
    product
}

/// The remainder after as many zero bytes as the table is for. Without a branch on the data: in the BPF object each would
/// double what the verifier has to follow.
#[inline(always)]
fn moved(remainder: u32, table: &[[u32; 16]; 8]) -> u32 {
    let mut moved = 0;
    for (nibble, values) in table.iter().enumerate() {
        moved ^= values[(remainder >> (4 * nibble) & 15) as usize];
    }
    moved
}

/// The remainder after a 32-bit word (memory order) went in, without any inversion.
#[inline(always)]
fn word(remainder: u32, word: u32) -> u32 {
    // Least significant bit first is how the bytes go in, so the word is a remainder that is moved on by its length.
    moved(
        remainder ^ u32::from_le_bytes(word.to_ne_bytes()),
        &ZERO_BYTES[2],
    )
}

/// A checksum (as a number) of a message of `len` bytes after its first word changed from `old` to `new`, both as
/// they stand in memory. `len` is less than 2^17.
#[inline(always)]
pub fn replace_first(check: u32, old: u32, new: u32, len: u32) -> u32 {
    let mut difference = word(0, old ^ new);
    let behind = len.saturating_sub(4);
    for (k, table) in ZERO_BYTES.iter().enumerate() {
        let moved = moved(difference, table);
        let is_set = (behind >> k & 1).wrapping_neg();
        difference = moved & is_set | difference & !is_set;
    }
    check ^ difference
}

/// The checksum (as a number) over words as they stand in memory.
#[inline(always)]
pub fn of_words<const N: usize>(words: [u32; N]) -> u32 {
    let mut remainder = !0;
    for next in words {
        remainder = word(remainder, next);
    }
    !remainder
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the definition says.
    fn plain(bytes: &[u8]) -> u32 {
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            }
        }
        !crc
    }

    #[test]
    fn the_examples_of_rfc_3720_appendix_b_4() {
        assert_eq!(plain(&[0; 32]), 0x8a91_36aa);
        assert_eq!(of_words([0; 8]), 0x8a91_36aa);
        assert_eq!(of_words([u32::MAX; 8]), 0x62a8_ab43);
    }

    proptest! {
        #[test]
        fn a_changed_first_word_needs_no_look_at_the_rest(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..3_000),
            new in any::<[u8; 4]>(),
        ) {
            let before = plain(&bytes);
            let old: [u8; 4] = bytes[..4].try_into().expect("four bytes");
            bytes[..4].copy_from_slice(&new);
            let len = u32::try_from(bytes.len()).expect("short");
            let (old, new) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
            prop_assert_eq!(replace_first(before, old, new, len), plain(&bytes));
        }
    }
}
