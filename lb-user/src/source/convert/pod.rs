//! Pods.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::{Remarks, address, meta, port, protocol};
use crate::model::{
    object::Kind,
    pod::{ContainerPort, Pod},
};

/// A Pod.
pub(crate) fn pod(raw: core::Pod, remarks: &mut Remarks) -> Pod {
    let terminating = raw.metadata.deletion_timestamp.is_some();
    let meta = meta(Kind::Pod, raw.metadata, remarks);
    let spec = raw.spec.unwrap_or_default();
    let status = raw.status.unwrap_or_default();
    let phase = status.phase.as_deref();
    Pod {
        meta,
        ips: ips(&status, remarks),
        ready: is_ready(&status),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        terminating,
        host_network: spec.host_network.unwrap_or(false),
        ports: ports(&spec, remarks),
        node_name: spec.node_name,
        hostname: spec.hostname,
        subdomain: spec.subdomain,
    }
}

/// `status.podIPs`, or `status.podIP` where a hand-written status has only that.
fn ips(status: &core::PodStatus, remarks: &mut Remarks) -> Vec<IpAddr> {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let mut ips: Vec<IpAddr> = (0..)
        .zip(listed)
        .filter_map(|(index, pod_ip): (usize, _)| {
            address::endpoint_ip(&pod_ip.ip, &format!("status.podIPs[{index}].ip"), remarks)
        })
        .collect();
    if let Some(text) = &status.pod_ip
        && let Some(ip) = address::endpoint_ip(text, "status.podIP", remarks)
    {
        if ips.is_empty() {
            ips.push(ip);
        } else if ips[0] != ip {
            let message = format!("{ip} is not the first of `podIPs`, {}", ips[0]);
            remarks.error("status.podIP", message);
        }
    }
    ips
}

fn is_ready(status: &core::PodStatus) -> bool {
    let Some(conditions) = status.conditions.as_ref().filter(|list| !list.is_empty()) else {
        return true;
    };
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Named ports of containers, and of init containers that stay (sidecars), as the endpoint slice
/// controller resolves names.
fn ports(spec: &core::PodSpec, remarks: &mut Remarks) -> Vec<ContainerPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let all = (0..)
        .zip(&spec.containers)
        .map(|(index, container): (usize, _)| (format!("spec.containers[{index}]"), container))
        .chain(sidecars.map(|container| ("spec.initContainers".to_owned(), container)));
    let mut ports = Vec::new();
    for (field, container) in all {
        for raw in container.ports.iter().flatten() {
            let field = format!("{field}.ports");
            let protocol = protocol(raw.protocol.as_deref(), &field, remarks);
            let number = port(raw.container_port, &field, remarks);
            if let (Some(name), Some(port)) = (raw.name.clone(), number) {
                ports.push(ContainerPort {
                    name,
                    port,
                    protocol,
                });
            }
        }
    }
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::Protocol;

    fn pod_of(status: &serde_json::Value) -> (Pod, Remarks) {
        let mut remarks = Remarks::default();
        let raw = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "http", "containerPort": 8080},
                                        {"containerPort": 9}]}]},
            "status": status,
        });
        let pod = pod(
            serde_json::from_value(raw).expect("a pod by type"),
            &mut remarks,
        );
        (pod, remarks)
    }

    #[test]
    fn a_pod_is_ready_by_condition_or_where_there_are_none_at_all() {
        assert!(pod_of(&json!({"podIP": "10.0.0.1"})).0.ready);
        assert!(
            !pod_of(&json!({"conditions": [{"type": "Ready", "status": "False"}]}))
                .0
                .ready
        );
        assert!(
            !pod_of(&json!({"conditions": [{"type": "Initialized", "status": "True"}]}))
                .0
                .ready
        );
        assert!(
            pod_of(&json!({"conditions": [{"type": "Ready", "status": "True"}]}))
                .0
                .ready
        );
    }

    #[test]
    fn addresses_come_from_the_list_or_the_single_field() {
        let both = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        assert_eq!(pod_of(&both).0.ips.len(), 2);
        assert_eq!(pod_of(&json!({"podIP": "10.0.0.1"})).0.ips.len(), 1);
        let differ = json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}]});
        assert!(pod_of(&differ).1.reject());
    }

    #[test]
    fn only_named_ports_can_be_looked_up() {
        let (pod, _) = pod_of(&json!({}));
        assert_eq!(pod.port("http", Protocol::Tcp), Some(8080));
        assert_eq!(pod.port("http", Protocol::Udp), None);
        assert_eq!(pod.port("", Protocol::Tcp), None);
    }
}
