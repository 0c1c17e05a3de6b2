//! Endpoints.

use k8s_openapi::api::core::v1 as core;

use super::{
    super::{Remarks, address, meta},
    RawPort, endpoint_port, target, want_host_and_node,
};
use crate::{
    model::{
        endpoint::{EndpointPort, Endpoints, Subset, SubsetAddress},
        object::Kind,
    },
    shared_text::shared,
};

/// An Endpoints object.
pub(crate) fn endpoints(raw: core::Endpoints, remarks: &mut Remarks) -> Endpoints {
    let meta = meta(Kind::Endpoints, raw.metadata, remarks);
    let subsets = (0..)
        .zip(raw.subsets.unwrap_or_default())
        .map(|(index, raw): (usize, _)| subset(raw, &format!("subsets[{index}]"), remarks))
        .collect();
    Endpoints { meta, subsets }
}

fn subset(raw: core::EndpointSubset, field: &str, remarks: &mut Remarks) -> Subset {
    let ready = raw.addresses.unwrap_or_default();
    let not_ready = raw.not_ready_addresses.unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        let message = "there is no address; write some in `addresses` or `notReadyAddresses`";
        remarks.error(field, message);
    }
    Subset {
        ready: addresses(ready, &format!("{field}.addresses"), remarks).into(),
        not_ready: addresses(not_ready, &format!("{field}.notReadyAddresses"), remarks).into(),
        ports: ports(raw.ports.unwrap_or_default(), field, remarks).into(),
    }
}

fn addresses(
    raw: Vec<core::EndpointAddress>,
    field: &str,
    remarks: &mut Remarks,
) -> Vec<SubsetAddress> {
    let mut addresses = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = format!("{field}[{index}]");
        let hostname = raw.hostname.filter(|text| !text.is_empty());
        want_host_and_node(
            hostname.as_deref(),
            raw.node_name.as_deref(),
            &field,
            remarks,
        );
        if let Some(ip) = address::endpoint_ip(&raw.ip, &format!("{field}.ip"), remarks) {
            addresses.push(SubsetAddress {
                ip,
                hostname: hostname.map(Into::into),
                node_name: raw.node_name.as_deref().map(shared),
                target: raw.target_ref.map(target),
            });
        }
    }
    addresses
}

fn ports(raw: Vec<core::EndpointPort>, field: &str, remarks: &mut Remarks) -> Vec<EndpointPort> {
    let several = raw.len() > 1;
    let mut ports = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        let port = endpoint_port(
            RawPort {
                name: raw.name,
                protocol: raw.protocol,
                port: Some(raw.port),
                app_protocol: raw.app_protocol,
            },
            &field,
            remarks,
        );
        if several && port.name.is_empty() {
            let message = "the field is missing; each of several ports needs a name";
            remarks.error(&format!("{field}.name"), message);
        }
        ports.push(port);
    }
    ports
}
