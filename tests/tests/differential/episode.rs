//! A node without flows, some hundred packets, and both hosts' answers to each of them.

use std::{collections::BTreeMap, hint};

use lb_common::{
    abi::{FlowSlot, NextHop, Plain, Reason, takeover},
    datapath::{Role, Verdict, Via},
    fake::{FakeNode, FakePacket, FakeSlots},
    flow::{clock::tick, slot::Words as _, table::Slots as _},
    net::{
        addr::{Addr, Family},
        ip::{IpHeader, proto},
    },
};
use lb_tests::{
    lone_node::{CLIENT_MAC, Device, NEIGHBOUR, NODE},
    packet::{Frame, Macs},
    progrun::{Action, Arrival, Counts, Outcome},
};
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_getres, clock_gettime},
};

use crate::{
    forge::{self, Ends},
    luck::Luck,
    stage::{Stage, Vip, node, outsider, pod},
};

/// Packets of an episode.
const LENGTH: usize = 300;

/// Who has what, from one episode to the next. Not with ports that lie apart: which is taken, the kernel draws by lot.
const TAKEOVERS: [u32; 4] = [0, takeover::FROM, 0, takeover::FROM | takeover::TO];

/// Why an episode ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The hosts disagree.
    Different(String),
}

/// What was compared.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) compared: usize,
    episodes: usize,
    cut_short: usize,
    counts: BTreeMap<Reason, u64>,
}

impl Tally {
    /// The comparison reached what it is for.
    pub(crate) fn is_worth_something(&self) {
        for reason in [
            Reason::Open,
            Reason::HitOriginal,
            Reason::HitReply,
            Reason::RejectNoBackend,
            Reason::RejectNotServed,
            Reason::DropUnallocated,
            Reason::DropTooBig,
            Reason::DropTtl,
            Reason::DropNoRoute,
            Reason::PassMalformed,
            Reason::PassToTc,
            Reason::XdpForward,
            Reason::HitError,
            Reason::EchoAnswered,
            Reason::RejectNoFlow,
            Reason::FragmentHeld,
            Reason::PassTakeover,
        ] {
            assert!(
                self.counts.contains_key(&reason),
                "no {}: {self:?}",
                reason.name()
            );
        }
    }
}

/// Where a packet comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    program: &'static str,
    device: Device,
}

/// A connection that a client has begun: who is heard where under which name.
#[derive(Clone, Copy, Debug)]
struct Talk<A> {
    asks: (Place, Ends<A>),
    answers: Option<(Place, Ends<A>)>,
    protocol: u8,
}

/// A packet on its way into the node.
#[derive(Debug)]
struct Shot {
    place: Place,
    packet: Vec<u8>,
    /// The connection that it is the client's first or next packet of, if it was not spoiled.
    talk: Option<usize>,
}

struct Episode<'s, A: Addr> {
    stage: &'s Stage,
    twin: FakeNode<A>,
    luck: Luck,
    talks: Vec<Talk<A>>,
    /// Of the datagrams that come in fragments.
    first_id: u16,
    /// Packets that were sent on, which errors may be about.
    sent: Vec<(Place, Vec<u8>)>,
    /// What the kernel has counted so far.
    counted: Counts,
}

/// Runs one episode, and compares all that there is.
pub(crate) fn run<A: Addr>(stage: &mut Stage, seed: u64, tally: &mut Tally) -> Result<(), Ended>
where
    FlowSlot<A>: Plain + Default + Send,
{
    stage.datapath.programs.forget::<A>().unwrap();
    let takeover = TAKEOVERS[(seed % 4) as usize];
    stage.datapath.programs.set_takeover(takeover).unwrap();
    tally.episodes += 1;
    let stage = &*stage;
    stage.node.namespace().run(|| {
        let twin = stage.twin();
        twin.set_takeover(takeover);
        let mut episode = Episode {
            stage,
            twin,
            luck: Luck::new(seed),
            talks: Vec::new(),
            first_id: (seed % 0x4000) as u16 * 4,
            sent: Vec::new(),
            counted: stage.datapath.programs.counters().unwrap(),
        };
        for n in 0..LENGTH {
            let shot = episode.draw();
            match episode.fire(&shot, tally) {
                Ok(true) => tally.compared += 1,
                Ok(false) => {
                    tally.cut_short += 1;
                    return Ok(());
                }
                Err(what) => {
                    return Err(Ended::Different(format!(
                        "{} packet {n}: {what}\n{shot:?}",
                        A::FAMILY
                    )));
                }
            }
        }
        episode.tables().map_err(Ended::Different)
    })
}

/// The kernel's coarse clock, as the programs read it.
fn kernel_tick() -> u32 {
    tick(coarse_ns(
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap(),
    ))
}

