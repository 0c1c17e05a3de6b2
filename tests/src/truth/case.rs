//! One static state of Services, seen from one node.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde::Deserialize;
use serde_yaml::Value;

use super::{Answer, Expect, Flow, Masquerade, SourceClass};

/// See the module.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name, unique in its table.
    pub id: String,
    /// The node that is asked about.
    pub node: Node,
    /// How its agent is set.
    pub flags: Flags,
    pub(super) services: Vec<Value>,
    pub(super) slices: Vec<Value>,
    /// Addresses of the endpoints that run on this node.
    pub(super) locals: BTreeSet<IpAddr>,
    /// The packets.
    pub flows: Vec<Flow>,
}

/// What is known about the node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The address of each family by which the cluster knows it.
    #[serde(rename = "primaryIPs")]
    pub primary_ips: Vec<IpAddr>,
    /// All its addresses, those of the loopback device too.
    #[serde(rename = "localIPs")]
    pub local_ips: Vec<IpAddr>,
    /// Its zone.
    pub zone: Option<String>,
}

/// kube-proxy's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Flags {
    /// The family of the flows, for readers.
    #[serde(rename = "ipFamily")]
    _ip_family: Option<String>,
    /// `none`: kube-proxy cannot tell pods from others.
    detect_local_mode: String,
    #[serde(default, rename = "podCIDR")]
    pod_cidrs: OneOrMany,
    /// Prefixes of `ClusterIP`s.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<IpNet>,
    /// Which of the node's addresses answer on node ports: prefixes, or `primary`; none: all.
    pub node_port_addresses: Vec<String>,
    /// Whether 127.0.0.1 may: always, where the addresses allow it.
    #[serde(rename = "localhostNodePorts")]
    _localhost_node_ports: bool,
    masquerade_all: bool,
}

