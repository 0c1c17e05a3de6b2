//! Time per packet, by `BPF_PROG_TEST_RUN`: of the programs, and of others beside them. Never judges.
//!
//! A program that restores the packet ([`crate::restorer`]) jumps to the program under test, or to one that only
//! returns. What the first pair takes more than the second is the program's own time. The pairs alternate, and the medians
//! are compared: the machine's own noise is of the order of what is measured. A packet is 64 to 80 bytes of UDP; caches are
//! as warm as one flow, or many flows in random order, leave them. The kernel reports whole nanoseconds.

use std::{
    fmt,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use aya::programs::Program;
use lb_common::{
    abi::{NodeConfig, Reason},
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        ip::proto,
    },
};

use crate::{
    addressing::{self, Dual},
    asm::trivial,
    lone_node::{CLIENT_MAC, Device, LoneNode, NEIGHBOUR, address},
    packet::{Frame, Mac, Macs},
    poll,
    progrun::{
        Arrival, Datapath, Programs, ServicePort, backend, frontend, skb_context, xdp_context,
    },
    rawbpf::{self, JumpTable, Kind, Value},
    restorer::{COUNTER_AT, FAILED, Flows, Maps, Vary, restorer},
};

/// Alternating pairs of which the median is taken.
const PAIRS: usize = 7;
/// Measurements that may come too late.
const ATTEMPTS: usize = 5;
/// Longer than a next hop is believed.
const RENEW_LIMIT: Duration = Duration::from_secs(10);

/// Measures everything and prints a table.
pub fn run() -> Result<()> {
    println!(
        "{:<12}{:<6}{:<32}{:>8}{:>20}{:>20}{:>8}",
        "program", "", "packet", "net ns", "min/med/max", "empty", "ratio"
    );
    for host in [Host::Tc, Host::Xdp] {
        measure_family::<Addr4>(host)?;
        measure_family::<Addr6>(host)?;
    }
    Ok(())
}

fn measure_family<A: Addr + Sync>(host: Host) -> Result<()> {
    // Maps of its own for each, so that no measurement finds another's flows.
    for what in What::ALL {
        let bench = Bench::<A>::new(host, what)?;
        let sample = Sample::of(&bench.measure(Effort::FULL, &[])?);
        println!(
            "{:<12}{:<6}{:<32}{sample}",
            host.program(),
            A::FAMILY.to_string(),
            what.to_string()
        );
    }
    Ok(())
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Turns, in each of which every program is measured once.
    pub turns: usize,
    /// Runs per measurement of a packet that finds everything as it was.
    pub repeat: u32,
    /// Runs per measurement of packets that open connections.
    pub repeat_open: u32,
}

impl Effort {
    /// What medians are worth something by.
    pub const FULL: Self = Self {
        turns: PAIRS,
        repeat: 300_000,
        repeat_open: 20_000,
    };

    /// Runs before each measurement, which are not measured: with many flows, what the programs before have left in the caches
    /// is of no use to this one.
    fn warming(self, what: What) -> u32 {
        match what {
            What::Hit(bits) if bits > 0 => self.repeat / 2,
            _ => 0,
        }
    }

    fn repeat(self, what: What) -> u32 {
        match what {
            What::Open => self.repeat_open,
            _ => self.repeat,
        }
    }

    /// How often each program is run.
    pub fn runs(self, what: What) -> u64 {
        self.turns as u64 * u64::from(self.repeat(what) + self.warming(what))
    }
}

/// Where programs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// TC's ingress.
    Tc,
    /// XDP.
    Xdp,
}

impl Host {
    /// The program that is measured.
    pub fn program(self) -> &'static str {
        match self {
            Self::Tc => "uplink",
            Self::Xdp => "xdp_uplink",
        }
    }

    /// What kind of program that is.
    pub fn kind(self) -> Kind {
        match self {
            Self::Tc => Kind::TC,
            Self::Xdp => Kind::XDP,
        }
    }

    /// What the program returns for a packet that is not its own, and for one that it sends on.
    pub fn verdicts(self) -> (i32, i32) {
        match self {
            Self::Tc => (-1, 7),
            Self::Xdp => (2, 3),
        }
    }
}

/// What kind of packet is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// One that is none of IP.
    Pass,
    /// One that belongs to no flow and no service.
    Miss,
    /// The first one of a flow.
    Open,
    /// One of so many flows, of which the number says the binary logarithm.
    Hit(u8),
    /// An answer, always of the same flow.
    Reply,
}

