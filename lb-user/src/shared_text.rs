//! Texts that many objects have, kept once: names of nodes and zones, labels, names of ports.
//!
//! One pool for all of the process, since objects come out of many files, some of them at a time. A text stays in it as
//! long as somebody else has it, and is looked for again whenever there are twice as many.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// Texts below which nobody looks for those that are not needed.
const FEW: usize = 1024;

/// What is given out.
static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(|| Mutex::new(Pool::new()));

#[derive(Debug)]
struct Pool {
    texts: HashSet<Arc<str>>,
    /// So many are too many to keep all of them unseen.
    limit: usize,
}

/// The text, which others may have as well.
pub fn shared(text: &str) -> Arc<str> {
    // A panic elsewhere leaves it whole: it is changed by one call at a time.
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    pool.get(text)
}

impl Pool {
    fn new() -> Self {
        Self {
            texts: HashSet::new(),
            limit: FEW,
        }
    }

    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        if self.texts.len() >= self.limit {
            self.forget();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// Forgets texts of which nobody has two: to know them saves nothing.
    fn forget(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 2);
        self.texts.shrink_to_fit();
        self.limit = FEW.max(2 * self.texts.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one() {
        let [one, two] = ["shared-by-two", "shared-by-two"].map(shared);
        assert!(Arc::ptr_eq(&one, &two));
        assert_eq!(&*one, "shared-by-two");
        assert_ne!(one, shared("shared-by-none"));
    }

    #[test]
    fn what_is_not_needed_twice_is_forgotten() {
        let mut pool = Pool::new();
        let needed = [pool.get("needed"), pool.get("needed")];
        let alone: Vec<_> = (0..10 * FEW)
            .map(|number| pool.get(&number.to_string()))
            .collect();
        assert!(pool.texts.len() <= FEW + 1, "{}", pool.texts.len());
        assert!(Arc::ptr_eq(&pool.get("needed"), &needed[0]));
        assert_eq!(&*alone[0], "0");
    }
}
