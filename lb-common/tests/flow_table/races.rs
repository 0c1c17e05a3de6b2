//! The claim and publish protocol under a model checker.
//!
//! shuttle runs each scenario under many schedules, switching threads at any access to the table's
//! memory: at random, by priorities (PCT, which finds any bug of a few ordered events with a known
//! probability), and, where that is feasible, one after the other in depth. The memory is sequentially
//! consistent, as the protocol's full barriers make it where that matters.

use std::sync::Arc;

use lb_common::{
    atomic_word,
    fake::FakeSlots,
    flow::{
        FlowKey, Rewrite,
        clock::{REUSE_AFTER, seconds},
        slot::{SlotFlags, State},
        table::{Existing, Refusal},
    },
    net::addr::Addr4,
};
use shuttle::{
    Config, Runner,
    scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler},
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
};

use crate::{
    invariant::check,
    keys::{VIP, addr, from_client, reply_key, reply_rewrite, table, to_backend},
};

/// Schedules of each kind that a scenario is run under.
const SCHEDULES: usize = 5_000;
/// Ordered events that the priority scheduler aims at.
const DEPTH: usize = 4;
/// The moment at which scenarios begin.
pub(crate) const NOW: u32 = 1_000;

/// A word that the model checker switches threads at.
#[derive(Default)]
pub(crate) struct Word(AtomicU32);

atomic_word!(Word, SeqCst);

pub(crate) type Memory = Arc<FakeSlots<Addr4, Word>>;

/// Runs a scenario under all kinds of schedules.
pub(crate) fn explore(scenario: fn()) {
    explore_for(SCHEDULES, scenario);
}

pub(crate) fn explore_for(schedules: usize, scenario: fn()) {
    run(RandomScheduler::new_from_seed(1, schedules), scenario);
    run(PctScheduler::new_from_seed(2, DEPTH, schedules), scenario);
    run(DfsScheduler::new(Some(schedules), false), scenario);
}

fn run(scheduler: impl Scheduler + 'static, scenario: fn()) {
    Runner::new(scheduler, Config::default()).run(scenario);
}

pub(crate) fn memory(positions: u32) -> Memory {
    Arc::new(FakeSlots::new(positions))
}

/// Opens a connection to a backend, as one CPU does.
pub(crate) fn open(
    memory: &Memory,
    key: FlowKey<Addr4>,
    backend: u32,
    now: u32,
) -> Result<(), Refusal> {
    table(&&**memory, now).open(&key, &mut to_backend(&key, backend), Existing::Keep)
}

/// A thread that opens a connection. True: it did.
pub(crate) fn opener(
    memory: &Memory,
    key: FlowKey<Addr4>,
    backend: u32,
    now: u32,
) -> thread::JoinHandle<bool> {
    let memory = memory.clone();
    thread::spawn(move || open(&memory, key, backend, now).is_ok())
}

/// What a reader makes of a packet with `key`; `None`: a miss.
fn read(memory: &Memory, key: &FlowKey<Addr4>, now: u32) -> Option<Rewrite<Addr4>> {
    let slots = &**memory;
    let table = table(&slots, now);
    let found = table.find(key)?;
    let mut rewrite = Rewrite::default();
    found.slot.rewrite(&mut rewrite);
    table.is_still(&found).then_some(rewrite)
}

/// Takes the backend's answer to a connection, as one CPU does. True: the connection is answered.
pub(crate) fn answer(memory: &Memory, key: &FlowKey<Addr4>, now: u32) -> bool {
    let slots = &**memory;
    let table = table(&slots, now);
    let Some(found) = table.find(key) else {
        return false;
    };
    if !table.is_still(&found) {
        return false;
    }
    table.advance(&found, State::Established);
    table.is_still(&found)
}

fn join<T>(threads: Vec<thread::JoinHandle<T>>) -> Vec<T> {
    threads
        .into_iter()
        .map(|thread| thread.join().expect("a thread of the scenario"))
        .collect()
}

fn opened(threads: Vec<thread::JoinHandle<bool>>) -> usize {
    join(threads).into_iter().filter(|opened| *opened).count()
}

/// Every CPU chose another backend.
fn same_key_on(cpus: u32, positions: u32) {
    let memory = memory(positions);
    let key = from_client(1, VIP);
    let opened = opened(
        (1..=cpus)
            .map(|cpu| opener(&memory, key, cpu, NOW))
            .collect(),
    );
    let connections = check(&memory);
    assert_eq!(connections.len(), opened);
    assert!(opened <= 1, "{opened} CPUs opened one connection");
}

#[test]
fn the_same_connection_on_two_cpus_is_opened_once() {
    explore(|| same_key_on(2, 16));
}

#[test]
fn the_same_connection_on_three_cpus_is_opened_once() {
    explore(|| same_key_on(3, 16));
}

#[test]
fn the_same_connection_in_a_table_of_four_slots_is_opened_once() {
    explore(|| same_key_on(2, 4));
}

