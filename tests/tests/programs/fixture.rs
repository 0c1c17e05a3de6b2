//! A node with the programs loaded and a set of services that leads everywhere a packet can go.

use std::{net::SocketAddr, ops::RangeInclusive};

use lb_common::{
    abi::{NextHop, NodeConfig, Reason, backend_flags, node::features},
    fake::{FakePacket, PacketSpec, Transport, error_about},
    flow::clock::seconds,
    net::{
        addr::{Addr, Addr4, Addr6},
        icmp::IcmpError,
        ip::{Ends, IpHeader, proto},
    },
};
use lb_tests::{
    addressing::{self, Dual},
    lone_node::{Device, LoneNode, NARROW, NEIGHBOUR, NODE, UNRESOLVED, UNROUTED, address},
    netns::require_root,
    packet::{Frame, Macs},
    progrun::{Action, Arrival, Counts, Datapath, Outcome, ServicePort, backend, frontend},
};

use lb_user::{apply::LbMaps, desired::Place, plan::Area};

pub(crate) const SYN: Transport = Transport::Tcp(0x02);
pub(crate) const ACK: Transport = Transport::Tcp(0x10);
pub(crate) const SYN_ACK: Transport = Transport::Tcp(0x12);
/// The only port that masquerading may take besides the client's own.
pub(crate) const SNAT_PORT: u16 = 61_000;
/// The port that clients dial.
pub(crate) const PORT: u16 = 80;
/// The port that backends listen on.
pub(crate) const TARGET_PORT: u16 = 8080;
/// Enough for any test that does not want it full.
const FLOW_TABLE_SIZE: u32 = 1024;

/// A service by what becomes of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vip {
    /// Its backend is pod 1 of this node.
    Local = 1,
    /// Its backend is a pod of the neighbour.
    Remote,
    /// It has no backend.
    Empty,
    /// Its backend's node is not reached.
    Unrouted,
    /// Its backend's node has no known MAC.
    Unresolved,
    /// The route to its backend takes small packets only.
    Narrow,
    /// It has the same backend as [`Vip::Remote`].
    Twin,
    /// Its backend is a process of this node.
    Here,
}

impl Vip {
    const ALL: [Self; 8] = [
        Self::Local,
        Self::Remote,
        Self::Empty,
        Self::Unrouted,
        Self::Unresolved,
        Self::Narrow,
        Self::Twin,
        Self::Here,
    ];

    /// Where clients dial it.
    pub(crate) fn frontend<A: Addr>(self) -> (A, u16) {
        let host = self as u8;
        (
            address(Dual {
                v4: [10, 96, 0, host].into(),
                v6: [0xfd00, 0x10, 0x96, 0, 0, 0, 0, host.into()].into(),
            }),
            PORT,
        )
    }

    /// Who answers.
    pub(crate) fn backend<A: Addr>(self) -> (A, u16) {
        let node = match self {
            Self::Here => return (address(addressing::node(NODE)), TARGET_PORT),
            Self::Local => NODE,
            Self::Remote | Self::Twin | Self::Empty => NEIGHBOUR,
            Self::Unrouted => UNROUTED,
            Self::Unresolved => UNRESOLVED,
            Self::Narrow => NARROW,
        };
        (pod(node, 1), TARGET_PORT)
    }

    /// The service port of one family and protocol; ids, slots and backends have the same number in both families.
    pub(crate) fn port<A: Addr>(self, protocol: u8) -> ServicePort {
        let id = u32::from(self as u8) * 2 + u32::from(protocol == proto::UDP);
        let local = if matches!(self, Self::Local | Self::Here) {
            backend_flags::LOCAL
        } else {
            0
        };
        let row = backend(socket(self.backend::<A>()), local);
        ServicePort {
            algorithm: 0,
            id,
            frontends: vec![frontend(socket(self.frontend::<A>()), protocol)],
            base: id,
            backends: if self == Self::Empty {
                Vec::new()
            } else {
                vec![(id, row)]
            },
        }
    }
}

fn socket<A: Addr>((addr, port): (A, u16)) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port)
}

/// One packet's way through a program.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) name: String,
    pub(crate) program: &'a str,
    pub(crate) device: Device,
    pub(crate) input: Frame,
    pub(crate) action: Action,
    pub(crate) output: Frame,
    pub(crate) counts: &'a [(Reason, u64)],
}

/// The node, its programs and its tables.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) node: LoneNode,
    pub(crate) datapath: Datapath,
}

impl Fixture {
    /// `None`: not root, and skipping is allowed.
    pub(crate) fn new(programs: &[&str]) -> Option<Self> {
        Self::with_flow_table(programs, FLOW_TABLE_SIZE)
    }

    /// The same with room for so many directions of connections.
    pub(crate) fn with_flow_table(programs: &[&str], size: u32) -> Option<Self> {
        Self::with_ports(programs, size, SNAT_PORT..=SNAT_PORT)
    }

    /// The same with so many ports for masquerading. Flows live for an hour, so that on a slow machine none makes room for
    /// another.
    pub(crate) fn with_ports(
        programs: &[&str],
        size: u32,
        ports: RangeInclusive<u16>,
    ) -> Option<Self> {
        let config = NodeConfig {
            lifetimes: [seconds(3_600); 16],
            ..NodeConfig::default()
        };
        Self::of(programs, size, ports, config)
    }

