//! What all sources hold together, as one immutable value.
//!
//! A [`Snapshot`] never changes once it is given out; its generation grows with every change that
//! is one. The store knows which sources have told everything once: before all of them have, what is
//! missing in a snapshot must not be taken as gone.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    model::{
        endpoint::{EndpointSlice, Endpoints},
        node::Node,
        object::{Kind, Located, Object, ObjectName, ObjectRef},
        pod::Pod,
        service::Service,
    },
    shared_map::SharedMap,
    source::Change,
};

/// Objects of one kind by name.
pub type Objects<T> = SharedMap<ObjectName, Arc<Located<T>>>;

/// Everything that is known at one moment. Cheap to clone, and to change a clone of: what is equal is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    /// Whether every source has told everything once.
    pub is_synced: bool,
    /// Services.
    pub services: Objects<Service>,
    /// Endpoints.
    pub endpoints: Objects<Endpoints>,
    /// Endpoint slices.
    pub slices: Objects<EndpointSlice>,
    /// Pods.
    pub pods: Objects<Pod>,
    /// Nodes.
    pub nodes: Objects<Node>,
}

/// Merges changes into snapshots.
#[derive(Debug)]
pub struct Store {
    snapshot: Arc<Snapshot>,
    /// Sources that have not told everything yet.
    pending: BTreeSet<String>,
}

impl Store {
    /// An empty store that waits for the sources of these names.
    pub fn new(sources: impl IntoIterator<Item = String>) -> Self {
        let pending: BTreeSet<String> = sources.into_iter().collect();
        let snapshot = Snapshot {
            is_synced: pending.is_empty(),
            ..Snapshot::default()
        };
        Self {
            snapshot: Arc::new(snapshot),
            pending,
        }
    }

    /// Takes one change; false where it changes nothing.
    pub fn apply(&mut self, change: Change) -> bool {
        // A copy where somebody still holds the last snapshot.
        let next = Arc::make_mut(&mut self.snapshot);
        let changed = match change {
            Change::Upsert(object) => next.upsert(object),
            Change::Delete(reference) => next.delete(&reference),
            Change::Synced(source) => {
                next.is_synced =
                    self.pending.remove(&source) && self.pending.is_empty() || next.is_synced;
                false
            }
        };
        next.generation += u64::from(changed);
        changed
    }

    /// The state after all changes so far.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// Sources that have not told everything yet.
    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.pending.iter().map(String::as_str)
    }
}

impl Snapshot {
    fn upsert(&mut self, object: Object) -> bool {
        let name = object.reference().name;
        match object {
            Object::Service(located) => put(&mut self.services, name, located),
            Object::Endpoints(located) => put(&mut self.endpoints, name, located),
            Object::EndpointSlice(located) => put(&mut self.slices, name, located),
            Object::Pod(located) => put(&mut self.pods, name, located),
            Object::Node(located) => put(&mut self.nodes, name, located),
        }
    }

    fn delete(&mut self, ObjectRef { kind, name }: &ObjectRef) -> bool {
        match kind {
            Kind::Service => self.services.remove(name).is_some(),
            Kind::Endpoints => self.endpoints.remove(name).is_some(),
            Kind::EndpointSlice => self.slices.remove(name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some(),
            Kind::Node => self.nodes.remove(name).is_some(),
        }
    }
}

fn put<T: Eq>(objects: &mut Objects<T>, name: ObjectName, new: Arc<Located<T>>) -> bool {
    if objects.get(&name) == Some(&new) {
        return false;
    }
    objects.insert(name, new);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifest;

    fn node(name: &str) -> Change {
        let text = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
        Change::Upsert(manifest::parse("m", &text).objects.remove(0))
    }

    #[test]
    fn the_generation_grows_with_changes_that_are_some() {
        let mut store = Store::new([]);
        assert!(store.apply(node("a")));
        assert!(!store.apply(node("a")));
        let before = store.snapshot();
        assert!(store.apply(node("b")));
        let reference = ObjectRef {
            kind: Kind::Node,
            name: ObjectName::new("", "a"),
        };
        assert!(store.apply(Change::Delete(reference.clone())));
        assert!(!store.apply(Change::Delete(reference)));
        assert_eq!(store.snapshot().generation, 3);
        assert_eq!(store.snapshot().nodes.len(), 1);
        assert_eq!(
            (before.generation, before.nodes.len()),
            (1, 1),
            "a snapshot never changes"
        );
    }

    #[test]
    fn it_is_synced_when_every_source_is() {
        let mut store = Store::new(["a".to_owned(), "b".to_owned()]);
        assert!(!store.snapshot().is_synced);
        store.apply(Change::Synced("a".to_owned()));
        store.apply(Change::Synced("a".to_owned()));
        assert!(!store.snapshot().is_synced);
        assert_eq!(store.pending().collect::<Vec<_>>(), ["b"]);
        store.apply(Change::Synced("b".to_owned()));
        assert!(store.snapshot().is_synced);
        assert!(Store::new([]).snapshot().is_synced);
    }
}
