//! Whoever opens a connection is killed at each of its accesses to the table in turn: what it had claimed is freed.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use lb_common::{
    fake::{FakePair, FakeSlots},
    flow::{
        FlowKey,
        table::{Existing, FlowTable},
    },
    net::addr::Addr4,
};

use crate::{
    invariant::check_marks_suffice,
    keys::{NODE, VIP, from_client, table, to_backend},
    stopped::Stopped,
};

const POSITIONS: u32 = 64;
/// All that was opened before is over then.
const LATER: u32 = 1 << 24;
/// Connections that live when somebody is killed, and that must live on.
const LIVING: std::ops::Range<u32> = 100..124;
const KILLED: u32 = 200;

fn open(memory: &FakeSlots<Addr4>, client: u32, now: u32) -> bool {
    let key = from_client(client, VIP);
    let mut flow = to_backend(&key, client);
    let opened = table(&memory, now).open(&key, &mut flow, Existing::Keep);
    opened.is_ok()
}

/// With flows that are over in all places but those of the living.
fn worn() -> FakeSlots<Addr4> {
    let memory = FakeSlots::new(POSITIONS);
    let n_over = (0..4 * POSITIONS)
        .filter(|client| open(&memory, 1_000 + client, 1))
        .count();
    assert!(n_over > POSITIONS as usize / 4, "{n_over}");
    for client in LIVING {
        assert!(open(&memory, client, LATER), "{client}");
    }
    memory
}

/// True: it was killed before it was ready.
fn is_killed_at(at: usize, memory: &FakeSlots<Addr4>) -> bool {
    let stopped = Stopped {
        memory: FakePair {
            first: memory,
            other: memory,
        },
        left: Cell::new(Some(at)),
        // Not a panic, which would be told.
        meanwhile: &|| resume_unwind(Box::new(())),
    };
    let slots = &stopped;
    let key = from_client(KILLED, VIP);
    let open = || {
        let table = FlowTable::new(&slots, memory.mask(), &NODE, LATER);
        table.open(&key, &mut to_backend(&key, KILLED), Existing::Keep)
    };
    catch_unwind(AssertUnwindSafe(open)).is_err()
}

fn free_all(memory: &FakeSlots<Addr4>) -> usize {
    let table = table(&memory, LATER);
    let freed = (0..POSITIONS).filter(|position| {
        let word = table.claimed_at(*position);
        word.is_some_and(|word| table.free_abandoned(*position, word))
    });
    freed.count()
}

fn is_there(memory: &FakeSlots<Addr4>, client: u32) -> bool {
    let key: FlowKey<Addr4> = from_client(client, VIP);
    table(&memory, LATER).find(&key).is_some()
}

#[test]
fn what_somebody_was_killed_with_is_freed_and_nothing_else() {
    let worn = worn();
    let (mut n_freed, mut n_blocked) = (0, 0);
    for at in 0.. {
        let memory = FakeSlots::copied_from(&worn);
        if !is_killed_at(at, &memory) {
            break;
        }
        if !is_there(&memory, KILLED) {
            let blocked = FakeSlots::copied_from(&memory);
            n_blocked += usize::from(!open(&blocked, KILLED, LATER));
        }
        n_freed += free_all(&memory);
        assert_eq!(free_all(&memory), 0);
        for client in LIVING {
            assert!(is_there(&memory, client), "{client} after a kill at {at}");
        }
        check_marks_suffice(&memory);
        if !is_there(&memory, KILLED) {
            // An answer that was published alone stays until its time is up.
            let is_open = open(&memory, KILLED, LATER) || open(&memory, KILLED, 2 * LATER);
            assert!(is_open, "killed at {at}");
        }
    }
    assert!(n_freed > 0 && n_blocked > 0, "{n_freed} {n_blocked}");
}
