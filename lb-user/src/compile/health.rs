//! What a service's health check port says: whether this node has endpoints of its own for it.
//!
//! A load balancer outside asks each node, and sends clients of a service with `externalTrafficPolicy: Local` only
//! where somebody is ready. Endpoints that still serve while they terminate do not count, though they take what still
//! arrives: so balancers turn away before they end.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use super::endpoint;
use crate::{
    alloc::Addresses,
    model::{
        endpoint::EndpointSlice,
        service::{Service, ServiceType, TrafficPolicy},
    },
};

/// What one service says on its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// Addresses of ready endpoints on this node, over all ports and families.
    pub n_local: usize,
}

/// What a service says on the node of this name; nothing if it has no health check port.
pub(super) fn check(
    service: &Service,
    addresses: &Addresses,
    slices: &[Cow<'_, EndpointSlice>],
    node: &str,
) -> Option<HealthCheck> {
    let port = port(service, addresses)?;
    let mut local: BTreeSet<IpAddr> = BTreeSet::new();
    for service_port in &service.spec.ports {
        for family in &addresses.families {
            let endpoints = endpoint::merge(slices, service_port, *family);
            let ready = endpoints.into_iter().filter(|(_, endpoint)| {
                endpoint.conditions.ready && endpoint.node_name.as_deref() == Some(node)
            });
            local.extend(ready.map(|(address, _)| address.ip()));
        }
    }
    Some(HealthCheck {
        port,
        n_local: local.len(),
    })
}

/// The port, where the type and the policy ask for one.
fn port(service: &Service, addresses: &Addresses) -> Option<u16> {
    let spec = &service.spec;
    let has_one = spec.service_type == ServiceType::LoadBalancer
        && spec.external_traffic_policy == TrafficPolicy::Local;
    addresses.health_check_node_port.filter(|_| has_one)
}
