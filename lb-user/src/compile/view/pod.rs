//! Pods.

use serde_json::{Value, json};

use super::merge;

/// What the API fills in where a Pod leaves it open, as far as anything here shows it.
pub(super) fn defaults(written: &Value) -> Value {
    json!({
        "spec": {
            "containers": containers(written, "/spec/containers"),
            "initContainers": containers(written, "/spec/initContainers"),
        },
        "status": addresses(written),
    })
}

fn containers(written: &Value, pointer: &str) -> Value {
    merge::items(written, pointer, |container| {
        let ports = merge::items(container, "/ports", |port| {
            let protocol = port.get("protocol").cloned();
            merge::over(
                port.clone(),
                json!({"protocol": protocol.unwrap_or(json!("TCP"))}),
            )
        });
        keep(container, "ports", ports)
    })
}

/// `podIP` is the first of `podIPs`; the API fills in either out of the other.
fn addresses(written: &Value) -> Value {
    let status = written.get("status").cloned().unwrap_or_default();
    let single = status
        .get("podIP")
        .filter(|ip| ip.as_str().is_some_and(|ip| !ip.is_empty()));
    let listed = status.get("podIPs").and_then(Value::as_array);
    match (single, listed.and_then(|ips| ips.first())) {
        (Some(ip), None) => keep(&status, "podIPs", json!([{"ip": ip}])),
        (None, Some(first)) => keep(
            &status,
            "podIP",
            first.get("ip").cloned().unwrap_or_default(),
        ),
        _ => status,
    }
}

/// `object` with one field more, if there is something to add.
fn keep(object: &Value, field: &str, value: Value) -> Value {
    let mut object = object.clone();
    if let (Some(fields), false) = (object.as_object_mut(), value.is_null()) {
        fields.insert(field.to_owned(), value);
    }
    object
}
