//! The flow table: open addressing in one array, two slots a connection, no lock.
//!
//! # Places
//!
//! The table is divided into buckets of sixteen positions. A key has two homes, positions in two of them; it is put
//! into the first home's bucket as long as that has room to spare, else into the emptier one, at home itself if that
//! is free. A home remembers which places of its bucket were ever used through it ([`Home`]), so a miss
//! usually reads one line and a hit one or two.
//!
//! # Protocol
//!
//! The state word is the only thing compared-and-exchanged to decide who owns a slot. A claim raises
//! its version; everything else in a slot is written only by the one that has it claimed, but for what
//! readers of a published slot write: `last seen` and the counters, where a late write does no harm,
//! flags, which are only ever added, atomically, and the next hop, which is exchanged for the one
//! that was read.
//!
//! * **Open.** Claim a slot for the original direction, mark its place in its home, write the key, become
//!   `Keyed`, then look at all marked places for the same key. Who sees it published gives up; so does
//!   who sees it in a slot that is claimed, since that may be a flow which is put back. Who sees it
//!   `Keyed` at a later position cancels that one, at an earlier position gives up. The same for the
//!   reply. Then the bodies are written, and the reply is published before the original, by an exchange
//!   that fails if the slot was cancelled. Last the original catches up with a reply that was answered meanwhile.
//! * **Never twice.** Of two CPUs that write the same key, both mark their place and exchange `Keyed`
//!   before they look (full barriers), so at least one sees the other; that one gives up or cancels. A cancelled slot
//!   cannot be published, since both are exchanges of the same word. A cancelled slot is given back by its
//!   owner alone, so nobody else writes into a slot while its owner still may.
//! * **Recycling.** Whoever wants a reply slot claims its twin, the original slot, first; an original slot is
//!   claimed directly. So one exchange decides who recycles a pair. A flow that was answered meanwhile is put
//!   back, and a pair of which one half is half open and the other no longer is left alone: an answered,
//!   live connection never loses its slots.
//! * **Reading.** Read the state, compare the key, copy, read the state again: another version means that
//!   the slot was recycled in between, and the packet counts as a miss.
//!
//! BPF programs run to completion, so a slot does not stay claimed; nothing here waits.

use core::marker::PhantomData;

use super::{
    Direction, FlowKey, Rewrite,
    clock::{Tick, age, row},
    reserve::{Claim, Glance, Oldest, Request, Reserved, Room},
    slot::{BackendRef, Slot, SlotFlags, State, StateWord, Words},
};
use crate::{
    abi::{NodeConfig, next_hop::NextHopRef},
    hash,
    net::addr::Addr,
};

/// Positions in a bucket.
pub(super) const BUCKET: u32 = 16;

/// The table's memory.
pub trait Slots<A: Addr> {
    /// One slot's words.
    type Words: Words;
    /// The slot at `position`, in the other table if `base` is [`super::growth::OTHER`] and not 0; `None` beyond the
    /// table, which a masked position never is.
    fn words(&self, position: u32, base: u64) -> Option<Self::Words>;

    /// Carries out [`FlowTable::reserve_here`]. A host may do so in a function of its own: in the kernel
    /// it is one that the verifier checks once, not anew wherever it is called.
    #[inline(always)]
    fn reserve(
        &self,
        table: &FlowTable<'_, A, Self>,
        key: &FlowKey<A>,
        request: Request,
        twin: u32,
    ) -> Reserved
    where
        Self: Sized,
    {
        table.reserve_here(key, request, twin)
    }

