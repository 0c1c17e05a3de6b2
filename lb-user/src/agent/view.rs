//! What the agent tells about itself: the answers to the questions of [`crate::control`].
//!
//! Pure: from what the agent last published, and the time, to JSON.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::{Value, json};

use super::devices::DeviceView;
use crate::{
    compile::view::{EndpointsView, ServiceView},
    control::Request,
    model::finding::Finding,
};

/// What follows from the manifests, as last published.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Generation of the snapshot.
    pub generation: u64,
    /// Rows of `get services`.
    pub services: Vec<ServiceView>,
    /// Rows of `get endpoints`.
    pub endpoints: Vec<EndpointsView>,
    /// When each service was first seen, for those whose manifest does not say when it was made.
    pub seen: BTreeMap<(String, String), SystemTime>,
    /// Names of the service ids in the tables.
    pub names: BTreeMap<u32, String>,
    /// What is wrong with the manifests.
    pub findings: Vec<Finding>,
    /// What the tables have no room for, or the kernel refused.
    pub troubles: Vec<String>,
}

/// A row and its age.
#[derive(Serialize)]
struct Aged<'a, T> {
    #[serde(flatten)]
    row: &'a T,
    age_s: Option<u64>,
}

/// The answer to a question.
pub fn answer(request: &Request, view: &View, devices: &[DeviceView], now: SystemTime) -> Value {
    let age = |namespace: &str, name: &str, created: Option<&str>| {
        let seen = || {
            view.seen
                .get(&(namespace.to_owned(), name.to_owned()))
                .copied()
        };
        created
            .and_then(|text| humantime::parse_rfc3339_weak(text).ok())
            .or_else(seen)
            // A clock that was set back makes nothing older.
            .map(|since| {
                now.duration_since(since)
                    .unwrap_or(Duration::ZERO)
                    .as_secs()
            })
    };
    match request {
        Request::Services(filter) => rows(&view.services, |row| {
            let is_meant = filter.matches(&row.namespace, &row.name);
            is_meant.then(|| age(&row.namespace, &row.name, row.created.as_deref()))
        }),
        Request::Endpoints(filter) => rows(&view.endpoints, |row| {
            let is_meant = filter.matches(&row.namespace, &row.name);
            is_meant.then(|| age(&row.namespace, &row.name, row.created.as_deref()))
        }),
        Request::Names => json!(view.names),
        Request::Status => json!({
            "pid": std::process::id(),
            "generation": view.generation,
            "n_services": view.services.len(),
            "devices": devices,
            "findings": view.findings,
            "troubles": view.troubles,
        }),
    }
}

/// Rows for which `age` gives one, or says that it is unknown.
fn rows<T: Serialize>(rows: &[T], age: impl Fn(&T) -> Option<Option<u64>>) -> Value {
    let aged = rows.iter().filter_map(|row| {
        Some(Aged {
            row,
            age_s: age(row)?,
        })
    });
    json!(aged.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::Filter, model::finding::Severity};

    fn service(namespace: &str, name: &str, created: Option<&str>) -> ServiceView {
        ServiceView {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_type: "ClusterIP".to_owned(),
            cluster_ip: "10.96.0.10".to_owned(),
            external_ip: "<none>".to_owned(),
            ports: "80/TCP".to_owned(),
            created: created.map(str::to_owned),
            selector: BTreeMap::new(),
            cluster_ips: vec!["10.96.0.10".to_owned()],
        }
    }

    fn ages(view: &View, filter: Filter, now: SystemTime) -> Vec<(String, Option<u64>)> {
        let answer = answer(&Request::Services(filter), view, &[], now);
        let rows = answer.as_array().expect("rows");
        rows.iter()
            .map(|row| {
                let name = row["name"].as_str().expect("a name").to_owned();
                (name, row["age_s"].as_u64())
            })
            .collect()
    }

    #[test]
    fn age_counts_from_the_manifest_or_from_when_it_was_seen() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let view = View {
            services: vec![
                service("default", "made", Some("1970-01-01T00:01:00Z")),
                service("default", "seen", None),
                service("default", "unknown", None),
            ],
            seen: BTreeMap::from([(("default".to_owned(), "seen".to_owned()), at(90))]),
            ..View::default()
        };
        let named = |name: &str, age| (name.to_owned(), age);
        assert_eq!(
            ages(&view, Filter::default(), at(100)),
            [
                named("made", Some(40)),
                named("seen", Some(10)),
                named("unknown", None)
            ]
        );
        assert_eq!(
            ages(&view, Filter::default(), at(0))[1],
            named("seen", Some(0))
        );
    }

    #[test]
    fn rows_are_those_that_were_asked_for() {
        let view = View {
            services: vec![service("a", "x", None), service("b", "x", None)],
            ..View::default()
        };
        let filter = Filter {
            namespace: Some("b".to_owned()),
            name: None,
        };
        assert_eq!(ages(&view, filter, SystemTime::UNIX_EPOCH).len(), 1);
    }

    #[test]
    fn the_status_has_devices_and_findings() {
        let device = DeviceView {
            name: "eth0".to_owned(),
            role: crate::loader::device::Role::Uplink,
            hooks: Some("tc"),
            error: None,
        };
        let view = View {
            findings: vec![Finding::about_file(
                Severity::Error,
                "web.yaml",
                "is no YAML",
            )],
            ..View::default()
        };
        let status = answer(&Request::Status, &view, &[device], SystemTime::now());
        assert_eq!(
            status["devices"],
            json!([{"name": "eth0", "role": "uplink", "hooks": "tc"}])
        );
        assert_eq!(status["findings"][0]["message"], "is no YAML");
    }
}
