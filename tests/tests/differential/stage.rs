//! One node twice: its programs in the kernel with their tables, and the same on the host.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{
        Backend, NextHop, NodeConfig, ServiceKey, backend_flags, node::features, place,
        service_flags,
    },
    datapath::Route,
    fake::FakeNode,
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        ip::proto,
    },
};
use lb_tests::{
    addressing::{self, Dual},
    lone_node::{
        CLIENT_MAC, Device, LoneNode, NARROW, NARROW_MTU, NEIGHBOUR, NODE, UNRESOLVED, UNROUTED,
        address,
    },
    netns::require_root,
    packet::Mac,
    progrun::{Datapath, HASH_KEY, ServicePort, backend, frontend},
};
use lb_user::{apply::LbMaps as _, desired::Place, plan::Area};

/// Every program that decides about packets.
pub(crate) const PROGRAMS: [&str; 6] = ["pod", "uplink", "host", "lo", "egress", "xdp_uplink"];
/// Small, so that it is full now and then.
const FLOW_TABLE_SIZE: u32 = 256;
/// The one port that a source may get besides its own: both hosts choose it.
const SNAT_PORT: u16 = 61_000;
const PORT: u16 = 80;
const TARGET_PORT: u16 = 8_080;
const MTU: u32 = 1_500;
const PROTOCOLS: [u8; 3] = [proto::TCP, proto::UDP, proto::SCTP];

/// A service, by what becomes of its connections.
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
    /// Which of several pods of the neighbour answers is told by the packet.
    Table,
    /// It has an address and no port.
    Other,
    /// Its address is one of the services', and no service has it.
    Nobody,
}

impl Vip {
    pub(crate) const ALL: [Self; 11] = [
        Self::Local,
        Self::Remote,
        Self::Empty,
        Self::Unrouted,
        Self::Unresolved,
        Self::Narrow,
        Self::Twin,
        Self::Here,
        Self::Table,
        Self::Other,
        Self::Nobody,
    ];

    /// Where clients dial it.
    pub(crate) fn frontend<A: Addr>(self) -> (A, u16) {
        let host = self as u8;
        let addr = Dual {
            v4: [10, 96, 0, host].into(),
            v6: [0xfd00, 0x10, 0x96, 0, 0, 0, 0, host.into()].into(),
        };
        (address(addr), PORT)
    }

    /// Who may answer.
    pub(crate) fn backends<A: Addr>(self) -> Vec<A> {
        let node = match self {
            Self::Empty | Self::Other | Self::Nobody => return Vec::new(),
            Self::Here => return vec![address(addressing::node(NODE))],
            Self::Table => return (1..=3).map(|number| pod(NEIGHBOUR, number)).collect(),
            Self::Local => NODE,
            Self::Remote | Self::Twin => NEIGHBOUR,
            Self::Unrouted => UNROUTED,
            Self::Unresolved => UNRESOLVED,
            Self::Narrow => NARROW,
        };
        vec![pod(node, 1)]
    }

    /// The service port of one family and protocol, with at most one backend where there is nothing to tell which.
    fn port<A: Addr>(self, protocol: u8) -> Option<ServicePort> {
        let (addr, port) = self.frontend::<A>();
        let (port, protocol) = match self {
            Self::Nobody => return None,
            // The entry that says that an address is a service's.
            Self::Other => (0, 0),
            _ => (port, protocol),
        };
        let nth = PROTOCOLS.iter().position(|other| *other == protocol);
        let id = u32::from(self as u8) * 4 + u32::try_from(nth.unwrap_or(0)).expect("few");
        let is_local = matches!(self, Self::Local | Self::Here);
        let local = match self {
            Self::Twin => backend_flags::COUNTED,
            _ if is_local => backend_flags::LOCAL,
            _ => 0,
        };
        let backends = self.backends::<A>();
        let rows = (id * 4..).zip(backends).map(|(id, addr)| {
            let addr = SocketAddr::new(addr.to_ip(), TARGET_PORT);
            (id, backend(addr, local))
        });
        Some(ServicePort {
            id,
            frontends: vec![frontend(SocketAddr::new(addr.to_ip(), port), protocol)],
            base: id * 4,
            backends: rows.collect(),
            algorithm: match self {
                Self::Table => service_flags::MAGLEV,
                Self::Twin => service_flags::LEAST_CONNECTIONS,
                _ => 0,
            },
        })
    }
}

pub(crate) fn pod<A: Addr>(node: u8, number: u8) -> A {
    address(addressing::pod(node, number))
}

pub(crate) fn node<A: Addr>() -> A {
    address(addressing::node(NODE))
}

pub(crate) fn outsider<A: Addr>() -> A {
    address(addressing::client())
}

fn hairpin<A: Addr>() -> A {
    address(Dual {
        v4: [169, 254, 90, 1].into(),
        v6: [0xfdb5, 0, 0, 0, 0, 0, 0, 1].into(),
    })
}

/// The kernel's half.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) node: LoneNode,
    pub(crate) datapath: Datapath,
    pub(crate) config: NodeConfig,
}

