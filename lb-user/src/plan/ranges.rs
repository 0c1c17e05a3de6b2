//! The allocator of slot ranges.
//!
//! Best fit, lowest base first among equals, neighbours merged when a range comes back: a service takes
//! the smallest gap that holds it, so that large gaps stay for large services. Like the pool of ids it
//! knows nothing of readers.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::SlotRange;

/// The gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    /// Base -> length.
    by_base: BTreeMap<u32, u32>,
    /// The same gaps as length and base.
    by_len: BTreeSet<(u32, u32)>,
}

impl Ranges {
    /// `len` slots, all free.
    pub(super) fn new(len: u32) -> Self {
        let mut ranges = Self {
            by_base: BTreeMap::new(),
            by_len: BTreeSet::new(),
        };
        if len > 0 {
            ranges.insert(0, len);
        }
        ranges
    }

    /// Takes `len` neighbouring slots and says the first; `None`: no gap is that long.
    pub(super) fn take(&mut self, len: u32) -> Option<u32> {
        let &(gap, base) = self.by_len.range((len, 0)..).next()?;
        self.remove(base, gap);
        if gap > len {
            self.insert(base + len, gap - len);
        }
        Some(base)
    }

    /// Takes just this range; false: a part of it is in use or does not exist.
    #[must_use = "the range may be in use"]
    pub(super) fn take_exact(&mut self, range: SlotRange) -> bool {
        let Some((&base, &gap)) = self.by_base.range(..=range.base).next_back() else {
            return false;
        };
        let (end, gap_end) = (
            u64::from(range.base) + u64::from(range.count),
            u64::from(base) + u64::from(gap),
        );
        if end > gap_end {
            return false;
        }
        self.remove(base, gap);
        if range.base > base {
            self.insert(base, range.base - base);
        }
        if end < gap_end {
            let end = range.base + range.count;
            self.insert(end, base + gap - end);
        }
        true
    }

    /// Takes back a range that was taken.
    pub(super) fn give_back(&mut self, SlotRange { base, count }: SlotRange) {
        let mut gap = SlotRange { base, count };
        let before = self
            .by_base
            .range(..base)
            .next_back()
            .map(|(base, len)| (*base, *len));
        if let Some((before, len)) = before.filter(|(before, len)| before + len == base) {
            self.remove(before, len);
            gap = SlotRange {
                base: before,
                count: gap.count + len,
            };
        }
        if let Some(&len) = self.by_base.get(&(base + count)) {
            self.remove(base + count, len);
            gap.count += len;
        }
        self.insert(gap.base, gap.count);
    }

    fn insert(&mut self, base: u32, len: u32) {
        self.by_base.insert(base, len);
        self.by_len.insert((len, base));
    }

    fn remove(&mut self, base: u32, len: u32) {
        self.by_base.remove(&base);
        self.by_len.remove(&(len, base));
    }

    /// How many of `len` slots are in use.
    pub(super) fn n_taken(&self, len: u32) -> u32 {
        len.saturating_sub(self.n_free())
    }

    /// How many are free.
    pub(super) fn n_free(&self) -> u32 {
        self.by_base.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEN: u32 = 64;

    #[test]
    fn the_smallest_gap_that_is_long_enough_is_taken() {
        let mut ranges = Ranges::new(20);
        for len in [5, 1, 3, 1, 10] {
            assert!(ranges.take(len).is_some());
        }
        ranges.give_back(SlotRange { base: 0, count: 5 });
        ranges.give_back(SlotRange { base: 6, count: 3 });
        assert_eq!(ranges.take(3), Some(6));
        assert_eq!(ranges.take(3), Some(0));
        assert_eq!(ranges.take(3), None);
    }

    #[test]
    fn an_exact_range_is_taken_once() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.take_exact(SlotRange { base: 4, count: 2 }));
        for base in 3..=5 {
            assert!(!ranges.take_exact(SlotRange { base, count: 2 }));
        }
        assert!(!ranges.take_exact(SlotRange { base: 9, count: 2 }));
        assert_eq!((ranges.take(4), ranges.take(4)), (Some(0), Some(6)));
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_come_back(lens in prop::collection::vec((1..12_u32, any::<prop::sample::Index>()), 1..60)) {
            let mut ranges = Ranges::new(LEN);
            let mut taken: Vec<SlotRange> = Vec::new();
            for (count, idx) in lens {
                if let Some(base) = ranges.take(count) {
                    prop_assert!(base + count <= LEN);
                    prop_assert!(taken.iter().all(|other| other.base + other.count <= base || base + count <= other.base));
                    taken.push(SlotRange { base, count });
                } else {
                    let idx = idx.index(taken.len());
                    ranges.give_back(taken.swap_remove(idx));
                }
                let in_use: u32 = taken.iter().map(|range| range.count).sum();
                prop_assert_eq!(ranges.n_free(), LEN - in_use);
            }
            for range in taken {
                ranges.give_back(range);
            }
            prop_assert_eq!(ranges, Ranges::new(LEN));
        }
    }
}
