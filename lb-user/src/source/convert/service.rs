//! Services.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};
use lb_common::net::addr::Family;

use super::{Remarks, address, is_label, meta, port, protocol};
use crate::{
    model::{
        object::{Kind, family_of},
        service::{
            ClusterIps, IpFamilyPolicy, Service, ServicePort, ServiceSpec, ServiceType, TargetPort,
            TrafficPolicy,
        },
    },
    source::spelling,
};

/// Seconds of client affinity where none are given.
const DEFAULT_AFFINITY_TIMEOUT_S: i32 = 10_800;
/// Longest client affinity: one day.
const MAX_AFFINITY_TIMEOUT_S: i32 = 86_400;
/// Longest name of a container port (RFC 6335 §5.1).
const MAX_PORT_NAME: usize = 15;

/// A Service.
pub(crate) fn service(raw: core::Service, remarks: &mut Remarks) -> Option<Service> {
    let meta = meta(Kind::Service, raw.metadata, remarks);
    let Some(mut raw_spec) = raw.spec else {
        remarks.error("spec", "the field is missing; a service needs `spec.ports`");
        return None;
    };
    let ingress = raw
        .status
        .and_then(|status| status.load_balancer)
        .and_then(|balancer| balancer.ingress)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|ingress| ingress.ip.or(ingress.hostname))
        .collect();
    let service_type = service_type(raw_spec.type_.as_deref(), remarks);
    let cluster_ips = cluster_ips(&raw_spec, service_type, remarks);
    let ip_families = ip_families(&raw_spec, &cluster_ips, remarks);
    let ip_family_policy = ip_family_policy(&raw_spec, &ip_families, &cluster_ips, remarks);
    let ports = raw_spec.ports.take().unwrap_or_default();
    let spec = ServiceSpec {
        service_type,
        ports: service_ports(ports, service_type, &cluster_ips, remarks),
        affinity_timeout_s: affinity(&raw_spec, remarks),
        internal_traffic_policy: traffic_policy(
            raw_spec.internal_traffic_policy.as_deref(),
            "spec.internalTrafficPolicy",
            remarks,
        ),
        external_traffic_policy: external_traffic_policy(&raw_spec, service_type, remarks),
        external_name: external_name(&raw_spec, service_type, remarks),
        external_ips: (0..)
            .zip(raw_spec.external_ips.as_deref().unwrap_or_default())
            .filter_map(|(index, text): (usize, _)| {
                address::endpoint_ip(text, &format!("spec.externalIPs[{index}]"), remarks)
            })
            .collect(),
        selector: raw_spec.selector.unwrap_or_default(),
        publish_not_ready_addresses: raw_spec.publish_not_ready_addresses.unwrap_or(false),
        cluster_ips,
        ip_families,
        ip_family_policy,
    };
    Some(Service {
        meta,
        spec,
        ingress,
    })
}

fn service_type(text: Option<&str>, remarks: &mut Remarks) -> ServiceType {
    match text {
        None | Some("ClusterIP" | "") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
            let hint = spelling::hint(other, types);
            remarks.error(
                "spec.type",
                format!("`{other}` is no type of service{hint}"),
            );
            ServiceType::ClusterIp
        }
    }
}

