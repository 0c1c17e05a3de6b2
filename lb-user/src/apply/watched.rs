//! Tables under the eyes of readers: a model of the datapath that looks after every write.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use ipnet::IpNet;
use lb_common::abi::{Service, SlotRange, backend_flags, place::NODE_SPACE, service_flags};
use proptest::prelude::*;

use super::{
    FakeMaps, Faults, FaultyMaps, LbMaps, Outcome, Retry, TableError, lbmaps::IsLive, reconcile,
    reconcile_ports,
};
use crate::{
    desired::{Algorithm, Desired, DesiredPort, Endpoint, FrontendKind, Place, PortName},
    plan::{
        Area, BackendId, BackendRow, Capacity, FrontendKey, Ledger, SourceId, SourceRow,
        display_key, family_of, frontend_key,
    },
};

const ONE_TRY: Retry = Retry {
    attempts: 1,
    backoff: Duration::ZERO,
    budget: 0,
};

const LISTS: [u32; 3] = [
    backend_flags::IN_CLUSTER,
    backend_flags::IN_EXTERNAL_LOCAL,
    backend_flags::IN_INTERNAL_LOCAL,
];

/// What a frontend leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Slots that each address has, per list.
    lists: [BTreeMap<SocketAddr, usize>; 3],
    /// Who may come in.
    sources: BTreeSet<IpNet>,
    /// How backends are chosen, in the entry's flags.
    algorithm: u32,
}

/// Tables under the eyes of readers.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) maps: FaultyMaps<FakeMaps>,
    /// What each frontend led to when the present plan began.
    before: BTreeMap<FrontendKey, Target>,
    /// What each frontend shall lead to.
    pub(super) after: BTreeMap<FrontendKey, Target>,
    /// What else it may lead to, where there is no room for a Maglev table.
    instead: BTreeMap<FrontendKey, Target>,
    has_room: bool,
    /// Frontends that must be there all the time.
    stay: BTreeSet<FrontendKey>,
    /// Copies of entries that readers in flight hold, with what the entry led to when they came.
    in_flight: BTreeMap<(FrontendKey, u32), (Service, Target)>,
    pub(super) violations: Vec<String>,
}

impl Watched {
    pub(super) fn new(capacity: Capacity, faults: Faults) -> Self {
        Self {
            maps: FaultyMaps::new(FakeMaps::new(capacity), faults, libc::ENOMEM),
            before: BTreeMap::new(),
            after: BTreeMap::new(),
            instead: BTreeMap::new(),
            has_room: capacity == Capacity::default(),
            stay: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            violations: Vec::new(),
        }
    }

    /// Readers come to these tables from now on; those in flight stay with the ones that they know.
    pub(super) fn go_over_to(&mut self, maps: FakeMaps) {
        let capacity = maps.capacity();
        self.has_room = capacity == capacity.joined(Capacity::default());
        self.maps = FaultyMaps::new(maps, Faults::Never, libc::ENOMEM);
        self.in_flight.clear();
        self.before = self.frontends();
    }

    pub(super) fn reconcile(&mut self, desired: &Desired, ledger: &mut Ledger) -> Outcome {
        self.expect(desired, ledger);
        reconcile(desired, ledger, self, &ONE_TRY)
    }

    pub(super) fn reconcile_ports(
        &mut self,
        desired: &Desired,
        names: &BTreeSet<PortName>,
        ledger: &mut Ledger,
    ) -> Outcome {
        self.expect(desired, ledger);
        reconcile_ports(desired, names, ledger, self, &ONE_TRY)
    }

    /// Expects that from now on the tables become what is desired.
    fn expect(&mut self, desired: &Desired, ledger: &Ledger) {
        let expected = expected(desired).frontends;
        self.before = self.frontends();
        self.stay = content(self, ledger)
            .frontends
            .into_iter()
            .filter_map(|(key, (owner, ..))| {
                // In full tables a frontend is lost with its owner if there is no room for the next one.
                let next = &expected.get(&key)?.0;
                (self.has_room || *next == owner).then_some(key)
            })
            .collect();
        self.after = targets(expected);
        if !self.has_room {
            let mut at_random = desired.clone();
            for port in at_random.ports.values_mut() {
                if port.algorithm == Algorithm::Maglev {
                    port.algorithm = Algorithm::Random;
                }
            }
            self.instead = targets(self::expected(&at_random).frontends);
        }
    }

    pub(super) fn frontends(&self) -> BTreeMap<FrontendKey, Target> {
        let services = self.maps.services().expect("reads do not fail");
        services
            .into_iter()
            .map(|(key, service)| (key, self.follow(&key, &service)))
            .collect()
    }

