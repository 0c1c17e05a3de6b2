//! What is accepted is shown as YAML and as JSON, and what is shown is read again as the same.
//!
//! Twice: each object alone as it was written, and all of them as `get` shows them, with defaults, addresses and what
//! a cluster's controllers would have written. What `get` shows is accepted, and shown again it does not change.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use lb_user::{
    alloc::Allocations,
    cli::{indented_json, yaml_document},
    compile::{self, NodeFacts, view::View},
    model::object::{Kind, Located, Object, ObjectRef},
    source::{Change, manifest},
    store::{Snapshot, Store},
};
use serde_json::Value;

use super::cidrs;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let mut objects = BTreeMap::new();
    for located in manifest::parse_bytes("m", bytes.to_vec()).objects {
        as_written(&located);
        objects.entry(located.object.reference()).or_insert(located);
    }
    if objects.is_empty() {
        return;
    }
    let first = snapshot(objects.into_values());
    let shown = shown(&first);
    let read = shown.iter().map(read_again).collect::<Vec<_>>();
    for kind in [Kind::Pod, Kind::Node] {
        assert_eq!(
            of_kind(&shown, kind),
            of_kind(&self::shown(&snapshot(read.clone())), kind)
        );
    }
}

/// An object alone, as it was written.
fn as_written(located: &Located<Object>) {
    let value = located.written.value();
    assert_eq!(value["kind"], located.object.reference().kind.name());
    let again = read_again(&value);
    assert_eq!(again.object, located.object, "{value:#}");
    assert_eq!(again.written, located.written, "{value:#}");
}

/// The one object that YAML and JSON both hold.
fn read_again(value: &Value) -> Located<Object> {
    let json = indented_json(value).expect("a value has a text");
    let [from_yaml, from_json] = [yaml_document(value), json].map(|text| {
        let mut parsed = manifest::parse("again", &text);
        assert!(
            parsed.objects.len() == 1 && parsed.judged.len() == 1,
            "{text}\n{:#?}",
            parsed.findings
        );
        parsed.objects.remove(0)
    });
    assert_eq!(from_yaml.object, from_json.object, "{value:#}");
    assert_eq!(from_yaml.written, from_json.written, "{value:#}");
    from_yaml
}

fn snapshot(objects: impl IntoIterator<Item = Located<Object>>) -> Arc<Snapshot> {
    let mut store = Store::new([]);
    for located in objects {
        store.apply(Change::Upsert(located));
    }
    store.snapshot()
}

/// Everything that `get` has to show of a node's objects.
fn shown(snapshot: &Snapshot) -> Vec<Value> {
    let facts = NodeFacts {
        service_cidrs: cidrs(),
        ..NodeFacts::default()
    };
    let compiled = compile::compile(snapshot, &facts, &Allocations::default());
    let view = View {
        snapshot,
        addresses: &compiled.addresses,
        since: &|_: &ObjectRef| Some("2024-01-01T00:00:00Z".to_owned()),
    };
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        view.each(kind, &|_, _| true, &mut |object| {
            objects.push(object);
            ControlFlow::Continue(())
        });
    }
    objects
}

fn of_kind(objects: &[Value], kind: Kind) -> Vec<&Value> {
    let objects = objects.iter();
    objects
        .filter(|object| object["kind"] == kind.name())
        .collect()
}
