//! From the types of the Kubernetes API to [`crate::model`]: defaults and validation.
//!
//! Pure. A converter writes down everything that is wrong with its object before it gives up, so
//! that one round of mending is enough. The rules are those of the API server
//! (`pkg/apis/core/validation` in Kubernetes 1.36) for the fields that are used here.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    desired::Protocol,
    model::{
        finding::Severity,
        object::{Kind, Meta, ObjectName},
    },
};

pub(super) mod address;
pub(super) mod endpoint;
pub(super) mod node;
pub(super) mod pod;
pub(super) mod service;

/// The namespace of objects that name none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";
/// Longest name of a DNS label (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest name of a DNS subdomain (RFC 1123).
const MAX_SUBDOMAIN: usize = 253;

/// One remark about a field of the object at hand.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) severity: Severity,
    pub(super) field: String,
    pub(super) message: String,
}

/// Remarks about the object at hand.
#[derive(Debug, Default)]
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    /// The object cannot be used because of this.
    pub(super) fn error(&mut self, field: &str, message: impl Into<String>) {
        self.push(Severity::Error, field, message.into());
    }

    /// The object is used, probably not as meant.
    pub(super) fn warning(&mut self, field: &str, message: impl Into<String>) {
        self.push(Severity::Warning, field, message.into());
    }

    /// Whether the object is to be refused.
    pub(super) fn reject(&self) -> bool {
        self.0
            .iter()
            .any(|remark| remark.severity == Severity::Error)
    }

    /// The remarks in the order they were made.
    pub(super) fn into_inner(self) -> Vec<Remark> {
        self.0
    }

    fn push(&mut self, severity: Severity, field: &str, message: String) {
        self.0.push(Remark {
            severity,
            field: field.to_owned(),
            message,
        });
    }
}

/// `metadata`, with the namespace that the kind gives an object that names none.
fn meta(kind: Kind, raw: ObjectMeta, remarks: &mut Remarks) -> Meta {
    let name = raw.name.unwrap_or_default();
    let right = match kind {
        Kind::Service => is_label(&name) && !name.starts_with(|c: char| c.is_ascii_digit()),
        _ => name.len() <= MAX_SUBDOMAIN && name.split('.').all(is_label_of_any_length),
    };
    if !right {
        let message = format!(
            "`{name}` is no name for a {kind}; use lower-case letters, digits and `-`, and begin \
             and end with a letter or digit{}",
            if kind == Kind::Service {
                " (a service: begin with a letter, at most 63)"
            } else {
                ""
            }
        );
        remarks.error("metadata.name", message);
    }
    let namespace = match (kind.is_namespaced(), raw.namespace) {
        (false, _) => String::new(),
        (true, Some(namespace)) if !namespace.is_empty() => {
            if !is_label(&namespace) {
                let message = format!("`{namespace}` is no name for a namespace");
                remarks.error("metadata.namespace", message);
            }
            namespace
        }
        (true, _) => DEFAULT_NAMESPACE.to_owned(),
    };
    Meta {
        name: ObjectName::new(&namespace, &name),
        labels: raw.labels.unwrap_or_default(),
        created: raw.creation_timestamp.map(|time| time.0.to_string()),
    }
}

/// A port number, if it is one.
fn port(number: i32, field: &str, remarks: &mut Remarks) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    if port.is_none() {
        remarks.error(field, format!("{number} is no port; use 1 to 65535"));
    }
    port
}

/// `protocol`, TCP where none is given.
fn protocol(name: Option<&str>, field: &str, remarks: &mut Remarks) -> Protocol {
    match name {
        None | Some("TCP" | "") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(other) => {
            remarks.error(
                field,
                format!("`{other}` is no protocol; use TCP, UDP or SCTP"),
            );
            Protocol::Tcp
        }
    }
}

/// Whether a text is a DNS label (RFC 1123 §2.1).
fn is_label(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_rfc_1123() {
        assert!(is_label("web-1") && is_label("1"));
        for wrong in ["", "-web", "web-", "Web", "we b", "web.a", &"a".repeat(64)] {
            assert!(!is_label(wrong), "{wrong}");
        }
    }
}
