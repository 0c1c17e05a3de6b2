//! Two tables at once: whatever neighbouring phases do beside each other, and however far the flows are carried
//! over, every flow is found, with one rewrite, and none is there twice.

use std::{collections::BTreeSet, sync::Arc};

use lb_common::{
    abi::{NodeConfig, SlotLayout, next_hop::NextHopRef},
    fake::{AtomicWord, FakePair, FakeSlots, StdWord},
    flow::{
        FlowKey, Rewrite,
        clock::{REUSE_AFTER, seconds},
        growth::Carried,
        slot::{SlotFlags, State},
        table::{Existing, FlowTable, NewFlow, Refusal},
    },
    net::addr::Addr4,
};
use proptest::prelude::*;
use shuttle::thread;

/// Schedules of each kind that a scenario is run under.
const SCHEDULES: usize = 1_000;

fn explore(scenario: fn()) {
    explore_for(SCHEDULES, scenario);
}

use crate::{
    invariant::{check, rewrite},
    keys::{HASH_KEY, VIP, addr, from_client, reply_key, reply_rewrite, to_backend},
    races::{NOW, Word, explore_for},
};

/// Positions of the table in use, and of the one that takes its place.
const OLD: u32 = 16;
const NEW: u32 = 64;

/// What the programs know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The old table alone.
    Before,
    /// Both; new flows go into the old one.
    One,
    /// Both; new flows go into the new one.
    Two,
    /// The new table alone.
    After,
}

use Phase::{After, Before, One, Two};

const fn config(other_mask4: u32) -> NodeConfig {
    NodeConfig {
        hash_key: HASH_KEY,
        other_mask4,
        ..NodeConfig::DEFAULT
    }
}

static ALONE: NodeConfig = config(0);
static BESIDE_NEW: NodeConfig = config(NEW - 1);
static BESIDE_OLD: NodeConfig = config(OLD - 1);

/// Both tables' memory.
struct Tables<W> {
    old: FakeSlots<Addr4, W>,
    new: FakeSlots<Addr4, W>,
}

type View<'s, W> = FlowTable<'s, Addr4, FakePair<'s, Addr4, W>>;

impl<W: AtomicWord> Tables<W> {
    fn empty() -> Self {
        Self {
            old: FakeSlots::in_layout(OLD, SlotLayout::FORMER),
            new: FakeSlots::new(NEW),
        }
    }

    /// What a program of this phase does with its table.
    fn as_in<T>(&self, phase: Phase, now: u32, run: impl FnOnce(View<'_, W>) -> T) -> T {
        let (config, first, other) = match phase {
            Before => (&ALONE, &self.old, &self.new),
            One => (&BESIDE_NEW, &self.old, &self.new),
            Two => (&BESIDE_OLD, &self.new, &self.old),
            After => (&ALONE, &self.new, &self.old),
        };
        let pair = FakePair { first, other };
        run(FlowTable::new(&pair, first.mask(), config, now))
    }

    fn open(
        &self,
        phase: Phase,
        key: &FlowKey<Addr4>,
        backend: u32,
        existing: Existing,
    ) -> Result<(), Refusal> {
        self.as_in(phase, NOW, |table| {
            table.open(key, &mut to_backend(key, backend), existing)
        })
    }

    fn read(&self, phase: Phase, key: &FlowKey<Addr4>) -> Option<Rewrite<Addr4>> {
        self.as_in(phase, NOW, |table| {
            let (table, found) = table.find_anywhere(key)?;
            let rewrite = rewrite(found.slot);
            table.is_still(&found).then_some(rewrite)
        })
    }

    /// A packet of a known flow that moves it on; true: the flow was found.
    fn advance(&self, phase: Phase, key: &FlowKey<Addr4>, state: State, flags: SlotFlags) -> bool {
        self.as_in(phase, NOW, |table| {
            let Some((table, found)) = table.find_anywhere(key) else {
                return false;
            };
            found.slot.set_last_seen(NOW + 1);
            found.slot.add_flags(flags);
            table.advance(&found, state);
            true
        })
    }

    /// One pass over the old table; how many flows were copied or could not be.
    fn carry(&self) -> usize {
        let carried = (0..OLD).map(|position| self.carry_one(position));
        let unfinished = [Carried::Moved, Carried::Kept];
        carried
            .filter(|carried| unfinished.contains(carried))
            .count()
    }

    fn carry_one(&self, position: u32) -> Carried {
        self.as_in(Two, NOW + 1, |table| {
            let (mut key, mut flow) = (FlowKey::default(), NewFlow::default());
            table.carry(position, &mut key, &mut flow)
        })
    }

    /// Passes until nothing is left to be copied, and one more.
    fn carry_all(&self) {
        let passes = (0..8).map(|_| self.carry());
        assert!(
            passes.into_iter().any(|unfinished| unfinished == 0),
            "it does not end"
        );
        assert!(check(&self.old).is_empty(), "all are carried over");
    }

    /// Checks both tables and that no connection is in both; which there are.
    fn check(&self) -> BTreeSet<FlowKey<Addr4>> {
        let [old, new] = [&self.old, &self.new].map(check);
        for key in old.keys() {
            assert!(!new.contains_key(key), "{key:?} is in both tables");
        }
        old.into_keys().chain(new.into_keys()).collect()
    }
}

fn shared() -> Arc<Tables<Word>> {
    Arc::new(Tables::empty())
}

fn spawn<T: Send + 'static>(
    tables: &Arc<Tables<Word>>,
    work: impl FnOnce(&Tables<Word>) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let tables = tables.clone();
    thread::spawn(move || work(&tables))
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().expect("a thread of the scenario")
}

