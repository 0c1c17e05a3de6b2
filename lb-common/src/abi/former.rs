//! The layout of flow slots before this one, from which a release that changes it takes connections over.
//!
//! All accesses to a slot name a word of [`FlowSlot`]; a slot of the former layout is the same words in other places. So one
//! body of code works on both, and a table that changes its layout is a table that grows ([`crate::flow::growth`]), of which
//! one of the two has the former one. In a release without a former layout the compiler removes all of it.
//!
//! The feature `next-layout` is such a release: the next one as far as this one knows, for the tests of an upgrade.

use core::mem::offset_of;

use super::{FlowSlot, node::features};
use crate::net::addr::{Addr, Addr4, Addr6, Family};

/// A slot as it was in the former layout.
#[cfg(not(feature = "next-layout"))]
pub use super::FlowSlot as FormerSlot;
#[cfg(feature = "next-layout")]
pub use super::flow::FlowSlot as FormerSlot;

/// [`super::LAYOUT_VERSION`] of the release whose connections are taken over; `None`: there is none.
pub const VERSION: Option<u32> = if cfg!(feature = "next-layout") {
    Some(super::LAYOUT_VERSION - 1)
} else {
    None
};

/// Words of the longest slot.
const WORDS: usize = 32;

const _: () = assert!(size_of::<FlowSlot<Addr6>>() <= 4 * WORDS);
const _: () = assert!(size_of::<FormerSlot<Addr6>>() <= 4 * WORDS);

/// Where the words of a [`FlowSlot`] stand in a layout.
pub type WordTable = [u8; WORDS];

/// Where they stand in the flow tables: of IPv4, of IPv6, and in the other one while one of them is replaced.
pub type Layouts = [WordTable; 3];

/// All in this layout.
pub const IN_ORDER: Layouts = [in_order(); 3];

/// Where in [`Layouts`] a family's table begins, and the other one's.
pub const fn layout_offsets(family: Family) -> (usize, usize) {
    match family {
        Family::V4 => (0, 2 * WORDS),
        Family::V6 => (WORDS, 2 * WORDS),
    }
}

/// Those that the bits of [`features`] tell of; `other`: the family whose table is replaced.
pub fn layouts(bits: u32, other: Family) -> Layouts {
    let of = |bit, family| match (bits & bit != 0, family) {
        (false, _) => in_order(),
        (true, Family::V4) => table::<Addr4>(),
        (true, Family::V6) => table::<Addr6>(),
    };
    [
        of(features::FORMER4, Family::V4),
        of(features::FORMER6, Family::V6),
        of(features::FORMER_OTHER, other),
    ]
}

const fn in_order() -> WordTable {
    let mut table = [0; WORDS];
    let mut at = 0;
    while at < WORDS {
        table[at] = at as u8;
        at += 1;
    }
    table
}

/// Which layout the slots of a table have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLayout {
    is_former: bool,
}

impl SlotLayout {
    /// This release's.
    pub const OWN: Self = Self { is_former: false };
    /// The one before; the same if there is none.
    pub const FORMER: Self = Self {
        is_former: VERSION.is_some(),
    };

    /// True if it is the one before.
    #[inline(always)]
    pub fn is_former(self) -> bool {
        VERSION.is_some() && self.is_former
    }

    /// Where the words of a [`FlowSlot`] stand; `None`: where they are said to be.
    pub fn table<A: Addr>(self) -> Option<&'static WordTable> {
        self.is_former().then_some(const { &table::<A>() })
    }

    /// Bytes of a slot.
    pub const fn slot_size<A>(self) -> usize {
        if self.is_former {
            size_of::<FormerSlot<A>>()
        } else {
            size_of::<FlowSlot<A>>()
        }
    }
}

/// A slot of the former layout as one of this.
pub fn current<A: Addr>(slot: FormerSlot<A>) -> FlowSlot<A> {
    macro_rules! same {
        ($($field:ident)*) => {{
            let mut current = FlowSlot::default();
            $(current.$field = slot.$field;)*
            current
        }};
    }
    same!(
        state home src dst sport dport proto pad flags last_seen twin backend generation next_hop new_src new_dst new_sport
        new_dport packets bytes
    )
}

/// Each field by its first word; fields of less than a word share one with their neighbours, the same in all layouts.
const fn table<A>() -> WordTable {
    let mut table = [0; WORDS];
    macro_rules! fields {
        ($($field:ident: $bytes:expr,)*) => {$(
            let own = offset_of!(FlowSlot<A>, $field);
            let former = offset_of!(FormerSlot<A>, $field);
            assert!(own % 4 == 0 && former % 4 == 0);
            let mut word = 0;
            while word < $bytes / 4 {
                table[own / 4 + word] = (former / 4 + word) as u8;
                word += 1;
            }
        )*};
    }
    fields! {
        state: 4,
        home: 4,
        src: size_of::<A>(),
        dst: size_of::<A>(),
        sport: 4,
        proto: 4,
        last_seen: 4,
        twin: 4,
        backend: 4,
        generation: 4,
        new_src: size_of::<A>(),
        new_dst: size_of::<A>(),
        new_sport: 4,
        packets: 4,
        bytes: 8,
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_word_has_a_place_of_its_own<A: Addr>() {
        let table = table::<A>();
        let fields = 11 + 4 * size_of::<A>() / 4 + 1;
        let mut places: Vec<_> = (0..WORDS)
            .filter(|own| table[*own] != 0 || *own == offset_of!(FlowSlot<A>, state) / 4)
            .map(|own| table[own])
            .collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), fields);
        assert!(
            places
                .iter()
                .all(|place| usize::from(*place) * 4 < size_of::<FormerSlot<A>>())
        );
    }

    #[test]
    fn no_two_words_of_a_slot_share_a_place_in_the_former_layout() {
        every_word_has_a_place_of_its_own::<Addr4>();
        every_word_has_a_place_of_its_own::<Addr6>();
    }

    #[test]
    fn the_own_layout_moves_nothing() {
        assert_eq!(SlotLayout::OWN.table::<Addr4>(), None);
        assert_eq!(IN_ORDER[2][7], 7);
        assert_eq!(SlotLayout::FORMER.is_former(), VERSION.is_some());
    }
}
