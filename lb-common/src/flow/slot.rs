//! One slot of the flow table: its words, read and written one at a time.
//!
//! The memory below is a map value in the kernel and an array of atomics on the host ([`Words`]); the
//! layout is [`FlowSlot`]'s, so there is one definition of where a field stands.

use core::{marker::PhantomData, mem::offset_of};

use super::{Direction, FlowKey, Rewrite, clock::Tick};
use crate::{
    abi::{FlowSlot, next_hop::NextHopRef},
    net::addr::Addr,
};

/// A slot's memory as 32-bit words. Loads and stores are single words, seen in program order.
pub trait Words: Copy {
    /// Reads word `at`.
    fn load(self, at: usize) -> u32;
    /// Writes word `at`.
    fn store(self, at: usize, value: u32);
    /// Writes `new` to word `at` if it holds `old`; a full barrier. True: it did.
    fn exchange(self, at: usize, old: u32, new: u32) -> bool;
    /// Sets `bits` in word `at`, atomically; a full barrier.
    fn set_bits(self, at: usize, bits: u32);
    /// Clears all but `bits` in word `at`, atomically; a full barrier.
    fn keep_bits(self, at: usize, bits: u32);
    /// Adds to word `at`, modulo 2^32, atomically; a full barrier.
    fn add(self, at: usize, value: u32);
    /// Adds to the two words from `at` as one 64-bit number; two CPUs may lose one of their sums.
    fn add64(self, at: usize, value: u64);
}

/// The state of a slot; the low three bits of its state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum State {
    /// Nothing is here.
    Empty = 0,
    /// One CPU is writing the key.
    Claimed = 1,
    /// The key is written; the owner looks whether anybody else has it.
    Keyed = 2,
    /// Another CPU has the same key at an earlier position; the owner must give the slot back.
    Cancelled = 3,
    /// Published; the client has not gone on after an answer yet.
    HalfOpen = 4,
    /// Published; the client was answered and has gone on.
    Established = 5,
    /// Published; one side has finished (TCP, SCTP).
    Closing = 6,
    /// Published; both sides have finished, or one has reset (TCP, SCTP).
    Closed = 7,
}

/// A state word: `version << 3 | state`. The version is raised by each claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateWord(pub u32);

impl StateWord {
    /// The state.
    #[inline(always)]
    pub fn state(self) -> State {
        match self.0 & 7 {
            0 => State::Empty,
            1 => State::Claimed,
            2 => State::Keyed,
            3 => State::Cancelled,
            4 => State::HalfOpen,
            5 => State::Established,
            6 => State::Closing,
            _ => State::Closed,
        }
    }

    /// True if packets are translated by this slot.
    #[inline(always)]
    pub fn published(self) -> bool {
        self.0 & 4 != 0
    }

    /// Another state of the same version.
    #[inline(always)]
    #[must_use]
    pub fn with(self, state: State) -> Self {
        Self(self.0 & !7 | state as u32)
    }

    /// Claimed, one version on.
    #[inline(always)]
    #[must_use]
    pub fn claimed(self) -> Self {
        Self((self.0 & !7).wrapping_add(8) | State::Claimed as u32)
    }

    /// True if both words are of one version, so that the slot holds the same flow.
    #[inline(always)]
    pub fn same_flow(self, other: Self) -> bool {
        self.0 & !7 == other.0 & !7
    }
}

/// Bits of [`FlowSlot::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotFlags(pub u16);

impl SlotFlags {
    /// A FIN came this way.
    pub const FIN: Self = Self(1 << 1);
    /// The connection was opened anew elsewhere.
    pub const ORPHAN: Self = Self(1 << 2);

    /// A SYN came this way after the connection had ended, and was sent on as the flow's: nobody else serves.
    pub const SYN: Self = Self(1 << 4);

    /// The backend has answered; on the reply's slot first.
    pub const ANSWERED: Self = Self(1 << 5);
    /// A RST went one way or the other.
    pub const RESET: Self = Self(1 << 6);

    /// The stack forwards what this flow has rewritten, and its source gives way on the way out: to that of another flow,
    /// which is [`SlotFlags::LEAVING`].
    pub const MASQUERADED: Self = Self(1 << 7);
    /// The flow exchanges the source of what the stack forwards: its packets are rewritten on their way out, their answers
    /// on the way in, and not the other way round.
    pub const LEAVING: Self = Self(1 << 8);
    /// The flow is another proxy's, and its packets go on to the stack untouched: connection tracking translates them.
    pub const FOREIGN: Self = Self(1 << 9);

