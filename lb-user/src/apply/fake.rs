//! The tables in memory: for tests, scenarios and dry runs.
//!
//! Holds as much as it is told to and refuses the rest with the kernel's errno. Counts its writes.

use std::{collections::BTreeMap, io, net::IpAddr};

use lb_common::abi::{Service, SlotRange, map};

use super::lbmaps::{Access, IsLive, LbMaps, TableError};
use crate::{
    desired::Place,
    plan::{Area, BackendId, BackendRow, Capacity, FrontendKey, SourceId, SourceRow, display_key},
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct FakeMaps {
    capacity: Capacity,
    services: BTreeMap<FrontendKey, Service>,
    slots: BTreeMap<u32, u32>,
    backends: BTreeMap<BackendId, BackendRow>,
    places: BTreeMap<Area, Place>,
    sources: BTreeMap<SourceId, SourceRow>,
    n_writes: usize,
    n_graces: usize,
}

impl FakeMaps {
    /// Empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            ..Self::default()
        }
    }

    /// Writes and removals so far; a range of slots is one.
    pub fn n_writes(&self) -> usize {
        self.n_writes
    }

    /// Grace periods so far.
    pub fn n_graces(&self) -> usize {
        self.n_graces
    }

    /// One entry, as a reader looks it up.
    pub fn service(&self, key: &FrontendKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    /// One slot, as a reader reads it.
    pub fn slot(&self, slot: u32) -> u32 {
        self.slots.get(&slot).copied().unwrap_or(0)
    }

    /// One backend, as a reader reads it; `None`: a row of zeros.
    pub fn backend(&self, id: BackendId) -> Option<BackendRow> {
        self.backends.get(&id).copied()
    }
}

impl LbMaps for FakeMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn put_service(&mut self, key: &FrontendKey, service: &Service) -> Result<(), TableError> {
        let v4 = key.addr.is_ipv4();
        let capacity = self.capacity.services as usize;
        let is_of_family = |other: &&FrontendKey| other.addr.is_ipv4() == v4;
        // Nobody counts while there is room for all that there is.
        let is_full = || {
            self.services.len() >= capacity
                && self.services.keys().filter(is_of_family).count() >= capacity
        };
        if !self.services.contains_key(key) && is_full() {
            let table = if v4 { map::SERVICES4 } else { map::SERVICES6 };
            return Err(refused(table, display_key(key), libc::E2BIG));
        }
        self.n_writes += 1;
        self.services.insert(*key, *service);
        Ok(())
    }

    fn delete_service(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        self.n_writes += 1;
        self.services.remove(key);
        Ok(())
    }

    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError> {
        Ok(self.services.clone())
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        self.n_writes += 1;
        for (slot, id) in (base..).zip(ids) {
            if slot >= self.capacity.slots {
                return Err(refused(map::SLOTS, slot.to_string(), libc::E2BIG));
            }
            self.slots.insert(slot, *id);
        }
        Ok(())
    }

    fn slots(&self, range: SlotRange) -> Result<Vec<u32>, TableError> {
        Ok((range.base..)
            .take(range.count as usize)
            .map(|slot| self.slot(slot))
            .collect())
    }

    fn put_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError> {
        if id.id >= self.capacity.backends {
            let table = match row.addr {
                IpAddr::V4(_) => map::BACKENDS4,
                IpAddr::V6(_) => map::BACKENDS6,
            };
            return Err(refused(table, id.id.to_string(), libc::E2BIG));
        }
        self.n_writes += 1;
        self.backends.insert(id, *row);
        Ok(())
    }

    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError> {
        Ok(self.backends.clone())
    }

    fn put_place(&mut self, area: Area, place: Place) -> Result<(), TableError> {
        self.n_writes += 1;
        self.places.insert(area, place);
        Ok(())
    }

    fn delete_place(&mut self, area: Area) -> Result<(), TableError> {
        self.n_writes += 1;
        self.places.remove(&area);
        Ok(())
    }

    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError> {
        Ok(self.places.clone())
    }

    fn put_source(&mut self, id: SourceId, row: &SourceRow) -> Result<(), TableError> {
        self.n_writes += 1;
        self.sources.insert(id, *row);
        Ok(())
    }

    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError> {
        self.n_writes += 1;
        self.sources.remove(&id);
        Ok(())
    }

    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError> {
        Ok(self.sources.clone())
    }

    fn sweep_affinity(&mut self, _is_live: IsLive<'_>) -> Result<usize, TableError> {
        Ok(0)
    }

    fn grace(&mut self) -> Result<(), TableError> {
        self.n_graces += 1;
        Ok(())
    }
}

fn refused(table: &'static str, key: String, errno: i32) -> TableError {
    TableError {
        access: Access::Write,
        table,
        key,
        source: io::Error::from_raw_os_error(errno),
    }
}
