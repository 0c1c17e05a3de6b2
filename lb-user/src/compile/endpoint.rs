//! Which endpoints answer for a service port.
//!
//! Ready ones; where there is none, those that still serve while they terminate (KEP-1669), judged
//! for the whole cluster and for this node separately. Endpoints that serve without taking new
//! connections stay known, so that their flows go on.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::SocketAddr,
};

use lb_common::net::addr::Family;

use crate::{
    desired,
    model::{
        endpoint::{AddressType, Conditions, Endpoint, EndpointSlice},
        service::{LABEL_HEADLESS, Service, ServicePort, TrafficPolicy},
    },
};

/// Endpoints of a service port in a family, over all slices. Where one address and port stands in
/// several, the one in the better state wins: not terminating, then ready, then serving.
pub(super) fn merge<'a>(
    slices: &'a [EndpointSlice],
    port: &ServicePort,
    family: Family,
) -> BTreeMap<SocketAddr, &'a Endpoint> {
    let mut merged = BTreeMap::new();
    let is_of_family = |slice: &&EndpointSlice| {
        slice.address_type == AddressType::Ip(family)
            && !slice.meta.labels.contains_key(LABEL_HEADLESS)
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

/// What may be done with each endpoint on the node of this name. Endpoints with which nothing may be
/// done are left out.
pub(super) fn serving(
    endpoints: &BTreeMap<SocketAddr, &Endpoint>,
    service: &Service,
    node: &str,
) -> BTreeMap<SocketAddr, desired::Endpoint> {
    let is_local = |endpoint: &Endpoint| endpoint.node_name.as_deref() == Some(node);
    let cluster = Choice::among(endpoints.values().copied());
    let local = Choice::among(
        endpoints
            .values()
            .copied()
            .filter(|endpoint| is_local(endpoint)),
    );
    let is_external_local = service.spec.external_traffic_policy == TrafficPolicy::Local;
    let is_internal_local = service.spec.internal_traffic_policy == TrafficPolicy::Local;
    let judged = endpoints.iter().map(|(address, endpoint)| {
        let conditions = endpoint.conditions;
        let takes_local = is_local(endpoint) && local.takes(conditions);
        let judged = desired::Endpoint {
            serving: conditions.serving || conditions.ready,
            in_cluster: cluster.takes(conditions),
            in_external_local: is_external_local && takes_local,
            in_internal_local: is_internal_local && takes_local,
            local: is_local(endpoint),
        };
        (*address, judged)
    });
    judged.filter(|(_, endpoint)| endpoint.serving).collect()
}

/// Which endpoints of a list take new connections.
#[derive(Clone, Copy)]
enum Choice {
    Ready,
    /// None is ready.
    ServingTerminating,
}

impl Choice {
    fn among<'a>(mut endpoints: impl Iterator<Item = &'a Endpoint>) -> Self {
        if endpoints.any(|endpoint| endpoint.conditions.ready) {
            Self::Ready
        } else {
            Self::ServingTerminating
        }
    }

    fn takes(self, conditions: Conditions) -> bool {
        match self {
            Self::Ready => conditions.ready,
            Self::ServingTerminating => conditions.serving && conditions.terminating,
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