    const REPLY: u16 = 1 << 0;
    const LOCAL: u16 = 1 << 3;

    /// The flags of a new slot; `local`: its backend runs on this node.
    #[inline(always)]
    pub fn new(direction: Direction, local: bool) -> Self {
        let direction = match direction {
            Direction::Original => 0,
            Direction::Reply => Self::REPLY,
        };
        Self(direction | if local { Self::LOCAL } else { 0 })
    }

    /// These and others.
    #[inline(always)]
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// True if nothing is to be known of the flow but which way it goes, where its backend is, and that it was answered.
    #[inline(always)]
    pub fn is_plain(self) -> bool {
        self.0 & !(Self::REPLY | Self::LOCAL | Self::ANSWERED.0) == 0
    }

    /// Which way the slot's packets go.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0 & Self::REPLY == 0 {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// A FIN came this way.
    #[inline(always)]
    pub fn fin(self) -> bool {
        self.0 & Self::FIN.0 != 0
    }

    /// A SYN was sent on this way after the connection had ended.
    #[inline(always)]
    pub fn syn(self) -> bool {
        self.0 & Self::SYN.0 != 0
    }

    /// The backend has answered.
    #[inline(always)]
    pub fn answered(self) -> bool {
        self.0 & Self::ANSWERED.0 != 0
    }

    /// A RST went one way or the other.
    #[inline(always)]
    pub fn reset(self) -> bool {
        self.0 & Self::RESET.0 != 0
    }

    /// The connection was opened anew elsewhere: translate, never refresh.
    #[inline(always)]
    pub fn orphan(self) -> bool {
        self.0 & Self::ORPHAN.0 != 0
    }

    /// See [`SlotFlags::MASQUERADED`].
    #[inline(always)]
    pub fn masqueraded(self) -> bool {
        self.0 & Self::MASQUERADED.0 != 0
    }

    /// See [`SlotFlags::LEAVING`].
    #[inline(always)]
    pub fn leaving(self) -> bool {
        self.0 & Self::LEAVING.0 != 0
    }

    /// See [`SlotFlags::FOREIGN`].
    #[inline(always)]
    pub fn foreign(self) -> bool {
        self.0 & Self::FOREIGN.0 != 0
    }

    /// The backend runs on this node.
    #[inline(always)]
    pub fn local(self) -> bool {
        self.0 & Self::LOCAL != 0
    }
}

/// The backend that a flow was given, and the generation that it had then.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendRef {
    /// Index into `backends`.
    pub id: u32,
    /// [`crate::abi::Backend::generation`].
    pub generation: u16,
}

/// One slot, typed. Copying it copies the reference, not the slot.
#[derive(Clone, Copy, Debug)]
pub struct Slot<A, M> {
    words: M,
    family: PhantomData<A>,
}

/// Word index of a field.
macro_rules! word {
    ($field:ident) => {
        offset_of!(FlowSlot<A>, $field) / 4
    };
}

impl<A: Addr, M: Words> Slot<A, M> {
    const KEY_WORDS: usize = size_of::<A>() / 4;

    /// The slot in `words`, which is as long as a [`FlowSlot`].
    #[inline(always)]
    pub fn new(words: M) -> Self {
        Self {
            words,
            family: PhantomData,
        }
    }

    /// The state word.
    #[inline(always)]
    pub fn state(self) -> StateWord {
        StateWord(self.words.load(word!(state)))
    }

    /// Moves the state word from `old` to `new` if nobody else has moved it.
    #[inline(always)]
    pub fn exchange(self, old: StateWord, new: StateWord) -> bool {
        self.words.exchange(word!(state), old.0, new.0)
    }

    /// Where the flows that call this position home are.
    #[inline(always)]
    pub fn home(self) -> Home {
        Home(self.words.load(word!(home)))
    }

    /// Marks a place of this position's bucket, before a flow is published there; or a flow that goes to its second home.
    #[inline(always)]
    pub fn add_home(self, home: Home) {
        if home == Home::SPILL {
            self.words.add(word!(home), home.0);
        } else {
            self.words.set_bits(word!(home), home.0);
        }
    }

    /// Takes back what was added for a flow, once its slot is claimed.
    #[inline(always)]
    pub fn remove_home(self, home: Home) {
        if home == Home::SPILL {
            self.words.add(word!(home), home.0.wrapping_neg());
        } else {
            self.words.keep_bits(word!(home), !home.0);
        }
    }

