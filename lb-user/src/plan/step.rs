//! One step of a plan: at most one write to one table.
//!
//! Steps are values: they can be printed, counted, carried out on any tables, and left undone. Rows are
//! those of the tables with the address family taken from the address.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use lb_common::{
    abi::{Backend, Service, ServiceKey, Source, SourceKey, place},
    net::addr::Family,
};

use crate::desired::{Frontend, FrontendKind, Place, Protocol};

/// Key of a frontend in `services4` or `services6`.
pub type FrontendKey = ServiceKey<IpAddr>;

/// Row of `backends4` or `backends6`.
pub type BackendRow = Backend<IpAddr>;

/// A position in `backends4` or `backends6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// The family, which says the table.
    pub family: Family,
    /// The id in this table; never 0.
    pub id: u32,
}

/// A position in `sources4` or `sources6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The family, which says the table.
    pub family: Family,
    /// The key in this table.
    pub key: SourceKey,
}

/// Row of `sources4` or `sources6`.
pub type SourceRow = Source<IpAddr>;

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SourceKey { ifindex, at } = self.key;
        write!(f, "{} source {at} of device {ifindex}", self.family)
    }
}

/// A prefix in one space of the table of prefixes ([`place`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Area {
    /// [`place::NODE_SPACE`], or a guard.
    pub space: u32,
    /// The prefix.
    pub net: IpNet,
}

impl Area {
    /// A prefix of which is said what lies there.
    pub fn of_node(net: IpNet) -> Self {
        Self {
            space: place::NODE_SPACE,
            net,
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.space {
            place::NODE_SPACE => self.net.fmt(f),
            guard => write!(f, "{} of guard {guard}", self.net),
        }
    }
}

/// What is done to the tables, in the order of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Writes one backend: a new one, or other flags of one that is there.
    WriteBackend {
        /// Where.
        id: BackendId,
        /// What.
        row: BackendRow,
    },
    /// Writes slots that no service entry has pointed to since the last grace period.
    WriteSlots {
        /// The service they will belong to.
        service: u32,
        /// The first slot.
        base: u32,
        /// Backend ids, one per slot.
        ids: Vec<u32>,
    },
    /// Makes or replaces one frontend's entry: the moment at which a change becomes visible.
    PutService {
        /// The frontend.
        key: FrontendKey,
        /// The entry.
        service: Service,
    },
    /// Removes one frontend's entry.
    DeleteService {
        /// The frontend.
        key: FrontendKey,
        /// The service that has it; the entry of another is left alone.
        service: u32,
    },
    /// Takes all flags from a backend that no entry lists any more; its address stays readable.
    RetireBackend {
        /// Where.
        id: BackendId,
        /// The row without flags.
        row: BackendRow,
    },
    /// Waits until every reader that was in flight has gone.
    Grace,
    /// Empties the row of a backend that was retired before the last grace period.
    FreeBackend {
        /// Where.
        id: BackendId,
        /// The generation, which outlives the backend.
        generation: u16,
    },
    /// Says what is to be known of a prefix.
    PutPlace(Area, Place),
    /// Forgets it.
    DeletePlace(Area),
    /// Says which address may stand in for clients'.
    PutSource(SourceId, SourceRow),
    /// Takes one of them back.
    DeleteSource(SourceId),
}

/// The key of a frontend.
pub fn frontend_key(frontend: &Frontend, protocol: Protocol) -> FrontendKey {
    ServiceKey {
        addr: frontend.addr,
        port: frontend.port,
        proto: match frontend.kind {
            FrontendKind::AnyPort | FrontendKind::Address => 0,
            _ => protocol.number(),
        },
        pad: 0,
    }
}

/// The family of an address.
pub fn family_of(addr: IpAddr) -> Family {
    match addr {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// A key as people write it: `10.96.0.10:80/TCP`.
pub fn display_key(key: &FrontendKey) -> String {
    let addr = SocketAddr::new(key.addr, key.port);
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    match known
        .into_iter()
        .find(|protocol| protocol.number() == key.proto)
    {
        Some(protocol) => format!("{addr}/{protocol}"),
        None => format!("{addr}/{}", key.proto),
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = match self.family {
            Family::V4 => lb_common::abi::map::BACKENDS4,
            Family::V6 => lb_common::abi::map::BACKENDS6,
        };
        write!(f, "{table}[{}]", self.id)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteBackend { id, row } => {
                let addr = SocketAddr::new(row.addr, row.port);
                write!(
                    f,
                    "write {id}: {addr} of service {}, flags {:#x}",
                    row.service, row.flags
                )
            }
            Self::WriteSlots { service, base, ids } => {
                write!(
                    f,
                    "write {} slots from {base} for service {service}",
                    ids.len()
                )
            }
            Self::PutService { key, service } => {
                let count = service.cluster.count;
                write!(
                    f,
                    "put {}: service {}, {count} slots",
                    display_key(key),
                    service.id
                )
            }
            Self::DeleteService { key, service } => {
                write!(f, "delete {} of service {service}", display_key(key))
            }
            Self::RetireBackend { id, row } => {
                write!(f, "retire {id}: {}", SocketAddr::new(row.addr, row.port))
            }
            Self::Grace => f.write_str("wait for readers in flight"),
            Self::FreeBackend { id, .. } => write!(f, "free {id}"),
            Self::PutPlace(area, place) => write!(f, "put place {area} {place}"),
            Self::DeletePlace(area) => write!(f, "delete place {area}"),
            Self::PutSource(id, row) => write!(f, "put {id}: {} of {}", row.addr, row.count),
            Self::DeleteSource(id) => write!(f, "delete {id}"),
        }
    }
}
