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
    keys::{HASH_KEY, NODE, homes, reply_key, table, to_backend, with_homes},
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

    fn add64(self, at: usize, value: u64) {
        self.step().words.add64(at, value);
    }
}

/// Opens a connection, stopped at each access in turn, each time in a table like `before`.
fn at_each_access(
    before: &FakeSlots<Addr4>,
    key: &FlowKey<Addr4>,
    existing: Existing,
    meanwhile: impl Fn(&FakeSlots<Addr4>),
    after: impl Fn(&FakeSlots<Addr4>, Result<(), Refusal>),
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
        let table = FlowTable::new(&slots, memory.mask(), &NODE, NOW);
        let opened = table.open(key, &mut to_backend(key, 1), existing);
        if stopped.left.get().is_some() {
            assert!(at > 0, "it was stopped at all");
            return;
        }
        after(&memory, opened);
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

/// An operator takes it out at any moment of its being carried over: no half of it is left.
#[test]
fn a_flow_that_is_taken_out_while_it_is_carried_over_is_gone_or_whole() {
    let key = with_buckets([0, 1], [2, 3])
        .next()
        .expect("the clients are endless");
    let take_out = |tables: &Growing| {
        tables.do_all(|table| {
            if let Some((table, found)) = table.find_anywhere(&key) {
                table.take_out(&found);
            }
        });
    };
    Growing::at_each_access(
        &key,
        |table| carry(table),
        take_out,
        |tables| {
            tables.end();
            check(&tables.new);
        },
    );
}

fn open(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>, backend: u32) -> Result<(), Refusal> {
    table(&memory, NOW).open(key, &mut to_backend(key, backend), Existing::Keep)
}

/// The backend answers, and the client goes on.
fn establish(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>) -> bool {
    let table = table(&memory, NOW);
    let answers = reply_key(&to_backend(key, 1), key.proto);
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
            &new,
            Existing::Keep,
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
