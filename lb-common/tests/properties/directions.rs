//! The two directions of a flow agree at every moment of any history: packets of several clients and their servers in
//! any order, connections that end and begin again, backends that leave and come back, time that passes.

use std::collections::BTreeMap;

use lb_common::{
    abi::{Backend, Reason, backend_flags},
    datapath::{Role, Verdict, Via},
    fake::{FakePacket, PacketSpec, Transport},
    flow::{Direction, FlowKey, Rewrite, slot::State},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::{
    kinds::{Program, serve},
    wire::seen,
    world::{
        POD_DEVICE, SERVICE_PORT, UPLINK, World, backend, local_pod, node_addr, outsider,
        remote_pod, vip,
    },
};

/// One thing that happens.
#[derive(Clone, Debug)]
struct Step {
    client: u8,
    is_udp: bool,
    /// The server's, if the client has been heard.
    is_answer: bool,
    flags: u8,
    /// Ticks that pass before.
    wait: u32,
    /// A backend that leaves or comes back before.
    change: Option<u32>,
}

fn step() -> impl Strategy<Value = Step> {
    // SYN, SYN-ACK, ACK, data, FIN, RST.
    let flags = prop::sample::select(vec![0x02_u8, 0x02, 0x12, 0x10, 0x18, 0x11, 0x04]);
    let wait = prop_oneof![8 => 0_u32..3, 2 => 30_u32..100, 1 => 500_u32..20_000];
    let change = prop_oneof![9 => Just(None), 1 => (1_u32..=4).prop_map(Some)];
    (0..8_u8, any::<bool>(), any::<bool>(), flags, wait, change).prop_map(
        |(client, is_udp, is_answer, flags, wait, change)| Step {
            client,
            is_udp,
            is_answer,
            flags,
            wait,
            change,
        },
    )
}

/// Who dials and by which program; several share a port.
fn client<A: Addr>(n: u8) -> ((A, u16), Program) {
    let port = 40_000 + u16::from(n / 4);
    match n % 4 {
        0 => ((local_pod(1), port), Program::Tc(Role::Pod)),
        1 => ((outsider(1), port), Program::Tc(Role::Uplink)),
        2 => ((outsider(2), port), Program::Xdp),
        _ => ((node_addr(), port), Program::Tc(Role::Host)),
    }
}

/// The program that a server's packets to a client meet.
fn answers_by<A: Addr>(server: A, asked_by: Program) -> Program {
    if server == node_addr() {
        return Program::Tc(match asked_by {
            Program::Tc(Role::Host) => Role::Loopback,
            _ => Role::Egress,
        });
    }
    Program::Tc(if server == remote_pod(1) {
        Role::Uplink
    } else {
        Role::Pod
    })
}

/// A node and what its clients have been given.
struct History<A: Addr> {
    world: World<A>,
    serving: Vec<u32>,
    /// What each client's last packet became, by protocol.
    known: BTreeMap<(u8, u8), Rewrite<A>>,
    /// Every packet of a client, by protocol, that a server has got.
    names: Vec<(u8, u8, Rewrite<A>)>,
}

impl<A: Addr> History<A> {
    fn new() -> Self {
        let world = World::new();
        let history = Self {
            world,
            serving: vec![1, 2, 3, 4],
            known: BTreeMap::new(),
            names: Vec::new(),
        };
        for id in 1..=4 {
            history.put(id);
        }
        serve(&history.world, &history.serving);
        history
    }

    fn put(&self, id: u32) {
        let (at, flags) = match id {
            1 => (local_pod(1), backend_flags::LOCAL),
            2 => (local_pod(2), backend_flags::LOCAL),
            3 => (remote_pod(1), 0),
            _ => (node_addr(), backend_flags::LOCAL),
        };
        let row: Backend<A> = backend(at, flags);
        self.world.node.set_backend(id, Some(row));
    }

    fn change(&mut self, id: u32) {
        if self.serving.contains(&id) {
            self.serving.retain(|other| *other != id);
            self.world.node.set_backend(id, None);
        } else {
            self.serving.push(id);
            self.put(id);
        }
        serve(&self.world, &self.serving);
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        if let Some(id) = step.change {
            self.change(id);
        }
        self.world.wait(step.wait);
        let (end, program) = client::<A>(step.client);
        let transport = if step.is_udp {
            Transport::Udp
        } else {
            Transport::Tcp(step.flags)
        };
        let protocol = if step.is_udp { proto::UDP } else { proto::TCP };
        let known = self.known.get(&(step.client, protocol)).copied();
        let front = (vip(1), SERVICE_PORT);
        if !step.is_answer {
            if let Some(to) = self.send(program, &PacketSpec::new(end, front, transport))? {
                let to: Rewrite<A> = to;
                self.known.insert((step.client, protocol), to);
                self.names.push((step.client, protocol, to));
            }
        } else if let Some(known) = known {
            let server = (known.ends.dst, known.dport);
            let answer = PacketSpec::new(server, (known.ends.src, known.sport), transport);
            let by = answers_by(known.ends.dst, program);
            if let Some(home) = self.send(by, &answer)? {
                // As if it came from what was dialled, or from what another client dialled that has the same name now.
                prop_assert_eq!((home.ends.src, home.sport), front);
                self.leads_back(&home, &known, protocol)?;
            }
        }
        self.check()
    }

    /// Runs a packet; what it became, if it was sent.
    fn send(
        &self,
        program: Program,
        spec: &PacketSpec<A>,
    ) -> Result<Option<Rewrite<A>>, TestCaseError> {
        let before = spec.packet();
        let mut after = before.clone();
        let mut program = program;
        let mut outcome = program.run(&self.world, &mut after);
        if program == Program::Xdp && outcome.verdict == Verdict::Pass {
            prop_assert_eq!(after.bytes(), before.bytes());
            program = Program::Tc(Role::Uplink);
            outcome = program.run(&self.world, &mut after);
        }
        let counts = self.world.node.take_counts();
        let is_answered = counts.contains_key(&Reason::Answered);
        match outcome.verdict {
            Verdict::Pass | Verdict::Drop => {
                prop_assert_eq!(after.bytes(), before.bytes(), "{:?}", counts);
                return Ok(None);
            }
            Verdict::Back => return Ok(None),
            Verdict::Send(_) if is_answered => return Ok(None),
            // What the node's own servers answer goes on as it was going.
            Verdict::Send(via) if program == Program::Tc(Role::Egress) => {
                prop_assert_eq!(via, Via::Stack);
            }
            Verdict::Send(via) => {
                goes_where_its_receiver_is::<A>(via, outcome.hop.ifindex, &after)?;
            }
        }
        prop_assert!(after.checksums_valid() && after.device_sum_valid());
        let seen = seen::<A>(&after);
        Ok(Some(Rewrite {
            ends: lb_common::net::ip::Ends {
                src: seen.src.0,
                dst: seen.dst.0,
            },
            sport: seen.src.1,
            dport: seen.dst.1,
        }))
    }

    /// An answer is sent to the client that the server has heard last under this name.
    fn leads_back(
        &self,
        home: &Rewrite<A>,
        name: &Rewrite<A>,
        protocol: u8,
    ) -> Result<(), TestCaseError> {
        let last = self
            .names
            .iter()
            .rev()
            .find(|(_, at, known)| (*at, known) == (protocol, name));
        let (owner, ..) = last.expect("it was heard");
        prop_assert_eq!(
            (home.ends.dst, home.dport),
            client::<A>(*owner).0,
            "{:?}",
            name
        );
        Ok(())
    }

    /// Every published pair says the same from both sides.
    fn check(&self) -> Result<(), TestCaseError> {
        let slots = self.world.node.flows();
        let mut keys = BTreeMap::new();
        for position in 0..slots.positions() {
            let slot = slots.slot(position);
            if !slot.state().published() {
                continue;
            }
            let other = keys.insert(slot.key(), position);
            prop_assert_eq!(other, None, "two slots of one key");
            if slot.flags().orphan() || slot.flags().direction() == Direction::Reply {
                continue;
            }
            let twin = slots.slot(slot.twin());
            prop_assert!(twin.state().published());
            prop_assert_eq!(twin.twin(), position);
            prop_assert_eq!(twin.flags().direction(), Direction::Reply);
            prop_assert_eq!(slot.backend(), twin.backend());
            let is_half_open = [slot, twin].map(|slot| slot.state().state() == State::HalfOpen);
            prop_assert_eq!(is_half_open[0], is_half_open[1]);
            let (mut there, mut back) = (Rewrite::default(), Rewrite::default());
            slot.rewrite(&mut there);
            twin.rewrite(&mut back);
            let mut answers = FlowKey::default();
            there.answered_by(slot.protocol(), &mut answers);
            prop_assert_eq!(twin.key(), answers);
            let mut asks = FlowKey::default();
            back.answered_by(slot.protocol(), &mut asks);
            prop_assert_eq!(slot.key(), asks);
        }
        Ok(())
    }
}

/// By the device of the receiver, or to the stack for the node itself.
fn goes_where_its_receiver_is<A: Addr>(
    via: Via,
    device: u32,
    after: &FakePacket,
) -> Result<(), TestCaseError> {
    let (to, _) = seen::<A>(after).dst;
    let is_here = to == node_addr();
    prop_assert_eq!(
        matches!(via, Via::Stack | Via::Host),
        is_here,
        "{:?} {}",
        via,
        to
    );
    if !is_here {
        let is_pod = [local_pod(1), local_pod(2)].contains(&to);
        let expected = if is_pod { POD_DEVICE } else { UPLINK };
        prop_assert_eq!(device, expected, "{}", to);
    }
    Ok(())
}

fn any_history<A: Addr>(steps: &[Step]) -> Result<(), TestCaseError> {
    let mut history = History::<A>::new();
    for step in steps {
        history.take(step)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_two_directions_of_a_flow_never_disagree_v4(steps in vec(step(), 1..120)) {
        any_history::<Addr4>(&steps)?;
    }

    #[test]
    fn the_two_directions_of_a_flow_never_disagree_v6(steps in vec(step(), 1..120)) {
        any_history::<Addr6>(&steps)?;
    }
}
