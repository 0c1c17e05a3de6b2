//! An ordered set of few entries that takes hardly more room than they do, as [`SmallMap`] is such a map.

use std::{borrow::Borrow, fmt, iter};

use crate::small_map::{self, SmallMap};

/// See the module.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SmallSet<K>(SmallMap<K, ()>);

/// Entries by reference, sorted.
pub type Iter<'a, K> = iter::Map<small_map::Iter<'a, K, ()>, fn((&'a K, &'a ())) -> &'a K>;

impl<K> SmallSet<K> {
    /// Without any entry.
    pub const fn new() -> Self {
        Self(SmallMap::new())
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All entries, sorted.
    pub fn iter(&self) -> Iter<'_, K> {
        self.0.iter().map(|(entry, ())| entry)
    }
}

impl<K: Ord> SmallSet<K> {
    /// Whether an entry is there.
    pub fn contains<Q: Ord + ?Sized>(&self, entry: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(entry)
    }

    /// Puts an entry in; false if it was there.
    pub fn insert(&mut self, entry: K) -> bool {
        self.0.insert(entry, ()).is_none()
    }

    /// Takes an entry out; false if it was not there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, entry: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove(entry).is_some()
    }
}

impl<K> Default for SmallSet<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug> fmt::Debug for SmallSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl<'a, K> IntoIterator for &'a SmallSet<K> {
    type Item = &'a K;
    type IntoIter = Iter<'a, K>;

    fn into_iter(self) -> Iter<'a, K> {
        self.iter()
    }
}

impl<K: Ord> Extend<K> for SmallSet<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, entries: I) {
        for entry in entries {
            self.insert(entry);
        }
    }
}

impl<K: Ord> FromIterator<K> for SmallSet<K> {
    fn from_iter<I: IntoIterator<Item = K>>(entries: I) -> Self {
        Self(entries.into_iter().map(|entry| (entry, ())).collect())
    }
}

impl<K: Ord, const N: usize> From<[K; N]> for SmallSet<K> {
    fn from(entries: [K; N]) -> Self {
        entries.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_each_entry_once_and_sorted() {
        let mut set = SmallSet::from([3, 1]);
        set.extend([2, 3]);
        assert!(set.iter().eq(&[1, 2, 3]));
        assert!(!set.insert(2) && set.insert(4) && set.contains(&4));
        assert!(set.remove(&1) && !set.remove(&1));
        assert!((&set).into_iter().eq(&[2, 3, 4]));
        assert_eq!(set.len(), 3);
        assert!(!set.is_empty() && SmallSet::<u8>::new().is_empty());
    }
}
