//! The difference between what should be and what is.
//!
//! One walk over two sorted sequences. What is equal on both sides is in none of the results, so work
//! that follows from a [`Delta`] costs what changed. Never decides an order of writes.

use std::{cmp::Ordering, iter::Peekable};

/// What has to happen to `actual` so that it becomes `desired`; each part in the order of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta<K, D, A> {
    /// Wanted and not there.
    pub create: Vec<(K, D)>,
    /// Wanted, and there with another value: key, desired, actual.
    pub update: Vec<(K, D, A)>,
    /// There and not wanted.
    pub delete: Vec<(K, A)>,
}

impl<K: Ord, D, A> Delta<K, D, A> {
    /// Compares two sequences that are sorted by key and have each key once.
    pub fn between(
        desired: impl IntoIterator<Item = (K, D)>,
        actual: impl IntoIterator<Item = (K, A)>,
        same: impl Fn(&D, &A) -> bool,
    ) -> Self {
        let mut delta = Self {
            create: Vec::new(),
            update: Vec::new(),
            delete: Vec::new(),
        };
        let mut desired = desired.into_iter().peekable();
        let mut actual = actual.into_iter().peekable();
        while let Some(order) = order(&mut desired, &mut actual) {
            let wanted = if order.is_le() { desired.next() } else { None };
            let there = if order.is_ge() { actual.next() } else { None };
            match (wanted, there) {
                (Some((key, wanted)), Some((_, there))) => {
                    if !same(&wanted, &there) {
                        delta.update.push((key, wanted, there));
                    }
                }
                (Some(wanted), None) => delta.create.push(wanted),
                (None, Some(there)) => delta.delete.push(there),
                (None, None) => {}
            }
        }
        delta
    }

    /// Whether both sides are equal.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// Which side is next; `None`: both have ended.
fn order<K: Ord, D, A>(
    desired: &mut Peekable<impl Iterator<Item = (K, D)>>,
    actual: &mut Peekable<impl Iterator<Item = (K, A)>>,
) -> Option<Ordering> {
    match (desired.peek(), actual.peek()) {
        (Some((desired, _)), Some((actual, _))) => Some(desired.cmp(actual)),
        (Some(_), None) => Some(Ordering::Less),
        (None, Some(_)) => Some(Ordering::Greater),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn between(desired: &BTreeMap<u8, u8>, actual: &BTreeMap<u8, u8>) -> Delta<u8, u8, u8> {
        let copied = |map: &BTreeMap<u8, u8>| map.clone().into_iter();
        Delta::between(copied(desired), copied(actual), |desired, actual| {
            desired == actual
        })
    }

    #[test]
    fn each_kind_of_difference_is_told_apart() {
        let desired = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        let actual = BTreeMap::from([(2, 2), (3, 0), (4, 4)]);
        let expected = Delta {
            create: vec![(1, 1)],
            update: vec![(3, 3, 0)],
            delete: vec![(4, 4)],
        };
        assert_eq!(between(&desired, &actual), expected);
    }

    proptest! {
        #[test]
        fn a_delta_carried_out_makes_both_sides_equal_and_touches_nothing_else(
            desired: BTreeMap<u8, u8>,
            actual: BTreeMap<u8, u8>,
        ) {
            let delta = between(&desired, &actual);
            let mut result = actual.clone();
            for (key, wanted) in delta.create.clone() {
                prop_assert_eq!(result.insert(key, wanted), None);
            }
            for (key, wanted, there) in delta.update.clone() {
                prop_assert_ne!(wanted, there);
                prop_assert_eq!(result.insert(key, wanted), Some(there));
            }
            for (key, there) in delta.delete.clone() {
                prop_assert_eq!(result.remove(&key), Some(there));
            }
            prop_assert_eq!(&result, &desired);
            prop_assert_eq!(delta.is_empty(), desired == actual);
        }
    }
}
