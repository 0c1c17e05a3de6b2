//! `ClusterIP`s and node ports: which of them each service has.
//!
//! Pure, and stable: the same services, pools and previous [`Allocations`] give the same addresses and numbers,
//! and a service keeps them for as long as they may be kept. Of two services that ask for the same, the one that
//! was there before keeps it, and the other is refused. Addresses that a manifest asks for win over allocated
//! ones, since there are plenty; a node port stays with who has it. What is left goes by a hash of the service's
//! name, from the upper band of each range first, so that the lower bands stay free for what is chosen by hand
//! (KEP-3070, KEP-3682).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::net::addr::Family;

use crate::{
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef, family_of},
        service::{ClusterIps, Service},
    },
    shared_map::SharedMap,
    store::Objects,
};

mod allocations;
mod families;
mod node_ports;
mod port_range;
mod range;

pub use self::{
    allocations::Allocations,
    port_range::{PortRange, PortRangeError},
};
use self::{
    allocations::Held,
    node_ports::{NodePorts, Numbers},
    range::Range,
};

/// What there is to be given.
#[derive(Clone, Copy, Debug)]
pub struct Pools<'a> {
    /// Prefixes of `ClusterIP`s, the cluster's primary family first.
    pub cidrs: &'a [IpNet],
    /// Numbers of node ports.
    pub node_ports: PortRange,
    /// Whether a service that asks for what is not in here is refused, instead of warned of.
    pub is_strict: bool,
    /// Whether nothing is given: services have what they ask for, and lack the rest.
    pub gives_nothing: bool,
}

/// What one service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Families, primary first; headless services have them too.
    pub families: Box<[Family]>,
    /// `ClusterIP`s in the order of the families; empty where the service has none.
    pub ips: Box<[IpAddr]>,
    /// Node ports by the name of the service's port; a port may have none.
    pub node_ports: BTreeMap<String, u16>,
    /// Where load balancers ask for the node's health.
    pub health_check_node_port: Option<u16>,
}

/// The outcome for all services, and what is needed to go on from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// By service. A service that may not be served is missing.
    pub addresses: SharedMap<ObjectName, Addresses>,
    /// To be given in the next time.
    pub allocations: Allocations,
    /// What cannot be done, and why, by service; no list is empty.
    pub findings: BTreeMap<ObjectName, Vec<Finding>>,
    /// Who has what; unknown while a service wants what another one has, as then it may get it by any change.
    holders: Option<Holders>,
}

/// Who has which address and which number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holders {
    ips: BTreeMap<IpAddr, ObjectName>,
    numbers: Numbers,
}

/// Gives every service its addresses and node ports.
pub fn allocate(
    services: &Objects<Service>,
    pools: Pools<'_>,
    previous: &Allocations,
) -> Allocated {
    let start = (Allocated::default(), Holders::default());
    let all = services.iter().map(|(name, service)| (name, &**service));
    let (mut out, end) = Allocator::new(services, pools, previous, start).run(all.collect());
    out.holders = end.is_some().then(|| Holders::of(&out));
    out
}

impl Allocated {
    /// Goes on to other `services` of which these are `changed`, new or gone. Gives back whose addresses are others.
    ///
    /// It comes to what [`allocate`] comes to. Where nobody wants what another one has, all others keep what they hold, so
    /// that only these are asked.
    pub fn follow(
        &mut self,
        services: &Objects<Service>,
        pools: Pools<'_>,
        changed: &BTreeSet<ObjectName>,
    ) -> BTreeSet<ObjectName> {
        let previous = self.allocations.clone();
        let was = self.addresses.clone();
        if !self.follow_changed(services, pools, changed, &previous) {
            *self = allocate(services, pools, &previous);
        }
        let others = was.differences(&self.addresses, PartialEq::eq);
        others.cloned().collect()
    }

    /// The same if others have no part in it; else false, and what is here is of no use.
    fn follow_changed(
        &mut self,
        services: &Objects<Service>,
        pools: Pools<'_>,
        changed: &BTreeSet<ObjectName>,
        previous: &Allocations,
    ) -> bool {
        let Some(mut holders) = self.holders.take() else {
            return false;
        };
        for name in changed {
            holders.forget(name, previous);
            self.addresses.remove(name);
            self.allocations.0.remove(name);
            self.findings.remove(name);
        }
        let asking = changed.iter();
        let asking = asking.filter_map(|name| Some((name, &**services.get(name)?)));
        let start = (std::mem::take(self), holders);
        let (out, end) = Allocator::new(services, pools, previous, start).run(asking.collect());
        *self = out;
        let Some(mut holders) = end else {
            return false;
        };
        for name in changed {
            // What was kept for it and is not given in the end is free.
            holders.forget(name, previous);
            holders.note(name, self);
        }
        self.holders = Some(holders);
        true
    }

