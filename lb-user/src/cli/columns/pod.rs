//! NAME READY STATUS RESTARTS AGE.
//!
//! The status is the phase, unless something more telling happened to a container: kubectl's rules, container by
//! container.

use std::time::SystemTime;

use serde_json::Value;

use crate::cli::object::{NONE, UNKNOWN, age, is_true, list, number, text, text_or, time};

pub(super) const NARROW: &[&str] = &["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
pub(super) const WIDE: &[&str] = &["IP", "NODE", "NOMINATED NODE", "READINESS GATES"];

pub(super) fn cells(object: &Value, now: SystemTime) -> Vec<String> {
    let summary = Summary::new(object);
    let ip = list(object, "/status/podIPs").first();
    vec![
        text(object, "/metadata/name").to_owned(),
        format!("{}/{}", summary.n_ready, n_containers(object)),
        status(object, &summary),
        summary.restarts.show(now),
        String::new(),
        ip.map_or(NONE, |ip| text_or(ip, "/ip", NONE)).to_owned(),
        text_or(object, "/spec/nodeName", NONE).to_owned(),
        text_or(object, "/status/nominatedNodeName", NONE).to_owned(),
        readiness_gates(object),
    ]
}

/// What the containers of a pod come to.
struct Summary {
    reason: String,
    n_ready: usize,
    restarts: Restarts,
}

/// How often containers were started again, and when last.
#[derive(Clone, Copy, Default)]
struct Restarts {
    n: i64,
    last: Option<SystemTime>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.n += number(container, "/restartCount").unwrap_or_default();
        self.last = self
            .last
            .max(time(container, "/lastState/terminated/finishedAt"));
    }

    fn show(self, now: SystemTime) -> String {
        match self.last {
            Some(_) if self.n != 0 => format!("{} ({} ago)", self.n, age(self.last, now)),
            _ => self.n.to_string(),
        }
    }
}

impl Summary {
    fn new(object: &Value) -> Self {
        let mut summary = Self {
            reason: phase_or_reason(object),
            n_ready: 0,
            restarts: Restarts::default(),
        };
        let (is_initializing, sidecars) = summary.add_init_containers(object);
        if !is_initializing || has_condition(object, "Initialized") {
            summary.restarts = sidecars;
            summary.add_containers(object);
        }
        summary
    }

    /// Whether an init container is still to end, and the restarts of those that run beside the others.
    fn add_init_containers(&mut self, object: &Value) -> (bool, Restarts) {
        let mut sidecars = Restarts::default();
        let n_declared = list(object, "/spec/initContainers").len();
        for (index, container) in list(object, "/status/initContainerStatuses")
            .iter()
            .enumerate()
        {
            self.restarts.add(container);
            let is_sidecar = is_sidecar(object, text(container, "/name"));
            if is_sidecar {
                sidecars.add(container);
            }
            if container.pointer("/state/terminated").is_some()
                && number(container, "/state/terminated/exitCode").unwrap_or_default() == 0
            {
                continue;
            }
            if is_sidecar && is_true(container, "/started") {
                self.n_ready += usize::from(is_true(container, "/ready"));
                continue;
            }
            self.reason = match (
                terminated(container),
                text(container, "/state/waiting/reason"),
            ) {
                (Some(reason), _) => format!("Init:{reason}"),
                (None, "" | "PodInitializing") => format!("Init:{index}/{n_declared}"),
                (None, reason) => format!("Init:{reason}"),
            };
            return (true, sidecars);
        }
        (false, sidecars)
    }

    fn add_containers(&mut self, object: &Value) {
        let mut is_any_running = false;
        for container in list(object, "/status/containerStatuses").iter().rev() {
            self.restarts.add(container);
            let waiting = text(container, "/state/waiting/reason");
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if let Some(reason) = terminated(container) {
                self.reason = reason;
            } else if is_true(container, "/ready") && container.pointer("/state/running").is_some()
            {
                is_any_running = true;
                self.n_ready += 1;
            }
        }
        if self.reason == "Completed" && is_any_running {
            let is_ready = has_condition(object, "Ready");
            let reason = if is_ready { "Running" } else { "NotReady" };
            reason.clone_into(&mut self.reason);
        }
    }
}

fn phase_or_reason(object: &Value) -> String {
    let is_gated = list(object, "/status/conditions")
        .iter()
        .any(|it| text(it, "/type") == "PodScheduled" && text(it, "/reason") == "SchedulingGated");
    if is_gated {
        return "SchedulingGated".to_owned();
    }
    let phase = text_or(object, "/status/phase", UNKNOWN);
    text_or(object, "/status/reason", phase).to_owned()
}

/// Why a container ended, if it did.
fn terminated(container: &Value) -> Option<String> {
    let end = container.pointer("/state/terminated")?;
    let exit_code = number(end, "/exitCode").unwrap_or_default();
    Some(match (text(end, "/reason"), number(end, "/signal")) {
        ("", Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        ("", _) => format!("ExitCode:{exit_code}"),
        (reason, _) => reason.to_owned(),
    })
}

fn status(object: &Value, summary: &Summary) -> String {
    let is_deleted = object.pointer("/metadata/deletionTimestamp").is_some();
    let is_finished = matches!(text(object, "/status/phase"), "Succeeded" | "Failed");
    if is_deleted && text(object, "/status/reason") == "NodeLost" {
        "Unknown".to_owned()
    } else if is_deleted && !is_finished {
        "Terminating".to_owned()
    } else {
        summary.reason.clone()
    }
}

/// Containers, and init containers that run beside them.
fn n_containers(object: &Value) -> usize {
    let beside = list(object, "/spec/initContainers").iter();
    list(object, "/spec/containers").len() + beside.filter(|it| runs_on(it)).count()
}

fn is_sidecar(object: &Value, name: &str) -> bool {
    let mut declared = list(object, "/spec/initContainers").iter();
    declared.any(|it| text(it, "/name") == name && runs_on(it))
}

fn runs_on(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn has_condition(object: &Value, condition: &str) -> bool {
    let mut conditions = list(object, "/status/conditions").iter();
    conditions.any(|it| text(it, "/type") == condition && text(it, "/status") == "True")
}

fn readiness_gates(object: &Value) -> String {
    let gates = list(object, "/spec/readinessGates");
    if gates.is_empty() {
        return NONE.to_owned();
    }
    let is_open = |gate: &&Value| has_condition(object, text(gate, "/conditionType"));
    format!("{}/{}", gates.iter().filter(is_open).count(), gates.len())
}
