//! Questions to a running agent, over a Unix socket in its run directory.
//!
//! One JSON object per line each way; a connection may carry several questions. Versioned, so that an agent and
//! a command line of different builds tell each other so instead of misreading:
//!
//! ```text
//! -> {"version":2,"get":"status"}
//! <- {"version":2,"answer":{"pid":7, ...}}
//! -> {"version":2,"get":"objects","kind":"Service","namespace":"default"}
//! <- {"version":2,"object":{"kind":"Service", ...}}
//! <- {"version":2,"listed":1}
//! -> {"version":2,"get":"choices","kind":"Service","namespace":"default","names":["web"]}
//! <- {"version":2,"object":{"metadata":{"namespace":"default","name":"web"},"node":"node-1","ports":[ ...]}}
//! <- {"version":2,"listed":1}
//! -> {"version":3,"get":"anything"}
//! <- {"version":2,"error":"this agent speaks version 2 of the protocol, not 3; ..."}
//! ```
//!
//! Objects come one per line, so that neither side ever holds the text of a large answer. With `"watch":true`
//! the connection stays: after `listed`, an `object` line tells what is new or changed, a `deleted` line what is gone.
//!
//! A question that an agent of the same version does not know yet is answered with an error, and nothing is misread: for
//! a new question the version stays.
//!
//! Only reads: nothing that is asked here changes what the agent does.

pub mod client;
mod follow;
pub mod selector;
pub mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use self::selector::Selector;
use crate::model::object::{Kind, Labels, ObjectName};
use crate::trace::Question;

/// Version of the protocol; raised when an old peer would misunderstand a new one.
pub const VERSION: u32 = 2;

/// Longest line that a request may be.
pub const MAX_REQUEST_BYTES: u64 = 16 << 10;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "snake_case")]
pub enum Request {
    /// Objects as Kubernetes writes them.
    Objects(Query),
    /// Of services: which endpoints each of their addresses uses on this node, and why not the others.
    Choices(Query),
    /// What would become of a packet.
    Trace(Question),
    /// Service ids of the tables -> names.
    Names,
    /// The agent's own state: devices, findings, what it could not do.
    Status,
}

/// Which objects are meant; what is absent does not matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The kind.
    #[serde(serialize_with = "kind_name", deserialize_with = "kind_of_name")]
    pub kind: Kind,
    /// Only of this namespace; kinds without namespaces do not care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only of these names, if there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Only with these labels.
    #[serde(default, skip_serializing_if = "Selector::is_empty")]
    pub selector: Selector,
    /// Also what changes from now on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub watch: bool,
}

impl Query {
    /// All objects of a kind.
    pub fn all(kind: Kind) -> Self {
        Self {
            kind,
            namespace: None,
            names: Vec::new(),
            selector: Selector::default(),
            watch: false,
        }
    }

    /// Whether the object of this name and these labels is meant.
    pub fn matches(&self, name: &ObjectName, labels: &Labels) -> bool {
        let namespace = self.namespace.as_deref();
        let is_here =
            !self.kind.is_namespaced() || namespace.is_none_or(|wanted| *wanted == *name.namespace);
        let is_named = self.names.is_empty() || self.names.iter().any(|it| **it == *name.name);
        is_here && is_named && self.selector.matches(labels)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde asks for"
)]
fn kind_name<S: Serializer>(kind: &Kind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

fn kind_of_name<'de, D: Deserializer<'de>>(from: D) -> Result<Kind, D::Error> {
    let name = String::deserialize(from)?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    kind.ok_or_else(|| de::Error::custom(format!("there are no objects of kind `{name}` here")))
}

/// A request as it stands in a line.
#[derive(Debug, Serialize, Deserialize)]
struct Ask {
    version: u32,
    #[serde(flatten)]
    request: Request,
}

/// The one part of a request that every version has.
#[derive(Debug, Deserialize)]
struct AskedVersion {
    version: u32,
}

/// A reply as it stands in a line.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    version: u32,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Reply {
    /// What is said now.
    fn new(outcome: Outcome) -> Self {
        Self {
            version: VERSION,
            outcome,
        }
    }
}

/// What the agent says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// To a question that has one answer.
    Answer(Value),
    /// One object of several, or one that has changed.
    Object(Value),
    /// One that is gone.
    Deleted(Name),
    /// These were all, so many.
    Listed(usize),
    /// Why not.
    Error(String),
}

/// Which object of a kind; the namespace is empty for kinds that have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl Name {
    /// The name of an object.
    pub fn of(object: &Value) -> Self {
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Self {
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }
}

/// Where the agent of this run directory listens.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("fulcrum.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(request: Request) -> String {
        let ask = Ask {
            version: VERSION,
            request,
        };
        let line = serde_json::to_string(&ask).expect("serializable");
        let back: Ask = serde_json::from_str(&line).expect("what was written");
        assert_eq!(back.request, ask.request);
        line
    }

    #[test]
    fn requests_read_as_documented() {
        let query = Query {
            namespace: Some("default".to_owned()),
            ..Query::all(Kind::Service)
        };
        assert_eq!(
            line(Request::Objects(query.clone())),
            r#"{"version":2,"get":"objects","kind":"Service","namespace":"default"}"#
        );
        let query = Query {
            names: vec!["web".to_owned()],
            selector: "app=web".parse().expect("a selector"),
            watch: true,
            ..query
        };
        line(Request::Objects(query));
        assert_eq!(
            line(Request::Choices(Query::all(Kind::Service))),
            r#"{"version":2,"get":"choices","kind":"Service"}"#
        );
        assert_eq!(line(Request::Status), r#"{"version":2,"get":"status"}"#);
    }

    #[test]
    fn a_kind_that_nobody_has_is_named_in_the_error() {
        let error = serde_json::from_str::<Ask>(r#"{"version":2,"get":"objects","kind":"Secret"}"#)
            .expect_err("not ours");
        assert!(error.to_string().contains("kind `Secret`"), "{error}");
    }

    #[test]
    fn a_query_narrows_by_what_it_names() {
        let meant = |query: &Query, namespace, name, app: &str| {
            let labels = Labels::from([("app".into(), app.into())]);
            query.matches(&ObjectName::new(namespace, name), &labels)
        };
        let all = Query::all(Kind::Pod);
        assert!(meant(&all, "a", "b", "c"));
        let narrow = Query {
            namespace: Some("a".to_owned()),
            names: vec!["b".to_owned(), "bb".to_owned()],
            selector: "app=c".parse().expect("a selector"),
            ..all
        };
        assert!(meant(&narrow, "a", "b", "c") && meant(&narrow, "a", "bb", "c"));
        assert!(!meant(&narrow, "x", "b", "c"));
        assert!(!meant(&narrow, "a", "x", "c"));
        assert!(!meant(&narrow, "a", "b", "x"));
        let node = Query {
            namespace: Some("a".to_owned()),
            ..Query::all(Kind::Node)
        };
        assert!(meant(&node, "", "n", "c"), "nodes have no namespace");
    }
}
