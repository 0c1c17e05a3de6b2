//! Pods, as far as services look at them.
//!
//! Readiness is the condition `Ready`. A pod whose status has no conditions at all is taken as
//! ready: a manifest that gives an address and nothing else was written by hand, with no kubelet
//! that would ever add one.

use std::net::IpAddr;

use super::object::Meta;
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
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// Condition `Ready`, or no conditions at all.
    pub ready: bool,
    /// Phase `Succeeded` or `Failed`: it will never answer again.
    pub finished: bool,
    /// `metadata.deletionTimestamp` is set.
    pub terminating: bool,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Named container ports, those of sidecars included.
    pub ports: Vec<ContainerPort>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
}

impl Pod {
    /// Number of the container port of this name and protocol.
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.name == name && port.protocol == protocol)
            .map(|port| port.port)
    }
}

/// One named container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// `name`.
    pub name: String,
    /// `containerPort`.
    pub port: u16,
    /// `protocol`.
    pub protocol: Protocol,
}
