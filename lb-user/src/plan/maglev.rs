//! Maglev tables: which backend stands at which place, the same on every node.
//!
//! As in Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016, section 3.4): each backend
//! prefers places in an order of its own, and they take turns, each the next place that it prefers and that is free.
//! So shares differ by one place at most, and who comes or goes disturbs the others little.
//!
//! Two things differ. A backend's order is a random sequence instead of an offset and a skip: it needs no prime size, and no
//! two backends can have nearly the same order by bad luck (with ten backends and 4,096 places the paper's moved up to
//! 6 % more than it had to, this at most 1.6 %). And the size is chosen by what is moved needlessly: [`default_size`].
//!
//! An order comes of who the backend is, never of a number that this node gave it.

use lb_common::hash;

use crate::desired::{MAGLEV_PER_ENDPOINT, MAX_MAGLEV_SIZE};

/// Places of the smallest table of several backends.
const LEAST: u32 = 4_096;
/// Places per backend from which on a few backends find each other in the way seldom enough.
const FOR_FEW: u32 = 1_024;
/// Places from which on that does not hang on the number of backends any more.
const ENOUGH: u32 = 65_536;

/// Places of a table of so many backends, unless a service asks for another size: so many that the change of one of them
/// moves less than a hundredth of the places more than it has to.
///
/// A power of four as long as they are few, so that the size seldom changes with them: it moves nearly everything.
/// Hangs on nothing but the number, so that all nodes agree.
pub(super) fn default_size(n_backends: u32) -> u32 {
    if n_backends <= 1 {
        return n_backends;
    }
    let few = n_backends.saturating_mul(FOR_FEW).min(ENOUGH);
    let mut size = LEAST;
    while size < few {
        size *= 4;
    }
    let many = n_backends.saturating_mul(MAGLEV_PER_ENDPOINT);
    while size < many.min(MAX_MAGLEV_SIZE) {
        size *= 2;
    }
    size
}

/// One backend of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// What its order comes of; no two have the same.
    pub(super) identity: u64,
    /// Its share, compared with those of the others; not 0.
    pub(super) weight: u32,
}

/// A table of `size` places: for each the index of the member that has it. Empty if there is no member.
///
/// `members` are in an order that all nodes agree on. Who weighs less than the heaviest sits out so many of the rounds.
pub(super) fn populate(members: &[Member], size: u32) -> Vec<u32> {
    let mut places = vec![None; size as usize];
    let heaviest = members.iter().map(|it| it.weight).max().unwrap_or(0);
    let mut turns: Vec<Turn> = members.iter().map(Turn::new).collect();
    let mut n_free = if heaviest == 0 { 0 } else { size };
    while n_free > 0 {
        for (index, turn) in (0..).zip(&mut turns) {
            if n_free > 0 && turn.is_due(heaviest) {
                turn.take(index, &mut places);
                n_free -= 1;
            }
        }
    }
    places.into_iter().flatten().collect()
}

/// One member, while the table fills.
struct Turn {
    random: u64,
    weight: u32,
    /// What it is owed of a place, in parts of the heaviest's weight.
    credit: u32,
}

impl Turn {
    fn new(member: &Member) -> Self {
        Self {
            random: member.identity,
            weight: member.weight,
            credit: 0,
        }
    }

    /// Whether it has a place in this round.
    fn is_due(&mut self, heaviest: u32) -> bool {
        self.credit += self.weight;
        let is_due = self.credit >= heaviest;
        if is_due {
            self.credit -= heaviest;
        }
        is_due
    }

