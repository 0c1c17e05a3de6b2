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
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::net::addr::Family;

use super::{mirror, select};
use crate::{
    model::{
        endpoint::{EndpointSlice, Endpoints, LABEL_MANAGED_BY},
        finding::{Finding, Severity},
        object::{Kind, Labels, Located, ObjectName, ObjectRef},
        pod::Pod,
        service::Service,
    },
    store::Snapshot,
};

/// Where everything is that slices come from, by the service or label that asks for it. Names, and no objects: it is about
/// one snapshot after the other.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Slices by service, sorted.
    slices: BTreeMap<ObjectName, Vec<ObjectName>>,
    /// What selectors ask for, by namespace, label and its value.
    asked: BTreeMap<Arc<str>, AskedLabels>,
}

/// What is asked for in a namespace, by label and its value.
type AskedLabels = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Asked>>;

/// One label with a value that selectors ask for, in a namespace.
#[derive(Debug, Default)]
struct Asked {
    /// Services that do, sorted.
    services: Vec<ObjectName>,
    /// Pods that have it.
    pods: BTreeSet<ObjectName>,
}

impl Sources {
    /// Those of a snapshot.
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let mut sources = Self::default();
        for (name, service) in &snapshot.services {
            sources.ask(name, &service.object.spec.selector);
        }
        for (name, slice) in &snapshot.slices {
            if let Some(service) = service_of(name, &slice.object) {
                let names = sources.slices.entry(service);
                // Most services have one.
                let names = names.or_insert_with(|| Vec::with_capacity(1));
                names.push(name.clone());
            }
        }
        for (name, pod) in &snapshot.pods {
            sources.each_asked(name, &pod.object, |asked| {
                asked.pods.insert(name.clone());
            });
        }
        sources
    }

    fn ask(&mut self, name: &ObjectName, selector: &Labels) {
        for (key, value) in selector {
            let labels = self.asked.entry(Arc::clone(&name.namespace)).or_default();
            let values = labels.entry(key.clone()).or_default();
            let asked = values.entry(value.clone()).or_default();
            asked.services.push(name.clone());
        }
    }

    /// Does something with each label of a pod that selectors ask for.
    fn each_asked(&mut self, name: &ObjectName, pod: &Pod, mut then: impl FnMut(&mut Asked)) {
        let Some(labels) = self.asked.get_mut(&name.namespace) else {
            return;
        };
        for (key, value) in &pod.meta.labels {
            let asked = labels.get_mut(key).and_then(|values| values.get_mut(value));
            asked.into_iter().for_each(&mut then);
        }
    }

    /// Takes notice of a service that is another now, or new, or gone; of everything else it is about the second snapshot already.
    pub(super) fn service(&mut self, name: &ObjectName, was: &Snapshot, is: &Snapshot) {
        let selector = |snapshot: &Snapshot| {
            let service = snapshot.services.get(name);
            service.map(|it| it.object.spec.selector.clone())
        };
        let (was, wanted) = (selector(was), selector(is));
        if was == wanted {
            return;
        }
        for (key, value) in was.iter().flatten() {
            self.ask_no_more(name, key, value);
        }
        for (key, value) in wanted.iter().flatten() {
            let labels = self.asked.entry(Arc::clone(&name.namespace)).or_default();
            let values = labels.entry(key.clone()).or_default();
            let asked = values.entry(value.clone()).or_insert_with(|| Asked {
                pods: labelled(is, &name.namespace, key, value),
                services: Vec::new(),
            });
            if let Err(at) = asked.services.binary_search(name) {
                asked.services.insert(at, name.clone());
            }
        }
    }

    /// What nobody asks for is not followed.
    fn ask_no_more(&mut self, name: &ObjectName, key: &Arc<str>, value: &Arc<str>) {
        let values = self.asked.get_mut(&name.namespace);
        let Some(values) = values.and_then(|labels| labels.get_mut(key)) else {
            return;
        };
        if let Some(asked) = values.get_mut(value) {
            asked.services.retain(|there| there != name);
            if asked.services.is_empty() {
                values.remove(value);
            }
        }
    }

    /// Slices that name a service.
    pub(super) fn slices_of(&self, service: &ObjectName) -> &[ObjectName] {
        self.slices.get(service).map_or(&[], Vec::as_slice)
    }

    /// Takes notice of a slice that was the first and is the second. Gives back the services whose endpoints may be others.
    pub(super) fn slice(
        &mut self,
        name: &ObjectName,
        was: Option<&EndpointSlice>,
        is: Option<&EndpointSlice>,
    ) -> impl Iterator<Item = ObjectName> + use<> {
        let service = |slice: Option<&EndpointSlice>| slice.and_then(|it| service_of(name, it));
        let (was, is) = (service(was), service(is));
        if was != is {
            if let Some(names) = was.as_ref().and_then(|was| self.slices.get_mut(was)) {
                names.retain(|there| there != name);
            }
            if let Some(service) = is.clone() {
                let names = self.slices.entry(service).or_default();
                if let Err(at) = names.binary_search(name) {
                    names.insert(at, name.clone());
                }
            }
        }
        was.into_iter().chain(is)
    }

    /// Takes notice of a pod, like [`Self::slice`].
    pub(super) fn pod(
        &mut self,
        name: &ObjectName,
        was: Option<&Pod>,
        is: Option<&Pod>,
    ) -> BTreeSet<ObjectName> {
        let mut services = BTreeSet::new();
        if let Some(pod) = was {
            self.each_asked(name, pod, |asked| {
                asked.pods.remove(name);
                services.extend(asked.services.iter().cloned());
            });
        }
        if let Some(pod) = is {
            self.each_asked(name, pod, |asked| {
                asked.pods.insert(name.clone());
                services.extend(asked.services.iter().cloned());
            });
        }
        services
    }

    /// All slices of a service of `snapshot`, which these are about.
    pub(super) fn slices<'a>(
        &self,
        snapshot: &'a Snapshot,
        service: &'a Located<Service>,
        families: &[Family],
        findings: &mut Vec<Finding>,
    ) -> Vec<Cow<'a, EndpointSlice>> {
        let name = &service.object.meta.name;
        let given = self.slices.get(name).into_iter().flatten();
        let given = given.filter_map(|slice| Some(&snapshot.slices.get(slice)?.object));
        let given: Vec<&EndpointSlice> = given.collect();
        let is_done_by = |controller: &str| {
            let mut labels = given.iter().map(|it| it.meta.labels.get(LABEL_MANAGED_BY));
            labels.any(|label| label.map(|it| &**it) == Some(controller))
        };
        let endpoints = snapshot.endpoints.get(name);
        let mut slices: Vec<_> = given.iter().map(|slice| Cow::Borrowed(*slice)).collect();
        let taken = || {
            let names = given.iter().map(|slice| slice.meta.name.name.to_string());
            names.collect::<BTreeSet<_>>()
        };
        if service.object.spec.selector.is_empty() {
            let endpoints = endpoints.filter(|endpoints| {
                mirror::is_wanted(&endpoints.object) && !is_done_by(mirror::CONTROLLER)
            });
            if let Some(endpoints) = endpoints {
                let mirrored = mirror::slices(endpoints, taken(), findings);
                slices.extend(mirrored.into_iter().map(Cow::Owned));
            }
            return slices;
        }
        if !service.object.is_external_name() && !is_done_by(select::CONTROLLER) {
            let pods = self.candidates(snapshot, &service.object);
            let selection = select::Selection {
                service,
                families,
                pods: &pods,
                nodes: &snapshot.nodes,
            };
            let selected = selection.slices(taken(), findings);
            slices.extend(selected.into_iter().map(Cow::Owned));
            if let Some(endpoints) = endpoints {
                findings.push(unused(endpoints));
            }
        }
        slices
    }

    /// Pods that may match a service's selector: those of its rarest label.
    fn candidates<'a>(&self, snapshot: &'a Snapshot, service: &Service) -> Vec<&'a Located<Pod>> {
        let labels = self.asked.get(&service.meta.name.namespace);
        let selector = service.spec.selector.iter();
        let asked = selector.filter_map(|(key, value)| labels?.get(key)?.get(value));
        let rarest = asked.min_by_key(|asked| asked.pods.len());
        let names = rarest.into_iter().flat_map(|asked| &asked.pods);
        names
            .filter_map(|name| Some(&**snapshot.pods.get(name)?))
            .collect()
    }
}