/// The same at a moment after which it stays the same for a while, unless something else takes this CPU.
fn settled_tick() -> u32 {
    let step = coarse_ns(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
    loop {
        let now = coarse_ns(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).unwrap());
        if tick(now) == tick(now + step) {
            return tick(now);
        }
        hint::spin_loop();
    }
}

fn coarse_ns(time: TimeSpec) -> u64 {
    time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
}

impl<A: Addr> Episode<'_, A> {
    /// Any packet that can be run: the kernel refuses to run a program of TC on less than an IP header.
    fn draw(&mut self) -> Shot {
        let least = if A::FAMILY == Family::V4 { 20 } else { 40 };
        loop {
            let shot = self.any();
            if shot.place.program == "xdp_uplink" || shot.packet.len() >= least {
                return shot;
            }
        }
    }

    /// Of a new connection, of a known one, an answer, an error, something else; one in four spoiled.
    fn any(&mut self) -> Shot {
        let mut shot = match self.luck.below(20) {
            0..6 => self.opening(),
            6..10 => self.following(),
            10..15 => self.answer(),
            15 => self.error(),
            16 => self.echo(),
            17 => self.fragment(),
            _ => self.late(),
        };
        if self.luck.once_in(4) {
            shot.talk = None;
            for _ in 0..=self.luck.below(3) {
                forge::spoil(&mut self.luck, &mut shot.packet);
            }
        }
        if self.luck.once_in(20) {
            shot.talk = None;
            shot.place = self.place();
        }
        shot
    }

    fn place(&mut self) -> Place {
        self.luck.pick(&[
            Place {
                program: "pod",
                device: Device::Pod(2),
            },
            Place {
                program: "pod",
                device: Device::Pod(1),
            },
            Place {
                program: "uplink",
                device: Device::Uplink,
            },
            Place {
                program: "xdp_uplink",
                device: Device::Uplink,
            },
            Place {
                program: "host",
                device: Device::Host,
            },
            Place {
                program: "lo",
                device: Device::Host,
            },
            Place {
                program: "egress",
                device: Device::Uplink,
            },
            Place {
                program: "egress",
                device: Device::Pod(2),
            },
        ])
    }

    /// A client, one of a few ports, a service.
    fn talk(&mut self) -> Talk<A> {
        let place = loop {
            let place = self.place();
            if !matches!(place.program, "lo" | "egress") {
                break place;
            }
        };
        let client = match place.device {
            Device::Pod(number) => pod(NODE, number),
            Device::Host => node(),
            Device::Uplink if self.luck.once_in(4) => pod(NEIGHBOUR, 2),
            Device::Uplink => outsider(),
        };
        let port = 40_000 + u16::from(self.luck.byte() & 7);
        let ends = Ends {
            src: (client, port),
            dst: self.luck.pick(&Vip::ALL).frontend(),
        };
        Talk {
            asks: (place, ends),
            answers: None,
            protocol: self.luck.pick(&[proto::TCP, proto::UDP, proto::SCTP]),
        }
    }

    /// TCP control bits, or the type of an SCTP chunk.
    fn flags(&mut self, protocol: u8, opens: bool) -> u8 {
        match (protocol, opens) {
            (proto::TCP, true) => self.luck.pick(&[0x02, 0x02, 0x02, 0xc2]),
            (proto::TCP, false) => self.luck.pick(&[0x10, 0x18, 0x11, 0x12, 0x04, 0x14, 0x02]),
            (_, true) => 1,
            (_, false) => self.luck.pick(&[0, 2, 3, 6, 7, 8, 10, 11, 14]),
        }
    }

    fn opening(&mut self) -> Shot {
        let talk = self.talk();
        let flags = self.flags(talk.protocol, true);
        let (place, ends) = talk.asks;
        self.talks.push(talk);
        Shot {
            place,
            packet: forge::packet(&mut self.luck, ends, talk.protocol, flags),
            talk: Some(self.talks.len() - 1),
        }
    }

    fn following(&mut self) -> Shot {
        if self.talks.is_empty() {
            return self.opening();
        }
        let nth = self.luck.below(self.talks.len());
        let talk = self.talks[nth];
        let flags = self.flags(talk.protocol, false);
        let (place, ends) = talk.asks;
        Shot {
            place,
            packet: forge::packet(&mut self.luck, ends, talk.protocol, flags),
            talk: Some(nth),
        }
    }

    fn answer(&mut self) -> Shot {
        let answers = self
            .talks
            .iter()
            .filter_map(|talk| Some((talk.answers?, talk.protocol)));
        let answers: Vec<_> = answers.collect();
        if answers.is_empty() {
            return self.opening();
        }
        let ((place, ends), protocol) = self.luck.pick(&answers);
        let flags = self.flags(protocol, false);
        Shot {
            place,
            packet: forge::packet(&mut self.luck, ends, protocol, flags),
            talk: None,
        }
    }

    /// In the middle of a connection that nobody knows.
    fn late(&mut self) -> Shot {
        let talk = self.talk();
        let flags = self.flags(talk.protocol, false);
        let (place, ends) = talk.asks;
        Shot {
            place,
            packet: forge::packet(&mut self.luck, ends, talk.protocol, flags),
            talk: None,
        }
    }

    /// About a packet that was sent on, from a router on its way.
    fn error(&mut self) -> Shot {
        if self.sent.is_empty() {
            return self.opening();
        }
        let nth = self.luck.below(self.sent.len());
        let (place, about) = self.sent[nth].clone();
        let len = 20 + self.luck.below(120);
        let router: A = self.luck.pick(&[outsider(), pod(NEIGHBOUR, 3)]);
        Shot {
            place,
            packet: forge::error(&mut self.luck, router, &about, len),
            talk: None,
        }
    }

    fn echo(&mut self) -> Shot {
        let Talk {
            asks: (place, ends),
            ..
        } = self.talk();
        Shot {
            place,
            packet: forge::echo(&mut self.luck, ends.src.0, ends.dst.0),
            talk: None,
        }
    }

    fn fragment(&mut self) -> Shot {
        let talk = self.talk();
        let (place, ends) = talk.asks;
        // What an earlier episode has left is nobody's.
        let id = self.first_id.wrapping_add(u16::from(self.luck.byte() & 3));
        let offset = self.luck.pick(&[0, 0, 8, 16]);
        let more = offset == 0 || self.luck.once_in(2);
        Shot {
            place,
            packet: forge::fragment(&mut self.luck, ends, talk.protocol, (id, offset, more)),
            talk: None,
        }
    }

    /// Runs a packet at both hosts. False: the kernel's clock moved meanwhile, so nothing can be said.
    fn fire(&mut self, shot: &Shot, tally: &mut Tally) -> Result<bool, String> {
        let Place { program, device } = shot.place;
        let macs = Self::macs(shot.place);
        let frame = Frame::new(macs, A::Header::ETHER_TYPE, &shot.packet);
        let programs = &self.stage.datapath.programs;
        let now = settled_tick();
        let outcome = programs.run(program, &frame, self.arrival(shot.place));
        if kernel_tick() != now {
            return Ok(false);
        }
        let outcome = outcome.map_err(|error| format!("{error:#}"))?;
        let after = programs.counters().unwrap();
        let counted = after.since(&self.counted);
        self.counted = after;
        let expected = self.expected(shot, macs, now);
        if (&outcome, &counted) != (&expected.0, &expected.1) {
            return Err(format!(
                "at {program} of {device:?}\nin the kernel {outcome:?}\n{counted:?}\non the host {:?}\n{:?}\nof {frame:?}",
                expected.0, expected.1
            ));
        }
        for (reason, count) in counted.0 {
            *tally.counts.entry(reason).or_default() += count;
        }
        Ok(true)
    }

    fn macs(place: Place) -> Macs {
        let Place { program, device } = place;
        match (program, device) {
            ("lo", _) => Macs {
                dst: [0; 6],
                src: [0; 6],
            },
            ("egress", _) => Macs {
                dst: device.neighbour(),
                src: device.mac(),
            },
            ("xdp_uplink", _) => Macs {
                dst: device.mac(),
                src: CLIENT_MAC,
            },
            _ => Macs {
                dst: device.mac(),
                src: device.neighbour(),
            },
        }
    }

    fn arrival(&self, place: Place) -> Arrival {
        let Place { program, device } = place;
        match program {
            "lo" => Arrival::leaving(1),
            "egress" => Arrival::leaving(self.stage.node.ifindex(device).unwrap()),
            _ => Arrival::by(self.stage.node.ifindex(device).unwrap()),
        }
    }

    /// What the host makes of it, as the kernel would do it.
    fn expected(&mut self, shot: &Shot, macs: Macs, now: u32) -> (Outcome, Counts) {
        let Place { program, .. } = shot.place;
        let ifindex = self.arrival(shot.place).ifindex;
        self.twin.set_now(now);
        self.know_ways(&shot.packet);
        let mut packet = FakePacket::new(shot.packet.clone());
        let outcome = match program {
            "xdp_uplink" => self.twin.xdp(ifindex).run(&mut packet),
            _ => self.twin.tc(role(program), ifindex).run(&mut packet),
        };
        let counts = Counts(self.twin.take_counts());
        self.twin.take_released();
        let is_answered = counts.get(Reason::Answered) + counts.get(Reason::EchoAnswered) > 0;
        if matches!(outcome.verdict, Verdict::Send(_)) && !is_answered {
            self.note(shot, packet.bytes());
        }
        let is_xdp = program == "xdp_uplink";
        let (action, macs) = match outcome.verdict {
            Verdict::Pass => (Action::Pass, macs),
            Verdict::Drop => (Action::Drop, macs),
            Verdict::Send(Via::Neighbour) if is_xdp => (Action::Transmit, split(&outcome.hop)),
            Verdict::Send(Via::Neighbour) => (Action::Redirect, split(&outcome.hop)),
            Verdict::Send(Via::Kernel) => (Action::Redirect, macs),
            Verdict::Send(Via::Stack) => (Action::Stack, macs),
            Verdict::Send(Via::Host) => (
                Action::Redirect,
                Macs {
                    dst: Device::Host.neighbour(),
                    src: Device::Host.mac(),
                },
            ),
            Verdict::Back => (
                Action::Redirect,
                Macs {
                    dst: macs.src,
                    src: macs.dst,
                },
            ),
        };
        let frame = Frame::new(macs, A::Header::ETHER_TYPE, packet.bytes());
        (Outcome { action, frame }, counts)
    }

    /// Tells the host what the kernel's FIB knows of every address that may be asked for.
    fn know_ways(&self, packet: &[u8]) {
        let at = if A::FAMILY == Family::V4 { 12 } else { 8 };
        let mut ends = packet
            .get(at..)
            .unwrap_or_default()
            .chunks_exact(size_of::<A>());
        let backends = Vip::ALL.into_iter().flat_map(Vip::backends);
        let ends = (0..2).filter_map(|_| ends.next()).map(from_octets);
        for to in ends.chain(backends) {
            if let Some((route, hop)) = self.stage.route::<A>(to) {
                self.twin.set_route(to, route, hop);
            }
        }
    }

    /// Remembers where an answer to this packet would come, and that a router may complain about it.
    fn note(&mut self, shot: &Shot, sent: &[u8]) {
        let Some(nth) = shot.talk else {
            return;
        };
        let Some(ends) = ends_of::<A>(sent) else {
            return;
        };
        let (asked, _) = self.talks[nth].asks;
        let server = ends.dst.0;
        let place = if server == node() {
            match asked.device {
                Device::Host => Place {
                    program: "lo",
                    device: Device::Host,
                },
                device => Place {
                    program: "egress",
                    device,
                },
            }
        } else if server == pod(NODE, 1) {
            Place {
                program: "pod",
                device: Device::Pod(1),
            }
        } else {
            Place {
                program: if asked.program == "xdp_uplink" {
                    "xdp_uplink"
                } else {
                    "uplink"
                },
                device: Device::Uplink,
            }
        };
        self.talks[nth].answers = Some((place, ends.turned()));
        self.sent.push((place, sent.to_vec()));
    }

    /// Both hosts' flow tables are the same, word by word.
    fn tables(&self) -> Result<(), String>
    where
        FlowSlot<A>: Plain,
    {
        let kernel = self.stage.datapath.programs.flow_words::<A>().unwrap();
        let host: &FakeSlots<A> = self.twin.flows();
        let n_words = size_of::<FlowSlot<A>>() / 4;
        // Nobody writes what pads an IPv6 slot.
        let used = if A::FAMILY == Family::V4 { 16 } else { 28 };
        for (position, there) in (0..).zip(kernel.chunks_exact(n_words)) {
            let words = (&host).words(position, 0).unwrap();
            let here: Vec<u32> = (0..used).map(|at| words.load(at)).collect();
            if here != there[..used] {
                return Err(format!(
                    "{} slot {position}: in the kernel {there:08x?}, on the host {here:08x?}",
                    A::FAMILY
                ));
            }
        }
        Ok(())
    }
}

