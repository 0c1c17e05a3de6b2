//! Reserving a slot of the flow table: choosing a place, claiming it, making sure that nobody else has the key.
//!
//! The protocol and its argument are in [`super::table`]. Everything here happens on the miss path.

use super::{
    Direction, FlowKey,
    clock::{RESET_HOLDS, REUSE_AFTER, Tick, age},
    slot::{Home, Slot, SlotFlags, State, StateWord, Words},
    table::{BUCKET, Existing, FlowTable, Found, Homes, Refusal, Rest, Slots},
};
use crate::net::addr::Addr;

/// What a reservation is for, in one word: it crosses a call in the BPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(pub u32);

impl Request {
    const REPLACE: u32 = 1 << 16;
    const UNRESTED: u32 = 1 << 17;
    const MOVE: u32 = 1 << 18;

    /// For a flow that comes from the other table, which therefore is not asked.
    #[inline(always)]
    pub(super) fn to_move(flags: SlotFlags) -> Self {
        Self(u32::from(flags.0) | Self::MOVE)
    }

    #[inline(always)]
    fn asks_other(self) -> bool {
        self.0 & Self::MOVE == 0
    }

    #[inline(always)]
    pub(super) fn new(flags: SlotFlags, existing: Existing, rest: Rest) -> Self {
        let replace = match existing {
            Existing::Keep => 0,
            Existing::Replace => Self::REPLACE,
        };
        let unrested = match rest {
            Rest::Kept => 0,
            Rest::Broken => Self::UNRESTED,
        };
        Self(u32::from(flags.0) | replace | unrested)
    }

    /// True if the key of a flow that has ended may be taken at once.
    #[inline(always)]
    fn unrested(self) -> bool {
        self.0 & Self::UNRESTED != 0
    }

    #[inline(always)]
    fn flags(self) -> SlotFlags {
        SlotFlags(self.0 as u16)
    }

    #[inline(always)]
    pub(super) fn existing(self) -> Existing {
        if self.0 & Self::REPLACE == 0 {
            Existing::Keep
        } else {
            Existing::Replace
        }
    }
}

/// What became of a reservation, in one word: position and state word, or a refusal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved(pub u64);

impl Reserved {
    #[inline(always)]
    fn new(result: Result<Claim, Refusal>) -> Self {
        match result {
            Ok(claim) => {
                let low = claim.position | claim.displaces;
                Self(u64::from(claim.word.0) << 32 | u64::from(low))
            }
            // An empty slot's state word is never one that was reserved.
            Err(refusal) => Self(refusal as u64),
        }
    }

    /// The slot.
    ///
    /// # Errors
    /// The refusal.
    #[inline(always)]
    pub fn claim(self) -> Result<Claim, Refusal> {
        let word = StateWord((self.0 >> 32) as u32);
        match (word.0, self.0 as u32) {
            (0, 0) => Err(Refusal::Full),
            (0, 1) => Err(Refusal::Busy),
            (0, _) => Err(Refusal::ReplyTaken),
            (_, position) => Ok(Claim {
                position: position & POSITIONS,
                word,
                displaces: position & DISPLACES,
            }),
        }
    }
}

/// Free places that the first bucket must have, or the emptier one is taken: at three quarters full, fewer than one
/// connection in ten million then finds no place (simulated; `lb-common/tests/flow_table/fill.rs` measures it).
const SPARE: u32 = 5;

/// As many among the first [`NEAR`] places from home on are as good as [`SPARE`] in all of the bucket, and fewer to read.
const NEARBY: u32 = 3;
/// See [`NEARBY`].
const NEAR: u32 = 6;

/// What may be done with a place, in one word, since it crosses a call in the BPF object: the state word, and how many
/// ticks its flow has waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance(pub u64);

impl Glance {
    /// Nothing is there, or a flow that ended long enough ago.
    const FREE: u32 = u32::MAX;

    #[inline(always)]
    fn new(word: StateWord, waited: u32) -> Self {
        Self(u64::from(word.0) << 32 | u64::from(waited))
    }

    #[inline(always)]
    fn word(self) -> StateWord {
        StateWord((self.0 >> 32) as u32)
    }

    #[inline(always)]
    fn is_free(self) -> bool {
        self.waited() == Self::FREE
    }

