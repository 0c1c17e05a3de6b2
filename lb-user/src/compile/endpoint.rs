//! Which endpoints answer for a service port.
//!
//! As kube-proxy sorts them (`CategorizeEndpoints`): ready ones; where there is none, those that still serve while
//! they terminate (KEP-1669), judged for the whole cluster and for this node separately. Hints narrow the cluster's
//! ready ones down to this node or zone, all or nothing, and nothing else. Endpoints that serve without taking
//! new connections stay known, so that their flows go on.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use lb_common::net::addr::Family;

use super::NodeFacts;
use crate::{
    desired,
    model::{
        endpoint::{AddressType, Conditions, Endpoint, EndpointSlice, Hints as GivenHints},
        object::ObjectName,
        service::{LABEL_HEADLESS, LABEL_PROXY_NAME, Service, ServicePort, TrafficPolicy},
    },
    store::Snapshot,
};

/// Endpoints of a service port in a family, over all slices. Where one address and port stands in
/// several, the one in the better state wins: not terminating, then ready, then serving.
pub(super) fn merge<'a>(
    slices: &'a [Cow<'_, EndpointSlice>],
    port: &ServicePort,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let mut merged = BTreeMap::new();
    let is_of_family = |slice: &&Cow<'_, EndpointSlice>| {
        slice.address_type == AddressType::Ip(family)
            && !slice.meta.labels.contains_key(LABEL_HEADLESS)
            && !slice.meta.labels.contains_key(LABEL_PROXY_NAME)
    };
    for slice in slices.iter().filter(is_of_family) {
        let ports = slice.ports.iter().filter_map(|slice_port| {
            let matches = slice_port.name == port.name && slice_port.protocol == port.protocol;
            slice_port.port.filter(|_| matches)
        });
        for number in ports {
            for endpoint in &slice.endpoints {
                let Some(ip) = endpoint.addresses.first() else {
                    continue;
                };
                match merged.entry(SocketAddr::new(*ip, number)) {
                    Entry::Vacant(place) => {
                        place.insert(endpoint);
                    }
                    Entry::Occupied(mut place) => {
                        if rank(endpoint) > rank(place.get()) {
                            place.insert(endpoint);
                        }
                    }
                }
            }
        }
    }
    merged
}

/// This node, as endpoints name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Here<'a> {
    /// Its name.
    pub(super) node: &'a str,
    /// Its zone, where it is known.
    pub(super) zone: Option<&'a str>,
}

impl<'a> Here<'a> {
    /// The zone is that of the facts, else that of the node's own object.
    pub(super) fn new(snapshot: &'a Snapshot, facts: &'a NodeFacts) -> Self {
        let of_object = || {
            let node = snapshot.nodes.get(&ObjectName::new("", &facts.name))?;
            node.object.zone().map(|zone| &**zone)
        };
        Self {
            node: &facts.name,
            zone: facts.zone.as_deref().or_else(of_object),
        }
    }

    /// An endpoint that names no node is remote everywhere.
    pub(super) fn is_local(self, endpoint: &Endpoint) -> bool {
        endpoint.node_name.as_deref() == Some(self.node)
    }
}

/// What may be done with each endpoint on this node. Endpoints with which nothing may be done are left out.
pub(super) fn serving(
    endpoints: &BTreeMap<SocketAddr, &Endpoint>,
    service: &Service,
    here: Here<'_>,
) -> BTreeMap<SocketAddr, desired::Endpoint> {
    let choice = Choice::new(endpoints.values().copied(), here);
    let (external_local, internal_local) = (external_local(service), internal_local(service));
    let judged = endpoints.iter().map(|(address, endpoint)| {
        let takes_local = choice.local(endpoint).is_none();
        let judged = desired::Endpoint {
            serving: endpoint.conditions.serving || endpoint.conditions.ready,
            in_cluster: choice.cluster(endpoint).is_none(),
            in_external_local: external_local && takes_local,
            in_internal_local: internal_local && takes_local,
            local: here.is_local(endpoint),
            weight: endpoint.weight,
        };
        (*address, judged)
    });
    judged.filter(|(_, endpoint)| endpoint.serving).collect()
}

/// Whether clients outside reach the endpoints of this node alone.
pub(super) fn external_local(service: &Service) -> bool {
    service.is_externally_accessible()
        && service.spec.external_traffic_policy == TrafficPolicy::Local
}

/// Whether clients of a `ClusterIP` reach the endpoints of this node alone.
pub(super) fn internal_local(service: &Service) -> bool {
    service.spec.internal_traffic_policy == TrafficPolicy::Local
}

/// How the lists of a service port are made on this node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'a> {
    here: Here<'a>,
    hints: Hints,
    cluster: Stage,
    local: Stage,
    /// Somebody in the list of the cluster has a weight.
    cluster_weighs: bool,
    /// The same for the list of this node.
    local_weighs: bool,
}

/// Why an endpoint takes no new connections from a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exclusion {
    /// It is not ready, and others are.
    NotReady,
    /// It serves while it terminates, and others are ready.
    TerminatingBesideReady,
    /// Nobody is ready, and it does not serve while it terminates either.
    NotServing,
    /// Its hints name other nodes.
    HintsOfNodes,
    /// Its hints name other zones.
    HintsOfZones,
    /// It runs on another node.
    Elsewhere,
    /// It names no node.
    Unplaced,
    /// Its weight is 0, and others have one.
    Weightless,
}

