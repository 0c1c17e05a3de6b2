//! Endpoints: as written, or as a cluster's endpoints controller would write them.

use std::{borrow::Cow, collections::BTreeMap};

use lb_common::net::addr::Family;
use serde_json::{Value, json};

use super::{
    merge::{self, fields},
    meta, slice,
};
use crate::model::{
    endpoint::{AddressType, Endpoint, EndpointPort, EndpointSlice},
    object::Kind,
    service::Service,
};

/// Addresses that a cluster's controller writes at most.
const CAPACITY: usize = 1000;

/// What the API fills in where Endpoints leave it open.
pub(super) fn defaults(written: &Value) -> Value {
    let subsets = merge::items(written, "/subsets", |subset| {
        let ports = merge::items(subset, "/ports", |port| {
            let protocol = port.get("protocol").cloned();
            json!({"protocol": protocol.unwrap_or(json!("TCP"))})
        });
        match ports {
            Value::Null => json!({}),
            ports => json!({"ports": ports}),
        }
    });
    match subsets {
        Value::Null => json!({}),
        subsets => json!({"subsets": subsets}),
    }
}

/// The endpoints of a service's primary family.
pub(super) fn object(
    service: &Service,
    families: &[Family],
    slices: &[Cow<'_, EndpointSlice>],
) -> Value {
    let primary = families.first().map(|family| AddressType::Ip(*family));
    let mut subsets: BTreeMap<&[EndpointPort], Subset<'_>> = BTreeMap::new();
    for slice in slices {
        if Some(slice.address_type) == primary {
            subsets.entry(&slice.ports).or_default().add(slice);
        }
    }
    let mut room = CAPACITY;
    let mut shown: Vec<Value> = Vec::new();
    for (ports, subset) in &mut subsets {
        shown.extend(subset.object(ports, &mut room));
    }
    let n_addresses: usize = subsets
        .values()
        .map(|it| it.ready.len() + it.not_ready.len())
        .sum();
    let annotations = (n_addresses > CAPACITY)
        .then(|| json!({"endpoints.kubernetes.io/over-capacity": "truncated"}));
    let made = json!({
        "metadata": {"labels": meta::labels(&service.meta.labels), "annotations": annotations},
        "subsets": if shown.is_empty() { Value::Null } else { json!(shown) },
    });
    merge::over(meta::identity(Kind::Endpoints, &service.meta.name), made)
}

/// Addresses with the same ports.
#[derive(Default)]
struct Subset<'a> {
    ready: Vec<&'a Endpoint>,
    not_ready: Vec<&'a Endpoint>,
}

impl<'a> Subset<'a> {
    fn add(&mut self, slice: &'a EndpointSlice) {
        for endpoint in &slice.endpoints {
            if endpoint.conditions.ready {
                self.ready.push(endpoint);
            } else if !endpoint.conditions.terminating {
                self.not_ready.push(endpoint);
            }
        }
    }

    /// The subset, if it has an address; takes its addresses off `room`.
    fn object(&mut self, ports: &[EndpointPort], room: &mut usize) -> Option<Value> {
        let mut addresses = |endpoints: &mut Vec<&Endpoint>| {
            endpoints.sort_by_key(|endpoint| endpoint.addresses.first().copied());
            endpoints.dedup_by_key(|endpoint| endpoint.addresses.first().copied());
            let taken = endpoints.len().min(*room);
            *room -= taken;
            let shown: Vec<_> = endpoints.iter().take(taken).map(|it| address(it)).collect();
            if shown.is_empty() {
                Value::Null
            } else {
                json!(shown)
            }
        };
        let (ready, not_ready) = (addresses(&mut self.ready), addresses(&mut self.not_ready));
        let ports: Vec<_> = ports.iter().filter_map(port).collect();
        (!ready.is_null() || !not_ready.is_null()).then(|| {
            fields([
                ("addresses", ready),
                ("notReadyAddresses", not_ready),
                (
                    "ports",
                    if ports.is_empty() {
                        Value::Null
                    } else {
                        json!(ports)
                    },
                ),
            ])
        })
    }
}

fn address(endpoint: &Endpoint) -> Value {
    fields([
        ("ip", json!(endpoint.addresses.first())),
        ("hostname", json!(endpoint.hostname)),
        ("nodeName", json!(endpoint.node_name.as_deref())),
        (
            "targetRef",
            endpoint
                .target
                .as_deref()
                .map_or(Value::Null, slice::target),
        ),
    ])
}

fn port(port: &EndpointPort) -> Option<Value> {
    let number = port.port?;
    let name = (!port.name.is_empty()).then_some(&*port.name);
    Some(fields([
        ("name", json!(name)),
        ("port", json!(number)),
        ("protocol", json!(port.protocol)),
        ("appProtocol", json!(port.app_protocol.as_deref())),
    ]))
}