/// Both CPUs chose the same backend too.
#[test]
fn the_same_connection_to_the_same_backend_is_opened_once() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        let opened = opened((0..2).map(|_| opener(&memory, key, 1, NOW)).collect());
        assert_eq!(check(&memory).len(), opened);
        assert!(opened <= 1, "{opened} CPUs opened one connection");
    });
}

/// One client port to two services with one backend: the answers could not be told apart.
#[test]
fn two_connections_with_the_same_answers_are_not_both_opened() {
    explore(|| {
        let memory = memory(16);
        let keys = [from_client(1, VIP), from_client(1, addr(10, 96, 0, 2))];
        let threads = keys.map(|key| opener(&memory, key, 1, NOW));
        let opened = opened(threads.into());
        assert_eq!(check(&memory).len(), opened);
        assert!(opened <= 1);
    });
}

/// Different connections disturb each other at most by wanting the same place.
#[test]
fn two_connections_in_a_roomy_table_leave_two_pairs_or_one() {
    explore(|| {
        let memory = memory(16);
        let threads = [1, 2].map(|n| opener(&memory, from_client(n, VIP), n, NOW));
        let opened = opened(threads.into());
        assert_eq!(check(&memory).len(), opened);
        assert!(opened >= 1, "neither CPU was ahead");
    });
}

/// Whatever slot each takes first, it needs one that the other may have taken.
#[test]
fn crosswise_recycling_of_expired_pairs_leaves_whole_pairs() {
    explore(|| {
        let memory = memory(4);
        for n in [1, 2] {
            open(&memory, from_client(n, VIP), n, NOW).expect("an empty table has room");
        }
        let later = NOW + seconds(60) + REUSE_AFTER + 1;
        let threads = [3, 4].map(|n| opener(&memory, from_client(n, VIP), n, later));
        let opened = opened(threads.into());
        let connections = check(&memory);
        // The one may have displaced the other, half open as it was.
        let new = [3, 4]
            .iter()
            .filter(|n| connections.contains_key(&from_client(**n, VIP)));
        assert!(
            (opened.min(1)..=opened).contains(&new.count()),
            "{opened}: {connections:?}"
        );
    });
}

/// The old flow's reply is read while its place, or its key, is given to another.
#[test]
fn a_reader_never_gets_another_flows_rewrite() {
    explore(|| {
        let memory = memory(2);
        let (old, new) = (from_client(1, VIP), from_client(2, VIP));
        open(&memory, old, 1, NOW).expect("an empty table has room");
        let recycler = opener(&memory, new, 2, NOW);
        let readers = [(old, 1), (new, 2)].map(|(key, backend)| {
            let memory = memory.clone();
            thread::spawn(move || {
                let flow = to_backend(&key, backend);
                let there = read(&memory, &key, NOW);
                assert!(
                    there.is_none_or(|rewrite| rewrite == flow.rewrite),
                    "{there:?}"
                );
                let back = read(&memory, &reply_key(&flow, key.proto), NOW);
                assert!(
                    back.is_none_or(|rewrite| rewrite == reply_rewrite(&key)),
                    "{back:?}"
                );
            })
        });
        join(readers.into());
        let opened = recycler.join().expect("the recycler");
        assert_eq!(check(&memory).contains_key(&new), opened);
    });
}

/// An answer comes at the moment when the half-open flow's place is wanted.
#[test]
fn an_answered_flow_is_never_displaced() {
    explore(|| {
        let memory = memory(2);
        let (old, new) = (from_client(1, VIP), from_client(2, VIP));
        open(&memory, old, 1, NOW).expect("an empty table has room");
        let recycler = opener(&memory, new, 2, NOW);
        let answers = reply_key(&to_backend(&old, 1), old.proto);
        let answered = {
            let memory = memory.clone();
            thread::spawn(move || answer(&memory, &answers, NOW))
        };
        let answered = answered.join().expect("the reader");
        let displaced = recycler.join().expect("the recycler");
        let connections = check(&memory);
        assert!(
            !(answered && displaced),
            "an answered flow gave its place away"
        );
        assert_eq!(connections.contains_key(&old), !displaced);
        assert_eq!(connections.contains_key(&new), displaced);
    });
}

/// What the backend still sends of an older connection comes at the moment when the answers' slot is published and
/// the requests' is not: both must count as answered, or neither is ever recycled.
#[test]
fn a_reply_answered_before_its_original_was_published_moves_both_on() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        let opener = opener(&memory, key, 1, NOW);
        let answers = reply_key(&to_backend(&key, 1), key.proto);
        let answered = {
            let memory = memory.clone();
            thread::spawn(move || answer(&memory, &answers, NOW))
        };
        let answered = answered.join().expect("the reader");
        assert!(opener.join().expect("the opener"), "nobody was in its way");
        check(&memory);
        let slots = &*memory;
        let found = table(&slots, NOW).find(&key).expect("opened above");
        let expected = if answered {
            State::Established
        } else {
            State::HalfOpen
        };
        assert_eq!(found.word.state(), expected);
    });
}

