//! The shelf: fragments that came before the first one of their datagram.
//!
//! Buffers in sets, the set chosen by a keyed hash of the source: whatever one source sends, it fills one set. A set
//! that is full takes a fragment of a source that has less than half of it, in the place of the oldest of another.
//!
//! Who changes a buffer's state by an exchange owns it until the next one: to fill it, to take it back, to release
//! it. A BPF program runs to its end, so no buffer stays claimed.

use core::mem::offset_of;

use super::{BEST, OWN, is_over, is_zero};
use crate::{
    abi::{HeldPiece, NodeConfig, PieceKey, capacity},
    flow::{clock::Tick, slot::Words},
    hash::{self, HashKey},
    net::addr::Addr6,
};

/// Buffers of a set.
const PLACES: u32 = capacity::PIECES_PER_SET;
/// What a source may have kept though others have none left.
const SHARE: u32 = PLACES / 2;

/// What a buffer holds: the low two bits of its state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nothing.
    Empty = 0,
    /// One CPU fills it, or empties it.
    Claimed = 1,
    /// A fragment.
    Held = 2,
}

/// The buffers' memory: the words before the frame.
pub trait Shelf {
    /// One buffer's words, laid out as [`HeldPiece`].
    type Words: Words;
    /// The words of a buffer.
    fn words(&self, buffer: u32) -> Option<Self::Words>;
    /// Four words that nobody else uses, for what a search has found so far: in registers the verifier would follow
    /// each value that it may have.
    fn scratch(&self) -> Option<Self::Words>;
}

/// Word index of a field.
macro_rules! word {
    ($field:ident) => {
        offset_of!(HeldPiece, $field) / 4
    };
}

/// A buffer that was claimed, in one word, as it comes back from a call of its own; 0: none was free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim(pub u64);

impl Claim {
    const IS_CLAIMED: u64 = 1 << 31;
    const WAS_HELD: u64 = 1 << 30;

    /// True if there is one.
    #[inline(always)]
    pub fn is_some(self) -> bool {
        self.0 & Self::IS_CLAIMED != 0
    }

    /// True if a fragment was given up for it.
    #[inline(always)]
    pub fn was_held(self) -> bool {
        self.0 & Self::WAS_HELD != 0
    }

    /// Which buffer it is.
    #[inline(always)]
    pub fn buffer(self) -> u32 {
        self.0 as u32 & 0xff_ffff
    }

