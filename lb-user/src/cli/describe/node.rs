//! Nodes, without leases and sums of resources, which no manifest has.

use std::time::SystemTime;

use serde_json::Value;

use super::text::{Text, capital, date, scalar};
use crate::cli::{
    columns,
    object::{age, is_true, list, text, texts, time},
};

const SYSTEM_INFO: [(&str, &str); 9] = [
    ("Machine ID", "machineID"),
    ("System UUID", "systemUUID"),
    ("Boot ID", "bootID"),
    ("Kernel Version", "kernelVersion"),
    ("OS Image", "osImage"),
    ("Operating System", "operatingSystem"),
    ("Architecture", "architecture"),
    ("Container Runtime Version", "containerRuntimeVersion"),
    ("Kubelet Version", "kubeletVersion"),
];

/// `pods` are those of the node.
pub(super) fn describe(object: &Value, pods: &[&Value]) -> String {
    let mut shown = Text::default();
    shown.field(0, "Name", text(object, "/metadata/name"));
    shown.field(0, "Roles", columns::roles(object));
    shown.labels_and_annotations(object);
    shown.field(
        0,
        "CreationTimestamp",
        date(object, "/metadata/creationTimestamp"),
    );
    shown.several("Taints", list(object, "/spec/taints").iter().map(taint));
    shown.field(0, "Unschedulable", is_true(object, "/spec/unschedulable"));
    conditions(object, &mut shown);
    shown.line(0, "Addresses:");
    for address in list(object, "/status/addresses") {
        shown.field(1, text(address, "/type"), text(address, "/address"));
    }
    for (name, pointer) in [
        ("Capacity", "/status/capacity"),
        ("Allocatable", "/status/allocatable"),
    ] {
        quantities(object, name, pointer, &mut shown);
    }
    shown.line(0, "System Info:");
    for (name, field) in SYSTEM_INFO {
        shown.field(1, name, text(object, &format!("/status/nodeInfo/{field}")));
    }
    shown.given(0, "PodCIDR", text(object, "/spec/podCIDR"));
    shown.given(0, "PodCIDRs", &texts(object, "/spec/podCIDRs").join(","));
    shown.given(0, "ProviderID", text(object, "/spec/providerID"));
    self::pods(pods, &mut shown);
    shown.finish()
}

fn taint(taint: &Value) -> String {
    let (key, effect) = (text(taint, "/key"), text(taint, "/effect"));
    match text(taint, "/value") {
        "" => format!("{key}:{effect}"),
        value => format!("{key}={value}:{effect}"),
    }
}

fn conditions(object: &Value, shown: &mut Text) {
    let conditions = list(object, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    shown.line(0, "Conditions:");
    shown.line(
        1,
        "Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage",
    );
    shown.line(
        1,
        "----\t------\t-----------------\t------------------\t------\t-------",
    );
    for condition in conditions {
        let field = |name: &str| text(condition, &format!("/{name}"));
        let date = |name: &str| date(condition, &format!("/{name}"));
        let cells = [
            field("type").to_owned(),
            field("status").to_owned(),
            date("lastHeartbeatTime"),
            date("lastTransitionTime"),
            field("reason").to_owned(),
            field("message").to_owned(),
        ];
        shown.line(1, cells.join(" \t"));
    }
}

fn quantities(object: &Value, name: &str, pointer: &str, shown: &mut Text) {
    let Some(quantities) = object.pointer(pointer).and_then(Value::as_object) else {
        return;
    };
    shown.line(0, format_args!("{name}:"));
    for key in quantities.keys() {
        let quantity = quantities
            .get(key)
            .map(|it| scalar(it, ""))
            .unwrap_or_default();
        shown.field(1, key, quantity);
    }
}

fn pods(pods: &[&Value], shown: &mut Text) {
    let is_finished = |pod: &Value| matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let running: Vec<&Value> = pods
        .iter()
        .copied()
        .filter(|pod| !is_finished(pod))
        .collect();
    shown.field(
        0,
        "Non-terminated Pods",
        format_args!("({} in total)", running.len()),
    );
    shown.line(1, "Namespace\tName\tReady\tAge");
    shown.line(1, "---------\t----\t-----\t---");
    let now = SystemTime::now();
    for pod in running {
        let ready = list(pod, "/status/conditions")
            .iter()
            .any(|it| text(it, "/type") == "Ready" && text(it, "/status") == "True");
        let (namespace, name) = (
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
        );
        let age = age(time(pod, "/metadata/creationTimestamp"), now);
        shown.line(
            1,
            format_args!("{namespace}\t{name}\t{}\t{age}", capital(ready)),
        );
    }
}