/// The same, and the opener loses against another: the answered half ends as an orphan does.
#[test]
fn a_reply_answered_before_its_original_was_given_up_stands_alone() {
    explore(|| {
        let memory = memory(16);
        let key = from_client(1, VIP);
        let openers = [1, 2].map(|backend| opener(&memory, key, backend, NOW));
        let answers = [1, 2].map(|backend| reply_key(&to_backend(&key, backend), key.proto));
        let answered = {
            let memory = memory.clone();
            thread::spawn(move || answers.map(|answers| answer(&memory, &answers, NOW)))
        };
        answered.join().expect("the reader");
        let opened = opened(openers.into());
        assert_eq!(check(&memory).len(), opened);
    });
}

/// UDP whose backend is gone: the client's next packet opens anew while an answer is under way.
#[test]
fn a_reply_is_read_while_its_original_is_opened_anew() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        open(&memory, key, 1, NOW).expect("an empty table has room");
        let anew = {
            let memory = memory.clone();
            thread::spawn(move || {
                let mut flow = to_backend(&key, 2);
                table(&&*memory, NOW)
                    .open(&key, &mut flow, Existing::Replace)
                    .is_ok()
            })
        };
        let replies = {
            let memory = memory.clone();
            let [old, new] = [1, 2].map(|id| reply_key(&to_backend(&key, id), key.proto));
            thread::spawn(move || {
                let back = read(&memory, &old, NOW);
                assert_eq!(back, Some(reply_rewrite(&key)), "what is under way is lost");
                let back = read(&memory, &new, NOW);
                assert!(
                    back.is_none_or(|rewrite| rewrite == reply_rewrite(&key)),
                    "{back:?}"
                );
                let there = read(&memory, &key, NOW);
                let allowed = [1, 2].map(|id| to_backend(&key, id).rewrite);
                assert!(
                    there.is_none_or(|rewrite| allowed.contains(&rewrite)),
                    "{there:?}"
                );
            })
        };
        replies.join().expect("the reader");
        assert!(anew.join().expect("the opener"), "nobody was in its way");
        assert_eq!(check(&memory).get(&key), Some(&to_backend(&key, 2).rewrite));
    });
}

/// Two CPUs find the flow wanting at once; one of them opens it anew.
#[test]
fn two_cpus_open_a_flow_anew_once() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        open(&memory, key, 1, NOW).expect("an empty table has room");
        let threads = [2, 3].map(|backend| {
            let memory = memory.clone();
            thread::spawn(move || {
                let mut flow = to_backend(&key, backend);
                table(&&*memory, NOW)
                    .open(&key, &mut flow, Existing::Replace)
                    .is_ok()
            })
        });
        let opened = opened(threads.into());
        let connections = check(&memory);
        assert!(connections.len() <= 1, "{connections:?}");
        assert!(opened == 0 || connections.len() == 1);
    });
}

/// The backend accepts another connection in an ended one's place at the moment when the client opens it anew.
#[test]
fn an_ended_flow_is_retired_or_opened_anew() {
    explore(|| an_ended_flow_is_retired_beside_a_new_one_to(1));
    explore(|| an_ended_flow_is_retired_beside_a_new_one_to(2));
}

fn an_ended_flow_is_retired_beside_a_new_one_to(backend: u32) {
    let memory = memory(8);
    let key = from_client(1, VIP);
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    open(&memory, key, 1, NOW).expect("an empty table has room");
    {
        let slots = &*memory;
        let table = table(&slots, NOW);
        table.advance(&table.find(&answers).expect("opened above"), State::Closed);
    }
    let anew = {
        let memory = memory.clone();
        thread::spawn(move || {
            let mut flow = to_backend(&key, backend);
            table(&&*memory, NOW)
                .open(&key, &mut flow, Existing::Replace)
                .is_ok()
        })
    };
    let retired = {
        let memory = memory.clone();
        thread::spawn(move || {
            let slots = &*memory;
            let table = table(&slots, NOW);
            let found = table.find(&answers);
            if let Some(found) = found.filter(|found| found.word.state() == State::Closed) {
                table.retire(&found, &answers);
            }
        })
    };
    retired.join().expect("who retires it");
    let opened = anew.join().expect("the opener");
    let connections = check(&memory);
    if opened {
        let new = to_backend(&key, backend).rewrite;
        assert_eq!(connections.get(&key), Some(&new));
    } else {
        assert!(connections.is_empty(), "{connections:?}");
    }
}

/// A FIN is noted in a slot that is made an orphan, or given away, at that moment.
#[test]
fn a_late_fin_harms_nobody() {
    explore(|| {
        let memory = memory(2);
        let (old, new) = (
            from_client(1, VIP),
            FlowKey {
                proto: 17,
                ..from_client(2, VIP)
            },
        );
        open(&memory, old, 1, NOW).expect("an empty table has room");
        let recycler = opener(&memory, new, 2, NOW);
        let finisher = {
            let memory = memory.clone();
            thread::spawn(move || {
                let slots = &*memory;
                let table = table(&slots, NOW);
                let Some(found) = table.find(&old) else {
                    return;
                };
                if table.is_still(&found) {
                    found.slot.add_flags(SlotFlags::FIN);
                }
            })
        };
        finisher.join().expect("the reader");
        recycler.join().expect("the recycler");
        check(&memory);
    });
}
