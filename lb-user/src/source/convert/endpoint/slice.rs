//! `EndpointSlice`.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::discovery::v1 as discovery;
use lb_common::net::addr::Family;

use super::{
    super::{Remarks, address, meta, meta::want_labels, name, port},
    RawPort, endpoint_port, target, want_host_and_node,
};
use crate::{
    model::{
        endpoint::{
            AddressType, Endpoint, EndpointPort, EndpointSlice, GivenConditions, Hints,
            LABEL_SERVICE_NAME,
        },
        object::{Kind, family_of},
    },
    shared_text::shared,
    source::spelling,
};

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_HINTS: usize = 8;
const MAX_TOPOLOGY: usize = 16;

/// An `EndpointSlice`.
pub(crate) fn slice(raw: discovery::EndpointSlice, remarks: &mut Remarks) -> Option<EndpointSlice> {
    let meta = meta(Kind::EndpointSlice, raw.metadata, remarks);
    if meta
        .labels
        .get(LABEL_SERVICE_NAME)
        .is_none_or(|service| service.is_empty())
    {
        let message = format!(
            "no label `{LABEL_SERVICE_NAME}` says which service the slice is for; it is not used"
        );
        remarks.warning("metadata.labels", message);
    }
    let address_type = address_type(&raw.address_type, remarks);
    if !at_most(MAX_ENDPOINTS, raw.endpoints.len(), "endpoints", remarks) {
        return None;
    }
    let ports = ports(raw.ports.unwrap_or_default(), remarks);
    let address_type = address_type?;
    let endpoints = (0..)
        .zip(raw.endpoints)
        .map(|(index, raw)| Endpoint {
            weight: meta.weight(),
            ..endpoint(raw, address_type, index, remarks)
        })
        .collect();
    Some(EndpointSlice {
        meta,
        address_type,
        endpoints,
        ports: ports.into(),
    })
}

fn address_type(text: &str, remarks: &mut Remarks) -> Option<AddressType> {
    const FIELD: &str = "addressType";
    match text {
        "IPv4" => Some(AddressType::Ip(Family::V4)),
        "IPv6" => Some(AddressType::Ip(Family::V6)),
        "FQDN" => {
            let message = "host names cannot be served; the slice is not used";
            remarks.warning(FIELD, message);
            Some(AddressType::Fqdn)
        }
        "" => {
            remarks.error(FIELD, "the field is missing; write IPv4, IPv6 or FQDN");
            None
        }
        other => {
            let hint = spelling::hint(other, ["IPv4", "IPv6", "FQDN"]);
            let message = format!("`{other}` is no type of address; use IPv4, IPv6 or FQDN{hint}");
            remarks.error(FIELD, message);
            None
        }
    }
}

fn ports(raw: Vec<discovery::EndpointPort>, remarks: &mut Remarks) -> Vec<EndpointPort> {
    if !at_most(MAX_PORTS, raw.len(), "ports", remarks) {
        return Vec::new();
    }
    let mut names = BTreeSet::new();
    let mut ports = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let field = format!("ports[{index}]");
        // The API takes any number here; one that is no port serves nobody.
        let number = raw.port;
        let mut of_number = Remarks::default();
        let mut converted = endpoint_port(
            RawPort {
                name: raw.name,
                protocol: raw.protocol,
                port: None,
                app_protocol: raw.app_protocol,
            },
            &field,
            remarks,
        );
        converted.port =
            number.and_then(|number| port(number, &format!("{field}.port"), &mut of_number));
        remarks.take_as_warnings(of_number);
        if !names.insert(converted.name.clone()) {
            let message = match &*converted.name {
                "" => "the field is missing, as it is in another port; give each port a name"
                    .to_owned(),
                name => format!("`{name}` names another port already; choose another name"),
            };
            remarks.error(&format!("{field}.name"), message);
        }
        ports.push(converted);
    }
    ports
}

