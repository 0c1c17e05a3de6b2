//! Pods, as far as services look at them.
//!
//! Readiness is the condition `Ready`. A pod whose status has no conditions at all is taken as
//! ready: a manifest that gives an address and nothing else was written by hand, with no kubelet
//! that would ever add one. Where the agent runs readiness probes itself, it lays what they say over both.

use std::{net::IpAddr, sync::Arc};

use super::{object::Meta, probe::Probe};
use crate::desired::Protocol;

/// One Pod.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of the pod's status"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Name and labels; the labels are what selectors look at.
    pub meta: Meta,
    /// `status.podIPs`, primary first.
    pub ips: Vec<IpAddr>,
    /// `status.hostIPs`, primary first.
    pub host_ips: Vec<IpAddr>,
    /// `status.phase`, where given.
    pub phase: Option<Arc<str>>,
    /// `status.conditions`.
    pub conditions: Box<[Condition]>,
    /// `status.startTime`, in seconds since 1970.
    pub started_s: Option<i64>,
    /// `spec.nodeName`.
    pub node_name: Option<Arc<str>>,
    /// `spec.readinessGates`: conditions without which the pod is not ready.
    pub readiness_gates: Vec<String>,
    /// Condition `Ready`, or no conditions at all; what the agent's own probes say where it runs them.
    pub ready: bool,
    /// Phase `Succeeded` or `Failed`: it will never answer again.
    pub finished: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Containers, then those init containers that stay (sidecars): where services look for ports.
    pub containers: Vec<Container>,
    /// `spec.hostname`.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain`.
    pub subdomain: Option<Arc<str>>,
}

impl Pod {
    /// Whether a condition is true.
    pub fn has(&self, condition: &str) -> bool {
        self.conditions
            .iter()
            .any(|it| *it.name == *condition && &*it.status == "True")
    }

    /// Number of the container port of this name and protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.containers
            .iter()
            .flat_map(|container| &container.ports)
            .find(|port| port.name.as_deref() == Some(name) && port.protocol == protocol)
            .map(|port| port.port)
    }

    /// Names of all container ports of a protocol.
    pub fn port_names(&self, protocol: Protocol) -> impl Iterator<Item = &str> {
        self.containers
            .iter()
            .flat_map(|container| &container.ports)
            .filter(move |port| port.protocol == protocol)
            .filter_map(|port| port.name.as_deref())
    }
}

/// One of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `type`.
    pub name: Arc<str>,
    /// `status`: `True`, `False` or `Unknown`.
    pub status: Arc<str>,
}

/// One container that stays as long as its pod does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// `name`.
    pub name: String,
    /// `ports`.
    pub ports: Vec<ContainerPort>,
    /// `restartPolicy: Always` among `initContainers`.
    pub is_sidecar: bool,
    /// `status.containerStatuses[].ready`, where the status has the container.
    pub ready: Option<bool>,
    /// `status.containerStatuses[].restartCount`; 0 where the status has it not.
    pub restarts: u32,
    /// `readinessProbe`.
    pub readiness_probe: Option<Probe>,
    /// What the agent's own probe of it says; none where there is none.
    pub probed: Option<Probed>,
}

/// What a readiness probe has found out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Whether the container is ready.
    pub ready: bool,
    /// Why the last try failed; none if it did not.
    pub failure: Option<String>,
}

/// One container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// `name`, where it has one.
    pub name: Option<String>,
    /// `containerPort`.
    pub port: u16,
    /// `protocol`.
    pub protocol: Protocol,
}