    /// All findings, sorted by place.
    #[cfg(test)]
    fn sorted_findings(&self) -> Vec<Finding> {
        let mut findings: Vec<_> = self.findings.values().flatten().cloned().collect();
        findings.sort();
        findings
    }
}

impl Holders {
    /// Those of all services.
    fn of(allocated: &Allocated) -> Self {
        let mut holders = Self::default();
        for name in allocated.addresses.keys() {
            holders.note(name, allocated);
        }
        holders
    }

    /// Takes notice of what a service has, and what is kept for it.
    fn note(&mut self, name: &ObjectName, allocated: &Allocated) {
        let Some(addresses) = allocated.addresses.get(name) else {
            return;
        };
        let ips = addresses.ips.iter();
        self.ips.extend(ips.map(|ip| (*ip, name.clone())));
        let held = allocated.allocations.of(name);
        self.numbers.note(name, addresses, held);
    }

    /// Forgets what a service had.
    fn forget(&mut self, name: &ObjectName, previous: &Allocations) {
        let Some(held) = previous.of(name) else {
            return;
        };
        for ip in &held.ips {
            if self.ips.get(ip) == Some(name) {
                self.ips.remove(ip);
            }
        }
        self.numbers.forget(name, held);
    }
}

/// A service, its name and its families.
type Wanting<'a> = (&'a ObjectName, &'a Located<Service>, Vec<Family>);
/// A service and its name.
type Named<'a> = (&'a ObjectName, &'a Located<Service>);

struct Allocator<'a> {
    pools: Pools<'a>,
    ranges: Vec<Range>,
    services: &'a Objects<Service>,
    previous: &'a Allocations,
    /// Families of the CIDRs, each once.
    configured: Vec<Family>,
    taken: BTreeMap<IpAddr, ObjectName>,
    node_ports: NodePorts<'a>,
    /// Whether nobody is without what it asks for. What another one gets or gives back is of no concern to the others then.
    is_settled: bool,
    out: Allocated,
}

impl<'a> Allocator<'a> {
    /// Goes on from what others than those that [`Self::run`] is about got and have.
    fn new(
        services: &'a Objects<Service>,
        pools: Pools<'a>,
        previous: &'a Allocations,
        (out, holders): (Allocated, Holders),
    ) -> Self {
        let ranges: Vec<_> = pools.cidrs.iter().copied().map(Range::new).collect();
        let mut configured = Vec::new();
        for family in ranges.iter().map(Range::family) {
            if !configured.contains(&family) {
                configured.push(family);
            }
        }
        Self {
            pools,
            ranges,
            services,
            previous,
            configured,
            taken: holders.ips,
            node_ports: NodePorts::new(pools.node_ports, services, previous, holders.numbers),
            is_settled: true,
            out,
        }
    }

    /// Gives these services what they want. Says who has what, unless somebody wants what another one has.
    fn run(mut self, services: Vec<Named<'a>>) -> (Allocated, Option<Holders>) {
        let mut wanting = Vec::with_capacity(services.len());
        for (name, service) in services {
            match families::of_service(&service.object, &self.configured) {
                Ok(families) => wanting.push((name, service, families)),
                Err((field, message)) => self.report(name, service, &field, message),
            }
        }
        for (name, service, _) in &wanting {
            self.node_ports.reserve((name, service));
        }
        let refused = self.take_explicit(&wanting);
        wanting.retain(|(name, ..)| !refused.contains(*name));
        // Kept addresses first: no newcomer may take one.
        let kept = self.keep(&wanting);
        for (name, service, families) in &wanting {
            self.complete(name, service, families.clone(), &kept);
        }
        self.remember_idle(&wanting);
        let is_settled = self.is_settled && !self.node_ports.disturbs;
        let holders = Holders {
            ips: self.taken,
            numbers: self.node_ports.numbers,
        };
        (self.out, is_settled.then_some(holders))
    }

