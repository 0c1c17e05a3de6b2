//! The change of one service port.
//!
//! All ids and slots that the change needs are set aside before its first step exists: it is whole or
//! refused, never half.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::{Service, backend_flags, map, service_flags},
    net::addr::Family,
};

use super::{
    delta::Delta,
    ledger::{Block, Ledger, Port, Stage, Tenancy},
    lists::{LIST_FLAGS, Lists, first_slot},
    recipe::Recipe,
    refusal::RefusalReason,
    step::{BackendRow, FrontendKey, Step, family_of, frontend_key},
};
use crate::{
    desired::{Algorithm, DesiredPort, Endpoint, FrontendKind, PortName},
    small_map::SmallMap,
};

/// Steps of one service port, in the order in which they belong.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// New backends, and flags that are added. Nobody is sent there yet.
    pub(super) prepare: Vec<Step>,
    /// Frontends that it gives up.
    pub(super) give_up: Vec<Step>,
    /// The moment of the change, once per frontend.
    pub(super) switch: Vec<Step>,
    /// Flags that are taken away, and backends that go.
    pub(super) clean_up: Vec<Step>,
    /// What could not be as it was wanted, and is otherwise.
    pub(super) lacking: Option<RefusalReason>,
}

impl Change {
    /// Whether slots or ids come free by it.
    pub(super) fn frees(&self, ledger: &Ledger) -> bool {
        let replaces = |step: &Step| match step {
            Step::PutService { key, .. } => ledger.services.contains_key(key),
            _ => false,
        };
        !self.give_up.is_empty()
            || self
                .clean_up
                .iter()
                .any(|step| matches!(step, Step::RetireBackend { .. }))
            || self.switch.iter().any(replaces)
    }
}

/// What a service port is given for its change.
#[derive(Debug)]
pub(super) struct SetAside {
    /// What its entries shall say but for what is each frontend's own.
    entry: Service,
    /// [`Change::lacking`].
    lacking: Option<RefusalReason>,
}

/// Entries of the tables `services4` and `services6` as they will be.
#[derive(Debug)]
pub(super) struct Entries {
    n_entries: BTreeMap<Family, usize>,
    capacity: u32,
}

impl Entries {
    pub(super) fn new(ledger: &Ledger) -> Self {
        let families = [Family::V4, Family::V6];
        let n_entries = families
            .into_iter()
            .map(|family| (family, ledger.n_services(family)))
            .collect();
        Self {
            n_entries,
            capacity: ledger.capacity.services,
        }
    }

    /// Notes entries that go.
    pub(super) fn remove(&mut self, family: Family, n_gone: usize) {
        let n_entries = self.n_entries.entry(family).or_default();
        *n_entries = n_entries.saturating_sub(n_gone);
    }

    fn replace(
        &mut self,
        family: Family,
        n_new: usize,
        n_gone: usize,
    ) -> Result<(), RefusalReason> {
        let n_entries = self.n_entries.entry(family).or_default();
        let n_after = n_entries.saturating_sub(n_gone) + n_new;
        if n_new > 0 && n_after > self.capacity as usize {
            let table = match family {
                Family::V4 => map::SERVICES4,
                Family::V6 => map::SERVICES6,
            };
            return Err(RefusalReason::Full {
                table,
                needed: n_new,
                capacity: self.capacity,
            });
        }
        *n_entries = n_after;
        Ok(())
    }
}

/// One service port, about to be planned.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub(super) name: &'a PortName,
    pub(super) desired: &'a DesiredPort,
    /// The frontends' keys with the flags of their entries.
    keys: SmallMap<FrontendKey, u32>,
}

