//! The flow table's memory as a vector of atomics, of the standard library's or of a model checker's.

use core::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use crate::{
    abi::{SlotLayout, former::WordTable},
    flow::{
        slot::{Slot, Words},
        table::Slots,
    },
    fragment::{record::Records, shelf::Shelf},
    net::addr::Addr,
};

/// One word that several threads share. All operations are sequentially consistent.
pub trait AtomicWord: Default {
    /// Reads it.
    fn load(&self) -> u32;
    /// Writes it.
    fn store(&self, value: u32);
    /// Writes `new` if it holds `old`. True: it did.
    fn exchange(&self, old: u32, new: u32) -> bool;
    /// Sets `bits`.
    fn set_bits(&self, bits: u32);
    /// Clears all but `bits`.
    fn keep_bits(&self, bits: u32);
    /// Adds, modulo 2^32.
    fn add(&self, value: u32);
}

/// Implements [`AtomicWord`] for a wrapper of an atomic word, whose field is its first: the standard library's, or a model
/// checker's.
#[macro_export]
macro_rules! atomic_word {
    ($word:ty, $ordering:expr) => {
        impl $crate::fake::AtomicWord for $word {
            fn load(&self) -> u32 {
                self.0.load($ordering)
            }

            fn store(&self, value: u32) {
                self.0.store(value, $ordering);
            }

            fn exchange(&self, old: u32, new: u32) -> bool {
                self.0
                    .compare_exchange(old, new, $ordering, $ordering)
                    .is_ok()
            }

            fn set_bits(&self, bits: u32) {
                self.0.fetch_or(bits, $ordering);
            }

            fn keep_bits(&self, bits: u32) {
                self.0.fetch_and(bits, $ordering);
            }

            fn add(&self, value: u32) {
                self.0.fetch_add(value, $ordering);
            }
        }
    };
}

/// A word of the standard library's.
#[derive(Debug, Default)]
pub struct StdWord(AtomicU32);

impl From<u32> for StdWord {
    fn from(value: u32) -> Self {
        Self(value.into())
    }
}

atomic_word!(StdWord, SeqCst);

/// The memory of a flow table, laid out as [`crate::abi::FlowSlot`] is, or was. `&FakeSlots` is what the table takes.
#[derive(Debug)]
pub struct FakeSlots<A, W = StdWord> {
    words: Vec<W>,
    layout: SlotLayout,
    family: PhantomData<A>,
}

impl<A: Addr, W: AtomicWord> FakeSlots<A, W> {
    /// An empty table of `positions` slots.
    ///
    /// # Panics
    /// If `positions` is not a power of two: the table masks positions.
    pub fn new(positions: u32) -> Self {
        Self::in_layout(positions, SlotLayout::OWN)
    }

    /// The same in a layout.
    ///
    /// # Panics
    /// As [`FakeSlots::new`].
    pub fn in_layout(positions: u32, layout: SlotLayout) -> Self {
        assert!(
            positions.is_power_of_two(),
            "{positions} flow positions: must be a power of two"
        );
        let n_words = positions as usize * layout.slot_size::<A>() / 4;
        Self {
            words: (0..n_words).map(|_| W::default()).collect(),
            layout,
            family: PhantomData,
        }
    }

    fn stride(&self) -> usize {
        self.layout.slot_size::<A>() / 4
    }

    /// The same table, in words of another kind.
    pub fn copied_from<V: AtomicWord>(other: &FakeSlots<A, V>) -> Self
    where
        W: From<u32>,
    {
        Self {
            words: other.words.iter().map(|word| word.load().into()).collect(),
            layout: other.layout,
            family: PhantomData,
        }
    }

    /// Number of positions, minus one.
    pub fn mask(&self) -> u32 {
        self.positions() - 1
    }

    /// Number of positions.
    pub fn positions(&self) -> u32 {
        (self.words.len() / self.stride()) as u32
    }

    /// The slot at `position` modulo the table's size.
    pub fn slot(&self, position: u32) -> Slot<A, FakeWords<'_, W>> {
        Slot::new(self.at(position & self.mask()))
    }

    fn at(&self, position: u32) -> FakeWords<'_, W> {
        let start = position as usize * self.stride();
        FakeWords {
            words: &self.words[start..start + self.stride()],
            places: self.layout.table::<A>(),
        }
    }
}

