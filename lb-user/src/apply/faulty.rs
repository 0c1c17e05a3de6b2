//! Tables that fail now and then, by a fixed rule, so that a failing test can be run again.
//!
//! Wraps any other tables. A failing call changes nothing, but for a range of slots, of which the first
//! half is written. Reads never fail: they are how tests look at the truth.

use std::{collections::BTreeMap, io};

use lb_common::abi::{Service, SlotRange};

use super::lbmaps::{Access, IsLive, LbMaps, TableError};
use crate::{
    desired::Place,
    plan::{Area, BackendId, BackendRow, Capacity, FrontendKey, SourceId, SourceRow, display_key},
};

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// None.
    Never,
    /// Every call.
    Always,
    /// Every nth call, the nth first; 0: none.
    EveryNth(u64),
    /// Three in ten, drawn from this seed.
    Seed(u64),
    /// All after so many, as if who calls had been killed.
    After(u64),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct FaultyMaps<M> {
    inner: M,
    faults: Faults,
    errno: i32,
    n_calls: u64,
    n_faults: u64,
}

impl<M> FaultyMaps<M> {
    /// `inner`, failing as `faults` says with `errno`.
    pub fn new(inner: M, faults: Faults, errno: i32) -> Self {
        Self {
            inner,
            faults,
            errno,
            n_calls: 0,
            n_faults: 0,
        }
    }

    /// Another rule from here on.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self {
            faults,
            n_calls: 0,
            ..self
        }
    }

    /// What is wrapped.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// Calls that failed.
    pub fn n_faults(&self) -> u64 {
        self.n_faults
    }

    fn fails(&mut self) -> bool {
        self.n_calls += 1;
        let fails = match self.faults {
            Faults::Never => false,
            Faults::Always => true,
            Faults::EveryNth(n) => n > 0 && self.n_calls.is_multiple_of(n),
            Faults::After(n) => self.n_calls > n,
            // A well-mixed counter is as good as a generator here, and has no state to carry.
            Faults::Seed(seed) => {
                let bits = seed.wrapping_add(self.n_calls.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                lb_common::hash::finish(bits) % 10 < 3
            }
        };
        self.n_faults += u64::from(fails);
        fails
    }

    fn pass(
        &mut self,
        access: Access,
        table: &'static str,
        key: impl FnOnce() -> String,
    ) -> Result<&mut M, TableError> {
        if self.fails() {
            let source = io::Error::from_raw_os_error(self.errno);
            return Err(TableError {
                access,
                table,
                key: key(),
                source,
            });
        }
        Ok(&mut self.inner)
    }
}

impl<M: LbMaps> LbMaps for FaultyMaps<M> {
    fn capacity(&self) -> Capacity {
        self.inner.capacity()
    }

    fn put_service(&mut self, key: &FrontendKey, service: &Service) -> Result<(), TableError> {
        self.pass(Access::Write, "services", || display_key(key))?
            .put_service(key, service)
    }

    fn delete_service(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        self.pass(Access::Delete, "services", || display_key(key))?
            .delete_service(key)
    }

    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError> {
        self.inner.services()
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        if let Err(error) = self.pass(Access::Write, "slots", || base.to_string()) {
            self.inner.write_slots(base, &ids[..ids.len() / 2])?;
            return Err(error);
        }
        self.inner.write_slots(base, ids)
    }

    fn slots(&self, range: SlotRange) -> Result<Vec<u32>, TableError> {
        self.inner.slots(range)
    }

    fn put_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError> {
        self.pass(Access::Write, "backends", || id.id.to_string())?
            .put_backend(id, row)
    }

    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError> {
        self.inner.backends()
    }

    fn put_place(&mut self, area: Area, place: Place) -> Result<(), TableError> {
        self.pass(Access::Write, "places", || area.to_string())?
            .put_place(area, place)
    }

    fn delete_place(&mut self, area: Area) -> Result<(), TableError> {
        self.pass(Access::Delete, "places", || area.to_string())?
            .delete_place(area)
    }

    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError> {
        self.inner.places()
    }

    fn put_source(&mut self, id: SourceId, row: &SourceRow) -> Result<(), TableError> {
        self.pass(Access::Write, "sources", || id.to_string())?
            .put_source(id, row)
    }

    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError> {
        self.pass(Access::Delete, "sources", || id.to_string())?
            .delete_source(id)
    }

    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError> {
        self.inner.sources()
    }

    fn sweep_affinity(&mut self, is_live: IsLive<'_>) -> Result<usize, TableError> {
        self.pass(Access::Delete, "affinity", String::new)?
            .sweep_affinity(is_live)
    }

    fn grace(&mut self) -> Result<(), TableError> {
        self.pass(Access::Wait, "services", String::new)?.grace()
    }
}