impl<'a> Planned<'a> {
    pub(super) fn new(name: &'a PortName, desired: &'a DesiredPort) -> Result<Self, RefusalReason> {
        let frontends = desired.frontends.iter().map(|frontend| frontend.addr);
        let mut addresses = frontends.chain(desired.backends.keys().map(SocketAddr::ip));
        let stranger = addresses.find(|address| family_of(*address) != name.family);
        if let Some(address) = stranger {
            return Err(RefusalReason::OtherFamily {
                address,
                family: name.family,
            });
        }
        let mut keys = SmallMap::new();
        for frontend in &desired.frontends {
            let key = frontend_key(frontend, name.protocol);
            let flags = frontend_flags(frontend.kind, desired);
            let other = keys.get(&key).copied().unwrap_or(0);
            keys.insert(key, flags | other);
        }
        Ok(Self {
            name,
            desired,
            keys,
        })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &FrontendKey> {
        self.keys.keys()
    }

    /// Sets aside all that is needed so that the tables say what is desired. `wanted`: all frontends that any
    /// service port shall have.
    pub(super) fn set_aside(
        &self,
        ledger: &mut Ledger,
        entries: &mut Entries,
        wanted: &BTreeSet<FrontendKey>,
    ) -> Result<SetAside, RefusalReason> {
        let capacity = ledger.last_service();
        let full = RefusalReason::Full {
            table: map::SERVICES4,
            needed: 1,
            capacity,
        };
        let service = ledger.claim_port(self.name).ok_or(full)?;
        let (entry, lacking) = self.claim_best(ledger, service);
        let set_aside = entry.and_then(|entry| {
            self.count(ledger, service, entries, wanted)?;
            Ok(SetAside { entry, lacking })
        });
        if set_aside.is_err() {
            ledger.unclaim_blocks(service, |_| false);
            ledger.unclaim_backends(service, |_| false);
            ledger.unclaim_guards(service, |_| false);
            let port = ledger.ports.get(&service);
            if port.is_some_and(|port| port.is_unseen()) {
                ledger.unclaim_port(service);
            }
        }
        set_aside
    }

    /// [`Planned::claim`] by the algorithm that is wanted, or, if there is no room for a table, at random: that serves, and
    /// gives back the table that is there. Not while slots rest that may do in a moment.
    fn claim_best(
        &self,
        ledger: &mut Ledger,
        service: u32,
    ) -> (Result<Service, RefusalReason>, Option<RefusalReason>) {
        let claimed = self.claim(ledger, service, self.desired.algorithm);
        match claimed {
            Err(RefusalReason::Full {
                table: map::SLOTS,
                needed,
                capacity,
            }) if self.desired.algorithm == Algorithm::Maglev
                && ledger.resting.slots.is_empty() =>
            {
                let lacking = RefusalReason::NoTable { needed, capacity };
                let claimed = self.claim(ledger, service, Algorithm::Random);
                (claimed, Some(lacking))
            }
            claimed => (claimed, None),
        }
    }

    /// Sets ids and slots aside; what the entries of this service port shall say but for what is each
    /// frontend's own.
    fn claim(
        &self,
        ledger: &mut Ledger,
        service: u32,
        algorithm: Algorithm,
    ) -> Result<Service, RefusalReason> {
        let endpoints = &self.desired.backends;
        ledger.unclaim_backends(service, |endpoint| endpoints.contains_key(endpoint));
        let mut recipe = Recipe::new(algorithm, self.desired, self.name.protocol);
        for (endpoint, facts) in endpoints {
            let known = ledger
                .ports
                .get(&service)
                .and_then(|port| port.backends.get(endpoint));
            let tenancy = known
                .copied()
                .or_else(|| ledger.claim_backend(service, *endpoint));
            let Some(Tenancy { id, .. }) = tenancy else {
                return Err(self.no_backend_left(ledger));
            };
            recipe.push(*endpoint, id.id, self.flags(*facts));
        }
        let lists = ledger.lists(service, recipe);
        ledger.unclaim_blocks(service, |there| *there == lists);
        let none = BTreeSet::new();
        let is_guarded = self.keys.values().any(|flags| is_guarded(*flags));
        let nets = if is_guarded {
            &self.desired.source_ranges
        } else {
            &none
        };
        ledger.unclaim_guards(service, |there| there == nets);
        let stays = self.staying(ledger, service).map(|entry| entry.guard);
        let stays = stays.collect();
        let guard = ledger.claim_guard((service, self.name.family), nets, &stays)?;
        let base = self.block(ledger, service, &lists)?;
        let [cluster, external_local, internal_local] = lists.ranges(base);
        Ok(Service {
            id: service,
            version: 0,
            cluster,
            external_local,
            internal_local,
            flags: algorithm_flags(algorithm),
            affinity_timeout_s: self.desired.affinity_timeout_s,
            guard,
        })
    }

    /// The entries of frontends that were the service port's and still are.
    fn staying<'l>(
        &'l self,
        ledger: &'l Ledger,
        service: u32,
    ) -> impl Iterator<Item = &'l Service> {
        let entries = self.keys().filter_map(|key| ledger.services.get(key));
        entries.filter(move |entry| entry.id == service)
    }

    /// The first slot of a block with these lists: one that is there, or a fresh one.
    ///
    /// One that readers have seen comes to rest with the last frontend that leaves it, maybe before
    /// another one is put there. So it serves again only if a frontend stays on it.
    fn block(
        &self,
        ledger: &mut Ledger,
        service: u32,
        lists: &Lists,
    ) -> Result<u32, RefusalReason> {
        if lists.len() == 0 {
            return Ok(0);
        }
        let stays: BTreeSet<_> = self
            .staying(ledger, service)
            .filter_map(first_slot)
            .collect();
        let there = ledger.ports.get(&service).and_then(|port| {
            let usable = |base: &u32, block: &Block| block.users == 0 || stays.contains(base);
            let mut blocks = port
                .blocks
                .iter()
                .filter(|(base, block)| usable(base, block));
            blocks
                .find(|(_, block)| block.lists == *lists)
                .map(|(base, _)| *base)
        });
        let needed = lists.len() as usize;
        let capacity = ledger.capacity.slots;
        let full = RefusalReason::Full {
            table: map::SLOTS,
            needed,
            capacity,
        };
        there
            .or_else(|| ledger.claim_block(service, lists.clone()))
            .ok_or(full)
    }

    fn no_backend_left(&self, ledger: &Ledger) -> RefusalReason {
        let table = match self.name.family {
            Family::V4 => map::BACKENDS4,
            Family::V6 => map::BACKENDS6,
        };
        let capacity = ledger.capacity.backends.saturating_sub(1);
        RefusalReason::Full {
            table,
            needed: self.desired.backends.len(),
            capacity,
        }
    }

    fn count(
        &self,
        ledger: &Ledger,
        service: u32,
        entries: &mut Entries,
        wanted: &BTreeSet<FrontendKey>,
    ) -> Result<(), RefusalReason> {
        let n_new = self
            .keys()
            .filter(|key| !ledger.services.contains_key(key))
            .count();
        let keys = ledger.ports.get(&service).map(|port| port.keys.iter());
        let gone = keys.into_iter().flatten();
        let n_gone = gone.filter(|key| !wanted.contains(key)).count();
        entries.replace(self.name.family, n_new, n_gone)
    }

    /// What must be done with what was set aside.
    pub(super) fn change(&self, ledger: &mut Ledger, set_aside: SetAside) -> Change {
        let SetAside { entry, lacking } = set_aside;
        let mut change = Change {
            lacking,
            ..Change::default()
        };
        self.switch(ledger, entry, &mut change);
        let Some(port) = ledger.ports.get(&entry.id) else {
            return change;
        };
        for key in port.keys.iter().filter(|key| !self.keys.contains_key(key)) {
            change.give_up.push(Step::DeleteService {
                key: *key,
                service: entry.id,
            });
        }
        self.backends(ledger, entry.id, port, &mut change);
        change.prepare.extend(ledger.unwritten(entry.guard));
        if let Some(base) = first_slot(&entry)
            && let Some(block) = port.blocks.get(&base).filter(|block| !block.written)
        {
            let ids = block.lists.ids().to_vec();
            change.prepare.push(Step::WriteSlots {
                service: entry.id,
                base,
                ids,
            });
        }
        change
    }

    /// The entries that must be written.
    fn switch(&self, ledger: &mut Ledger, entry: Service, change: &mut Change) {
        for (key, flags) in &self.keys {
            let entry = Service {
                flags: flags | chosen_by(*flags, entry.flags),
                guard: if is_guarded(*flags) { entry.guard } else { 0 },
                ..entry
            };
            let there = ledger.services.get(key);
            let same = there.is_some_and(|there| {
                Service {
                    version: 0,
                    ..*there
                } == entry
            });
            if !same {
                let service = Service {
                    version: ledger.next_version(),
                    ..entry
                };
                change.switch.push(Step::PutService { key: *key, service });
            }
        }
    }

    /// The rows that must be written, before and after the entries.
    fn backends(&self, ledger: &Ledger, service: u32, port: &Port, change: &mut Change) {
        let known = port
            .backends
            .iter()
            .map(|(endpoint, tenancy)| (*endpoint, *tenancy));
        let desired = self
            .desired
            .backends
            .iter()
            .map(|(endpoint, facts)| (*endpoint, *facts));
        let at_once = change.switch.is_empty() && change.give_up.is_empty();
        let delta = Delta::between(desired, known, |facts, tenancy| {
            row_of(ledger, *tenancy).is_some_and(|row| row.flags == self.flags(*facts))
        });
        for (endpoint, facts, tenancy) in delta.update {
            let row = |flags| row(service, endpoint, tenancy, flags);
            let there = row_of(ledger, tenancy).map(|row| row.flags);
            let kept = if at_once {
                0
            } else {
                there.unwrap_or(0) & KEPT_UNTIL_SWITCH
            };
            let first = self.flags(facts) | kept;
            if there != Some(first) {
                change.prepare.push(Step::WriteBackend {
                    id: tenancy.id,
                    row: row(first),
                });
            }
            if first != self.flags(facts) {
                let row = row(self.flags(facts));
                change.clean_up.push(Step::WriteBackend {
                    id: tenancy.id,
                    row,
                });
            }
        }
        for (endpoint, tenancy) in delta.delete {
            let row = row(service, endpoint, tenancy, 0);
            change.clean_up.push(Step::RetireBackend {
                id: tenancy.id,
                row,
            });
        }
    }

    /// The flags that say the same as an endpoint's facts.
    fn flags(&self, facts: Endpoint) -> u32 {
        let counted = match self.desired.algorithm {
            Algorithm::LeastConnections => backend_flags::COUNTED,
            Algorithm::Random | Algorithm::Maglev => 0,
        };
        flags(facts) | counted
    }
}

