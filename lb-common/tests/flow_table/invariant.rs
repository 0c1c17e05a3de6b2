//! What must hold of the flow table whenever nobody is inside.

use std::collections::BTreeMap;

use lb_common::{
    fake::{AtomicWord, FakeSlots, FakeWords},
    flow::{
        Direction, FlowKey, Rewrite,
        slot::{Slot, State},
    },
    net::addr::Addr4,
};

use crate::keys::{homes, reply_key_of, reply_rewrite, table};

type FlowSlotRef<'s, W> = Slot<Addr4, FakeWords<'s, W>>;

/// The published connections: original key to what it becomes.
pub(crate) type Connections = BTreeMap<FlowKey<Addr4>, Rewrite<Addr4>>;

/// Checks the whole table and returns the connections in it, expired ones included.
///
/// No slot is left claimed. No two published slots have one key. A published slot that is no orphan has
/// a twin that has it: one original, one reply, the reply's key answering what the original's packets
/// become, and the reply's packets becoming what answers the original's. A slot whose key is looked for
/// is found where it is. A home is marked for the places of the flows that were last in them, and for nothing else.
pub(crate) fn check<W: AtomicWord>(slots: &FakeSlots<Addr4, W>) -> Connections {
    let mut places = BTreeMap::new();
    let mut connections = Connections::new();
    for position in 0..slots.positions() {
        let slot = slots.slot(position);
        let word = slot.state();
        if !word.published() {
            assert_eq!(
                word.state(),
                State::Empty,
                "left at {position}:\n{}",
                dump(slots)
            );
            continue;
        }
        let other = places.insert(slot.key(), position);
        assert_eq!(
            other,
            None,
            "its key is also at {position}:\n{}",
            dump(slots)
        );
        check_found(slots, position);
        if !slot.flags().orphan() {
            check_pair(slots, position);
        }
        if slot.flags().direction() == Direction::Original {
            connections.insert(slot.key(), rewrite(slot));
        }
    }
    check_marks(slots);
    connections
}

fn check_marks<W: AtomicWord>(slots: &FakeSlots<Addr4, W>) {
    for (position, marks) in (0..).zip(marks(slots)) {
        let home = slots.slot(position).home();
        assert_eq!(home.0, marks, "marks of {position}:\n{}", dump(slots));
    }
}

/// Checks that readers are told of every place where a flow may be. They may be told of more.
pub(crate) fn check_marks_suffice<W: AtomicWord>(slots: &FakeSlots<Addr4, W>) {
    for (position, marks) in (0..).zip(marks(slots)) {
        let home = slots.slot(position).home().0;
        let suffice = home & marks & 0xffff == marks & 0xffff && home >> 16 >= marks >> 16;
        assert!(suffice, "{home:x} at {position}:\n{}", dump(slots));
    }
}

/// What homes should be marked with.
fn marks<W: AtomicWord>(slots: &FakeSlots<Addr4, W>) -> Vec<u32> {
    let mut marks = vec![0; slots.positions() as usize];
    for position in (0..slots.positions()).filter(|at| slots.slot(*at).state().0 != 0) {
        let [first, second] = homes(&slots.slot(position).key(), slots.mask());
        if position / 16 == first / 16 {
            marks[first as usize] |= 1 << (position % 16);
        } else {
            marks[second as usize] |= 1 << (position % 16);
            marks[first as usize] += 1 << 16;
        }
    }
    marks
}

fn check_found<W: AtomicWord>(slots: &FakeSlots<Addr4, W>, position: u32) {
    let slot = slots.slot(position);
    // At the moment of its last packet every flow is live.
    let found = table(&slots, slot.last_seen())
        .find(&slot.key())
        .map(|found| found.position);
    assert_eq!(found, Some(position), "not found:\n{}", dump(slots));
}

fn check_pair<W: AtomicWord>(slots: &FakeSlots<Addr4, W>, position: u32) {
    let slot = slots.slot(position);
    let twin = slots.slot(slot.twin());
    assert!(
        twin.state().published(),
        "twin of {position} is gone:\n{}",
        dump(slots)
    );
    assert_eq!(
        twin.twin(),
        position,
        "twin of {position} has another:\n{}",
        dump(slots)
    );
    let (original, reply) = match slot.flags().direction() {
        Direction::Original => (slot, twin),
        Direction::Reply => (twin, slot),
    };
    assert_eq!(
        original.flags().direction(),
        Direction::Original,
        "{position}:\n{}",
        dump(slots)
    );
    assert_eq!(
        reply.flags().direction(),
        Direction::Reply,
        "{position}:\n{}",
        dump(slots)
    );
    // What was answered is answered both ways; else neither half could be recycled.
    let [there, back] = [original, reply].map(|slot| slot.state().state() == State::HalfOpen);
    assert_eq!(there, back, "{position}:\n{}", dump(slots));
    assert_eq!(
        original.backend(),
        reply.backend(),
        "{position}:\n{}",
        dump(slots)
    );
    let answers = reply_key_of(&rewrite(original), original.key().proto);
    assert_eq!(reply.key(), answers, "{position}:\n{}", dump(slots));
    assert_eq!(
        rewrite(reply),
        reply_rewrite(&original.key()),
        "{position}:\n{}",
        dump(slots)
    );
}

/// What the packets of a slot that nobody writes become.
pub(crate) fn rewrite<W: AtomicWord>(slot: FlowSlotRef<'_, W>) -> Rewrite<Addr4> {
    let mut rewrite = Rewrite::default();
    slot.rewrite(&mut rewrite);
    rewrite
}

/// The used slots, one a line.
fn dump<W: AtomicWord>(slots: &FakeSlots<Addr4, W>) -> String {
    let line = |position: u32| {
        let slot = slots.slot(position);
        let (word, key, flags) = (slot.state(), slot.key(), slot.flags());
        let orphan = if flags.orphan() { " orphan" } else { "" };
        format!(
            "{position:4} {:?} v{} {}:{} -> {}:{} {:?}{orphan} twin {} backend {} seen {}\n",
            word.state(),
            word.0 >> 3,
            key.ends.src,
            key.sport,
            key.ends.dst,
            key.dport,
            flags.direction(),
            slot.twin(),
            slot.backend().id,
            slot.last_seen(),
        )
    };
    (0..slots.positions())
        .filter(|at| slots.slot(*at).state().0 != 0)
        .map(line)
        .collect()
}