    /// Reserves what manifests ask for, for one service after the other, all or nothing. Who has it
    /// already comes before who has not, then who was there before, then names decide. Gives back who
    /// goes away empty-handed.
    fn take_explicit(&mut self, wanting: &[Wanting<'a>]) -> BTreeSet<ObjectName> {
        let mut claims: Vec<_> = wanting
            .iter()
            .map(|(name, service, _)| (*name, *service))
            .collect();
        claims.sort_by_cached_key(|(name, service)| {
            let held = self.previous.of(name);
            let holds = |ip: &IpAddr| held.is_some_and(|held| held.ips.contains(ip));
            let holds_all = explicit_ips(&service.object).iter().all(holds)
                && self.node_ports.held_all(name, &service.object);
            (!holds_all, held.is_none(), *name)
        });
        let mut refused = BTreeSet::new();
        for holder in claims {
            if !self.claim(holder) {
                self.node_ports.release(holder.0);
                refused.insert(holder.0.clone());
            }
        }
        refused
    }

    /// Reserves all that one service asks for, or nothing.
    fn claim(&mut self, holder: Named<'a>) -> bool {
        let (name, service) = holder;
        let ips = explicit_ips(&service.object);
        let mut clashes = Vec::new();
        for ip in ips {
            if let Some(other) = self.taken.get(ip) {
                let message = clash(ip, other, self.services);
                clashes.push(("spec.clusterIPs".to_owned(), message));
            }
        }
        clashes.extend(self.node_ports.clashes(holder));
        let outside = self.outside(&service.object);
        if self.pools.is_strict {
            let refused = outside.iter();
            clashes.extend(refused.map(|(field, what)| {
                (
                    field.clone(),
                    format!("{what}, which --strict forbids; choose another"),
                )
            }));
        }
        if !clashes.is_empty() {
            self.is_settled = false;
            for (field, message) in clashes {
                self.report(name, service, &field, message);
            }
            return false;
        }
        for ip in ips {
            self.taken.insert(*ip, name.clone());
        }
        self.node_ports.take(holder);
        for (field, what) in outside {
            let message = format!("{what}; it is used");
            self.push(Severity::Warning, name, service, &field, message);
        }
        true
    }

    /// What a service asks for outside of the pools: fields, and what there is.
    fn outside(&self, service: &Service) -> Vec<(String, String)> {
        let ips = explicit_ips(service).iter();
        let ips = ips.filter(|ip| !self.ranges.is_empty() && !self.gives(**ip));
        let ips = ips.map(|ip| {
            let what = format!("{ip} is in no service CIDR ({})", join(self.pools.cidrs));
            ("spec.clusterIPs".to_owned(), what)
        });
        let range = self.pools.node_ports;
        let numbers = self.node_ports.outside(service).into_iter();
        let numbers = numbers.map(|(field, number)| {
            let what = format!("{number} is outside of the range of node ports ({range})");
            (field, what)
        });
        ips.chain(numbers).collect()
    }

    fn gives(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.gives(ip))
    }

