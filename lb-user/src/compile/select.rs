//! Endpoint slices out of pods, as the endpoint slice controller of a cluster writes them.
//!
//! A pod is an endpoint while it matches the selector, has an address of the family and is not
//! finished. Pods whose named ports resolve to the same numbers share a slice; a port that a pod does
//! not have is left out for that pod.

use std::collections::BTreeMap;

use lb_common::net::addr::Family;

use super::slices;
use crate::model::{
    endpoint::{AddressType, Conditions, Endpoint, EndpointPort, EndpointSlice},
    finding::{Finding, Severity},
    object::{Kind, Located, ObjectRef},
    pod::Pod,
    service::{Service, TargetPort},
};

/// The slices of a service, out of the pods of its namespace.
pub(super) fn slices(
    service: &Located<Service>,
    families: &[Family],
    pods: &[&Located<Pod>],
    findings: &mut Vec<Finding>,
) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(Family, Vec<EndpointPort>), Vec<Endpoint>> = BTreeMap::new();
    let matching: Vec<_> = pods
        .iter()
        .copied()
        .filter(|pod| matches(&service.object, &pod.object))
        .collect();
    missing_ports(service, &matching, findings);
    for pod in matching {
        if pod.object.ips.is_empty() {
            findings.push(without_address(pod));
        }
        let ports = ports(&service.object, &pod.object);
        for family in families {
            if let Some(ip) = slices::first_of(&pod.object.ips, *family) {
                let endpoint = Endpoint {
                    addresses: vec![ip],
                    conditions: conditions(&service.object, &pod.object),
                    node_name: pod.object.node_name.clone(),
                    hostname: hostname(&service.object, &pod.object),
                    target: Some(format!("Pod {}", pod.object.meta.name.name)),
                    zone: None,
                };
                groups
                    .entry((*family, ports.clone()))
                    .or_default()
                    .push(endpoint);
            }
        }
    }
    (1..)
        .zip(groups)
        .map(|(number, ((family, ports), endpoints))| EndpointSlice {
            meta: slices::meta(&service.object.meta.name, slices::FROM_PODS, number),
            address_type: AddressType::Ip(family),
            endpoints,
            ports,
        })
        .collect()
}

fn matches(service: &Service, pod: &Pod) -> bool {
    let labels = &pod.meta.labels;
    let selector = &service.spec.selector;
    !pod.finished
        && selector
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

/// A terminating pod is never ready, unless the service publishes all.
fn conditions(service: &Service, pod: &Pod) -> Conditions {
    Conditions {
        ready: service.spec.publish_not_ready_addresses || (pod.ready && !pod.terminating),
        serving: pod.ready,
        terminating: pod.terminating,
    }
}

fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let is_own = pod.subdomain.as_deref() == Some(&*service.meta.name.name);
    pod.hostname.clone().filter(|_| is_own)
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let mut ports: Vec<_> = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = match &port.target_port {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => pod.port(name, port.protocol)?,
            };
            let (name, protocol) = (port.name.clone(), port.protocol);
            Some(EndpointPort {
                name,
                protocol,
                port: Some(number),
            })
        })
        .collect();
    ports.sort();
    ports
}

/// Named target ports that pods do not have: one finding per port, whatever the number of pods.
fn missing_ports(service: &Located<Service>, pods: &[&Located<Pod>], findings: &mut Vec<Finding>) {
    for (index, port) in service.object.spec.ports.iter().enumerate() {
        let TargetPort::Name(name) = &port.target_port else {
            continue;
        };
        let mut lacking = pods
            .iter()
            .filter(|pod| pod.object.port(name, port.protocol).is_none());
        let Some(first) = lacking.next() else {
            continue;
        };
        let message = format!(
            "{} of {} matching pods have no container port `{name}` ({}) and do not answer on it, \
             among them {}; name one so in `spec.containers[].ports`",
            lacking.count() + 1,
            pods.len(),
            port.protocol,
            first.object.meta.name,
        );
        let name = service.object.meta.name.clone();
        let reference = ObjectRef {
            kind: Kind::Service,
            name,
        };
        let field = format!("spec.ports[{index}].targetPort");
        findings.push(Finding::about(
            Severity::Warning,
            (&reference, service),
            &field,
            message,
        ));
    }
}

fn without_address(pod: &Located<Pod>) -> Finding {
    let reference = ObjectRef {
        kind: Kind::Pod,
        name: pod.object.meta.name.clone(),
    };
    let message = "the field is missing, so that services do not reach the pod";
    Finding::about(
        Severity::Notice,
        (&reference, pod),
        "status.podIPs",
        message,
    )
}