fn role(program: &str) -> Role {
    match program {
        "pod" => Role::Pod,
        "uplink" => Role::Uplink,
        "host" => Role::Host,
        "lo" => Role::Loopback,
        "egress" => Role::Egress,
        other => panic!("no role has the program {other}"),
    }
}

fn split(hop: &NextHop) -> Macs {
    let (dst, src) = hop.split_macs();
    Macs { dst, src }
}

fn from_octets<A: Addr>(octets: &[u8]) -> A {
    let mut words = [0; 4];
    for (word, octets) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]);
    }
    A::from_words(words)
}

/// The ends of a packet that has ports.
fn ends_of<A: Addr>(packet: &[u8]) -> Option<Ends<A>> {
    let (at, l4) = match A::FAMILY {
        Family::V4 => (12, usize::from(packet.first()? & 0x0f) * 4),
        Family::V6 => (8, 40),
    };
    let size = size_of::<A>();
    let src = from_octets(packet.get(at..at + size)?);
    let dst = from_octets(packet.get(at + size..at + 2 * size)?);
    let [a, b, c, d] = *packet.get(l4..l4 + 4)?.first_chunk()?;
    Some(Ends {
        src: (src, u16::from_be_bytes([a, b])),
        dst: (dst, u16::from_be_bytes([c, d])),
    })
}
