//! `metadata`: what the API asks of every object.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{DEFAULT_NAMESPACE, Remarks, name, weight::want_weight};
use crate::{
    model::object::{Kind, Labels, Meta, ObjectName},
    shared_text::shared,
};

/// Labels and annotations as they are read.
pub(super) type Texts = BTreeMap<String, String>;

/// Bytes that all annotations of an object may have together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// `metadata`, with the namespace that the kind gives an object that names none.
///
/// A Service's name is a DNS label and may begin with a digit: Kubernetes 1.36 has the feature gate
/// `RelaxedServiceNameValidation` on.
pub(super) fn meta(kind: Kind, raw: ObjectMeta, remarks: &mut Remarks) -> Meta {
    let object_name = raw.name.unwrap_or_default();
    want_name(kind, &object_name, "metadata.name", remarks);
    if let Some(prefix) = raw.generate_name.filter(|prefix| !prefix.is_empty()) {
        // The API adds letters and digits.
        let example = format!("{prefix}x");
        want_name(kind, &example, "metadata.generateName", remarks);
    }
    let labels = raw.labels.unwrap_or_default();
    want_labels(&labels, "metadata.labels", remarks);
    let annotations = raw.annotations.unwrap_or_default();
    want_annotations(&annotations, remarks);
    if matches!(kind, Kind::Pod | Kind::EndpointSlice | Kind::Endpoints) {
        want_weight(&annotations, remarks);
    }
    for (index, finalizer) in raw.finalizers.iter().flatten().enumerate() {
        let field = format!("metadata.finalizers[{index}]");
        name::want_qualified(finalizer, "name for a finalizer", &field, remarks);
    }
    want_owners(raw.owner_references.as_deref().unwrap_or_default(), remarks);
    if let Some(generation) = raw.generation.filter(|generation| *generation < 0) {
        let message = format!("{generation} is negative; leave the field out");
        remarks.error("metadata.generation", message);
    }
    let namespace = namespace(kind, raw.namespace, remarks);
    Meta {
        name: ObjectName::new(&namespace, &object_name),
        labels: shared_labels(&labels),
        annotations: annotations
            .into_iter()
            .map(|(key, value)| (shared(&key), value.into()))
            .collect(),
        uid: raw.uid.map(Into::into),
        created: raw.creation_timestamp.map(|time| time.0.to_string().into()),
    }
}

/// Labels, or a selector of labels, with texts that other objects have as well.
pub(super) fn shared_labels(labels: &Texts) -> Labels {
    let pairs = labels.iter();
    pairs
        .map(|(key, value)| (shared(key), shared(value)))
        .collect()
}

fn want_name(kind: Kind, text: &str, field: &str, remarks: &mut Remarks) {
    let what = match kind {
        Kind::EndpointSlice => format!("an {kind}"),
        Kind::Service | Kind::Pod | Kind::Node => format!("a {kind}"),
        Kind::Endpoints => kind.to_string(),
    };
    match kind {
        Kind::Service => name::want_label(text, &what, field, remarks),
        _ => name::want_subdomain(text, &what, field, remarks),
    }
}

fn namespace(kind: Kind, given: Option<String>, remarks: &mut Remarks) -> String {
    const FIELD: &str = "metadata.namespace";
    match (kind.is_namespaced(), given.filter(|text| !text.is_empty())) {
        (true, None) => DEFAULT_NAMESPACE.to_owned(),
        (true, Some(namespace)) => {
            name::want_label(&namespace, "a namespace", FIELD, remarks);
            namespace
        }
        (false, Some(namespace)) => {
            let message = format!("a {kind} is in no namespace; `{namespace}` is not used");
            remarks.warning(FIELD, message);
            String::new()
        }
        (false, None) => String::new(),
    }
}

/// Wants labels, or a selector of labels.
pub(super) fn want_labels(labels: &Texts, field: &str, remarks: &mut Remarks) {
    for (key, value) in labels {
        name::want_qualified(key, "key for a label", field, remarks);
        name::want_label_value(value, &format!("{field}.{key}"), remarks);
    }
}

fn want_annotations(annotations: &Texts, remarks: &mut Remarks) {
    const FIELD: &str = "metadata.annotations";
    for key in annotations.keys() {
        // Letter case does not matter here, unlike in the DNS name of a label's key.
        if !name::is_qualified(&key.to_lowercase()) {
            name::want_qualified(key, "key for an annotation", FIELD, remarks);
        }
    }
    let size: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if size > MAX_ANNOTATIONS {
        let message = format!("{size} bytes are too many; use at most {MAX_ANNOTATIONS}");
        remarks.error(FIELD, message);
    }
}

