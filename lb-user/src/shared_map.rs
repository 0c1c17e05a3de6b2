//! An ordered map whose copies share what is equal in them.
//!
//! A copy costs a pointer for every hundred entries, and a change of one copies the hundred that it stands among. So
//! whoever was given a map keeps it as it was, and whoever goes on with it pays for what changed, as long as it is a
//! small part. What two maps share they need not compare.

use std::{cmp::Ordering, fmt, iter::Peekable, mem, ops::Index, slice, sync::Arc};

/// Neighbours.
type Leaf<K, V> = Arc<Vec<(K, V)>>;

/// Entries of a leaf at most.
const LEAF: usize = 128;

/// See the module.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// Sorted; none is empty.
    leaves: Vec<Leaf<K, V>>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    /// Without any entry.
    pub const fn new() -> Self {
        Self {
            leaves: Vec::new(),
            len: 0,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, sorted by key.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            leaves: self.leaves.iter(),
            leaf: [].iter(),
        }
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let leaf = self.leaves.get(self.leaf_of(key))?;
        let at = position(leaf, key).ok()?;
        leaf.get(at).map(|(_, value)| value)
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The leaf in which a key stands or would stand: the last one that begins with it or before it, else the first.
    fn leaf_of(&self, key: &K) -> usize {
        let begins = |leaf: &Leaf<K, V>| leaf.first().is_some_and(|(first, _)| first <= key);
        self.leaves.partition_point(begins).saturating_sub(1)
    }

    /// Keys whose values differ, or that one of the maps has and the other has not, sorted. What both share is not looked
    /// at.
    pub fn differences<'a>(
        &'a self,
        other: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> impl Iterator<Item = &'a K> {
        let mut sides = [self, other].map(|map| Cursor {
            leaves: map.leaves.iter().peekable(),
            leaf: [].iter(),
        });
        std::iter::from_fn(move || {
            loop {
                let [a, b] = &mut sides;
                Cursor::skip_shared(a, b);
                let order = match (a.peek(), b.peek()) {
                    (Some((a, _)), Some((b, _))) => a.cmp(b),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => return None,
                };
                let one = if order.is_le() { a.next() } else { None };
                let two = if order.is_ge() { b.next() } else { None };
                match (one, two) {
                    (Some((_, one)), Some((_, two))) if same(one, two) => {}
                    (Some((key, _)), _) | (None, Some((key, _))) => return Some(key),
                    (None, None) => return None,
                }
            }
        })
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Gives a key a value, and returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at_leaf = self.leaf_of(&key);
        let Some(leaf) = self.leaves.get_mut(at_leaf).map(Arc::make_mut) else {
            self.leaves.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        match position(leaf, &key) {
            Ok(at) => Some(mem::replace(&mut leaf[at].1, value)),
            Err(at) => {
                leaf.insert(at, (key, value));
                self.len += 1;
                if leaf.len() > LEAF {
                    // What is read sorted is put in sorted: then leaves become full.
                    let is_last = at == LEAF;
                    let rest = leaf.split_off(if is_last { LEAF } else { LEAF / 2 });
                    leaf.shrink_to_fit();
                    self.leaves.insert(at_leaf + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a key out, and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let at_leaf = self.leaf_of(key);
        let at = position(self.leaves.get(at_leaf)?, key).ok()?;
        let leaf = Arc::make_mut(self.leaves.get_mut(at_leaf)?);
        let (_, value) = leaf.remove(at);
        self.len -= 1;
        self.join(at_leaf);
        Some(value)
    }

    /// Joins a leaf with the next one, or the one before it, where both fit into one with room to spare.
    fn join(&mut self, at: usize) {
        let len = |at: usize| self.leaves.get(at).map_or(LEAF, |leaf| leaf.len());
        let fits = |at: usize| len(at) + len(at + 1) <= LEAF / 2;
        if len(at) == 0 {
            self.leaves.remove(at);
        } else if fits(at) {
            self.join_next(at);
        } else if at > 0 && fits(at - 1) {
            self.join_next(at - 1);
        }
    }

    fn join_next(&mut self, at: usize) {
        let next = self.leaves.remove(at + 1);
        if let Some(leaf) = self.leaves.get_mut(at) {
            Arc::make_mut(leaf).extend(Arc::unwrap_or_clone(next));
        }
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at_leaf = self.leaf_of(key);
        let at = position(self.leaves.get(at_leaf)?, key).ok()?;
        let leaf = Arc::make_mut(self.leaves.get_mut(at_leaf)?);
        leaf.get_mut(at).map(|(_, value)| value)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let leaves = self.leaves.iter_mut().map(Arc::make_mut);
        leaves.flatten().map(|(_, value)| value)
    }
}

fn position<K: Ord, V>(leaf: &[(K, V)], key: &K) -> Result<usize, usize> {
    leaf.binary_search_by(|(there, _)| there.cmp(key))
}

/// The entries of a map, sorted by key.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    leaves: slice::Iter<'a, Leaf<K, V>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self {
            leaves: self.leaves.clone(),
            leaf: self.leaf.clone(),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                return Some((key, value));
            }
            self.leaf = self.leaves.next()?.iter();
        }
    }
}

