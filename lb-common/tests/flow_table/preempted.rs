//! One CPU is stopped at each of its accesses to the table in turn, while others do all of their work.
//!
//! What the model checker finds by luck, if many steps lie before the one that matters, is found here in any case.

use std::cell::Cell;

use lb_common::{
    fake::{FakePair, FakeSlots},
    flow::{
        FlowKey,
        clock::RESET_HOLDS,
        slot::{SlotFlags, State},
        table::{Existing, FlowTable, Refusal, Slots},
    },
    net::addr::Addr4,
};

use crate::{
    invariant::check,
    keys::{NODE, VIP, from_client, homes, reply_key, reply_key_of, table, to_backend, with_homes},
    stopped::Stopped,
};

pub(crate) const MASK: u32 = 63;
pub(crate) const NOW: u32 = 1_000;

/// What others do with a table.
type Meanwhile<'w> = &'w dyn Fn(&FakeSlots<Addr4>);

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

fn dial<S: Slots<Addr4>>(
    table: &FlowTable<'_, Addr4, S>,
    key: &FlowKey<Addr4>,
    backend: u32,
) -> Result<(), Refusal> {
    table.open(key, &mut to_backend(key, backend), Existing::Keep)
}

pub(crate) fn open(
    memory: &FakeSlots<Addr4>,
    key: &FlowKey<Addr4>,
    backend: u32,
) -> Result<(), Refusal> {
    dial(&table(&memory, NOW), key, backend)
}

