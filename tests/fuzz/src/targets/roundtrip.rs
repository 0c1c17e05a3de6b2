//! What is accepted is shown as YAML and as JSON, and what is shown is read again as the same.
//!
//! Twice: each object alone as it was written, and all of them as `get` shows them, with defaults, addresses and what
//! a cluster's controllers would have written. What `get` shows is accepted, and shown again it does not change.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use lb_user::{
    alloc::Allocations,
    cli::{indented_json, yaml_document},
    compile::{self, NodeFacts, view::View},
    model::object::{Kind, Object, ObjectRef},
    source::{Change, manifest},
    store::{Snapshot, Store},
};
use serde_json::Value;

use super::cidrs;

/// Runs one input.
pub fn run(bytes: &[u8]) {
    let mut objects = BTreeMap::new();
    for object in manifest::parse_bytes("m", bytes.to_vec()).objects {
        as_written(&object);
        objects.entry(object.reference()).or_insert(object);
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
fn as_written(object: &Object) {
    let value = object.written().value();
    assert_eq!(value["kind"], object.reference().kind.name());
    let again = read_again(&value);
    assert_same(&again, object, &value);
}

/// The one object that YAML and JSON both hold.
fn read_again(value: &Value) -> Object {
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
    assert_same(&from_yaml, &from_json, value);
    from_yaml
}

/// Two objects that differ in nothing but where they stand.
fn assert_same(one: &Object, other: &Object, value: &Value) {
    match (one, other) {
        (Object::Service(one), Object::Service(other)) => {
            assert_eq!(one.object, other.object, "{value:#}");
        }
        (Object::Endpoints(one), Object::Endpoints(other)) => {
            assert_eq!(one.object, other.object, "{value:#}");
        }
        (Object::EndpointSlice(one), Object::EndpointSlice(other)) => {
            assert_eq!(one.object, other.object, "{value:#}");
        }
        (Object::Pod(one), Object::Pod(other)) => assert_eq!(one.object, other.object, "{value:#}"),
        (Object::Node(one), Object::Node(other)) => {
            assert_eq!(one.object, other.object, "{value:#}");
        }
        _ => panic!("{value:#}: of two kinds"),
    }
    assert_eq!(one.written(), other.written(), "{value:#}");
}

fn snapshot(objects: impl IntoIterator<Item = Object>) -> Arc<Snapshot> {
    let mut store = Store::new([]);
    for object in objects {
        store.apply(Change::Upsert(object));
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