/// One of two maps that are compared.
struct Cursor<'a, K, V> {
    leaves: Peekable<slice::Iter<'a, Leaf<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Cursor<'a, K, V> {
    /// Goes past leaves that come next on both sides and are one.
    fn skip_shared(a: &mut Self, b: &mut Self) {
        while a.leaf.len() == 0 && b.leaf.len() == 0 {
            match (a.leaves.peek(), b.leaves.peek()) {
                (Some(one), Some(two)) if Arc::ptr_eq(one, two) => {
                    a.leaves.next();
                    b.leaves.next();
                }
                _ => return,
            }
        }
    }

    fn peek(&mut self) -> Option<&'a (K, V)> {
        if self.leaf.len() == 0 {
            self.leaf = self.leaves.next()?.iter();
        }
        self.leaf.as_slice().first()
    }

    fn next(&mut self) -> Option<&'a (K, V)> {
        self.peek();
        self.leaf.next()
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other, PartialEq::eq).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord, V> Index<&K> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::new();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Enough keys for some leaves.
    fn any_writes() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        let write = (0..900_u16, prop::option::weighted(0.7, any::<u8>()));
        prop::collection::vec(write, 0..1500)
    }

    fn write(
        map: &mut SharedMap<u16, u8>,
        model: &mut BTreeMap<u16, u8>,
        writes: &[(u16, Option<u8>)],
    ) {
        for (key, value) in writes {
            match value {
                Some(value) => {
                    assert_eq!(map.insert(*key, *value), model.insert(*key, *value));
                }
                None => assert_eq!(map.remove(key), model.remove(key)),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_holds_what_a_map_holds_and_a_copy_stays_as_it_was(
            first in any_writes(),
            second in any_writes(),
        ) {
            let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
            write(&mut map, &mut model, &first);
            let (copy, was) = (map.clone(), model.clone());
            write(&mut map, &mut model, &second);
            for (map, model) in [(&map, &model), (&copy, &was)] {
                prop_assert!(map.iter().eq(model));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!((0..900).all(|key| map.get(&key) == model.get(&key)));
                prop_assert!(map.leaves.iter().all(|leaf| (1..=LEAF).contains(&leaf.len())));
            }
            let differ: BTreeSet<u16> = (0..900).filter(|key| model.get(key) != was.get(key)).collect();
            prop_assert!(map.differences(&copy, PartialEq::eq).eq(&differ));
            prop_assert!(copy.differences(&map, PartialEq::eq).eq(&differ));
            prop_assert_eq!(map == copy, model == was);
            prop_assert_eq!(&map, &model.into_iter().collect());
        }
    }

    #[test]
    fn what_is_shared_is_not_compared() {
        let map: SharedMap<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        assert!(
            map.leaves
                .iter()
                .rev()
                .skip(1)
                .all(|leaf| leaf.len() == LEAF)
        );
        let mut other = map.clone();
        other.insert(5_000, 0);
        other.remove(&7_000);
        let n_compared = std::cell::Cell::new(0);
        let differ: Vec<_> = map
            .differences(&other, |one, two| {
                n_compared.set(n_compared.get() + 1);
                one == two
            })
            .collect();
        assert_eq!(differ, [&5_000, &7_000]);
        assert!(n_compared.get() <= 2 * LEAF, "{}", n_compared.get());
    }

    #[test]
    fn few_entries_take_few_leaves() {
        let mut map: SharedMap<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        for key in (0..10_000).filter(|key| key % 100 != 0) {
            map.remove(&key);
        }
        assert_eq!(map.len(), 100);
        assert!(map.leaves.len() <= 4, "{}", map.leaves.len());
    }
}
