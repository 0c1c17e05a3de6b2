//! Endpoint slices out of pods, as the endpoint slice controller of a cluster writes them.
//!
//! A pod is an endpoint while it matches the selector, has an address of the family and is not
//! finished. Pods whose named ports resolve to the same numbers share a slice; a port that a pod does
//! not have is left out for that pod.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_common::net::addr::Family;

use super::generated::{Group, Writer};
use crate::{
    model::{
        endpoint::{
            Conditions, Endpoint, EndpointPort, EndpointSlice, Hints, LABEL_MANAGED_BY, Target,
        },
        finding::{Finding, Severity},
        node::Node,
        object::{Annotations, Kind, Labels, Located, ObjectName, ObjectRef, family_of},
        pod::Pod,
        service::{LABEL_HEADLESS, Service, ServicePort, TargetPort, TrafficDistribution},
    },
    source::spelling,
    store::Objects,
};

/// [`LABEL_MANAGED_BY`] of slices that were derived from pods.
pub(super) const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Endpoints that a slice has at most.
const MAX_ENDPOINTS: usize = 100;

/// A service and the pods that may be behind it.
pub(super) struct Selection<'a> {
    pub(super) service: &'a Located<Service>,
    /// The service's families.
    pub(super) families: &'a [Family],
    /// Pods of its namespace, by name; those that do not match are left out.
    pub(super) pods: &'a [&'a Located<Pod>],
    pub(super) nodes: &'a Objects<Node>,
}

impl Selection<'_> {
    /// The slices of the service, with other names than those that are taken. A family without any
    /// endpoint has one empty slice.
    pub(super) fn slices(
        &self,
        taken: BTreeSet<String>,
        findings: &mut Vec<Finding>,
    ) -> Vec<EndpointSlice> {
        let service = &self.service.object;
        let matching: Vec<_> = self
            .pods
            .iter()
            .copied()
            .filter(|pod| matches(service, &pod.object))
            .collect();
        missing_ports(self.service, &matching, findings);
        let without_ip = matching.iter().filter(|pod| pod.object.ips.is_empty());
        findings.extend(without_ip.map(|pod| without_address(pod)));
        let mut writer = Writer {
            service: &service.meta.name,
            controller: CONTROLLER,
            labels: labels(service),
            annotations: Annotations::new(),
            limit: MAX_ENDPOINTS,
            taken,
        };
        let mut slices = Vec::new();
        for family in self.families {
            for group in self.groups(*family, &matching) {
                writer.write(group, &mut slices);
            }
        }
        slices
    }

    /// Endpoints of a family by the ports that they have.
    fn groups(&self, family: Family, pods: &[&Located<Pod>]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for pod in pods {
            let Some(endpoint) = self.endpoint(&pod.object, family) else {
                continue;
            };
            let ports = ports(&self.service.object, &pod.object);
            match groups.iter_mut().find(|group| group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group {
                    family,
                    ports,
                    endpoints: vec![endpoint],
                }),
            }
        }
        if groups.is_empty() {
            groups.push(Group {
                family,
                ports: Vec::new(),
                endpoints: Vec::new(),
            });
        }
        groups
    }

    /// The endpoint that a pod is, if it has an address of the family.
    fn endpoint(&self, pod: &Pod, family: Family) -> Option<Endpoint> {
        let service = &self.service.object;
        let of_family = |ip: &IpAddr| family_of(*ip) == family;
        let addresses: Vec<_> = pod.ips.iter().copied().filter(of_family).collect();
        if addresses.is_empty() {
            return None;
        }
        let conditions = conditions(service, pod);
        let zone = pod.node_name.as_deref().and_then(|name| self.zone(name));
        let distribution = service.spec.traffic_distribution;
        Some(Endpoint {
            addresses: addresses.into(),
            conditions,
            given: conditions.into(),
            hints: distribution
                .filter(|_| conditions.ready)
                .and_then(|wanted| hints(wanted, zone, pod.node_name.as_ref()))
                .map(Box::new),
            node_name: pod.node_name.clone(),
            hostname: hostname(service, pod),
            target: Some(Box::new(Target {
                kind: Kind::Pod.name().into(),
                namespace: Arc::clone(&pod.meta.name.namespace),
                name: Arc::clone(&pod.meta.name.name),
                uid: pod.meta.uid.clone(),
            })),
            zone: zone.cloned(),
            weight: pod.meta.weight(),
        })
    }

    /// The zone of a node, where its object says one. A node without an object may exist all the same.
    fn zone(&self, node: &str) -> Option<&Arc<str>> {
        let node = self.nodes.get(&ObjectName::new("", node))?;
        node.object.zone()
    }
}

/// The service's labels, but for those that say whose a slice is, and a label that says whether DNS alone
/// looks at it.
fn labels(service: &Service) -> Labels {
    let mut labels = service.meta.labels.clone();
    labels.remove(LABEL_MANAGED_BY);
    labels.remove(LABEL_HEADLESS);
    if service.is_headless() {
        labels.insert(LABEL_HEADLESS.into(), "".into());
    }
    labels
}

/// An endpoint is for clients of its own zone, and of its own node where that is asked for.
fn hints(
    distribution: TrafficDistribution,
    zone: Option<&Arc<str>>,
    node: Option<&Arc<str>>,
) -> Option<Hints> {
    let node = node.filter(|_| distribution == TrafficDistribution::PreferSameNode);
    let list = |text: Option<&Arc<str>>| text.cloned().into_iter().collect();
    (zone.is_some() || node.is_some()).then(|| Hints {
        zones: list(zone),
        nodes: list(node),
    })
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

fn hostname(service: &Service, pod: &Pod) -> Option<Box<str>> {
    let is_own = pod.subdomain.as_deref() == Some(&*service.meta.name.name);
    pod.hostname.clone().filter(|_| is_own)
}

/// Ports in the order of the service. Headless services may have none.
fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let port_of = |port: &ServicePort| {
        let number = match &port.target_port {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => pod.port(name, port.protocol)?,
        };
        Some(EndpointPort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: Some(number),
            app_protocol: port.app_protocol.clone(),
        })
    };
    service.spec.ports.iter().filter_map(port_of).collect()
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
        let hint = spelling::hint(name, first.object.port_names(port.protocol));
        let message = format!(
            "{} of {} matching pods have no container port `{name}` ({}) and do not answer on it, \
             among them {}; name one so in `spec.containers[].ports`{hint}",
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