    /// Carries out [`FlowTable::search_here`]; likewise.
    #[inline(always)]
    fn search(&self, table: &FlowTable<'_, A, Self>, key: &FlowKey<A>) -> Sighting
    where
        Self: Sized,
    {
        table.search_here(key)
    }

    /// Carries out [`FlowTable::glance_here`]; likewise.
    #[inline(always)]
    fn glance(&self, table: &FlowTable<'_, A, Self>, position: u32) -> Glance
    where
        Self: Sized,
    {
        table.glance_here(position)
    }

    /// Carries out [`FlowTable::room_here`]; likewise.
    #[inline(always)]
    fn room(&self, table: &FlowTable<'_, A, Self>, home: u32) -> Room
    where
        Self: Sized,
    {
        table.room_here(home)
    }

    /// Carries out [`FlowTable::oldest_here`]; likewise.
    #[inline(always)]
    fn oldest(&self, table: &FlowTable<'_, A, Self>, homes: Homes) -> Oldest
    where
        Self: Sized,
    {
        table.oldest_here(homes)
    }

    /// Carries out [`FlowTable::unmark_homes_here`]; likewise.
    #[inline(always)]
    fn unmark_homes(&self, table: &FlowTable<'_, A, Self>, position: u32)
    where
        Self: Sized,
    {
        table.unmark_homes_here(position);
    }

    /// Carries out [`FlowTable::outdo_here`]; likewise.
    #[inline(always)]
    fn outdo(&self, table: &FlowTable<'_, A, Self>, key: &FlowKey<A>, mine: u32) -> bool
    where
        Self: Sized,
    {
        table.outdo_here(key, mine)
    }
}
/// A table at one moment.
#[derive(Debug)]
pub struct FlowTable<'a, A, S> {
    pub(super) slots: &'a S,
    /// Number of positions, a power of two, minus one.
    pub(super) mask: u32,
    /// Which of the two tables this is: 0, or [`super::growth::OTHER`].
    pub(super) base: u64,
    pub(super) node: &'a NodeConfig,
    pub(super) now: Tick,
    pub(super) family: PhantomData<A>,
}

/// A flow that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<A, M> {
    /// Where it is.
    pub position: u32,
    /// Its slot.
    pub slot: Slot<A, M>,
    /// Its state word when the key was compared.
    pub word: StateWord,
}

/// A flow that was seen, in one word: state word and position; zero, which no published state word is, for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting(pub u64);

impl Sighting {
    const NONE: Self = Self(0);
}

/// A connection to be opened, besides the key of the packets that the client sends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct NewFlow<A> {
    /// What they become.
    pub rewrite: Rewrite<A>,
    /// The packets that answer; written by [`FlowTable::open`].
    pub reply: FlowKey<A>,
    /// The chosen backend.
    pub backend: BackendRef,
    /// The next hop towards the backend.
    pub next_hop: NextHopRef,
    /// The next hop towards the client, where it is known from the first.
    pub back: NextHopRef,
    /// The backend runs on this node.
    pub local: bool,
    /// [`SlotFlags::MASQUERADED`], [`SlotFlags::LEAVING`], [`SlotFlags::FOREIGN`] or none.
    pub source: SlotFlags,
    /// [`SlotFlags::FIN`] or [`SlotFlags::RESET`], if the packet that opens it is in the middle of a connection and says
    /// so.
    pub first: SlotFlags,
}

/// Whether the source port of a connection that has ended may be taken by another's at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It rests for as long as the backend may remember.
    Kept,
    /// It may.
    Broken,
}

/// What to do with a live flow that has the key of the one to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is refused.
    Keep,
    /// It was found wanting: the new one takes its place, and its reply slot goes on as an orphan.
    Replace,
}

/// Why a connection was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// All places of both buckets hold live, established flows.
    Full = 0,
    /// Another CPU is opening the same connection, or one of its places, at this moment.
    Busy = 1,
    /// The packets that would answer belong to another live connection.
    ReplyTaken = 2,
}

/// Where a key may be.
#[derive(Clone, Copy, Debug)]
pub struct Homes {
    /// Where it is put while there is room to spare.
    pub first: u32,
    /// Where else.
    pub second: u32,
}

impl<'a, A: Addr, S: Slots<A>> FlowTable<'a, A, S> {
    /// The table in `slots` at the moment `now`.
    #[inline(always)]
    pub fn new(slots: &'a S, mask: u32, node: &'a NodeConfig, now: Tick) -> Self {
        Self {
            slots,
            mask,
            base: 0,
            node,
            now,
            family: PhantomData,
        }
    }