    /// True if the slot's key is `key`.
    #[inline(always)]
    pub fn has_key(self, key: &FlowKey<A>) -> bool {
        self.flags_of(key).is_some()
    }

    /// The slot's flags, if its key is `key`.
    #[inline(always)]
    pub fn flags_of(self, key: &FlowKey<A>) -> Option<SlotFlags> {
        let has_ends = self.words.load(word!(sport)) == key.ports()
            && self.address_is(word!(src), key.ends.src)
            && self.address_is(word!(dst), key.ends.dst);
        if !has_ends {
            return None;
        }
        let tag = self.words.load(word!(proto));
        (tag as u8 == key.proto).then_some(SlotFlags((tag >> 16) as u16))
    }

    /// The slot's key.
    pub fn key(self) -> FlowKey<A> {
        let mut key = FlowKey::default();
        self.copy_key(&mut key);
        key
    }

    /// Copies the slot's key.
    #[inline(always)]
    pub fn copy_key(self, into: &mut FlowKey<A>) {
        let ports = self.words.load(word!(sport));
        into.ends.src = self.address(word!(src));
        into.ends.dst = self.address(word!(dst));
        into.sport = ports as u16;
        into.dport = (ports >> 16) as u16;
        into.proto = self.protocol();
    }

    /// Writes the key into a claimed slot.
    #[inline(always)]
    pub fn set_key(self, key: &FlowKey<A>, flags: SlotFlags) {
        self.set_address(word!(src), key.ends.src);
        self.set_address(word!(dst), key.ends.dst);
        self.words.store(word!(sport), key.ports());
        self.words.store(
            word!(proto),
            u32::from(flags.0) << 16 | u32::from(key.proto),
        );
    }

    /// The slot's flags.
    #[inline(always)]
    pub fn flags(self) -> SlotFlags {
        SlotFlags((self.words.load(word!(proto)) >> 16) as u16)
    }

    /// Adds to the flags of a published slot.
    ///
    /// One atomic operation, since another CPU may add a flag or recycle the slot at this moment: key
    /// and direction of whoever has the slot by then stay what they are.
    #[inline(always)]
    pub fn add_flags(self, flags: SlotFlags) {
        self.words.set_bits(word!(proto), u32::from(flags.0) << 16);
    }

    /// The protocol of the slot's key.
    #[inline(always)]
    pub fn protocol(self) -> u8 {
        self.words.load(word!(proto)) as u8
    }

    /// Tick of the last packet.
    #[inline(always)]
    pub fn last_seen(self) -> Tick {
        self.words.load(word!(last_seen))
    }

    /// Notes a packet.
    #[inline(always)]
    pub fn set_last_seen(self, tick: Tick) {
        self.words.store(word!(last_seen), tick);
    }

    /// Notes a packet, if none of this tick was noted: a line that says so already stays as it is.
    #[inline(always)]
    pub fn see(self, tick: Tick) {
        if self.last_seen() != tick {
            self.set_last_seen(tick);
        }
    }

    /// Position of the other direction.
    #[inline(always)]
    pub fn twin(self) -> u32 {
        self.words.load(word!(twin))
    }

    /// The chosen backend.
    #[inline(always)]
    pub fn backend(self) -> BackendRef {
        BackendRef {
            id: self.words.load(word!(backend)),
            generation: self.words.load(word!(generation)) as u16,
        }
    }

    /// The next hop of this direction.
    #[inline(always)]
    pub fn next_hop(self) -> NextHopRef {
        NextHopRef::from_bits((self.words.load(word!(generation)) >> 16) as u16)
    }

    /// Points a flow with `backend` at another next hop than `old`, unless it was done already or the
    /// slot has been given to a flow with others: one exchange, since the FIB takes its time.
    #[inline(always)]
    pub fn replace_next_hop(self, backend: BackendRef, old: NextHopRef, new: NextHopRef) {
        let generation = u32::from(backend.generation);
        let [old, new] = [old, new].map(|hop| u32::from(hop.bits()) << 16 | generation);
        self.words.exchange(word!(generation), old, new);
    }

    /// What a packet of this direction becomes.
    #[inline(always)]
    pub fn rewrite(self, into: &mut Rewrite<A>) {
        let ports = self.words.load(word!(new_sport));
        into.ends.src = self.address(word!(new_src));
        into.ends.dst = self.address(word!(new_dst));
        into.sport = ports as u16;
        into.dport = (ports >> 16) as u16;
    }

