//! Memory at one of the accesses to which something else is done first: one CPU is stopped while others work.

use std::cell::Cell;

use lb_common::{
    fake::{FakePair, FakeWords, StdWord},
    flow::{slot::Words, table::Slots},
    net::addr::Addr4,
};

/// Memory, of two tables perhaps; at one of the accesses to it, the one after `left` others, something else is done first.
pub(crate) struct Stopped<'m> {
    pub(crate) memory: FakePair<'m, Addr4>,
    pub(crate) left: Cell<Option<usize>>,
    pub(crate) meanwhile: &'m dyn Fn(),
}

impl Stopped<'_> {
    fn step(&self) {
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                (self.meanwhile)();
            }
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }
}

impl<'m> Slots<Addr4> for &'m Stopped<'m> {
    type Words = Stepping<'m>;

    fn words(&self, position: u32, base: u64) -> Option<Stepping<'m>> {
        let words = self.memory.words(position, base)?;
        Some(Stepping {
            words,
            stopped: self,
        })
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Stepping<'m> {
    words: FakeWords<'m, StdWord>,
    stopped: &'m Stopped<'m>,
}

impl Stepping<'_> {
    fn step(self) -> Self {
        self.stopped.step();
        self
    }
}

impl Words for Stepping<'_> {
    fn load(self, at: usize) -> u32 {
        self.step().words.load(at)
    }

    fn store(self, at: usize, value: u32) {
        self.step().words.store(at, value);
    }

    fn exchange(self, at: usize, old: u32, new: u32) -> bool {
        self.step().words.exchange(at, old, new)
    }

    fn set_bits(self, at: usize, bits: u32) {
        self.step().words.set_bits(at, bits);
    }

    fn keep_bits(self, at: usize, bits: u32) {
        self.step().words.keep_bits(at, bits);
    }

    fn add(self, at: usize, value: u32) {
        self.step().words.add(at, value);
    }

    fn add64(self, at: usize, value: u64) {
        self.step().words.add64(at, value);
    }
}