    /// Zero: the flow may not give way.
    #[inline(always)]
    fn waited(self) -> u32 {
        self.0 as u32
    }
}

/// What a bucket has room for, in one word: it crosses a call in the BPF object. State word and position of the
/// first free place, and how many there are, up to [`SPARE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room(pub u64);

impl Room {
    #[inline(always)]
    fn new(first: Claim, places: u32) -> Self {
        let low = first.position & POSITIONS | places << 28;
        Self(u64::from(first.word.0) << 32 | u64::from(low))
    }

    #[inline(always)]
    fn places(self) -> u32 {
        self.0 as u32 >> 28
    }

    #[inline(always)]
    fn claim(self) -> Claim {
        let word = StateWord((self.0 >> 32) as u32);
        Claim::at(self.0 as u32 & POSITIONS, word)
    }
}

/// The flow that gives way, in one word: state word and position; zero, which no published state word is, for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest(pub u64);

impl Oldest {
    #[inline(always)]
    fn claim(self) -> Option<Claim> {
        (self.0 != 0).then_some(Claim {
            position: self.0 as u32,
            word: StateWord((self.0 >> 32) as u32),
            displaces: DISPLACES,
        })
    }
}

/// Beside a position: a flow gave way.
const DISPLACES: u32 = 1 << 31;
/// Bits of a position: a table has not more than 2^28.
const POSITIONS: u32 = (1 << 28) - 1;

/// The `place`th position of the bucket of `home`, counted from `home` on.
#[inline(always)]
fn place_from(home: u32, place: u32) -> u32 {
    home & !(BUCKET - 1) | (home.wrapping_add(place) % BUCKET)
}

impl Homes {
    /// The `place`th position where a key may be, the first bucket first, each from its home on.
    #[inline(always)]
    fn place(self, place: u32) -> u32 {
        if place < BUCKET {
            place_from(self.first, place)
        } else {
            place_from(self.second, place)
        }
    }

    /// The home in whose bucket `position` is, and whether it is the second. If both are, it is the first.
    #[inline(always)]
    fn used_for(self, position: u32) -> (u32, bool) {
        if position / BUCKET == self.first / BUCKET {
            (self.first, false)
        } else {
            (self.second, true)
        }
    }
}

/// A slot that this CPU has, or wants, to itself.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Where it is.
    pub position: u32,
    pub(super) word: StateWord,
    /// Not zero: a flow would have lived on in it. No `bool`, which the compiler would pack with the rest of a result.
    pub displaces: u32,
}

impl Claim {
    /// No slot at all.
    pub(super) const NOWHERE: Self = Self::at(u32::MAX, StateWord(0));

    #[inline(always)]
    pub(super) const fn at(position: u32, word: StateWord) -> Self {
        Self {
            position,
            word,
            displaces: 0,
        }
    }
}