const NEIGHBOURS: [[Phase; 2]; 5] = [
    [Before, One],
    [One, One],
    [One, Two],
    [Two, Two],
    [Two, After],
];

/// Each CPU chose another backend, or the same one.
fn same_key(phases: [Phase; 2], backends: [u32; 2]) {
    let tables = shared();
    let key = from_client(1, VIP);
    let threads = [0, 1].map(|n| {
        spawn(&tables, move |tables| {
            tables
                .open(phases[n], &key, backends[n], Existing::Keep)
                .is_ok()
        })
    });
    let opened = threads.map(join);
    let connections = tables.check();
    assert_eq!(
        connections.len(),
        opened.iter().filter(|opened| **opened).count(),
        "{phases:?}"
    );
    assert!(
        connections.len() <= 1,
        "{phases:?}: both opened one connection"
    );
    for phase in phases {
        assert_eq!(
            tables.read(phase, &key).is_some(),
            connections.len() == 1,
            "{phase:?}"
        );
    }
}

#[test]
fn neighbouring_phases_open_one_connection_once() {
    explore(|| {
        for phases in NEIGHBOURS {
            same_key(phases, [1, 2]);
        }
    });
    explore(|| {
        for phases in NEIGHBOURS {
            same_key(phases, [1, 1]);
        }
    });
}

/// One client port to two services with one backend: the answers could not be told apart.
#[test]
fn neighbouring_phases_do_not_open_two_connections_with_the_same_answers() {
    explore(|| {
        for phases in NEIGHBOURS {
            let tables = shared();
            let keys = [from_client(1, VIP), from_client(1, addr(10, 96, 0, 2))];
            let threads = [0, 1].map(|n| {
                spawn(&tables, move |tables| {
                    tables.open(phases[n], &keys[n], 1, Existing::Keep).is_ok()
                })
            });
            let opened = threads.map(join);
            assert_eq!(
                tables.check().len(),
                opened.iter().filter(|opened| **opened).count()
            );
            assert!(opened != [true, true], "{phases:?}");
        }
    });
}

#[test]
fn a_reply_of_a_live_connection_in_the_other_table_is_taken() {
    for (first, second) in [(One, Two), (Two, One)] {
        let tables = Tables::<StdWord>::empty();
        let [key, rival] = [from_client(1, VIP), from_client(1, addr(10, 96, 0, 2))];
        tables
            .open(first, &key, 1, Existing::Keep)
            .expect("an empty table");
        assert_eq!(
            tables.open(second, &rival, 1, Existing::Keep),
            Err(Refusal::ReplyTaken)
        );
        assert_eq!(
            tables.open(second, &key, 1, Existing::Keep),
            Err(Refusal::Busy)
        );
        assert_eq!(tables.check().len(), 1);
        assert_eq!(tables.read(second, &key), Some(to_backend(&key, 1).rewrite));
    }
}

/// A closed connection's client dials again, and the two SYNs come by programs of two phases.
#[test]
fn neighbouring_phases_open_a_closed_connection_anew_once() {
    explore(|| {
        let tables = shared();
        let key = from_client(1, VIP);
        tables
            .open(One, &key, 1, Existing::Keep)
            .expect("an empty table");
        tables.advance(One, &key, State::Closed, SlotFlags::default());
        let threads = [(One, 2), (Two, 3)].map(|(phase, backend)| {
            spawn(&tables, move |tables| {
                tables.open(phase, &key, backend, Existing::Replace).is_ok()
            })
        });
        let opened = threads.map(join);
        let connections = tables.check();
        assert!(connections.len() <= 1, "{connections:?}");
        let n_opened = opened.iter().filter(|opened| **opened).count();
        assert!(n_opened == 0 || connections.len() == 1, "{n_opened}");
        let [one, two] = [One, Two].map(|phase| tables.read(phase, &key));
        assert_eq!(one, two, "the phases disagree");
    });
}

