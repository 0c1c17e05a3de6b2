//! Which endpoint slices a service has: those that are given, and those that a cluster's controllers
//! would have written.
//!
//! * A selector: slices derived from pods ([`super::select`]); none for an alias.
//! * No selector: the Endpoints of the service's name, mirrored ([`super::mirror`]).
//! * Always: slices that name the service.
//!
//! Objects that were dumped from a cluster hold what its controllers wrote already. Where slices of a
//! controller are there, its work is not done a second time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::net::addr::Family;

use super::{mirror, select};
use crate::{
    model::{
        endpoint::{EndpointSlice, Endpoints, LABEL_MANAGED_BY},
        finding::{Finding, Severity},
        node::Node,
        object::{Kind, Located, ObjectName, ObjectRef},
        pod::Pod,
        service::Service,
    },
    store::{Objects, Snapshot},
};

/// Everything that slices come from, by the service or namespace that it belongs to.
pub(super) struct Sources<'a> {
    slices: BTreeMap<ObjectName, Vec<&'a EndpointSlice>>,
    /// Pods by namespace and one of their labels: what a selector is looked up in.
    pods: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a Located<Pod>>>,
    endpoints: &'a Objects<Endpoints>,
    nodes: &'a Objects<Node>,
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
            nodes: &snapshot.nodes,
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
        let taken: BTreeSet<String> = slices
            .iter()
            .map(|slice| slice.meta.name.name.to_string())
            .collect();
        if service.object.spec.selector.is_empty() {
            let endpoints = endpoints.filter(|endpoints| {
                mirror::is_wanted(&endpoints.object) && !is_done_by(mirror::CONTROLLER)
            });
            if let Some(endpoints) = endpoints {
                slices.extend(mirror::slices(endpoints, taken, findings));
            }
            return slices;
        }
        if !service.object.is_external_name() && !is_done_by(select::CONTROLLER) {
            let selection = select::Selection {
                service,
                families,
                pods: self.candidates(&service.object),
                nodes: self.nodes,
            };
            slices.extend(selection.slices(taken, findings));
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
