//! Addresses for clients outside: node ports, `externalIPs`, addresses of load balancers.
//!
//! An address and port belong to one service. A `ClusterIP` is never given away, whoever asks for it from
//! outside; of two others the one whose name comes first has it.

use std::{
    collections::{
        BTreeMap, BTreeSet,
        btree_map::{Entry, OccupiedEntry},
    },
    net::IpAddr,
};

use ipnet::IpNet;
use lb_common::net::addr::Family;

use super::{NodeFacts, NodePortAddresses, frontend};
use crate::{
    alloc::Addresses,
    desired::{Frontend, FrontendKind, Protocol},
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef, family_of},
        service::{IpMode, Service, ServicePort, ServiceType},
    },
};

/// An address and port that services ask for.
type Key = (IpAddr, u16, Protocol);

/// Who asks for which address and port, from one snapshot to the next. The first one has it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Addresses and ports.
    ports: BTreeMap<Key, Claimants>,
    /// Addresses by themselves, which answer pings, but for the node's own.
    addresses: BTreeMap<IpAddr, Claimants>,
}

/// Who asks for one thing, sorted. Mostly there is one.
type Claimants = Vec<Claimant>;

/// A port of a service that asks for something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    /// Whether it is no `ClusterIP`.
    is_outside: bool,
    service: ObjectName,
    /// Which of the service's ports it is, from zero.
    port: usize,
}

impl Claims {
    /// Takes notice of what a service asks for. Adds to `affected` whose part of it may be another now.
    pub(super) fn put(&mut self, asking: &Asking<'_>, affected: &mut BTreeSet<ObjectName>) {
        for (key, claimant, is_pinged) in asking.claims() {
            if is_pinged {
                let claimants = self.addresses.entry(key.0).or_default();
                put(claimants, claimant.clone(), affected);
            }
            put(self.ports.entry(key).or_default(), claimant, affected);
        }
    }

    /// Forgets what a service asked for; else like [`Self::put`].
    pub(super) fn remove(&mut self, asking: &Asking<'_>, affected: &mut BTreeSet<ObjectName>) {
        for (key, claimant, _) in asking.claims() {
            if let Entry::Occupied(entry) = self.ports.entry(key) {
                remove(entry, &claimant, affected);
            }
            if let Entry::Occupied(entry) = self.addresses.entry(key.0) {
                remove(entry, &claimant, affected);
            }
        }
    }
}

fn put(claimants: &mut Claimants, claimant: Claimant, affected: &mut BTreeSet<ObjectName>) {
    let Err(at) = claimants.binary_search(&claimant) else {
        return;
    };
    if at == 0 {
        affected.extend(claimants.iter().map(|other| other.service.clone()));
    }
    if claimants.is_empty() {
        claimants.reserve_exact(1);
    }
    claimants.insert(at, claimant);
}

fn remove<K: Ord>(
    mut entry: OccupiedEntry<'_, K, Claimants>,
    claimant: &Claimant,
    affected: &mut BTreeSet<ObjectName>,
) {
    let claimants = entry.get_mut();
    let Ok(at) = claimants.binary_search(claimant) else {
        return;
    };
    claimants.remove(at);
    if at == 0 {
        affected.extend(claimants.iter().map(|other| other.service.clone()));
    }
    if claimants.is_empty() {
        entry.remove();
    }
}

/// One service, and what the addresses that it asks for follow from.
#[derive(Clone, Copy)]
pub(super) struct Asking<'a> {
    pub(super) service: &'a Located<Service>,
    pub(super) addresses: &'a Addresses,
    pub(super) facts: &'a NodeFacts,
}

