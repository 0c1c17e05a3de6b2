//! From the types of the Kubernetes API to [`crate::model`]: defaults and validation.
//!
//! Pure. A converter writes down everything that is wrong with its object before it gives up, so
//! that one round of mending is enough. The rules are those of the API server (`pkg/apis/core/validation`,
//! `pkg/apis/discovery/validation` and the registry's defaults in Kubernetes 1.36), with these differences:
//!
//! * Leading zeros in addresses are used with a warning; 1.36 refuses them in new objects.
//! * Bits after the length of a source range are cut off with a warning; 1.36 refuses them in new objects too.
//! * A `healthCheckNodePort` that has no use is a warning and not used: objects of old have it.
//! * Which numbers node ports may have is the allocator's to say, which knows the range.
//! * `status` is read, since nobody else could write it; the API drops it when an object is made. What is
//!   wrong in it is a warning, and that part is not used.
//! * A Pod may lack what only a kubelet needs (`containers`, `image`).

use self::{
    meta::meta,
    port::{port, protocol},
};
use crate::model::finding::Severity;

pub(super) mod address;
pub(super) mod endpoint;
mod meta;
mod name;
pub(super) mod node;
pub(super) mod pod;
mod port;
pub(super) mod service;
mod weight;

/// The namespace of objects that name none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

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

    /// Takes over remarks about a part that is left out, so that the object can be used.
    fn take_as_warnings(&mut self, part: Self) {
        for remark in part.0 {
            let message = match remark.severity {
                Severity::Error => format!("{}; it is not used", remark.message),
                Severity::Warning | Severity::Notice => remark.message,
            };
            self.warning(&remark.field, message);
        }
    }

    /// Whether the object is to be refused.
    pub(super) fn reject(&self) -> bool {
        self.0
            .iter()
            .any(|remark| remark.severity == Severity::Error)
    }

    /// The remarks as `SEVERITY FIELD: MESSAGE`.
    #[cfg(test)]
    fn texts(&self) -> Vec<String> {
        let text = |r: &Remark| format!("{} {}: {}", r.severity, r.field, r.message);
        self.0.iter().map(text).collect()
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
