//! The objects of a snapshot as a cluster's API server would show them: defaults filled in, addresses allocated,
//! and what a cluster's controllers would have written beside them.
//!
//! Pure, and one object at a time: nothing here holds more than one. Objects come sorted by namespace and name,
//! except that slices made for a service stand behind the others.

use std::{borrow::Cow, ops::ControlFlow};

use serde_json::Value;

use crate::{
    alloc::Addresses,
    model::{
        endpoint::EndpointSlice,
        object::{Kind, Labels, Located, ObjectName, ObjectRef},
        service::Service,
    },
    shared_map::SharedMap,
    store::{Objects, Snapshot},
};

mod endpoints;
mod merge;
mod meta;
mod node;
mod pod;
mod service;
mod slice;

use super::slices::Sources;

/// What is shown, and what is known about it beside the manifests.
pub struct View<'a> {
    /// The objects.
    pub snapshot: &'a Snapshot,
    /// What each service has; a service that is refused is missing.
    pub addresses: &'a SharedMap<ObjectName, Addresses>,
    /// When an object was first seen (RFC 3339), for those that do not say when they were made.
    pub since: &'a dyn Fn(&ObjectRef) -> Option<String>,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("generation", &self.snapshot.generation)
            .finish_non_exhaustive()
    }
}

/// Which objects are meant, by name and labels.
pub type IsMeant<'a> = dyn Fn(&ObjectName, &Labels) -> bool + 'a;

/// Takes one object after the other, for as long as it wants more.
pub type Emit<'a> = dyn FnMut(Value) -> ControlFlow<()> + 'a;

impl<'a> View<'a> {
    /// Gives out the objects of a kind that are meant.
    pub fn each(&self, kind: Kind, is_meant: &IsMeant<'_>, emit: &mut Emit<'_>) {
        // Whether somebody stopped it makes no difference here.
        let _ = match kind {
            Kind::Service => self.services(is_meant, emit),
            Kind::Endpoints => self.endpoints(is_meant, emit),
            Kind::EndpointSlice => self.slices(is_meant, emit),
            Kind::Pod => self.pods(is_meant, emit),
            Kind::Node => self.written(kind, &self.snapshot.nodes, is_meant, node::defaults, emit),
        };
    }

