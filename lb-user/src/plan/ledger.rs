//! The picture of the tables, and who owns which id and which slots.
//!
//! The picture changes only by [`Ledger::commit`], after a step was carried out, so it is true also when
//! a plan was carried out in part. [`Ledger::permits`] says before each step whether what the step
//! relies on has happened; a step that it refuses must be left out, and the next plan finds the rest.
//!
//! Whatever a reader in flight may still look at rests: it becomes free only by [`Step::Grace`], and a
//! backend's id only when its row was emptied after that. Nothing here knows Kubernetes or the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{
    abi::{Service, SlotRange},
    net::addr::Family,
};

use super::{
    capacity::Capacity,
    guard::Guard,
    ids::IdPool,
    lists::{Lists, first_slot},
    ranges::Ranges,
    recipe::Recipe,
    step::{Area, BackendId, BackendRow, FrontendKey, SourceId, SourceRow, Step},
};
use crate::{
    desired::{Place, PortName},
    shared_map::SharedMap,
    small_map::SmallMap,
    small_set::SmallSet,
};

/// See the module.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(super) capacity: Capacity,
    pub(super) ids: BTreeMap<PortName, u32>,
    /// Boxed: a map has room for eleven where there may be six.
    pub(super) ports: BTreeMap<u32, Box<Port>>,
    pub(super) services: BTreeMap<FrontendKey, Service>,
    pub(super) backends: SharedMap<BackendId, BackendRow>,
    pub(super) places: BTreeMap<Area, Place>,
    pub(super) sources: BTreeMap<SourceId, SourceRow>,
    pub(super) guards: BTreeMap<u32, Guard>,
    /// The guard that was made last.
    pub(super) last_guard: u32,
    pub(super) free: Free,
    pub(super) resting: Resting,
    /// Retired backends that nobody reads any more, but whose rows are not empty yet.
    pub(super) rested: BTreeSet<BackendId>,
    /// Generations of rows that were in use before.
    pub(super) generations: BTreeMap<BackendId, u16>,
    /// Version of the entry that was planned last.
    pub(super) version: u32,
}

/// One service port that has an id.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// `None`: found in the tables, and nobody wants it any more.
    pub(super) name: Option<PortName>,
    /// Frontends whose entry names it.
    pub(super) keys: SmallSet<FrontendKey>,
    /// Endpoints that have an id; the row may not be written yet.
    pub(super) backends: BTreeMap<SocketAddr, Tenancy>,
    /// Its slots by their first one. Those without users were never seen by a reader.
    pub(super) blocks: SmallMap<u32, Block>,
    /// Rows that still name it though their endpoints are gone.
    pub(super) n_retired: usize,
    /// The lists that were dear to make, and what they were made of.
    pub(super) made: Option<Box<(Recipe, Lists)>>,
    pub(super) stage: Stage,
}

/// The way of a service port out of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Somebody wants it.
    Wanted,
    /// Nobody does; a part of it is still there.
    Leaving,
    /// No entry names it; readers in flight may hold one that did. Its name may get another id.
    Resting,
    /// The readers are gone. Its id is free when no row names it.
    Rested,
}

impl Port {
    /// A service port of which the tables say nothing yet.
    pub(super) fn new(name: Option<PortName>) -> Self {
        Self {
            name,
            keys: SmallSet::new(),
            backends: BTreeMap::new(),
            blocks: SmallMap::new(),
            n_retired: 0,
            made: None,
            stage: Stage::Wanted,
        }
    }

    /// Whether no table names it.
    pub(super) fn is_unseen(&self) -> bool {
        self.keys.is_empty() && self.backends.is_empty() && self.n_retired == 0
    }
}

/// An id in the hands of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tenancy {
    pub(super) id: BackendId,
    pub(super) generation: u16,
}

/// Neighbouring slots with the lists of one service port.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) lists: Lists,
    pub(super) written: bool,
    /// Entries that point here.
    pub(super) users: usize,
}

/// What may be handed out.
#[derive(Clone, Debug)]
pub(super) struct Free {
    pub(super) services: IdPool,
    pub(super) backends4: IdPool,
    pub(super) backends6: IdPool,
    pub(super) slots: Ranges,
}

impl Free {
    pub(super) fn backends(&mut self, family: Family) -> &mut IdPool {
        match family {
            Family::V4 => &mut self.backends4,
            Family::V6 => &mut self.backends6,
        }
    }
}

