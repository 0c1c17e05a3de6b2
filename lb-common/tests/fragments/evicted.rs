//! Which record and which kept fragment gives way, one after the other: no two CPUs here.

use std::mem::offset_of;

use lb_common::{
    abi::{Fragment, HeldPiece, NodeConfig, PieceKey, capacity, held_piece::FRAME_LEN},
    fake::{FakeWordRows, FakeWords},
    flow::{FlowKey, slot::Words as _},
    fragment::{
        record::{self, Known, Records},
        shelf::{self, Claim, Frame},
    },
    net::{addr::Addr4, ip::Ends},
};

use crate::{HASH_KEY, NOW, PLACES, datagram};

/// Whatever it is, it is in this bucket; the last row is the scratch.
struct OneBucket(FakeWordRows);

impl OneBucket {
    fn new() -> Self {
        Self(FakeWordRows::new(PLACES + 1, size_of::<Fragment<Addr4>>()))
    }

    fn note(&self, key: &FlowKey<Addr4>, id: u32, now: u32) {
        record::note(&self, &HASH_KEY, key, id, now);
    }

    fn find(&self, key: &FlowKey<Addr4>, id: u32) -> Known {
        record::find(&self, &HASH_KEY, key, id, NOW)
    }

    /// Which of these numbers of a source's datagrams are known.
    fn known(&self, source: u16, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        ids.filter(|id| self.find(&datagram(source), *id).is_known())
            .collect()
    }
}

impl<'m> Records for &'m OneBucket {
    type Words = FakeWords<'m, lb_common::fake::StdWord>;

    fn words(&self, position: u32) -> Option<Self::Words> {
        self.0.row(position % PLACES)
    }

    fn scratch(&self) -> Option<Self::Words> {
        self.0.row(PLACES)
    }
}

#[test]
fn a_datagram_that_is_noted_again_keeps_its_place() {
    let bucket = OneBucket::new();
    for id in 1..=PLACES {
        bucket.note(&datagram(7), id, NOW - 8 + id);
    }
    let renumbered = FlowKey {
        sport: 70,
        ..datagram(7)
    };
    bucket.note(&renumbered, 5, NOW);
    assert_eq!(bucket.find(&renumbered, 5).sport(), 70);
    let all: Vec<_> = (1..=PLACES).collect();
    assert_eq!(bucket.known(7, 1..=PLACES), all);
}

#[test]
fn datagrams_to_another_address_are_others() {
    let bucket = OneBucket::new();
    let key = datagram(7);
    bucket.note(&key, 5, NOW);
    let elsewhere = FlowKey {
        ends: Ends {
            dst: Addr4 { be32: 98 },
            ..key.ends
        },
        ..key
    };
    assert!(!bucket.find(&elsewhere, 5).is_known());
    assert!(bucket.find(&key, 5).is_known());
}

#[test]
fn a_record_whose_time_is_over_goes_before_any_other() {
    let bucket = OneBucket::new();
    // In eight bits it looks young.
    let long_ago = NOW - 3 * 256;
    for id in 1..=PLACES {
        let at = if id == 3 { long_ago } else { NOW - 2 - id };
        bucket.note(&datagram(1), id, at);
    }
    bucket.note(&datagram(2), 1, NOW);
    assert_eq!(bucket.known(1, 1..=PLACES), [1, 2, 4, 5, 6, 7, 8]);
    assert!(bucket.find(&datagram(2), 1).is_known());
}

#[test]
fn a_source_takes_half_of_a_full_bucket_from_others_the_oldest_first_and_then_its_own() {
    let bucket = OneBucket::new();
    for id in 1..=PLACES {
        bucket.note(&datagram(1), id, NOW - 20 - id);
    }
    for id in 1..=PLACES / 2 {
        bucket.note(&datagram(2), id, NOW - 10 - id);
    }
    assert_eq!(bucket.known(1, 1..=PLACES), [1, 2, 3, 4]);
    bucket.note(&datagram(2), 9, NOW);
    assert_eq!(bucket.known(1, 1..=PLACES), [1, 2, 3, 4]);
    assert_eq!(bucket.known(2, 1..=9), [1, 2, 3, 9]);
}