/// Which hints count for the cluster list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hints {
    None,
    Nodes,
    Zones,
}

/// Which endpoints of a list take new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    /// None is ready.
    ServingTerminating,
}

impl<'a> Choice<'a> {
    pub(super) fn new<'e>(
        endpoints: impl Iterator<Item = &'e Endpoint> + Clone,
        here: Here<'a>,
    ) -> Self {
        let all = endpoints.clone();
        let ready = endpoints.filter(|endpoint| endpoint.conditions.ready);
        let local = ready.clone().filter(|endpoint| here.is_local(endpoint));
        let choice = Self {
            here,
            hints: Hints::of(&ready, here),
            cluster: Stage::among(ready),
            local: Stage::among(local),
            cluster_weighs: false,
            local_weighs: false,
        };
        let mut heavy = all.filter(|endpoint| endpoint.weight > 0);
        Self {
            cluster_weighs: heavy.clone().any(|it| choice.cluster(it).is_none()),
            local_weighs: heavy.any(|it| choice.local(it).is_none()),
            ..choice
        }
    }

    /// Why an endpoint is not in the list for the whole cluster; nothing if it is.
    pub(super) fn cluster(&self, endpoint: &Endpoint) -> Option<Exclusion> {
        let hinted = || match self.hints {
            Hints::Nodes if !is_for_node(endpoint, self.here.node) => Some(Exclusion::HintsOfNodes),
            Hints::Zones if !is_for_zone(endpoint, self.here.zone) => Some(Exclusion::HintsOfZones),
            Hints::None | Hints::Nodes | Hints::Zones => None,
        };
        // No hint is asked about endpoints that terminate.
        let hinted = || (self.cluster == Stage::Ready).then(hinted).flatten();
        let weightless = || weightless(endpoint, self.cluster_weighs);
        let refused = self.cluster.refuses(endpoint.conditions);
        refused.or_else(hinted).or_else(weightless)
    }

    /// Why an endpoint is not in the list of this node's own; nothing if it is.
    pub(super) fn local(&self, endpoint: &Endpoint) -> Option<Exclusion> {
        if endpoint.node_name.is_none() {
            Some(Exclusion::Unplaced)
        } else if !self.here.is_local(endpoint) {
            Some(Exclusion::Elsewhere)
        } else {
            let refused = self.local.refuses(endpoint.conditions);
            refused.or_else(|| weightless(endpoint, self.local_weighs))
        }
    }
}

/// Why an endpoint is not in a list where somebody has a weight, or nobody.
fn weightless(endpoint: &Endpoint, weighs: bool) -> Option<Exclusion> {
    (weighs && endpoint.weight == 0).then_some(Exclusion::Weightless)
}

impl Hints {
    /// Hints count if every ready endpoint has some and one of them is for here: those for nodes first, then
    /// those for zones.
    fn of<'e>(ready: &(impl Iterator<Item = &'e Endpoint> + Clone), here: Here<'_>) -> Self {
        let all_and_one = |has: fn(&Endpoint) -> bool, is_for_here: &dyn Fn(&Endpoint) -> bool| {
            ready.clone().all(has) && ready.clone().any(is_for_here)
        };
        let nodes = |endpoint: &Endpoint| hints(endpoint).is_some_and(|it| !it.nodes.is_empty());
        let zones = |endpoint: &Endpoint| hints(endpoint).is_some_and(|it| !it.zones.is_empty());
        if all_and_one(nodes, &|endpoint| is_for_node(endpoint, here.node)) {
            Self::Nodes
        } else if all_and_one(zones, &|endpoint| is_for_zone(endpoint, here.zone)) {
            Self::Zones
        } else {
            Self::None
        }
    }
}

fn hints(endpoint: &Endpoint) -> Option<&GivenHints> {
    endpoint.hints.as_deref()
}

fn is_for_node(endpoint: &Endpoint, node: &str) -> bool {
    hints(endpoint).is_some_and(|hints| hints.nodes.iter().any(|it| **it == *node))
}

fn is_for_zone(endpoint: &Endpoint, zone: Option<&str>) -> bool {
    let is_this = |it: &Arc<str>| Some(&**it) == zone;
    hints(endpoint).is_some_and(|hints| hints.zones.iter().any(is_this))
}

impl Stage {
    fn among<'e>(mut ready: impl Iterator<Item = &'e Endpoint>) -> Self {
        if ready.next().is_some() {
            Self::Ready
        } else {
            Self::ServingTerminating
        }
    }

    fn refuses(self, conditions: Conditions) -> Option<Exclusion> {
        let still_serves = conditions.serving && conditions.terminating;
        match self {
            Self::Ready if conditions.ready => None,
            Self::Ready if still_serves => Some(Exclusion::TerminatingBesideReady),
            Self::Ready => Some(Exclusion::NotReady),
            Self::ServingTerminating if still_serves => None,
            Self::ServingTerminating => Some(Exclusion::NotServing),
        }
    }
}

/// A total order, so that the order of slices does not matter.
fn rank(endpoint: &Endpoint) -> impl Ord + '_ {
    let Conditions {
        ready,
        serving,
        terminating,
    } = endpoint.conditions;
    (
        !terminating,
        ready,
        serving,
        &endpoint.node_name,
        &endpoint.target,
    )
}
