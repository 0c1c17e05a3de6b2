//! `EndpointSlice` and Endpoints.

use std::net::IpAddr;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use lb_common::net::addr::Family;

use super::{Remarks, address, meta, port, protocol};
use crate::model::{
    endpoint::{
        AddressType, Conditions, Endpoint, EndpointPort, EndpointSlice, Endpoints,
        LABEL_SERVICE_NAME, Subset, SubsetAddress,
    },
    object::{Kind, family_of},
};

/// An `EndpointSlice`.
pub(crate) fn slice(raw: discovery::EndpointSlice, remarks: &mut Remarks) -> Option<EndpointSlice> {
    let meta = meta(Kind::EndpointSlice, raw.metadata, remarks);
    if !meta.labels.contains_key(LABEL_SERVICE_NAME) {
        let message = format!(
            "no label `{LABEL_SERVICE_NAME}` says which service the slice is for; it is not used"
        );
        remarks.warning("metadata.labels", message);
    }
    let address_type = match raw.address_type.as_str() {
        "IPv4" => AddressType::Ip(Family::V4),
        "IPv6" => AddressType::Ip(Family::V6),
        "FQDN" => {
            remarks.warning(
                "addressType",
                "host names cannot be served; the slice is not used",
            );
            AddressType::Fqdn
        }
        other => {
            remarks.error(
                "addressType",
                format!("`{other}` is none of IPv4, IPv6, FQDN"),
            );
            return None;
        }
    };
    let endpoints = (0..)
        .zip(raw.endpoints)
        .map(|(index, raw)| endpoint(raw, address_type, index, remarks))
        .collect();
    let ports = (0..)
        .zip(raw.ports.unwrap_or_default())
        .map(|(index, raw)| {
            let field = format!("ports[{index}]");
            EndpointPort {
                name: raw.name.unwrap_or_default(),
                protocol: protocol(
                    raw.protocol.as_deref(),
                    &format!("{field}.protocol"),
                    remarks,
                ),
                port: raw
                    .port
                    .and_then(|number| port(number, &format!("{field}.port"), remarks)),
            }
        })
        .collect();
    Some(EndpointSlice {
        meta,
        address_type,
        endpoints,
        ports,
    })
}

fn endpoint(
    raw: discovery::Endpoint,
    address_type: AddressType,
    index: usize,
    remarks: &mut Remarks,
) -> Endpoint {
    let field = format!("endpoints[{index}].addresses");
    if raw.addresses.is_empty() {
        remarks.error(&field, "an endpoint has at least one address");
    }
    let addresses = match address_type {
        AddressType::Fqdn => Vec::new(),
        AddressType::Ip(family) => (0..)
            .zip(&raw.addresses)
            .filter_map(|(at, text)| of_family(text, family, &format!("{field}[{at}]"), remarks))
            .collect(),
    };
    let conditions = raw.conditions.unwrap_or_default();
    Endpoint {
        addresses,
        conditions: Conditions::from_nullable(
            conditions.ready,
            conditions.serving,
            conditions.terminating,
        ),
        node_name: raw.node_name,
        hostname: raw.hostname,
        target: raw.target_ref.and_then(target),
        zone: raw.zone,
    }
}

fn of_family(text: &str, family: Family, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let ip = address::endpoint_ip(text, field, remarks)?;
    if family_of(ip) != family {
        remarks.error(
            field,
            format!("{ip} is no {family} address, but `addressType` says {family}"),
        );
        return None;
    }
    Some(ip)
}

/// An Endpoints object.
pub(crate) fn endpoints(raw: core::Endpoints, remarks: &mut Remarks) -> Endpoints {
    let meta = meta(Kind::Endpoints, raw.metadata, remarks);
    let subsets = (0..)
        .zip(raw.subsets.unwrap_or_default())
        .map(|(index, raw)| subset(raw, &format!("subsets[{index}]"), remarks))
        .collect();
    Endpoints { meta, subsets }
}

fn subset(raw: core::EndpointSubset, field: &str, remarks: &mut Remarks) -> Subset {
    let mut addresses = |raw: Option<Vec<core::EndpointAddress>>, name: &str| {
        (0..)
            .zip(raw.unwrap_or_default())
            .filter_map(|(index, raw): (usize, _)| {
                let field = format!("{field}.{name}[{index}].ip");
                Some(SubsetAddress {
                    ip: address::endpoint_ip(&raw.ip, &field, remarks)?,
                    hostname: raw.hostname,
                    node_name: raw.node_name,
                    target: raw.target_ref.and_then(target),
                })
            })
            .collect()
    };
    let ready = addresses(raw.addresses, "addresses");
    let not_ready = addresses(raw.not_ready_addresses, "notReadyAddresses");
    let ports = (0..)
        .zip(raw.ports.unwrap_or_default())
        .map(|(index, raw): (usize, _)| {
            let field = format!("{field}.ports[{index}]");
            EndpointPort {
                name: raw.name.unwrap_or_default(),
                protocol: protocol(
                    raw.protocol.as_deref(),
                    &format!("{field}.protocol"),
                    remarks,
                ),
                port: port(raw.port, &format!("{field}.port"), remarks),
            }
        })
        .collect();
    Subset {
        ready,
        not_ready,
        ports,
    }
}

fn target(raw: core::ObjectReference) -> Option<String> {
    Some(format!("{} {}", raw.kind?, raw.name?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice_of(value: serde_json::Value) -> (Option<EndpointSlice>, Remarks) {
        let mut remarks = Remarks::default();
        let raw = serde_json::from_value(value).expect("a slice by type");
        (slice(raw, &mut remarks), remarks)
    }

    #[test]
    fn nil_fields_get_their_meaning() {
        let (slice, remarks) = slice_of(json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv6",
            "endpoints": [{"addresses": ["fd00::7"]}],
            "ports": [{"port": 80}, {"name": "none"}],
        }));
        assert!(remarks.into_inner().is_empty());
        let slice = slice.expect("a good slice");
        assert_eq!(slice.service(), Some("web"));
        assert_eq!(slice.endpoints[0].conditions, Conditions::READY);
        assert_eq!(slice.ports[0].protocol, crate::desired::Protocol::Tcp);
        assert_eq!((slice.ports[0].port, slice.ports[1].port), (Some(80), None));
    }

    #[test]
    fn addresses_must_be_of_the_slices_type() {
        let (_, remarks) = slice_of(json!({
            "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["fd00::7"]}, {"addresses": []}],
        }));
        let fields: Vec<_> = remarks
            .into_inner()
            .into_iter()
            .map(|remark| remark.field)
            .collect();
        assert_eq!(
            fields,
            ["endpoints[0].addresses[0]", "endpoints[1].addresses"]
        );
    }

    #[test]
    fn host_names_are_kept_out() {
        let (slice, _) = slice_of(json!({
            "metadata": {"name": "s"}, "addressType": "FQDN",
            "endpoints": [{"addresses": ["example.com"]}],
        }));
        assert_eq!(
            slice.expect("accepted").endpoints[0].addresses,
            Vec::<IpAddr>::new()
        );
    }
}
