//! What lies outside of the cluster: `externalIPs` and the load balancer's part.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;

use super::{
    super::{Remarks, address, name, port, protocol},
    no_choice, only_for,
};
use crate::model::{
    object::Annotations,
    service::{Ingress, IngressPort, IpMode, ServiceType, TrafficPolicy},
};

/// The annotation that `loadBalancerSourceRanges` grew out of.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn external_ips(raw: &core::ServiceSpec, remarks: &mut Remarks) -> Vec<IpAddr> {
    (0..)
        .zip(raw.external_ips.as_deref().unwrap_or_default())
        .filter_map(|(index, text): (usize, _)| {
            address::endpoint_ip(text, &format!("spec.externalIPs[{index}]"), remarks)
        })
        .collect()
}

/// `loadBalancerSourceRanges`; the annotation of old is checked, and no proxy looks at it. Both may be
/// padded with blanks.
pub(super) fn source_ranges(
    raw: &core::ServiceSpec,
    annotations: &Annotations,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Vec<IpNet> {
    const FIELD: &str = "spec.loadBalancerSourceRanges";
    let given = raw
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    let annotation = annotations.get(SOURCE_RANGES);
    let (field, is_given) = match annotation {
        Some(_) if given.is_empty() => ("metadata.annotations", true),
        _ => (FIELD, !given.is_empty()),
    };
    if is_given && service_type != ServiceType::LoadBalancer {
        remarks.error(field, only_for(service_type, ServiceType::LoadBalancer));
    }
    if let Some(annotation) = annotation.filter(|text| given.is_empty() && !text.trim().is_empty())
    {
        for text in annotation.split(',') {
            address::cidr(text.trim(), field, remarks);
        }
    }
    (0..)
        .zip(given)
        .filter_map(|(index, text): (usize, _)| {
            address::range(text.trim(), &format!("{FIELD}[{index}]"), remarks)
        })
        .collect()
}

pub(super) fn class(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Option<String> {
    const FIELD: &str = "spec.loadBalancerClass";
    let class = raw.load_balancer_class.as_ref()?;
    if service_type == ServiceType::LoadBalancer {
        name::want_qualified(class, "name for a class", FIELD, remarks);
    } else {
        remarks.error(FIELD, only_for(service_type, ServiceType::LoadBalancer));
    }
    Some(class.clone())
}

/// `allocateLoadBalancerNodePorts`, which is true where a load balancer does not say otherwise.
pub(super) fn allocate_node_ports(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Option<bool> {
    let given = raw.allocate_load_balancer_node_ports;
    if service_type == ServiceType::LoadBalancer {
        return Some(given.unwrap_or(true));
    }
    if given.is_some() {
        let message = only_for(service_type, ServiceType::LoadBalancer);
        remarks.error("spec.allocateLoadBalancerNodePorts", message);
    }
    None
}

pub(super) fn health_check_node_port(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    policy: TrafficPolicy,
    remarks: &mut Remarks,
) -> Option<u16> {
    const FIELD: &str = "spec.healthCheckNodePort";
    let number = raw.health_check_node_port.filter(|number| *number != 0)?;
    if service_type != ServiceType::LoadBalancer || policy != TrafficPolicy::Local {
        // The API refuses new objects like this, and kube-proxy takes them as this does.
        let message = format!(
            "{number} needs `type: LoadBalancer` and `externalTrafficPolicy: Local`; it is not used"
        );
        remarks.warning(FIELD, message);
        return None;
    }
    port(number, FIELD, remarks)
}

/// `status.loadBalancer.ingress`. A faulty entry is not used; the API would have kept it out of the status,
/// with the spec unharmed.
pub(super) fn ingress(
    raw: Vec<core::LoadBalancerIngress>,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Vec<Ingress> {
    const FIELD: &str = "status.loadBalancer.ingress";
    if !raw.is_empty() && service_type != ServiceType::LoadBalancer {
        let message = only_for(service_type, ServiceType::LoadBalancer);
        remarks.warning(FIELD, format!("{message}; it is not used"));
        return Vec::new();
    }
    let mut entries = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let mut of_entry = Remarks::default();
        let entry = ingress_entry(raw, &format!("{FIELD}[{index}]"), &mut of_entry);
        if !of_entry.reject() {
            entries.push(entry);
        }
        remarks.take_as_warnings(of_entry);
    }
    entries
}

fn ingress_entry(raw: core::LoadBalancerIngress, field: &str, remarks: &mut Remarks) -> Ingress {
    let text = raw.ip.as_deref().filter(|text| !text.is_empty());
    let ip = text.and_then(|text| address::ip(text, &format!("{field}.ip"), remarks));
    let mode_field = format!("{field}.ipMode");
    let ip_mode = match raw.ip_mode.as_deref() {
        None => text.map(|_| IpMode::Vip),
        Some(mode) if text.is_none() => {
            let message = format!("`{mode}` is of no use without `ip`");
            remarks.error(&mode_field, message);
            None
        }
        Some("VIP") => Some(IpMode::Vip),
        Some("Proxy") => Some(IpMode::Proxy),
        Some(other) => {
            remarks.error(&mode_field, no_choice(other, "mode", &["VIP", "Proxy"]));
            None
        }
    };
    let hostname = raw.hostname.filter(|text| !text.is_empty());
    if let Some(hostname) = &hostname {
        let field = format!("{field}.hostname");
        if hostname.parse::<IpAddr>().is_ok() {
            let message = format!("`{hostname}` is an address; write it in `ip`");
            remarks.error(&field, message);
        } else {
            name::want_subdomain(hostname, "a host", &field, remarks);
        }
    }
    Ingress {
        ip,
        hostname,
        ip_mode,
        ports: (0..)
            .zip(raw.ports.unwrap_or_default())
            .filter_map(|(index, raw): (usize, _)| {
                let field = format!("{field}.ports[{index}]");
                Some(IngressPort {
                    protocol: protocol(Some(&raw.protocol), &format!("{field}.protocol"), remarks),
                    port: port(raw.port, &format!("{field}.port"), remarks)?,
                    error: raw.error,
                })
            })
            .collect(),
    }
}