impl<A: Addr, S: Slots<A>> FlowTable<'_, A, S> {
    #[inline(always)]
    pub(super) fn reserve(&self, key: &FlowKey<A>, request: Request, twin: u32) -> Reserved {
        self.slots.reserve(self, key, request, twin)
    }

    /// A slot with `key` written and nobody else having that key; `twin`: position of the other direction, where it is
    /// known. Not yet published.
    #[inline(always)]
    pub fn reserve_here(&self, key: &FlowKey<A>, request: Request, twin: u32) -> Reserved {
        Reserved::new(self.try_reserve(key, request, twin))
    }

    #[inline(always)]
    fn try_reserve(&self, key: &FlowKey<A>, request: Request, twin: u32) -> Result<Claim, Refusal> {
        let homes = self.homes(key);
        let place = self.choose_place(homes, key, request, twin)?;
        let is_copy = self.is_copy(key, place);
        let Some(word) = self.claim(place, request.existing()) else {
            return Err(Refusal::Busy);
        };
        let Some(slot) = self.slot(place.position) else {
            return Err(Refusal::Busy);
        };
        if place.word != StateWord::default() {
            self.slots.unmark_homes(self, place.position);
        }
        // Before `Keyed`: who looks for the same key looks only at marked places.
        self.mark_homes(homes, place.position);
        slot.set_key(key, request.flags());
        slot.set_last_seen(self.now);
        let claim = Claim {
            word: word.with(State::Keyed),
            ..place
        };
        slot.exchange(word, claim.word);
        let mut outdone = if self.slots.outdo(self, key, claim.position) {
            Ok(())
        } else {
            Err(Refusal::Busy)
        };
        if request.asks_other() && outdone.is_ok() {
            outdone = self.outdo_other_table(key, request, twin, is_copy);
        }
        if let Err(refusal) = outdone {
            self.give_back(claim);
            return Err(refusal);
        }
        Ok(claim)
    }

    /// The key's own old slot, else a free or expired one, else the oldest one that may give way.
    #[inline(always)]
    fn choose_place(
        &self,
        homes: Homes,
        key: &FlowKey<A>,
        request: Request,
        twin: u32,
    ) -> Result<Claim, Refusal> {
        if let Some(same) = self.find_published(key) {
            return if self.gives_way(&same, request, self.original_at(twin)) {
                Ok(Claim::at(same.position, same.word))
            } else {
                Err(Refusal::ReplyTaken)
            };
        }
        if let Some(free) = self.free_place(homes) {
            return Ok(free);
        }
        self.slots.oldest(self, homes).claim().ok_or(Refusal::Full)
    }

    /// The slot of the other direction of what is opened, where it is known.
    #[inline(always)]
    pub(super) fn original_at(&self, twin: u32) -> Option<Slot<A, S::Words>> {
        if twin == Claim::NOWHERE.position {
            None
        } else {
            self.slot(twin)
        }
    }

    /// True if a flow's key may be another's.
    #[inline(always)]
    pub(super) fn gives_way(
        &self,
        same: &Found<A, S::Words>,
        request: Request,
        original: Option<Slot<A, S::Words>>,
    ) -> bool {
        let orphan = same.slot.flags().orphan();
        let has_ended = orphan || same.word.state() == State::Closed;
        let rest = if request.unrested() { 0 } else { REUSE_AFTER };
        // An orphan of the very connection that is opened anew is not in its way.
        request.existing() == Existing::Replace
            || has_ended && request.unrested()
            || orphan && original.is_some_and(|original| same.slot.answers(original))
            || self.is_over(same, rest)
    }

    /// A place where nothing is, or a flow that ended long enough ago: in the first bucket if it has room to spare,
    /// else in the emptier one.
    #[inline(always)]
    fn free_place(&self, homes: Homes) -> Option<Claim> {
        let first = self.room(homes.first);
        if first.places() >= SPARE {
            return Some(first.claim());
        }
        let second = self.room(homes.second);
        let emptier = if second.places() > first.places() {
            second
        } else {
            first
        };
        (emptier.places() != 0).then_some(emptier.claim())
    }

    #[inline(always)]
    fn room(&self, home: u32) -> Room {
        self.slots.room(self, home)
    }

    /// The free places of a bucket, up to [`SPARE`] of them; the first from home on.
    ///
    /// Each place is one line to read, and where a flow has ended its twin is another one, far away: that of the first place
    /// alone is read, since it will be claimed. Of the others it makes no difference if one of them is not free after all.
    #[inline(always)]
    pub fn room_here(&self, home: u32) -> Room {
        let mut first = Claim::at(home, StateWord(0));
        let mut places = 0;
        for place in 0..BUCKET {
            let position = place_from(home, place) & self.mask;
            if !self.seems_free(position) {
                continue;
            }
            if places == 0 {
                let glance = self.slots.glance(self, position);
                if !glance.is_free() {
                    continue;
                }
                first = Claim::at(position, glance.word());
            }
            places += 1;
            if places == NEARBY && place < NEAR {
                places = SPARE;
            }
            if places == SPARE {
                break;
            }
        }
        Room::new(first, places)
    }

    /// False if a flow is here, as far as this direction of it tells.
    #[inline(always)]
    fn seems_free(&self, position: u32) -> bool {
        let Some(slot) = self.slot(position) else {
            return false;
        };
        let word = slot.state();
        if !word.published() {
            return word.state() == State::Empty;
        }
        let limit = self.patience(slot, word);
        age(self.now.wrapping_sub(REUSE_AFTER), slot.last_seen()) > limit
    }

    /// The flow that has waited longest, of those that may give way: half open, or closed.
    #[inline(always)]
    pub fn oldest_here(&self, homes: Homes) -> Oldest {
        let mut oldest = Oldest(0);
        let mut oldest_age = 0;
        for place in 0..2 * BUCKET {
            let position = homes.place(place) & self.mask;
            let glance = self.slots.glance(self, position);
            let waited = glance.waited();
            if waited > oldest_age {
                oldest_age = waited;
                oldest = Oldest(u64::from(glance.word().0) << 32 | u64::from(position));
            }
        }
        oldest
    }

    /// Whether a place is free, and else whether its flow may give way.
    #[inline(always)]
    pub fn glance_here(&self, position: u32) -> Glance {
        let Some(slot) = self.slot(position) else {
            return Glance::new(StateWord(0), 0);
        };
        let word = slot.state();
        let found = Found {
            position,
            slot,
            word,
        };
        if self.is_over(&found, REUSE_AFTER) {
            return Glance::new(word, Glance::FREE);
        }
        let waited = 1 + age(self.now, slot.last_seen());
        let may_go = match word.state() {
            State::HalfOpen => true,
            State::Closed => !slot.flags().reset() || waited > RESET_HOLDS,
            _ => false,
        };
        Glance::new(word, if may_go { waited } else { 0 })
    }

    /// True if nothing is in the slot, or a flow that ended `grace` ticks ago.
    ///
    /// Another connection's slot is taken only after a grace, so that no reader is inside any more.
    #[inline(always)]
    fn is_over(&self, found: &Found<A, S::Words>, grace: Tick) -> bool {
        if !found.word.published() {
            return found.word.state() == State::Empty;
        }
        !self.earlier(grace).is_live(found)
    }

    /// Claims a slot, and with a published one its whole pair; `None`: somebody was faster.
    #[inline(always)]
    pub(super) fn claim(&self, place: Claim, existing: Existing) -> Option<StateWord> {
        let Claim { position, word, .. } = place;
        let slot = self.slot(position)?;
        let claimed = word.claimed();
        if !word.published() {
            return slot.exchange(word, claimed).then_some(claimed);
        }
        let flags = slot.flags();
        let twin = self.slot(slot.twin())?;
        let twin_word = twin.state();
        let alone = flags.orphan() || twin_word.state() == State::Empty || twin.twin() != position;
        // Unchanged: what was read of the twin is about this flow.
        if slot.state() != word {
            return None;
        }
        match flags.direction() {
            _ if alone => slot.exchange(word, claimed).then_some(claimed),
            // Somebody is recycling this very pair.
            _ if !twin_word.published() => None,
            // Somebody is moving it on: it was answered at this moment.
            _ if (word.state() == State::HalfOpen) != (twin_word.state() == State::HalfOpen) => {
                None
            }
            Direction::Original if existing == Existing::Replace => {
                if !slot.exchange(word, claimed) {
                    return None;
                }
                twin.add_flags(SlotFlags::ORPHAN);
                Some(claimed)
            }
            Direction::Original => {
                take_pair(slot, word, twin, twin_word, State::Empty).then_some(claimed)
            }
            Direction::Reply => {
                if !take_pair(twin, twin_word, slot, word, State::Claimed) {
                    return None;
                }
                twin.exchange(twin_word.claimed(), twin_word.claimed().with(State::Empty));
                Some(claimed)
            }
        }
    }

    /// Frees the slots of a flow that has ended, both directions, before its time is up; `key`: of the one that was
    /// found. It stays if another CPU moves it on or recycles it at this moment.
    #[inline(always)]
    pub fn retire(&self, found: &Found<A, S::Words>, key: &FlowKey<A>) {
        self.vacate(found, Existing::Keep);
        // What it is a copy of would be found next, and copied again.
        if let Some(other) = self.other()
            && let Some(same) = other.find_published(key)
        {
            other.vacate(&same, Existing::Keep);
        }
    }

    /// Makes sure that nobody else publishes `key`: cancels who is behind, yields to who is ahead (false).
    ///
    /// Who is in the second bucket has said so at the first home before it became `Keyed`, as it has marked its place: where
    /// nothing is said of it, it has yet to look, and will see this one.
    #[inline(always)]
    pub fn outdo_here(&self, key: &FlowKey<A>, mine: u32) -> bool {
        let homes = self.homes(key);
        let Some(first) = self.slot(homes.first) else {
            return false;
        };
        if !self.outdo_in(homes.first, first, key, mine) {
            return false;
        }
        if !first.home().spilled() {
            return true;
        }
        self.slot(homes.second)
            .is_some_and(|second| self.outdo_in(homes.second, second, key, mine))
    }

    /// The same in the bucket of one home.
    #[inline(always)]
    fn outdo_in(&self, home_at: u32, home: Slot<A, S::Words>, key: &FlowKey<A>, mine: u32) -> bool {
        // Mostly nobody else is here.
        let mine_here = mine / BUCKET == home_at / BUCKET;
        if mine_here && !home.home().has_others(mine % BUCKET) {
            return true;
        }
        for place in 0..BUCKET {
            let position = place_from(home_at, place) & self.mask;
            // Read anew, see `search_in`.
            if !home.home().has(position % BUCKET) || position == mine {
                continue;
            }
            if !self.outdo_at(position, key, mine) {
                return false;
            }
        }
        true
    }

    /// The same at one place.
    #[inline(always)]
    fn outdo_at(&self, position: u32, key: &FlowKey<A>, mine: u32) -> bool {
        let Some(slot) = self.slot(position) else {
            return true;
        };
        let word = slot.state();
        let keyed = word.state() == State::Keyed;
        // Claimed: its flow is being recycled, but may yet be put back.
        let claimed = word.state() == State::Claimed;
        if !(keyed || claimed || word.published()) || !slot.has_key(key) {
            return true;
        }
        keyed && position > mine && slot.exchange(word, word.with(State::Cancelled))
    }

    /// Tells the readers of both homes where to look.
    #[inline(always)]
    pub(super) fn mark_homes(&self, homes: Homes, position: u32) {
        let (home, is_second) = homes.used_for(position);
        if let Some(home) = self.slot(home) {
            home.add_home(Home::at(position));
        }
        if is_second && let Some(first) = self.slot(homes.first) {
            first.add_home(Home::SPILL);
        }
    }

    /// Takes back what the readers of the homes of the key in a claimed slot were told.
    #[inline(always)]
    pub fn unmark_homes_here(&self, position: u32) {
        let Some(slot) = self.slot(position) else {
            return;
        };
        let mut key = FlowKey::default();
        slot.copy_key(&mut key);
        let homes = self.homes(&key);
        let (home, is_second) = homes.used_for(position);
        if let Some(home) = self.slot(home) {
            home.remove_home(Home::at(position));
        }
        if is_second && let Some(first) = self.slot(homes.first) {
            first.remove_home(Home::SPILL);
        }
    }

    #[inline(always)]
    pub(super) fn publish(&self, claim: Claim) -> bool {
        self.publish_as(claim, State::HalfOpen)
    }

    #[inline(always)]
    pub(super) fn publish_as(&self, claim: Claim, state: State) -> bool {
        self.slot(claim.position)
            .is_some_and(|slot| slot.exchange(claim.word, claim.word.with(state)))
    }

    /// Frees a slot that was keyed but not published, cancelled or not.
    #[inline(always)]
    pub fn give_back(&self, claim: Claim) {
        let Some(slot) = self.slot(claim.position) else {
            return;
        };
        let empty = claim.word.with(State::Empty);
        if !slot.exchange(claim.word, empty) {
            slot.exchange(claim.word.with(State::Cancelled), empty);
        }
    }
}

/// Claims `first`, which decides about the pair, then moves `second` out of its published state.
///
/// Puts `first` back if `second` went on meanwhile: its connection was answered, and must not be lost.
#[inline(always)]
fn take_pair<A: Addr, M: Words>(
    first: Slot<A, M>,
    first_word: StateWord,
    second: Slot<A, M>,
    second_word: StateWord,
    to: State,
) -> bool {
    let claimed = first_word.claimed();
    if !first.exchange(first_word, claimed) {
        return false;
    }
    let next = if to == State::Claimed {
        second_word.claimed()
    } else {
        second_word.with(to)
    };
    if second.exchange(second_word, next) {
        return true;
    }
    let now = second.state();
    let lives = now.published() && now.same_flow(second_word);
    first.exchange(
        claimed,
        claimed.with(if lives { now.state() } else { State::Empty }),
    );
    false
}
