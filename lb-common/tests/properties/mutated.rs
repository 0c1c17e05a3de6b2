//! No packet is ever half rewritten, whatever is wrong with it: at every program of a node whose flows are live.

use lb_common::{
    abi::{Reason, counter::Kind as Outcome},
    datapath::{Role, Verdict},
    fake::FakePacket,
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree as _};

use crate::{
    kinds::{KINDS, Kind, Program, listens},
    wire::{Shape, packet, shape},
    world::World,
};

/// What befalls a packet.
#[derive(Clone, Debug)]
enum Mutation {
    /// It is cut short.
    Cut(usize),
    /// One byte of its headers is another.
    Byte(usize, u8),
    /// One bit anywhere is flipped.
    Bit(usize, u8),
    /// More bytes follow.
    Grow(Vec<u8>),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Cut(len) => bytes.truncate(len % (bytes.len() + 1)),
            Self::Byte(at, value) => {
                if let Some(byte) = bytes.get_mut(at % 80) {
                    *byte = *value;
                }
            }
            Self::Bit(at, bit) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= 1 << (bit & 7);
            }
            Self::Bit(..) => {}
            Self::Grow(more) => bytes.extend(more),
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        any::<usize>().prop_map(Mutation::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, value)| Mutation::Byte(at, value)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, bit)| Mutation::Bit(at, bit)),
        vec(any::<u8>(), 0..50).prop_map(Mutation::Grow),
    ]
}

const PROGRAMS: [Program; 6] = [
    Program::Tc(Role::Pod),
    Program::Tc(Role::Uplink),
    Program::Tc(Role::Host),
    Program::Tc(Role::Loopback),
    Program::Tc(Role::Egress),
    Program::Xdp,
];

/// Why a packet is dropped that was begun to be rewritten; the second is a fragment's, whose checksum is over all of them.
const UNFINISHED: [Reason; 2] = [Reason::DropEdit, Reason::DropFragment];

/// A packet of a live flow, mutated, at every program: counted once, and touched only if sent.
fn decided<A: Addr>(
    world: &World<A>,
    kind: Kind,
    (first, next): &(Shape, Shape),
    is_answer: bool,
    mutations: &[Mutation],
) -> Result<(), TestCaseError> {
    let (client, front) = ((kind.client::<A>(200), 40_000), kind.frontend());
    let server = listens(kind.server::<A>());
    let mut opening = packet(first, client, front);
    kind.asks_by().run(world, &mut opening);
    world.node.take_counts();
    let next = if is_answer {
        packet(next, server, (kind.source(client.0), client.1))
    } else {
        packet(next, client, front)
    };
    let mut bytes = next.bytes().to_vec();
    for mutation in mutations {
        mutation.apply(&mut bytes);
    }
    for program in PROGRAMS {
        let mut after = FakePacket::new(bytes.clone());
        let outcome = program.run(world, &mut after);
        let counts = world.node.take_counts();
        let is_outcome = |reason: &&Reason| reason.kind() != Outcome::Note;
        let outcomes: Vec<_> = counts.keys().filter(is_outcome).collect();
        prop_assert_eq!(outcomes.len(), 1, "{:?}: {:?}", program, counts);
        let is_answered = counts.contains_key(&Reason::Answered);
        match outcome.verdict {
            // What cannot be finished is dropped, whatever was done to it already.
            Verdict::Drop if UNFINISHED.iter().any(|reason| counts.contains_key(reason)) => {}
            Verdict::Pass | Verdict::Drop => {
                prop_assert_eq!(after.bytes(), &bytes, "{:?}: {:?}", program, counts);
            }
            Verdict::Back => prop_assert!(after.bytes() != bytes),
            Verdict::Send(_) => {
                prop_assert!(is_answered || after.bytes().len() == bytes.len());
                prop_assert!(after.device_sum_valid(), "{:?}: {:?}", program, counts);
            }
        }
        let must_not_pass = program == Program::Tc(Role::Host);
        prop_assert!(!must_not_pass || outcome.verdict != Verdict::Pass);
    }
    Ok(())
}

type Case = (Kind, (Shape, Shape), bool, Vec<Mutation>);

fn case() -> impl Strategy<Value = Case> {
    let protocol = prop::sample::select(vec![proto::TCP, proto::UDP, proto::SCTP]);
    protocol.prop_flat_map(|protocol| {
        (
            prop::sample::select(KINDS.to_vec()),
            (shape(protocol, true), shape(protocol, false)),
            any::<bool>(),
            vec(mutation(), 1..4),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn no_packet_is_ever_half_rewritten_v4((kind, shapes, is_answer, mutations) in case()) {
        decided::<Addr4>(&kind.world(), kind, &shapes, is_answer, &mutations)?;
    }

    #[test]
    fn no_packet_is_ever_half_rewritten_v6((kind, shapes, is_answer, mutations) in case()) {
        decided::<Addr6>(&kind.world(), kind, &shapes, is_answer, &mutations)?;
    }
}

/// The same for every length of every kind's packets, and every value of each field that says a length.
#[test]
fn no_length_is_believed() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        let mut draw = |opens| {
            let tree = shape(protocol, opens).new_tree(&mut runner).expect("drawn");
            Shape {
                payload: vec![7; 40],
                ..tree.current()
            }
        };
        let shapes = (draw(true), draw(false));
        let kind = Kind::Masqueraded;
        let (v4, v6) = (kind.world::<Addr4>(), kind.world::<Addr6>());
        let lengths = (0..200).map(|len| vec![Mutation::Cut(len)]);
        // IHL or version, total length or flow label, payload length, data offset or UDP length.
        let fields = [0, 2, 3, 4, 5, 24, 25, 32, 44, 45, 52];
        let values = fields
            .into_iter()
            .flat_map(|at| (0..=255).map(move |value| vec![Mutation::Byte(at, value)]));
        let mutations: Vec<_> = lengths.chain(values).collect();
        for mutations in mutations {
            for is_answer in [false, true] {
                for outcome in [
                    decided(&v4, kind, &shapes, is_answer, &mutations),
                    decided(&v6, kind, &shapes, is_answer, &mutations),
                ] {
                    outcome.unwrap_or_else(|error| panic!("{mutations:?}: {error}"));
                }
            }
        }
    }
}