    /// The same with another secret.
    pub(crate) fn with_secret(programs: &[&str], hash_key: [u32; 12]) -> Option<Self> {
        let config = NodeConfig {
            hash_key,
            ..NodeConfig::default()
        };
        Self::of(programs, FLOW_TABLE_SIZE, SNAT_PORT..=SNAT_PORT, config)
    }

    fn of(
        programs: &[&str],
        size: u32,
        ports: RangeInclusive<u16>,
        config: NodeConfig,
    ) -> Option<Self> {
        if !require_root() {
            return None;
        }
        let Dual { v4, v6 } = addressing::node(NODE);
        let node = LoneNode::new().unwrap();
        let Macs { dst, src } = leaving(Device::Host);
        let facts = NodeConfig {
            addr4: v4.into(),
            addr6: v6.into(),
            snat_port_base: (*ports.start()).into(),
            snat_port_count: u32::from(ports.end() - ports.start()) + 1,
            host_ifindex: node.host_ifindex().unwrap(),
            host_macs: NextHop::join_macs(dst, src),
            hairpin4: hairpin(),
            hairpin6: hairpin(),
            features: features::ECHO,
            ..config
        };
        let mut datapath = Datapath::load(facts, size, programs).unwrap();
        for own in [format!("{v4}/32"), format!("{v6}/128")] {
            let own = own.parse().unwrap();
            datapath
                .tables
                .put_place(Area::of_node(own), Place::Node)
                .unwrap();
        }
        for vip in Vip::ALL {
            for protocol in [proto::TCP, proto::UDP] {
                datapath.install(&vip.port::<Addr4>(protocol)).unwrap();
                datapath.install(&vip.port::<Addr6>(protocol)).unwrap();
            }
        }
        Some(Self { node, datapath })
    }

    /// Runs a program on a frame that came by `device`, and tells what it counted besides.
    pub(crate) fn run(&self, program: &str, input: &Frame, device: Device) -> (Outcome, Counts) {
        self.run_arriving(
            program,
            input,
            Arrival::by(self.node.ifindex(device).unwrap()),
        )
    }

    /// The same for any arrival.
    pub(crate) fn run_arriving(
        &self,
        program: &str,
        input: &Frame,
        arrival: Arrival,
    ) -> (Outcome, Counts) {
        let programs = &self.datapath.programs;
        let before = programs.counters().unwrap();
        let outcome = self
            .node
            .namespace()
            .run(|| programs.run(program, input, arrival));
        let outcome = outcome.unwrap_or_else(|error| panic!("{error:#}; the packet was {input:?}"));
        (outcome, programs.counters().unwrap().since(&before))
    }

    /// Runs a case and compares all of it.
    pub(crate) fn check(&self, case: Case<'_>) {
        let Case {
            name,
            program,
            device,
            input,
            action,
            output,
            counts,
        } = case;
        let (outcome, counted) = self.run(program, &input, device);
        let expected = (
            Outcome {
                action,
                frame: output,
            },
            Counts::of(counts),
        );
        assert_eq!(
            (outcome, counted),
            expected,
            "{name}; the packet was {input:?}"
        );
    }
}

/// What a pod sees that dialled itself.
pub(crate) fn hairpin<A: Addr>() -> A {
    address(Dual {
        v4: [169, 254, 90, 1].into(),
        v6: [0xfdb5, 0, 0, 0, 0, 0, 0, 1].into(),
    })
}

/// What a frame becomes whose sender is told of an error, from the first of these addresses to the second.
pub(crate) fn answered<A: Addr>(input: &Frame, error: IcmpError, ends: (A, A)) -> Frame {
    let mut macs = input.bytes().iter().copied();
    let [dst, src] = [(); 2].map(|()| std::array::from_fn(|_| macs.next().unwrap()));
    let about = FakePacket::new(input.packet().to_vec());
    let back = Macs { dst: src, src: dst };
    Frame::new(
        back,
        A::Header::ETHER_TYPE,
        &error_about(&about, error, ends),
    )
}

/// The MACs of a frame that comes to the node by a device.
pub(crate) fn arriving(device: Device) -> Macs {
    Macs {
        dst: device.mac(),
        src: device.neighbour(),
    }
}

/// The MACs of a frame that leaves the node by a device, to the pod or the other node behind it.
pub(crate) fn leaving(device: Device) -> Macs {
    Macs {
        dst: device.neighbour(),
        src: device.mac(),
    }
}

/// The first packet of a connection.
pub(crate) fn opening(protocol: u8) -> Transport {
    if protocol == proto::TCP {
        SYN
    } else {
        Transport::Udp
    }
}

/// The packet as it is sent on: other ends, one hop less.
pub(crate) fn sent_on<A: Addr>(
    spec: &PacketSpec<A>,
    src: (A, u16),
    dst: (A, u16),
) -> PacketSpec<A> {
    let ends = Ends {
        src: src.0,
        dst: dst.0,
    };
    PacketSpec {
        ends,
        sport: src.1,
        dport: dst.1,
        ttl: spec.ttl - 1,
        ..spec.clone()
    }
}

/// A pod's address of one family.
pub(crate) fn pod<A: Addr>(node: u8, number: u8) -> A {
    address(addressing::pod(node, number))
}

/// Text that tells the cases of a loop apart.
pub(crate) fn label<A: Addr>(protocol: u8, what: &str) -> String {
    let protocol = if protocol == proto::TCP { "TCP" } else { "UDP" };
    format!("{what} over {} {protocol}", A::FAMILY)
}
