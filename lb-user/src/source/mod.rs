//! Where objects come from: manifests in files, in directories and on standard input.
//!
//! ```text
//! bytes -> encoding -> documents -> yaml | json -> node -> kinds, decode, convert -> Object, Finding
//! ```
//!
//! A source tells what changed and when it has told everything once. It judges each object alone: a
//! bad one becomes a [`Finding`] and stops no other. No type of a Kubernetes client library and no
//! YAML type leaves this module.

use crate::model::{
    finding::Finding,
    object::{Object, ObjectRef},
};

mod advice;
mod convert;
mod decode;
pub mod dir;
mod documents;
mod encoding;
mod fields;
pub mod files;
mod json;
mod kinds;
pub mod manifest;
mod node;
mod scalar;
pub(crate) mod spelling;
pub mod stdin;
#[cfg(test)]
mod tests;
pub mod touch;
mod yaml;

/// One change of what a source holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new or different.
    Upsert(Object),
    /// The object is gone.
    Delete(ObjectRef),
    /// Everything that the source of this name had at first has been told.
    Synced(String),
}

/// What a source has to say after it looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanResult {
    /// What changed since it last looked.
    pub changes: Vec<Change>,
    /// Everything that is wrong now, sorted by place; not only what is new.
    pub findings: Vec<Finding>,
}