/// Flags that a backend keeps as long as an entry may still send clients to it.
const KEPT_UNTIL_SWITCH: u32 =
    backend_flags::SERVING | LIST_FLAGS[0] | LIST_FLAGS[1] | LIST_FLAGS[2];

/// The steps that take a service port out of the tables that nobody wants any more.
pub(super) fn removal(ledger: &mut Ledger, service: u32) -> Change {
    ledger.unclaim_blocks(service, |_| false);
    ledger.unclaim_backends(service, |_| false);
    ledger.unclaim_guards(service, |_| false);
    let mut change = Change::default();
    if let Some(port) = ledger.ports.get_mut(&service) {
        port.stage = Stage::Leaving;
        for key in &port.keys {
            change
                .give_up
                .push(Step::DeleteService { key: *key, service });
        }
        for (endpoint, tenancy) in &port.backends {
            let row = row(service, *endpoint, *tenancy, 0);
            change.clean_up.push(Step::RetireBackend {
                id: tenancy.id,
                row,
            });
        }
    }
    ledger.leave(service);
    change
}

/// The row of an endpoint, if it is written.
fn row_of(ledger: &Ledger, tenancy: Tenancy) -> Option<&BackendRow> {
    ledger
        .backends
        .get(&tenancy.id)
        .filter(|row| row.generation == tenancy.generation)
}

