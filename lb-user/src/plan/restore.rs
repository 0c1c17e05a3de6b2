//! The ledger of tables that an earlier agent has left behind.
//!
//! Ids are kept: a service port that is still wanted is known by its frontends, its endpoints by their
//! addresses, so that flows go on and nothing is written that is right already. What nobody wants any
//! more becomes a service port without a name, which the next plan removes like any other. Tables that
//! no sequence of plans can have left are refused as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use lb_common::{
    abi::{Service, SlotRange},
    net::addr::Family,
};
use thiserror::Error;

use super::{
    capacity::Capacity,
    ids::IdPool,
    ledger::{Block, Ledger, Port, Tenancy},
    lists::{Lists, first_slot},
    step::{
        Area, BackendId, BackendRow, FrontendKey, SourceId, SourceRow, display_key, family_of,
        frontend_key,
    },
};
use crate::desired::{Desired, Place};

/// What the tables say, read at a time when nobody writes them.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// All entries, each with the content of its three lists.
    pub services: BTreeMap<FrontendKey, (Service, [Vec<u32>; 3])>,
    /// All rows of backends that were ever in use.
    pub backends: BTreeMap<BackendId, BackendRow>,
    /// What is known of prefixes.
    pub places: BTreeMap<Area, Place>,
    /// Addresses that may stand in for clients'.
    pub sources: BTreeMap<SourceId, SourceRow>,
}

/// Why tables cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the entry of {frontend} {fault}")]
pub struct Damaged {
    /// The frontend whose entry is wrong.
    pub frontend: String,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// An id beyond what there can be.
    #[error("names a service that cannot be")]
    Service,
    /// Its slots are another's as well.
    #[error("has slots that overlap others")]
    Slots,
    /// A slot names a backend that is not the service's.
    #[error("lists a backend that is not its own")]
    Backend,
}

impl Ledger {
    /// The ledger of these tables, with the names that the desired state gives. No reader may be in
    /// flight that has seen anything else.
    pub fn restore(found: Found, desired: &Desired, capacity: Capacity) -> Result<Self, Damaged> {
        let mut ledger = Self::new(capacity);
        ledger.places = found.places;
        ledger.sources = found.sources;
        for (key, (service, lists)) in found.services {
            ledger
                .restore_service(key, service, Lists::new(&lists), &found.backends)
                .map_err(|fault| Damaged {
                    frontend: display_key(&key),
                    fault,
                })?;
        }
        for (id, row) in found.backends {
            ledger.restore_backend(id, row);
        }
        ledger.restore_guards();
        ledger.restore_names(desired);
        ledger.restore_pools();
        Ok(ledger)
    }

    fn restore_service(
        &mut self,
        key: FrontendKey,
        service: Service,
        lists: Lists,
        backends: &BTreeMap<BackendId, BackendRow>,
    ) -> Result<(), Fault> {
        if service.id == 0 || service.id > self.last_service() {
            return Err(Fault::Service);
        }
        let family = family_of(key.addr);
        let is_own = |id| {
            backends
                .get(&BackendId { family, id })
                .is_some_and(|row| row.service == service.id)
        };
        if !lists.members().iter().all(|(id, _)| is_own(*id)) {
            return Err(Fault::Backend);
        }
        let base = first_slot(&service);
        let ranges = [
            service.cluster,
            service.external_local,
            service.internal_local,
        ];
        if base.is_some_and(|base| lists.ranges(base) != ranges) {
            return Err(Fault::Slots);
        }
        let port = self
            .ports
            .entry(service.id)
            .or_insert_with(|| Box::new(Port::new(None)));
        if let Some(base) = base {
            let count = lists.len();
            match port.blocks.get_mut(&base) {
                Some(block) if block.lists == lists => block.users += 1,
                None if self.free.slots.take_exact(SlotRange { base, count }) => {
                    port.blocks.insert(
                        base,
                        Block {
                            lists,
                            written: true,
                            users: 1,
                        },
                    );
                }
                _ => return Err(Fault::Slots),
            }
        }
        port.keys.insert(key);
        self.version = self.version.max(service.version);
        self.services.insert(key, service);
        Ok(())
    }

