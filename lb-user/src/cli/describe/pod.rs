//! Pods.

use std::time::SystemTime;

use serde_json::Value;

use super::{
    container,
    text::{Text, date, scalar},
    volume,
};
use crate::cli::object::{NONE, UNKNOWN, age, is_true, list, number, text, text_or, time};

pub(super) fn describe(object: &Value) -> String {
    let mut shown = Text::default();
    shown.name(object);
    place(object, &mut shown);
    shown.labels_and_annotations(object);
    state(object, &mut shown);
    addresses(object, &mut shown);
    for (title, field) in [
        ("Init Containers", "initContainer"),
        ("Containers", "container"),
        ("Ephemeral Containers", "ephemeralContainer"),
    ] {
        container::describe(object, title, field, &mut shown);
    }
    gates_and_conditions(object, &mut shown);
    volume::describe(object, &mut shown);
    shown.field(0, "QoS Class", qos_class(object));
    shown.pairs("Node-Selectors", object, "/spec/nodeSelector");
    let mut tolerations: Vec<&Value> = list(object, "/spec/tolerations").iter().collect();
    tolerations.sort_by_key(|toleration| text(toleration, "/key"));
    shown.several("Tolerations", tolerations.into_iter().map(toleration));
    shown.finish()
}

fn place(object: &Value, shown: &mut Text) {
    shown.given(0, "Priority", &scalar(object, "/spec/priority"));
    for (name, field) in [
        ("Priority Class Name", "priorityClassName"),
        ("Runtime Class Name", "runtimeClassName"),
        ("Service Account", "serviceAccountName"),
    ] {
        shown.given(0, name, text(object, &format!("/spec/{field}")));
    }
    match text(object, "/spec/nodeName") {
        "" => shown.field(0, "Node", NONE),
        node => {
            let ip = text(object, "/status/hostIP");
            shown.field(0, "Node", format_args!("{node}/{ip}"));
        }
    }
    shown.given(0, "Start Time", &date(object, "/status/startTime"));
}

fn state(object: &Value, shown: &mut Text) {
    let phase = text_or(object, "/status/phase", UNKNOWN);
    let is_deleted = object.pointer("/metadata/deletionTimestamp").is_some();
    if is_deleted && !matches!(phase, "Succeeded" | "Failed") {
        let since = time(object, "/metadata/deletionTimestamp");
        let lasts = age(since, SystemTime::now());
        shown.field(0, "Status", format_args!("Terminating (lasts {lasts})"));
        if let Some(seconds) = number(object, "/metadata/deletionGracePeriodSeconds") {
            shown.field(0, "Termination Grace Period", format_args!("{seconds}s"));
        }
    } else {
        shown.field(0, "Status", phase);
    }
    shown.given(0, "Reason", text(object, "/status/reason"));
    shown.given(0, "Message", text(object, "/status/message"));
}

fn addresses(object: &Value, shown: &mut Text) {
    shown.field(0, "IP", text(object, "/status/podIP"));
    match list(object, "/status/podIPs") {
        [] => shown.field(0, "IPs", NONE),
        ips => {
            shown.line(0, "IPs:");
            for ip in ips {
                shown.field(1, "IP", text(ip, "/ip"));
            }
        }
    }
    let owners = list(object, "/metadata/ownerReferences").iter();
    let mut controllers = owners.filter(|owner| is_true(owner, "/controller"));
    if let Some(owner) = controllers.next() {
        let (kind, name) = (text(owner, "/kind"), text(owner, "/name"));
        shown.field(0, "Controlled By", format_args!("{kind}/{name}"));
    }
    shown.given(
        0,
        "NominatedNodeName",
        text(object, "/status/nominatedNodeName"),
    );
}

/// Each line ends with a blank, as kubectl's do.
fn gates_and_conditions(object: &Value, shown: &mut Text) {
    let conditions = list(object, "/status/conditions");
    let gates = list(object, "/spec/readinessGates");
    if !gates.is_empty() {
        shown.line(0, "Readiness Gates:");
        shown.line(1, "Type\tStatus");
        for gate in gates {
            let wanted = text(gate, "/conditionType");
            let condition = conditions.iter().find(|it| text(it, "/type") == wanted);
            let status = condition.map_or(NONE, |it| text(it, "/status"));
            shown.line(1, format_args!("{wanted} \t{status} "));
        }
    }
    if !conditions.is_empty() {
        shown.line(0, "Conditions:");
        shown.line(1, "Type\tStatus");
        for condition in conditions {
            let (name, status) = (text(condition, "/type"), text(condition, "/status"));
            shown.line(1, format_args!("{name} \t{status} "));
        }
    }
}

/// What the status says, or what follows from requests and limits.
fn qos_class(object: &Value) -> &str {
    let given = text(object, "/status/qosClass");
    if !given.is_empty() {
        return given;
    }
    let containers = || {
        let lists = ["/spec/containers", "/spec/initContainers"];
        lists.into_iter().flat_map(|pointer| list(object, pointer))
    };
    let of = |container: &Value, side: &str, resource: &str| {
        scalar(container, &format!("/resources/{side}/{resource}"))
    };
    let resources = ["cpu", "memory"];
    let asks = |container: &Value| {
        let asks_for = |resource| {
            !of(container, "requests", resource).is_empty()
                || !of(container, "limits", resource).is_empty()
        };
        resources.into_iter().any(asks_for)
    };
    let is_guaranteed = |container: &Value| {
        resources.into_iter().all(|resource| {
            let (request, limit) = (
                of(container, "requests", resource),
                of(container, "limits", resource),
            );
            !limit.is_empty() && (request.is_empty() || request == limit)
        })
    };
    if !containers().any(asks) {
        "BestEffort"
    } else if containers().all(is_guaranteed) {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn toleration(toleration: &Value) -> String {
    let (key, value) = (text(toleration, "/key"), text(toleration, "/value"));
    let effect = text(toleration, "/effect");
    let exists = text(toleration, "/operator") == "Exists" && value.is_empty();
    let seconds = number(toleration, "/tolerationSeconds");
    let behind = |mark: &str, text: &str| match text {
        "" => String::new(),
        text => format!("{mark}{text}"),
    };
    let what = format!("{key}{}{}", behind("=", value), behind(":", effect));
    let how = match (exists, what.is_empty()) {
        (false, _) => "",
        (true, true) => "op=Exists",
        (true, false) => " op=Exists",
    };
    let how_long = seconds.map_or_else(String::new, |seconds| format!(" for {seconds}s"));
    format!("{what}{how}{how_long}")
}