/// What was given up and may still be in a reader's hands.
#[derive(Clone, Debug, Default)]
pub(super) struct Resting {
    pub(super) services: Vec<u32>,
    pub(super) slots: Vec<SlotRange>,
    pub(super) backends: BTreeSet<BackendId>,
}

impl Resting {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.slots.is_empty() && self.backends.is_empty()
    }
}

impl Ledger {
    /// The picture of empty tables.
    pub fn new(capacity: Capacity) -> Self {
        let last_backend = capacity.backends.saturating_sub(1);
        let last_service = last_service(capacity);
        Self {
            capacity,
            ids: BTreeMap::new(),
            ports: BTreeMap::new(),
            services: BTreeMap::new(),
            backends: SharedMap::new(),
            places: BTreeMap::new(),
            sources: BTreeMap::new(),
            guards: BTreeMap::new(),
            last_guard: 0,
            free: Free {
                services: IdPool::new(last_service),
                backends4: IdPool::new(last_backend),
                backends6: IdPool::new(last_backend),
                slots: Ranges::new(capacity.slots),
            },
            resting: Resting::default(),
            rested: BTreeSet::new(),
            generations: BTreeMap::new(),
            version: 0,
        }
    }

    /// The highest id that a service port can have.
    pub(super) fn last_service(&self) -> u32 {
        last_service(self.capacity)
    }

    /// The service port that an id stands for.
    pub fn name(&self, service: u32) -> Option<&PortName> {
        self.ports.get(&service)?.name.as_ref()
    }

    /// The service ports that entries name, by id.
    pub fn answering(&self) -> impl Iterator<Item = (u32, &PortName)> {
        let ports = self.ports.iter();
        let answering = ports.filter(|(_, port)| !port.keys.is_empty());
        answering.filter_map(|(id, port)| Some((*id, port.name.as_ref()?)))
    }

    /// The id of a service port.
    pub fn service_id(&self, name: &PortName) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// The entries of both families.
    pub fn services(&self) -> &BTreeMap<FrontendKey, Service> {
        &self.services
    }

    /// The backends of both families that are not free.
    pub fn backends(&self) -> &SharedMap<BackendId, BackendRow> {
        &self.backends
    }

    /// The generation that a row had when it was last in use; 0: it never was.
    pub fn generation(&self, id: BackendId) -> u16 {
        self.generations.get(&id).copied().unwrap_or(0)
    }

