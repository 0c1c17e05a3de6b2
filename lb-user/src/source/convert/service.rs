//! Services.

use k8s_openapi::api::core::v1 as core;

use super::{
    Remarks, meta,
    meta::{shared_labels, want_labels},
    name,
};
use crate::{
    model::{
        object::{Annotations, Kind},
        service::{ClusterIps, Service, ServiceSpec, ServiceType},
    },
    source::spelling,
};

mod addresses;
mod balancing;
mod external;
mod ignored;
mod ports;
mod traffic;

/// The older of two annotations that ask for zone hints.
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
/// The newer one.
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// A Service.
pub(crate) fn service(raw: core::Service, remarks: &mut Remarks) -> Option<Service> {
    let meta = meta(Kind::Service, raw.metadata, remarks);
    want_one_topology_mode(&meta.annotations, remarks);
    let Some(raw_spec) = raw.spec else {
        remarks.error("spec", "the field is missing; a service needs `spec.ports`");
        return None;
    };
    let status = raw.status.and_then(|status| status.load_balancer);
    let spec = spec(raw_spec, &meta.annotations, remarks);
    let ingress = status.and_then(|balancer| balancer.ingress);
    let ingress = external::ingress(ingress.unwrap_or_default(), spec.service_type, remarks);
    Some(Service {
        meta,
        spec,
        ingress: ingress.into(),
    })
}

fn spec(raw: core::ServiceSpec, annotations: &Annotations, remarks: &mut Remarks) -> ServiceSpec {
    let service_type = service_type(raw.type_.as_deref(), remarks);
    let cluster_ips = addresses::cluster_ips(&raw, service_type, remarks);
    let is_headless = cluster_ips == ClusterIps::Headless;
    let selector = raw.selector.clone().unwrap_or_default();
    want_labels(&selector, "spec.selector", remarks);
    let ip_families = addresses::ip_families(&raw, &cluster_ips, service_type, remarks);
    let external_ips = external::external_ips(&raw, remarks);
    let policy = addresses::ip_family_policy(&raw, &ip_families, &cluster_ips, remarks);
    ignored::want_effect(&raw, service_type, is_headless, remarks);
    let may_lack_ports = is_headless || service_type == ServiceType::ExternalName;
    let external_traffic_policy =
        traffic::external_policy(&raw, service_type, !external_ips.is_empty(), remarks);
    ServiceSpec {
        health_check_node_port: external::health_check_node_port(
            &raw,
            service_type,
            external_traffic_policy,
            remarks,
        ),
        affinity_timeout_s: traffic::affinity(&raw, remarks),
        internal_traffic_policy: traffic::internal_policy(&raw, remarks),
        external_traffic_policy,
        traffic_distribution: traffic::distribution(&raw, remarks),
        algorithm: balancing::algorithm(annotations, remarks),
        maglev_size: balancing::maglev_size(annotations, remarks),
        external_name: external_name(&raw, service_type, remarks).map(Into::into),
        load_balancer_source_ranges: external::source_ranges(
            &raw,
            annotations,
            service_type,
            remarks,
        )
        .into(),
        load_balancer_class: external::class(&raw, service_type, remarks).map(Into::into),
        allocate_node_ports: external::allocate_node_ports(&raw, service_type, remarks),
        load_balancer_ip: raw
            .load_balancer_ip
            .filter(|text| !text.is_empty())
            .map(Into::into),
        publish_not_ready_addresses: raw.publish_not_ready_addresses.unwrap_or(false),
        ports: ports::ports(
            raw.ports.unwrap_or_default(),
            service_type,
            may_lack_ports,
            remarks,
        )
        .into(),
        ip_family_policy: policy.filter(|_| service_type != ServiceType::ExternalName),
        service_type,
        cluster_ips,
        selector: shared_labels(&selector),
        ip_families: ip_families.into(),
        external_ips: external_ips.into(),
    }
}

fn service_type(text: Option<&str>, remarks: &mut Remarks) -> ServiceType {
    match text {
        None | Some("ClusterIP" | "") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
            let message = no_choice(other, "type of service", &types);
            remarks.error("spec.type", message);
            ServiceType::ClusterIp
        }
    }
}

fn external_name(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Option<String> {
    const FIELD: &str = "spec.externalName";
    let given = raw.external_name.clone().filter(|name| !name.is_empty());
    if service_type == ServiceType::ExternalName {
        // A dot at the end says that the name is complete.
        let name = given.as_deref().unwrap_or_default();
        match name.strip_suffix('.').unwrap_or(name) {
            "" => remarks.error(
                FIELD,
                "the field is missing; write the host name that the service stands for",
            ),
            name => name::want_subdomain(name, "a host", FIELD, remarks),
        }
    }
    given
}

fn want_one_topology_mode(annotations: &Annotations, remarks: &mut Remarks) {
    if let (Some(hints), Some(mode)) = (
        annotations.get(TOPOLOGY_HINTS),
        annotations.get(TOPOLOGY_MODE),
    ) && hints != mode
    {
        let message = format!(
            "`{TOPOLOGY_MODE}` says `{mode}`, but `{TOPOLOGY_HINTS}` says `{hints}`; keep one of them"
        );
        remarks.error("metadata.annotations", message);
    }
}

/// What to say of a text that is none of the `choices`.
fn no_choice(text: &str, what: &str, choices: &[&str]) -> String {
    let (last, rest) = choices.split_last().unwrap_or((&"", &[]));
    let rest = rest.join(", ");
    let hint = spelling::hint(text, choices.iter().copied());
    format!("`{text}` is no {what}; use {rest} or {last}{hint}")
}

/// What to say of a field that only services of another type may have.
fn only_for(service_type: ServiceType, wanted: ServiceType) -> String {
    format!("a service of type {service_type} cannot have it; only {wanted} can")
}

#[cfg(test)]
mod tests;
