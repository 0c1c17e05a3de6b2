//! Where traffic may go: affinity, policies, distribution.

use k8s_openapi::api::core::v1 as core;

use super::{super::Remarks, no_choice};
use crate::model::service::{ServiceType, TrafficDistribution, TrafficPolicy};

/// Seconds of client affinity where none are given.
const DEFAULT_AFFINITY_TIMEOUT_S: i32 = 10_800;
/// Longest client affinity: one day.
const MAX_AFFINITY_TIMEOUT_S: i32 = 86_400;

/// Seconds of client affinity, if there is any.
pub(super) fn affinity(raw: &core::ServiceSpec, remarks: &mut Remarks) -> Option<u32> {
    const CONFIG: &str = "spec.sessionAffinityConfig";
    let config = raw.session_affinity_config.as_ref();
    match raw.session_affinity.as_deref() {
        None | Some("None" | "") => {
            if config.is_some() {
                // The API drops it without a word.
                let message = "it is not used without `sessionAffinity: ClientIP`; write that or leave it out";
                remarks.warning(CONFIG, message);
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
            let message = no_choice(other, "affinity", &["ClientIP", "None"]);
            remarks.error("spec.sessionAffinity", message);
            None
        }
    }
}

pub(super) fn internal_policy(raw: &core::ServiceSpec, remarks: &mut Remarks) -> TrafficPolicy {
    let text = raw.internal_traffic_policy.as_deref();
    policy(text, "spec.internalTrafficPolicy", remarks)
}

pub(super) fn external_policy(
    raw: &core::ServiceSpec,
    service_type: ServiceType,
    has_external_ips: bool,
    remarks: &mut Remarks,
) -> TrafficPolicy {
    const FIELD: &str = "spec.externalTrafficPolicy";
    let text = raw
        .external_traffic_policy
        .as_deref()
        .filter(|text| !text.is_empty());
    let is_external = match service_type {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIp => has_external_ips,
        ServiceType::ExternalName => false,
    };
    if let (Some(text), false) = (text, is_external) {
        let message = format!(
            "a service of type {service_type} has no external traffic; leave `{text}` out, or write \
             `type: NodePort` or `type: LoadBalancer`"
        );
        remarks.error(FIELD, message);
    }
    policy(text, FIELD, remarks)
}

fn policy(text: Option<&str>, field: &str, remarks: &mut Remarks) -> TrafficPolicy {
    match text {
        None | Some("Cluster") => TrafficPolicy::Cluster,
        Some("Local") => TrafficPolicy::Local,
        Some(other) => {
            remarks.error(field, no_choice(other, "policy", &["Cluster", "Local"]));
            TrafficPolicy::Cluster
        }
    }
}

pub(super) fn distribution(
    raw: &core::ServiceSpec,
    remarks: &mut Remarks,
) -> Option<TrafficDistribution> {
    match raw.traffic_distribution.as_deref()? {
        "PreferClose" => Some(TrafficDistribution::PreferClose),
        "PreferSameZone" => Some(TrafficDistribution::PreferSameZone),
        "PreferSameNode" => Some(TrafficDistribution::PreferSameNode),
        other => {
            let choices = ["PreferSameZone", "PreferSameNode", "PreferClose"];
            let message = no_choice(other, "distribution", &choices);
            remarks.error("spec.trafficDistribution", message);
            None
        }
    }
}
