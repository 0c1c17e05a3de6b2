//! Two flow tables at once: how the table grows while packets pass.
//!
//! The agent makes a larger table B beside table A, which is in use, and swaps the programs on the devices one by one, in
//! phases; before a phase begins, all runs of programs of the phase before the last have ended:
//!
//! | phase | looked up | inserted into |
//! | --- | --- | --- |
//! | before | A | A |
//! | 1 | A, then B | A |
//! | 2 | B, then A | B |
//! | 3 | the same, while the flows are carried over | B |
//! | after | B | B |
//!
//! Programs of two neighbouring phases run side by side, and each sees every flow that the other may insert. A
//! table's view knows which of the two it is (its base); a connection's two slots are always in
//! one table, so whatever is done to a flow is done by the view in which it was found.
//!
//! * **Never twice.** Who has written a key here, and is `Keyed`, looks at the other table as well. A flow that gives way there is
//!   taken out of it before the one here is published; whoever else is there, published or about to be, wins. Both
//!   sides exchange `Keyed` before they look (full barriers), so at least one sees the other; both may, and then both
//!   packets are dropped and sent again.
//! * **Carrying over.** A flow is copied with the protocol of an insertion, but for the look at the other table, where it is.
//!   Who opens its key anew in B is met there, by that protocol, and has not taken the old flow out of A unless it won
//!   over all that it met in B; so the copy is published only if, once it is `Keyed`, the old slots are unchanged. From
//!   then on B is found first. When all that were running have ended, what they noted in A is added to the copy,
//!   and the old slots are freed. Until then the old slots are known as those of a copy by their key being in B:
//!   they give way to whoever may replace the copy.

use super::{
    Direction, FlowKey,
    clock::age,
    reserve::{Claim, Request},
    slot::{Slot, SlotFlags, State},
    table::{Existing, FlowTable, Found, NewFlow, Refusal, Slots},
};
use crate::net::addr::{Addr, Family};

/// What [`FlowTable::base`] is of the other table.
pub const OTHER: u64 = 1;

/// Later than any place: gives way to everybody.
const LAST: u32 = u32::MAX;

/// What became of a slot of the other table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Carried {
    /// Nothing lives there, or what does goes with its other direction.
    Nothing = 0,
    /// Its flow is in this table as well now.
    Moved = 1,
    /// Its flow was in this table already; the old slots are free, or will be when it is asked for again.
    Merged = 2,
    /// There is no room for its flow, or it changes at this moment.
    Kept = 3,
}

