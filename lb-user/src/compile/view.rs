//! What `kubectl get services` and `kubectl get endpoints` would print, as values.
//!
//! Columns hold the texts that kubectl prints; the fields beside them hold the same for programs.

use std::collections::BTreeSet;

use lb_common::net::addr::Family;
use serde::Serialize;

use crate::{
    alloc::Addresses,
    model::{
        endpoint::{AddressType, EndpointSlice},
        object::Labels,
        service::{Service, ServicePort, ServiceType},
    },
};

/// What stands in a column that is empty.
const NONE: &str = "<none>";
/// Endpoints that kubectl prints before it counts the rest.
const MAX_LISTED: usize = 3;

/// One row of `get services`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// NAMESPACE.
    pub namespace: String,
    /// NAME.
    pub name: String,
    /// TYPE.
    #[serde(rename = "type")]
    pub service_type: String,
    /// CLUSTER-IP: the primary address, `None` or `<none>`.
    pub cluster_ip: String,
    /// EXTERNAL-IP.
    pub external_ip: String,
    /// PORT(S).
    pub ports: String,
    /// AGE counts from here (RFC 3339), where the manifest has it.
    pub created: Option<String>,
    /// SELECTOR of the wide form.
    pub selector: Labels,
    /// All `ClusterIP`s, primary first.
    pub cluster_ips: Vec<String>,
}

impl ServiceView {
    pub(super) fn new(service: &Service, addresses: &Addresses) -> Self {
        let cluster_ips: Vec<_> = addresses.ips.iter().map(ToString::to_string).collect();
        let cluster_ip = match cluster_ips.first() {
            Some(first) => first.clone(),
            None if service.is_headless() => "None".to_owned(),
            None => NONE.to_owned(),
        };
        Self {
            namespace: service.meta.name.namespace.to_string(),
            name: service.meta.name.name.to_string(),
            service_type: service.spec.service_type.to_string(),
            cluster_ip,
            external_ip: external_ip(service),
            ports: or_none(
                service
                    .spec
                    .ports
                    .iter()
                    .map(port)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            created: service.meta.created.clone(),
            selector: service.spec.selector.clone(),
            cluster_ips,
        }
    }
}

fn external_ip(service: &Service) -> String {
    let spec = &service.spec;
    let mut addresses: Vec<String> = spec.external_ips.iter().map(ToString::to_string).collect();
    match spec.service_type {
        ServiceType::ExternalName => or_none(spec.external_name.clone().unwrap_or_default()),
        ServiceType::ClusterIp | ServiceType::NodePort => or_none(addresses.join(",")),
        ServiceType::LoadBalancer => {
            addresses.splice(0..0, service.ingress.iter().map(ToString::to_string));
            if addresses.is_empty() {
                "<pending>".to_owned()
            } else {
                addresses.join(",")
            }
        }
    }
}

fn port(port: &ServicePort) -> String {
    match port.node_port {
        Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
        None => format!("{}/{}", port.port, port.protocol),
    }
}

/// One row of `get endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointsView {
    /// NAMESPACE.
    pub namespace: String,
    /// NAME, which is the service's.
    pub name: String,
    /// ENDPOINTS: the first three ready ones of the primary family, and how many more.
    pub endpoints: String,
    /// AGE counts from here (RFC 3339), where the manifest has it.
    pub created: Option<String>,
    /// All ready ones, the primary family first.
    pub ready: Vec<String>,
}

impl EndpointsView {
    /// The row, if the service has endpoints in a cluster: an alias has none.
    pub(super) fn new(
        service: &Service,
        families: &[Family],
        slices: &[EndpointSlice],
    ) -> Option<Self> {
        if service.is_external_name() {
            return None;
        }
        let mut lists = families.iter().map(|family| ready(slices, *family));
        let primary = lists.next().unwrap_or_default();
        let endpoints = summary(&primary);
        Some(Self {
            namespace: service.meta.name.namespace.to_string(),
            name: service.meta.name.name.to_string(),
            endpoints,
            created: service.meta.created.clone(),
            ready: primary.into_iter().chain(lists.flatten()).collect(),
        })
    }
}

/// Ready endpoints of a family, sorted by address; without ports, the address alone.
fn ready(slices: &[EndpointSlice], family: Family) -> Vec<String> {
    let mut found = BTreeSet::new();
    for slice in slices
        .iter()
        .filter(|slice| slice.address_type == AddressType::Ip(family))
    {
        let endpoints = slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.conditions.ready);
        for ip in endpoints.filter_map(|endpoint| endpoint.addresses.first()) {
            let ports = slice.ports.iter().filter_map(|port| port.port);
            found.extend(ports.map(|port| (*ip, Some(port))));
            if slice.ports.is_empty() {
                found.insert((*ip, None));
            }
        }
    }
    let text = |(ip, port): (std::net::IpAddr, Option<u16>)| match port {
        Some(port) => std::net::SocketAddr::new(ip, port).to_string(),
        None => ip.to_string(),
    };
    found.into_iter().map(text).collect()
}

fn summary(endpoints: &[String]) -> String {
    let listed = endpoints
        .iter()
        .take(MAX_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    match endpoints.len().saturating_sub(MAX_LISTED) {
        0 => or_none(listed),
        more => format!("{listed} + {more} more..."),
    }
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        NONE.to_owned()
    } else {
        text
    }
}