fn row(service: u32, endpoint: SocketAddr, tenancy: Tenancy, flags: u32) -> BackendRow {
    let addr: IpAddr = endpoint.ip();
    BackendRow {
        addr,
        service,
        port: endpoint.port(),
        generation: tenancy.generation,
        flags,
    }
}

/// Whether source ranges hold for a frontend with these flags.
fn is_guarded(flags: u32) -> bool {
    flags & service_flags::LOAD_BALANCER != 0
}

/// The flags that say how backends are chosen.
fn algorithm_flags(algorithm: Algorithm) -> u32 {
    match algorithm {
        Algorithm::Random => 0,
        Algorithm::Maglev => service_flags::MAGLEV,
        Algorithm::LeastConnections => service_flags::LEAST_CONNECTIONS,
    }
}

/// Those of the `algorithm`, for a frontend with these flags, if any backend is ever chosen there.
fn chosen_by(flags: u32, algorithm: u32) -> u32 {
    if flags & service_flags::ANY_PORT == 0 {
        algorithm
    } else {
        0
    }
}

/// The flags of the entry of a frontend, but for those of its algorithm.
fn frontend_flags(kind: FrontendKind, desired: &DesiredPort) -> u32 {
    let external = if desired.external_local {
        service_flags::EXTERNAL_LOCAL
    } else {
        0
    };
    let internal = if desired.internal_local {
        service_flags::INTERNAL_LOCAL
    } else {
        0
    };
    match kind {
        FrontendKind::ClusterIp => service_flags::CLUSTER_IP | internal,
        FrontendKind::NodePort => service_flags::NODE_PORT | external,
        FrontendKind::LoadBalancer => service_flags::LOAD_BALANCER | external,
        FrontendKind::ExternalIp => service_flags::EXTERNAL_IP | external,
        FrontendKind::AnyPort | FrontendKind::Address => service_flags::ANY_PORT,
    }
}

/// The flags that say the same as an endpoint's facts.
fn flags(facts: Endpoint) -> u32 {
    let bits = [
        (facts.serving, backend_flags::SERVING),
        (facts.in_cluster, backend_flags::IN_CLUSTER),
        (facts.in_external_local, backend_flags::IN_EXTERNAL_LOCAL),
        (facts.in_internal_local, backend_flags::IN_INTERNAL_LOCAL),
        (facts.local, backend_flags::LOCAL),
    ];
    bits.into_iter().filter(|(is, _)| *is).fold(
        backend_flags::of_weight(facts.weight.into()),
        |flags, (_, flag)| flags | flag,
    )
}
