//! Which endpoints a service's clients may use on this node, and why not the others.
//!
//! The words behind the lists of [`super::endpoint`], for `describe` and `trace`. The lists themselves are made by
//! the same code.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use lb_common::net::addr::Family;
use serde::{Serialize, Serializer};

use super::{
    NodeFacts,
    endpoint::{self, Choice, Exclusion, Here},
    frontend,
    slices::Sources,
};
use crate::{
    alloc::Addresses,
    desired::Protocol,
    model::{endpoint::Endpoint, object::ObjectName},
    store::Snapshot,
};

/// One port of a service in one family, and its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortChoice {
    /// The port's name; empty where the service has one unnamed port.
    pub name: String,
    /// The port's number.
    pub port: u16,
    /// The port's protocol.
    pub protocol: Protocol,
    /// The address family.
    #[serde(serialize_with = "as_text")]
    pub family: Family,
    /// The lists that the service has: that of the cluster, and those that its policies ask for.
    pub lists: BTreeSet<List>,
    /// Its endpoints, sorted by address.
    pub endpoints: Vec<EndpointChoice>,
}

/// One endpoint of a port, and the lists that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointChoice {
    /// Where it answers.
    pub address: SocketAddr,
    /// The node that it names.
    pub node: Option<String>,
    /// What it is, as `Pod web-1`.
    pub target: Option<String>,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its share of new connections, compared with those of the others.
    pub weight: u8,
    /// The lists from which it takes new connections.
    pub lists: BTreeSet<List>,
    /// Why it is not in the service's other lists, a part of a sentence each.
    pub reasons: BTreeMap<List, String>,
}

/// Lists of endpoints, by the clients that they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum List {
    /// Everybody under the policy Cluster; pods and nodes also where the external policy is Local.
    Cluster,
    /// Clients outside under `externalTrafficPolicy: Local`.
    ExternalLocal,
    /// Clients of a `ClusterIP` under `internalTrafficPolicy: Local`.
    InternalLocal,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::ExternalLocal => "external-local",
            Self::InternalLocal => "internal-local",
        })
    }
}

/// Every port of a service in every family that it has an address of, in the order of its manifest. `addresses`
/// are the service's, as compiled; a service that has no place in the datapath has no ports here.
pub fn explain(
    snapshot: &Snapshot,
    facts: &NodeFacts,
    name: &ObjectName,
    addresses: &Addresses,
) -> Vec<PortChoice> {
    Explainer::new(snapshot, facts).explain(name, addresses)
}

/// Explains several services, each once: what they have in common is looked up only once.
pub struct Explainer<'a> {
    snapshot: &'a Snapshot,
    here: Here<'a>,
    sources: Sources,
}

impl<'a> Explainer<'a> {
    /// For the services of a snapshot, as a node sees them.
    pub fn new(snapshot: &'a Snapshot, facts: &'a NodeFacts) -> Self {
        Self {
            snapshot,
            here: Here::new(snapshot, facts),
            sources: Sources::new(snapshot),
        }
    }

    /// As [`explain()`] does.
    pub fn explain(&self, name: &ObjectName, addresses: &Addresses) -> Vec<PortChoice> {
        let served = self.snapshot.services.get(name);
        let Some(service) = served.filter(|service| frontend::is_served(&service.object)) else {
            return Vec::new();
        };
        let here = self.here;
        let families = &addresses.families;
        let slices = self
            .sources
            .slices(self.snapshot, service, families, &mut Vec::new());
        let service = &service.object;
        let mut lists = BTreeSet::from([List::Cluster]);
        lists.extend(endpoint::external_local(service).then_some(List::ExternalLocal));
        lists.extend(endpoint::internal_local(service).then_some(List::InternalLocal));
        let ports = frontend::ports(service, addresses);
        ports
            .map(|(port, id, _)| {
                let endpoints = endpoint::merge(&slices, port, id.family);
                let choice = Choice::new(endpoints.values().copied(), here);
                PortChoice {
                    name: port.name.to_string(),
                    port: port.port,
                    protocol: port.protocol,
                    family: id.family,
                    endpoints: endpoints
                        .into_iter()
                        .map(|(address, endpoint)| judged(address, endpoint, choice, here, &lists))
                        .collect(),
                    lists: lists.clone(),
                }
            })
            .collect()
    }
}

impl fmt::Debug for Explainer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer")
            .field("generation", &self.snapshot.generation)
            .finish_non_exhaustive()
    }
}

fn judged(
    address: SocketAddr,
    endpoint: &Endpoint,
    choice: Choice<'_>,
    here: Here<'_>,
    lists: &BTreeSet<List>,
) -> EndpointChoice {
    let mut judged = EndpointChoice {
        address,
        node: endpoint.node_name.as_deref().map(str::to_owned),
        target: endpoint.target.as_ref().map(ToString::to_string),
        local: here.is_local(endpoint),
        weight: endpoint.weight,
        lists: BTreeSet::new(),
        reasons: BTreeMap::new(),
    };
    for list in lists {
        let exclusion = match list {
            List::Cluster => choice.cluster(endpoint),
            List::ExternalLocal | List::InternalLocal => choice.local(endpoint),
        };
        match exclusion {
            None => drop(judged.lists.insert(*list)),
            Some(exclusion) => {
                let reason = reason(exclusion, endpoint, here);
                judged.reasons.insert(*list, reason);
            }
        }
    }
    judged
}

fn reason(exclusion: Exclusion, endpoint: &Endpoint, here: Here<'_>) -> String {
    let hints = endpoint.hints.as_ref();
    match exclusion {
        Exclusion::NotReady | Exclusion::NotServing if !endpoint.conditions.terminating => {
            "not ready".to_owned()
        }
        Exclusion::NotReady | Exclusion::NotServing => {
            "terminating, and does not serve any more".to_owned()
        }
        Exclusion::TerminatingBesideReady => "terminating, and others are ready".to_owned(),
        Exclusion::HintsOfNodes => {
            let nodes = hints.map(|hints| hints.nodes.join(", "));
            let nodes = nodes.unwrap_or_default();
            format!("its hints are for node {nodes}, this is {}", here.node)
        }
        Exclusion::HintsOfZones => {
            let zones = hints.map(|hints| hints.zones.join(", "));
            let (zones, zone) = (zones.unwrap_or_default(), here.zone.unwrap_or_default());
            format!("its hints are for zone {zones}, this node is in {zone}")
        }
        Exclusion::Elsewhere => {
            let node = endpoint.node_name.as_deref().unwrap_or_default();
            format!("on node {node}; the policy Local keeps to {}", here.node)
        }
        Exclusion::Unplaced => "no node name: remote everywhere".to_owned(),
        Exclusion::Weightless => "its weight is 0, and others have one".to_owned(),
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands references in"
)]
fn as_text<S: Serializer>(family: &Family, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(family)
}