fn cluster_ips(
    spec: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> ClusterIps {
    const FIELD: &str = "spec.clusterIPs";
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let (texts, field): (Vec<&str>, _) = match (single, listed) {
        (None, []) => return ClusterIps::Allocate,
        (Some(single), []) => (vec![single], "spec.clusterIP"),
        (single, [first, ..]) => {
            if let Some(single) = single.filter(|single| *single != first) {
                let message = format!("`{single}` is not the first of `clusterIPs`, `{first}`");
                remarks.error("spec.clusterIP", message);
            }
            (listed.iter().map(String::as_str).collect(), FIELD)
        }
    };
    if service_type == ServiceType::ExternalName {
        remarks.warning(
            field,
            "a service of type ExternalName has no address; it is not used",
        );
        return ClusterIps::Allocate;
    }
    if texts.contains(&"None") {
        if texts.len() > 1 {
            remarks.error(field, "`None` stands alone or not at all");
        }
        if matches!(
            service_type,
            ServiceType::NodePort | ServiceType::LoadBalancer
        ) {
            remarks.error(
                field,
                format!("a service of type {service_type} cannot be headless"),
            );
        }
        return ClusterIps::Headless;
    }
    let ips: Vec<IpAddr> = texts
        .iter()
        .filter_map(|text| address::endpoint_ip(text, field, remarks))
        .collect();
    let families: BTreeSet<Family> = ips.iter().copied().map(family_of).collect();
    if families.len() != ips.len() {
        remarks.error(field, "there can be one address per family");
    }
    ClusterIps::Explicit(ips)
}

fn ip_families(spec: &core::ServiceSpec, ips: &ClusterIps, remarks: &mut Remarks) -> Vec<Family> {
    const FIELD: &str = "spec.ipFamilies";
    let mut families = Vec::new();
    for text in spec.ip_families.iter().flatten() {
        match text.as_str() {
            "IPv4" => families.push(Family::V4),
            "IPv6" => families.push(Family::V6),
            other => remarks.error(FIELD, format!("`{other}` is no family; use IPv4 or IPv6")),
        }
    }
    if families.len() > 2 || (families.len() == 2 && families[0] == families[1]) {
        remarks.error(FIELD, "each family stands here once at most");
    }
    if let ClusterIps::Explicit(ips) = ips
        && let Some((ip, family)) = ips
            .iter()
            .zip(&families)
            .find(|(ip, family)| family_of(**ip) != **family)
    {
        remarks.error(
            FIELD,
            format!("{family} stands where `clusterIPs` has {ip}; use one order"),
        );
    }
    families
}

fn ip_family_policy(
    spec: &core::ServiceSpec,
    families: &[Family],
    ips: &ClusterIps,
    remarks: &mut Remarks,
) -> Option<IpFamilyPolicy> {
    const FIELD: &str = "spec.ipFamilyPolicy";
    let policy = match spec.ip_family_policy.as_deref()? {
        "SingleStack" => IpFamilyPolicy::SingleStack,
        "PreferDualStack" => IpFamilyPolicy::PreferDualStack,
        "RequireDualStack" => IpFamilyPolicy::RequireDualStack,
        other => {
            let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
            let hint = spelling::hint(other, policies);
            remarks.error(FIELD, format!("`{other}` is no policy{hint}"));
            return None;
        }
    };
    let two_ips = matches!(ips, ClusterIps::Explicit(ips) if ips.len() == 2);
    if policy == IpFamilyPolicy::SingleStack && (families.len() == 2 || two_ips) {
        remarks.error(
            FIELD,
            "SingleStack has one family, but two are asked for; use RequireDualStack",
        );
    }
    Some(policy)
}

fn service_ports(
    raw: Vec<core::ServicePort>,
    service_type: ServiceType,
    ips: &ClusterIps,
    remarks: &mut Remarks,
) -> Vec<ServicePort> {
    let may_be_empty = service_type == ServiceType::ExternalName || *ips == ClusterIps::Headless;
    if raw.is_empty() && !may_be_empty {
        remarks.error(
            "spec.ports",
            "the field is missing; a service needs at least one port",
        );
    }
    let several = raw.len() > 1;
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(port) = service_port(raw, &field, remarks) else {
            continue;
        };
        if port.name.is_empty() && several {
            remarks.error(
                &format!("{field}.name"),
                "each port of several needs a name",
            );
        } else if !names.insert(port.name.clone()) {
            let message = format!("`{}` names another port already", port.name);
            remarks.error(&format!("{field}.name"), message);
        }
        if !numbers.insert((port.port, port.protocol)) {
            let message = format!("{}/{} stands here already", port.port, port.protocol);
            remarks.error(&format!("{field}.port"), message);
        }
        ports.push(port);
    }
    ports
}