    /// The moment that the table is looked at.
    #[inline(always)]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The table as it was `ticks` ago.
    #[inline(always)]
    pub(super) fn earlier(&self, ticks: Tick) -> Self {
        Self {
            now: self.now.wrapping_sub(ticks),
            ..*self
        }
    }

    /// The live flow with this key.
    #[inline(always)]
    pub fn find(&self, key: &FlowKey<A>) -> Option<Found<A, S::Words>> {
        let found = self.find_published(key)?;
        self.is_live(&found).then_some(found)
    }

    /// The published slot with this key and its flags, if it is where most flows are: no call, and one line.
    #[inline(always)]
    pub fn at_home(&self, key: &FlowKey<A>) -> Option<(Found<A, S::Words>, SlotFlags)> {
        let position = self.homes(key).first;
        let slot = self.slot(position)?;
        let word = slot.state();
        let flags = slot.flags_of(key).filter(|_| word.published())?;
        let found = Found {
            position,
            slot,
            word,
        };
        Some((found, flags))
    }

    /// True if a packet of the flow has come so lately that it lives, whatever its other direction does.
    #[inline(always)]
    pub fn is_fresh(&self, found: &Found<A, S::Words>) -> bool {
        let seen = found.slot.last_seen();
        seen == self.now || age(self.now, seen) <= self.patience(found.slot, found.word)
    }

    /// True if the slot still holds the flow that was found: what was copied from it is this flow's.
    #[inline(always)]
    pub fn is_still(&self, found: &Found<A, S::Words>) -> bool {
        let word = found.slot.state();
        word.same_flow(found.word) && word.published()
    }

    /// Moves both directions of a flow on to `state`; never back. True: it was this call that moved the original one.
    #[inline(always)]
    pub fn advance(&self, found: &Found<A, S::Words>, state: State) -> bool {
        let twin_position = found.slot.twin();
        let is_moved = found.slot.exchange(found.word, found.word.with(state));
        let Some(twin) = self.slot(twin_position) else {
            return false;
        };
        let word = twin.state();
        let mine = word.published() && twin.twin() == found.position && self.is_still(found);
        let is_twin_moved =
            mine && (word.state() as u32) < state as u32 && twin.exchange(word, word.with(state));
        match found.slot.flags().direction() {
            Direction::Original => is_moved,
            Direction::Reply => is_twin_moved,
        }
    }

    /// The flags of the other direction; those of a new slot if it is gone.
    #[inline(always)]
    pub fn twin_flags(&self, found: &Found<A, S::Words>) -> SlotFlags {
        match self.slot(found.slot.twin()) {
            Some(twin) if twin.twin() == found.position => twin.flags(),
            _ => SlotFlags::default(),
        }
    }

    /// When the other direction's last packet came; now, if it is gone.
    #[inline(always)]
    pub fn twin_last_seen(&self, found: &Found<A, S::Words>) -> Tick {
        match self.slot(found.slot.twin()) {
            Some(twin) if twin.twin() == found.position => twin.last_seen(),
            _ => self.now,
        }
    }

    /// Adds to the flags of both directions.
    #[inline(always)]
    pub fn add_flags(&self, found: &Found<A, S::Words>, flags: SlotFlags) {
        found.slot.add_flags(flags);
        if let Some(twin) = self.slot(found.slot.twin())
            && twin.twin() == found.position
        {
            twin.add_flags(flags);
        }
    }

    /// Opens a connection: both directions, or neither.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is left in the table then.
    pub fn open(
        &self,
        key: &FlowKey<A>,
        new: &mut NewFlow<A>,
        existing: Existing,
    ) -> Result<(), Refusal> {
        let original = self.begin(key, new, existing)?;
        match self.answer(key, new, original.position, Rest::Kept).claim() {
            Ok(reply) => self.finish(key, new, original, reply),
            Err(refusal) => {
                self.give_back(original);
                Err(refusal)
            }
        }
    }

