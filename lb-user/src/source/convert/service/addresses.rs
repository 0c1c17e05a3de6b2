//! `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`: what can be judged without knowing the
//! cluster. The rest is [`crate::alloc`]'s.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1 as core;
use lb_common::net::addr::Family;

use super::super::{Remarks, address};
use crate::model::{
    object::family_of,
    service::{ClusterIps, IpFamilyPolicy, ServiceType},
};

const SINGLE: &str = "spec.clusterIP";
const LIST: &str = "spec.clusterIPs";
const FAMILIES: &str = "spec.ipFamilies";
const POLICY: &str = "spec.ipFamilyPolicy";
/// One address per family.
const MAX_IPS: usize = 2;

pub(super) fn cluster_ips(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> ClusterIps {
    let single = raw.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let listed = raw.cluster_ips.as_deref().unwrap_or_default();
    let (texts, field): (Vec<&str>, _) = match (single, listed) {
        (None, []) => return ClusterIps::Allocate,
        (Some(single), []) => (vec![single], SINGLE),
        (single, [first, ..]) => {
            want_same_first(single, first, remarks);
            (listed.iter().map(String::as_str).collect(), LIST)
        }
    };
    if service_type == ServiceType::ExternalName {
        let message = "a service of type ExternalName has no address; leave the field out";
        remarks.error(field, message);
        return ClusterIps::Allocate;
    }
    if texts[0] == "None" {
        want_headless_alone(&texts, field, service_type, remarks);
        return ClusterIps::Headless;
    }
    ClusterIps::Explicit(explicit(&texts, field, remarks).into())
}

/// The API does not fill `clusterIP` from the list.
fn want_same_first(single: Option<&str>, first: &str, remarks: &mut Remarks) {
    match single {
        None => {
            let message =
                format!("the list needs `clusterIP` beside it; write `clusterIP: {first}` as well");
            remarks.error(LIST, message);
        }
        Some(single) if single != first => {
            let message =
                format!("`{single}` is not the first of `clusterIPs`, which is `{first}`");
            remarks.error(SINGLE, message);
        }
        Some(_) => {}
    }
}

fn want_headless_alone(
    texts: &[&str],
    field: &str,
    service_type: ServiceType,
    remarks: &mut Remarks,
) {
    if texts.len() > 1 {
        remarks.error(field, "`None` stands alone; leave out what follows it");
    }
    if matches!(
        service_type,
        ServiceType::NodePort | ServiceType::LoadBalancer
    ) {
        let message = format!(
            "a service of type {service_type} cannot be headless; leave out `None` or the type"
        );
        remarks.error(field, message);
    }
}

fn explicit(texts: &[&str], field: &str, remarks: &mut Remarks) -> Vec<IpAddr> {
    let field_of = |index: usize| {
        if field == SINGLE {
            field.to_owned()
        } else {
            format!("{field}[{index}]")
        }
    };
    let ips: Vec<IpAddr> = (0..)
        .zip(texts)
        .filter_map(|(index, text)| address::cluster_ip(text, &field_of(index), remarks))
        .collect();
    if ips.len() < texts.len() {
        // What is left may be right or wrong by chance.
        return ips;
    }
    let families: BTreeSet<Family> = ips.iter().copied().map(family_of).collect();
    if ips.len() > MAX_IPS {
        let message = format!("{} addresses are too many; write one per family", ips.len());
        remarks.error(field, message);
    } else if families.len() < ips.len() {
        let message = format!(
            "{} and {} are of one family; write one per family",
            ips[0], ips[1]
        );
        remarks.error(field, message);
    }
    ips
}

pub(super) fn ip_families(
    raw: &core::ServiceSpec,
    ips: &ClusterIps,
    service_type: ServiceType,
    remarks: &mut Remarks,
) -> Vec<Family> {
    let given = raw.ip_families.as_deref().unwrap_or_default();
    if service_type == ServiceType::ExternalName {
        if !given.is_empty() {
            let message = "a service of type ExternalName has no families; leave the field out";
            remarks.error(FAMILIES, message);
        }
        return Vec::new();
    }
    let mut families = Vec::new();
    for (index, text) in given.iter().enumerate() {
        let field = format!("{FAMILIES}[{index}]");
        let family = match text.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                let message = super::no_choice(other, "family", &["IPv4", "IPv6"]);
                remarks.error(&field, message);
                continue;
            }
        };
        if families.contains(&family) {
            remarks.error(
                &field,
                format!("{family} stands here already; leave it out"),
            );
        } else {
            families.push(family);
        }
    }
    if let ClusterIps::Explicit(ips) = ips {
        want_order(ips, &families, remarks);
    }
    families
}

/// Addresses stand in the order of their families.
fn want_order(ips: &[IpAddr], families: &[Family], remarks: &mut Remarks) {
    for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
        if family_of(*ip) != *family {
            let message = format!(
                "{ip} stands where `ipFamilies[{index}]` has {family}; use one order in both"
            );
            remarks.error(&format!("{LIST}[{index}]"), message);
        }
    }
}

/// The policy, where not given the one that the API writes: no service gets a second family unasked.
pub(super) fn ip_family_policy(
    raw: &core::ServiceSpec,
    families: &[Family],
    ips: &ClusterIps,
    remarks: &mut Remarks,
) -> Option<IpFamilyPolicy> {
    let is_alias = raw.type_.as_deref() == Some("ExternalName");
    let has_selector = raw
        .selector
        .as_ref()
        .is_some_and(|labels| !labels.is_empty());
    let policy = match raw.ip_family_policy.as_deref() {
        Some(_) if is_alias => {
            let message = "a service of type ExternalName has no families; leave the field out";
            remarks.error(POLICY, message);
            return None;
        }
        None if *ips == ClusterIps::Headless && !has_selector => IpFamilyPolicy::RequireDualStack,
        None | Some("SingleStack") => IpFamilyPolicy::SingleStack,
        Some("PreferDualStack") => IpFamilyPolicy::PreferDualStack,
        Some("RequireDualStack") => IpFamilyPolicy::RequireDualStack,
        Some(other) => {
            let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
            remarks.error(POLICY, super::no_choice(other, "policy", &policies));
            return None;
        }
    };
    let twice = match ips {
        ClusterIps::Explicit(ips) if ips.len() == MAX_IPS => Some("clusterIPs"),
        _ if families.len() == MAX_IPS => Some("ipFamilies"),
        _ => None,
    };
    if let (IpFamilyPolicy::SingleStack, Some(list)) = (policy, twice) {
        let given = if raw.ip_family_policy.is_some() {
            ""
        } else {
            ", which it is where not given,"
        };
        let message = format!(
            "SingleStack{given} has one family, but `{list}` has two; write PreferDualStack or \
             RequireDualStack"
        );
        remarks.error(POLICY, message);
    }
    Some(policy)
}
