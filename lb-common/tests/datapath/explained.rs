//! What is told of a packet is what is then done with it, and telling does nothing.

use lb_common::{
    abi::{
        AffinityKey, Backend, FlowSlot, NextHop,
        Reason::{self, DropNotService, DropPortInUse, HitOriginal, HitReply, PortRemapped},
        Service, ServiceKey, backend_flags, place, service_flags,
    },
    datapath::{Decision, HopMemory, Role, Tables, Verdict, Via, Work},
    fake::{FakePacket, PacketSpec, Transport},
    flow::{Direction, clock::seconds, slot::Words, table::Slots},
    net::addr::{Addr, Addr4, Addr6},
};
use proptest::prelude::*;

use crate::{
    truth::{Cell, Endpoints, From, Front, HERE, THERE, endpoint, ends_of, publish, set_backends},
    world::{
        ACK, FIN, RST, SERVICE_PORT, SYN, SYN_ACK, UDP, World, addr, answer, backend, node_addr,
        vip,
    },
};

const GUARD: u32 = 77;
const TRANSPORTS: [Transport; 5] = [SYN, UDP, ACK, RST, FIN];

/// Something that happens to a node.
#[derive(Clone, Debug)]
enum Step {
    /// A client sends: whose it is, to which of several places, by which port and transport.
    Dial(usize, usize, u16, usize),
    /// A packet that went out is answered, by one of the devices.
    Answer(usize, usize, usize),
    /// What happens besides.
    Event(u8),
}

#[derive(Clone, Debug)]
struct Story {
    cell: Cell,
    is_guarded: bool,
    affinity_timeout_s: u32,
    is_allotted: bool,
    /// The endpoint here is a process of the node.
    is_process: bool,
    seed: u64,
    steps: Vec<Step>,
}

fn cell() -> impl Strategy<Value = Cell> {
    let bits = any::<[bool; 4]>();
    (0_usize..4, 0_usize..3, 0_u32..3, bits).prop_map(|(front, endpoints, mode, bits)| {
        let [external_local, internal_local, knows_pods, prefers] = bits;
        Cell {
            front: Front::ALL[front],
            from: From::Outside,
            endpoints: Endpoints::ALL[endpoints],
            external_local,
            internal_local,
            knows_pods,
            mode,
            prefers,
        }
    })
}

fn story() -> impl Strategy<Value = Story> {
    let step = prop_oneof![
        6 => (0_usize..6, 0_usize..5, 0_u16..3, 0_usize..5)
            .prop_map(|(from, to, sport, transport)| Step::Dial(from, to, sport, transport)),
        3 => (any::<usize>(), 0_usize..5, 0_usize..5).prop_map(|(of, by, transport)| Step::Answer(of, by, transport)),
        2 => (0_u8..8).prop_map(Step::Event),
    ];
    let steps = prop::collection::vec(step, 1..24);
    (cell(), any::<[bool; 4]>(), 1_u64.., steps).prop_map(|(cell, bits, seed, steps)| Story {
        cell,
        is_guarded: bits[0],
        affinity_timeout_s: if bits[1] { 2 } else { 0 },
        is_allotted: bits[2],
        is_process: bits[3],
        seed,
        steps,
    })
}

impl Story {
    fn service<A: Addr>(&self, version: u32) -> Service {
        Service {
            version,
            guard: if self.is_guarded { GUARD } else { 0 },
            affinity_timeout_s: self.affinity_timeout_s,
            ..self.cell.service::<A>()
        }
    }

    fn world<A: Addr>(&self) -> World<A> {
        let world = self.cell.world::<A>();
        publish(&world, self.cell.front.addr(), self.service::<A>(2));
        self.come_back(&world);
        for net in [1, 200] {
            let bits = World::<A>::net_bits();
            world
                .node
                .set_prefix(GUARD, addr(net, 0), bits, place::ALLOWED);
        }
        if self.is_allotted {
            let bits = World::<A>::net_bits();
            world.node.set_place(addr(96, 0), bits, place::SERVICES);
            let other = Service {
                id: 99,
                version: 1,
                flags: service_flags::ANY_PORT,
                ..Service::default()
            };
            let key = ServiceKey::new(vip(1), 0, 0);
            world.node.set_service(key, Some(other));
        }
        world
    }

