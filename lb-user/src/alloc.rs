//! `ClusterIP`s: which addresses each service has.
//!
//! Pure, and stable: the same services, ranges and previous [`Allocations`] give the same addresses,
//! and a service keeps its addresses for as long as they may be kept. Addresses that a manifest asks
//! for win over allocated ones. What is left goes by a hash of the service's name, from the upper
//! band of the range first, so that the lower band stays free for addresses chosen by hand
//! (KEP-3070).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::net::addr::Family;
use serde::{Deserialize, Serialize};

use crate::model::{
    finding::{Finding, Severity},
    object::{Kind, Located, ObjectName, ObjectRef, family_of},
    service::{ClusterIps, IpFamilyPolicy, Service},
};

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

/// Gives every service its addresses.
pub fn allocate(
    services: &BTreeMap<ObjectName, Arc<Located<Service>>>,
    cidrs: &[IpNet],
    previous: &Allocations,
) -> Allocated {
    let mut allocator = Allocator::new(cidrs, previous);
    let mut wanting = Vec::new();
    for (name, service) in services {
        match allocator.families(&service.object) {
            Ok(families) => wanting.push((name, &**service, families)),
            Err(message) => allocator.report(name, service, "spec.ipFamilies", message),
        }
    }
    let refused = allocator.take_explicit(&wanting);
    wanting.retain(|(name, ..)| !refused.contains(*name));
    // Kept addresses first: no newcomer may take one.
    let kept = allocator.keep(&wanting);
    for (name, service, families) in wanting {
        allocator.complete(name, service, families, &kept);
    }
    allocator.out
}

/// A service, its name and its families.
type Wanting<'a> = (&'a ObjectName, &'a Located<Service>, Vec<Family>);

struct Allocator<'a> {
    cidrs: &'a [IpNet],
    previous: &'a Allocations,
    configured: Vec<Family>,
    taken: BTreeMap<IpAddr, ObjectName>,
    out: Allocated,
}

impl<'a> Allocator<'a> {
    fn new(cidrs: &'a [IpNet], previous: &'a Allocations) -> Self {
        let mut configured = Vec::new();
        for family in cidrs.iter().map(|cidr| family_of(cidr.addr())) {
            if !configured.contains(&family) {
                configured.push(family);
            }
        }
        Self {
            cidrs,
            previous,
            configured,
            taken: BTreeMap::new(),
            out: Allocated::default(),
        }
    }

    /// The families of a service, primary first.
    fn families(&self, service: &Service) -> Result<Vec<Family>, String> {
        let spec = &service.spec;
        let explicit = explicit_ips(service).iter().copied().map(family_of);
        let mut families = spec.ip_families.clone();
        families.extend(explicit);
        if families.is_empty() {
            families.push(self.configured.first().copied().unwrap_or(Family::V4));
        }
        let mut unique = Vec::new();
        for family in families {
            if !unique.contains(&family) {
                unique.push(family);
            }
        }
        let both = [Family::V4, Family::V6];
        let other = both.into_iter().find(|family| !unique.contains(family));
        match (spec.ip_family_policy, other) {
            (Some(IpFamilyPolicy::RequireDualStack), Some(other)) => unique.push(other),
            (Some(IpFamilyPolicy::PreferDualStack), Some(other))
                if self.configured.contains(&other) =>
            {
                unique.push(other);
            }
            _ => {}
        }
        if service.is_headless() || service.is_external_name() {
            return Ok(unique);
        }
        let missing = unique.iter().find(|family| {
            let is_explicit = explicit_ips(service)
                .iter()
                .any(|ip| family_of(*ip) == **family);
            !is_explicit && !self.configured.contains(family)
        });
        match missing {
            Some(family) => Err(format!(
                "no {family} address can be given, since no service CIDR is {family}; add one with \
                 --service-cidr or write the address in `clusterIPs`"
            )),
            None => Ok(unique),
        }
    }

    /// Reserves what manifests ask for. Who has an address already comes before who has not, then
    /// names decide. Gives back who goes away empty-handed.
    fn take_explicit(&mut self, wanting: &[Wanting<'_>]) -> BTreeSet<ObjectName> {
        let mut claims: Vec<_> = wanting
            .iter()
            .flat_map(|(name, service, _)| {
                explicit_ips(&service.object)
                    .iter()
                    .map(move |ip| (*name, *service, *ip))
            })
            .collect();
        claims.sort_by_cached_key(|(name, _, ip)| (!self.previous.holds(name, *ip), *name));
        let mut refused = BTreeSet::new();
        for (name, service, ip) in claims {
            if let Some(holder) = self.taken.get(&ip) {
                let message = format!("{ip} belongs to Service {holder} already; choose another");
                self.report(name, service, "spec.clusterIPs", message);
                refused.insert(name.clone());
                continue;
            }
            self.taken.insert(ip, name.clone());
            if !self.cidrs.is_empty() && !self.cidrs.iter().any(|cidr| cidr.contains(&ip)) {
                let message = format!(
                    "{ip} is in no service CIDR ({}); it is used",
                    join(self.cidrs)
                );
                self.push(Severity::Warning, name, service, "spec.clusterIPs", message);
            }
        }
        self.taken.retain(|_, holder| !refused.contains(holder));
        refused
    }

    /// Reserves what services were given before, as far as nobody asks for it now.
    fn keep(&mut self, wanting: &[Wanting<'_>]) -> BTreeMap<(ObjectName, Family), IpAddr> {
        let mut kept = BTreeMap::new();
        for (name, service, families) in wanting {
            for family in to_allocate(&service.object, families) {
                let Some(ip) = self.previous.of(name, family) else {
                    continue;
                };
                match self.taken.get(&ip) {
                    None if self.cidrs.iter().any(|cidr| cidr.contains(&ip)) => {
                        self.taken.insert(ip, (*name).clone());
                        kept.insert(((*name).clone(), family), ip);
                    }
                    None => {}
                    Some(holder) => {
                        let message = format!(
                            "{ip}, which was allocated to it, is asked for by Service {holder}; it \
                             gets another"
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
        name: &ObjectName,
        service: &Located<Service>,
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
            self.taken.insert(ip, name.clone());
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
        let ranges: Vec<Range> = self
            .cidrs
            .iter()
            .filter(|cidr| family_of(cidr.addr()) == family)
            .map(|cidr| Range::new(*cidr))
            .collect();
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

/// Addresses of a prefix that may be given out, by offset: without the network's own address, and
/// for IPv4 without the broadcast address.
struct Range {
    first: IpAddr,
    size: u128,
    static_band: u128,
}

impl Range {
    fn new(cidr: IpNet) -> Self {
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let all = 1_u128.checked_shl(host_bits.min(127)).unwrap_or(u128::MAX);
        let reserved = if family_of(cidr.addr()) == Family::V4 {
            2
        } else {
            1
        };
        Self {
            first: cidr.network(),
            size: all.saturating_sub(reserved),
            static_band: if all <= 16 {
                0
            } else {
                (all / 16).clamp(16, 256)
            },
        }
    }

    fn address(&self, offset: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => {
                // An offset into an IPv4 prefix has at most 32 bits.
                let offset = u32::try_from(offset + 1).unwrap_or(u32::MAX);
                Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into()
            }
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset + 1)).into(),
        }
    }
}

/// Addresses that the manifest asks for.
fn explicit_ips(service: &Service) -> &[IpAddr] {
    match &service.spec.cluster_ips {
        ClusterIps::Explicit(ips) => ips,
        ClusterIps::Allocate | ClusterIps::Headless => &[],
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