/// UDP whose backend is gone: what is under way from the old backend is translated, whichever table it is in.
#[test]
fn a_flow_opened_anew_in_the_new_table_leaves_its_orphan_in_the_old() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables
        .open(Two, &key, 2, Existing::Replace)
        .expect("it gives way");
    let late = reply_key(&to_backend(&key, 1), key.proto);
    for phase in [One, Two] {
        assert_eq!(tables.read(phase, &key), Some(to_backend(&key, 2).rewrite));
        assert_eq!(tables.read(phase, &late), Some(reply_rewrite(&key)));
    }
    tables.carry_all();
    assert_eq!(tables.read(After, &key), Some(to_backend(&key, 2).rewrite));
    assert_eq!(tables.read(After, &late), Some(reply_rewrite(&key)));
}

#[test]
fn a_flow_is_found_at_every_moment_while_it_is_carried_over() {
    explore(|| {
        let tables = shared();
        let key = from_client(1, VIP);
        let answers = reply_key(&to_backend(&key, 1), key.proto);
        tables
            .open(One, &key, 1, Existing::Keep)
            .expect("an empty table");
        tables.advance(One, &answers, State::Established, SlotFlags::default());
        let carrier = spawn(&tables, Tables::carry);
        let reader = spawn(&tables, move |tables| {
            assert_eq!(tables.read(Two, &key), Some(to_backend(&key, 1).rewrite));
            assert_eq!(tables.read(Two, &answers), Some(reply_rewrite(&key)));
        });
        join(reader);
        join(carrier);
        assert_eq!(tables.read(After, &key), Some(to_backend(&key, 1).rewrite));
        assert_eq!(tables.read(After, &answers), Some(reply_rewrite(&key)));
        tables.carry_all();
        tables.check();
    });
}

/// Who found the old slots before the copy was there may write them until it ends.
#[test]
fn what_is_noted_in_the_old_slots_meanwhile_is_not_lost() {
    explore(|| {
        let tables = shared();
        let key = from_client(1, VIP);
        let answers = reply_key(&to_backend(&key, 1), key.proto);
        tables
            .open(One, &key, 1, Existing::Keep)
            .expect("an empty table");
        let threads = [
            spawn(&tables, |tables| tables.carry() > 0),
            spawn(&tables, move |tables| {
                tables.advance(Two, &answers, State::Established, SlotFlags::default())
                    && tables.advance(Two, &answers, State::Closing, SlotFlags::FIN)
            }),
        ];
        assert_eq!(threads.map(join), [true, true], "nobody was in its way");
        tables.carry_all();
        tables.check();
        tables.as_in(After, NOW, |table| {
            for key in [key, answers] {
                let found = table.find(&key).expect("carried over");
                assert_eq!(found.word.state(), State::Closing);
                assert_eq!(found.slot.flags().fin(), key == answers);
                let seen = if key == answers { NOW + 1 } else { NOW };
                assert_eq!(found.slot.last_seen(), seen);
            }
        });
    });
}

/// The flow is opened anew at the moment when it is copied.
#[test]
fn a_flow_opened_anew_while_it_is_carried_over_is_the_new_one() {
    explore(|| opened_anew_while_carried(2));
    explore(|| opened_anew_while_carried(1));
}

fn opened_anew_while_carried(backend: u32) {
    let tables = shared();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.advance(One, &key, State::Closed, SlotFlags::default());
    let carrier = spawn(&tables, Tables::carry);
    let opener = spawn(&tables, move |tables| {
        tables.open(Two, &key, backend, Existing::Replace).is_ok()
    });
    join(carrier);
    let is_open = join(opener);
    tables.carry_all();
    let connections = tables.check();
    assert!(connections.len() <= 1, "{connections:?}");
    let found = tables.as_in(After, NOW, |table| {
        let found = table.find(&key)?;
        Some((rewrite(found.slot), found.word.state()))
    });
    if is_open {
        let new = to_backend(&key, backend).rewrite;
        assert_eq!(found, Some((new, State::HalfOpen)), "the old flow is back");
        let answers = reply_key(&to_backend(&key, backend), key.proto);
        assert_eq!(tables.read(After, &answers), Some(reply_rewrite(&key)));
    }
}