/// The pods of a namespace that have a label with this value.
fn labelled(
    snapshot: &Snapshot,
    namespace: &Arc<str>,
    key: &Arc<str>,
    value: &Arc<str>,
) -> BTreeSet<ObjectName> {
    let pods = snapshot.pods.iter();
    let pods = pods.filter(|(name, pod)| {
        name.namespace == *namespace && pod.object.meta.labels.get(key) == Some(value)
    });
    pods.map(|(name, _)| name.clone()).collect()
}

/// The service that a slice of this name names.
fn service_of(name: &ObjectName, slice: &EndpointSlice) -> Option<ObjectName> {
    Some(ObjectName {
        namespace: Arc::clone(&name.namespace),
        name: Arc::clone(slice.service()?),
    })
}

/// What is wrong with a slice, if it is for a service that is not there.
pub(super) fn orphan_slice(snapshot: &Snapshot, name: &ObjectName) -> Option<Finding> {
    let slice = snapshot.slices.get(name)?;
    let service = service_of(name, &slice.object)?;
    orphan(snapshot, (Kind::EndpointSlice, name), slice, &service)
}

/// The same for Endpoints.
pub(super) fn orphan_endpoints(snapshot: &Snapshot, name: &ObjectName) -> Option<Finding> {
    let endpoints = snapshot.endpoints.get(name)?;
    orphan(snapshot, (Kind::Endpoints, name), endpoints, name)
}

fn orphan<T>(
    snapshot: &Snapshot,
    (kind, name): (Kind, &ObjectName),
    located: &Located<T>,
    service: &ObjectName,
) -> Option<Finding> {
    if snapshot.services.contains_key(service) {
        return None;
    }
    let reference = ObjectRef {
        kind,
        name: name.clone(),
    };
    let message = format!("there is no Service {service} that these endpoints could be for");
    Some(Finding::about(
        Severity::Notice,
        (&reference, located),
        "",
        message,
    ))
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
