//! What all objects have in common: a kind, a name, labels, and the place they were read from.
//!
//! A name is unique per kind; no object is ever known by anything else.

use std::{fmt, net::IpAddr, sync::Arc};

use lb_common::net::addr::Family;

use super::{
    endpoint::{EndpointSlice, Endpoints},
    node::Node,
    pod::Pod,
    service::Service,
    written::Written,
};
use crate::{shared_text::shared, small_map::SmallMap};

/// `metadata.labels`, and label selectors of equality. Objects share texts that are equal.
pub type Labels = SmallMap<Arc<str>, Arc<str>>;
/// `metadata.annotations`.
pub type Annotations = SmallMap<Arc<str>, Arc<str>>;

/// One object of a kind that the control plane works with, and where it was read from. Copies share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// `v1` Service.
    Service(Arc<Located<Service>>),
    /// `v1` Endpoints.
    Endpoints(Arc<Located<Endpoints>>),
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice(Arc<Located<EndpointSlice>>),
    /// `v1` Pod.
    Pod(Arc<Located<Pod>>),
    /// `v1` Node.
    Node(Arc<Located<Node>>),
}

impl Object {
    /// The object's kind and name.
    pub fn reference(&self) -> ObjectRef {
        let (kind, name) = self.key();
        ObjectRef {
            kind,
            name: name.clone(),
        }
    }

    /// [`Self::reference`] without a copy of the name. Sorted, both are in one order.
    pub fn key(&self) -> (Kind, &ObjectName) {
        let (kind, meta) = match self {
            Self::Service(it) => (Kind::Service, &it.object.meta),
            Self::Endpoints(it) => (Kind::Endpoints, &it.object.meta),
            Self::EndpointSlice(it) => (Kind::EndpointSlice, &it.object.meta),
            Self::Pod(it) => (Kind::Pod, &it.object.meta),
            Self::Node(it) => (Kind::Node, &it.object.meta),
        };
        (kind, &meta.name)
    }

    /// Where it stands.
    pub fn origin(&self) -> &Origin {
        self.place().0
    }

    /// All of it, for those who look at it.
    pub fn written(&self) -> &Written {
        self.place().1
    }

    fn place(&self) -> (&Origin, &Written) {
        match self {
            Self::Service(it) => (&it.origin, &it.written),
            Self::Endpoints(it) => (&it.origin, &it.written),
            Self::EndpointSlice(it) => (&it.origin, &it.written),
            Self::Pod(it) => (&it.origin, &it.written),
            Self::Node(it) => (&it.origin, &it.written),
        }
    }
}

/// A value together with the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub object: T,
    /// Where it stands.
    pub origin: Origin,
    /// All of it, for those who look at it.
    pub written: Written,
}

/// A place in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file as the user named it; `-` for standard input.
    pub file: Arc<str>,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The object's first line, from 1.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Annotation of Pods, and of `EndpointSlice`s and Endpoints for all that they list: how much of a service an endpoint gets.
pub const ANNOTATION_WEIGHT: &str = "fulcrum.dev/weight";
/// The largest weight.
pub const MAX_WEIGHT: u8 = 100;

/// The weight that a text stands for.
pub fn weight(text: &str) -> Option<u8> {
    text.parse().ok().filter(|weight| *weight <= MAX_WEIGHT)
}

/// The parts of `metadata` that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Annotations,
    /// `metadata.uid`, where the manifest has one.
    pub uid: Option<Box<str>>,
    /// `metadata.creationTimestamp` in RFC 3339, where the manifest has one.
    pub created: Option<Box<str>>,
}

impl Meta {
    /// The weight that an annotation gives the endpoints of the object; 1 where there is none.
    pub fn weight(&self) -> u8 {
        let given = self.annotations.get(ANNOTATION_WEIGHT);
        given.and_then(|text| weight(text)).unwrap_or(1)
    }
}

/// A namespace and a name; the namespace is empty for kinds that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name out of its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: shared(namespace),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The one name that an object has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Kinds of objects that the control plane works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `v1` Endpoints.
    Endpoints,
    /// `discovery.k8s.io/v1` `EndpointSlice`.
    EndpointSlice,
    /// `v1` Pod.
    Pod,
    /// `v1` Node.
    Node,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
    ];

    /// The kind as manifests spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
        }
    }

    /// The `apiVersion` that goes with the kind.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Service | Self::Endpoints | Self::Pod | Self::Node => "v1",
        }
    }

    /// Whether objects of the kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self != Self::Node
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The family of an address.
pub fn family_of(ip: IpAddr) -> Family {
    match ip {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}
