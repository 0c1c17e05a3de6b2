//! Questions to a running agent, over a Unix socket in its run directory.
//!
//! One JSON object per line each way; a connection may carry several. Versioned, so that an agent and
//! a command line of different builds tell each other so instead of misreading:
//!
//! ```text
//! -> {"version":1,"get":"services","namespace":"default"}
//! <- {"version":1,"answer":[{"namespace":"default","name":"hostname", ...}]}
//! -> {"version":2,"get":"anything"}
//! <- {"version":1,"error":"this agent speaks version 1 of the protocol, not 2; ..."}
//! ```
//!
//! Only reads: nothing that is asked here changes what the agent does.

pub mod client;
pub mod server;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol; raised when an old peer would misunderstand a new one.
pub const VERSION: u32 = 1;

/// Longest line that a request may be.
pub const MAX_REQUEST_BYTES: u64 = 4096;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "get", rename_all = "snake_case")]
pub enum Request {
    /// Rows of `get services`.
    Services(Filter),
    /// Rows of `get endpoints`.
    Endpoints(Filter),
    /// Service ids of the tables -> names.
    Names,
    /// The agent's own state: devices, findings, what it could not do.
    Status,
}

/// Which objects are meant; what is absent does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Only of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Only of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Filter {
    /// Whether the object of this namespace and name is meant.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        let allows = |wanted: &Option<String>, actual: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == actual)
        };
        allows(&self.namespace, namespace) && allows(&self.name, name)
    }
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

/// What the agent says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Answer(Value),
    Error(String),
}

/// Where the agent of this run directory listens.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("fulcrum.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let filter = Filter {
            namespace: Some("default".to_owned()),
            name: None,
        };
        let ask = Ask {
            version: VERSION,
            request: Request::Services(filter),
        };
        let line = serde_json::to_string(&ask).expect("serializable");
        assert_eq!(
            line,
            r#"{"version":1,"get":"services","namespace":"default"}"#
        );
        let back: Ask = serde_json::from_str(&line).expect("what was written");
        assert_eq!(back.request, ask.request);
        let status: Ask = serde_json::from_str(r#"{"version":1,"get":"status"}"#).expect("valid");
        assert_eq!(status.request, Request::Status);
    }

    #[test]
    fn a_filter_narrows_by_what_it_names() {
        let filter = |namespace: Option<&str>, name: Option<&str>| Filter {
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        };
        assert!(filter(None, None).matches("a", "b"));
        assert!(filter(Some("a"), Some("b")).matches("a", "b"));
        assert!(!filter(Some("x"), None).matches("a", "b"));
        assert!(!filter(None, Some("x")).matches("a", "b"));
    }
}
