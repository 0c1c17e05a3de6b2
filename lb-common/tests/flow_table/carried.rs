//! Flows on their way from one table to another, while one CPU is stopped at each of its accesses in turn.

use std::cell::Cell;

use lb_common::{
    abi::{NodeConfig, SlotLayout},
    fake::{FakePair, FakeSlots},
    flow::{
        FlowKey,
        slot::State,
        table::{Existing, FlowTable, NewFlow, Slots},
    },
    net::addr::Addr4,
};

use crate::{
    invariant::check,
    keys::{HASH_KEY, VIP, from_client, reply_key, table, to_backend},
    preempted::{MASK, NOW, open, with_buckets},
    stopped::Stopped,
};

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
                old: FakeSlots::in_layout(MASK + 1, SlotLayout::FORMER),
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
    Growing::at_each_access(
        &key,
        |table| {
            carry(table);
        },
        answer,
        after,
    );
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
        |table| {
            carry(table);
        },
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
    Growing::at_each_access(
        &key,
        |table| {
            carry(table);
        },
        take_out,
        after,
    );
    // Between the last look at the old slots and the copy's publication it cannot be noticed any more.
    assert!(too_late.get() <= 2, "{too_late:?} times it was there again");
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
                old: FakeSlots::in_layout(MASK + 1, SlotLayout::FORMER),
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

/// Its old slots are there until all who may have found them have ended.
#[test]
fn a_flow_that_is_retired_after_it_was_copied_is_gone_from_both_tables() {
    let tables = Growing {
        old: FakeSlots::in_layout(MASK + 1, SlotLayout::FORMER),
        new: FakeSlots::new(MASK + 1),
    };
    let key = from_client(1, VIP);
    open(&tables.old, &key, 1).expect("an empty table has room");
    tables.do_all(carry);
    assert_eq!((check(&tables.old).len(), check(&tables.new).len()), (1, 1));
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    tables.do_all(|table| {
        let (table, found) = table.find_anywhere(&answers).expect("it is there");
        table.retire(&found, &answers);
    });
    assert!(check(&tables.old).is_empty() && check(&tables.new).is_empty());
}
