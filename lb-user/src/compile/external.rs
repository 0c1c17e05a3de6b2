//! Addresses for clients outside: node ports, `externalIPs`, addresses of load balancers.
//!
//! An address and port belong to one service. A `ClusterIP` is never given away, whoever asks for it from
//! outside; of two others the one whose name comes first has it.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    shared_map::SharedMap,
    store::Snapshot,
};

/// What belongs to which port of which service.
#[derive(Debug, Default)]
pub(super) struct Taken<'a> {
    /// Addresses and ports.
    ports: BTreeMap<(IpAddr, u16, Protocol), Owner<'a>>,
    /// Addresses by themselves, which answer pings; `None`: a `ClusterIP`.
    addresses: BTreeMap<IpAddr, Option<Owner<'a>>>,
}

/// A service and the name of one of its ports.
type Owner<'a> = (&'a ObjectName, &'a str);

impl<'a> Taken<'a> {
    /// All `ClusterIP`s.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        addresses: &SharedMap<ObjectName, Addresses>,
    ) -> Self {
        let mut taken = Self::default();
        for (name, service) in &snapshot.services {
            let service = &service.object;
            let Some(addresses) = addresses.get(name).filter(|_| frontend::is_served(service))
            else {
                continue;
            };
            for ip in &addresses.ips {
                taken.addresses.insert(*ip, None);
                let ports = service.spec.ports.iter();
                taken.ports.extend(ports.map(|port| {
                    let owner = (name, &*port.name);
                    ((*ip, port.port, port.protocol), owner)
                }));
            }
        }
        taken
    }

    /// The addresses for clients outside of one service.
    pub(super) fn outside<'t>(
        &'t mut self,
        (name, service): (&'a ObjectName, &'a Located<Service>),
        addresses: &'t Addresses,
        facts: &'t NodeFacts,
    ) -> Outside<'t, 'a> {
        Outside {
            taken: self,
            name,
            service,
            addresses,
            facts,
        }
    }
}

/// One service, and what its addresses for clients outside follow from.
pub(super) struct Outside<'t, 'a> {
    taken: &'t mut Taken<'a>,
    name: &'a ObjectName,
    service: &'a Located<Service>,
    addresses: &'t Addresses,
    facts: &'t NodeFacts,
}

/// An address and port, what it is, and the field that asks for it.
type Asked = (IpAddr, u16, FrontendKind, &'static str);

impl<'a> Outside<'_, 'a> {
    /// The addresses that a port gets in a family; what another one has is a finding.
    pub(super) fn frontends(
        &mut self,
        port: &'a ServicePort,
        family: Family,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<Frontend> {
        let mut kinds = BTreeMap::new();
        for (addr, number, kind, field) in self.asked_for(port, family) {
            if self.addresses.ips.contains(&addr) && number == port.port {
                // The service's own ClusterIP stays one, whatever else it is called.
                continue;
            }
            let owner = (self.name, &*port.name);
            let key = (addr, number, port.protocol);
            let holder = *self.taken.ports.entry(key).or_insert(owner);
            if holder == owner {
                // The first kind wins: source ranges guard a load balancer's address by any other name.
                kinds.entry((addr, number)).or_insert(kind);
            } else {
                findings.push(self.clash(key, holder, field));
            }
        }
        let pinged: Vec<_> = kinds
            .iter()
            .filter(|((addr, _), kind)| self.answers_pings(port, *addr, **kind))
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

    /// Whether this port's entry is the one that answers pings to an address. The node answers at its own ones.
    fn answers_pings(&mut self, port: &'a ServicePort, addr: IpAddr, kind: FrontendKind) -> bool {
        let is_of_node = kind == FrontendKind::NodePort || self.facts.addresses.contains(&addr);
        let owner = Some((self.name, &*port.name));
        !is_of_node && *self.taken.addresses.entry(addr).or_insert(owner) == owner
    }

    fn clash(
        &self,
        (addr, number, protocol): (IpAddr, u16, Protocol),
        (holder, port): Owner<'_>,
        field: &str,
    ) -> Finding {
        let owner = if holder == self.name {
            format!("port `{port}` of this service")
        } else {
            format!("Service {holder}")
        };
        let message = format!(
            "{addr} port {number}/{protocol} belongs to {owner} already; it is not served here"
        );
        let reference = ObjectRef {
            kind: Kind::Service,
            name: self.name.clone(),
        };
        let about = (&reference, self.service);
        Finding::about(Severity::Error, about, field, message)
    }

    /// What a port asks for in a family.
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