/// Prefixes, of which a table may write down one without a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(IpNet),
    Many(Vec<IpNet>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Case {
    /// All objects, as documents of one file.
    pub fn manifest(&self) -> Result<String> {
        let mut text = String::new();
        for object in self.services.iter().chain(&self.slices) {
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(object).context(self.id.clone())?);
        }
        Ok(text)
    }

    /// Prefixes of pods; none where pods cannot be told from others.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        match &self.flags.pod_cidrs {
            _ if self.flags.detect_local_mode == "none" => Vec::new(),
            OneOrMany::One(cidr) => vec![*cidr],
            OneOrMany::Many(cidrs) => cidrs.clone(),
        }
    }

    /// Whether this address is one of the node's.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.node.local_ips.contains(&ip)
    }

    /// Whether the endpoint at this address runs on the node.
    pub fn is_local_endpoint(&self, ip: IpAddr) -> bool {
        self.locals.contains(&ip)
    }

    /// How many endpoints of this node a load balancer is told of that asks at this health-check port; nothing where no
    /// service has it. They are the ready ones, by address.
    pub fn health(&self, port: u16) -> Option<usize> {
        let asked = Value::from(port);
        let service = self.services.iter().find(|service| {
            let spec = &service["spec"];
            spec["healthCheckNodePort"] == asked && spec["externalTrafficPolicy"] == "Local"
        })?;
        let [namespace, name] = ["namespace", "name"].map(|key| &service["metadata"][key]);
        let slices = self.slices.iter().filter(|slice| {
            let metadata = &slice["metadata"];
            metadata["namespace"] == *namespace
                && metadata["labels"]["kubernetes.io/service-name"] == *name
        });
        let endpoints = slices.flat_map(endpoints_of).filter(|endpoint| {
            let is_ready = endpoint
                .get("conditions")
                .and_then(|conditions| conditions.get("ready"))
                .and_then(Value::as_bool)
                .unwrap_or(true);
            is_ready && endpoint.get("nodeName").and_then(Value::as_str) == Some(&self.node.name)
        });
        let addresses = endpoints.flat_map(|endpoint| addresses_of(&endpoint));
        Some(addresses.collect::<BTreeSet<_>>().len())
    }

    /// Addresses of all endpoints, wherever they run and in whatever state.
    pub fn endpoints(&self) -> BTreeSet<IpAddr> {
        self.slices
            .iter()
            .flat_map(endpoints_of)
            .flat_map(|endpoint| addresses_of(&endpoint))
            .collect()
    }

    /// The mode whose source NAT the table describes.
    pub fn masquerade(&self) -> Masquerade {
        if self.flags.masquerade_all {
            Masquerade::All
        } else {
            Masquerade::KubeProxy
        }
    }

    /// The modes in which the case says something: `as-needed` knows pods by their devices and has no setting like
    /// kube-proxy's.
    pub fn modes(&self) -> Vec<Masquerade> {
        let is_plain = !self.flags.masquerade_all && !self.pod_cidrs().is_empty();
        let as_needed = is_plain.then_some(Masquerade::AsNeeded);
        [self.masquerade()].into_iter().chain(as_needed).collect()
    }

    /// Whether a flow to this backend is masqueraded; nothing where both are right.
    pub fn expects_masquerade(
        &self,
        flow: &Flow,
        backend: SocketAddr,
        mode: Masquerade,
    ) -> Option<bool> {
        if flow.class == SourceClass::Pod && backend.ip() == flow.from.ip() {
            return Some(true);
        }
        if mode != Masquerade::AsNeeded {
            return Some(flow.masquerade);
        }
        let is_here = self.is_local_endpoint(backend.ip()) || self.is_local(backend.ip());
        match flow.class {
            // Nobody else can answer 127.0.0.1.
            SourceClass::Localhost => Some(true),
            SourceClass::External if !is_here => Some(true),
            // The preferred source of the way to the backend may be another of the node's addresses.
            SourceClass::Node => None,
            SourceClass::Pod | SourceClass::External => (!flow.masquerade).then_some(false),
        }
    }

    /// Fails unless this is what must become of the flow; says what it is instead.
    pub fn judge(&self, flow: &Flow, mode: Masquerade, answer: &Answer) -> Result<()> {
        ensure!(
            answer.outcome == flow.expect,
            "{} instead of {}",
            said(&answer.outcome),
            said(&flow.expect)
        );
        for (backend, is_masqueraded) in &answer.sources {
            if let Some(expected) = self.expects_masquerade(flow, *backend, mode) {
                ensure!(
                    *is_masqueraded == expected,
                    "towards {backend} the source is {} replaced",
                    if expected { "not" } else { "wrongly" }
                );
            }
        }
        Ok(())
    }
}

/// An outcome in a word, with the candidates.
fn said(outcome: &Expect) -> String {
    match outcome {
        Expect::Forward(candidates) => {
            let candidates: Vec<String> = candidates.iter().map(SocketAddr::to_string).collect();
            format!("forward to [{}]", candidates.join(", "))
        }
        other => other.to_string(),
    }
}

/// Addresses of the endpoints that slices place on this node.
pub(super) fn locals_of(slices: &[Value], node: &str) -> BTreeSet<IpAddr> {
    let endpoints = slices.iter().flat_map(endpoints_of);
    endpoints
        .filter(|endpoint| endpoint.get("nodeName").and_then(Value::as_str) == Some(node))
        .flat_map(|endpoint| addresses_of(&endpoint))
        .collect()
}

fn endpoints_of(slice: &Value) -> Vec<Value> {
    let endpoints = slice.get("endpoints").and_then(Value::as_sequence);
    endpoints.cloned().unwrap_or_default()
}

/// Names and addresses that only Kubernetes reads are passed over.
fn addresses_of(endpoint: &Value) -> Vec<IpAddr> {
    let addresses = endpoint.get("addresses").and_then(Value::as_sequence);
    let texts = addresses.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(address).collect()
}

/// An address, with leading zeros or without: they are decimal.
fn address(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let numbers = text.split('.').map(str::parse);
    let bytes: Vec<u8> = numbers.collect::<Result<_, _>>().ok()?;
    Some(<[u8; 4]>::try_from(bytes).ok()?.into())
}