    /// What a reader gets that holds this copy of an entry; what it must not get is left out.
    fn follow(&self, key: &FrontendKey, service: &Service) -> Target {
        let lists = [
            service.cluster,
            service.external_local,
            service.internal_local,
        ];
        let lists = lists.map(|range| {
            let mut shares = BTreeMap::new();
            for slot in (range.base..).take(range.count as usize) {
                if let Some(row) = self.accept(key, service, slot) {
                    *shares.entry(address(&row)).or_default() += 1;
                }
            }
            shares
        });
        let places = self.maps.places().expect("reads do not fail").into_keys();
        let guard = places.filter(|area| service.guard != 0 && area.space == service.guard);
        Target {
            lists,
            sources: guard.map(|area| area.net).collect(),
            algorithm: service.flags & (service_flags::MAGLEV | service_flags::LEAST_CONNECTIONS),
        }
    }

    fn accept(&self, key: &FrontendKey, service: &Service, slot: u32) -> Option<BackendRow> {
        let maps = self.maps.inner();
        let id = BackendId {
            family: family_of(key.addr),
            id: maps.slot(slot),
        };
        maps.backend(id).filter(|row| row.service == service.id)
    }

    /// Lets a reader come at each frontend, and all readers read.
    fn look(&mut self) {
        let mut violations = Vec::new();
        let services = self.maps.services().expect("reads do not fail");
        for key in self.stay.iter().filter(|key| !services.contains_key(key)) {
            violations.push(format!("{} is gone in between", display_key(key)));
        }
        for (key, service) in &services {
            let now = self.follow(key, service);
            let mut right = [&self.before, &self.after, &self.instead].into_iter();
            if !right.any(|targets| targets.get(key) == Some(&now)) {
                violations.push(format!("{} leads to {now:?}, a mixture", display_key(key)));
            }
            self.check_flags(key, service, &mut violations);
            self.in_flight
                .insert((*key, service.version), (*service, now));
        }
        for ((key, _), (service, then)) in &self.in_flight {
            let now = self.follow(key, service);
            if now != *then {
                let key = display_key(key);
                violations.push(format!(
                    "a reader in flight at {key} gets {now:?}, not {then:?}"
                ));
            }
        }
        self.violations.append(&mut violations);
    }

    /// An entry lists only backends that say that they are in the list.
    fn check_flags(&self, key: &FrontendKey, service: &Service, violations: &mut Vec<String>) {
        let ranges = [
            service.cluster,
            service.external_local,
            service.internal_local,
        ];
        for (range, flag) in ranges.into_iter().zip(LISTS) {
            for slot in (range.base..).take(range.count as usize) {
                match self.accept(key, service, slot) {
                    Some(row) if row.flags & flag != 0 => {}
                    row => violations.push(format!("{} lists {row:?}", display_key(key))),
                }
            }
        }
    }
}

impl LbMaps for Watched {
    fn capacity(&self) -> Capacity {
        self.maps.capacity()
    }

    fn put_service(&mut self, key: &FrontendKey, service: &Service) -> Result<(), TableError> {
        let result = self.maps.put_service(key, service);
        self.look();
        result
    }

    fn delete_service(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        let result = self.maps.delete_service(key);
        self.look();
        result
    }

    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError> {
        self.maps.services()
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        let result = self.maps.write_slots(base, ids);
        self.look();
        result
    }

    fn slots(&self, range: SlotRange) -> Result<Vec<u32>, TableError> {
        self.maps.slots(range)
    }

    fn put_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError> {
        let result = self.maps.put_backend(id, row);
        self.look();
        result
    }

    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError> {
        self.maps.backends()
    }

    fn put_place(&mut self, area: Area, place: Place) -> Result<(), TableError> {
        let result = self.maps.put_place(area, place);
        self.look();
        result
    }

    fn delete_place(&mut self, area: Area) -> Result<(), TableError> {
        let result = self.maps.delete_place(area);
        self.look();
        result
    }

    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError> {
        self.maps.places()
    }

    fn put_source(&mut self, id: SourceId, row: &SourceRow) -> Result<(), TableError> {
        let result = self.maps.put_source(id, row);
        self.look();
        result
    }

    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError> {
        let result = self.maps.delete_source(id);
        self.look();
        result
    }

    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError> {
        self.maps.sources()
    }

    fn sweep_affinity(&mut self, is_live: IsLive<'_>) -> Result<usize, TableError> {
        self.maps.sweep_affinity(is_live)
    }

    fn grace(&mut self) -> Result<(), TableError> {
        self.maps.grace()?;
        self.in_flight.clear();
        Ok(())
    }
}

/// The tables without ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Service port, lists, affinity.
    pub(super) frontends: BTreeMap<FrontendKey, (Option<PortName>, Target, u32)>,
    backends: BTreeSet<(Option<PortName>, SocketAddr, u32)>,
    places: BTreeMap<Area, Place>,
}

