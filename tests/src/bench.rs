//! Time per packet, by `BPF_PROG_TEST_RUN`; prints, and never judges.
//!
//! A program that restores the packet ([`crate::asm::restorer`]) jumps to the program under test, or to one that only
//! returns. What the first pair takes more than the second is the program's own time. The pairs alternate, and the medians
//! are compared: the machine's own noise is of the order of what is measured. A packet is 64 to 80 bytes of UDP; caches are
//! as warm as one flow, or 65,536 flows in random order, leave them. The kernel reports whole nanoseconds.

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
    asm::{self, COUNTER_AT, Maps, Vary, restorer, trivial},
    lone_node::{CLIENT_MAC, Device, LoneNode, NEIGHBOUR, address},
    packet::{Frame, Mac, Macs},
    poll,
    progrun::{
        Arrival, Datapath, Programs, ServicePort, backend, frontend, skb_context, xdp_context,
    },
    rawbpf::{self, Kind},
};

/// Four times what the flows of a measurement take: all of them find a place.
const FLOW_TABLE_SIZE: u32 = 524_288;
/// Alternating pairs of which the median is taken.
const PAIRS: usize = 7;
/// Runs per measurement of a packet that finds everything as it was.
const REPEAT: u32 = 300_000;
/// Runs per measurement of packets that open connections.
const REPEAT_OPEN: u32 = 20_000;
/// Longer than a next hop is believed.
const RENEW_LIMIT: Duration = Duration::from_secs(10);
/// All source ports once.
const ALL_PORTS: u32 = 65_536;

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
        let bench = Bench::<A>::new(host)?;
        let sample = bench.node.namespace().run(|| bench.measure(what))?;
        println!(
            "{:<12}{:<6}{:<32}{sample}",
            host.program(),
            A::FAMILY.to_string(),
            what.to_string()
        );
    }
    Ok(())
}

/// Where programs are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Tc,
    Xdp,
}

impl Host {
    fn program(self) -> &'static str {
        match self {
            Self::Tc => "uplink",
            Self::Xdp => "xdp_uplink",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tc => Kind::TC,
            Self::Xdp => Kind::XDP,
        }
    }

    /// What the program returns for a packet that is not its own, and for one that it sends on.
    fn verdicts(self) -> (i32, i32) {
        match self {
            Self::Tc => (-1, 7),
            Self::Xdp => (2, 3),
        }
    }
}

/// What kind of packet is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Miss,
    Open,
    HitOneFlow,
    HitManyFlows,
    Reply,
}

impl What {
    const ALL: [Self; 5] = [
        Self::Miss,
        Self::Open,
        Self::HitOneFlow,
        Self::HitManyFlows,
        Self::Reply,
    ];
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Miss => "miss: no service",
            Self::Open => "open: a new flow each",
            Self::HitOneFlow => "hit, 1 flow",
            Self::HitManyFlows => "hit, 65,536 flows at random",
            Self::Reply => "reply hit, 1 flow",
        })
    }
}

/// The medians of both, and how far they scattered.
struct Sample {
    target: [u32; PAIRS],
    empty: [u32; PAIRS],
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
struct Bench<A> {
    host: Host,
    node: LoneNode,
    programs: Programs,
    arrival: Arrival,
    empty: OwnedFd,
    client: (A, u16),
    service: (A, u16),
    backend: (A, u16),
}

impl<A: Addr> Bench<A> {
    fn new(host: Host) -> Result<Self> {
        let node = LoneNode::new()?;
        let mut datapath = Datapath::load(
            NodeConfig::default(),
            FLOW_TABLE_SIZE,
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
            node,
            programs: datapath.programs,
            arrival,
            empty,
            client,
            service,
            backend,
        })
    }

