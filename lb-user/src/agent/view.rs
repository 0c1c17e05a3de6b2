//! What the agent tells about itself: the answers to the questions of [`crate::control`].
//!
//! Pure: from what the agent last published to JSON. Nothing is made before somebody asks for it.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::SystemTime};

use serde_json::{Value, json};

use super::{
    choice, devices::DeviceView, flows::FlowReport, memory::Memory, reload::ConfigurationView,
};
use crate::{
    alloc::Addresses,
    compile::{NodeFacts, view},
    control::{Query, Request, server::Answer},
    desired::PortName,
    mended,
    model::{
        finding::Finding,
        object::{Kind, ObjectName, ObjectRef},
    },
    shared_map::SharedMap,
    store::Snapshot,
};

/// What follows from the manifests, as last published.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Generation of the snapshot.
    pub generation: u64,
    /// The objects.
    pub snapshot: Arc<Snapshot>,
    /// The node that it follows for.
    pub facts: NodeFacts,
    /// The addresses that are served.
    pub served: choice::Served,
    /// What each service has.
    pub addresses: SharedMap<ObjectName, Addresses>,
    /// When each object was first seen, for those whose manifest does not say when it was made.
    pub seen: SharedMap<ObjectRef, SystemTime>,
    /// Service ids of the tables.
    pub ports: Arc<BTreeMap<u32, PortName>>,
    /// What is wrong with the manifests.
    pub findings: Vec<Finding>,
    /// What the tables have no room for, or the kernel refused.
    pub troubles: Vec<String>,
}

impl View {
    /// Gives out the objects that a query means, for as long as they are wanted.
    pub fn each(&self, query: &Query, emit: &mut view::Emit<'_>) {
        let since = |reference: &ObjectRef| {
            let time = self.seen.get(reference)?;
            Some(humantime::format_rfc3339_seconds(*time).to_string())
        };
        let view = view::View {
            snapshot: &self.snapshot,
            addresses: &self.addresses,
            since: &since,
        };
        view.each(
            query.kind,
            &|name, labels| query.matches(name, labels),
            emit,
        );
    }

    /// Endpoints that are served, once for each port of a service.
    fn n_endpoints(&self) -> usize {
        self.served.values().map(|port| port.backends.len()).sum()
    }

    /// All objects of a kind.
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        let mut objects = Vec::new();
        self.each(&Query::all(kind), &mut |object| {
            objects.push(object);
            ControlFlow::Continue(())
        });
        objects
    }
}