    fn services(&self, is_meant: &IsMeant<'_>, emit: &mut Emit<'_>) -> ControlFlow<()> {
        for (name, located) in &self.snapshot.services {
            if is_meant(name, &located.object.meta.labels) {
                let shown = service::object(located, self.addresses.get(name));
                emit(self.dated(Kind::Service, name, shown))?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Endpoints that were written and are used, and those that follow from a service's slices.
    fn endpoints(&self, is_meant: &IsMeant<'_>, emit: &mut Emit<'_>) -> ControlFlow<()> {
        let (written, services) = (&self.snapshot.endpoints, &self.snapshot.services);
        let sources = Sources::new(self.snapshot);
        let mut lone = written
            .iter()
            .filter(|(name, _)| !services.contains_key(*name))
            .peekable();
        for (name, service) in services {
            while let Some((name, located)) = lone.next_if(|(lone, _)| *lone < name) {
                self.written_one(
                    Kind::Endpoints,
                    (name, located),
                    is_meant,
                    endpoints::defaults,
                    emit,
                )?;
            }
            if service.object.is_external_name() {
                continue;
            }
            match written
                .get(name)
                .filter(|_| service.object.spec.selector.is_empty())
            {
                Some(located) => {
                    let place = (name, &**located);
                    self.written_one(Kind::Endpoints, place, is_meant, endpoints::defaults, emit)?;
                }
                None if is_meant(name, &service.object.meta.labels) => {
                    let slices = self.slices_of(&sources, name, service);
                    let families = self.addresses.get(name).map(|it| &*it.families);
                    let shown =
                        endpoints::object(&service.object, families.unwrap_or_default(), &slices);
                    emit(self.dated(Kind::Service, name, shown))?;
                }
                None => {}
            }
        }
        for (name, located) in lone {
            self.written_one(
                Kind::Endpoints,
                (name, located),
                is_meant,
                endpoints::defaults,
                emit,
            )?;
        }
        ControlFlow::Continue(())
    }

    fn slices(&self, is_meant: &IsMeant<'_>, emit: &mut Emit<'_>) -> ControlFlow<()> {
        let kind = Kind::EndpointSlice;
        let given = &self.snapshot.slices;
        self.written(kind, given, is_meant, slice::defaults, emit)?;
        let sources = Sources::new(self.snapshot);
        for (name, service) in &self.snapshot.services {
            let slices = self.slices_of(&sources, name, service);
            let is_made = |slice: &&Cow<'_, EndpointSlice>| matches!(slice, Cow::Owned(_));
            for slice in slices.iter().filter(is_made) {
                if is_meant(&slice.meta.name, &slice.meta.labels) {
                    emit(self.dated(Kind::Service, name, slice::object(slice)))?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Pods as written, and as ready as the agent's own probes say.
    fn pods(&self, is_meant: &IsMeant<'_>, emit: &mut Emit<'_>) -> ControlFlow<()> {
        for (name, located) in &self.snapshot.pods {
            let laid = &mut |shown| emit(pod::probed(shown, &located.object));
            let place = (name, &**located);
            self.written_one(Kind::Pod, place, is_meant, pod::defaults, laid)?;
        }
        ControlFlow::Continue(())
    }

    fn slices_of<'s>(
        &self,
        sources: &Sources,
        name: &ObjectName,
        service: &'s Located<Service>,
    ) -> Vec<Cow<'s, EndpointSlice>>
    where
        'a: 's,
    {
        let Some(addresses) = self.addresses.get(name) else {
            return Vec::new();
        };
        let families = &addresses.families;
        sources.slices(self.snapshot, service, families, &mut Vec::new())
    }

    /// Objects that are shown as they were written, with defaults.
    fn written<T: Labelled>(
        &self,
        kind: Kind,
        objects: &Objects<T>,
        is_meant: &IsMeant<'_>,
        defaults: fn(&Value) -> Value,
        emit: &mut Emit<'_>,
    ) -> ControlFlow<()> {
        for (name, located) in objects {
            self.written_one(kind, (name, located), is_meant, defaults, emit)?;
        }
        ControlFlow::Continue(())
    }

    fn written_one<T: Labelled>(
        &self,
        kind: Kind,
        (name, located): (&ObjectName, &Located<T>),
        is_meant: &IsMeant<'_>,
        defaults: fn(&Value) -> Value,
        emit: &mut Emit<'_>,
    ) -> ControlFlow<()> {
        if !is_meant(name, located.object.labels()) {
            return ControlFlow::Continue(());
        }
        let written = located.written.value();
        let defaults = defaults(&written);
        let shown = merge::over(merge::over(written, defaults), meta::identity(kind, name));
        emit(self.dated(kind, name, shown))
    }

    /// With the time when it was made: its own, or when the object that it follows from was first seen.
    fn dated(&self, origin: Kind, name: &ObjectName, shown: Value) -> Value {
        let reference = ObjectRef {
            kind: origin,
            name: name.clone(),
        };
        meta::dated(shown, || (self.since)(&reference))
    }
}

/// What has `metadata.labels`.
trait Labelled {
    fn labels(&self) -> &Labels;
}

macro_rules! labelled {
    ($($kind:ty),*) => {$(
        impl Labelled for $kind {
            fn labels(&self) -> &Labels {
                &self.meta.labels
            }
        }
    )*};
}

labelled!(
    EndpointSlice,
    crate::model::endpoint::Endpoints,
    crate::model::node::Node,
    crate::model::pod::Pod
);

#[cfg(test)]
mod tests;
