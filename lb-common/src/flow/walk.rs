//! Going through the table from outside of packets: what lives where, and taking a connection out.
//!
//! Whoever does this may be stopped between any two steps, or for ever, which no program in the kernel is. So nothing
//! here claims a slot, but one that somebody was stopped with: an exchange moves it from published to empty at once, and after each of them the table is one
//! that the protocol in [`super::table`] knows.

use super::{
    FlowKey,
    clock::Tick,
    slot::{Slot, SlotFlags, State, StateWord, Words},
    table::{FlowTable, Found, Slots},
};
use crate::net::addr::Addr;

/// How often a slot is tried that packets move on at the same moment: there are four published states, and none leads back.
const TRIES: usize = 4;

impl<A: Addr, S: Slots<A>> FlowTable<'_, A, S> {
    /// The last position.
    pub fn last(&self) -> u32 {
        self.mask
    }

    /// The published flow at a position, live or not.
    pub fn at(&self, position: u32) -> Option<Found<A, S::Words>> {
        let slot = self.slot(position)?;
        let word = slot.state();
        word.published().then_some(Found {
            position,
            slot,
            word,
        })
    }

    /// The word of a slot that somebody has claimed and has neither published nor given back.
    pub fn claimed_at(&self, position: u32) -> Option<StateWord> {
        let word = self.slot(position)?.state();
        (!word.published() && word.state() != State::Empty).then_some(word)
    }

    /// Frees a slot whose owner will never go on, which is for the caller to know; `word`: as it left it. False: it went
    /// on.
    pub fn free_abandoned(&self, position: u32, word: StateWord) -> bool {
        let Some(slot) = self.slot(position) else {
            return false;
        };
        if word.state() != State::Claimed {
            // Readers of its key's homes know of it: whoever claims it next takes that back.
            return slot.exchange(word, word.with(State::Empty));
        }
        let claimed = word.claimed();
        if !slot.exchange(word, claimed) {
            return false;
        }
        // Nobody knows how far its owner came. What is said anew for a key that no packet has can be taken back; what it
        // may have left said for another makes readers look in vain.
        let nobodys = FlowKey::default();
        self.mark_homes(self.homes(&nobodys), position);
        slot.set_key(&nobodys, SlotFlags::default());
        slot.exchange(claimed, claimed.with(State::Empty))
    }

    /// True if packets are translated by this slot now.
    pub fn lives(&self, found: &Found<A, S::Words>) -> bool {
        self.is_live(found)
    }

    /// How long a flow of this row of [`super::clock::Lifetimes`] lives after its last packet.
    #[inline(always)]
    pub fn lifetime(&self, row: usize) -> Tick {
        self.node.lifetimes.get(row).copied().unwrap_or_default()
    }

    /// The other direction of the same connection, unless it is gone or goes by itself.
    pub fn twin_of(&self, found: &Found<A, S::Words>) -> Option<Found<A, S::Words>> {
        if found.slot.flags().orphan() {
            return None;
        }
        let twin = self.at(found.slot.twin())?;
        let is_pair = twin.slot.twin() == found.position && self.is_still(found);
        is_pair.then_some(twin)
    }

    /// Takes a connection out, both directions, whatever its state. `found` is its original direction or an
    /// orphan. False: it is not there any more, or somebody else has just taken its place.
    ///
    /// Who wants the reply slot claims the original first, so the exchange of the original decides. Between the two, the
    /// reply is a slot that is alone: it translates, and anybody may have its place when its time is up.
    pub fn take_out(&self, found: &Found<A, S::Words>) -> bool {
        let twin = self.twin_of(found);
        let is_out = end(found.slot, found.word);
        if let Some(twin) = twin
            && is_out
        {
            end(twin.slot, twin.word);
        }
        is_out
    }
}

/// Empties a slot as long as it holds the flow that it held when its state was `word`.
fn end<A: Addr, M: Words>(slot: Slot<A, M>, word: StateWord) -> bool {
    let mut seen = word;
    for _ in 0..TRIES {
        if slot.exchange(seen, seen.with(State::Empty)) {
            return true;
        }
        seen = slot.state();
        if !seen.published() || !seen.same_flow(word) {
            return false;
        }
    }
    false
}