/// The answer to a question.
pub fn answer(
    request: &Request,
    view: &Arc<View>,
    devices: &[DeviceView],
    flows: &FlowReport,
    configuration: &ConfigurationView,
) -> Answer {
    match request {
        Request::Objects(query) => {
            let (query, view) = (query.clone(), Arc::clone(view));
            Answer::Objects(Box::new(move |emit| view.each(&query, emit)))
        }
        Request::Choices(query) => {
            let (query, view) = (query.clone(), Arc::clone(view));
            Answer::Objects(Box::new(move |emit| choice::each(&view, &query, emit)))
        }
        Request::Names => {
            let ports = view.ports.iter();
            let names: BTreeMap<_, _> = ports.map(|(id, port)| (id, port.to_string())).collect();
            Answer::Value(json!(names))
        }
        // The agent answers it elsewhere: this is not about what was published.
        Request::Trace(_) => Answer::Value(Value::Null),
        Request::Status => Answer::Value(json!({
            "pid": std::process::id(),
            "generation": view.generation,
            "n_services": view.snapshot.services.len(),
            "n_endpoints": view.n_endpoints(),
            "memory": Memory::now(view.n_endpoints()),
            "devices": devices,
            "findings": view.findings,
            "troubles": view.troubles.iter().chain(&flows.troubles).collect::<Vec<_>>(),
            "flows": flows,
            "configuration": configuration,
            "mended": mended::counts(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lb_common::net::addr::Family;

    use super::*;
    use crate::{
        agent::devices::DeliveryView,
        desired::{DesiredPort, Endpoint, Protocol},
        model::finding::Severity,
        source::{Change, manifest},
        store::Store,
    };

    fn snapshot(text: &str) -> Arc<Snapshot> {
        let mut store = Store::new([]);
        for located in manifest::parse("m", text).objects {
            store.apply(Change::Upsert(located));
        }
        store.snapshot()
    }

    #[test]
    fn an_object_is_as_old_as_it_says_or_as_long_as_it_was_seen() {
        let node = |name: &str, more: &str| {
            format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}{more}}}\n")
        };
        let text = [
            node("made", ", creationTimestamp: 2024-01-01T00:00:00Z"),
            node("seen", ""),
            node("unknown", ""),
        ];
        let key = ObjectRef {
            kind: Kind::Node,
            name: ObjectName::new("", "seen"),
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(90_500);
        let view = View {
            snapshot: snapshot(&text.concat()),
            seen: SharedMap::from([(key, at)]),
            ..View::default()
        };
        let times: Vec<Value> = view
            .objects(Kind::Node)
            .iter()
            .map(|object| object["metadata"]["creationTimestamp"].clone())
            .collect();
        assert_eq!(
            times,
            [
                json!("2024-01-01T00:00:00Z"),
                json!("1970-01-01T00:01:30Z"),
                Value::Null
            ]
        );
    }

    #[test]
    fn objects_are_those_that_were_asked_for() {
        let pod = |namespace: &str| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: x, namespace: {namespace}}}\n"
            )
        };
        let view = Arc::new(View {
            snapshot: snapshot(&[pod("a"), pod("b")].concat()),
            ..View::default()
        });
        let query = Query {
            namespace: Some("b".to_owned()),
            ..Query::all(Kind::Pod)
        };
        let Answer::Objects(listing) = answer(
            &Request::Objects(query),
            &view,
            &[],
            &FlowReport::default(),
            &ConfigurationView::default(),
        ) else {
            panic!("objects are listed");
        };
        let mut names = Vec::new();
        listing(&mut |object| {
            names.push(object["metadata"]["namespace"].clone());
            ControlFlow::Continue(())
        });
        assert_eq!(names, ["b"]);
    }

    #[test]
    fn the_status_has_devices_and_findings() {
        let device = DeviceView {
            name: "eth0".to_owned(),
            role: crate::loader::device::Role::Uplink,
            hooks: Some("tc"),
            no_xdp: None,
            delivery: DeliveryView::default(),
            error: None,
        };
        let finding = Finding::about_file(Severity::Error, "web.yaml", "is no YAML");
        let endpoint = "192.0.2.1:80".parse().expect("literal");
        let port = DesiredPort {
            backends: BTreeMap::from([(endpoint, Endpoint::default())]),
            ..DesiredPort::default()
        };
        let name = PortName {
            namespace: "default".into(),
            service: "web".into(),
            port: "".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let view = Arc::new(View {
            served: SharedMap::from([(name, port)]),
            findings: vec![finding],
            ..View::default()
        });
        let flows = FlowReport {
            troubles: vec!["it fills".to_owned()],
            ..FlowReport::default()
        };
        let Answer::Value(status) = answer(
            &Request::Status,
            &view,
            &[device],
            &flows,
            &ConfigurationView::default(),
        ) else {
            panic!("the status is one value");
        };
        assert_eq!(
            status["devices"],
            json!([{"name": "eth0", "role": "uplink", "hooks": "tc"}])
        );
        assert_eq!(status["n_endpoints"], 1);
        assert_eq!(status["memory"]["bytes"], status["memory"]["per_endpoint"]);
        assert_eq!(status["troubles"], json!(["it fills"]));
        assert_eq!(status["flows"], json!({"tables": [], "sizes": null}));
        assert_eq!(status["findings"][0]["message"], "is no YAML");
    }
}
