//! Endpoint slices: as written, or made here for a service.

use std::net::IpAddr;

use lb_common::net::addr::Family;
use serde_json::{Value, json};

use super::{
    merge::{self, fields},
    meta,
};
use crate::model::{
    endpoint::{AddressType, Conditions, Endpoint, EndpointPort, EndpointSlice},
    object::{Kind, ObjectName},
};

/// What the API fills in where an `EndpointSlice` leaves it open.
pub(super) fn defaults(written: &Value) -> Value {
    let ports = merge::items(written, "/ports", |port| {
        let or = |field: &str, default: &str| port.get(field).cloned().unwrap_or(json!(default));
        json!({"name": or("name", ""), "protocol": or("protocol", "TCP")})
    });
    match ports {
        Value::Null => json!({}),
        ports => json!({"ports": ports}),
    }
}

/// A slice that was made for the service of this name.
pub(super) fn object(slice: &EndpointSlice, service: &ObjectName) -> Value {
    let made = json!({
        "addressType": address_type(slice.address_type),
        "endpoints": slice.endpoints.iter().map(|it| endpoint(it, service)).collect::<Vec<_>>(),
        "ports": slice.ports.iter().map(port).collect::<Vec<_>>(),
    });
    merge::over(meta::made(Kind::EndpointSlice, &slice.meta), made)
}

fn address_type(address_type: AddressType) -> &'static str {
    match address_type {
        AddressType::Ip(Family::V4) => "IPv4",
        AddressType::Ip(Family::V6) => "IPv6",
        AddressType::Fqdn => "FQDN",
    }
}

fn endpoint(endpoint: &Endpoint, service: &ObjectName) -> Value {
    let Conditions {
        ready,
        serving,
        terminating,
    } = endpoint.conditions;
    fields([
        (
            "addresses",
            json!(
                endpoint
                    .addresses
                    .iter()
                    .map(IpAddr::to_string)
                    .collect::<Vec<_>>()
            ),
        ),
        (
            "conditions",
            json!({"ready": ready, "serving": serving, "terminating": terminating}),
        ),
        ("hostname", json!(endpoint.hostname)),
        ("nodeName", json!(endpoint.node_name)),
        ("targetRef", target(endpoint, service)),
        ("zone", json!(endpoint.zone)),
    ])
}

/// `targetRef`: what answers lives in the service's namespace.
pub(super) fn target(endpoint: &Endpoint, service: &ObjectName) -> Value {
    let Some((kind, name)) = endpoint.target.as_deref().and_then(|it| it.split_once(' ')) else {
        return Value::Null;
    };
    json!({"kind": kind, "name": name, "namespace": &*service.namespace})
}

fn port(port: &EndpointPort) -> Value {
    fields([
        ("name", json!(port.name)),
        ("protocol", json!(port.protocol)),
        ("port", json!(port.port)),
    ])
}
