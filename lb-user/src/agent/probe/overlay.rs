//! Pods with the readiness that the agent's own probes found out: what the compiler and listings get to see.
//!
//! Pure. A container's probe decides on it; one without a probe that can be run is as ready as the status says of it,
//! or of its pod.

use std::{collections::BTreeMap, sync::Arc};

use super::target::{self, Judge, Key, Target, Targets};
use crate::{
    model::{
        finding::Finding,
        object::Located,
        pod::{Pod, Probed},
    },
    store::Snapshot,
};

/// What the probes have found out.
pub type Readiness = BTreeMap<Key, Verdict>;

/// What one probe has found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Of whom; it says nothing about what took its place.
    pub target: Arc<Target>,
    /// The answer.
    pub probed: Probed,
}

/// A snapshot seen through probes.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The objects, with pods as ready as their probes say.
    pub snapshot: Arc<Snapshot>,
    /// What is to be asked from now on.
    pub targets: Targets,
    /// Probes that are not run, or can never succeed.
    pub findings: Vec<Finding>,
}

impl Overlay {
    /// The objects as they are; nobody is asked.
    pub fn none(snapshot: &Arc<Snapshot>) -> Self {
        Self {
            snapshot: Arc::clone(snapshot),
            targets: Targets::new(),
            findings: Vec::new(),
        }
    }

    /// Lays `readiness` over the pods of a snapshot. Pods without probes, and those that ended, stay as they are.
    pub fn new(snapshot: &Arc<Snapshot>, readiness: &Readiness) -> Self {
        let mut overlay = Self::none(snapshot);
        for (name, pod) in &snapshot.pods {
            let has_probe =
                |pod: &Pod| pod.containers.iter().any(|it| it.readiness_probe.is_some());
            if pod.object.finished || !has_probe(&pod.object) {
                continue;
            }
            target::findings(pod, &mut overlay.findings);
            let judges = target::judges(&pod.object);
            if judges.iter().all(|judge| *judge == Judge::Status) {
                continue;
            }
            let laid = overlay.laid(pod, &judges, readiness);
            // A copy of the lists, not of what is in them.
            let pods = &mut Arc::make_mut(&mut overlay.snapshot).pods;
            pods.insert(name.clone(), Arc::new(laid));
        }
        overlay
    }

    fn laid(
        &mut self,
        pod: &Located<Pod>,
        judges: &[Judge],
        readiness: &Readiness,
    ) -> Located<Pod> {
        let mut laid = pod.clone();
        let by_status = laid.object.ready;
        let mut ready = true;
        for (container, judge) in laid.object.containers.iter_mut().zip(judges) {
            container.probed = match judge {
                Judge::Status => None,
                Judge::Nobody => Some(Probed::default()),
                Judge::Probe(target) => {
                    let key = Key {
                        pod: pod.object.meta.name.clone(),
                        container: (*container.name).into(),
                    };
                    let verdict = readiness.get(&key).filter(|it| it.target == *target);
                    self.targets.insert(key, Arc::clone(target));
                    Some(verdict.map(|it| it.probed.clone()).unwrap_or_default())
                }
            };
            ready &= match &container.probed {
                Some(probed) => probed.ready,
                None => container.ready.unwrap_or(by_status),
            };
        }
        laid.object.ready = ready && are_open(&laid.object);
        laid
    }
}

/// Whether all readiness gates are. Where the status has no conditions there is nobody who would open them.
fn are_open(pod: &Pod) -> bool {
    pod.conditions.is_empty() || pod.readiness_gates.iter().all(|gate| pod.has(gate))
}

#[cfg(test)]
mod tests;
