//! NAME STATUS ROLES AGE VERSION.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::object::{NONE, UNKNOWN, is_true, list, or_none, pairs, text, text_or};

pub(super) const NARROW: &[&str] = &["NAME", "STATUS", "ROLES", "AGE", "VERSION"];
pub(super) const WIDE: &[&str] = &[
    "INTERNAL-IP",
    "EXTERNAL-IP",
    "OS-IMAGE",
    "KERNEL-VERSION",
    "CONTAINER-RUNTIME",
];

/// Begin of a label that names a role.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// Label whose value is a role.
const ROLE: &str = "kubernetes.io/role";

pub(super) fn cells(object: &Value) -> Vec<String> {
    let fact =
        |name: &str| text_or(object, &format!("/status/nodeInfo/{name}"), UNKNOWN).to_owned();
    vec![
        text(object, "/metadata/name").to_owned(),
        status(object),
        roles(object),
        String::new(),
        text(object, "/status/nodeInfo/kubeletVersion").to_owned(),
        address(object, "InternalIP"),
        address(object, "ExternalIP"),
        fact("osImage"),
        fact("kernelVersion"),
        fact("containerRuntimeVersion"),
    ]
}

fn status(object: &Value) -> String {
    let conditions = list(object, "/status/conditions");
    let ready = conditions.iter().rfind(|it| text(it, "/type") == "Ready");
    let mut status = match ready.map(|ready| text(ready, "/status")) {
        None => "Unknown",
        Some("True") => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if is_true(object, "/spec/unschedulable") {
        status.push_str(",SchedulingDisabled");
    }
    status
}

pub(in crate::cli) fn roles(object: &Value) -> String {
    let labels = pairs(object, "/metadata/labels");
    let roles = labels.into_iter().filter_map(|(key, value)| {
        let role = match key.strip_prefix(ROLE_PREFIX) {
            Some(role) => role,
            None if key == ROLE => value,
            None => "",
        };
        (!role.is_empty()).then_some(role)
    });
    let roles: BTreeSet<&str> = roles.collect();
    or_none(roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(object: &Value, address_type: &str) -> String {
    let addresses = list(object, "/status/addresses").iter();
    let mut of_type = addresses.filter(|it| text(it, "/type") == address_type);
    let first = of_type.next().map(|it| text(it, "/address"));
    first.unwrap_or(NONE).to_owned()
}
