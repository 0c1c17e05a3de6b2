//! The flow table against a map, one operation after the other, with little room and much time.
//!
//! The model does not know places, so it learns from the table which flows made room for a new one,
//! and insists that each of them was one that may.

use std::collections::BTreeMap;

use lb_common::{
    fake::FakeSlots,
    flow::{
        FlowKey, Rewrite,
        clock::{REUSE_AFTER, Tick, age, row, seconds},
        slot::{SlotFlags, State, StateWord},
        table::{Existing, Refusal},
    },
    net::addr::Addr4,
};
use proptest::prelude::*;

use crate::{
    invariant::{check, rewrite},
    keys::{NODE, addr, from_client, reply_key, reply_rewrite, table, to_backend},
};

const CLIENTS: u32 = 24;
const SERVICES: u8 = 2;
const BACKENDS: u32 = 3;
/// Backends have ids from here on.
const FIRST_BACKEND: u32 = 1;

/// What happens to the table.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A packet that opens a connection.
    Open { who: Who, backend: u32 },
    /// A known flow's packet that moves it on to a state, one way or the other.
    Advance {
        who: Who,
        answer: bool,
        state: State,
    },
    /// A known flow is opened anew with another backend.
    Reopen { who: Who, backend: u32 },
    /// Time passes.
    Wait(Tick),
}

/// One client's connection to one service.
#[derive(Clone, Copy, Debug)]
struct Who {
    client: u32,
    service: u8,
    proto: u8,
}

impl Who {
    fn key(self) -> FlowKey<Addr4> {
        let key = from_client(self.client, addr(10, 96, 0, self.service));
        FlowKey {
            proto: self.proto,
            ..key
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    backend: u32,
    state: State,
    seen: [Tick; 2],
}

impl Flow {
    fn is_live(&self, proto: u8, now: Tick) -> bool {
        let word = StateWord(self.state as u32);
        let limit = NODE.lifetimes[row(proto, word, SlotFlags::default())];
        self.seen.iter().any(|seen| age(now, *seen) <= limit)
    }
}

/// A reply slot whose connection was opened anew.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    owner: FlowKey<Addr4>,
    becomes: Rewrite<Addr4>,
    state: State,
    seen: Tick,
}

/// The table, and what it should hold.
struct World {
    slots: FakeSlots<Addr4>,
    now: Tick,
    flows: BTreeMap<FlowKey<Addr4>, Flow>,
    orphans: BTreeMap<FlowKey<Addr4>, Orphan>,
}

impl World {
    fn new(positions: u32) -> Self {
        // Shortly before the clock wraps.
        let now = u32::MAX - seconds(600);
        Self {
            slots: FakeSlots::new(positions),
            now,
            flows: BTreeMap::new(),
            orphans: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Open { who, backend } => self.open(who.key(), backend, Existing::Keep),
            Step::Advance { who, answer, state } => self.advance(who.key(), answer, state),
            Step::Reopen { who, backend } => self.reopen(who.key(), backend),
            Step::Wait(ticks) => self.now = self.now.wrapping_add(ticks),
        }
        self.compare();
    }

    fn open(&mut self, key: FlowKey<Addr4>, backend: u32, existing: Existing) {
        let mut new = to_backend(&key, backend);
        let answers = reply_key(&new, key.proto);
        let (busy, taken) = (self.in_use(&key), self.answers_taken(&answers, &key));
        let result = table(&&self.slots, self.now).open(&key, &mut new, existing);
        match result {
            Err(Refusal::Busy) => assert!(busy && existing == Existing::Keep, "{key:?} was free"),
            Err(Refusal::ReplyTaken) => assert!(taken, "{answers:?} were free"),
            Err(Refusal::Full) => {}
            Ok(()) => {
                // Taken answers may have become free: their flow made room for the original's slot.
                assert!(!busy || existing == Existing::Replace, "{key:?} was in use");
                self.orphans.remove(&answers);
            }
        }
        let there = check(&self.slots);
        self.flows.retain(|old, flow| {
            let stays = there.contains_key(old);
            let own = *old == key && !(busy && existing == Existing::Keep);
            let gives_way = match flow.state {
                State::HalfOpen | State::Closed => true,
                _ => own || !flow.is_live(old.proto, self.now),
            };
            assert!(stays || gives_way, "{old:?} {flow:?} was lost");
            stays
        });
        if result.is_ok() {
            let flow = Flow {
                backend,
                state: State::HalfOpen,
                seen: [self.now; 2],
            };
            self.flows.insert(key, flow);
        }
    }

    /// True if a live flow has this key that is not closed.
    fn in_use(&self, key: &FlowKey<Addr4>) -> bool {
        self.flows
            .get(key)
            .is_some_and(|flow| flow.is_live(key.proto, self.now) && flow.state != State::Closed)
    }

    /// True if another connection's answers have this key, or had it until so lately that it rests.
    fn answers_taken(&self, answers: &FlowKey<Addr4>, but: &FlowKey<Addr4>) -> bool {
        let earlier = self.now.wrapping_sub(REUSE_AFTER);
        let rests =
            |orphan: &Orphan| orphan.owner != *but && age(earlier, orphan.seen) <= seconds(10);
        self.orphans.get(answers).is_some_and(rests)
            || self.flows.iter().any(|(key, flow)| {
                key != but
                    && reply_key(&to_backend(key, flow.backend), key.proto) == *answers
                    && flow.is_live(key.proto, earlier)
            })
    }

