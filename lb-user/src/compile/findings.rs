//! What is not served as written, by what it follows from: so that a part can be found out anew.

use std::collections::BTreeMap;

use crate::model::{
    finding::Finding,
    object::{ObjectName, ObjectRef},
};

/// What findings follow from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ground {
    /// What was to be given to a service.
    Given(ObjectName),
    /// What a service asks for, for clients outside, and others have.
    Outside(ObjectName),
    /// Everything that a service's endpoints come from.
    Endpoints(ObjectName),
    /// Slices or Endpoints, and that their service is missing.
    Orphan(ObjectRef),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// No list is empty.
    grounds: BTreeMap<Ground, Vec<Finding>>,
}

impl Findings {
    /// What follows from a ground now; false if that is what it was.
    pub(super) fn put(&mut self, ground: Ground, findings: Vec<Finding>) -> bool {
        if findings.is_empty() {
            return self.grounds.remove(&ground).is_some();
        }
        if self.grounds.get(&ground) == Some(&findings) {
            return false;
        }
        self.grounds.insert(ground, findings);
        true
    }

    /// All of them, each once, sorted by place.
    pub(super) fn sorted(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.grounds.values().flatten().cloned().collect();
        findings.sort();
        findings.dedup();
        findings
    }
}