    /// The first step: a slot for the original direction, which must be given back or come to its finish.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is left in the table then.
    #[inline(always)]
    pub fn begin(
        &self,
        key: &FlowKey<A>,
        new: &NewFlow<A>,
        existing: Existing,
    ) -> Result<Claim, Refusal> {
        let flags = SlotFlags::new(Direction::Original, new.local)
            .and(new.source)
            .and(new.first);
        let request = Request::new(flags, existing, Rest::Broken);
        match self.reserve(key, request, Claim::NOWHERE.position).claim() {
            // Another CPU has just opened this very connection: the retransmit finds it.
            Err(Refusal::ReplyTaken) => Err(Refusal::Busy),
            reserved => reserved,
        }
    }

    /// Reads from where the reply to what the flow's rewrite says would be, so that the line is on its way here while the
    /// original direction's slot is claimed: it is the table's second cold line, and the first exchange would wait for both.
    #[inline(always)]
    pub fn foresee(&self, key: &FlowKey<A>, new: &mut NewFlow<A>) {
        new.rewrite.answered_by(key.proto, &mut new.reply);
        if let Some(home) = self.slot(self.homes(&new.reply).first) {
            home.state();
        }
    }

    /// The second: a slot for the reply to what the flow's rewrite says; `original`: the first one's position.
    ///
    /// # Errors
    /// [`Refusal::ReplyTaken`]: another rewrite may do. Nothing is left of this step then.
    #[inline(always)]
    pub fn answer(
        &self,
        key: &FlowKey<A>,
        new: &mut NewFlow<A>,
        original: u32,
        rest: Rest,
    ) -> Reserved {
        new.rewrite.answered_by(key.proto, &mut new.reply);
        let flags = SlotFlags::new(Direction::Reply, new.local).and(new.source);
        let request = Request::new(flags, Existing::Keep, rest);
        self.reserve(&new.reply, request, original)
    }

    /// The last: both are written and published.
    ///
    /// # Errors
    /// See [`Refusal`]; nothing is left in the table then.
    #[inline(never)]
    pub fn finish(
        &self,
        key: &FlowKey<A>,
        new: &NewFlow<A>,
        original: Claim,
        reply: Claim,
    ) -> Result<(), Refusal> {
        if let Some(slot) = self.slot(original.position) {
            let Rewrite { ends, sport, dport } = &new.rewrite;
            slot.set_rewrite(ends.src, ends.dst, *sport, *dport);
            slot.set_fate(reply.position, new.backend, new.next_hop);
        }
        if let Some(slot) = self.slot(reply.position) {
            slot.set_rewrite(key.ends.dst, key.ends.src, key.dport, key.sport);
            slot.set_fate(original.position, new.backend, new.back);
        }
        if !self.publish(reply) {
            self.give_back(reply);
            self.give_back(original);
            return Err(Refusal::Busy);
        }
        if !self.publish(original) {
            if let Some(slot) = self.slot(reply.position) {
                let word = reply.word.with(State::HalfOpen);
                if !slot.exchange(word, word.with(State::Empty)) {
                    // An answer was faster: the slot ends as an orphan does.
                    slot.add_flags(SlotFlags::ORPHAN);
                }
            }
            self.give_back(original);
            return Err(Refusal::Busy);
        }
        self.catch_up(original, reply);
        Ok(())
    }

    /// Moves a flow's original direction on if the reply was answered before the original was published: who
    /// answered it saw nothing to move on. Left half open, it would live too short, and as its twin is not, nobody
    /// could recycle it.
    #[inline(always)]
    fn catch_up(&self, original: Claim, reply: Claim) {
        let (Some(slot), Some(twin)) = (self.slot(original.position), self.slot(reply.position))
        else {
            return;
        };
        let word = twin.state();
        if word.same_flow(reply.word) && word.published() && word.state() != State::HalfOpen {
            let half_open = original.word.with(State::HalfOpen);
            slot.exchange(half_open, half_open.with(word.state()));
        }
    }