impl What {
    /// What is measured without peers.
    const ALL: [Self; 5] = [
        Self::Miss,
        Self::Open,
        Self::Hit(0),
        Self::Hit(16),
        Self::Reply,
    ];

    /// Whether no program sends it on.
    fn is_passed(self) -> bool {
        matches!(self, Self::Pass | Self::Miss)
    }

    /// Twice what the flows of a measurement take: all of them find a place. Four times for those that are opened in it, so
    /// that a table is measured which has room, as one does that was sized by what is expected.
    fn flow_table_size(self) -> u32 {
        match self {
            Self::Open => 1 << 20,
            Self::Hit(bits) if bits > 16 => 4 << bits,
            _ => 262_144,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass: not IP",
            Self::Miss => "miss: no service",
            Self::Open => "open: a new flow each",
            Self::Hit(0) => "hit, 1 flow",
            Self::Hit(16) => "hit, 65,536 flows at random",
            Self::Hit(bits) => return write!(f, "hit, {} flows at random", 1_u64 << bits),
            Self::Reply => "reply hit, 1 flow",
        })
    }
}

/// A program beside the one under test, which shall return this.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// It is of the same kind.
    pub program: BorrowedFd<'a>,
    /// What it returns.
    pub verdict: i32,
}

/// Nanoseconds of all rounds, the wrapper included.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of the program under test.
    pub target: Vec<u32>,
    /// Of one that only returns.
    pub empty: Vec<u32>,
    /// Of the peers, in their order.
    pub peers: Vec<Vec<u32>>,
}

/// The medians of both, and how far they scattered.
struct Sample {
    target: [u32; PAIRS],
    empty: [u32; PAIRS],
}

impl Sample {
    fn of(measured: &Measured) -> Self {
        let sorted = |times: &[u32]| {
            let mut sorted = [0; PAIRS];
            sorted
                .iter_mut()
                .zip(times)
                .for_each(|(to, from)| *to = *from);
            sorted.sort_unstable();
            sorted
        };
        Self {
            target: sorted(&measured.target),
            empty: sorted(&measured.empty),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spread = |sorted: &[u32; PAIRS]| {
            format!("{}/{}/{}", sorted[0], median(sorted), sorted[PAIRS - 1])
        };
        let (target, empty) = (median(&self.target), median(&self.empty));
        let ratio = f64::from(target) / f64::from(empty.max(1));
        let net = i64::from(target) - i64::from(empty);
        write!(
            f,
            "{net:>8}{:>20}{:>20}{ratio:>8.2}",
            spread(&self.target),
            spread(&self.empty)
        )
    }
}

fn median(sorted: &[u32; PAIRS]) -> u32 {
    sorted[PAIRS / 2]
}

/// The node, the programs, and packets of one family.
#[derive(Debug)]
pub struct Bench<A> {
    host: Host,
    what: What,
    node: LoneNode,
    programs: Programs,
    arrival: Arrival,
    empty: OwnedFd,
    client: (A, u16),
    service: (A, u16),
    backend: (A, u16),
}

impl<A: Addr + Sync> Bench<A> {
    /// Loads the programs and makes one service known.
    pub fn new(host: Host, what: What) -> Result<Self> {
        let node = LoneNode::new()?;
        let mut datapath = Datapath::load(
            NodeConfig::default(),
            what.flow_table_size(),
            &[Host::Tc.program(), Host::Xdp.program()],
        )?;
        let vip = Dual {
            v4: [10, 96, 0, 1].into(),
            v6: [0xfd00, 0x10, 0x96, 0, 0, 0, 0, 1].into(),
        };
        let (service, backend) = (
            (address::<A>(vip), 80),
            (address::<A>(addressing::pod(NEIGHBOUR, 1)), 8080),
        );
        datapath.install(&port(service, backend))?;
        let arrival = Arrival::by(node.ifindex(Device::Uplink)?);
        let empty = rawbpf::load(host.kind(), &trivial(host.verdicts().0))?;
        let client = (address(addressing::client()), 40_000);
        Ok(Self {
            host,
            what,
            node,
            programs: datapath.programs,
            arrival,
            empty,
            client,
            service,
            backend,
        })
    }

    /// The device that packets come by.
    pub fn ifindex(&self) -> u32 {
        self.arrival.ifindex
    }

    /// Where clients, the service and its backend are.
    pub fn ends(&self) -> [(A, u16); 3] {
        [self.client, self.service, self.backend]
    }

