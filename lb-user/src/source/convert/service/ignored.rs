//! Fields that are valid and without any effect: the API warns of them where they are written.

use k8s_openapi::api::core::v1 as core;

use super::super::{Remarks, address};
use crate::model::service::ServiceType;

/// Warns of what the API takes and nobody looks at.
pub(super) fn want_effect(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    is_headless: bool,
    remarks: &mut Remarks,
) {
    let is_alias = service_type == ServiceType::ExternalName;
    let has = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if has(&raw.external_name) && !is_alias {
        let message = format!(
            "a service of type {service_type} does not use it; write `type: ExternalName` or leave it out"
        );
        remarks.warning("spec.externalName", message);
    }
    let kind = match (is_alias, is_headless) {
        (true, _) => "of type ExternalName",
        (_, true) => "without a ClusterIP",
        _ => "",
    };
    let has_affinity = raw.session_affinity.as_deref() == Some("ClientIP");
    let is_set = [
        (
            "spec.externalIPs",
            raw.external_ips.iter().flatten().next().is_some(),
        ),
        ("spec.sessionAffinity", has_affinity && !is_alias),
        ("spec.loadBalancerIP", has(&raw.load_balancer_ip)),
    ];
    for (field, _) in is_set
        .into_iter()
        .filter(|(_, is_set)| *is_set && !kind.is_empty())
    {
        let message = format!("a service {kind} does not use it; leave it out");
        remarks.warning(field, message);
    }
    if kind.is_empty() {
        load_balancer_ip(raw, service_type, remarks);
    }
    if let Some(name) = raw.external_name.as_deref().filter(|_| is_alias)
        && name.parse::<std::net::IpAddr>().is_ok()
    {
        let message = format!(
            "`{name}` is taken for a host name, not for an address; for an address write a service \
             without a selector, and an EndpointSlice"
        );
        remarks.warning("spec.externalName", message);
    }
}

/// The API takes any text.
fn load_balancer_ip(raw: &core::ServiceSpec, service_type: ServiceType, remarks: &mut Remarks) {
    const FIELD: &str = "spec.loadBalancerIP";
    let Some(text) = raw
        .load_balancer_ip
        .as_deref()
        .filter(|text| !text.is_empty())
    else {
        return;
    };
    if service_type == ServiceType::LoadBalancer {
        let mut of_field = Remarks::default();
        address::ip(text, FIELD, &mut of_field);
        remarks.take_as_warnings(of_field);
    } else {
        let message = format!("a service of type {service_type} does not use it; leave it out");
        remarks.warning(FIELD, message);
    }
}
