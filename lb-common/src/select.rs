//! The choice of a backend for a new connection.

use crate::abi::SlotRange;

/// The slot that `random` falls on, uniformly; `None`: the range is empty.
///
/// Multiply and shift (Lemire 2019) instead of a remainder: no division, and a bias below
/// count / 2^32.
#[inline(always)]
pub fn uniform(range: SlotRange, random: u32) -> Option<u32> {
    if range.count == 0 {
        return None;
    }
    let offset = (u64::from(random) * u64::from(range.count)) >> 32;
    Some(range.base.wrapping_add(offset as u32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_range_has_no_slot() {
        assert_eq!(uniform(SlotRange { base: 7, count: 0 }, 1), None);
    }

    #[test]
    fn equal_shares_of_the_random_numbers_fall_on_each_slot() {
        let range = SlotRange {
            base: 100,
            count: 4,
        };
        for share in 0..4_u32 {
            let first = share << 30;
            assert_eq!(uniform(range, first), Some(100 + share));
            assert_eq!(uniform(range, first + ((1 << 30) - 1)), Some(100 + share));
        }
    }

    proptest! {
        #[test]
        fn the_slot_is_inside_the_range(base in 0..1_000_000_u32, count in 1..100_000_u32, random in any::<u32>()) {
            let slot = uniform(SlotRange { base, count }, random).expect("not empty");
            prop_assert!((base..base + count).contains(&slot));
        }
    }
}
