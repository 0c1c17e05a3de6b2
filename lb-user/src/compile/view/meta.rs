//! What all objects have: their kind, and `metadata`.

use serde_json::{Value, json};

use super::merge;
use crate::model::object::{Kind, Labels, Meta, ObjectName};

/// `apiVersion`, `kind`, and the name that the object has here.
pub(super) fn identity(kind: Kind, name: &ObjectName) -> Value {
    let namespace = kind.is_namespaced().then_some(&*name.namespace);
    json!({
        "apiVersion": kind.api_version(),
        "kind": kind.name(),
        "metadata": {"name": &*name.name, "namespace": namespace},
    })
}

/// [`identity`] and labels of an object that nobody wrote.
pub(super) fn made(kind: Kind, meta: &Meta) -> Value {
    let metadata = json!({"metadata": {
        "labels": labels(&meta.labels),
        "annotations": labels(&meta.annotations),
    }});
    merge::over(identity(kind, &meta.name), metadata)
}

/// Labels or annotations; null where there are none.
pub(super) fn labels(labels: &Labels) -> Value {
    if labels.is_empty() {
        Value::Null
    } else {
        let texts = labels.iter();
        texts
            .map(|(key, value)| (key.to_string(), json!(&**value)))
            .collect()
    }
}

/// With `metadata.creationTimestamp`, where it has none and the time is known.
pub(super) fn dated(mut shown: Value, since: impl FnOnce() -> Option<String>) -> Value {
    const FIELD: &str = "creationTimestamp";
    if let Some(metadata) = shown.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get(FIELD).is_none_or(Value::is_null)
        && let Some(since) = since()
    {
        metadata.insert(FIELD.to_owned(), Value::String(since));
    }
    shown
}