    /// Takes the next place of its order that is free; there is one.
    fn take(&mut self, index: u32, places: &mut [Option<u32>]) {
        let n_places = places.len() as u64;
        loop {
            // A counter and a finalizer, as in SplitMix64; its upper half times the size instead of a remainder.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let at = ((hash::finish(self.random) >> 32) * n_places) >> 32;
            let place = usize::try_from(at).ok().and_then(|at| places.get_mut(at));
            if let Some(place @ None) = place {
                *place = Some(index);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(n: u64, weight: u32) -> Member {
        Member {
            identity: hash::finish(n.wrapping_add(1)),
            weight,
        }
    }

    /// Places of each member.
    fn shares(members: &[Member], table: &[u32]) -> Vec<u32> {
        let mut shares = vec![0; members.len()];
        for index in table {
            shares[*index as usize] += 1;
        }
        shares
    }

    /// Hundredths of a table that change beyond the share of the one that leaves it.
    #[expect(clippy::cast_precision_loss, reason = "places, not 2^52 of them")]
    fn needless(members: &[Member], leaves: usize, size: u32) -> f64 {
        let rest: Vec<_> = (0..members.len()).filter(|at| *at != leaves).collect();
        let others: Vec<_> = rest.iter().map(|at| members[*at]).collect();
        let (before, after) = (populate(members, size), populate(&others, size));
        let pairs = before.iter().zip(&after);
        let moved = pairs.filter(|(before, after)| **before as usize != rest[**after as usize]);
        (moved.count() as f64 / f64::from(size) - 1.0 / members.len() as f64) * 100.0
    }

    #[test]
    fn one_of_n_that_comes_or_goes_moves_less_than_a_hundredth_more_than_it_must() {
        for n in [2_u64, 3, 4, 5, 8, 16, 17, 40, 64, 100, 256, 500, 513, 1_000] {
            let size = default_size(u32::try_from(n).expect("few"));
            for set in 0..2 {
                let members: Vec<_> = (0..n).map(|at| member(set * 10_000 + at, 1)).collect();
                let n = members.len();
                for leaves in [0, n / 2, n - 1] {
                    let needless = needless(&members, leaves, size);
                    assert!(needless < 1.0, "{n} backends, {size} places: {needless} %");
                }
            }
        }
    }

    #[test]
    fn there_are_at_least_a_hundred_places_per_backend_and_the_size_seldom_changes() {
        let mut sizes: Vec<u32> = (2..=4_096).map(default_size).collect();
        for (n, size) in (2..).zip(&sizes) {
            assert!(*size >= 100 * n, "{size} for {n}");
        }
        sizes.dedup();
        assert_eq!(sizes, [4_096, 16_384, 65_536, 131_072, 262_144, 524_288]);
        assert_eq!((default_size(0), default_size(1)), (0, 1));
        assert_eq!(default_size(u32::MAX), MAX_MAGLEV_SIZE);
    }

    /// Pinned: nodes of different releases serve the same clients.
    #[test]
    fn a_table_is_the_same_in_every_release() {
        let members: Vec<_> = (0..3).map(|n| member(n, 1)).collect();
        assert_eq!(
            populate(&members, 16),
            [1, 0, 1, 0, 0, 1, 0, 0, 2, 2, 2, 1, 2, 0, 1, 2]
        );
    }

    #[test]
    fn nobody_has_an_empty_table() {
        assert!(populate(&[], 8).is_empty());
        assert_eq!(populate(&[member(1, 1)], 3), [0, 0, 0]);
        assert!(populate(&[member(1, 1), member(2, 1)], 0).is_empty());
    }

    fn any_members() -> impl Strategy<Value = Vec<Member>> {
        let weights = prop::collection::vec(1..=100_u32, 1..20);
        (any::<u32>(), weights).prop_map(|(first, weights)| {
            let numbered = (u64::from(first)..).zip(weights);
            numbered.map(|(n, weight)| member(n, weight)).collect()
        })
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(members in any_members()) {
            let total: u32 = members.iter().map(|it| it.weight).sum();
            let size = 16_384;
            let shares = shares(&members, &populate(&members, size));
            for (member, share) in members.iter().zip(shares) {
                let exact = f64::from(size) * f64::from(member.weight) / f64::from(total);
                // The last round may be cut short.
                let difference = (f64::from(share) - exact).abs();
                prop_assert!(difference <= 2.0 + exact / 100.0, "{share} of {size}, not {exact}");
            }
        }

        #[test]
        fn equal_backends_differ_by_one_place(n in 1..200_u64, first in any::<u32>(), size in 1..5_000_u32) {
            let members: Vec<_> = (0..n).map(|at| member(u64::from(first) + at, 1)).collect();
            let shares = shares(&members, &populate(&members, size));
            let least = shares.iter().min().copied().unwrap_or(0);
            let most = shares.iter().max().copied().unwrap_or(0);
            prop_assert!(most - least <= 1, "{least} to {most}");
        }

        #[test]
        fn a_weight_that_changes_moves_little_more_than_it_must(members in any_members(), at in any::<prop::sample::Index>(), weight in 1..=100_u32) {
            let at = at.index(members.len());
            let size = 65_536;
            let mut changed = members.clone();
            changed[at].weight = weight;
            let (before, after) = (populate(&members, size), populate(&changed, size));
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            let (old, new) = (shares(&members, &before), shares(&changed, &after));
            // What it must: each place that one has more than before.
            let must: u32 = old.iter().zip(&new).map(|(old, new)| new.saturating_sub(*old)).sum();
            let needless = f64::from(u32::try_from(moved).unwrap_or(0) - must) / f64::from(size);
            prop_assert!(needless < 0.02, "{moved} of {size}, {must} of them had to");
        }
    }
}
