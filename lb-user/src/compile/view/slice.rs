//! Endpoint slices: as written, or made here for a service.

use std::{net::IpAddr, sync::Arc};

use lb_common::net::addr::Family;
use serde_json::{Value, json};

use super::{
    merge::{self, fields},
    meta,
};
use crate::model::{
    endpoint::{
        AddressType, Endpoint, EndpointPort, EndpointSlice, GivenConditions, Hints, Target,
    },
    object::Kind,
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

/// A slice that was made here.
pub(super) fn object(slice: &EndpointSlice) -> Value {
    let made = json!({
        "addressType": address_type(slice.address_type),
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
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

fn endpoint(endpoint: &Endpoint) -> Value {
    let GivenConditions {
        ready,
        serving,
        terminating,
    } = endpoint.given;
    let conditions = fields([
        ("ready", json!(ready)),
        ("serving", json!(serving)),
        ("terminating", json!(terminating)),
    ]);
    let addresses: Vec<String> = endpoint.addresses.iter().map(IpAddr::to_string).collect();
    fields([
        ("addresses", json!(addresses)),
        ("conditions", conditions),
        (
            "hints",
            endpoint.hints.as_deref().map_or(Value::Null, hints),
        ),
        ("hostname", json!(endpoint.hostname)),
        ("nodeName", json!(endpoint.node_name.as_deref())),
        (
            "targetRef",
            endpoint.target.as_deref().map_or(Value::Null, target),
        ),
        ("zone", json!(endpoint.zone.as_deref())),
    ])
}

fn hints(hints: &Hints) -> Value {
    let names = |names: &[Arc<str>]| match names {
        [] => Value::Null,
        names => names.iter().map(|name| json!({"name": &**name})).collect(),
    };
    fields([
        ("forZones", names(&hints.zones)),
        ("forNodes", names(&hints.nodes)),
    ])
}

/// `targetRef`.
pub(super) fn target(target: &Target) -> Value {
    let namespace = (!target.namespace.is_empty()).then_some(&*target.namespace);
    fields([
        ("kind", json!(&*target.kind)),
        ("namespace", json!(namespace)),
        ("name", json!(&*target.name)),
        ("uid", json!(target.uid)),
    ])
}

fn port(port: &EndpointPort) -> Value {
    fields([
        ("name", json!(&*port.name)),
        ("protocol", json!(port.protocol)),
        ("port", json!(port.port)),
        ("appProtocol", json!(port.app_protocol.as_deref())),
    ])
}