/// The backend answers, and the client goes on.
pub(crate) fn establish(memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>) -> bool {
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
pub(crate) fn with_buckets(
    there: [u32; 2],
    back: [u32; 2],
) -> impl Iterator<Item = FlowKey<Addr4>> {
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
        let meanwhiles: [Meanwhile<'_>; 4] = [
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

/// The first bucket has room to spare when the client's SYN comes, and none any more when it is repeated: each of them is
/// put into another bucket, and the one that is in the first looks at the second only if it is told of it.
#[test]
fn a_connection_that_is_opened_in_both_buckets_at_once_is_there_once() {
    let key = with_buckets([0, 1], [2, 3]).next();
    let key = key.expect("the clients are endless");
    let others: Vec<_> = with_buckets([0, 0], [2, 3]).take(12).collect();
    let (last, others) = others.split_last().expect("twelve of them");
    let before = FakeSlots::new(MASK + 1);
    for other in others {
        open(&before, other, 1).expect("a bucket with room");
        assert!(establish(&before, other));
    }
    let [mine, rivals] = [0, 0].map(Cell::new);
    let rival = |memory: &FakeSlots<Addr4>| {
        open(memory, last, 1).expect("there are five places");
        assert!(establish(memory, last));
        let _ = open(memory, &key, 2);
    };
    let dial = |table: &FlowTable<'_, Addr4, &Stopped<'_>>| dial(table, &key, 1);
    at_each_access(&before, dial, rival, |memory, opened| {
        assert_even(memory);
        let to = check(memory).get(&key).copied();
        let is_mine = to == Some(to_backend(&key, 1).rewrite);
        assert_eq!(opened.is_ok(), is_mine, "{opened:?}");
        let found = table(&memory, NOW).find(&key);
        let count = match (found.map(|found| found.position / 16), is_mine) {
            (Some(0), true) => &mine,
            (Some(1), false) => &rivals,
            _ => return,
        };
        count.set(count.get() + 1);
    });
    assert!(
        mine.get() > 0 && rivals.get() > 0,
        "each in its own bucket, {mine:?} and {rivals:?}"
    );
}

/// A half-open flow's only place is wanted at any moment of its being answered.
#[test]
fn an_answered_flow_never_gives_its_place_away() {
    let [old, new] = [1, 2].map(|n| from_client(n, VIP));
    let before = FakeSlots::new(2);
    open(&before, &old, 1).expect("an empty table has room");
    let is_open = Cell::new(false);
    let displace = |memory: &FakeSlots<Addr4>| {
        let answers = reply_key(&to_backend(&old, 1), old.proto);
        let found = table(&memory, NOW).find(&answers).expect("opened");
        let is_answered = found.word.state() == State::Established;
        is_open.set(open(memory, &new, 2).is_ok());
        assert!(
            !(is_answered && is_open.get()),
            "its answer has been sent on"
        );
    };
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

/// A packet of the old pair moves it on while its client opens it anew: the new pair is not answered by that.
#[test]
fn an_answer_to_an_old_flow_does_not_move_the_new_one_on() {
    let key = from_client(1, VIP);
    let before = FakeSlots::new(8);
    open(&before, &key, 1).expect("an empty table has room");
    let is_anew = Cell::new(false);
    let anew = |memory: &_| {
        let opened = table(&memory, NOW).open(&key, &mut to_backend(&key, 2), Existing::Replace);
        // While only one of them has moved on, the pair is left alone.
        is_anew.set(opened.is_ok());
    };
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    let answer = |table: &FlowTable<'_, Addr4, &Stopped<'_>>| {
        let found = table
            .find(&answers)
            .expect("it goes on, as an orphan at least");
        // Read before: it was none yet.
        if !found.slot.flags().orphan() {
            table.advance(&found, State::Established);
        }
    };
    let n_anew = Cell::new(0);
    at_each_access(&before, answer, anew, |memory, ()| {
        let backend = if is_anew.get() { 2 } else { 1 };
        let there = check(memory).get(&key).copied();
        assert_eq!(there, Some(to_backend(&key, backend).rewrite));
        let found = table(&memory, NOW)
            .find(&key)
            .expect("in one way or the other");
        assert_eq!(found.word.state() == State::HalfOpen, is_anew.get());
        n_anew.set(n_anew.get() + u32::from(is_anew.get()));
    });
    assert!(n_anew.get() > 0);
}

/// One CPU is behind with what it knows: a direction that is further stays so.
#[test]
fn a_flow_never_goes_back() {
    let key = from_client(1, VIP);
    let memory = FakeSlots::<Addr4>::new(8);
    open(&memory, &key, 1).expect("an empty table has room");
    let slots = &memory;
    let table = table(&slots, NOW);
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    let found = table.find(&answers).expect("opened");
    assert!(
        found
            .slot
            .exchange(found.word, found.word.with(State::Closed))
    );
    table.advance(&table.find(&key).expect("opened"), State::Established);
    let found = table.find(&answers).expect("opened");
    assert_eq!(found.word.state(), State::Closed);
}

/// What is left of a pair whose other half is gone stands alone: who wants its place does nothing to those who have the
/// other half's place by now.
#[test]
fn half_a_pair_gives_way_alone() {
    let [old, new] = [1, 2].map(|n| from_client(n, VIP));
    let memory = FakeSlots::<Addr4>::new(4);
    open(&memory, &old, 1).expect("an empty table has room");
    let slots = &memory;
    let found = table(&slots, NOW).find(&old).expect("opened");
    // As somebody leaves it who takes a connection out and is stopped over it.
    assert!(
        found
            .slot
            .exchange(found.word, found.word.with(State::Empty))
    );
    let has_place = |there: [u32; 2], _: [u32; 2]| there[0] == found.position;
    let next = with_homes(3, has_place).find(|key| *key != old && *key != new);
    let next = next.expect("the clients are endless");
    open(&memory, &next, 1).expect("three places are free");
    let there = table(&slots, NOW).at(found.position);
    assert_eq!(there.map(|there| there.slot.key()), Some(next));
    assert!(establish(&memory, &next));
    open(&memory, &new, 1).expect("one place is free, and half a pair gives way");
    let connections = check(&memory);
    assert!(connections.contains_key(&next) && connections.contains_key(&new));
}

/// Who waits longest gives way; whoever is answered does not, and whoever was reset not for a while: it may be forged.
#[test]
fn the_oldest_that_may_gives_way() {
    let [a, b, c] = [1, 2, 3].map(|n| from_client(n, VIP));
    let dial_at = |memory: &FakeSlots<Addr4>, key: &FlowKey<Addr4>, now: u32| {
        dial(&table(&memory, now), key, 1).is_ok()
    };
    let both = || {
        let memory = FakeSlots::<Addr4>::new(4);
        assert!(dial_at(&memory, &a, NOW) && dial_at(&memory, &b, NOW + 10));
        memory
    };
    let there = |memory: &FakeSlots<Addr4>| [a, b, c].map(|key| check(memory).contains_key(&key));
    let memory = both();
    assert!(dial_at(&memory, &c, NOW + 20));
    assert_eq!(there(&memory), [false, true, true]);
    let memory = FakeSlots::<Addr4>::new(4);
    assert!(dial_at(&memory, &b, NOW) && dial_at(&memory, &a, NOW + 10));
    assert!(dial_at(&memory, &c, NOW + 20));
    assert_eq!(there(&memory), [true, false, true]);
    let advance = |memory: &FakeSlots<Addr4>, state: State, flags: SlotFlags| {
        let table = table(&memory, NOW);
        let found = table.find(&a).expect("opened");
        table.add_flags(&found, flags);
        table.advance(&found, state);
    };
    let [none, reset] = [SlotFlags::default(), SlotFlags::RESET];
    for (state, flags, waits, gives_way) in [
        (State::Established, none, RESET_HOLDS, false),
        (State::Closing, none, RESET_HOLDS, false),
        (State::Closed, none, 20, true),
        (State::Closed, reset, RESET_HOLDS - 1, false),
        (State::Closed, reset, RESET_HOLDS, true),
    ] {
        let memory = both();
        assert!(establish(&memory, &b));
        advance(&memory, state, flags);
        assert_eq!(
            dial_at(&memory, &c, NOW + waits),
            gives_way,
            "{state:?} {flags:?}"
        );
        assert_eq!(there(&memory), [!gives_way, true, gives_way]);
    }
}