/// What the tables say.
pub(super) fn content(watched: &Watched, ledger: &Ledger) -> Content {
    let name = |service| ledger.name(service).cloned();
    let services = watched.services().expect("reads do not fail");
    let rows = watched.backends().expect("reads do not fail");
    let frontends = services.iter().map(|(key, service)| {
        let to = watched.follow(key, service);
        (*key, (name(service.id), to, service.affinity_timeout_s))
    });
    let rows = rows.values().filter(|row| row.service != 0);
    Content {
        frontends: frontends.collect(),
        backends: rows
            .map(|row| (name(row.service), address(row), row.flags))
            .collect(),
        places: watched
            .places()
            .expect("reads do not fail")
            .into_iter()
            .filter(|(area, _)| area.space == NODE_SPACE)
            .collect(),
    }
}

/// What the tables should say, without a plan.
pub(super) fn expected(desired: &Desired) -> Content {
    let mut content = Content {
        places: desired
            .places
            .iter()
            .map(|(net, place)| (Area::of_node(*net), *place))
            .collect(),
        ..Content::default()
    };
    for (name, port) in desired
        .ports
        .iter()
        .filter(|(_, port)| !port.frontends.is_empty())
    {
        let list = |flag| {
            let backends = port
                .backends
                .iter()
                .filter(|(_, facts)| bits(**facts) & flag != 0);
            let weighed: Vec<_> = backends
                .map(|(endpoint, facts)| (*endpoint, u32::from(facts.weight)))
                .collect();
            shares(&weighed, port)
        };
        for frontend in &port.frontends {
            let guard = match frontend.kind {
                FrontendKind::LoadBalancer => port.source_ranges.clone(),
                _ => BTreeSet::new(),
            };
            let to = Target {
                lists: LISTS.map(list),
                sources: guard,
                algorithm: match port.algorithm {
                    Algorithm::Random => 0,
                    Algorithm::Maglev => service_flags::MAGLEV,
                    Algorithm::LeastConnections => service_flags::LEAST_CONNECTIONS,
                },
            };
            let value = (Some(name.clone()), to, port.affinity_timeout_s);
            content
                .frontends
                .insert(frontend_key(frontend, name.protocol), value);
        }
        let backends = port.backends.iter();
        let counted = u32::from(port.algorithm == Algorithm::LeastConnections) << 5;
        let backends = backends
            .map(|(endpoint, facts)| (Some(name.clone()), *endpoint, bits(*facts) | counted));
        content.backends.extend(backends);
    }
    content
}

/// Slots of each of these addresses, which have weights: in a table they take turns, in order, whoever weighs less than the
/// heaviest not in every round.
fn shares(weighed: &[(SocketAddr, u32)], port: &DesiredPort) -> BTreeMap<SocketAddr, usize> {
    let heaviest = weighed.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
    let mut n_slots = match port.algorithm {
        Algorithm::Maglev if weighed.len() > 1 => port.maglev_size.unwrap_or(4_096),
        Algorithm::Maglev => heaviest.min(1),
        Algorithm::Random | Algorithm::LeastConnections => {
            // The largest number that divides all weights.
            let divides = |n: &u32| weighed.iter().all(|(_, weight)| weight % n == 0);
            let unit = (1..=heaviest).rev().find(divides).unwrap_or(1);
            let shares = weighed.iter();
            return shares
                .map(|(address, weight)| (*address, (weight / unit) as usize))
                .collect();
        }
    };
    let mut shares = BTreeMap::new();
    let mut rounds = 0;
    while n_slots > 0 {
        rounds += 1;
        for (address, weight) in weighed {
            let due = rounds * weight / heaviest;
            if n_slots > 0 && due > (rounds - 1) * weight / heaviest {
                *shares.entry(*address).or_default() += 1;
                n_slots -= 1;
            }
        }
    }
    shares
}

fn targets<T, U>(
    frontends: BTreeMap<FrontendKey, (T, Target, U)>,
) -> BTreeMap<FrontendKey, Target> {
    let frontends = frontends.into_iter();
    frontends.map(|(key, (_, to, _))| (key, to)).collect()
}

fn bits(facts: Endpoint) -> u32 {
    u32::from(facts.serving)
        | u32::from(facts.in_cluster) << 1
        | u32::from(facts.in_external_local) << 2
        | u32::from(facts.in_internal_local) << 3
        | u32::from(facts.local) << 4
        | (u32::from(facts.weight) - 1) << 8
}

pub(super) fn address(row: &BackendRow) -> SocketAddr {
    SocketAddr::new(row.addr, row.port)
}

/// The ledger's picture is what the tables say.
pub(super) fn check_picture(watched: &Watched, ledger: &Ledger) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        ledger.services(),
        &watched.services().expect("reads do not fail")
    );
    let rows = watched.backends().expect("reads do not fail");
    let in_use = rows.into_iter().filter(|(_, row)| row.service != 0);
    prop_assert_eq!(ledger.backends(), &in_use.collect());
    prop_assert_eq!(
        ledger.places(),
        &watched.places().expect("reads do not fail")
    );
    prop_assert_eq!(
        ledger.sources(),
        &watched.sources().expect("reads do not fail")
    );
    for (range, ids) in ledger.slots() {
        prop_assert_eq!(ids, watched.slots(range).expect("reads do not fail"));
    }
    Ok(())
}
