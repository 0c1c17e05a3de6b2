//! `ClusterIP`s: which addresses each service has.
//!
//! Pure, and stable: the same services, ranges and previous [`Allocations`] give the same addresses,
//! and a service keeps its addresses for as long as they may be kept. Addresses that a manifest asks
//! for win over allocated ones. Of two services that ask for the same, the one that was there before keeps
//! it, and the other is refused; so it is with node ports. What is left goes by a hash of the service's
//! name, from the upper band of each range first, so that the lower bands stay free for addresses chosen by
//! hand (KEP-3070).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::net::addr::Family;
use serde::{Deserialize, Serialize};

use crate::model::{
    finding::{Finding, Severity},
    object::{Kind, Located, ObjectName, ObjectRef, family_of},
    service::{ClusterIps, Service, ServiceType},
};

mod families;
mod range;

use self::range::Range;

/// Addresses by service (`NAMESPACE/NAME`), kept between runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Allocations(BTreeMap<String, Vec<IpAddr>>);

impl Allocations {
    fn holds(&self, service: &ObjectName, ip: IpAddr) -> bool {
        self.0
            .get(&service.to_string())
            .is_some_and(|ips| ips.contains(&ip))
    }

    /// Whether it has anything from before.
    fn knows(&self, service: &ObjectName) -> bool {
        self.0.contains_key(&service.to_string())
    }

    fn of(&self, service: &ObjectName, family: Family) -> Option<IpAddr> {
        let ips = self.0.get(&service.to_string())?;
        ips.iter().copied().find(|ip| family_of(*ip) == family)
    }
}

/// What one service has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Families, primary first; headless services have them too.
    pub families: Vec<Family>,
    /// `ClusterIP`s in the order of the families; empty where the service has none.
    pub ips: Vec<IpAddr>,
}

/// The outcome for all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocated {
    /// By service. A service that may not be served is missing.
    pub addresses: BTreeMap<ObjectName, Addresses>,
    /// To be given in the next time.
    pub allocations: Allocations,
    /// What cannot be done, and why.
    pub findings: Vec<Finding>,
}

/// Gives every service its addresses. `cidrs` has the cluster's primary family first.
pub fn allocate(
    services: &BTreeMap<ObjectName, Arc<Located<Service>>>,
    cidrs: &[IpNet],
    previous: &Allocations,
) -> Allocated {
    let mut allocator = Allocator::new(cidrs, previous);
    let mut wanting = Vec::new();
    for (name, service) in services {
        match families::of_service(&service.object, &allocator.configured) {
            Ok(families) => wanting.push((name, &**service, families)),
            Err((field, message)) => allocator.report(name, service, &field, message),
        }
    }
    let refused = allocator.take_explicit(&wanting);
    wanting.retain(|(name, ..)| !refused.contains(*name));
    // Kept addresses first: no newcomer may take one.
    let kept = allocator.keep(&wanting);
    for (name, service, families) in wanting {
        allocator.complete(name, service, families, &kept);
    }
    allocator.out.findings.sort();
    allocator.out
}

/// A service, its name and its families.
type Wanting<'a> = (&'a ObjectName, &'a Located<Service>, Vec<Family>);
/// Who has something.
type Holder<'a> = (&'a ObjectName, &'a Located<Service>);

struct Allocator<'a> {
    cidrs: &'a [IpNet],
    ranges: Vec<Range>,
    previous: &'a Allocations,
    /// Families of the CIDRs, each once.
    configured: Vec<Family>,
    taken: BTreeMap<IpAddr, Holder<'a>>,
    node_ports: BTreeMap<u16, Holder<'a>>,
    out: Allocated,
}