fn endpoint(
    raw: discovery::Endpoint,
    address_type: AddressType,
    index: usize,
    remarks: &mut Remarks,
) -> Endpoint {
    let field = format!("endpoints[{index}]");
    let conditions = raw.conditions.unwrap_or_default();
    let given = GivenConditions {
        ready: conditions.ready,
        serving: conditions.serving,
        terminating: conditions.terminating,
    };
    want_host_and_node(
        raw.hostname.as_deref(),
        raw.node_name.as_deref(),
        &field,
        remarks,
    );
    let topology_field = format!("{field}.deprecatedTopology");
    let topology = raw.deprecated_topology.unwrap_or_default();
    at_most(MAX_TOPOLOGY, topology.len(), &topology_field, remarks);
    want_labels(&topology, &topology_field, remarks);
    Endpoint {
        addresses: addresses(&raw.addresses, address_type, &field, remarks).into(),
        conditions: given.resolve(),
        given,
        node_name: raw.node_name.as_deref().map(shared),
        hostname: raw.hostname.map(Into::into),
        target: raw.target_ref.map(|raw| target(raw).into()),
        zone: raw.zone.as_deref().map(shared),
        hints: raw
            .hints
            .map(|raw| hints(raw, &format!("{field}.hints"), remarks).into()),
        weight: 1,
    }
}

fn addresses(
    raw: &[String],
    address_type: AddressType,
    field: &str,
    remarks: &mut Remarks,
) -> Vec<IpAddr> {
    let field = format!("{field}.addresses");
    if raw.is_empty() {
        remarks.error(
            &field,
            "the field is missing; an endpoint has at least one address",
        );
    }
    at_most(MAX_ADDRESSES, raw.len(), &field, remarks);
    let mut addresses = Vec::with_capacity(raw.len());
    for (at, text) in raw.iter().enumerate() {
        let field = format!("{field}[{at}]");
        match address_type {
            AddressType::Ip(family) => addresses.extend(of_family(text, family, &field, remarks)),
            AddressType::Fqdn => {
                if !name::is_full_host_name(text) {
                    let message = format!(
                        "`{text}` is no full host name; write it as db.example.com, in lower case"
                    );
                    remarks.error(&field, message);
                }
            }
        }
    }
    addresses
}

fn of_family(text: &str, family: Family, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let ip = address::endpoint_ip(text, field, remarks)?;
    if family_of(ip) != family {
        let message = format!(
            "{ip} is no {family} address, but `addressType` says {family}; use one slice per family"
        );
        remarks.error(field, message);
        return None;
    }
    Some(ip)
}

fn hints(raw: discovery::EndpointHints, field: &str, remarks: &mut Remarks) -> Hints {
    let zones = raw.for_zones.unwrap_or_default();
    let nodes = raw.for_nodes.unwrap_or_default();
    let zones: Box<[_]> = zones.iter().map(|zone| shared(&zone.name)).collect();
    let nodes: Box<[_]> = nodes.iter().map(|node| shared(&node.name)).collect();
    for (list, part) in [(&zones, "forZones"), (&nodes, "forNodes")] {
        let field = format!("{field}.{part}");
        at_most(MAX_HINTS, list.len(), &field, remarks);
        let mut seen = BTreeSet::new();
        for (index, text) in list.iter().enumerate() {
            let field = format!("{field}[{index}].name");
            if !seen.insert(text) {
                remarks.error(
                    &field,
                    format!("`{text}` stands here already; leave it out"),
                );
            }
            if part == "forZones" {
                name::want_label_value(text, &field, remarks);
            } else {
                name::want_subdomain(text, "a Node", &field, remarks);
            }
        }
    }
    Hints { zones, nodes }
}

/// Whether a list is no longer than it may be.
fn at_most(limit: usize, length: usize, field: &str, remarks: &mut Remarks) -> bool {
    if length > limit {
        let message = format!("{length} entries are too many; use at most {limit}");
        remarks.error(field, message);
    }
    length <= limit
}