impl Stage {
    /// `None`: not root, and skipping is allowed.
    pub(crate) fn new() -> Option<Self> {
        if !require_root() {
            return None;
        }
        let Dual { v4, v6 } = addressing::node(NODE);
        let node = LoneNode::new().unwrap();
        let config = NodeConfig {
            hash_key: HASH_KEY,
            addr4: v4.into(),
            addr6: v6.into(),
            snat_port_base: SNAT_PORT.into(),
            snat_port_count: 1,
            host_ifindex: node.host_ifindex().unwrap(),
            host_macs: NextHop::join_macs(Device::Host.neighbour(), Device::Host.mac()),
            hairpin4: hairpin(),
            hairpin6: hairpin(),
            features: features::ECHO,
            ..NodeConfig::default()
        };
        let mut datapath = Datapath::load(config, FLOW_TABLE_SIZE, &PROGRAMS).unwrap();
        for (net, place) in places() {
            let area = Area::of_node(net.parse().unwrap());
            datapath.tables.put_place(area, place).unwrap();
        }
        for vip in Vip::ALL {
            for protocol in PROTOCOLS {
                let ports = [vip.port::<Addr4>(protocol), vip.port::<Addr6>(protocol)];
                for port in ports.iter().flatten() {
                    datapath.install(port).unwrap();
                }
            }
        }
        Some(Self {
            node,
            datapath,
            config,
        })
    }

    /// The host's half: the same tables, nothing in those that the programs write.
    pub(crate) fn twin<A: Addr>(&self) -> FakeNode<A> {
        let twin = FakeNode::new(FLOW_TABLE_SIZE, self.config);
        for (net, place) in places() {
            let (net, bits) = net.split_once('/').unwrap();
            let net: IpAddr = net.parse().unwrap();
            if net.is_ipv4() == (A::FAMILY == Family::V4) {
                twin.set_place(from_ip(net), bits.parse().unwrap(), place.code());
            }
        }
        for vip in Vip::ALL {
            for port in PROTOCOLS
                .iter()
                .filter_map(|protocol| vip.port::<A>(*protocol))
            {
                install(&twin, &port);
            }
        }
        twin
    }

    /// What the kernel's routes and neighbours say about an address ([`lb_tests::lone_node`]).
    pub(crate) fn route<A: Addr>(&self, to: A) -> Option<(Route, NextHop)> {
        let way = |device: Device, mac: Mac, mtu| NextHop {
            ifindex: self.node.ifindex(device).unwrap(),
            mtu,
            macs: NextHop::join_macs(mac, device.mac()),
            ..NextHop::default()
        };
        let neighbour = Device::Uplink.neighbour();
        if let Some(number) = [1, 2].into_iter().find(|number| to == pod(NODE, *number)) {
            let device = Device::Pod(number);
            return Some((Route::Neighbour, way(device, device.neighbour(), MTU)));
        }
        let subnet = |of: u8| prefix(to) == prefix(pod::<A>(of, 1));
        let by = |route, mac, mtu| Some((route, way(Device::Uplink, mac, mtu)));
        if subnet(NEIGHBOUR) || to == address(addressing::node(NEIGHBOUR)) {
            by(Route::Neighbour, neighbour, MTU)
        } else if subnet(NARROW) {
            by(Route::Neighbour, neighbour, NARROW_MTU.into())
        } else if to == outsider() {
            by(Route::Neighbour, CLIENT_MAC, MTU)
        } else if subnet(UNRESOLVED) || is_stranger(to) {
            by(Route::Unresolved, [0; 6], MTU)
        } else {
            None
        }
    }
}

/// True for an address on the uplink's own link that no neighbour is known to have. A packet that was spoiled may come from any.
fn is_stranger<A: Addr>(to: A) -> bool {
    let is_nobodys = match to.to_ip() {
        IpAddr::V4(ip) => matches!(ip.octets(), [.., 0 | 255]),
        // The anycast address of the link's routers is each router's own.
        IpAddr::V6(ip) => matches!(ip.segments(), [.., 0, 0, 0, 0]),
    };
    prefix(to) == prefix(node::<A>()) && to != node() && !is_nobodys
}

/// What all addresses of one /24, or one /64, have in common.
fn prefix<A: Addr>(addr: A) -> [u32; 2] {
    let [a, b, ..] = addr.words();
    match A::FAMILY {
        Family::V4 => [u32::from_be(a) >> 8, 0],
        Family::V6 => [a, b],
    }
}

fn places() -> Vec<(String, Place)> {
    let Dual { v4, v6 } = addressing::node(NODE);
    let mut places = vec![
        (format!("{v4}/32"), Place::Node),
        (format!("{v6}/128"), Place::Node),
        (addressing::SERVICES_V4.to_owned(), Place::Services),
        (addressing::SERVICES_V6.to_owned(), Place::Services),
    ];
    for of in [NODE, NEIGHBOUR] {
        places.extend(addressing::pod_cidrs(of).map(|cidr| (cidr, Place::Pods)));
    }
    assert!(
        places
            .iter()
            .all(|(_, known)| known.code() != place::UNKNOWN)
    );
    places
}

fn from_ip<A: Addr>(ip: IpAddr) -> A {
    A::from_words(match ip {
        IpAddr::V4(ip) => Addr4::from(ip).words(),
        IpAddr::V6(ip) => Addr6::from(ip).words(),
    })
}

fn install<A: Addr>(twin: &FakeNode<A>, port: &ServicePort) {
    for (nth, (id, row)) in (0..).zip(&port.backends) {
        let row = Backend {
            addr: from_ip(row.addr),
            service: port.id,
            port: row.port,
            generation: row.generation,
            flags: row.flags,
        };
        twin.set_backend(*id, Some(row));
        twin.set_slot(port.base + nth, *id);
    }
    for key in &port.frontends {
        let key = ServiceKey::new(from_ip(key.addr), key.port, key.proto);
        twin.set_service(key, Some(port.entry(1)));
    }
}