    /// Reserves what services were given before, as far as nobody asks for it now.
    fn keep(&mut self, wanting: &[Wanting<'a>]) -> BTreeMap<(ObjectName, Family), IpAddr> {
        let mut kept = BTreeMap::new();
        for (name, service, families) in wanting {
            for family in to_allocate(&service.object, families) {
                let Some(ip) = self.previous.of(name).and_then(|held| held.ip(family)) else {
                    continue;
                };
                match self.taken.get(&ip) {
                    None if self.gives(ip) => {
                        self.taken.insert(ip, (*name).clone());
                        kept.insert(((*name).clone(), family), ip);
                    }
                    None => {}
                    Some(holder) => {
                        let message = format!(
                            "{ip}, which was allocated to it, is asked for by Service {}; it gets another",
                            with_origin(holder, self.services)
                        );
                        self.is_settled = false;
                        self.push(Severity::Warning, name, service, "spec.clusterIPs", message);
                    }
                }
            }
        }
        kept
    }

    /// Gives a service what it still lacks, and writes down what it has.
    fn complete(
        &mut self,
        name: &'a ObjectName,
        service: &'a Located<Service>,
        families: Vec<Family>,
        kept: &BTreeMap<(ObjectName, Family), IpAddr>,
    ) {
        let wanted: BTreeSet<Family> = to_allocate(&service.object, &families).collect();
        let mut ips = Vec::new();
        for family in &families {
            let ip = explicit_ips(&service.object)
                .iter()
                .copied()
                .find(|ip| family_of(*ip) == *family)
                .or_else(|| kept.get(&(name.clone(), *family)).copied());
            let may_lack = self.pools.gives_nothing || !wanted.contains(family);
            if ip.is_none() && may_lack {
                continue;
            }
            let Some(ip) = ip.or_else(|| self.free(name, *family)) else {
                let message = format!(
                    "no {family} address is left in the service CIDRs ({}); add one",
                    join(self.pools.cidrs)
                );
                self.is_settled = false;
                return self.report(name, service, "spec.clusterIPs", message);
            };
            self.taken.insert(ip, name.clone());
            ips.push(ip);
        }
        let given = if self.pools.gives_nothing {
            node_ports::asked_for(&service.object)
        } else {
            self.node_ports.complete((name, service))
        };
        self.is_settled &= given.lacking.is_empty();
        let range = self.pools.node_ports;
        for field in given.lacking {
            let message =
                format!("no node port is left in {range}; widen the range, or give one here");
            self.report(name, service, &field, message);
        }
        let addresses = Addresses {
            families: families.into(),
            ips: ips.into(),
            node_ports: given.node_ports,
            health_check_node_port: given.health_check_node_port,
        };
        self.remember(name, &addresses);
        self.out.addresses.insert(name.clone(), addresses);
    }

    fn remember(&mut self, name: &ObjectName, addresses: &Addresses) {
        let held = Held {
            ips: addresses.ips.to_vec(),
            node_ports: addresses.node_ports.clone(),
            health_check_node_port: addresses.health_check_node_port,
        };
        if !held.is_empty() {
            self.out.allocations.0.insert(name.clone(), held);
        }
    }

    /// Keeps what services have no use for now and nobody else has got.
    fn remember_idle(&mut self, wanting: &[Wanting<'a>]) {
        for (name, service, _) in wanting {
            let idle = self.node_ports.idle(name, &service.object);
            let held = self.out.allocations.0.get_mut(name);
            if let (Some(idle), Some(held)) = (idle, held) {
                held.health_check_node_port = Some(idle);
            }
        }
    }

    /// A free address of a family: the upper band of each range, then the lower band of each.
    fn free(&self, name: &ObjectName, family: Family) -> Option<IpAddr> {
        let ranges = self.ranges.iter();
        let ranges: Vec<_> = ranges.filter(|range| range.family() == family).collect();
        let seed = fnv1a(name.to_string().as_bytes());
        let upper = ranges
            .iter()
            .map(|range| (range, range.static_band, range.size));
        let lower = ranges.iter().map(|range| (range, 0, range.static_band));
        upper.chain(lower).find_map(|(range, from, to)| {
            let width = to.checked_sub(from).filter(|width| *width > 0)?;
            // One position more than there are holders always has a free one.
            let tries = width.min(self.taken.len() as u128 + 1);
            (0..tries)
                .map(|step| range.address(from + (u128::from(seed) + step) % width))
                .find(|ip| !self.taken.contains_key(ip))
        })
    }

    fn report(&mut self, name: &ObjectName, service: &Located<Service>, field: &str, text: String) {
        self.push(Severity::Error, name, service, field, text);
    }

    fn push(
        &mut self,
        severity: Severity,
        name: &ObjectName,
        service: &Located<Service>,
        field: &str,
        message: String,
    ) {
        let reference = ObjectRef {
            kind: Kind::Service,
            name: name.clone(),
        };
        let finding = Finding::about(severity, (&reference, service), field, message);
        let findings = self.out.findings.entry(name.clone());
        findings.or_default().push(finding);
    }
}

/// Addresses that the manifest asks for.
fn explicit_ips(service: &Service) -> &[IpAddr] {
    match &service.spec.cluster_ips {
        ClusterIps::Explicit(ips) => ips,
        ClusterIps::Allocate | ClusterIps::Headless => &[],
    }
}

fn clash(what: &impl fmt::Display, holder: &ObjectName, services: &Objects<Service>) -> String {
    let holder = with_origin(holder, services);
    format!("{what} belongs to Service {holder} already; choose another")
}

/// A service's name, and where it is written.
fn with_origin(name: &ObjectName, services: &Objects<Service>) -> String {
    match services.get(name) {
        Some(located) => format!("{name} ({})", located.origin),
        None => name.to_string(),
    }
}

/// Families in which the service wants any address.
fn to_allocate(service: &Service, families: &[Family]) -> impl Iterator<Item = Family> {
    let has_addresses = !service.is_headless() && !service.is_external_name();
    let explicit = explicit_ips(service);
    families
        .iter()
        .copied()
        .filter(move |family| has_addresses && !explicit.iter().any(|ip| family_of(*ip) == *family))
}

fn join(cidrs: &[IpNet]) -> String {
    cidrs
        .iter()
        .map(IpNet::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// FNV-1a, 64 bits: the same on every machine and in every version, unlike the standard hasher.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests;
