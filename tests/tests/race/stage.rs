//! Who takes part in a race: two services, numbered calls to them, and a node that runs the programs on their packets.

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    abi::{FlowSlot, NodeConfig, Reason},
    fake::{PacketSpec, Transport},
    net::{addr::Addr4, ip::proto},
};
use lb_tests::{
    addressing,
    lone_node::{Device, LoneNode, NEIGHBOUR, NODE},
    netns::require_root,
    packet::{Frame, Macs},
    progrun::{Action, Arrival, Datapath, Programs, ServicePort, backend, frontend},
};
use lb_user::apply::BpfMaps;
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};

const SYN: Transport = Transport::Tcp(0x02);
const SYN_ACK: Transport = Transport::Tcp(0x12);
/// Backends of each service.
pub(crate) const N_BACKENDS: u8 = 4;

/// One of the two services, by the last byte of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    A = 1,
    B = 2,
}

impl Name {
    pub(crate) fn frontend(self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, self as u8), 80)
    }

    /// Pods of the other node.
    pub(crate) fn backends(self) -> [SocketAddrV4; N_BACKENDS as usize] {
        let first = self as u8 * 16;
        let host = |at: usize| first + at.to_le_bytes()[0];
        std::array::from_fn(|at| {
            SocketAddrV4::new(Ipv4Addr::new(10, 244, NEIGHBOUR, host(at)), 8080)
        })
    }

    /// The service port of one protocol. Its slots and its backends have the same numbers, which no other port has.
    pub(crate) fn port(self, protocol: u8) -> ServicePort {
        let id = u32::from(protocol) * 4 + self as u32;
        ServicePort {
            algorithm: 0,
            id,
            frontends: vec![frontend(self.frontend().into(), protocol)],
            base: id * 8,
            backends: (id * 8..)
                .zip(self.backends().map(|pod| backend(pod.into(), 0)))
                .collect(),
        }
    }
}

/// The node with both services over TCP and UDP.
pub(crate) struct Stage {
    pub(crate) runner: Runner,
    pub(crate) tables: BpfMaps,
    pub(crate) cpus: [usize; 2],
}

impl Stage {
    /// `None`: this cannot be run here, and skipping is allowed.
    pub(crate) fn new(flow_table_size: u32) -> Option<Self> {
        if !require_root() {
            return None;
        }
        let cpus = two_cpus()?;
        let node = LoneNode::new().unwrap();
        let mut datapath =
            Datapath::load(NodeConfig::default(), flow_table_size, &["pod", "uplink"]).unwrap();
        for name in [Name::A, Name::B] {
            for protocol in [proto::TCP, proto::UDP] {
                datapath.install(&name.port(protocol)).unwrap();
            }
        }
        let by_pod = Arrival::by(node.ifindex(Device::Pod(2)).unwrap());
        let by_uplink = Arrival::by(node.ifindex(Device::Uplink).unwrap());
        let Datapath { programs, tables } = datapath;
        Some(Self {
            runner: Runner {
                node,
                programs,
                by_pod,
                by_uplink,
            },
            tables,
            cpus,
        })
    }
}

/// The first two CPUs that this process may use; `None`: there are not two.
fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
    let found = cpus.next().zip(cpus.next());
    if found.is_none() {
        println!("skipped: a race needs two CPUs");
    }
    found.map(|(one, other)| [one, other])
}

/// A client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Call {
    pub(crate) service: Name,
    pub(crate) client: SocketAddrV4,
    pub(crate) is_tcp: bool,
}

/// The `number`th call: TCP and UDP to both services, each from a port of its own up to a number of 60,000.
pub(crate) fn call(number: u32) -> Call {
    let port = 1024 + u16::try_from(number % 60_000).unwrap();
    Call {
        service: if number.is_multiple_of(2) {
            Name::A
        } else {
            Name::B
        },
        client: SocketAddrV4::new(addressing::pod(NODE, 2).v4, port),
        is_tcp: (number / 2).is_multiple_of(2),
    }
}

