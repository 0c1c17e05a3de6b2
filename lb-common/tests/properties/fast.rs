//! What the fast path does with a packet is what would have become of it without.

use bytemuck::Pod;
use lb_common::{
    datapath::{Packet, Role, Verdict, Via},
    fake::FakePacket,
    flow::clock::seconds,
    net::{
        addr::{Addr, Addr4, Addr6},
        csum::Delta,
        ip::proto,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::{
    kinds::{KINDS, Kind, Program, listens, serve},
    wire::{End, L4, Shape, packet, shape},
    world::{
        ACK, MTU, SYN, UDP, World, backend, for_both_families, remote_pod, request, to_gateway,
        to_pod,
    },
};

/// A packet in a test's own wrapping: all that is not said is as with [`FakePacket`].
macro_rules! wrapping {
    ($wrapping:ident, $($said:item)+) => {
        impl Packet for $wrapping {
            $($said)+

            fn segment_len(&self, len: u32, headers: u32) -> u32 {
                self.0.segment_len(len, headers)
            }

            fn read<T: Pod>(&self, at: u32) -> Option<T> {
                self.0.read(at)
            }

            fn write<T: Pod>(&mut self, at: u32, value: T) -> Option<()> {
                self.0.write(at, value)
            }

            fn change_sum(&mut self, change: Delta) {
                self.0.change_sum(change);
            }

            fn update_checksum(
                &mut self,
                at: u32,
                addresses: Delta,
                header: Delta,
                zero_is_none: bool,
            ) -> Option<()> {
                self.0.update_checksum(at, addresses, header, zero_is_none)
            }

            fn copy(&self, words: &mut [u32], len: u32) -> Option<()> {
                self.0.copy(words, len)
            }

            fn replace(&mut self, words: &[u32], len: u32) -> Option<()> {
                self.0.replace(words, len)
            }
        }
    };
}

/// A packet that shows nothing at a glance, so that it never takes the fast path.
struct Slow(FakePacket);

wrapping! { Slow,
    fn len(&self) -> u32 {
        self.0.len()
    }

    fn holds(&self, _len: u32) -> bool {
        false
    }
}

/// A packet that must not be looked at otherwise.
struct Quick(FakePacket);

wrapping! { Quick,
    fn len(&self) -> u32 {
        panic!("it did not take the fast path");
    }

    fn holds(&self, len: u32) -> bool {
        self.0.holds(len)
    }
}

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// The client sends, or is answered; to this hop limit, with so many bytes more, cut by the device into so many if that
    /// is not 0.
    Packet {
        is_answer: bool,
        shape: Shape,
        ttl: u8,
        more: usize,
        cut: u32,
    },
    /// So many ticks go by.
    Wait(u32),
    /// Nobody serves any more, or only somebody else.
    Leave(bool),
    /// Somebody does again.
    Return,
    /// Another proxy takes over, or does not.
    Takeover(u32),
}

fn step(protocol: u8) -> impl Strategy<Value = Step> {
    let ttl = prop_oneof![9 => Just(64_u8), 1 => 0..3_u8];
    let cut = prop_oneof![4 => Just(0), 1 => 1..2 * MTU];
    let more = prop_oneof![9 => Just(0), 1 => 0..2_000_usize];
    let one = (any::<bool>(), shape(protocol, false), ttl, more, cut).prop_map(
        |(is_answer, shape, ttl, more, cut)| Step::Packet {
            is_answer,
            shape,
            ttl,
            more,
            cut,
        },
    );
    prop_oneof![
        16 => one,
        2 => (0..seconds(40)).prop_map(Step::Wait),
        2 => (0..3_u32).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Leave),
        1 => Just(Step::Return),
        1 => (0..4_u32).prop_map(Step::Takeover),
    ]
}

/// A connection from its first packet on.
#[derive(Clone, Debug)]
struct Story {
    kind: Kind,
    /// Uplinks have a program before the stack as well.
    by_xdp: bool,
    /// The client's port.
    sport: u16,
    features: u32,
    takeover: u32,
    first: Shape,
    steps: Vec<Step>,
}

impl Story {
    /// Before it begins.
    fn world<A: Addr>(&self) -> World<A> {
        let mut world = self.kind.world();
        world.node.set_features(self.features);
        world.node.set_takeover(self.takeover);
        let other = Some(backend(remote_pod(9), 0));
        world.node.set_backend(2, other);
        // What XDP goes by.
        world.note_way(to_gateway());
        world.note_way(to_pod());
        world
    }
}

fn story() -> impl Strategy<Value = Story> {
    let protocol = prop::sample::select(vec![proto::TCP, proto::UDP]);
    let kind = prop::sample::select(KINDS.to_vec());
    protocol.prop_flat_map(move |protocol| {
        (
            (kind.clone(), any::<bool>(), 1_024..61_000_u16),
            (0..4_u32, prop_oneof![3 => Just(0), 1 => 0..4_u32]),
            shape(protocol, true),
            vec(step(protocol), 1..16),
        )
            .prop_map(
                |((kind, by_xdp, sport), (features, takeover), first, steps)| Story {
                    kind,
                    by_xdp,
                    sport,
                    features,
                    takeover,
                    first,
                    steps,
                },
            )
    })
}

/// Both ways, and what is the same of both.
struct Twins<A: Addr> {
    fast: World<A>,
    slow: World<A>,
    by_xdp: bool,
}

impl<A: Addr> Twins<A> {
    fn both(&self, act: impl Fn(&World<A>)) {
        act(&self.fast);
        act(&self.slow);
    }

    /// The packet as it was sent, if it was.
    fn run(
        &self,
        program: Program,
        packet: &FakePacket,
    ) -> Result<Option<FakePacket>, TestCaseError> {
        if self.by_xdp && program == Program::Tc(Role::Uplink) {
            let sent = self.run_by(Program::Xdp, packet)?;
            if sent.is_some() {
                return Ok(sent);
            }
        }
        self.run_by(program, packet)
    }