    /// Writes what a packet becomes into a slot that is not published.
    #[inline(always)]
    pub fn set_rewrite(self, src: A, dst: A, sport: u16, dport: u16) {
        self.set_address(word!(new_src), src);
        self.set_address(word!(new_dst), dst);
        self.words
            .store(word!(new_sport), u32::from(dport) << 16 | u32::from(sport));
    }

    /// Writes the rest, but for key, flags and state, into a slot that is not published.
    #[inline(always)]
    pub fn set_fate(self, twin: u32, backend: BackendRef, next_hop: NextHopRef) {
        self.words.store(word!(twin), twin);
        self.words.store(word!(backend), backend.id);
        self.words.store(
            word!(generation),
            u32::from(next_hop.bits()) << 16 | u32::from(backend.generation),
        );
        self.words.store(word!(packets), 0);
        self.words.store(word!(bytes), 0);
        self.words.store(word!(bytes) + 1, 0);
    }

    /// True if this slot's packets become what answers those of `original`: both are, or were, one connection's.
    #[inline(always)]
    pub fn answers(self, original: Self) -> bool {
        let ports = self.words.load(word!(new_sport)).rotate_left(16);
        let mut differ = ports ^ original.words.load(word!(sport));
        differ |= u32::from(self.protocol() ^ original.protocol());
        for at in 0..Self::KEY_WORDS {
            let load = |words: M, field: usize| words.load(field + at);
            differ |= load(self.words, word!(new_src)) ^ load(original.words, word!(dst));
            differ |= load(self.words, word!(new_dst)) ^ load(original.words, word!(src));
        }
        differ == 0
    }

    /// Takes over what another slot has counted.
    #[inline(always)]
    pub fn copy_counts(self, from: Self) {
        for at in [word!(packets), word!(bytes), word!(bytes) + 1] {
            self.words.store(at, from.words.load(at));
        }
    }

    /// Counts a packet of `len` L3 bytes.
    #[inline(always)]
    pub fn count(self, len: u32) {
        let packets = self.words.load(word!(packets));
        self.words.store(word!(packets), packets.wrapping_add(1));
        self.words.add64(word!(bytes), u64::from(len));
    }

    /// Packets and L3 bytes that were counted.
    pub fn counted(self) -> (u32, u64) {
        let halves = || [0, 1].map(|half| self.words.load(word!(bytes) + half));
        let bytes = halves();
        let again = halves();
        // Another CPU may be between the two words: a pair that was read while they differed may be neither sum.
        let bytes = if bytes == again { bytes } else { halves() };
        (self.words.load(word!(packets)), bytemuck::cast(bytes))
    }

    #[inline(always)]
    fn address(self, at: usize) -> A {
        let mut words = [0; 4];
        for (offset, word) in words.iter_mut().enumerate().take(Self::KEY_WORDS) {
            *word = self.words.load(at + offset);
        }
        A::from_words(words)
    }

    #[inline(always)]
    fn set_address(self, at: usize, addr: A) {
        for (offset, word) in addr.words().iter().enumerate().take(Self::KEY_WORDS) {
            self.words.store(at + offset, *word);
        }
    }

    #[inline(always)]
    fn address_is(self, at: usize, addr: A) -> bool {
        let mut differ = 0;
        for (offset, word) in addr.words().iter().enumerate().take(Self::KEY_WORDS) {
            differ |= self.words.load(at + offset) ^ word;
        }
        differ == 0
    }
}

/// Where the flows that call one position home were put: a bit per place of its bucket, and above them how many went to
/// their second home.
///
/// It belongs to the position, not to the flow in it. A place is marked by who has it claimed, before a key is written there; the
/// mark stays when the flow ends, and is taken back by whoever claims the place next. So a reader that skips the places
/// without a mark misses nothing, and a place has one mark at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Home(pub u32);

impl Home {
    /// A flow whose first home is here went to its second.
    pub const SPILL: Self = Self(1 << 16);

    const PLACES: u32 = 0xffff;

    /// A flow is at `place` of this bucket.
    #[inline(always)]
    pub fn at(place: u32) -> Self {
        Self(1 << (place & 15))
    }

    /// True if a flow may be at `place`.
    #[inline(always)]
    pub fn has(self, place: u32) -> bool {
        self.0 & Self::at(place).0 != 0
    }

    /// True if a flow may be at any other place than `place`.
    #[inline(always)]
    pub fn has_others(self, place: u32) -> bool {
        self.0 & Self::PLACES & !Self::at(place).0 != 0
    }

    /// True if a flow went to its second home.
    #[inline(always)]
    pub fn spilled(self) -> bool {
        self.0 > Self::PLACES
    }
}