/// The call that opened the flow in a slot of the original direction.
pub(crate) fn call_of(slot: &FlowSlot<Addr4>) -> Call {
    let client = socket(slot.src, slot.sport);
    let found = call(u32::from(slot.sport) - 1024);
    let expected = (
        client,
        socket(slot.dst, slot.dport),
        slot.proto == proto::TCP,
    );
    assert_eq!(
        (found.client, found.service.frontend(), found.is_tcp),
        expected,
        "nobody opened {slot:?}"
    );
    found
}

/// Numbers below 2^16 in no order, the same each time (a linear congruential generator's upper bits).
pub(crate) fn scatter(number: u32) -> u32 {
    number.wrapping_mul(0x9e37_79b1) >> 16
}

/// What runs packets, on any thread.
pub(crate) struct Runner {
    pub(crate) node: LoneNode,
    pub(crate) programs: Programs,
    by_pod: Arrival,
    by_uplink: Arrival,
}

impl Runner {
    /// A call and its answer; the backend, or `None` if the call was dropped.
    pub(crate) fn exchange(&self, call: Call) -> Option<SocketAddrV4> {
        let backend = self.dial(call)?;
        assert!(
            self.answer(call, backend),
            "{call:?}: {backend} is not heard"
        );
        Some(backend)
    }

    /// Sends a call; the backend that it goes to, or `None` if it was dropped.
    pub(crate) fn dial(&self, call: Call) -> Option<SocketAddrV4> {
        let Call {
            service,
            client,
            is_tcp,
        } = call;
        let transport = if is_tcp { SYN } else { Transport::Udp };
        let frame = frame(Device::Pod(2), client, service.frontend(), transport);
        let outcome = self.programs.run("pod", &frame, self.by_pod).unwrap();
        match outcome.action {
            Action::Drop => None,
            Action::Redirect => {
                let (src, dst) = ends(&outcome.frame);
                assert_eq!(src, client, "{call:?}");
                assert!(service.backends().contains(&dst), "{call:?} went to {dst}");
                Some(dst)
            }
            action => panic!("{call:?}: {action:?}"),
        }
    }

    /// Sends the answer to a call; true if it was translated back, false if nobody knows of the call.
    pub(crate) fn answer(&self, call: Call, backend: SocketAddrV4) -> bool {
        let transport = if call.is_tcp { SYN_ACK } else { Transport::Udp };
        let frame = frame(Device::Uplink, backend, call.client, transport);
        let outcome = self.programs.run("uplink", &frame, self.by_uplink).unwrap();
        match outcome.action {
            Action::Pass => false,
            Action::Redirect => {
                assert_eq!(
                    ends(&outcome.frame),
                    (call.service.frontend(), call.client),
                    "{call:?} from {backend}"
                );
                true
            }
            action => panic!("{backend} answered {call:?}: {action:?}"),
        }
    }

    pub(crate) fn flows(&self) -> Vec<FlowSlot<Addr4>> {
        self.programs.flows().unwrap()
    }

    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.programs.counters().unwrap().get(reason)
    }
}

fn frame(device: Device, src: SocketAddrV4, dst: SocketAddrV4, transport: Transport) -> Frame {
    let [src, dst] = [src, dst].map(|end| (Addr4::from(*end.ip()), end.port()));
    let macs = Macs {
        dst: device.mac(),
        src: device.neighbour(),
    };
    Frame::of(macs, &PacketSpec::new(src, dst, transport))
}

/// Source and destination of an IPv4 packet without options.
fn ends(frame: &Frame) -> (SocketAddrV4, SocketAddrV4) {
    let packet = frame.packet();
    let addr = |at: usize| Ipv4Addr::from_octets(*packet[at..].first_chunk().unwrap());
    let port = |at: usize| u16::from_be_bytes(*packet[at..].first_chunk().unwrap());
    (
        SocketAddrV4::new(addr(12), port(20)),
        SocketAddrV4::new(addr(16), port(22)),
    )
}

pub(crate) fn socket(addr: Addr4, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(addr.into(), port)
}
