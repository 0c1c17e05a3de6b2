//! Fragments: the records that tell later ones which ports the first had, and the shelf where those wait that came
//! before it.

pub mod record;
pub mod shelf;

use crate::flow::{
    clock::{Tick, seconds},
    slot::Words,
};

/// How long a datagram's fragments are waited for. The fragments of one datagram leave their sender in one go; what
/// separates them is the network's reordering, some milliseconds. Identifications of 16 bits come again soon.
pub const LIFE: Tick = seconds(2);

/// Words of a scratch: the place that suits best so far, under how well it does;
const BEST: usize = 0;
/// how many places hold something of the same source;
const OWN: usize = 1;
/// what goes through memory only so that nobody knows what it was before.
const OPAQUE: usize = 2;
/// The stamp of the place that suits best.
const STAMP: usize = 3;

/// The highest bit of a word, computed where neither compiler nor verifier sees what it means: the one would make a branch
/// of it, the other follow both sides, for each place once more.
#[inline(always)]
fn sign<M: Words>(scratch: M, word: u32) -> u32 {
    scratch.store(OPAQUE, word);
    scratch.load(OPAQUE) >> 31
}

/// 1 for 0, else 0.
#[inline(always)]
fn is_zero<M: Words>(scratch: M, word: u32) -> u32 {
    sign(scratch, !(word | word.wrapping_neg()))
}

/// 1 if something of this age lives no more, else 0. A moment ahead of now, as another CPU's may be, lives.
#[inline(always)]
fn is_over<M: Words>(scratch: M, age: Tick) -> u32 {
    sign(scratch, LIFE.wrapping_sub(age)) & (sign(scratch, age) ^ 1)
}