impl<'s, A: Addr, W: AtomicWord> Slots<A> for &'s FakeSlots<A, W> {
    type Words = FakeWords<'s, W>;

    fn words(&self, position: u32, base: u64) -> Option<FakeWords<'s, W>> {
        (base == 0 && position < self.positions()).then(|| self.at(position))
    }
}

/// Words of any layout in a row: what is not the flow table's.
#[derive(Debug)]
pub struct FakeWordRows<W = StdWord> {
    words: Vec<W>,
    stride: usize,
}

impl<W: AtomicWord> FakeWordRows<W> {
    /// So many rows of so many bytes, all zero; the last is what searches keep notes in.
    pub fn new(rows: u32, row_size: usize) -> Self {
        let stride = row_size / 4;
        Self {
            words: (0..rows as usize * stride).map(|_| W::default()).collect(),
            stride,
        }
    }

    /// One row; `None`: there are not as many.
    pub fn row(&self, row: u32) -> Option<FakeWords<'_, W>> {
        let start = row as usize * self.stride;
        let words = self.words.get(start..start + self.stride)?;
        Some(FakeWords {
            words,
            places: None,
        })
    }

    /// The last row, a scratch.
    fn last(&self) -> Option<FakeWords<'_, W>> {
        let rows = self.words.len() / self.stride;
        self.row(rows as u32 - 1)
    }
}

impl<'s, W: AtomicWord> Records for &'s FakeWordRows<W> {
    type Words = FakeWords<'s, W>;

    fn words(&self, position: u32) -> Option<Self::Words> {
        self.row(position)
    }

    fn scratch(&self) -> Option<Self::Words> {
        self.last()
    }
}

impl<'s, W: AtomicWord> Shelf for &'s FakeWordRows<W> {
    type Words = FakeWords<'s, W>;

    fn words(&self, buffer: u32) -> Option<Self::Words> {
        self.row(buffer)
    }

    fn scratch(&self) -> Option<Self::Words> {
        self.last()
    }
}

/// The memory of two tables: of the one that is inserted into, and of the other.
#[derive(Debug)]
pub struct FakePair<'s, A, W = StdWord> {
    /// The one.
    pub first: &'s FakeSlots<A, W>,
    /// The other.
    pub other: &'s FakeSlots<A, W>,
}

impl<'s, A: Addr, W: AtomicWord> Slots<A> for FakePair<'s, A, W> {
    type Words = FakeWords<'s, W>;

    fn words(&self, position: u32, base: u64) -> Option<FakeWords<'s, W>> {
        let table = if base == 0 { self.first } else { self.other };
        Slots::<A>::words(&table, position, 0)
    }
}

/// One slot's words.
#[derive(Debug)]
pub struct FakeWords<'s, W> {
    words: &'s [W],
    /// Where they are, if not where a [`crate::abi::FlowSlot`] has them.
    places: Option<&'static WordTable>,
}

impl<W> FakeWords<'_, W> {
    fn word(&self, at: usize) -> &W {
        &self.words[self.places.map_or(at, |places| places[at].into())]
    }
}

impl<W> Clone for FakeWords<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for FakeWords<'_, W> {}

impl<W: AtomicWord> Words for FakeWords<'_, W> {
    fn load(self, at: usize) -> u32 {
        self.word(at).load()
    }

    fn store(self, at: usize, value: u32) {
        self.word(at).store(value);
    }

    fn exchange(self, at: usize, old: u32, new: u32) -> bool {
        self.word(at).exchange(old, new)
    }

    fn set_bits(self, at: usize, bits: u32) {
        self.word(at).set_bits(bits);
    }

    fn keep_bits(self, at: usize, bits: u32) {
        self.word(at).keep_bits(bits);
    }

    fn add(self, at: usize, value: u32) {
        self.word(at).add(value);
    }

    fn add64(self, at: usize, value: u64) {
        let sum: u64 = bytemuck::cast([self.load(at), self.load(at + 1)]);
        let [first, second]: [u32; 2] = bytemuck::cast(sum.wrapping_add(value));
        self.store(at, first);
        self.store(at + 1, second);
    }
}