    #[inline(always)]
    pub(super) fn homes(&self, key: &FlowKey<A>) -> Homes {
        let hash = hash::tuple(
            &self.node.hash_key,
            key.ends.src,
            key.ends.dst,
            key.ports(),
            key.proto,
        );
        Homes {
            first: hash as u32 & self.mask,
            second: (hash >> 32) as u32 & self.mask,
        }
    }

    #[inline(always)]
    pub(super) fn slot(&self, position: u32) -> Option<Slot<A, S::Words>> {
        self.slots
            .words(position & self.mask, self.base)
            .map(Slot::new)
    }

    /// The published slot with this key, live or not.
    #[inline(always)]
    pub(super) fn find_published(&self, key: &FlowKey<A>) -> Option<Found<A, S::Words>> {
        let Sighting(seen) = self.slots.search(self, key);
        if seen == 0 {
            return None;
        }
        let position = seen as u32;
        Some(Found {
            position,
            slot: self.slot(position)?,
            word: StateWord((seen >> 32) as u32),
        })
    }

    /// Looks for a key in the first home's bucket, and in the second's if a flow of the first went there.
    #[inline(always)]
    pub fn search_here(&self, key: &FlowKey<A>) -> Sighting {
        let homes = self.homes(key);
        let Some(first) = self.slot(homes.first) else {
            return Sighting::NONE;
        };
        let seen = self.search_in(homes.first, first, key);
        if seen != Sighting::NONE || !first.home().spilled() {
            return seen;
        }
        match self.slot(homes.second) {
            Some(second) => self.search_in(homes.second, second, key),
            None => Sighting::NONE,
        }
    }

    /// Looks at home first, where most flows are.
    ///
    /// The home's word is read anew for each place: if it were kept, the verifier would note what each test says of it
    /// and follow every combination of places.
    #[inline(always)]
    fn search_in(&self, position: u32, home: Slot<A, S::Words>, key: &FlowKey<A>) -> Sighting {
        let own = position % BUCKET;
        if home.home().has(own) {
            let seen = self.look_at(position, key);
            if seen != Sighting::NONE {
                return seen;
            }
        }
        if !home.home().has_others(own) {
            return Sighting::NONE;
        }
        // Counted from home on: to compare each place with home would be more for the verifier to follow.
        for offset in 1..BUCKET {
            let place = own.wrapping_add(offset) % BUCKET;
            if !home.home().has(place) {
                continue;
            }
            let seen = self.look_at(position & !(BUCKET - 1) | place, key);
            if seen != Sighting::NONE {
                return seen;
            }
        }
        Sighting::NONE
    }

    /// The flow at a position, if it is published and has this key.
    #[inline(always)]
    fn look_at(&self, position: u32, key: &FlowKey<A>) -> Sighting {
        let Some(slot) = self.slot(position) else {
            return Sighting::NONE;
        };
        let word = slot.state();
        if word.published() && slot.has_key(key) {
            Sighting(u64::from(word.0) << 32 | u64::from(position & self.mask))
        } else {
            Sighting::NONE
        }
    }

    /// A flow lives as long as either direction does: a download sends nothing up for minutes.
    #[inline(always)]
    pub(super) fn is_live(&self, found: &Found<A, S::Words>) -> bool {
        if self.is_fresh(found) {
            return true;
        }
        let Found {
            position,
            slot,
            word,
        } = *found;
        let limit = self.patience(slot, word);
        if slot.flags().orphan() {
            return false;
        }
        let Some(twin) = self.slot(slot.twin()) else {
            return false;
        };
        twin.state().published()
            && twin.twin() == position
            && age(self.now, twin.last_seen()) <= limit
    }

    /// How long a slot's flow lives without a packet.
    #[inline(always)]
    pub(super) fn patience(&self, slot: Slot<A, S::Words>, word: StateWord) -> Tick {
        self.lifetime(row(slot.protocol(), word, slot.flags()))
    }
}
