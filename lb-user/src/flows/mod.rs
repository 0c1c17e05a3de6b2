//! The connections in the pinned flow tables: seen, counted and taken out while packets flow.
//!
//! Works on the tables' own memory by `lb-common`'s own code, with or without an agent. Never opens a connection, and
//! never changes one but by ending it, or by taking it over into a larger table (`carry`).

pub mod alarm;
pub mod carry;
pub mod census;
pub mod connection;
pub mod filter;
pub mod memory;
pub mod owner;
pub mod tally;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::path::Path;

use lb_common::{
    abi::{FlowSlot, NodeConfig, Plain, map},
    flow::{clock::Tick, table::FlowTable},
    net::addr::{Addr, Addr4, Addr6},
};

use crate::apply::MapError;
use connection::Connection;
use memory::{Access, FlowMemory};

/// How often a connection that others move on at the same moment is tried.
const TRIES: usize = 16;

/// The directory beside the tables' where larger ones are pinned while they take these's place.
const GROWING: &str = "growing";

/// Both families' tables, and how long what is in them lives. While tables grow there are two of each.
#[derive(Debug)]
pub struct FlowTables {
    v4: Vec<FlowMemory<Addr4>>,
    v6: Vec<FlowMemory<Addr6>>,
    node: NodeConfig,
}

/// Something that is done with each family's table.
pub trait Visitor {
    /// What comes of it.
    type Output;
    /// Does it with one of them.
    fn visit<A: Addr>(&mut self, table: &Table<'_, A>) -> Self::Output
    where
        FlowSlot<A>: Plain;
}

/// One family's table at one moment.
pub type Table<'m, A> = FlowTable<'m, A, &'m FlowMemory<A>>;

impl FlowTables {
    /// The tables that are pinned in a directory; `node` says how long flows live.
    pub fn open(pin_dir: &Path, node: NodeConfig, access: Access) -> Result<Self, MapError> {
        Ok(Self {
            v4: memories(pin_dir, map::FLOWS4, access)?,
            v6: memories(pin_dir, map::FLOWS6, access)?,
            node,
        })
    }

    /// Whether flows are on their way from one table to a larger one.
    pub fn are_growing(&self) -> bool {
        self.v4.len() > 1 || self.v6.len() > 1
    }

    /// Does something with each table, those of IPv4 first; of a family the one that flows are carried from first, so
    /// that none is missed.
    pub fn each<V: Visitor>(&self, now: Tick, visitor: &mut V) -> Vec<V::Output> {
        let mut outputs = Vec::new();
        for memory in &self.v4 {
            outputs.push(visitor.visit(&FlowTable::new(&memory, memory.mask(), &self.node, now)));
        }
        for memory in &self.v6 {
            outputs.push(visitor.visit(&FlowTable::new(&memory, memory.mask(), &self.node, now)));
        }
        outputs
    }
}

/// The table of this name, and the larger one that is about to take its place.
fn memories<A: Addr>(
    pin_dir: &Path,
    name: &'static str,
    access: Access,
) -> Result<Vec<FlowMemory<A>>, MapError>
where
    FlowSlot<A>: Plain,
{
    let larger = pin_dir.with_file_name(GROWING);
    // First: what takes a table's place at this moment is found under the usual name.
    let next = match FlowMemory::open(&larger, name, access) {
        Ok(memory) => Some(memory),
        Err(MapError::NotPinned { .. }) => None,
        Err(error) => return Err(error),
    };
    let memory = FlowMemory::open(pin_dir, name, access)?;
    Ok([memory].into_iter().chain(next).collect())
}

/// The live connections of a table: of each its original direction, and what goes by itself.
pub fn connections<A: Addr>(table: &Table<'_, A>) -> impl Iterator<Item = (u32, Connection)>
where
    FlowSlot<A>: Plain,
{
    (0..=table.last()).filter_map(|position| Some((position, Connection::at(table, position)?)))
}

/// Takes the connection out that was seen at a position. False: it was not there any more.
pub fn take_out<A: Addr>(table: &Table<'_, A>, position: u32, seen: &Connection) -> bool
where
    FlowSlot<A>: Plain,
{
    for _ in 0..TRIES {
        // Put back by somebody who wanted its place, it is still the same connection.
        let found = table.at(position);
        let is_same = Connection::at(table, position).is_some_and(|now| now.is(seen));
        match found {
            Some(found) if is_same && table.take_out(&found) => return true,
            Some(_) if is_same => {}
            _ => return false,
        }
    }
    false
}
