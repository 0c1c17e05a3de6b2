//! The tables that plans are carried out on: a small set of reads and writes, with real, in-memory and
//! failing implementations.
//!
//! A write that fails has changed nothing; only [`LbMaps::write_slots`] may have written some of its
//! slots. Families are told apart by the addresses. Flows, next hops and counters are the datapath's
//! and not written here.

use std::{collections::BTreeMap, fmt, io};

use lb_common::{
    abi::{Service, SlotRange},
    flow::clock::Tick,
};
use thiserror::Error;

use crate::{
    desired::Place,
    plan::{Area, BackendId, BackendRow, Capacity, FrontendKey, SourceId, SourceRow},
};

/// Whether a client of a service port (its id), whose last connection was opened at a tick, still counts.
pub type IsLive<'a> = &'a dyn Fn(u32, Tick) -> bool;

/// See the module.
pub trait LbMaps {
    /// Makes or replaces an entry; readers see the old one or the new one whole.
    fn put_service(&mut self, key: &FrontendKey, service: &Service) -> Result<(), TableError>;
    /// Removes an entry; one that is not there is no error.
    fn delete_service(&mut self, key: &FrontendKey) -> Result<(), TableError>;
    /// All entries of both families.
    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError>;

    /// Writes neighbouring slots, from `base` on.
    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError>;
    /// The content of neighbouring slots.
    fn slots(&self, range: SlotRange) -> Result<Vec<u32>, TableError>;

    /// Writes one backend.
    fn put_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError>;
    /// Writes backends of neighbouring ids, the first one's first, by one call where the kernel knows how. Says how many were
    /// written before one was not; why not is told when it is written alone.
    fn put_backends(&mut self, first: BackendId, rows: &[BackendRow]) -> usize {
        let mut places = (first.id..).zip(rows);
        let mut put = |(id, row)| self.put_backend(BackendId { id, ..first }, row).is_ok();
        let failed = places.position(|place| !put(place));
        failed.unwrap_or(rows.len())
    }

    /// How much they hold; of two families the one that holds less counts.
    fn capacity(&self) -> Capacity;

    /// All backends of both families that were ever in use; a free one names service 0.
    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError>;

    /// Says what lies behind a prefix.
    fn put_place(&mut self, area: Area, place: Place) -> Result<(), TableError>;
    /// Forgets what lies behind a prefix; one that is not there is no error.
    fn delete_place(&mut self, area: Area) -> Result<(), TableError>;
    /// What lies where.
    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError>;

    /// Says which address may stand in for clients'.
    fn put_source(&mut self, id: SourceId, row: &SourceRow) -> Result<(), TableError>;
    /// Takes it back; one that is not there is no error.
    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError>;
    /// All of both families.
    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError>;

    /// Forgets the backends of clients of whom `is_live` says no; how many.
    fn sweep_affinity(&mut self, is_live: IsLive<'_>) -> Result<usize, TableError>;

    /// Returns when every reader that was in flight at the call has gone.
    fn grace(&mut self) -> Result<(), TableError>;
}

/// An access to a table that the kernel refused.
#[derive(Debug, Error)]
#[error("cannot {access} {table}[{key}]: {source}{}", advice(source))]
pub struct TableError {
    /// What was tried.
    pub access: Access,
    /// Name of the map.
    pub table: &'static str,
    /// The entry in question.
    pub key: String,
    /// What the kernel said.
    pub source: io::Error,
}

/// Kinds of access to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Lookup, iteration.
    Read,
    /// Update.
    Write,
    /// Removal.
    Delete,
    /// Waiting for readers.
    Wait,
}

impl TableError {
    /// The errno, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Whether trying again soon may help.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOMEM | libc::EIO)
        )
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Wait => "wait for the readers of",
        })
    }
}

fn advice(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; run as root or with CAP_BPF and CAP_NET_ADMIN",
        Some(libc::E2BIG | libc::ENOSPC) => "; the table is full, remove services or endpoints",
        Some(libc::ENOMEM) => "; the kernel is out of memory, or the agent's control group is",
        _ => "",
    }
}
