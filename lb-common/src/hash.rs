//! The flow hash: keyed, so that nobody outside can aim at one window of the table.
//!
//! NH (RFC 4418 section 5.2), the inner hash of UMAC: a sum of products of keyed 32-bit words. Under a
//! secret key two different tuples of equal length collide with probability 2^-32, and its
//! multiplications do not wait for each other (a chained hash of the same strength takes twice as
//! long). NH alone spreads unevenly over its low bits, hence the finalizer (that of `MurmurHash3`).

use crate::net::addr::Addr;

/// Words that one tuple makes: two addresses, ports, protocol.
const WORDS: usize = 10;

/// The secret: one word per word of input, and a spare pair.
pub type HashKey = [u32; WORDS + 2];

/// 64 well-spread bits of one packet's tuple; ports in host byte order.
#[inline(always)]
pub fn tuple<A: Addr>(key: &HashKey, src: A, dst: A, ports: u32, proto: u8) -> u64 {
    let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9, k10, _] = *key;
    let (src, dst) = (src.words(), dst.words());
    let mut sum = nh(k0, src[0], k1, dst[0])
        .wrapping_add(nh(k2, ports, k3, u32::from(proto)))
        .wrapping_add(u64::from(k10));
    if size_of::<A>() > 4 {
        sum = sum
            .wrapping_add(nh(k4, src[1], k5, dst[1]))
            .wrapping_add(nh(k6, src[2], k7, dst[2]))
            .wrapping_add(nh(k8, src[3], k9, dst[3]));
    }
    finish(sum)
}

#[inline(always)]
fn nh(key_a: u32, a: u32, key_b: u32, b: u32) -> u64 {
    u64::from(key_a.wrapping_add(a)).wrapping_mul(u64::from(key_b.wrapping_add(b)))
}

/// The 64-bit finalizer of `MurmurHash3`.
#[inline(always)]
pub fn finish(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}

/// The key that a seed stands for, by `SplitMix64` (Steele, Lea, Flood 2014).
pub const fn expand(seed: u64) -> HashKey {
    let mut key = [0; 12];
    let mut state = seed;
    let mut at = 0;
    while at < key.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        key[at] = bits as u32;
        key[at + 1] = (bits >> 32) as u32;
        at += 2;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::{Addr4, Addr6};

    const KEY: HashKey = [
        0x9e37_79b9,
        0x7f4a_7c15,
        0xf39c_c060,
        0x5ced_c834,
        0x1082_276b,
        0xf3a2_7251,
        0xf86c_6a11,
        0xd0c1_8e95,
        0x2767_f0b1,
        0x53d2_7b7f,
        0x0347_045b,
        0x5bf1_827f,
    ];

    /// Chi-square of `counts` against a uniform spread, divided by its degrees of freedom.
    #[expect(clippy::cast_precision_loss, reason = "a thousand counts, not 2^52")]
    fn unevenness(counts: &[u32]) -> f64 {
        let total: u32 = counts.iter().sum();
        let expected = f64::from(total) / counts.len() as f64;
        let chi: f64 = counts
            .iter()
            .map(|n| (f64::from(*n) - expected).powi(2) / expected)
            .sum();
        chi / (counts.len() - 1) as f64
    }

    #[test]
    fn neighbouring_tuples_spread_over_both_homes() {
        let (mut first, mut second) = (vec![0_u32; 1024], vec![0_u32; 1024]);
        for client in 0..64_u32 {
            for port in 32_768..33_792_u32 {
                let src = Addr4 {
                    be32: (0x0a00_0000 + client).to_be(),
                };
                let hash = tuple(&KEY, src, Addr4 { be32: 1 }, (port << 16) | 0x50, 6);
                first[hash as usize & 1023] += 1;
                second[(hash >> 32) as usize & 1023] += 1;
            }
        }
        // 1,023 degrees of freedom: 0.86 to 1.15 holds for all but one in a thousand random functions.
        for counts in [first, second] {
            let spread = unevenness(&counts);
            assert!((0.8..1.2).contains(&spread), "{spread}");
        }
    }

    #[test]
    fn every_word_of_the_tuple_matters() {
        let base = [[1, 2, 3, 4], [5, 6, 7, 8]];
        let hash = |addrs: [[u32; 4]; 2], ports, proto| {
            tuple(
                &KEY,
                Addr6 { be32: addrs[0] },
                Addr6 { be32: addrs[1] },
                ports,
                proto,
            )
        };
        let reference = hash(base, 9, 6);
        for side in 0..2 {
            for word in 0..4 {
                let mut other = base;
                other[side][word] ^= 1;
                assert_ne!(hash(other, 9, 6), reference, "side {side} word {word}");
            }
        }
        assert_ne!(hash(base, 8, 6), reference);
        assert_ne!(hash(base, 9, 17), reference);
    }
}