    /// Measures the program, and peers that get the same packets, in turns.
    pub fn measure(&self, effort: Effort, peers: &[Peer<'_>]) -> Result<Measured> {
        self.node
            .namespace()
            .run(|| self.measure_inside(effort, peers))
    }

    fn measure_inside(&self, effort: Effort, peers: &[Peer<'_>]) -> Result<Measured> {
        let (pass, send) = self.host.verdicts();
        let (frame, vary) = self.packets()?;
        let (warming, repeat) = (effort.warming(self.what), effort.repeat(self.what));
        let verdict = if self.what.is_passed() { pass } else { send };
        let rig = Rig::new(self, self.host, frame.clone(), vary)?;
        let keep = Rig::new(self, Host::Tc, frame, Vary::None)?;
        let mut measured = Measured {
            target: Vec::new(),
            empty: Vec::new(),
            peers: vec![Vec::new(); peers.len()],
        };
        for _ in 0..effort.turns {
            let own = self.target(self.host)?;
            rig.warm(own, warming)?;
            measured.target.push(if verdict == Host::Xdp.verdicts().1 {
                self.time_in_time(&rig, &keep, repeat)?
            } else {
                rig.time(own, repeat, verdict)?
            });
            for (peer, times) in peers.iter().zip(&mut measured.peers) {
                rig.warm(peer.program, warming)?;
                times.push(rig.time(peer.program, repeat, peer.verdict)?);
            }
            rig.warm(self.empty.as_fd(), warming)?;
            measured
                .empty
                .push(rig.time(self.empty.as_fd(), repeat, pass)?);
        }
        Ok(measured)
    }

    /// Nanoseconds of one run at XDP while the next hop is believed. On a busy machine that second may be over before the
    /// last run, which then leaves its packet to TC: such a measurement is none.
    fn time_in_time(&self, rig: &Rig<'_, A>, keep: &Rig<'_, A>, repeat: u32) -> Result<u32> {
        let (pass, send) = Host::Xdp.verdicts();
        let mut returned = pass;
        for _ in 0..ATTEMPTS {
            self.renew(keep)?;
            let ns;
            (returned, ns) = rig.run(self.target(Host::Xdp)?, repeat)?;
            if returned == send {
                return Ok(ns);
            }
            if returned != pass {
                break;
            }
        }
        bail!("returned {returned}, expected {send}");
    }

    /// The packet, and how one differs from the next; their flows are there.
    fn packets(&self) -> Result<(Frame, Vary)> {
        let elsewhere = (self.service.0, 81);
        let towards = |dst| Self::frame(self.client, dst, CLIENT_MAC);
        let request = towards(self.service);
        Ok(match self.what {
            What::Pass => (not_ip(&request), Vary::None),
            What::Miss => (towards(elsewhere), Vary::None),
            What::Open => (request, Vary::Count32(Layout::of::<A>().client_at)),
            What::Hit(0) => {
                self.warm_up(&request, Vary::None, 1)?;
                (request, Vary::None)
            }
            What::Hit(bits) => {
                let flows = Layout::of::<A>().flows(bits);
                self.warm_up(&request, Vary::Count(flows), 2 << bits)?;
                (request, Vary::Random(flows))
            }
            What::Reply => {
                self.warm_up(&request, Vary::None, 1)?;
                let answer = Self::frame(self.backend, self.client, Device::Uplink.neighbour());
                self.warm_up(&answer, Vary::None, 1)?;
                (answer, Vary::None)
            }
        })
    }

    /// At TC: there flows learn their next hop, and next hops are prolonged.
    fn warm_up(&self, frame: &Frame, vary: Vary, repeat: u32) -> Result<()> {
        let rig = Rig::new(self, Host::Tc, frame.clone(), vary)?;
        rig.time(self.target(Host::Tc)?, repeat, Host::Tc.verdicts().1)?;
        Ok(())
    }

    /// Sends packets at TC until one of them asks for the next hop: XDP believes in it for a second from now on, and leaves
    /// the first packet after that to TC.
    fn renew(&self, keep: &Rig<'_, A>) -> Result<()> {
        let resolved = || Ok::<_, anyhow::Error>(self.programs.counters()?.get(Reason::Resolved));
        let before = resolved()?;
        poll::until(RENEW_LIMIT, "the next hop to be asked for again", || {
            keep.time(self.target(Host::Tc)?, 1, Host::Tc.verdicts().1)?;
            Ok((resolved()? > before).then_some(()))
        })
    }

    fn target(&self, host: Host) -> Result<BorrowedFd<'_>> {
        Ok(match self.programs.program(host.program())? {
            Program::SchedClassifier(program) => program.fd()?.as_fd(),
            Program::Xdp(program) => program.fd()?.as_fd(),
            other => bail!(
                "{} is a program of type {:?}",
                host.program(),
                other.prog_type()
            ),
        })
    }

    fn frame(src: (A, u16), dst: (A, u16), from: Mac) -> Frame {
        let spec = PacketSpec {
            payload: vec![0; 22],
            ..PacketSpec::new(src, dst, Transport::Udp)
        };
        Frame::of(
            Macs {
                dst: Device::Uplink.mac(),
                src: from,
            },
            &spec,
        )
    }
}

/// Where a frame of one family has what is varied, and how much of it is written anew.
struct Layout {
    /// The source port.
    sport_at: u8,
    /// The last four bytes of the source address.
    client_at: u8,
    /// All headers, rounded up to eight bytes.
    restored: u8,
}

impl Layout {
    fn flows(&self, bits: u8) -> Flows {
        Flows {
            sport_at: self.sport_at,
            client_at: self.client_at + 3,
            bits,
        }
    }

