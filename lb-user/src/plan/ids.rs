//! A pool of ids: numbers from 1 to a limit, each with at most one owner.
//!
//! An id that was given back is handed out again as late as possible: the ones that wait longest go
//! first, so that what still remembers it has had time to forget. 0 is never handed out. The pool knows
//! nothing of readers: who gives an id back has waited for them.

use std::collections::{BTreeSet, VecDeque};

/// Ids that nobody has.
#[derive(Clone, Debug)]
pub(super) struct IdPool {
    /// Highest id that there is.
    last: u32,
    /// Lowest id that nobody ever had.
    fresh: u32,
    /// Ids that somebody had, the one given back first at the front.
    returned: VecDeque<u32>,
}

impl IdPool {
    /// A pool of the ids 1 to `last`, all free.
    pub(super) fn new(last: u32) -> Self {
        Self {
            last,
            fresh: 1,
            returned: VecDeque::new(),
        }
    }

    /// A pool of which `taken` are in use.
    pub(super) fn without(last: u32, taken: &BTreeSet<u32>) -> Self {
        let highest = taken.last().copied().unwrap_or(0);
        let returned = (1..=highest).filter(|id| !taken.contains(id)).collect();
        Self {
            last,
            fresh: highest.saturating_add(1),
            returned,
        }
    }

    /// Hands out an id; `None`: all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.returned.pop_front() {
            return Some(id);
        }
        let id = self.fresh;
        if id > self.last {
            return None;
        }
        self.fresh += 1;
        Some(id)
    }

    /// Takes back an id.
    pub(super) fn give_back(&mut self, id: u32) {
        self.returned.push_back(id);
    }

    /// Takes back an id that was handed out and never used, so that it is the next one.
    pub(super) fn untake(&mut self, id: u32) {
        self.returned.push_front(id);
    }

    /// Adds the ids up to this one to those that nobody ever had.
    pub(super) fn extend_to(&mut self, last: u32) {
        self.last = self.last.max(last);
    }

    /// How many are in use.
    pub(super) fn n_taken(&self) -> usize {
        (self.fresh as usize - 1).saturating_sub(self.returned.len())
    }

    #[cfg(test)]
    pub(super) fn n_free(&self) -> usize {
        (self.last + 1 - self.fresh) as usize + self.returned.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_start_at_one_and_end_at_the_limit() {
        let mut pool = IdPool::new(3);
        assert_eq!(
            [pool.take(), pool.take(), pool.take()],
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn the_id_that_was_given_back_first_is_reused_first() {
        let mut pool = IdPool::new(3);
        while pool.take().is_some() {}
        for id in [2, 3, 1] {
            pool.give_back(id);
        }
        assert_eq!(
            [pool.take(), pool.take(), pool.take()],
            [Some(2), Some(3), Some(1)]
        );
    }

    #[test]
    fn a_restored_pool_hands_out_what_is_not_taken() {
        let mut pool = IdPool::without(5, &BTreeSet::from([1, 4]));
        let mut rest: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
        rest.sort_unstable();
        assert_eq!(rest, [2, 3, 5]);
    }
}
