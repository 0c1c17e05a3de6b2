//! Pods.

use serde_json::{Value, json};

use super::merge;
use crate::model::pod::{Container, Pod};

/// `shown` with what a kubelet would have written, where the agent runs the pod's probes in its place.
pub(super) fn probed(mut shown: Value, pod: &Pod) -> Value {
    if pod.containers.iter().all(|it| it.probed.is_none()) {
        return shown;
    }
    let mut status = shown.get("status").cloned().unwrap_or_default();
    for (field, is_sidecar) in [
        ("initContainerStatuses", true),
        ("containerStatuses", false),
    ] {
        let written = status.get(field).and_then(Value::as_array);
        let mut list = written.cloned().unwrap_or_default();
        let mut of_kind = pod.containers.iter();
        while let Some(container) = of_kind.find(|it| it.is_sidecar == is_sidecar) {
            let below = take(&mut list, "name", &container.name);
            list.push(merge::over(below, container_status(container, pod.ready)));
        }
        if !list.is_empty() {
            status = keep(&status, field, Value::Array(list));
        }
    }
    let written = status.get("conditions").and_then(Value::as_array);
    let mut conditions = written.cloned().unwrap_or_default();
    set(&mut conditions, pod);
    let status = keep(&status, "conditions", Value::Array(conditions));
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("status".to_owned(), status);
    }
    shown
}

/// The state of a container that there is no kubelet to tell about: it runs as long as its pod is there.
fn container_status(container: &Container, by_pod: bool) -> Value {
    let probed = container.probed.as_ref().map(|it| it.ready);
    let ready = probed.or(container.ready).unwrap_or(by_pod);
    let status = json!({"name": container.name, "ready": ready});
    if container.ready.is_some() {
        return status;
    }
    let running = json!({"started": true, "restartCount": 0, "state": {"running": {}}});
    merge::over(status, running)
}

/// Sets the condition `Ready`, with the reason why it is not, and `ContainersReady` where it stands.
fn set(conditions: &mut Vec<Value>, pod: &Pod) {
    let failures = pod.containers.iter().filter_map(|container| {
        let failure = container.probed.as_ref()?.failure.as_ref()?;
        Some(format!("container {}: {failure}", container.name))
    });
    let failures: Vec<String> = failures.filter(|_| !pod.ready).collect();
    let message = (!failures.is_empty()).then(|| failures.join("; "));
    let mut containers = pod.containers.iter();
    let are_ready = containers.all(|it| it.probed.as_ref().is_none_or(|probed| probed.ready));
    for (name, is_true) in [("Ready", pod.ready), ("ContainersReady", are_ready)] {
        let status = if is_true { "True" } else { "False" };
        let condition = json!({"type": name, "status": status, "message": message, "reason": null});
        let is_it = |it: &&mut Value| it.get("type").and_then(Value::as_str) == Some(name);
        match conditions.iter_mut().find(is_it) {
            Some(written) => *written = merge::over(written.take(), condition),
            None if name == "Ready" => conditions.push(merge::over(Value::Null, condition)),
            None => {}
        }
    }
}

/// Takes the item with this value out of a list; null if there is none.
fn take(list: &mut Vec<Value>, field: &str, value: &str) -> Value {
    let is_it = |it: &Value| it.get(field).and_then(Value::as_str) == Some(value);
    let index = list.iter().position(is_it);
    index.map_or(Value::Null, |index| list.remove(index))
}

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
