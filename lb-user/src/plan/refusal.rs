//! What a plan does not carry out, by name and with the reason.
//!
//! A refusal concerns one service port or one prefix. What it had before stays as it was; everything
//! else goes on.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use lb_common::net::addr::Family;
use thiserror::Error;

use super::capacity::MOST;
use crate::desired::{Place, PortName};

/// Something that is wanted and will not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is about.
    pub subject: Subject,
    /// Why.
    pub reason: RefusalReason,
}

/// What a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A service port.
    Port(PortName),
    /// What lies behind a prefix.
    Place(IpNet, Place),
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RefusalReason {
    /// A table is full.
    #[error(
        "{needed} entries do not fit into table {table}, which holds {capacity} and grows as far as there is memory, at most to \
         {MOST}; if it does not, remove services or endpoints"
    )]
    Full {
        /// The table.
        table: &'static str,
        /// Entries that were asked for.
        needed: usize,
        /// Entries that the table holds.
        capacity: u32,
    },
    /// The service port is served, but not by the algorithm that it asks for.
    #[error(
        "{needed} places of a Maglev table do not fit into table slots, which holds {capacity} and grows as far as there is \
         memory, so backends are chosen at random for now; if that lasts, ask for smaller tables by fulcrum.dev/maglev-size"
    )]
    NoTable {
        /// Places that were asked for.
        needed: usize,
        /// Slots that there are.
        capacity: u32,
    },
    /// An address is not of the service port's family.
    #[error("address {address} is not {family}")]
    OtherFamily {
        /// The address.
        address: IpAddr,
        /// The family of the service port.
        family: Family,
    },
    /// Another service port has the frontend.
    #[error("frontend {frontend} belongs to {owner}; give one of them another address or port")]
    FrontendTaken {
        /// The frontend.
        frontend: String,
        /// The service port that has it.
        owner: PortName,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(name) => name.fmt(f),
            Self::Place(net, place) => write!(f, "prefix {net} ({place})"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}
