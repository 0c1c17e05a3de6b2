//! A table that is nearly full all the time: how many connections find no place.

use lb_common::{
    fake::FakeSlots,
    flow::{
        FlowKey,
        clock::seconds,
        slot::State,
        table::{Existing, Refusal},
    },
    net::addr::Addr4,
};

use crate::{
    invariant::check,
    keys::{VIP, from_client, reply_key, table, to_backend},
};

/// The default size of the table.
const POSITIONS: u32 = 131_072;
/// Connections that are opened, each in the place of one that ended.
const OPENED: u32 = 200_000;
/// As many as it takes to tell one in a million.
const MILLIONS: u32 = 3_000_000;
/// Long after the time at which ended connections were last seen.
const NOW: u32 = seconds(200_000);

#[test]
fn a_quarter_full_the_table_takes_all() {
    assert_eq!(refused_when_holding(POSITIONS / 4, OPENED), 0);
}

/// What is there stays, whatever is refused.
#[test]
fn three_quarters_full_the_table_refuses_less_than_one_in_a_million() {
    let refused = refused_when_holding(POSITIONS / 4 * 3, MILLIONS);
    assert!(refused < MILLIONS / 1_000_000, "{refused} of {MILLIONS}");
}

/// Fills `positions` with answered connections, then goes on opening one whenever one has ended.
fn refused_when_holding(positions: u32, opened: u32) -> u32 {
    let slots = &FakeSlots::new(POSITIONS);
    let connections = positions / 2;
    let mut held = Vec::with_capacity(connections as usize);
    let mut refused = 0;
    let mut luck = 0x9e37_79b9_u32;
    for client in 0..connections + opened {
        if held.len() == connections as usize {
            luck ^= luck << 13;
            luck ^= luck >> 17;
            luck ^= luck << 5;
            let ended = held.swap_remove((luck % connections) as usize);
            end(slots, &ended);
        }
        let key = from_client(client, VIP);
        match establish(slots, &key) {
            Ok(()) => held.push(key),
            Err(refusal) => {
                assert_eq!(refusal, Refusal::Full);
                refused += 1;
            }
        }
    }
    let there = check(slots);
    assert!(
        held.iter().all(|key| there.contains_key(key)),
        "a live flow was lost"
    );
    refused
}

fn establish(slots: &FakeSlots<Addr4>, key: &FlowKey<Addr4>) -> Result<(), Refusal> {
    let table = table(&slots, NOW);
    let mut flow = to_backend(key, 1);
    table.open(key, &mut flow, Existing::Keep)?;
    let found = table
        .find(&reply_key(&flow, key.proto))
        .expect("it was opened");
    table.advance(&found, State::Established);
    Ok(())
}

/// As if its last packet had come long ago.
fn end(slots: &FakeSlots<Addr4>, key: &FlowKey<Addr4>) {
    let table = table(&slots, NOW);
    let found = table.find(key).expect("it is held");
    found.slot.set_last_seen(1);
    slots.slot(found.slot.twin()).set_last_seen(1);
}
