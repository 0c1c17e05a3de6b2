//! One CPU is stopped at each of its accesses to the table in turn, while others do all of their work.
//!
//! What the model checker finds by luck, if many steps lie before the one that matters, is found here in any case.

use std::{cell::Cell, sync::atomic::AtomicU32};

use lb_common::{
    abi::NodeConfig,
    fake::{FakePair, FakeSlots, FakeWords},
    flow::{
        FlowKey,
        slot::{State, Words},
        table::{Existing, FlowTable, NewFlow, Refusal, Slots},
    },
    net::addr::Addr4,
};

use crate::{
    invariant::check,
    keys::{
        HASH_KEY, NODE, VIP, from_client, homes, reply_key, reply_key_of, table, to_backend,
        with_homes,
    },
};

const MASK: u32 = 63;
const NOW: u32 = 1_000;

/// Memory, of two tables perhaps; at one of the accesses to it, the one after `left` others, something else is done first.
struct Stopped<'m> {
    memory: FakePair<'m, Addr4>,
    left: Cell<Option<usize>>,
    meanwhile: &'m dyn Fn(),
}

impl Stopped<'_> {
    fn step(&self) {
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                (self.meanwhile)();
            }
            Some(left) => self.left.set(Some(left - 1)),
            None => {}
        }
    }
}

impl<'m> Slots<Addr4> for &'m Stopped<'m> {
    type Words = Stepping<'m>;

    fn words(&self, position: u32) -> Option<Stepping<'m>> {
        let words = self.memory.words(position)?;
        Some(Stepping {
            words,
            stopped: self,
        })
    }
}

#[derive(Clone, Copy)]
struct Stepping<'m> {
    words: FakeWords<'m, AtomicU32>,
    stopped: &'m Stopped<'m>,
}

impl Stepping<'_> {
    fn step(self) -> Self {
        self.stopped.step();
        self
    }
}

impl Words for Stepping<'_> {
    fn load(self, at: usize) -> u32 {
        self.step().words.load(at)
    }

    fn store(self, at: usize, value: u32) {
        self.step().words.store(at, value);
    }

    fn exchange(self, at: usize, old: u32, new: u32) -> bool {
        self.step().words.exchange(at, old, new)
    }

    fn set_bits(self, at: usize, bits: u32) {
        self.step().words.set_bits(at, bits);
    }

    fn keep_bits(self, at: usize, bits: u32) {
        self.step().words.keep_bits(at, bits);
    }

    fn add(self, at: usize, value: u32) {
        self.step().words.add(at, value);
    }

    fn add64(self, at: usize, value: u64) {
        self.step().words.add64(at, value);
    }
}

/// Does something, stopped at each access in turn, each time in a table like `before`.
fn at_each_access<T>(
    before: &FakeSlots<Addr4>,
    work: impl Fn(&FlowTable<'_, Addr4, &Stopped<'_>>) -> T,
    meanwhile: impl Fn(&FakeSlots<Addr4>),
    after: impl Fn(&FakeSlots<Addr4>, T),
) {
    for at in 0.. {
        let memory = FakeSlots::copied_from(before);
        let stopped = Stopped {
            memory: FakePair {
                first: &memory,
                other: &memory,
            },
            left: Cell::new(Some(at)),
            meanwhile: &|| meanwhile(&memory),
        };
        let slots = &stopped;
        let done = work(&FlowTable::new(&slots, memory.mask(), &NODE, NOW));
        if stopped.left.get().is_some() {
            assert!(at > 0, "it was stopped at all");
            return;
        }
        after(&memory, done);
    }
}

/// Two tables while flows are carried over from the one to the other.
struct Growing {
    old: FakeSlots<Addr4>,
    new: FakeSlots<Addr4>,
}

/// What a program knows that inserts into the new one.
static BOTH: NodeConfig = NodeConfig {
    hash_key: HASH_KEY,
    other_mask4: MASK,
    ..NodeConfig::DEFAULT
};