    fn measure(&self, what: What) -> Result<Sample> {
        let elsewhere = (self.service.0, 81);
        let Layout {
            sport_at,
            client_at,
            ..
        } = Layout::of::<A>();
        let (pass, send) = self.host.verdicts();
        let towards = |dst| Self::frame(self.client, dst, CLIENT_MAC);
        let request = towards(self.service);
        let (frame, vary, repeat, verdict) = match what {
            What::Miss => (towards(elsewhere), Vary::None, REPEAT, pass),
            What::Open => (request, Vary::Count32(client_at), REPEAT_OPEN, send),
            What::HitOneFlow => {
                self.warm_up(&request, Vary::None, 1)?;
                (request, Vary::None, REPEAT, send)
            }
            What::HitManyFlows => {
                self.warm_up(&request, Vary::Count16(sport_at), 2 * ALL_PORTS)?;
                (request, Vary::Random16(sport_at), REPEAT, send)
            }
            What::Reply => {
                self.warm_up(&request, Vary::None, 1)?;
                let answer = Self::frame(self.backend, self.client, Device::Uplink.neighbour());
                self.warm_up(&answer, Vary::None, 1)?;
                (answer, Vary::None, REPEAT, send)
            }
        };
        let rig = Rig::new(self, self.host, frame.clone(), vary)?;
        let keep = Rig::new(self, Host::Tc, frame, Vary::None)?;
        self.compare(&rig, &keep, repeat, verdict)
    }

    /// At TC: there flows learn their next hop, and next hops are prolonged.
    fn warm_up(&self, frame: &Frame, vary: Vary, repeat: u32) -> Result<()> {
        let rig = Rig::new(self, Host::Tc, frame.clone(), vary)?;
        rig.time(self.target(Host::Tc)?, repeat, Host::Tc.verdicts().1)?;
        Ok(())
    }

    fn compare(
        &self,
        rig: &Rig<'_, A>,
        keep: &Rig<'_, A>,
        repeat: u32,
        verdict: i32,
    ) -> Result<Sample> {
        let mut sample = Sample {
            target: [0; PAIRS],
            empty: [0; PAIRS],
        };
        for pair in 0..PAIRS {
            if verdict == Host::Xdp.verdicts().1 {
                self.renew(keep)?;
            }
            sample.target[pair] = rig.time(self.target(self.host)?, repeat, verdict)?;
            sample.empty[pair] = rig.time(self.empty.as_fd(), repeat, self.host.verdicts().0)?;
        }
        sample.target.sort_unstable();
        sample.empty.sort_unstable();
        Ok(sample)
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
    table: OwnedFd,
    host: Host,
    _template: OwnedFd,
}

impl<'a, A: Addr> Rig<'a, A> {
    fn new(bench: &'a Bench<A>, host: Host, frame: Frame, vary: Vary) -> Result<Self> {
        let mut template = frame.bytes().to_vec();
        ensure!(
            template.len() <= COUNTER_AT.into(),
            "a packet of {} bytes is too long",
            template.len()
        );
        template.resize(usize::from(COUNTER_AT) + 8, 0);
        let template = rawbpf::single_value(&template)?;
        let table = rawbpf::jump_table()?;
        let maps = Maps {
            template: template.as_fd(),
            target: table.as_fd(),
        };
        let kind = host.kind();
        let restorer = rawbpf::load(
            kind,
            &restorer(kind, maps, Layout::of::<A>().restored, vary),
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

    /// Nanoseconds of one run with this target.
    fn time(&self, target: BorrowedFd<'_>, repeat: u32, verdict: i32) -> Result<u32> {
        rawbpf::set_target(&self.table, target)?;
        let (skb, xdp) = (
            skb_context(self.bench.arrival),
            xdp_context(&self.frame, self.bench.arrival),
        );
        let context: &[u32] = if self.host == Host::Tc { &skb } else { &xdp };
        let (returned, ns) = rawbpf::repeat(&self.restorer, self.frame.bytes(), context, repeat)?;
        ensure!(
            returned != asm::FAILED.cast_unsigned(),
            "the packet could not be restored"
        );
        ensure!(
            returned.cast_signed() == verdict,
            "returned {}, expected {verdict}",
            returned.cast_signed()
        );
        Ok(ns)
    }
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