/// Another client port's flow wants the same answers at the moment when the flow is copied.
#[test]
fn answers_stay_taken_while_their_flow_is_carried_over() {
    explore(|| {
        let tables = shared();
        let [key, rival] = [from_client(1, VIP), from_client(1, addr(10, 96, 0, 2))];
        tables
            .open(One, &key, 1, Existing::Keep)
            .expect("an empty table");
        let carrier = spawn(&tables, Tables::carry);
        let opener = spawn(&tables, move |tables| {
            tables.open(Two, &rival, 1, Existing::Keep).is_ok()
        });
        join(carrier);
        assert!(!join(opener), "its answers are another's");
        tables.carry_all();
        assert_eq!(tables.check(), BTreeSet::from([key]));
        assert_eq!(tables.read(After, &key), Some(to_backend(&key, 1).rewrite));
    });
}

#[test]
fn a_copy_says_all_that_the_flow_did() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    let answers = reply_key(&to_backend(&key, 1), key.proto);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.advance(One, &answers, State::Established, SlotFlags::FIN);
    tables.as_in(One, NOW, |table| {
        for (key, index) in [(key, 3), (answers, 5)] {
            let slot = table.find(&key).expect("opened").slot;
            slot.count(1500);
            slot.replace_next_hop(slot.backend(), slot.next_hop(), NextHopRef::new(index, 1));
        }
    });
    let said = |phase| {
        [key, answers].map(|key| {
            tables.as_in(phase, NOW, |table| {
                let slot = table.find(&key).expect("there").slot;
                let counts = FakeSlots::<Addr4, StdWord>::new(1);
                let copy = FakeSlots::slot(&counts, 0);
                copy.copy_counts(slot);
                let state = slot.state().state();
                (
                    state,
                    slot.flags(),
                    slot.last_seen(),
                    slot.backend(),
                    slot.next_hop(),
                    rewrite(slot),
                    format!("{copy:?}"),
                )
            })
        })
    };
    let before = said(Before);
    tables.carry_all();
    assert_eq!(said(After), before);
}

/// The old entry of a flow that has ended and begun anew in the new table must not hide it, nor hold its key.
#[test]
fn a_copy_that_ended_gives_way_whatever_its_old_slots_say() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.advance(One, &key, State::Established, SlotFlags::default());
    assert_eq!(tables.carry(), 1);
    tables.advance(Two, &key, State::Closed, SlotFlags::default());
    tables
        .open(Two, &key, 2, Existing::Keep)
        .expect("it is closed");
    tables.carry_all();
    assert_eq!(tables.read(After, &key), Some(to_backend(&key, 2).rewrite));
}

/// It is looked for in one table after the other: that the copy has ended is not undone by what the old slots say.
#[test]
fn a_flow_whose_copy_has_ended_is_not_found_in_its_old_slots() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.advance(One, &key, State::Established, SlotFlags::default());
    assert_eq!(tables.carry(), 1);
    tables.advance(Two, &key, State::Closed, SlotFlags::default());
    let later = NOW + seconds(60) + 2;
    let is_known = |phase| tables.as_in(phase, later, |table| table.find_anywhere(&key).is_some());
    assert!(is_known(Before), "the old slots do not know of it");
    assert!(!is_known(Two));
}

#[test]
fn what_has_ended_is_not_carried_over() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.as_in(Two, NOW + seconds(60) + 1, |table| {
        let (mut key, mut flow) = (FlowKey::default(), NewFlow::default());
        for position in 0..OLD {
            assert_eq!(table.carry(position, &mut key, &mut flow), Carried::Nothing);
        }
    });
    assert!(check(&tables.new).is_empty());
}

/// A place where something has been is no copy of a live flow in the other table, which keeps its key.
#[test]
fn a_live_flow_in_the_other_table_keeps_its_key_whatever_was_in_the_place_for_it_here() {
    let tables = Tables::<StdWord>::empty();
    let key = from_client(1, VIP);
    tables
        .open(One, &key, 1, Existing::Keep)
        .expect("an empty table");
    tables.advance(One, &key, State::Established, SlotFlags::default());
    let is_full = || (0..NEW).all(|position| tables.new.slot(position).state().published());
    for client in (2..100_000).take_while(|_| !is_full()) {
        // Some find no place.
        let key = from_client(client, VIP);
        if tables.open(Two, &key, 1, Existing::Keep).is_ok() {
            tables.advance(Two, &key, State::Established, SlotFlags::default());
        }
    }
    assert!(is_full(), "each place has had a flow");
    let later = NOW + seconds(24 * 3600) + REUSE_AFTER + 2;
    tables.as_in(One, NOW, |table| {
        table.find(&key).expect("opened").slot.set_last_seen(later);
    });
    let opened = tables.as_in(Two, later, |table| {
        table.open(&key, &mut to_backend(&key, 2), Existing::Keep)
    });
    assert_eq!(opened, Err(Refusal::Busy));
    assert_eq!(tables.read(One, &key), Some(to_backend(&key, 1).rewrite));
}