impl<A: Addr, S: Slots<A>> FlowTable<'_, A, S> {
    /// [`OTHER`] if this is the other table, else 0.
    #[inline(always)]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The other table, alone.
    #[inline(always)]
    pub fn other(&self) -> Option<Self> {
        let mask = match A::FAMILY {
            Family::V4 => self.node.other_mask4,
            Family::V6 => self.node.other_mask6,
        };
        if mask == 0 || self.base != 0 {
            return None;
        }
        Some(Self {
            mask,
            base: OTHER,
            ..*self
        })
    }

    /// The live flow with this key, and the table that it is in.
    #[inline(always)]
    pub fn find_anywhere(&self, key: &FlowKey<A>) -> Option<(Self, Found<A, S::Words>)> {
        if let Some(found) = self.find_published(key) {
            return self.is_live(&found).then_some((Self { ..*self }, found));
        }
        let other = self.other()?;
        let found = other.find(key)?;
        Some((other, found))
    }

    /// True if `place`, where the key shall be, has it already: what has it in the other table is what this is a
    /// copy of.
    #[inline(always)]
    pub(super) fn is_copy(&self, key: &FlowKey<A>, place: Claim) -> bool {
        self.other().is_some()
            && place.word.published()
            && self
                .slot(place.position)
                .is_some_and(|slot| slot.has_key(key))
    }

    /// Makes sure that nobody has `key` in the other table, now that it is written here: takes out what gives way, yields
    /// to whoever is about to publish it.
    ///
    /// # Errors
    /// [`Refusal::ReplyTaken`] if a live flow has it, [`Refusal::Busy`] if that changes at this moment.
    #[inline(always)]
    pub(super) fn outdo_other_table(
        &self,
        key: &FlowKey<A>,
        request: Request,
        twin: u32,
        is_copy: bool,
    ) -> Result<(), Refusal> {
        let Some(other) = self.other() else {
            return Ok(());
        };
        if let Some(same) = other.find_published(key) {
            if !is_copy && !other.gives_way(&same, request, self.original_at(twin)) {
                return Err(Refusal::ReplyTaken);
            }
            if !other.vacate(&same, request.existing()) {
                return Err(Refusal::Busy);
            }
        }
        if other.slots.outdo(&other, key, LAST) {
            Ok(())
        } else {
            Err(Refusal::Busy)
        }
    }

    /// Frees the slots of a flow as who opens its key anew would take them. False: it changes at this moment.
    #[inline(always)]
    pub(super) fn vacate(&self, found: &Found<A, S::Words>, existing: Existing) -> bool {
        let Found {
            position,
            slot,
            word,
        } = *found;
        let Some(claimed) = self.claim(Claim::at(position, word), existing) else {
            return false;
        };
        slot.exchange(claimed, claimed.with(State::Empty))
    }

    /// Carries the flow at `position` of the other table over into this one. Asked for a second time, when all
    /// who may have found the old slots have ended, it adds what they noted and frees them.
    ///
    /// Only one may carry at a time. `key` and `flow` are room to work in.
    #[inline(always)]
    pub fn carry(&self, position: u32, key: &mut FlowKey<A>, flow: &mut NewFlow<A>) -> Carried {
        let Some(from) = self.other() else {
            return Carried::Nothing;
        };
        let Some(slot) = from.slot(position) else {
            return Carried::Nothing;
        };
        let word = slot.state();
        let found = Found {
            position,
            slot,
            word,
        };
        let flags = slot.flags();
        let goes_along = flags.direction() == Direction::Reply && !flags.orphan();
        if !word.published() || goes_along || !from.is_live(&found) {
            return Carried::Nothing;
        }
        slot.copy_key(key);
        if let Some(copy) = self.find_published(key) {
            return self.merge(&from, &found, &copy);
        }
        if flags.orphan() {
            return self.carry_orphan(&found, key, flow);
        }
        let Some(twin) = from.slot(slot.twin()) else {
            return Carried::Kept;
        };
        self.carry_pair(&found, twin, key, flow)
    }

    /// Copies both directions of a flow.
    #[inline(always)]
    fn carry_pair(
        &self,
        found: &Found<A, S::Words>,
        twin: Slot<A, S::Words>,
        key: &FlowKey<A>,
        flow: &mut NewFlow<A>,
    ) -> Carried {
        let slot = found.slot;
        let twin_word = twin.state();
        if !twin_word.published() || twin.twin() != found.position {
            return Carried::Kept;
        }
        twin.copy_key(&mut flow.reply);
        let Ok(original) = self.reserve_copy(key, slot.flags()) else {
            return Carried::Kept;
        };
        let Ok(reply) = self.reserve_copy(&flow.reply, twin.flags()) else {
            self.give_back(original);
            return Carried::Kept;
        };
        self.copy_body(slot, original, reply.position, flow);
        self.copy_body(twin, reply, original.position, flow);
        let (word, now) = (slot.state(), twin.state());
        let unchanged = word.published() && word.same_flow(found.word);
        let twin_unchanged = now.published() && now.same_flow(twin_word);
        // Answered at this moment, only one of them may have moved on yet.
        let state = later(word.state(), now.state());
        if !unchanged || !twin_unchanged || !self.publish_as(reply, state) {
            self.give_back(reply);
            self.give_back(original);
            return Carried::Kept;
        }
        if !self.publish_as(original, state) {
            // Opened anew here meanwhile, so the old flow is gone.
            if let Some(slot) = self.slot(reply.position) {
                slot.add_flags(SlotFlags::ORPHAN);
            }
            self.give_back(original);
            return Carried::Kept;
        }
        self.keep_up(original, reply, state);
        Carried::Moved
    }

    /// Moves the original on if the reply was moved on before the original was published as `state`: who did so saw
    /// nothing else to move on.
    #[inline(always)]
    fn keep_up(&self, original: Claim, reply: Claim, state: State) {
        let (Some(slot), Some(twin)) = (self.slot(original.position), self.slot(reply.position))
        else {
            return;
        };
        let word = twin.state();
        let is_ours = word.same_flow(reply.word) && word.published();
        if is_ours && (word.state() as u32) > state as u32 {
            slot.exchange(original.word.with(state), original.word.with(word.state()));
        }
    }

    /// Copies what is left of a flow that was opened anew.
    #[inline(always)]
    fn carry_orphan(
        &self,
        found: &Found<A, S::Words>,
        key: &FlowKey<A>,
        flow: &mut NewFlow<A>,
    ) -> Carried {
        let slot = found.slot;
        let Ok(copy) = self.reserve_copy(key, slot.flags()) else {
            return Carried::Kept;
        };
        // It has no twin; nobody looks for it.
        self.copy_body(slot, copy, copy.position, flow);
        let word = slot.state();
        let unchanged = word.published() && word.same_flow(found.word);
        if !unchanged || !self.publish_as(copy, word.state()) {
            self.give_back(copy);
            return Carried::Kept;
        }
        Carried::Moved
    }

    #[inline(always)]
    fn reserve_copy(&self, key: &FlowKey<A>, flags: SlotFlags) -> Result<Claim, Refusal> {
        self.reserve(key, Request::to_move(flags), Claim::NOWHERE.position)
            .claim()
    }

    /// Copies all but key, flags and state.
    #[inline(always)]
    fn copy_body(&self, from: Slot<A, S::Words>, to: Claim, twin: u32, flow: &mut NewFlow<A>) {
        let Some(slot) = self.slot(to.position) else {
            return;
        };
        let rewrite = &mut flow.rewrite;
        from.rewrite(rewrite);
        let ends = &rewrite.ends;
        slot.set_rewrite(ends.src, ends.dst, rewrite.sport, rewrite.dport);
        slot.set_fate(twin, from.backend(), from.next_hop());
        slot.copy_counts(from);
        slot.set_last_seen(from.last_seen());
    }

    /// Adds to the copy of a flow what was noted in its old slots since, and frees these.
    #[inline(always)]
    fn merge(&self, from: &Self, old: &Found<A, S::Words>, copy: &Found<A, S::Words>) -> Carried {
        // As long as the old flow is there, what has its key here is its copy.
        let word = old.slot.state();
        if !word.published() || !word.same_flow(old.word) {
            return Carried::Kept;
        }
        let state = if old.slot.flags().orphan() {
            word.state()
        } else {
            self.merge_twins(from, old, copy)
        };
        self.merge_slot(old.slot, copy.slot);
        let copied = copy.slot.state();
        let is_behind = copied.same_flow(copy.word) && (copied.state() as u32) < state as u32;
        if is_behind {
            let copy = Found {
                word: copied,
                ..*copy
            };
            self.advance(&copy, state);
        }
        from.vacate(old, Existing::Keep);
        Carried::Merged
    }

    /// Merges the other direction; returns the later state of the two old ones.
    #[inline(always)]
    fn merge_twins(
        &self,
        from: &Self,
        old: &Found<A, S::Words>,
        copy: &Found<A, S::Words>,
    ) -> State {
        let state = old.slot.state().state();
        let (Some(old_twin), Some(twin)) =
            (from.slot(old.slot.twin()), self.slot(copy.slot.twin()))
        else {
            return state;
        };
        let old_word = old_twin.state();
        if !old_word.published() || old_twin.twin() != old.position {
            return state;
        }
        if twin.state().published() && twin.twin() == copy.position {
            self.merge_slot(old_twin, twin);
        }
        later(state, old_word.state())
    }

    /// Flags and time. Not that it is an orphan: who opens a flow anew says so in both tables.
    #[inline(always)]
    fn merge_slot(&self, old: Slot<A, S::Words>, copy: Slot<A, S::Words>) {
        let flags = old.flags().0 & !SlotFlags::ORPHAN.0;
        if flags & !copy.flags().0 != 0 {
            copy.add_flags(SlotFlags(flags));
        }
        if age(self.now, old.last_seen()) < age(self.now, copy.last_seen()) {
            copy.set_last_seen(old.last_seen());
        }
    }
}

/// The later of two published states.
#[inline(always)]
fn later(a: State, b: State) -> State {
    if (a as u32) < b as u32 { b } else { a }
}