impl Growing {
    fn pair(&self) -> FakePair<'_, Addr4> {
        FakePair {
            first: &self.new,
            other: &self.old,
        }
    }

    /// Does something, stopped at each access in turn, each time with `key` open in the old table.
    fn at_each_access(
        key: &FlowKey<Addr4>,
        work: impl Fn(&FlowTable<'_, Addr4, &Stopped<'_>>),
        meanwhile: impl Fn(&Self),
        after: impl Fn(&Self),
    ) {
        for at in 0.. {
            let tables = Self {
                old: FakeSlots::new(MASK + 1),
                new: FakeSlots::new(MASK + 1),
            };
            open(&tables.old, key, 1).expect("an empty table has room");
            let stopped = Stopped {
                memory: tables.pair(),
                left: Cell::new(Some(at)),
                meanwhile: &|| meanwhile(&tables),
            };
            let slots = &stopped;
            work(&FlowTable::new(&slots, MASK, &BOTH, NOW));
            if stopped.left.get().is_some() {
                assert!(at > 0, "it was stopped at all");
                return;
            }
            after(&tables);
        }
    }

    /// Undisturbed.
    fn do_all<'s, T>(
        &'s self,
        work: impl FnOnce(&FlowTable<'_, Addr4, FakePair<'s, Addr4>>) -> T,
    ) -> T {
        work(&FlowTable::new(&self.pair(), MASK, &BOTH, NOW))
    }

    /// Carries over what is left; the old table is empty then.
    fn end(&self) {
        for _ in 0..4 {
            self.do_all(carry);
        }
        assert!(check(&self.old).is_empty(), "all are carried over");
    }
}

/// One pass over the old table.
fn carry<S: Slots<Addr4>>(table: &FlowTable<'_, Addr4, S>) {
    for position in 0..=MASK {
        let (mut key, mut flow) = (FlowKey::default(), NewFlow::default());
        table.carry(position, &mut key, &mut flow);
    }
}

/// The backend answers, and the flow moves on, in whichever table it is found.
fn move_on<S: Slots<Addr4>>(table: &FlowTable<'_, Addr4, S>, key: &FlowKey<Addr4>) {
    let answers = reply_key(&to_backend(key, 1), key.proto);
    if let Some((table, found)) = table.find_anywhere(&answers) {
        table.advance(&found, State::Established);
    }
}

/// Both directions of `key` have come to this in the new table.
#[track_caller]
fn assert_both(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>, state: State) {
    check(memory);
    let answers = reply_key(&to_backend(key, 1), key.proto);
    for key in [*key, answers] {
        let found = table(&memory, NOW)
            .find(&key)
            .map(|found| found.word.state());
        assert_eq!(found, Some(state));
    }
}

/// Answered for the first time at any moment of being carried over, and carried over at any moment of being answered:
/// both directions know it in the end, or nobody could have the place of the pair ever again.
#[test]
fn a_flow_that_is_answered_while_it_is_carried_over_is_answered_both_ways() {
    let key = with_buckets([0, 1], [2, 3])
        .next()
        .expect("the clients are endless");
    let after = |tables: &Growing| {
        tables.end();
        assert_both(&tables.new, &key, State::Established);
    };
    let answer = |tables: &Growing| tables.do_all(|table| move_on(table, &key));
    Growing::at_each_access(&key, |table| carry(table), answer, after);
    let pass = |tables: &Growing| tables.do_all(carry);
    Growing::at_each_access(&key, |table| move_on(table, &key), pass, after);
    let passes = |tables: &Growing| {
        pass(tables);
        answer(tables);
    };
    Growing::at_each_access(&key, |table| move_on(table, &key), passes, after);
}

/// Its client opens it anew, with another backend, at any moment of its being carried over: from then on that is the
/// flow, and what the first backend still sends is its orphan's.
#[test]
fn a_flow_that_is_opened_anew_while_it_is_carried_over_is_not_back() {
    let key = with_buckets([0, 1], [2, 3])
        .next()
        .expect("the clients are endless");
    let is_open = Cell::new(false);
    let anew = |tables: &Growing| {
        let opened =
            tables.do_all(|table| table.open(&key, &mut to_backend(&key, 2), Existing::Replace));
        is_open.set(opened.is_ok());
    };
    let opened = Cell::new(0);
    Growing::at_each_access(
        &key,
        |table| carry(table),
        anew,
        |tables| {
            tables.end();
            let connections = check(&tables.new);
            let expected = to_backend(&key, if is_open.get() { 2 } else { 1 }).rewrite;
            assert_eq!(connections.get(&key), Some(&expected));
            opened.set(opened.get() + u32::from(is_open.get()));
            let late = reply_key(&to_backend(&key, 1), key.proto);
            let slots = &tables.new;
            assert!(
                table(&slots, NOW).find(&late).is_some(),
                "what is under way is lost"
            );
        },
    );
    assert!(opened.get() > 0);
}

