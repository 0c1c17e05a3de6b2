//! Records and shelf of fragments under a model checker: two CPUs at one bucket, and the first fragment that comes while a
//! later one is being put on the shelf.

mod evicted;

use std::sync::Arc;

use lb_common::{
    abi::{Fragment, HeldPiece, NodeConfig, PieceKey, capacity, held_piece::FRAME_LEN},
    atomic_word,
    fake::{FakeWordRows, FakeWords},
    flow::FlowKey,
    fragment::{
        record::{self, Known, Records},
        shelf::{self, Frame, Shelf},
    },
    net::{addr::Addr4, ip::Ends},
};
use shuttle::{
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    thread,
};

const SCHEDULES: usize = 400;
const HASH_KEY: [u32; 12] = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
const NOW: u32 = 1_000;
/// Places of a bucket.
const PLACES: u32 = 8;

#[derive(Default)]
struct Word(AtomicU32);

atomic_word!(Word, SeqCst);

/// What one CPU has: memory that is shared, and its own scratch. All datagrams share one bucket, all sources one set.
struct Cpu<'m> {
    shared: &'m FakeWordRows<Word>,
    own: &'m FakeWordRows<Word>,
}

impl<'m> Records for Cpu<'m> {
    type Words = FakeWords<'m, Word>;

    fn words(&self, position: u32) -> Option<Self::Words> {
        self.shared.row(position % PLACES)
    }

    fn scratch(&self) -> Option<Self::Words> {
        self.own.row(0)
    }
}

impl<'m> Shelf for Cpu<'m> {
    type Words = FakeWords<'m, Word>;

    fn words(&self, buffer: u32) -> Option<Self::Words> {
        self.shared.row(buffer)
    }

    fn scratch(&self) -> Option<Self::Words> {
        self.own.row(0)
    }
}

type Memory = Arc<FakeWordRows<Word>>;

fn records() -> Memory {
    Arc::new(FakeWordRows::new(PLACES, size_of::<Fragment<Addr4>>()))
}

fn scratch() -> FakeWordRows<Word> {
    FakeWordRows::new(1, 16)
}

/// A datagram of this source; its ports tell it from others.
fn datagram(source: u16) -> FlowKey<Addr4> {
    FlowKey {
        ends: Ends {
            src: Addr4 {
                be32: u32::from(source),
            },
            dst: Addr4 { be32: 99 },
        },
        sport: source,
        dport: source + 1,
        proto: 17,
    }
}

fn note(memory: &Memory, key: &FlowKey<Addr4>, id: u32, now: u32) {
    let cpu = Cpu {
        shared: memory,
        own: &scratch(),
    };
    record::note(&cpu, &HASH_KEY, key, id, now);
}

fn find(memory: &Memory, key: &FlowKey<Addr4>, id: u32) -> Known {
    let cpu = Cpu {
        shared: memory,
        own: &scratch(),
    };
    record::find(&cpu, &HASH_KEY, key, id, NOW)
}

#[test]
fn a_reader_never_sees_another_datagrams_ports() {
    let scenario = || {
        let memory = records();
        for source in 1..=8 {
            note(&memory, &datagram(source), 5, NOW - 8 + u32::from(source));
        }
        let writers = [20, 30].map(|source| {
            let memory = memory.clone();
            thread::spawn(move || note(&memory, &datagram(source), 5, NOW))
        });
        for source in [1, 2, 20, 30] {
            let known = find(&memory, &datagram(source), 5);
            let ports = (known.sport(), known.dport());
            assert!(!known.is_known() || ports == (source, source + 1));
        }
        for writer in writers {
            writer.join().expect("a writer");
        }
        // Neither has lost its place to the other.
        for source in [20, 30] {
            assert!(find(&memory, &datagram(source), 5).is_known(), "{source}");
        }
    };
    shuttle::check_random(scenario, SCHEDULES);
    shuttle::check_pct(scenario, SCHEDULES, 3);
}

/// It is let in by the first, or goes on by itself: not both, and not neither.
#[test]
fn a_piece_that_races_the_first_is_not_forgotten() {
    let scenario = || {
        let records = records();
        let rows = capacity::PIECES_PER_SET;
        let shelf: Memory = Arc::new(FakeWordRows::new(rows, size_of::<HeldPiece>() - FRAME_LEN));
        let key = datagram(7);
        let name = PieceKey {
            src: [7, 0, 0, 0],
            dst: [99, 0, 0, 0],
            id: 5,
            kind: 17,
        };
        let first = {
            let (records, shelf) = (records.clone(), shelf.clone());
            thread::spawn(move || {
                note(&records, &key, 5, NOW);
                released(&shelf, &name)
            })
        };
        let node = NodeConfig {
            piece_sets: 1,
            ..NodeConfig::DEFAULT
        };
        let own = scratch();
        let cpu = Cpu {
            shared: &shelf,
            own: &own,
        };
        let claim = shelf::claim(&cpu, &node, &name, NOW);
        assert!(claim.is_some() && !claim.was_held());
        let words = shelf.row(claim.buffer()).expect("a buffer");
        let frame = Frame {
            ifindex: 1,
            l2: 14,
            len: 100,
        };
        shelf::publish(words, claim, &name, frame, NOW);
        let goes_on = find(&records, &key, 5).is_known() && shelf::take_back(words, claim);
        let released = first.join().expect("the first");
        assert_eq!(u32::from(goes_on) + released, 1);
    };
    shuttle::check_random(scenario, SCHEDULES / 4);
    shuttle::check_pct(scenario, SCHEDULES / 4, 3);
}

/// How many of a datagram's fragments were on the shelf.
fn released(shelf: &Memory, name: &PieceKey) -> u32 {
    let own = scratch();
    let cpu = Cpu {
        shared: shelf,
        own: &own,
    };
    let mut count = 0;
    for buffer in 0..capacity::PIECES_PER_SET {
        let claim = shelf::release(&cpu, buffer, name, NOW);
        if let Some(words) = shelf.row(buffer).filter(|_| claim.is_some()) {
            shelf::give_back(words, claim);
            count += 1;
        }
    }
    count
}
