//! Fragments: the records that tell later ones which ports the first had, and the shelf where those wait that came
//! before it.

pub mod record;
pub mod shelf;

use crate::flow::clock::{Tick, seconds};

/// How long a datagram's fragments are waited for. The fragments of one datagram leave their sender in one go; what
/// separates them is the network's reordering, some milliseconds. Identifications of 16 bits come again soon.
pub const LIFE: Tick = seconds(2);

/// Words of a scratch: the place that suits best so far, under how well it does;
const BEST: usize = 0;
/// how many places hold something of the same source.
const OWN: usize = 1;

/// 1 for 0, else 0; without a branch, each of which would double what the verifier has to follow.
#[inline(always)]
fn is_zero(word: u32) -> u32 {
    1 ^ ((word | word.wrapping_neg()) >> 31)
}

/// 1 if something of this age lives no more, else 0.
#[inline(always)]
fn is_over(age: Tick) -> u32 {
    LIFE.wrapping_sub(age) >> 31
}