/// An address and port for clients outside, what it is, and the field that asks for it.
type Asked = (IpAddr, u16, FrontendKind, &'static str);

impl Asking<'_> {
    fn name(&self) -> &ObjectName {
        &self.service.object.meta.name
    }

    fn claimant(&self, is_outside: bool, port: usize) -> Claimant {
        Claimant {
            is_outside,
            service: self.name().clone(),
            port,
        }
    }

    /// Its ports with their places, if it is served.
    fn served(&self) -> impl Iterator<Item = (usize, &ServicePort)> {
        let service = &self.service.object;
        let ports = service.spec.ports.iter().enumerate();
        ports.filter(move |_| frontend::is_served(service))
    }

    /// What it asks for, and whether that asks for the pings to the address, too.
    fn claims(&self) -> impl Iterator<Item = (Key, Claimant, bool)> {
        self.served().flat_map(move |(index, port)| {
            let key = move |addr, number| (addr, number, port.protocol);
            let ips = self.addresses.ips.iter();
            let own = ips.map(move |ip| (key(*ip, port.port), self.claimant(false, index), true));
            let families = self.addresses.families.iter();
            let asked = families.flat_map(move |family| self.asked_for(port, *family));
            let outside = asked.map(move |(addr, number, kind, _)| {
                let is_pinged = !self.is_of_node(addr, kind);
                (key(addr, number), self.claimant(true, index), is_pinged)
            });
            own.chain(outside)
        })
    }

    /// Whether the node answers pings to it by itself.
    fn is_of_node(&self, addr: IpAddr, kind: FrontendKind) -> bool {
        kind == FrontendKind::NodePort || self.facts.addresses.contains(&addr)
    }

    /// The addresses for clients outside that a port gets in a family; what another one has is a finding.
    pub(super) fn frontends(
        &self,
        claims: &Claims,
        port: &ServicePort,
        family: Family,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<Frontend> {
        let ports = &self.service.object.spec.ports;
        let index = ports.iter().position(|it| it.name == port.name);
        let own = self.claimant(true, index.unwrap_or_default());
        let mut kinds = BTreeMap::new();
        for (addr, number, kind, field) in self.asked_for(port, family) {
            let key = (addr, number, port.protocol);
            let holder = claims.ports.get(&key).and_then(|them| them.first());
            if let Some(holder) = holder.filter(|holder| **holder != own) {
                findings.push(self.clash(key, holder, field));
            } else {
                // The first kind wins: source ranges guard a load balancer's address by any other name.
                kinds.entry((addr, number)).or_insert(kind);
            }
        }
        let is_pinged = |addr: IpAddr, kind: FrontendKind| {
            let holder = claims.addresses.get(&addr).and_then(|them| them.first());
            !self.is_of_node(addr, kind) && holder == Some(&own)
        };
        let pinged: Vec<_> = kinds
            .iter()
            .filter(|((addr, _), kind)| is_pinged(*addr, **kind))
            .map(|((addr, _), _)| Frontend {
                addr: *addr,
                port: 0,
                kind: FrontendKind::Address,
            })
            .collect();
        let frontends = kinds.into_iter();
        frontends
            .map(|((addr, port), kind)| Frontend { addr, port, kind })
            .chain(pinged)
            .collect()
    }

    fn clash(&self, (addr, number, protocol): Key, holder: &Claimant, field: &str) -> Finding {
        let own = self.name();
        let ports = &self.service.object.spec.ports;
        let owner = match ports.get(holder.port) {
            Some(port) if holder.service == *own => format!("port `{}` of this service", port.name),
            _ => format!("Service {}", holder.service),
        };
        let message = format!(
            "{addr} port {number}/{protocol} belongs to {owner} already; it is not served here"
        );
        let reference = ObjectRef {
            kind: Kind::Service,
            name: own.clone(),
        };
        let about = (&reference, self.service);
        Finding::about(Severity::Error, about, field, message)
    }

    /// What a port asks for in a family for clients outside. Its own `ClusterIP` stays one, whatever else it is called.
    fn asked_for(&self, port: &ServicePort, family: Family) -> Vec<Asked> {
        let service = &self.service.object;
        let balanced = balancer_addresses(service).map(|addr| {
            let kind = FrontendKind::LoadBalancer;
            (addr, port.port, kind, "status.loadBalancer.ingress")
        });
        let external = service.spec.external_ips.iter().map(|addr| {
            let kind = FrontendKind::ExternalIp;
            (*addr, port.port, kind, "spec.externalIPs")
        });
        let node_port = self.addresses.node_ports.get(&*port.name);
        let nodes = node_addresses(self.facts).filter_map(|addr| {
            let kind = FrontendKind::NodePort;
            Some((addr, *node_port?, kind, "spec.ports[].nodePort"))
        });
        balanced
            .chain(external)
            .chain(nodes)
            .filter(|(addr, ..)| family_of(*addr) == family)
            .filter(|(addr, number, ..)| {
                !(self.addresses.ips.contains(addr) && *number == port.port)
            })
            .collect()
    }
}

/// Addresses of load balancers that nodes answer on. One behind a proxy leads to nodes by their own addresses.
fn balancer_addresses(service: &Service) -> impl Iterator<Item = IpAddr> {
    let is_balanced = service.spec.service_type == ServiceType::LoadBalancer;
    let ingress = service.ingress.iter().filter(move |_| is_balanced);
    ingress
        .filter(|ingress| ingress.ip_mode != Some(IpMode::Proxy))
        .filter_map(|ingress| ingress.ip)
}

/// The node's addresses that answer on node ports. That of the IPv6 loopback never does, as with kube-proxy.
fn node_addresses(facts: &NodeFacts) -> impl Iterator<Item = IpAddr> {
    let is_usable = |addr: &IpAddr| match addr {
        IpAddr::V4(addr) => !addr.is_unspecified() && !addr.is_multicast(),
        IpAddr::V6(addr) => {
            !(addr.is_loopback()
                || addr.is_unspecified()
                || addr.is_multicast()
                || addr.is_unicast_link_local())
        }
    };
    let is_chosen = |addr: &IpAddr| match &facts.node_port_addresses {
        NodePortAddresses::All => true,
        NodePortAddresses::Primary => facts.primary.contains(addr),
        NodePortAddresses::Inside(prefixes) => is_inside(prefixes, *addr),
    };
    let own = facts.addresses.iter().copied();
    own.filter(is_usable).filter(is_chosen)
}

/// A family without any prefix is not limited, as with kube-proxy.
fn is_inside(prefixes: &[IpNet], addr: IpAddr) -> bool {
    let family = family_of(addr);
    let mut of_family = prefixes
        .iter()
        .filter(|prefix| family_of(prefix.addr()) == family)
        .peekable();
    of_family.peek().is_none() || of_family.any(|prefix| prefix.contains(&addr))
}

/// Who may dial the addresses of load balancers of a family; empty: everybody.
///
/// Where the node itself may, so may these addresses: a request of the node to an address that is also on one of
/// its devices has that address as its source.
pub(super) fn source_ranges(
    service: &Service,
    family: Family,
    facts: &NodeFacts,
) -> BTreeSet<IpNet> {
    let ranges = service.spec.load_balancer_source_ranges.iter();
    let mut ranges: BTreeSet<IpNet> = ranges
        .map(IpNet::trunc)
        .filter(|range| family_of(range.addr()) == family)
        .collect();
    let mut balanced = balancer_addresses(service)
        .filter(|addr| family_of(*addr) == family)
        .peekable();
    if balanced.peek().is_none() || ranges.iter().any(|range| range.prefix_len() == 0) {
        return BTreeSet::new();
    }
    let holds_node = |range: &IpNet| facts.primary.iter().any(|addr| range.contains(addr));
    if ranges.iter().any(holds_node) {
        ranges.extend(balanced.map(IpNet::from));
    }
    ranges
}