    /// Its state word.
    #[inline(always)]
    fn word(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Where a frame came from and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The device.
    pub ifindex: u32,
    /// Bytes before its IP header.
    pub l2: u32,
    /// Bytes in all.
    pub len: u32,
}

/// The first buffer of the set that keeps what this source sends; `None`: nothing is kept.
#[inline(always)]
pub fn first_buffer(node: &NodeConfig, key: &PieceKey) -> Option<u32> {
    if node.piece_sets == 0 {
        return None;
    }
    Some(set(&node.hash_key, node.piece_sets, key) * PLACES)
}

#[inline(always)]
fn set(hash_key: &HashKey, sets: u32, key: &PieceKey) -> u32 {
    let nobody = Addr6 { be32: [0; 4] };
    let hash = hash::tuple(hash_key, Addr6 { be32: key.src }, nobody, 0, 0);
    ((u64::from(hash as u32) * u64::from(sets)) >> 32) as u32
}

/// Claims a buffer for a fragment of this datagram: one whose time is over, else an empty one, else the oldest of
/// another source if this one has less than its share.
#[inline(always)]
pub fn claim<S: Shelf>(shelf: &S, node: &NodeConfig, key: &PieceKey, now: Tick) -> Claim {
    let (Some(first), Some(scratch)) = (first_buffer(node, key), shelf.scratch()) else {
        return Claim::default();
    };
    scratch.store(BEST, 0);
    scratch.store(OWN, 0);
    for place in 0..PLACES {
        let Some(words) = shelf.words(first + place) else {
            continue;
        };
        let state = words.load(word!(state)) & 3;
        let age = now.wrapping_sub(words.load(word!(held_at)));
        let is_held = is_zero(scratch, state ^ State::Held as u32);
        let is_own = is_zero(scratch, source_difference(words, key));
        scratch.store(OWN, scratch.load(OWN) + (is_held & is_own));
        let suits = (is_held & is_over(scratch, age)) << 10
            | is_zero(scratch, state) << 9
            | (is_held & (is_own ^ 1)) << 8
            | age & 0xff;
        let candidate = suits << 8 | place;
        if candidate > scratch.load(BEST) {
            scratch.store(BEST, candidate);
        }
    }
    let best = scratch.load(BEST);
    let suits = best >> 8;
    if suits < 1 << 8 || suits < 1 << 9 && scratch.load(OWN) >= SHARE {
        return Claim::default();
    }
    take(shelf, first + best % PLACES)
}

#[inline(always)]
fn take<S: Shelf>(shelf: &S, buffer: u32) -> Claim {
    let Some(words) = shelf.words(buffer) else {
        return Claim::default();
    };
    let old = words.load(word!(state));
    let new = (old & !3).wrapping_add(4) | State::Claimed as u32;
    if old & 3 == State::Claimed as u32 || !words.exchange(word!(state), old, new) {
        return Claim::default();
    }
    let was_held = if old & 3 == State::Held as u32 {
        Claim::WAS_HELD
    } else {
        0
    };
    Claim(u64::from(new) << 32 | Claim::IS_CLAIMED | was_held | u64::from(buffer))
}

/// Publishes a claimed buffer that has been filled.
#[inline(always)]
pub fn publish<M: Words>(words: M, claim: Claim, key: &PieceKey, frame: Frame, now: Tick) {
    for word in 0..4 {
        words.store(word!(key) + word, key.src[word]);
        words.store(word!(key) + 4 + word, key.dst[word]);
    }
    words.store(word!(key) + 8, key.id);
    words.store(word!(key) + 9, key.kind);
    words.store(word!(held_at), now);
    words.store(word!(ifindex), frame.ifindex);
    words.store(word!(l2), frame.l2);
    words.store(word!(len), frame.len);
    words.exchange(word!(state), claim.word(), held(claim));
}

/// Gives back a claimed buffer that could not be filled.
#[inline(always)]
pub fn give_back<M: Words>(words: M, claim: Claim) {
    words.exchange(word!(state), claim.word(), claim.word() & !3);
}

/// Takes back what was published; false: somebody else has it already.
#[inline(always)]
pub fn take_back<M: Words>(words: M, claim: Claim) -> bool {
    words.exchange(word!(state), held(claim), held(claim) & !3)
}

#[inline(always)]
fn held(claim: Claim) -> u32 {
    claim.word() & !3 | State::Held as u32
}

/// Claims a buffer if it holds a fragment of this datagram, not yet given up.
#[inline(always)]
pub fn release<S: Shelf>(shelf: &S, buffer: u32, key: &PieceKey, now: Tick) -> Claim {
    let (Some(words), Some(scratch)) = (shelf.words(buffer), shelf.scratch()) else {
        return Claim::default();
    };
    let state = words.load(word!(state));
    let mut differ = source_difference(words, key)
        | (words.load(word!(key) + 8) ^ key.id)
        | (words.load(word!(key) + 9) ^ key.kind)
        | (state & 3 ^ State::Held as u32)
        | is_over(scratch, now.wrapping_sub(words.load(word!(held_at))));
    for word in 0..4 {
        differ |= words.load(word!(key) + 4 + word) ^ key.dst[word];
    }
    let new = (state & !3).wrapping_add(4) | State::Claimed as u32;
    // The exchange fails if the buffer was given to another while it was read.
    if differ != 0 || !words.exchange(word!(state), state, new) {
        return Claim::default();
    }
    Claim(u64::from(new) << 32 | Claim::IS_CLAIMED | u64::from(buffer))
}

/// The frame in a claimed buffer.
#[inline(always)]
pub fn frame<M: Words>(words: M) -> Frame {
    Frame {
        ifindex: words.load(word!(ifindex)),
        l2: words.load(word!(l2)),
        len: words.load(word!(len)),
    }
}

#[inline(always)]
fn source_difference<M: Words>(words: M, key: &PieceKey) -> u32 {
    let mut differ = 0;
    for word in 0..4 {
        differ |= words.load(word!(key) + word) ^ key.src[word];
    }
    differ
}
