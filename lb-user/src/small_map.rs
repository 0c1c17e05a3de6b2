//! An ordered map of few entries that takes hardly more room than they do.
//!
//! For what many things have one of each, mostly with one entry or two, where a tree makes room for eleven. To put one in or
//! take one out costs as much as there are.

use std::{borrow::Borrow, fmt, mem, slice};

/// See the module.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SmallMap<K, V> {
    /// Sorted by key.
    entries: Vec<(K, V)>,
}

/// Entries by reference, sorted by key.
pub type Iter<'a, K, V> = std::iter::Map<slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

impl<K, V> SmallMap<K, V> {
    /// Without any entry.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, sorted by key.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.entries.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.entries.iter().map(|(_, value)| value)
    }

    /// Keeps the entries of which this is true.
    pub fn retain(&mut self, mut keeps: impl FnMut(&K, &mut V) -> bool) {
        self.entries.retain_mut(|(key, value)| keeps(key, value));
    }

    /// Takes out the entries of which this is true.
    pub fn extract(&mut self, mut goes: impl FnMut(&K, &V) -> bool) -> Vec<(K, V)> {
        let extracted = self.entries.extract_if(.., |(key, value)| goes(key, value));
        extracted.collect()
    }
}

impl<K: Ord, V> SmallMap<K, V> {
    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let at = self.position(key).ok()?;
        self.entries.get(at).map(|(_, value)| value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let at = self.position(key).ok()?;
        self.entries.get_mut(at).map(|(_, value)| value)
    }

    /// Whether a key has a value.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.position(key).is_ok()
    }

    /// Gives a key a value, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.position(&key) {
            Ok(at) => Some(mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                if self.entries.len() == self.entries.capacity() {
                    self.entries.reserve_exact(1 + self.entries.len() / 8);
                }
                self.entries.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a key out, and returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.position(key).ok()?;
        Some(self.entries.remove(at).1)
    }

    fn position<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.entries
            .binary_search_by(|(there, _)| there.borrow().cmp(key))
    }
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SmallMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<'a, K, V> IntoIterator for &'a SmallMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SmallMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map.entries.shrink_to_fit();
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SmallMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(
            first in prop::collection::vec((0..40_u8, any::<u8>()), 0..40),
            writes in prop::collection::vec((0..40_u8, prop::option::of(any::<u8>())), 0..40),
        ) {
            let mut map: SmallMap<u8, u8> = first.iter().copied().collect();
            let mut model: BTreeMap<u8, u8> = first.into_iter().collect();
            for (key, value) in writes {
                if let Some(value) = value {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(&key), model.remove(&key));
                }
            }
            let is_odd = |key: &u8, value: &u8| (key ^ value) & 1 == 1;
            let gone = map.extract(is_odd);
            prop_assert!(gone.into_iter().eq(model.extract_if(.., |key, value| is_odd(key, value))));
            prop_assert!(map.iter().eq(&model));
            prop_assert!(map.keys().eq(model.keys()) && map.values().eq(model.values()));
            prop_assert_eq!(map.len(), model.len());
            for key in 0..40 {
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
            }
        }
    }

    #[test]
    fn it_takes_hardly_more_room_than_its_entries() {
        let mut map = SmallMap::new();
        for key in 0..1000 {
            map.insert(key, ());
            let (len, capacity) = (map.len(), map.entries.capacity());
            assert!(capacity <= len + len / 8 + 1, "{capacity} for {len}");
        }
        let collected: SmallMap<u32, ()> = (0..1000).map(|key| (key, ())).collect();
        assert_eq!(collected.entries.capacity(), 1000);
    }
}
