//! What the tables should say, in the words of Kubernetes: the hand-over from `compile` to `plan`.
//!
//! No ids, no slots, no map types: those belong to [`crate::plan`]. Equal snapshots give equal values,
//! whatever the order of the events that led there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use clap::ValueEnum;
use ipnet::IpNet;
use lb_common::{abi::place, net::addr::Family};
use serde::{Deserialize, Serialize};

use crate::{shared_map::SharedMap, small_set::SmallSet};

/// The whole desired state of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Every service port that the datapath serves.
    pub ports: SharedMap<PortName, DesiredPort>,
    /// What lies where; the longest prefix counts.
    pub places: BTreeMap<IpNet, Place>,
    /// Addresses of the node that may stand in for clients', by the index of the device that packets leave by; of each
    /// family the one that is taken first comes first.
    pub sources: BTreeMap<u32, Vec<IpAddr>>,
}

/// What lies behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Pods of the cluster, on whichever node.
    Pods,
    /// This node itself.
    Node,
    /// A prefix that `ClusterIP`s are taken from: what no service has there leads nowhere.
    Services,
    /// Everything else, where nobody says which addresses are pods'.
    Unknown,
    /// Of a load balancer's clients: these may come in.
    Allowed,
}

impl Place {
    /// The value in the tables.
    pub fn code(self) -> u32 {
        match self {
            Self::Pods => place::PODS,
            Self::Node => place::NODE,
            Self::Services => place::SERVICES,
            Self::Unknown => place::UNKNOWN,
            Self::Allowed => place::ALLOWED,
        }
    }

    /// What a value in the tables means; nothing if it is none that there is.
    pub fn of(code: u32) -> Option<Self> {
        [
            Self::Pods,
            Self::Node,
            Self::Services,
            Self::Unknown,
            Self::Allowed,
        ]
        .into_iter()
        .find(|place| place.code() == code)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pods => "pods",
            Self::Node => "node",
            Self::Services => "services",
            Self::Unknown => "unknown",
            Self::Allowed => "allowed",
        })
    }
}

/// One port of one service in one family: the unit that owns a service id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub service: Arc<str>,
    /// The port's name; empty where the service has one unnamed port.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The address family.
    pub family: Family,
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, " {} {}", self.protocol, self.family)
    }
}

/// Layer-4 protocols that a service port may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl Protocol {
    /// The IANA number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// One service port: who dials it and who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredPort {
    /// Addresses and ports that clients dial.
    pub frontends: SmallSet<Frontend>,
    /// Endpoints by address and port.
    pub backends: BTreeMap<SocketAddr, Endpoint>,
    /// Seconds of client affinity; 0: none.
    pub affinity_timeout_s: u32,
    /// Clients outside reach the endpoints of this node alone (`externalTrafficPolicy: Local`).
    pub external_local: bool,
    /// Clients of a `ClusterIP` reach the endpoints of this node alone (`internalTrafficPolicy: Local`).
    pub internal_local: bool,
    /// Who may dial the addresses of load balancers; empty: everybody.
    pub source_ranges: BTreeSet<IpNet>,
    /// How a new connection's backend is chosen.
    pub algorithm: Algorithm,
    /// Places of its Maglev tables, if it asks for so many.
    pub maglev_size: Option<u32>,
}

/// Places of the largest Maglev table that a service can ask for.
pub const MAX_MAGLEV_SIZE: u32 = 524_288;
/// Places of a Maglev table per endpoint that shares need to differ by less than a hundredth.
pub const MAGLEV_PER_ENDPOINT: u32 = 128;

/// How a new connection's backend is chosen among those of its list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// At random, each as often as the others
    #[default]
    Random,
    /// By a hash of the packet: the same client gets the same endpoint on every node
    Maglev,
    /// The one that has fewer connections through this node, of two at random
    LeastConnections,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Random, Self::Maglev, Self::LeastConnections];

    /// The name in annotations and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One address that a service port answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
    /// What kind of address it is.
    pub kind: FrontendKind,
}

/// Kinds of service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// An address of the node, with a node port.
    NodePort,
    /// One of `status.loadBalancer.ingress`.
    LoadBalancer,
    /// One of `spec.externalIPs`.
    ExternalIp,
    /// Whatever else is dialled at a `ClusterIP`, and rejected; the port is 0. One port of the service has it.
    AnyPort,
    /// The address of a load balancer, or one of `spec.externalIPs`, by itself: it answers pings; the port is 0. One
    /// port of one service has it.
    Address,
}

/// What may be done with one endpoint.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, one bit of the backend's flags each"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// It keeps the flows that it has.
    pub serving: bool,
    /// It takes new flows from the cluster list.
    pub in_cluster: bool,
    /// It takes new external flows under a Local policy.
    pub in_external_local: bool,
    /// It takes new internal flows under a Local policy.
    pub in_internal_local: bool,
    /// It runs on this node.
    pub local: bool,
    /// Its share of new connections where it is in a list, compared with those of the others there; 0 counts as 1.
    pub weight: u8,
}