    fn advance(&mut self, key: FlowKey<Addr4>, answer: bool, state: State) {
        let Some(flow) = self.flows.get_mut(&key) else {
            return;
        };
        let wanted = if answer {
            reply_key(&to_backend(&key, flow.backend), key.proto)
        } else {
            key
        };
        let table_at = &&self.slots;
        let table = table(table_at, self.now);
        let Some(found) = table.find(&wanted) else {
            return;
        };
        found.slot.set_last_seen(self.now);
        flow.seen[usize::from(answer)] = self.now;
        if state > flow.state {
            table.advance(&found, state);
            flow.state = state;
        }
    }

    fn reopen(&mut self, key: FlowKey<Addr4>, backend: u32) {
        let Some(old) = self.flows.get(&key).copied() else {
            return;
        };
        if !old.is_live(key.proto, self.now) {
            return;
        }
        let answers = reply_key(&to_backend(&key, old.backend), key.proto);
        let orphan = Orphan {
            owner: key,
            becomes: reply_rewrite(&key),
            state: old.state,
            seen: old.seen[1],
        };
        self.orphans.insert(answers, orphan);
        self.open(key, backend, Existing::Replace);
    }

    /// Everything that lives is found, with what it becomes, and nothing else is.
    fn compare(&mut self) {
        let there = check(&self.slots);
        assert!(
            there.keys().all(|key| self.flows.contains_key(key)),
            "{there:?}"
        );
        let slots = &self.slots;
        let table = table(&slots, self.now);
        let find = |key: &FlowKey<Addr4>| table.find(key).map(|found| rewrite(found.slot));
        for client in 0..CLIENTS {
            for (service, proto) in (0..SERVICES).flat_map(|service| [(service, 6), (service, 17)])
            {
                let key = Who {
                    client,
                    service,
                    proto,
                }
                .key();
                let live = self
                    .flows
                    .get(&key)
                    .filter(|flow| flow.is_live(proto, self.now));
                let expected = live.map(|flow| to_backend(&key, flow.backend).rewrite);
                assert_eq!(find(&key), expected, "{key:?}");
                if let Some(flow) = live {
                    let answers = reply_key(&to_backend(&key, flow.backend), proto);
                    assert_eq!(find(&answers), Some(reply_rewrite(&key)), "{answers:?}");
                }
            }
        }
        for (key, orphan) in &self.orphans {
            let found = find(key);
            let translates = found == Some(orphan.becomes) || self.is_anothers(key, found);
            if age(self.now, orphan.seen) > seconds(10) {
                assert!(
                    found.is_none() || self.is_anothers(key, found),
                    "{key:?} {orphan:?}"
                );
            } else if !matches!(orphan.state, State::HalfOpen | State::Closed) {
                // What was never answered may give way to others, and what has ended.
                assert!(translates, "{key:?} {orphan:?}: {found:?}");
            }
        }
        let now = self.now;
        self.orphans
            .retain(|_, orphan| age(now, orphan.seen) <= seconds(10) + REUSE_AFTER);
    }

    /// True if `found` is what the answers of a flow that has this reply key now become.
    fn is_anothers(&self, answers: &FlowKey<Addr4>, found: Option<Rewrite<Addr4>>) -> bool {
        self.flows.iter().any(|(key, flow)| {
            reply_key(&to_backend(key, flow.backend), key.proto) == *answers
                && found == Some(reply_rewrite(key))
        })
    }
}

fn who() -> impl Strategy<Value = Who> {
    (0..CLIENTS, 0..SERVICES, prop_oneof![Just(6), Just(17)]).prop_map(
        |(client, service, proto)| Who {
            client,
            service,
            proto,
        },
    )
}

fn backend() -> impl Strategy<Value = u32> {
    FIRST_BACKEND..FIRST_BACKEND + BACKENDS
}

fn step() -> impl Strategy<Value = Step> {
    let state = prop_oneof![
        5 => Just(State::HalfOpen),
        5 => Just(State::Established),
        1 => Just(State::Closing),
        1 => Just(State::Closed),
    ];
    prop_oneof![
        8 => (who(), backend()).prop_map(|(who, backend)| Step::Open { who, backend }),
        8 => (who(), any::<bool>(), state)
            .prop_map(|(who, answer, state)| Step::Advance { who, answer, state }),
        2 => (who(), backend()).prop_map(|(who, backend)| Step::Reopen { who, backend }),
        1 => (0..seconds(3)).prop_map(Step::Wait),
        1 => (0..seconds(200)).prop_map(Step::Wait),
        1 => (0..seconds(100_000)).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_map(
        bits in 4_u32..7,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(1 << bits);
        for step in steps {
            world.take(step);
        }
    }
}

/// Half-open flows make room, answered ones do not.
#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let mut world = World::new(16);
    let tcp = |client| Who {
        client,
        service: 0,
        proto: 6,
    };
    for client in 0..8 {
        world.take(Step::Open {
            who: tcp(client),
            backend: FIRST_BACKEND,
        });
    }
    assert_eq!(world.flows.len(), 8);
    world.take(Step::Open {
        who: tcp(8),
        backend: FIRST_BACKEND,
    });
    assert_eq!(world.flows.len(), 8, "one half-open flow has made room");
    assert!(world.flows.contains_key(&tcp(8).key()));
    for client in 0..9 {
        world.take(Step::Advance {
            who: tcp(client),
            answer: true,
            state: State::Established,
        });
    }
    let held: Vec<_> = world.flows.keys().copied().collect();
    let key = tcp(9).key();
    let mut new = to_backend(&key, FIRST_BACKEND);
    let refused = table(&&world.slots, world.now).open(&key, &mut new, Existing::Keep);
    assert_eq!(refused, Err(Refusal::Full));
    assert_eq!(check(&world.slots).into_keys().collect::<Vec<_>>(), held);
}