fn service_port(raw: core::ServicePort, field: &str, remarks: &mut Remarks) -> Option<ServicePort> {
    let name = raw.name.unwrap_or_default();
    if !name.is_empty() && !is_label(&name) {
        let message =
            format!("`{name}` is no name for a port; use lower-case letters, digits and `-`");
        remarks.error(&format!("{field}.name"), message);
    }
    let protocol = protocol(
        raw.protocol.as_deref(),
        &format!("{field}.protocol"),
        remarks,
    );
    let number = port(raw.port, &format!("{field}.port"), remarks);
    let target_field = format!("{field}.targetPort");
    let target_port = match raw.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(number?),
        Some(IntOrString::Int(target)) => TargetPort::Number(port(target, &target_field, remarks)?),
        Some(IntOrString::String(name)) => {
            check_port_name(&name, &target_field, remarks);
            TargetPort::Name(name)
        }
    };
    let node_port = match raw.node_port {
        None | Some(0) => None,
        Some(node_port) => port(node_port, &format!("{field}.nodePort"), remarks),
    };
    Some(ServicePort {
        name,
        protocol,
        port: number?,
        target_port,
        node_port,
    })
}

/// Names of container ports: RFC 6335 §5.1.
fn check_port_name(name: &str, field: &str, remarks: &mut Remarks) {
    if name.parse::<u16>().is_ok() {
        remarks.error(
            field,
            format!("`{name}` is text; write the number without quotes"),
        );
    } else if name.len() > MAX_PORT_NAME
        || !is_label(name)
        || name.contains("--")
        || !name.contains(|c: char| c.is_ascii_lowercase())
    {
        let message = format!(
            "`{name}` is no name for a container port; use at most {MAX_PORT_NAME} lower-case \
             letters, digits and `-`, one letter at least"
        );
        remarks.error(field, message);
    }
}

fn affinity(spec: &core::ServiceSpec, remarks: &mut Remarks) -> Option<u32> {
    const CONFIG: &str = "spec.sessionAffinityConfig";
    let config = spec.session_affinity_config.as_ref();
    match spec.session_affinity.as_deref() {
        None | Some("None" | "") => {
            if config.is_some() {
                remarks.error(CONFIG, "it is for `sessionAffinity: ClientIP` only");
            }
            None
        }
        Some("ClientIP") => {
            let seconds = config
                .and_then(|config| config.client_ip.as_ref())
                .and_then(|client_ip| client_ip.timeout_seconds)
                .unwrap_or(DEFAULT_AFFINITY_TIMEOUT_S);
            if !(1..=MAX_AFFINITY_TIMEOUT_S).contains(&seconds) {
                let message =
                    format!("{seconds} s is no timeout; use 1 to {MAX_AFFINITY_TIMEOUT_S}");
                remarks.error(&format!("{CONFIG}.clientIP.timeoutSeconds"), message);
            }
            u32::try_from(seconds).ok()
        }
        Some(other) => {
            let hint = spelling::hint(other, ["ClientIP", "None"]);
            remarks.error(
                "spec.sessionAffinity",
                format!("`{other}` is no affinity{hint}"),
            );
            None
        }
    }
}

fn external_traffic_policy(
    spec: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let text = spec.external_traffic_policy.as_deref();
    let is_external = matches!(
        service_type,
        ServiceType::NodePort | ServiceType::LoadBalancer
    ) || spec
        .external_ips
        .as_ref()
        .is_some_and(|ips| !ips.is_empty());
    if text.is_some() && !is_external {
        remarks.error(
            FIELD,
            format!("a service of type {service_type} has no external traffic"),
        );
    }
    traffic_policy(text, FIELD, remarks)
}

fn traffic_policy(text: Option<&str>, field: &str, remarks: &mut Remarks) -> TrafficPolicy {
    match text {
        None | Some("Cluster" | "") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            let hint = spelling::hint(other, ["Cluster", "Local"]);
            remarks.error(field, format!("`{other}` is no policy{hint}"));
            TrafficPolicy::Cluster
        }
    }
}

fn external_name(
    spec: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Option<String> {
    let name = spec.external_name.clone().filter(|name| !name.is_empty());
    if service_type == ServiceType::ExternalName && name.is_none() {
        remarks.error(
            "spec.externalName",
            "the field is missing; it is what the type is about",
        );
    }
    name
}

#[cfg(test)]
mod tests;
