//! Endpoint slices out of Endpoints, as the mirroring controller of a cluster writes them.
//!
//! Ports that the same addresses have share a slice. An address that one subset calls ready and another
//! not is not ready. Of its conditions `ready` alone is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_common::net::addr::Family;

use super::generated::{Group, Writer};
use crate::model::{
    endpoint::{
        ANNOTATION_LEADER, Addresses, Endpoint, EndpointPort, EndpointSlice, Endpoints,
        GivenConditions, LABEL_SKIP_MIRROR, SubsetAddress,
    },
    finding::{Finding, Severity},
    object::{Kind, Located, ObjectRef, family_of},
};

/// Label of slices that were mirrored.
pub(super) const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Addresses of one subset that are mirrored at most.
const MAX_ADDRESSES: usize = 1000;
/// Annotations that are about the Endpoints object and are not passed on.
const OWN_ANNOTATIONS: [&str; 2] = [
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// Whether the object asks for it not to be done, or is a lock.
pub(super) fn is_wanted(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.meta;
    meta.labels.get(LABEL_SKIP_MIRROR).map(|it| &**it) != Some("true")
        && !meta.annotations.contains_key(ANNOTATION_LEADER)
}

/// Slices that say what an Endpoints object says.
pub(super) fn slices(
    endpoints: &Located<Endpoints>,
    taken: BTreeSet<String>,
    findings: &mut Vec<Finding>,
) -> Vec<EndpointSlice> {
    let meta = &endpoints.object.meta;
    let mut annotations = meta.annotations.clone();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&&**key));
    let mut writer = Writer {
        service: &meta.name,
        controller: CONTROLLER,
        labels: meta.labels.clone(),
        annotations,
        limit: MAX_ADDRESSES,
        taken,
    };
    let mut slices = Vec::new();
    for (addresses, ports) in repacked(&endpoints.object) {
        if addresses.len() > MAX_ADDRESSES {
            findings.push(too_many(endpoints, addresses.len()));
        }
        // Ready ones come first, and are the last to be left out.
        let (ready, not_ready): (Vec<_>, Vec<_>) =
            addresses.into_iter().partition(|(_, is_ready)| *is_ready);
        let kept: Vec<_> = ready
            .into_iter()
            .chain(not_ready)
            .take(MAX_ADDRESSES)
            .collect();
        for family in [Family::V4, Family::V6] {
            let endpoints: Vec<_> = kept
                .iter()
                .filter(|(address, _)| family_of(address.ip) == family)
                .map(|(address, is_ready)| Endpoint {
                    weight: endpoints.object.meta.weight(),
                    ..endpoint(address, *is_ready)
                })
                .collect();
            if !endpoints.is_empty() {
                let group = Group {
                    family,
                    ports: ports.clone(),
                    endpoints,
                };
                writer.write(group, &mut slices);
            }
        }
    }
    slices
}

/// What tells two addresses apart: the address, and the object behind it.
type Key = (IpAddr, Option<Box<str>>);
/// Addresses, and whether they are ready.
type Judged<'a> = Vec<(&'a SubsetAddress, bool)>;

/// Subsets told anew: each set of addresses once, with all the ports that it has.
fn repacked(endpoints: &Endpoints) -> Vec<(Judged<'_>, Vec<EndpointPort>)> {
    let mut known: BTreeMap<Key, &SubsetAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<Option<&EndpointPort>, BTreeMap<Key, bool>> = BTreeMap::new();
    for subset in &endpoints.subsets {
        let ready = subset.ready.iter().map(|address| (address, true));
        let not_ready = subset.not_ready.iter().map(|address| (address, false));
        let mut ports: Vec<_> = subset.ports.iter().map(Some).collect();
        if ports.is_empty() {
            ports.push(None);
        }
        for (address, is_ready) in ready.chain(not_ready) {
            let uid = address
                .target
                .as_ref()
                .and_then(|target| target.uid.clone());
            let key = (address.ip, uid);
            known.entry(key.clone()).or_insert(address);
            for port in &ports {
                let addresses = by_port.entry(*port).or_default();
                *addresses.entry(key.clone()).or_insert(true) &= is_ready;
            }
        }
    }
    let mut by_addresses: BTreeMap<_, Vec<EndpointPort>> = BTreeMap::new();
    for (port, addresses) in by_port {
        let ports = by_addresses.entry(addresses).or_default();
        ports.extend(port.cloned());
    }
    let with_addresses = |(keys, ports): (BTreeMap<Key, bool>, _)| {
        let addresses = keys
            .into_iter()
            .filter_map(|(key, is_ready)| Some((*known.get(&key)?, is_ready)));
        (addresses.collect(), ports)
    };
    let mut subsets: Vec<(Judged<'_>, Vec<EndpointPort>)> =
        by_addresses.into_iter().map(with_addresses).collect();
    subsets.sort_by(|(_, a), (_, b)| a.cmp(b));
    subsets
}

fn endpoint(address: &SubsetAddress, is_ready: bool) -> Endpoint {
    let given = GivenConditions {
        ready: Some(is_ready),
        ..GivenConditions::default()
    };
    Endpoint {
        addresses: Addresses::One(address.ip),
        conditions: given.resolve(),
        given,
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone(),
        target: address.target.clone().map(Box::new),
        zone: None,
        hints: None,
        weight: 1,
    }
}

fn too_many(endpoints: &Located<Endpoints>, count: usize) -> Finding {
    let reference = ObjectRef {
        kind: Kind::Endpoints,
        name: endpoints.object.meta.name.clone(),
    };
    let message = format!(
        "{count} addresses have the same ports, and {MAX_ADDRESSES} of them are used; write EndpointSlices \
         for more"
    );
    Finding::about(
        Severity::Warning,
        (&reference, endpoints),
        "subsets",
        message,
    )
}
