//! How many connections there are, and how full that makes the tables.

use std::fmt;

use lb_common::{
    abi::{FlowSlot, Plain},
    flow::{clock::Tick, slot::State},
    net::addr::{Addr, Family},
};
use serde::Serialize;

use super::{FlowTables, Table, Visitor};

/// One family's table, counted in slots: a connection has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Census {
    /// `IPv4` or `IPv6`.
    #[serde(serialize_with = "family_name")]
    pub family: Family,
    /// Slots that there are.
    pub positions: u32,
    /// Slots that translate packets.
    pub live: u32,
    /// Of these, of connections that were not answered yet.
    pub half_open: u32,
    /// Of these, of connections that both sides use.
    pub established: u32,
    /// Of these, of connections that end or have ended.
    pub ending: u32,
    /// Slots whose time is over: as good as free.
    pub expired: u32,
}

impl Census {
    /// How much of the table is in use, in percent, rounded down.
    pub fn percent(&self) -> u32 {
        let percent = u64::from(self.live) * 100 / u64::from(self.positions.max(1));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} places, {} %",
            self.live,
            self.positions,
            self.percent()
        )
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn family_name<S: serde::Serializer>(family: &Family, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(family)
}

/// Counts each table, those of IPv4 first; while they grow there are two of each family.
pub fn count(tables: &FlowTables, now: Tick) -> Vec<Census> {
    tables.each(now, &mut Counter)
}

struct Counter;

impl Visitor for Counter {
    type Output = Census;

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>) -> Census
    where
        FlowSlot<A>: Plain,
    {
        let mut census = Census {
            family: A::FAMILY,
            positions: table.last().saturating_add(1),
            live: 0,
            half_open: 0,
            established: 0,
            ending: 0,
            expired: 0,
        };
        for position in 0..=table.last() {
            let Some(found) = table.at(position) else {
                continue;
            };
            if !table.lives(&found) {
                census.expired += 1;
                continue;
            }
            census.live += 1;
            match found.word.state() {
                _ if found.slot.flags().orphan() => census.ending += 1,
                State::HalfOpen => census.half_open += 1,
                State::Established => census.established += 1,
                _ => census.ending += 1,
            }
        }
        census
    }
}