impl<'a> Allocator<'a> {
    fn new(cidrs: &'a [IpNet], previous: &'a Allocations) -> Self {
        let ranges: Vec<_> = cidrs.iter().copied().map(Range::new).collect();
        let mut configured = Vec::new();
        for family in ranges.iter().map(Range::family) {
            if !configured.contains(&family) {
                configured.push(family);
            }
        }
        Self {
            cidrs,
            ranges,
            previous,
            configured,
            taken: BTreeMap::new(),
            node_ports: BTreeMap::new(),
            out: Allocated::default(),
        }
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
            let mut ips = explicit_ips(&service.object).iter();
            let holds_all = ips.all(|ip| self.previous.holds(name, *ip));
            (!holds_all, !self.previous.knows(name), *name)
        });
        let mut refused = BTreeSet::new();
        for holder in claims {
            if !self.claim(holder) {
                refused.insert(holder.0.clone());
            }
        }
        refused
    }

    /// Reserves all that one service asks for, or nothing.
    fn claim(&mut self, holder: Holder<'a>) -> bool {
        let (name, service) = holder;
        let ips = explicit_ips(&service.object);
        let mut clashes = Vec::new();
        for ip in ips {
            if let Some(other) = self.taken.get(ip) {
                clashes.push(("spec.clusterIPs".to_owned(), clash(ip, *other)));
            }
        }
        let node_ports = node_ports(&service.object);
        for (field, number) in &node_ports {
            if let Some(other) = self.node_ports.get(number) {
                clashes.push((field.clone(), clash(&format!("node port {number}"), *other)));
            }
        }
        if !clashes.is_empty() {
            for (field, message) in clashes {
                self.report(name, service, &field, message);
            }
            return false;
        }
        let node_ports = node_ports.into_values().map(|number| (number, holder));
        self.node_ports.extend(node_ports);
        for ip in ips {
            self.taken.insert(*ip, holder);
            if !self.ranges.is_empty() && !self.gives(*ip) {
                let message = format!(
                    "{ip} is in no service CIDR ({}); it is used",
                    join(self.cidrs)
                );
                self.push(Severity::Warning, name, service, "spec.clusterIPs", message);
            }
        }
        true
    }

    fn gives(&self, ip: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.gives(ip))
    }

    /// Reserves what services were given before, as far as nobody asks for it now.
    fn keep(&mut self, wanting: &[Wanting<'a>]) -> BTreeMap<(ObjectName, Family), IpAddr> {
        let mut kept = BTreeMap::new();
        for (name, service, families) in wanting {
            for family in to_allocate(&service.object, families) {
                let Some(ip) = self.previous.of(name, family) else {
                    continue;
                };
                match self.taken.get(&ip) {
                    None if self.gives(ip) => {
                        self.taken.insert(ip, (name, service));
                        kept.insert(((*name).clone(), family), ip);
                    }
                    None => {}
                    Some((holder, at)) => {
                        let message = format!(
                            "{ip}, which was allocated to it, is asked for by Service {holder} ({}); it \
                             gets another",
                            at.origin
                        );
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
            if ip.is_none() && !wanted.contains(family) {
                continue;
            }
            let Some(ip) = ip.or_else(|| self.free(name, *family)) else {
                let message = format!(
                    "no {family} address is left in the service CIDRs ({}); add one",
                    join(self.cidrs)
                );
                return self.report(name, service, "spec.clusterIPs", message);
            };
            self.taken.insert(ip, (name, service));
            ips.push(ip);
        }
        if !ips.is_empty() {
            self.out.allocations.0.insert(name.to_string(), ips.clone());
        }
        self.out
            .addresses
            .insert(name.clone(), Addresses { families, ips });
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
        self.out.findings.push(finding);
    }
}

/// Addresses that the manifest asks for.
fn explicit_ips(service: &Service) -> &[IpAddr] {
    match &service.spec.cluster_ips {
        ClusterIps::Explicit(ips) => ips,
        ClusterIps::Allocate | ClusterIps::Headless => &[],
    }
}

/// Numbers of node ports that the manifest asks for, each once, with their fields. A cluster gives each
/// number to one service, whatever the protocol.
fn node_ports(service: &Service) -> BTreeMap<String, u16> {
    if !matches!(
        service.spec.service_type,
        ServiceType::NodePort | ServiceType::LoadBalancer
    ) {
        return BTreeMap::new();
    }
    let ports = service.spec.ports.iter().enumerate();
    let ports = ports.filter_map(|(index, port)| {
        Some((format!("spec.ports[{index}].nodePort"), port.node_port?))
    });
    let health = service.spec.health_check_node_port;
    let health = health.map(|number| ("spec.healthCheckNodePort".to_owned(), number));
    ports.chain(health).collect()
}

fn clash(what: &impl fmt::Display, (name, located): Holder<'_>) -> String {
    format!(
        "{what} belongs to Service {name} ({}) already; choose another",
        located.origin
    )
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