/// An operator takes it out at any moment of its being carried over.
#[test]
fn a_flow_that_is_taken_out_while_it_is_carried_over_is_gone() {
    let key = with_buckets([0, 1], [2, 3]).next();
    let key = key.expect("the clients are endless");
    // The old table first, as everybody goes through them.
    let take_out = |tables: &Growing| {
        for memory in [&tables.old, &tables.new] {
            let table = table(&memory, NOW);
            if let Some(found) = table.find(&key) {
                assert!(table.take_out(&found));
            }
        }
    };
    let too_late = Cell::new(0);
    let after = |tables: &Growing| {
        tables.end();
        let is_left = !check(&tables.new).is_empty();
        too_late.set(too_late.get() + u32::from(is_left));
    };
    Growing::at_each_access(&key, |table| carry(table), take_out, after);
    // Between the last look at the old slots and the copy's publication it cannot be noticed any more.
    assert!(too_late.get() <= 2, "{too_late:?} times it was there again");
}

fn dial<S: Slots<Addr4>>(
    table: &FlowTable<'_, Addr4, S>,
    key: &FlowKey<Addr4>,
    backend: u32,
) -> Result<(), Refusal> {
    table.open(key, &mut to_backend(key, backend), Existing::Keep)
}

fn open(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>, backend: u32) -> Result<(), Refusal> {
    dial(&table(&memory, NOW), key, backend)
}

/// The backend answers, and the client goes on.
fn establish(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>) -> bool {
    establish_at(memory, key, 1)
}

fn establish_at(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>, backend: u32) -> bool {
    let table = table(&memory, NOW);
    let answers = reply_key(&to_backend(key, backend), key.proto);
    let Some(found) = table.find(&answers) else {
        return false;
    };
    table.advance(&found, State::Established);
    table.is_still(&found)
}

fn buckets(homes: [u32; 2]) -> [u32; 2] {
    homes.map(|home| home / 16)
}

/// Clients whose requests have homes in these buckets, and the answers to them in those.
fn with_buckets(there: [u32; 2], back: [u32; 2]) -> impl Iterator<Item = FlowKey<Addr4>> {
    with_homes(MASK, move |request, reply| {
        (buckets(request), buckets(reply)) == (there, back)
    })
}

fn is_full(memory: &FakeSlots<Addr4>, bucket: u32) -> bool {
    (0..16).all(|place| memory.slot(bucket * 16 + place).state().published())
}

/// The client repeats its SYN at the moment when its half-open flow's place is wanted and an answer comes: while the
/// place is claimed, the repeated SYN must not open the connection a second time.
///
/// Buckets 0 and 1 are full, the one of requests, the other of their answers. The second home of the half-open flow's
/// is in bucket 2, where its repeated SYN has room; the new client has no home but in bucket 0, where that flow is the
/// only one that may give way. All further answers have room in bucket 3.
#[test]
fn a_flow_that_keeps_its_place_was_not_opened_elsewhere_meanwhile() {
    let answers_from_2 =
        |key: &FlowKey<Addr4>| buckets(homes(&reply_key(&to_backend(key, 2), key.proto), MASK));
    let old = with_buckets([0, 2], [1, 1]).find(|key| answers_from_2(key) == [3, 3]);
    let new = with_buckets([0, 0], [3, 3]).next();
    let (Some(old), Some(new)) = (old, new) else {
        unreachable!("the clients are endless")
    };
    let before = FakeSlots::new(MASK + 1);
    open(&before, &old, 1).expect("an empty table has room");
    for key in with_buckets([0, 0], [1, 1]).take(15) {
        open(&before, &key, 1).expect("two buckets with room");
        assert!(establish(&before, &key));
    }
    assert_eq!(
        [0, 1, 2, 3].map(|n| is_full(&before, n)),
        [true, true, false, false]
    );
    for is_answered_first in [true, false] {
        let [kept, lost] = [0, 0].map(Cell::new);
        let is_answered = Cell::new(false);
        let answer = |memory: &_| is_answered.set(establish(memory, &old));
        let meanwhile = |memory: &_| {
            if is_answered_first {
                answer(memory);
            }
            let _ = open(memory, &old, 2);
            if !is_answered_first {
                answer(memory);
            }
        };
        at_each_access(
            &before,
            |table| dial(table, &new, 1),
            meanwhile,
            |memory, opened| {
                let connections = check(memory);
                assert_eq!(connections.contains_key(&new), opened.is_ok());
                let to = connections.get(&old).copied();
                let is_kept = to == Some(to_backend(&old, 1).rewrite);
                assert!(is_kept || !is_answered.get(), "an answered flow is gone");
                let count = if is_kept { &kept } else { &lost };
                count.set(count.get() + 1);
            },
        );
        assert!(kept.get() > 0 && lost.get() > 0, "both come about");
    }
}

/// Both directions of each connection have come equally far: nobody could have the place of a pair that has not.
#[track_caller]
fn assert_even(memory: &FakeSlots<Addr4>) {
    for (key, there) in check(memory) {
        let reply = reply_key_of(&there, key.proto);
        let [a, b] = [key, reply].map(|key| {
            let found = table(&memory, NOW).find(&key);
            found.map(|found| found.word.state())
        });
        assert_eq!(a, b, "{key:?}");
    }
}

