//! What many samples say: the middle, the spread, and how two things measured in turns compare.
//!
//! Pure. The bootstrap draws from numbers of its own, so the same samples always give the same interval.

use serde::{Deserialize, Serialize};

/// How often a ratio is drawn anew.
const DRAWS: usize = 2000;

/// The middle of samples, and the quarters around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Half of the samples are below.
    pub(crate) median: f64,
    /// A quarter is below.
    pub(crate) low: f64,
    /// A quarter is above.
    pub(crate) high: f64,
}

impl Summary {
    /// Of these samples; none if there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let sorted = sorted(samples);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
        })
    }
}

/// How many times the other one, by samples taken in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    /// The median of the rounds' ratios.
    pub(crate) median: f64,
    /// In nineteen of twenty runs such as this one the true ratio is above this ...
    pub(crate) low: f64,
    /// ... and below this.
    pub(crate) high: f64,
}

impl Ratio {
    /// Of samples that belong together one by one; none if there are none. What one side has more is left out.
    pub(crate) fn paired(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = ours
            .iter()
            .zip(theirs)
            .filter(|(_, theirs)| **theirs > 0.0)
            .map(|(ours, theirs)| ours / theirs)
            .collect();
        let median = quantile(&sorted(&ratios), 0.5)?;
        let mut random = Random::default();
        let draw = |_| {
            let drawn: Vec<f64> = ratios
                .iter()
                .filter_map(|_| ratios.get(random.below(ratios.len())).copied())
                .collect();
            quantile(&sorted(&drawn), 0.5)
        };
        let medians: Vec<f64> = (0..DRAWS).filter_map(draw).collect();
        let medians = sorted(&medians);
        Some(Self {
            median,
            low: quantile(&medians, 0.025)?,
            high: quantile(&medians, 0.975)?,
        })
    }
}

/// The value below which this share of the samples is, between two samples by their distance.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "positions in a list of samples"
)]
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (position - below as f64))
}

/// In order.
pub(crate) fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Numbers that look random (Marsaglia's xorshift), the same in every run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// A number below `limit`; 0 if there is none.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = limit.max(1) as u64;
        usize::try_from((self.0 >> 11) % limit).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_quarters() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        let expected = Summary {
            median: 3.0,
            low: 2.0,
            high: 4.0,
        };
        assert_eq!(summary, expected);
        let between = Summary::of(&[1.0, 2.0]).map(|summary| summary.median);
        assert_eq!(between, Some(1.5));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_ratio_is_that_of_pairs_and_not_that_of_medians() {
        // The machine was ten times slower in one round: both sides were.
        let ratio = Ratio::paired(&[2.0, 20.0, 2.0], &[1.0, 10.0, 1.0]).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (2.0, 2.0, 2.0));
    }

    #[test]
    fn the_interval_holds_the_truth_and_is_narrower_with_more_rounds() {
        let mut random = Random::default();
        let mut noisy = |n: usize| -> Vec<f64> {
            let sample = |_| 100.0 + f64::from(u32::try_from(random.below(20)).unwrap());
            (0..n).map(sample).collect()
        };
        let mut of = |n| Ratio::paired(&noisy(n), &noisy(n)).unwrap();
        let (few, many) = (of(8), of(400));
        for ratio in [few, many] {
            assert!(ratio.low <= 1.0 && 1.0 <= ratio.high, "{ratio:?}");
        }
        assert!(many.high - many.low < few.high - few.low);
    }

    #[test]
    fn rounds_without_a_peer_do_not_count() {
        assert_eq!(Ratio::paired(&[1.0], &[]), None);
        assert_eq!(Ratio::paired(&[1.0], &[0.0]), None);
        let ratio = Ratio::paired(&[3.0, 9.0], &[2.0]);
        assert_eq!(ratio.map(|ratio| ratio.median), Some(1.5));
    }
}