    /// Both endpoints serve.
    fn come_back<A: Addr>(&self, world: &World<A>) {
        set_backends(world);
        let here = HERE.into();
        let lists = backend_flags::IN_EXTERNAL_LOCAL | backend_flags::IN_INTERNAL_LOCAL;
        if self.is_process {
            let process = backend(node_addr(), lists | backend_flags::LOCAL);
            world.node.set_backend(here, Some(process));
        }
    }

    fn happen<A: Addr>(&self, world: &World<A>, event: u8, version: u32) {
        let leaves = |id: u8, backend: Option<Backend<A>>| {
            world.node.set_backend(id.into(), backend);
        };
        let front = self.cell.front.addr();
        match event {
            0 => leaves(HERE, None),
            1 => leaves(THERE, None),
            2 => leaves(
                THERE,
                Some(Backend {
                    flags: backend_flags::SERVING,
                    ..backend(endpoint(THERE), 0)
                }),
            ),
            3 => self.come_back(world),
            4 => {
                for protocol in [6, 17] {
                    let key = ServiceKey::new(front, SERVICE_PORT, protocol);
                    world.node.set_service(key, None);
                }
            }
            5 => publish(world, front, self.service::<A>(version)),
            6 => world.wait(seconds(1) + 1),
            _ => world.wait(seconds(31)),
        }
    }
}

/// All that a packet could leave behind.
#[derive(Debug, PartialEq)]
struct Memory<A: Addr> {
    flows: Vec<u32>,
    hops: Vec<NextHop>,
    affinity: Vec<(AffinityKey<A>, lb_common::abi::Affinity)>,
}

fn memory<A: Addr>(world: &World<A>) -> Memory<A> {
    let flows = world.node.flows();
    let words = size_of::<FlowSlot<A>>() / 4;
    let tables = world.uplink();
    let hop = |index| {
        let mut hop = NextHop::default();
        Tables::<A>::hop(&tables, index)
            .expect("inside")
            .read(&mut hop);
        hop
    };
    Memory {
        flows: (0..flows.positions())
            .filter_map(|position| Slots::<A>::words(&flows, position, 0))
            .flat_map(|slot| (0..words).map(move |at| slot.load(at)))
            .collect(),
        hops: (0..1_024).map(hop).collect(),
        affinity: world.node.affinity().into_iter().collect(),
    }
}

/// Where packets come in: one of the clients' devices, or the way out.
fn device(from: usize) -> (Role, u32) {
    match From::ALL.get(from) {
        Some(from) => from.device(),
        None => (Role::Egress, 2),
    }
}

/// Tells, asserts that nothing came of it, does, and asserts that it was this.
fn told_and_done<A: Addr>(
    world: &World<A>,
    (role, ifindex): (Role, u32),
    spec: &PacketSpec<A>,
    seed: u64,
) -> Result<Option<PacketSpec<A>>, TestCaseError> {
    let before = memory(world);
    world.node.seed(seed);
    let packet = spec.packet();
    let (told, work) = world.node.dry(role, ifindex).explain(&packet);
    prop_assert_eq!(memory(world), before);
    prop_assert!(world.node.take_counts().is_empty());
    world.node.seed(seed);
    let mut after = packet;
    let outcome = world.node.tc(role, ifindex).run(&mut after);
    let counts = world.node.take_counts();
    let has = |reason: Reason| counts.contains_key(&reason);
    for (hit, direction) in [
        (HitOriginal, Direction::Original),
        (HitReply, Direction::Reply),
    ] {
        prop_assert!(!has(hit) || told.flow == Some(direction), "{:?}", told);
    }
    let is_left = match told.decision {
        Decision::Pass(_) if role == Role::Host => {
            prop_assert!(has(DropNotService), "{:?}: {:?}", told, counts);
            outcome.verdict == Verdict::Drop
        }
        Decision::Pass(reason) => has(reason) && outcome.verdict == Verdict::Pass,
        Decision::Drop(reason) => has(reason) && outcome.verdict == Verdict::Drop,
        Decision::Reject(reason) => {
            let ways = [Verdict::Back, Verdict::Send(Via::Host), Verdict::Drop];
            has(reason) && ways.contains(&outcome.verdict)
        }
        Decision::Send(..) if has(DropPortInUse) => outcome.verdict == Verdict::Drop,
        Decision::Send(reason, via) => {
            prop_assert!(has(reason), "{:?}: {:?}", told, counts);
            prop_assert_eq!(outcome.verdict, Verdict::Send(via));
            let there = became(spec, &after, role, via);
            is_as_told(&there, &work, has(PortRemapped))?;
            if matches!(via, Via::Neighbour | Via::Kernel) {
                let hop = |hop: NextHop| (hop.ifindex, hop.mtu, hop.macs);
                prop_assert_eq!(hop(outcome.hop), hop(work.hop));
            }
            return Ok(Some(there));
        }
    };
    prop_assert!(is_left, "{:?}: {:?} {:?}", told, outcome.verdict, counts);
    Ok(None)
}