    /// The generations of rows that were in use before, and may be again.
    pub fn generations(&self) -> impl Iterator<Item = (BackendId, u16)> + '_ {
        self.generations.iter().map(|(id, last)| (*id, *last))
    }

    /// How much the tables hold.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// What is known of prefixes.
    pub fn places(&self) -> &BTreeMap<Area, Place> {
        &self.places
    }

    /// Addresses that may stand in for clients'.
    pub fn sources(&self) -> &BTreeMap<SourceId, SourceRow> {
        &self.sources
    }

    /// The slots that entries point to, each range with its content.
    pub fn slots(&self) -> impl Iterator<Item = (SlotRange, Vec<u32>)> + '_ {
        let blocks = self.ports.values().flat_map(|port| &port.blocks);
        blocks
            .filter(|(_, block)| block.users > 0)
            .map(|(base, block)| {
                (
                    SlotRange {
                        base: *base,
                        count: block.lists.len(),
                    },
                    block.lists.ids().to_vec(),
                )
            })
    }

    /// Whether nothing waits for readers, or to be emptied after they have gone.
    pub(super) fn is_at_rest(&self) -> bool {
        self.resting.is_empty() && self.rested.is_empty() && !self.has_resting_guards()
    }

    /// Whether everything is free and nothing rests.
    #[cfg(test)]
    pub(crate) fn is_pristine(&self) -> bool {
        let Free {
            services,
            backends4,
            backends6,
            slots,
        } = &self.free;
        let last_backend = self.capacity.backends as usize - 1;
        services.n_free() == self.last_service() as usize
            && backends4.n_free() == last_backend
            && backends6.n_free() == last_backend
            && slots.n_free() == self.capacity.slots
            && self.ports.is_empty()
            && self.resting.is_empty()
            && self.rested.is_empty()
            && self.guards.is_empty()
    }

    /// Notes that a step was carried out.
    pub fn commit(&mut self, step: &Step) {
        match step {
            Step::WriteBackend { id, row } => {
                self.backends.insert(*id, *row);
            }
            Step::WriteSlots { service, base, .. } => {
                if let Some(block) = self.block(*service, *base) {
                    block.written = true;
                }
            }
            Step::PutService { key, service } => self.put_service(*key, *service),
            Step::DeleteService { key, .. } => {
                if let Some(entry) = self.services.remove(key) {
                    self.let_go(key, &entry);
                }
            }
            Step::RetireBackend { id, row } => self.retire_backend(*id, row),
            Step::Grace => self.end_rest(),
            Step::FreeBackend { id, .. } => self.free_backend(*id),
            Step::PutPlace(area, place) => {
                self.places.insert(*area, *place);
            }
            Step::DeletePlace(area) => self.forget_place(area),
            Step::PutSource(id, row) => {
                self.sources.insert(*id, *row);
            }
            Step::DeleteSource(id) => {
                self.sources.remove(id);
            }
        }
    }

    fn put_service(&mut self, key: FrontendKey, service: Service) {
        // The new slots first: if they are the old ones, they must not come to rest in between.
        if let Some(base) = first_slot(&service)
            && let Some(block) = self.block(service.id, base)
        {
            block.users += 1;
        }
        self.use_guard(service.guard);
        if let Some(old) = self.services.insert(key, service) {
            self.let_go(&key, &old);
        }
        if let Some(port) = self.ports.get_mut(&service.id) {
            port.keys.insert(key);
        }
    }

    /// Notes that an entry is no longer there.
    fn let_go(&mut self, key: &FrontendKey, entry: &Service) {
        self.leave_guard(entry.guard);
        let Some(port) = self.ports.get_mut(&entry.id) else {
            return;
        };
        port.keys.remove(key);
        if let Some(base) = first_slot(entry)
            && let Some(block) = port.blocks.get_mut(&base)
        {
            block.users -= 1;
            if block.users == 0 {
                self.resting.slots.push(SlotRange {
                    base,
                    count: block.lists.len(),
                });
                port.blocks.remove(&base);
            }
        }
        self.leave(entry.id);
    }

    fn retire_backend(&mut self, id: BackendId, row: &BackendRow) {
        self.backends.insert(id, *row);
        self.resting.backends.insert(id);
        if let Some(port) = self.ports.get_mut(&row.service) {
            port.backends.remove(&SocketAddr::new(row.addr, row.port));
            port.n_retired += 1;
        }
        self.leave(row.service);
    }

    fn free_backend(&mut self, id: BackendId) {
        self.rested.remove(&id);
        self.free.backends(id.family).give_back(id.id);
        let Some(row) = self.backends.remove(&id) else {
            return;
        };
        self.generations.insert(id, row.generation);
        if let Some(port) = self.ports.get_mut(&row.service) {
            port.n_retired -= 1;
        }
        self.free_service(row.service);
    }

    fn end_rest(&mut self) {
        let Resting {
            services,
            slots,
            backends,
        } = std::mem::take(&mut self.resting);
        for range in slots {
            self.free.slots.give_back(range);
        }
        self.rested.extend(backends);
        self.rest_guards();
        for service in services {
            if let Some(port) = self.ports.get_mut(&service) {
                port.stage = Stage::Rested;
            }
            self.free_service(service);
        }
    }

    /// Puts the id of a leaving service port to rest when no entry names it and no endpoint has it.
    pub(super) fn leave(&mut self, service: u32) {
        let Some(port) = self.ports.get_mut(&service) else {
            return;
        };
        if port.stage == Stage::Leaving && port.keys.is_empty() && port.backends.is_empty() {
            port.stage = Stage::Resting;
            self.resting.services.push(service);
            if let Some(name) = &port.name {
                self.ids.remove(name);
            }
        }
    }

    fn free_service(&mut self, service: u32) {
        let port = self.ports.get(&service);
        if port.is_some_and(|port| port.stage == Stage::Rested && port.n_retired == 0) {
            self.ports.remove(&service);
            self.free.services.give_back(service);
        }
    }

    fn block(&mut self, service: u32, base: u32) -> Option<&mut Block> {
        let block = self.ports.get_mut(&service)?.blocks.get_mut(&base)?;
        Some(block)
    }
}

/// A service port without an entry in any table needs no id.
pub(super) fn last_service(capacity: Capacity) -> u32 {
    capacity.services.saturating_mul(2)
}