    fn run_by(
        &self,
        program: Program,
        packet: &FakePacket,
    ) -> Result<Option<FakePacket>, TestCaseError> {
        let (mut fast, mut slow) = (packet.clone(), Slow(packet.clone()));
        let by_fast = program.run(&self.fast, &mut fast);
        let by_slow = program.run(&self.slow, &mut slow);
        prop_assert_eq!(by_fast.verdict, by_slow.verdict);
        let is_sent = matches!(by_fast.verdict, Verdict::Send(_));
        if is_sent {
            prop_assert_eq!(by_fast.hop, by_slow.hop);
        }
        prop_assert_eq!(fast.bytes(), slow.0.bytes());
        prop_assert_eq!(fast.device_sum_valid(), slow.0.device_sum_valid());
        prop_assert_eq!(self.fast.node.take_counts(), self.slow.node.take_counts());
        prop_assert_eq!(flows(&self.fast), flows(&self.slow));
        Ok(is_sent.then_some(fast))
    }
}

/// All slots that hold anything.
fn flows<A: Addr>(world: &World<A>) -> Vec<String> {
    let table = world.node.flows();
    (0..table.positions())
        .map(|position| (position, table.slot(position)))
        .filter(|(_, slot)| slot.state().0 != 0)
        .map(|(position, slot)| {
            let seen = (slot.last_seen(), slot.counted(), slot.next_hop());
            let (state, key, flags) = (slot.state(), slot.key(), slot.flags());
            format!("{position}: {state:?} {key:?} {flags:?} {seen:?}")
        })
        .collect()
}

fn tell<A: Addr>(story: Story) -> Result<(), TestCaseError> {
    let twins = Twins::<A> {
        fast: story.world(),
        slow: story.world(),
        by_xdp: story.by_xdp,
    };
    let Story {
        kind,
        sport,
        first,
        steps,
        ..
    } = story;
    let (client, front): (End<A>, End<A>) = ((kind.client::<A>(200), sport), kind.frontend());
    let server = listens(kind.server::<A>());
    let opened = twins.run(kind.asks_by(), &packet(&first, client, front))?;
    // As the server sees it, if it does.
    let source = opened.map_or((kind.source(client.0), sport), |it| {
        crate::wire::seen::<A>(&it).src
    });
    for step in steps {
        match step {
            Step::Packet {
                is_answer,
                mut shape,
                ttl,
                more,
                cut,
            } => {
                shape.ttl = ttl;
                shape.payload.resize(shape.payload.len() + more, 0);
                let (program, src, dst) = if is_answer {
                    (kind.answers_by(), server, source)
                } else {
                    (kind.asks_by(), client, front)
                };
                twins.run(program, &packet(&shape, src, dst).cut_into(cut))?;
            }
            Step::Wait(ticks) => twins.both(|world| world.wait(ticks)),
            Step::Leave(is_followed) => twins.both(|world| {
                let others: &[u32] = if is_followed { &[2] } else { &[] };
                world.leave(1, others);
                serve(world, others);
            }),
            Step::Return => twins.both(|world| {
                let first = Some(backend(kind.server(), 0));
                world.node.set_backend(1, first);
                serve(world, &[1]);
            }),
            Step::Takeover(takeover) => twins.both(|world| world.node.set_takeover(takeover)),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn the_fast_path_is_only_faster_v4(story in story()) {
        tell::<Addr4>(story)?;
    }

    #[test]
    fn the_fast_path_is_only_faster_v6(story in story()) {
        tell::<Addr6>(story)?;
    }
}

/// A connection that was opened anew elsewhere: what is still under way from the first backend does not make it last.
#[test]
fn what_is_left_of_a_flow_is_nothing_for_the_fast_path() {
    let datagram = |is_answer| Step::Packet {
        is_answer,
        shape: Shape::plain(L4::Udp { has_checksum: true }),
        ttl: 64,
        more: 0,
        cut: 0,
    };
    let steps = vec![
        datagram(true),
        datagram(false),
        Step::Leave(true),
        datagram(false),
        Step::Wait(seconds(1)),
        datagram(true),
    ];
    let story = Story {
        kind: Kind::PodToRemote,
        by_xdp: false,
        sport: 40_000,
        features: 0,
        takeover: 0,
        first: Shape::plain(L4::Udp { has_checksum: true }),
        steps,
    };
    tell::<Addr4>(story.clone()).unwrap();
    tell::<Addr6>(story).unwrap();
}

/// The properties above say nothing if nobody takes it.
fn takes_the_fast_path<A: Addr>() {
    for kind in [
        Kind::PodToRemote,
        Kind::Masqueraded,
        Kind::MasqueradedAtXdp,
        Kind::HostToLocal,
    ] {
        for transport in [UDP, ACK] {
            let world = kind.world::<A>();
            world.note_way(to_gateway());
            world.note_way(to_pod());
            let first = if transport == UDP { UDP } else { SYN };
            let asks = |transport| request::<A>(kind.client(200), transport);
            let mut opened = asks(first).packet();
            let outcome = kind.asks_by().run(&world, &mut opened);
            assert!(
                matches!(outcome.verdict, Verdict::Send(_)),
                "{kind:?}: {outcome:?}"
            );
            // Where nobody asks how long it is, it was not looked at twice.
            let mut next = Quick(asks(transport).packet());
            let outcome = kind.asks_by().run(&world, &mut next);
            assert_eq!(outcome.verdict, Verdict::Send(Via::Neighbour), "{kind:?}");
        }
    }
}

for_both_families!(takes_the_fast_path);