/// The ends of a packet that was rewritten.
fn became<A: Addr>(
    spec: &PacketSpec<A>,
    after: &FakePacket,
    role: Role,
    via: Via,
) -> PacketSpec<A> {
    let l4 = if size_of::<A>() == 4 { 20 } else { 40 };
    let port = |at: usize| u16::from_be_bytes([after.bytes()[at], after.bytes()[at + 1]]);
    let is_hop = !role.is_host() && matches!(via, Via::Neighbour | Via::Kernel);
    PacketSpec {
        ends: ends_of(after.bytes()),
        sport: port(l4),
        dport: port(l4 + 2),
        ttl: spec.ttl - u8::from(is_hop),
        ..spec.clone()
    }
}

fn is_as_told<A: Addr>(
    there: &PacketSpec<A>,
    work: &Work<A>,
    is_remapped: bool,
) -> Result<(), TestCaseError> {
    let told = &work.flow.rewrite;
    prop_assert_eq!(there.ends, told.ends);
    prop_assert_eq!(there.dport, told.dport);
    prop_assert!(is_remapped || there.sport == told.sport);
    Ok(())
}

fn tell<A: Addr>(story: &Story) -> Result<(), TestCaseError> {
    let world = story.world::<A>();
    let front = story.cell.front.addr::<A>();
    let mut sent: Vec<PacketSpec<A>> = Vec::new();
    for (seed, step) in (story.seed..).zip(&story.steps) {
        let (at, spec) = match *step {
            Step::Event(event) => {
                let version = u32::try_from(seed % 1_000_000).expect("small") + 3;
                story.happen(&world, event, version);
                continue;
            }
            Step::Dial(from, to, sport, transport) => {
                let client = From::ALL.get(from).map_or(node_addr(), |from| from.addr());
                let dst = [
                    (front, SERVICE_PORT),
                    (front, SERVICE_PORT),
                    (front, 81),
                    (vip(1), 81),
                    (vip(2), SERVICE_PORT),
                ][to];
                let ends = (client, 1_000 + sport);
                let spec = PacketSpec::new(ends, dst, TRANSPORTS[transport]);
                (device(from), spec)
            }
            Step::Answer(of, by, transport) => {
                let Some(there) = sent.get(of % sent.len().max(1)) else {
                    continue;
                };
                let transport = match (there.transport, transport) {
                    (Transport::Tcp(_), 0) => SYN_ACK,
                    (Transport::Tcp(_), n) => [SYN, ACK, RST, FIN][n - 1],
                    _ => UDP,
                };
                (device([0, 1, 3, 5, 2][by]), answer(there, transport))
            }
        };
        let there = told_and_done(&world, at, &spec, seed.max(1))?;
        sent.extend(there.filter(|there| there.ends.dst != spec.ends.src));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn what_is_told_is_what_is_done_v4(story in story()) {
        tell::<Addr4>(&story)?;
    }

    #[test]
    fn what_is_told_is_what_is_done_v6(story in story()) {
        tell::<Addr6>(&story)?;
    }
}