#[test]
fn a_record_that_is_being_written_is_let_alone() {
    let bucket = OneBucket::new();
    for id in 1..=PLACES {
        bucket.note(&datagram(1), id, NOW - 8 - id);
    }
    let stamp = offset_of!(Fragment<Addr4>, stamp) / 4;
    // The two that would go first.
    let written = [0, 1].map(|place| bucket.0.row(place).expect("a place"));
    let stamps = written.map(|words| words.load(stamp));
    for (words, before) in written.into_iter().zip(stamps) {
        words.store(stamp, before | 1);
    }
    bucket.note(&datagram(2), 1, NOW);
    assert!(bucket.find(&datagram(2), 1).is_known());
    for (words, before) in written.into_iter().zip(stamps) {
        assert_eq!(words.load(stamp), before | 1);
    }
}

const BUFFERS: u32 = capacity::PIECES_PER_SET;

/// One set, of which each source has the same.
struct Shelf {
    rows: FakeWordRows,
    node: NodeConfig,
}

impl Shelf {
    fn new() -> Self {
        let row = size_of::<HeldPiece>() - FRAME_LEN;
        let node = NodeConfig {
            piece_sets: 1,
            ..NodeConfig::DEFAULT
        };
        Self {
            rows: FakeWordRows::new(BUFFERS + 1, row),
            node,
        }
    }

    /// Keeps a fragment of a source's datagram with this number.
    fn keep(&self, source: u32, id: u32, now: u32) -> Claim {
        let key = piece(source, id);
        let claim = shelf::claim(&&self.rows, &self.node, &key, now);
        if let Some(words) = self.rows.row(claim.buffer()).filter(|_| claim.is_some()) {
            let frame = Frame {
                ifindex: 1,
                l2: 14,
                len: 100,
            };
            shelf::publish(words, claim, &key, frame, now);
        }
        claim
    }

    /// How many of a source's are kept.
    fn kept(&self, source: u32, ids: impl Iterator<Item = u32>) -> Vec<u32> {
        ids.filter(|id| {
            (0..BUFFERS).any(|buffer| {
                let claim = shelf::release(&&self.rows, buffer, &piece(source, *id), NOW);
                if let Some(words) = self.rows.row(buffer).filter(|_| claim.is_some()) {
                    shelf::give_back(words, claim);
                }
                claim.is_some()
            })
        })
        .collect()
    }
}

fn piece(source: u32, id: u32) -> PieceKey {
    PieceKey {
        src: [source, 0, 0, 0],
        dst: [99, 0, 0, 0],
        id,
        kind: 17,
    }
}

#[test]
fn a_source_fills_a_set_but_takes_only_half_of_it_from_others_and_nothing_from_itself() {
    let shelf = Shelf::new();
    for id in 1..=BUFFERS {
        let claim = shelf.keep(1, id, NOW - 1);
        assert!(claim.is_some() && !claim.was_held(), "{id}");
    }
    assert!(!shelf.keep(1, 99, NOW).is_some(), "its own stay");
    for id in 1..=BUFFERS / 2 {
        let claim = shelf.keep(2, id, NOW);
        assert!(claim.is_some() && claim.was_held(), "{id}");
    }
    assert!(!shelf.keep(2, 99, NOW).is_some(), "it has its share");
    let half = usize::try_from(BUFFERS / 2).expect("few");
    assert_eq!(shelf.kept(1, 1..=BUFFERS).len(), half);
    assert_eq!(shelf.kept(2, 1..=BUFFERS).len(), half);
}

#[test]
fn the_oldest_of_another_source_gives_way_and_never_ones_own() {
    let shelf = Shelf::new();
    // The oldest of all are its own.
    for id in 1..=4 {
        shelf.keep(2, id, NOW - 3);
    }
    for id in 5..=BUFFERS {
        let at = if id == 20 { NOW - 2 } else { NOW - 1 };
        shelf.keep(1, id, at);
    }
    assert!(shelf.keep(2, 99, NOW).was_held());
    assert_eq!(shelf.kept(2, (1..=4).chain([99])), [1, 2, 3, 4, 99]);
    let others: Vec<_> = (5..=BUFFERS).filter(|id| *id != 20).collect();
    assert_eq!(shelf.kept(1, 5..=BUFFERS), others);
}
