//! `spec.ports`.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1 as core, apimachinery::pkg::util::intstr::IntOrString};

use super::super::{Remarks, name, port, port::app_protocol, protocol};
use crate::{
    desired::Protocol,
    model::service::{ServicePort, ServiceType, TargetPort},
    shared_text::shared,
};

/// Where kubelets listen.
const KUBELET_PORT: u16 = 10_250;

pub(super) fn ports(
    raw: Vec<core::ServicePort>,
    service_type: ServiceType,
    may_be_empty: bool,
    remarks: &mut Remarks,
) -> Vec<ServicePort> {
    if raw.is_empty() && !may_be_empty {
        remarks.error(
            "spec.ports",
            "the field is missing; a service needs at least one port",
        );
    }
    let mut seen = Seen {
        several: raw.len() > 1,
        ..Seen::default()
    };
    let mut ports = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        seen.check_name(raw.name.as_deref().unwrap_or_default(), &field, remarks);
        if let Some(port) = service_port(raw, service_type, &field, remarks) {
            seen.check_numbers(&port, &field, remarks);
            ports.push(port);
        }
    }
    ports
}

/// What may stand in one port of a service only.
#[derive(Default)]
struct Seen {
    several: bool,
    names: BTreeSet<String>,
    numbers: BTreeSet<(u16, Protocol)>,
    node_ports: BTreeSet<(u16, Protocol)>,
}

impl Seen {
    fn check_name(&mut self, text: &str, field: &str, remarks: &mut Remarks) {
        let field = format!("{field}.name");
        if text.is_empty() {
            if self.several {
                let message = "the field is missing; each of several ports needs a name";
                remarks.error(&field, message);
            }
            return;
        }
        name::want_label(text, "a port", &field, remarks);
        if !self.names.insert(text.to_owned()) {
            let message = format!("`{text}` names another port already; choose another name");
            remarks.error(&field, message);
        }
    }

    fn check_numbers(&mut self, port: &ServicePort, field: &str, remarks: &mut Remarks) {
        if !self.numbers.insert((port.port, port.protocol)) {
            let message = format!(
                "{}/{} stands here already; leave one out",
                port.port, port.protocol
            );
            remarks.error(&format!("{field}.port"), message);
        }
        if let Some(node_port) = port.node_port
            && !self.node_ports.insert((node_port, port.protocol))
        {
            let message = format!(
                "{node_port}/{} is another port's already; choose another",
                port.protocol
            );
            remarks.error(&format!("{field}.nodePort"), message);
        }
    }
}

/// All faults of a port are told, not only the first.
fn service_port(
    raw: core::ServicePort,
    service_type: ServiceType,
    field: &str,
    remarks: &mut Remarks,
) -> Option<ServicePort> {
    let of = |part: &str| format!("{field}.{part}");
    let number = port(raw.port, &of("port"), remarks);
    if service_type == ServiceType::LoadBalancer && number == Some(KUBELET_PORT) {
        let message = format!(
            "{KUBELET_PORT} is the kubelet's port, which no load balancer may have; use another"
        );
        remarks.error(&of("port"), message);
    }
    let protocol = protocol(raw.protocol.as_deref(), &of("protocol"), remarks);
    let target_field = of("targetPort");
    let target = match raw.target_port {
        None | Some(IntOrString::Int(0)) => number.map(TargetPort::Number),
        Some(IntOrString::Int(target)) => {
            port(target, &target_field, remarks).map(TargetPort::Number)
        }
        Some(IntOrString::String(text)) if text.is_empty() => number.map(TargetPort::Number),
        Some(IntOrString::String(text)) => {
            name::want_port_name(&text, &target_field, remarks);
            Some(TargetPort::Name(shared(&text)))
        }
    };
    let app_protocol = app_protocol(raw.app_protocol.as_deref(), &of("appProtocol"), remarks);
    let node_port = raw
        .node_port
        .filter(|node_port| *node_port != 0)
        .and_then(|node_port| want_node_port(node_port, service_type, &of("nodePort"), remarks));
    Some(ServicePort {
        name: shared(&raw.name.unwrap_or_default()),
        protocol,
        port: number?,
        target_port: target?,
        node_port,
        app_protocol,
    })
}

fn want_node_port(
    number: i32,
    service_type: ServiceType,
    field: &str,
    remarks: &mut Remarks,
) -> Option<u16> {
    match service_type {
        ServiceType::ClusterIp => {
            let message = format!(
                "a service of type ClusterIP has no node port; leave {number} out or write \
                 `type: NodePort`"
            );
            remarks.error(field, message);
            None
        }
        ServiceType::ExternalName => {
            remarks.warning(field, "a service of type ExternalName has no node port");
            None
        }
        ServiceType::NodePort | ServiceType::LoadBalancer => port(number, field, remarks),
    }
}
