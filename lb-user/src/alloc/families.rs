//! Which families a service has, where the cluster has these: `ipFamilies` as the API fills it in.

use lb_common::net::addr::Family;

use super::explicit_ips;
use crate::model::{
    object::family_of,
    service::{IpFamilyPolicy, Service},
};

/// Why a service cannot have its families: the field, and what is wrong with it.
pub(super) type Refusal = (String, String);

/// The families of a service, primary first. `configured` are those of the service CIDRs, the cluster's
/// own first.
pub(super) fn of_service(service: &Service, configured: &[Family]) -> Result<Vec<Family>, Refusal> {
    if service.is_external_name() {
        return Ok(Vec::new());
    }
    let is_single = service
        .spec
        .ip_family_policy
        .is_none_or(|policy| policy == IpFamilyPolicy::SingleStack);
    let mut families = given(service, configured)?;
    // Nobody but DNS looks at these, so that a cluster need not have the families.
    let is_free = service.is_headless() && service.spec.selector.is_empty();
    if !is_free {
        want_configured(service, &families, configured)?;
    }
    if families.is_empty() {
        families.push(configured.first().copied().unwrap_or(Family::V4));
    }
    if families.len() == 1 && !is_single && (is_free || configured.len() == 2) {
        families.push(other(families[0]));
    }
    Ok(families)
}

/// `ipFamilies`, with those of `clusterIPs` that stand behind its end.
fn given(service: &Service, configured: &[Family]) -> Result<Vec<Family>, Refusal> {
    let mut families = service.spec.ip_families.to_vec();
    for (index, ip) in explicit_ips(service)
        .iter()
        .enumerate()
        .skip(families.len())
    {
        let family = family_of(*ip);
        if !configured.is_empty() && !configured.contains(&family) {
            let message = format!(
                "{ip} cannot be used, since no service CIDR is {family}; add one with --service-cidr or \
                 leave the address out"
            );
            return Err((format!("spec.clusterIPs[{index}]"), message));
        }
        families.push(family);
    }
    Ok(families)
}

fn want_configured(
    service: &Service,
    families: &[Family],
    configured: &[Family],
) -> Result<(), Refusal> {
    let wants_both = service.spec.ip_family_policy == Some(IpFamilyPolicy::RequireDualStack);
    if let (true, [only]) = (wants_both, configured) {
        let message = format!(
            "RequireDualStack needs service CIDRs of both families, and there are {only} ones only; add one \
             with --service-cidr or write PreferDualStack"
        );
        return Err(("spec.ipFamilyPolicy".to_owned(), message));
    }
    // Without any CIDR, addresses that are written down are all there is.
    let explicit = explicit_ips(service).len();
    let missing = families.iter().enumerate().find(|(index, family)| {
        let is_written = configured.is_empty() && *index < explicit;
        !is_written && !configured.contains(family)
    });
    match missing {
        Some((index, family)) => {
            let message = format!(
                "no {family} address can be given, since no service CIDR is {family}; add one with \
                 --service-cidr"
            );
            Err((format!("spec.ipFamilies[{index}]"), message))
        }
        None => Ok(()),
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}