fn want_owners(owners: &[OwnerReference], remarks: &mut Remarks) {
    let mut controllers = 0;
    for (index, owner) in owners.iter().enumerate() {
        let parts = [
            ("apiVersion", &owner.api_version),
            ("kind", &owner.kind),
            ("name", &owner.name),
            ("uid", &owner.uid),
        ];
        for (part, text) in parts {
            if text.is_empty() {
                let field = format!("metadata.ownerReferences[{index}].{part}");
                remarks.error(&field, "the field is missing; an owner needs it");
            }
        }
        controllers += usize::from(owner.controller == Some(true));
    }
    if controllers > 1 {
        let message = format!("{controllers} owners say `controller: true`; one may");
        remarks.error("metadata.ownerReferences", message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What is said of `metadata`, as `FIELD: MESSAGE`.
    fn said(kind: Kind, meta_of: &Value) -> Vec<String> {
        let mut remarks = Remarks::default();
        let raw = serde_json::from_value(meta_of.clone()).expect("metadata by type");
        meta(kind, raw, &mut remarks);
        remarks.texts()
    }

    #[test]
    fn names_follow_their_kind() {
        let long = "a".repeat(64);
        let cases = [
            (Kind::Service, "web", true),
            (Kind::Service, "1web", true),
            (Kind::Service, "web.a", false),
            (Kind::Service, "Web", false),
            (Kind::Service, "web_a", false),
            (Kind::Service, &*long, false),
            (Kind::Pod, "web.a", true),
            (Kind::Pod, &*long, true),
            (Kind::Pod, "web_a", false),
            (Kind::Node, "n.example.com", true),
            (Kind::Node, "N", false),
            (Kind::Endpoints, "web.a", true),
            (Kind::EndpointSlice, "web-", false),
        ];
        for (kind, text, right) in cases {
            let said = said(kind, &json!({"name": text}));
            assert_eq!(said.is_empty(), right, "{kind} {text}: {said:?}");
        }
        assert_eq!(
            said(Kind::Service, &json!({"name": "Web"})),
            [
                "error metadata.name: `Web` is no name for a Service; use at most 63 lower-case letters, digits \
              and `-`, and begin and end with a letter or digit"
            ]
        );
    }

    #[test]
    fn the_rest_of_metadata_is_checked() {
        let cases = [
            (
                json!({"namespace": "a.b"}),
                "error metadata.namespace: `a.b` is no name for a namespace; ",
            ),
            (
                json!({"labels": {"a/b/c": "x"}}),
                "error metadata.labels: `a/b/c` is no key for a label; ",
            ),
            (
                json!({"labels": {"a": "-x"}}),
                "error metadata.labels.a: `-x` is no value for a label; ",
            ),
            (
                json!({"annotations": {"-": "x"}}),
                "error metadata.annotations: `-` is no key for an annotation; ",
            ),
            (
                json!({"annotations": {"a": "x".repeat(256 * 1024)}}),
                "error metadata.annotations: 262145 bytes are too many; use at most 262144",
            ),
            (
                json!({"generateName": "A-"}),
                "error metadata.generateName: `A-x` is no name for a Service; ",
            ),
            (
                json!({"finalizers": ["a b"]}),
                "error metadata.finalizers[0]: `a b` is no name for a finalizer; ",
            ),
            (
                json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": ""}]}),
                "error metadata.ownerReferences[0].uid: the field is missing; an owner needs it",
            ),
            (
                json!({"generation": -1}),
                "error metadata.generation: -1 is negative; leave the field out",
            ),
        ];
        for (fields, expected) in cases {
            let mut raw = fields;
            raw["name"] = json!("web");
            let said = said(Kind::Service, &raw);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with(expected), "{said:?}");
        }
    }

    #[test]
    fn what_is_right_raises_nothing() {
        let raw = json!({"name": "web", "namespace": "1", "generateName": "web-", "uid": "u",
            "labels": {"example.com/A_b": "", "a": "B.c"}, "annotations": {"Example.com/a": "any text\n"}});
        assert_eq!(said(Kind::Service, &raw), Vec::<String>::new());
    }

    #[test]
    fn a_node_is_in_no_namespace() {
        assert_eq!(
            said(Kind::Node, &json!({"name": "n", "namespace": "a"})),
            ["warning metadata.namespace: a Node is in no namespace; `a` is not used"]
        );
    }
}