/// The backend still sends of an older connection, or the client's SYN is repeated and sent to another backend, or both,
/// at any moment of the opening. The rival's place is behind the first one's or before it, as the home is.
#[test]
fn whatever_meets_an_opening_there_is_one_connection_and_it_is_whole() {
    for place in [0, 15] {
        let mut keys = with_buckets([0, 1], [2, 3]);
        let key = keys.find(|key| homes(key, MASK)[0] == place);
        let key = key.expect("the clients are endless");
        let before = FakeSlots::new(MASK + 1);
        let answer = |memory: &_| {
            establish(memory, &key);
        };
        let rival = |memory: &_| {
            let _ = open(memory, &key, 2);
        };
        let meanwhiles: [&dyn Fn(&FakeSlots<Addr4>); 4] = [
            &answer,
            &rival,
            &|memory| {
                rival(memory);
                answer(memory);
            },
            &|memory| {
                answer(memory);
                rival(memory);
            },
        ];
        for meanwhile in meanwhiles {
            let dial = |table: &FlowTable<'_, Addr4, &Stopped<'_>>| dial(table, &key, 1);
            at_each_access(&before, dial, meanwhile, |memory, opened| {
                assert_even(memory);
                let to = check(memory).get(&key).copied();
                let is_mine = to == Some(to_backend(&key, 1).rewrite);
                assert_eq!(opened.is_ok(), is_mine, "{opened:?}");
            });
        }
    }
}

/// A half-open flow's only place is wanted at any moment of its being answered.
#[test]
fn an_answered_flow_never_gives_its_place_away() {
    let [old, new] = [1, 2].map(|n| from_client(n, VIP));
    let before = FakeSlots::new(2);
    open(&before, &old, 1).expect("an empty table has room");
    let is_open = Cell::new(false);
    let displace = |memory: &_| is_open.set(open(memory, &new, 2).is_ok());
    let answer = |table: &FlowTable<'_, Addr4, &Stopped<'_>>| {
        let answers = reply_key(&to_backend(&old, 1), old.proto);
        let Some(found) = table.find(&answers) else {
            return false;
        };
        table.advance(&found, State::Established);
        table.is_still(&found)
    };
    let displaced = Cell::new(0);
    at_each_access(&before, answer, displace, |memory, is_answered| {
        assert_even(memory);
        let connections = check(memory);
        assert_eq!(connections.contains_key(&new), is_open.get());
        assert_eq!(connections.contains_key(&old), !is_open.get());
        assert!(!(is_answered && is_open.get()));
        displaced.set(displaced.get() + u32::from(is_open.get()));
    });
    assert!(displaced.get() > 0);
}

/// What an operator takes out is given to another connection at any moment: that one stays.
#[test]
fn who_has_a_place_by_now_is_not_taken_out_of_it() {
    let [old, new] = [1, 2].map(|n| from_client(n, VIP));
    let before = FakeSlots::new(2);
    open(&before, &old, 1).expect("an empty table has room");
    let is_open = Cell::new(false);
    let displace = |memory: &_| {
        is_open.set(open(memory, &new, 2).is_ok() && establish_at(memory, &new, 2));
    };
    let take_out = |table: &FlowTable<'_, Addr4, &Stopped<'_>>| {
        let found = table.find(&old);
        found.is_some_and(|found| table.take_out(&found))
    };
    at_each_access(&before, take_out, displace, |memory, _| {
        assert_even(memory);
        let connections = check(memory);
        assert!(!connections.contains_key(&old));
        assert_eq!(connections.contains_key(&new), is_open.get());
    });
}

/// Answered at this moment: only one direction of a flow may have moved on when it is copied, or after.
#[test]
fn the_further_direction_says_how_far_a_copy_is() {
    let key = with_buckets([0, 1], [2, 3]).next();
    let key = key.expect("the clients are endless");
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    for moved in [key, answers] {
        for is_copied_first in [true, false] {
            let tables = Growing {
                old: FakeSlots::new(MASK + 1),
                new: FakeSlots::new(MASK + 1),
            };
            open(&tables.old, &key, 1).expect("an empty table has room");
            if is_copied_first {
                tables.do_all(carry);
            }
            let old = &tables.old;
            let found = table(&old, NOW).find(&moved).expect("opened");
            let next = found.word.with(State::Established);
            assert!(found.slot.exchange(found.word, next));
            tables.do_all(carry);
            assert_both(&tables.new, &key, State::Established);
        }
    }
}