/// What happens between two steps of a growth.
#[derive(Clone, Copy, Debug)]
enum Event {
    Open {
        client: u32,
        backend: u32,
        later: bool,
    },
    Reopen {
        client: u32,
        backend: u32,
        later: bool,
    },
    Establish {
        client: u32,
        later: bool,
    },
    /// The growth goes on by a step.
    Go,
}

fn event() -> impl Strategy<Value = Event> {
    let (client, backend) = (0..5_u32, 1..4_u32);
    prop_oneof![
        (client.clone(), backend.clone(), any::<bool>()).prop_map(|(client, backend, later)| {
            Event::Open {
                client,
                backend,
                later,
            }
        }),
        (client.clone(), backend, any::<bool>()).prop_map(|(client, backend, later)| {
            Event::Reopen {
                client,
                backend,
                later,
            }
        }),
        (client, any::<bool>()).prop_map(|(client, later)| Event::Establish { client, later }),
        Just(Event::Go),
        Just(Event::Go),
    ]
}

/// The steps of a growth: which phases run beside each other, and what is carried.
fn steps() -> Vec<([Phase; 2], Option<u32>)> {
    let mut steps = vec![
        ([Before, Before], None),
        ([Before, One], None),
        ([One, One], None),
    ];
    steps.extend([([One, Two], None), ([Two, Two], None)]);
    for _ in 0..3 {
        steps.extend((0..OLD).map(|position| ([Two, Two], Some(position))));
    }
    steps.extend([([Two, After], None), ([After, After], None)]);
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// At every step of a growth, whatever was opened before is found by the programs of both phases at hand.
    #[test]
    fn every_prefix_of_a_growth_finds_every_flow(events in proptest::collection::vec(event(), 1..200)) {
        let tables = Tables::<StdWord>::empty();
        let mut flows: std::collections::BTreeMap<u32, u32> = std::collections::BTreeMap::new();
        let mut steps = steps().into_iter();
        let mut phases = [Before, Before];
        let tail = std::iter::repeat_n(Event::Go, 64);
        for event in events.into_iter().chain(tail) {
            let key = |client| from_client(client, VIP);
            match event {
                Event::Open { client, backend, later } => {
                    let phase = phases[usize::from(later)];
                    let opened = tables.open(phase, &key(client), backend, Existing::Keep);
                    // The small table may be full of established flows.
                    prop_assert!(opened != Ok(()) || !flows.contains_key(&client), "opened twice");
                    if opened.is_ok() {
                        flows.insert(client, backend);
                        tables.advance(phase, &key(client), State::Established, SlotFlags::default());
                    }
                }
                Event::Reopen { client, backend, later } => {
                    let phase = phases[usize::from(later)];
                    if flows.contains_key(&client)
                        && tables.open(phase, &key(client), backend, Existing::Replace).is_ok()
                    {
                        flows.insert(client, backend);
                        tables.advance(phase, &key(client), State::Established, SlotFlags::default());
                    }
                }
                Event::Establish { client, later } => {
                    let known = tables.advance(phases[usize::from(later)], &key(client), State::Established, SlotFlags::default());
                    prop_assert_eq!(known, flows.contains_key(&client));
                }
                Event::Go => {
                    if let Some((next, carried)) = steps.next() {
                        phases = next;
                        if let Some(position) = carried {
                            tables.carry_one(position);
                        }
                    }
                }
            }
            for (client, backend) in &flows {
                let flow = to_backend(&key(*client), *backend);
                for phase in phases {
                    prop_assert_eq!(tables.read(phase, &key(*client)), Some(flow.rewrite), "{:?}", phase);
                    let answers = reply_key(&flow, key(*client).proto);
                    prop_assert_eq!(tables.read(phase, &answers), Some(reply_rewrite(&key(*client))), "{:?}", phase);
                }
            }
        }
        prop_assert_eq!(phases, [After, After]);
        check(&tables.new);
    }
}
