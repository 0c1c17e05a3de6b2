//! Addresses for clients outside: node ports, `externalIPs`, addresses of load balancers.
//!
//! An address and port belong to one service. A `ClusterIP` is never given away, whoever asks for it from
//! outside; of two others the one whose name comes first has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::net::addr::Family;

use super::{NodeFacts, frontend};
use crate::{
    alloc::Addresses,
    desired::{Frontend, FrontendKind, Protocol},
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef, family_of},
        service::{IpMode, Service, ServicePort, ServiceType, TrafficPolicy},
    },
    store::Snapshot,
};

/// Which service has which address and port.
#[derive(Debug, Default)]
pub(super) struct Taken<'a>(BTreeMap<(IpAddr, u16, Protocol), &'a ObjectName>);

impl<'a> Taken<'a> {
    /// All `ClusterIP`s.
    pub(super) fn new(snapshot: &'a Snapshot, addresses: &BTreeMap<ObjectName, Addresses>) -> Self {
        let mut taken = BTreeMap::new();
        for (name, service) in &snapshot.services {
            let service = &service.object;
            let Some(addresses) = addresses.get(name).filter(|_| frontend::is_served(service))
            else {
                continue;
            };
            for ip in &addresses.ips {
                let ports = service.spec.ports.iter();
                taken.extend(ports.map(|port| ((*ip, port.port, port.protocol), name)));
            }
        }
        Self(taken)
    }

    /// The addresses for clients outside that a port gets; what another service has is a finding.
    pub(super) fn external(
        &mut self,
        (name, service): (&'a ObjectName, &Located<Service>),
        port: &ServicePort,
        family: Family,
        facts: &NodeFacts,
        findings: &mut Vec<Finding>,
    ) -> BTreeSet<Frontend> {
        let mut frontends = BTreeSet::new();
        for (addr, number, kind, field) in asked_for(&service.object, port, family, facts) {
            let holder = *self.0.entry((addr, number, port.protocol)).or_insert(name);
            if holder == name {
                frontends.insert(Frontend {
                    addr,
                    port: number,
                    kind,
                });
                continue;
            }
            let reference = ObjectRef {
                kind: Kind::Service,
                name: name.clone(),
            };
            let message = format!(
                "{addr} port {number}/{} belongs to Service {holder} already; it is not served here",
                port.protocol
            );
            findings.push(Finding::about(
                Severity::Error,
                (&reference, service),
                field,
                message,
            ));
        }
        frontends
    }
}

/// Why a service's addresses for clients outside are not served, and the field that says so.
///
/// To serve them otherwise than asked for would let in, or lead elsewhere, what the service keeps out.
pub(super) fn obstacle(service: &Service) -> Option<(&'static str, &'static str)> {
    if service.spec.external_traffic_policy == TrafficPolicy::Local {
        return Some((
            "spec.externalTrafficPolicy",
            "the policy Local is not applied yet; only the ClusterIP is served",
        ));
    }
    None
}

/// The same for the addresses of a load balancer alone.
pub(super) fn balancer_obstacle(service: &Service) -> Option<(&'static str, &'static str)> {
    (!service.spec.load_balancer_source_ranges.is_empty()).then_some((
        "spec.loadBalancerSourceRanges",
        "source ranges are not applied yet; the addresses of the load balancer are not served",
    ))
}

/// Addresses and port numbers of a family, and the field that asks for each.
fn asked_for(
    service: &Service,
    port: &ServicePort,
    family: Family,
    facts: &NodeFacts,
) -> Vec<(IpAddr, u16, FrontendKind, &'static str)> {
    let spec = &service.spec;
    if obstacle(service).is_some() {
        return Vec::new();
    }
    let has_node_ports = matches!(
        spec.service_type,
        ServiceType::NodePort | ServiceType::LoadBalancer
    );
    let node_port = port.node_port.filter(|_| has_node_ports);
    let nodes = facts.addresses.iter();
    let nodes = nodes.filter_map(|addr| {
        let kind = FrontendKind::NodePort;
        node_port.map(|number| (*addr, number, kind, "spec.ports[].nodePort"))
    });
    let external = spec.external_ips.iter();
    let kind = FrontendKind::ExternalIp;
    let external = external.map(|addr| (*addr, port.port, kind, "spec.externalIPs"));
    let is_balanced =
        spec.service_type == ServiceType::LoadBalancer && balancer_obstacle(service).is_none();
    let ingress = service.ingress.iter().filter(|_| is_balanced);
    let ingress = ingress
        .filter(|ingress| ingress.ip_mode != Some(IpMode::Proxy))
        .filter_map(|ingress| ingress.ip)
        .map(|addr| {
            let kind = FrontendKind::LoadBalancer;
            (addr, port.port, kind, "status.loadBalancer.ingress")
        });
    nodes
        .chain(external)
        .chain(ingress)
        .filter(|(addr, ..)| family_of(*addr) == family)
        .collect()
}
