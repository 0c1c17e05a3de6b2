//! Which endpoint slices a service has: those that are given, and those that a cluster's controllers
//! would have written.
//!
//! * A selector: slices derived from pods ([`super::select`]).
//! * No selector: the Endpoints of the service's name, mirrored.
//! * Always: slices that name the service.
//!
//! Objects that were dumped from a cluster hold what its controllers wrote already. Where slices of a
//! controller are there, its work is not done a second time.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::net::addr::Family;

use super::select;
use crate::{
    model::{
        endpoint::{
            AddressType, Conditions, Endpoint, EndpointSlice, Endpoints, LABEL_MANAGED_BY,
            LABEL_SERVICE_NAME, LABEL_SKIP_MIRROR, Subset, SubsetAddress,
        },
        finding::{Finding, Severity},
        object::{Kind, Labels, Located, Meta, ObjectName, ObjectRef, family_of},
        pod::Pod,
        service::Service,
    },
    store::{Objects, Snapshot},
};

/// [`LABEL_MANAGED_BY`] of slices that were derived from pods.
pub(super) const FROM_PODS: &str = "endpointslice-controller.k8s.io";
/// [`LABEL_MANAGED_BY`] of slices that were mirrored from Endpoints.
const MIRRORED: &str = "endpointslicemirroring-controller.k8s.io";

/// Everything that slices come from, by the service or namespace that it belongs to.
pub(super) struct Sources<'a> {
    slices: BTreeMap<ObjectName, Vec<&'a EndpointSlice>>,
    /// Pods by namespace and one of their labels: what a selector is looked up in.
    pods: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Located<Pod>>>,
    endpoints: &'a Objects<Endpoints>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, findings: &mut Vec<Finding>) -> Self {
        let mut slices: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, slice) in &snapshot.slices {
            if let Some(service) = slice.object.service() {
                let service = ObjectName {
                    namespace: name.namespace.clone(),
                    name: service.into(),
                };
                if !snapshot.services.contains_key(&service) {
                    let reference = ObjectRef {
                        kind: Kind::EndpointSlice,
                        name: name.clone(),
                    };
                    findings.push(orphan(&reference, slice, &service));
                }
                slices.entry(service).or_default().push(&slice.object);
            }
        }
        for (name, endpoints) in &snapshot.endpoints {
            if !snapshot.services.contains_key(name) {
                let reference = ObjectRef {
                    kind: Kind::Endpoints,
                    name: name.clone(),
                };
                findings.push(orphan(&reference, endpoints, name));
            }
        }
        let mut pods: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, pod) in &snapshot.pods {
            for (key, value) in &pod.object.meta.labels {
                pods.entry((&*name.namespace, key.as_str(), value.as_str()))
                    .or_default()
                    .push(&**pod);
            }
        }
        Self {
            slices,
            pods,
            endpoints: &snapshot.endpoints,
        }
    }

    /// All slices of a service.
    pub(super) fn slices(
        &mut self,
        service: &'a Located<Service>,
        families: &[Family],
        findings: &mut Vec<Finding>,
    ) -> Vec<EndpointSlice> {
        let name = &service.object.meta.name;
        let given = self.slices.remove(name).unwrap_or_default();
        let is_done_by = |controller: &str| {
            let label = |slice: &&EndpointSlice| slice.meta.labels.get(LABEL_MANAGED_BY).cloned();
            given
                .iter()
                .any(|slice| label(slice).as_deref() == Some(controller))
        };
        let endpoints = self.endpoints.get(name);
        let mut slices: Vec<EndpointSlice> = given.iter().copied().cloned().collect();
        if service.object.is_external_name() {
            return slices;
        }
        if service.object.spec.selector.is_empty() {
            if let Some(endpoints) = endpoints.filter(|_| !is_done_by(MIRRORED)) {
                slices.extend(mirror(&endpoints.object));
            }
            return slices;
        }
        if !is_done_by(FROM_PODS) {
            let pods = self.candidates(&service.object);
            slices.extend(select::slices(service, families, pods, findings));
            if let Some(endpoints) = endpoints {
                findings.push(unused(endpoints));
            }
        }
        slices
    }

    /// Pods that may match a service's selector: those of its rarest label.
    fn candidates(&self, service: &'a Service) -> &[&'a Located<Pod>] {
        let namespace = &*service.meta.name.namespace;
        let labels = service.spec.selector.iter();
        labels
            .map(|(key, value)| {
                let pods = self.pods.get(&(namespace, key.as_str(), value.as_str()));
                pods.map(Vec::as_slice).unwrap_or_default()
            })
            .min_by_key(|pods| pods.len())
            .unwrap_or_default()
    }
}

/// Slices that say what an Endpoints object says, one per subset and family.
fn mirror(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    if endpoints
        .meta
        .labels
        .get(LABEL_SKIP_MIRROR)
        .is_some_and(|value| value == "true")
    {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for Subset {
        ready,
        not_ready,
        ports,
    } in &endpoints.subsets
    {
        for family in [Family::V4, Family::V6] {
            let ready = ready.iter().map(|address| (address, Conditions::READY));
            let not_ready = not_ready
                .iter()
                .map(|address| (address, Conditions::UNREADY));
            let endpoints: Vec<_> = ready
                .chain(not_ready)
                .filter(|(address, _)| family_of(address.ip) == family)
                .map(|(address, conditions)| mirrored(address, conditions))
                .collect();
            if !endpoints.is_empty() {
                slices.push((family, endpoints, ports.clone()));
            }
        }
    }
    (1..)
        .zip(slices)
        .map(|(number, (family, list, ports))| EndpointSlice {
            meta: meta(&endpoints.meta.name, MIRRORED, number),
            address_type: AddressType::Ip(family),
            endpoints: list,
            ports,
        })
        .collect()
}

fn mirrored(address: &SubsetAddress, conditions: Conditions) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip],
        conditions,
        node_name: address.node_name.clone(),
        hostname: address.hostname.clone(),
        target: address.target.clone(),
        zone: None,
    }
}

/// `metadata` of a slice that is written here, for the service of this name.
pub(super) fn meta(service: &ObjectName, controller: &str, number: usize) -> Meta {
    let name = format!("{}-{number}", service.name);
    Meta {
        name: ObjectName {
            namespace: service.namespace.clone(),
            name: name.into(),
        },
        labels: Labels::from([
            (LABEL_SERVICE_NAME.to_owned(), service.name.to_string()),
            (LABEL_MANAGED_BY.to_owned(), controller.to_owned()),
        ]),
        created: None,
    }
}

fn orphan<T>(reference: &ObjectRef, located: &Located<T>, service: &ObjectName) -> Finding {
    let message = format!("there is no Service {service} that these endpoints could be for");
    Finding::about(Severity::Notice, (reference, located), "", message)
}

fn unused(endpoints: &Arc<Located<Endpoints>>) -> Finding {
    let name = endpoints.object.meta.name.clone();
    let reference = ObjectRef {
        kind: Kind::Endpoints,
        name,
    };
    let message =
        "not used, since the service has a selector; its endpoints are the pods that match";
    Finding::about(Severity::Warning, (&reference, &**endpoints), "", message)
}

/// The first address of a family.
pub(super) fn first_of(ips: &[IpAddr], family: Family) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| family_of(*ip) == family)
}