    fn restore_backend(&mut self, id: BackendId, row: BackendRow) {
        if row.service == 0 || row.service > self.last_service() {
            self.generations.insert(id, row.generation);
            return;
        }
        let port = self
            .ports
            .entry(row.service)
            .or_insert_with(|| Box::new(Port::new(None)));
        let listed = port
            .blocks
            .values()
            .any(|block| block.lists.flags_of(id.id) != 0);
        let endpoint = SocketAddr::new(row.addr, row.port);
        let tenancy = Tenancy {
            id,
            generation: row.generation,
        };
        if listed || (row.flags != 0 && !port.backends.contains_key(&endpoint)) {
            if let Some(other) = port.backends.insert(endpoint, tenancy) {
                self.rested.insert(other.id);
                port.n_retired += 1;
            }
        } else {
            self.rested.insert(id);
            port.n_retired += 1;
        }
        self.backends.insert(id, row);
    }

    /// A service port has the id of the first of its frontends that is there and has no name yet.
    fn restore_names(&mut self, desired: &Desired) {
        for (name, port) in &desired.ports {
            let keys = port
                .frontends
                .iter()
                .map(|frontend| frontend_key(frontend, name.protocol));
            let mut ids = keys
                .filter_map(|key| self.services.get(&key))
                .map(|entry| entry.id);
            let nameless = |id: &u32| self.ports.get(id).is_some_and(|port| port.name.is_none());
            let Some(id) = ids.find(nameless) else {
                continue;
            };
            if let Some(port) = self.ports.get_mut(&id) {
                port.name = Some(name.clone());
                self.ids.insert(name.clone(), id);
            }
        }
    }

    fn restore_pools(&mut self) {
        let last_backend = self.capacity.backends.saturating_sub(1);
        let taken = |family| {
            let ids = self.backends.keys().filter(|id| id.family == family);
            ids.map(|id| id.id).collect::<BTreeSet<_>>()
        };
        self.free.backends4 = IdPool::without(last_backend, &taken(Family::V4));
        self.free.backends6 = IdPool::without(last_backend, &taken(Family::V6));
        let services = self.ports.keys().copied().collect();
        self.free.services = IdPool::without(self.last_service(), &services);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::abi::{Backend, ServiceKey, backend_flags};

    use super::*;

    fn addr(addr: &str) -> IpAddr {
        addr.parse().expect("literal")
    }

    fn id(id: u32) -> BackendId {
        let family = Family::V4;
        BackendId { family, id }
    }

    fn row(service: u32) -> BackendRow {
        let flags = backend_flags::SERVING | backend_flags::IN_CLUSTER;
        let (addr, port) = (addr("10.244.1.1"), 80);
        Backend {
            addr,
            service,
            port,
            generation: 1,
            flags,
        }
    }

    /// A frontend whose service has these slots, with these backends in them.
    fn entry(last: u8, service: u32, cluster: SlotRange, ids: &[u32]) -> Found {
        let key = ServiceKey {
            addr: addr(&format!("10.96.0.{last}")),
            port: 80,
            proto: 6,
            pad: 0,
        };
        let service = Service {
            id: service,
            cluster,
            ..Service::default()
        };
        let lists = [ids.to_vec(), Vec::new(), Vec::new()];
        Found {
            services: BTreeMap::from([(key, (service, lists))]),
            ..Found::default()
        }
    }

    fn fault(found: Found) -> Option<Fault> {
        let ledger = Ledger::restore(found, &Desired::default(), Capacity::default());
        ledger.err().map(|damaged| damaged.fault)
    }

    #[test]
    fn an_entry_that_lists_another_services_backend_is_damage() {
        let slots = SlotRange { base: 0, count: 1 };
        let with_row = |service| {
            let backends = BTreeMap::from([(id(1), row(service))]);
            Found {
                backends,
                ..entry(1, 1, slots, &[1])
            }
        };
        assert_eq!(fault(with_row(1)), None);
        assert_eq!(fault(with_row(2)), Some(Fault::Backend));
        assert_eq!(fault(entry(1, 1, slots, &[1])), Some(Fault::Backend));
    }

    #[test]
    fn slots_that_overlap_are_damage() {
        let mut found = entry(1, 1, SlotRange { base: 0, count: 2 }, &[1, 1]);
        found
            .services
            .extend(entry(2, 2, SlotRange { base: 1, count: 1 }, &[2]).services);
        found.backends = BTreeMap::from([(id(1), row(1)), (id(2), row(2))]);
        assert_eq!(fault(found), Some(Fault::Slots));
    }

    #[test]
    fn a_service_that_cannot_be_is_damage_and_named() {
        let found = entry(1, 0, SlotRange::default(), &[]);
        let damaged = Ledger::restore(found, &Desired::default(), Capacity::default());
        assert_eq!(
            damaged.expect_err("no service has id 0").to_string(),
            "the entry of 10.96.0.1:80/TCP names a service that cannot be"
        );
    }
}
