//! A connection is taken out from outside of packets, at any moment of theirs.

use lb_common::{
    flow::{FlowKey, slot::StateWord, table::Existing},
    net::addr::Addr4,
};
use shuttle::thread;

use crate::{
    invariant::check,
    keys::{VIP, addr, from_client, reply_key, table, to_backend},
    races::{Memory, NOW, answer, explore, memory, open, opener},
};

/// Where a connection is, and which flow it is there.
fn seen(memory: &Memory, key: &FlowKey<Addr4>) -> (u32, StateWord) {
    let slots = &**memory;
    let found = table(&slots, NOW).find(key).expect("it is there");
    (found.position, found.word)
}

/// A thread that takes out what was seen. True: it did.
fn remover(memory: &Memory, seen: (u32, StateWord)) -> thread::JoinHandle<bool> {
    let memory = memory.clone();
    thread::spawn(move || {
        let slots = &*memory;
        let table = table(&slots, NOW);
        let (position, word) = seen;
        let found = table.at(position);
        let found = found.filter(|found| found.word.same_flow(word));
        found.is_some_and(|found| table.take_out(&found))
    })
}

fn answers(key: &FlowKey<Addr4>) -> FlowKey<Addr4> {
    reply_key(&to_backend(key, 1), key.proto)
}

#[test]
fn two_that_take_one_connection_out_do_it_once() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        open(&memory, key, 1, NOW).expect("an empty table has room");
        let seen = seen(&memory, &key);
        let threads = [seen; 2].map(|seen| remover(&memory, seen));
        let done = threads.map(|thread| thread.join().expect("a remover"));
        assert_eq!(done.into_iter().filter(|done| *done).count(), 1);
        assert!(check(&memory).is_empty());
    });
}

#[test]
fn a_connection_that_is_answered_meanwhile_goes_as_a_whole() {
    explore(|| {
        let memory = memory(8);
        let key = from_client(1, VIP);
        open(&memory, key, 1, NOW).expect("an empty table has room");
        let remover = remover(&memory, seen(&memory, &key));
        let answered = {
            let memory = memory.clone();
            thread::spawn(move || answer(&memory, &answers(&key), NOW))
        };
        answered.join().expect("the reader");
        assert!(remover.join().expect("the remover"), "nobody else wants it");
        assert!(check(&memory).is_empty());
        for position in 0..8 {
            assert!(
                !memory.slot(position).state().published(),
                "half of it is left"
            );
        }
    });
}

/// There is room for one connection: who comes wants the place of the one that goes.
#[test]
fn its_place_is_given_to_another_whole_or_not() {
    explore(|| {
        let memory = memory(2);
        let (old, new) = (from_client(1, VIP), from_client(2, VIP));
        open(&memory, old, 1, NOW).expect("an empty table has room");
        let threads = (
            remover(&memory, seen(&memory, &old)),
            opener(&memory, new, 2, NOW),
        );
        let taken = threads.0.join().expect("the remover");
        let opened = threads.1.join().expect("the opener");
        let connections = check(&memory);
        assert_eq!(connections.contains_key(&new), opened);
        assert_eq!(connections.contains_key(&old), !taken && !opened);
    });
}

/// The same client opens the same connection again, before or after.
#[test]
fn it_may_be_opened_again_at_that_moment() {
    explore(|| {
        let memory = memory(16);
        let key = from_client(1, VIP);
        open(&memory, key, 1, NOW).expect("an empty table has room");
        let remover = remover(&memory, seen(&memory, &key));
        let anew = {
            let memory = memory.clone();
            thread::spawn(move || {
                let mut flow = to_backend(&key, 2);
                table(&&*memory, NOW)
                    .open(&key, &mut flow, Existing::Replace)
                    .is_ok()
            })
        };
        let opened = anew.join().expect("the opener");
        remover.join().expect("the remover");
        let connections = check(&memory);
        let new = to_backend(&key, 2).rewrite;
        let expected = opened.then_some(&new);
        assert_eq!(connections.get(&key), expected);
    });
}

/// Another connection with the same answers waits for the reply's slot.
#[test]
fn its_answers_go_to_nobody_or_to_who_has_them_now() {
    explore(|| {
        let memory = memory(16);
        let (old, new) = (from_client(1, VIP), from_client(1, addr(10, 96, 0, 2)));
        open(&memory, old, 1, NOW).expect("an empty table has room");
        let threads = (
            remover(&memory, seen(&memory, &old)),
            opener(&memory, new, 1, NOW),
        );
        assert!(threads.0.join().expect("the remover"));
        let opened = threads.1.join().expect("the opener");
        let connections = check(&memory);
        assert_eq!(connections.contains_key(&new), opened);
        assert!(!connections.contains_key(&old));
    });
}