    fn of<A: Addr>() -> Self {
        match A::FAMILY {
            Family::V4 => Self {
                sport_at: 14 + 20,
                client_at: 14 + 12,
                restored: 48,
            },
            Family::V6 => Self {
                sport_at: 14 + 40,
                client_at: 14 + 8 + 12,
                restored: 64,
            },
        }
    }
}

/// The restoring program with one packet.
struct Rig<'a, A> {
    bench: &'a Bench<A>,
    frame: Frame,
    restorer: OwnedFd,
    table: JumpTable,
    host: Host,
    _template: Value,
}

impl<'a, A: Addr + Sync> Rig<'a, A> {
    fn new(bench: &'a Bench<A>, host: Host, frame: Frame, vary: Vary) -> Result<Self> {
        let mut template = frame.bytes().to_vec();
        ensure!(
            template.len() <= COUNTER_AT.into(),
            "a packet of {} bytes is too long",
            template.len()
        );
        template.resize(usize::from(COUNTER_AT) + 8, 0);
        let template = Value::new(&template)?;
        let table = JumpTable::new()?;
        let maps = Maps {
            template: template.as_fd(),
            target: table.as_fd(),
        };
        let kind = host.kind();
        let restorer = rawbpf::load(
            kind,
            &restorer(kind, maps, Layout::of::<A>().restored, vary)?,
        )?;
        Ok(Self {
            bench,
            frame,
            restorer,
            table,
            host,
            _template: template,
        })
    }

    /// Nanoseconds of one run with this target, which must return this.
    fn time(&self, target: BorrowedFd<'_>, repeat: u32, verdict: i32) -> Result<u32> {
        let (returned, ns) = self.run(target, repeat)?;
        ensure!(
            returned == verdict,
            "returned {returned}, expected {verdict}"
        );
        Ok(ns)
    }

    /// Runs it so often, whatever comes of that.
    fn warm(&self, target: BorrowedFd<'_>, repeat: u32) -> Result<()> {
        if repeat > 0 {
            self.run(target, repeat)?;
        }
        Ok(())
    }

    /// What the last run returned, and the nanoseconds of each.
    fn run(&self, target: BorrowedFd<'_>, repeat: u32) -> Result<(i32, u32)> {
        self.table.set(target)?;
        let (skb, xdp) = (
            skb_context(self.bench.arrival),
            xdp_context(&self.frame, self.bench.arrival),
        );
        let context: &[u32] = if self.host == Host::Tc { &skb } else { &xdp };
        let (returned, ns) = rawbpf::repeat(&self.restorer, self.frame.bytes(), context, repeat)?;
        ensure!(
            returned != FAILED.cast_unsigned(),
            "the packet could not be restored"
        );
        Ok((returned.cast_signed(), ns))
    }
}

/// The same bytes behind another type of frame.
fn not_ip(frame: &Frame) -> Frame {
    /// `ETH_P_ARP`.
    const ARP: [u8; 2] = [0x08, 0x06];
    let mut bytes = frame.bytes().to_vec();
    bytes[12..14].copy_from_slice(&ARP);
    Frame(bytes)
}

/// A UDP service with one backend on another node.
fn port<A: Addr>(service: (A, u16), backend_end: (A, u16)) -> ServicePort {
    ServicePort {
        algorithm: 0,
        id: 1,
        frontends: vec![frontend(
            SocketAddr::new(service.0.to_ip(), service.1),
            proto::UDP,
        )],
        base: 1,
        backends: vec![(
            1,
            backend(SocketAddr::new(backend_end.0.to_ip(), backend_end.1), 0),
        )],
    }
}
