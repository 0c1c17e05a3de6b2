//! How a service's backends are chosen on this node.

use super::NodeFacts;
use crate::{
    desired::{Algorithm, MAGLEV_PER_ENDPOINT},
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectRef},
        service::{ANNOTATION_MAGLEV_SIZE, Service},
    },
};

/// The algorithm, and how many places its tables have if the service says so.
pub(super) fn algorithm(
    service: &Located<Service>,
    facts: &NodeFacts,
    findings: &mut Vec<Finding>,
) -> (Algorithm, Option<u32>) {
    let spec = &service.object.spec;
    let algorithm = spec.algorithm.unwrap_or(facts.algorithm);
    if spec.maglev_size.is_some() && algorithm != Algorithm::Maglev {
        let message = format!("not used, since backends are chosen by the algorithm {algorithm}");
        findings.push(about(Severity::Notice, service, message));
    }
    (algorithm, spec.maglev_size)
}

/// Warns of a table that has too few places for so many endpoints.
pub(super) fn want_room(
    service: &Located<Service>,
    algorithm: Algorithm,
    n_endpoints: usize,
    findings: &mut Vec<Finding>,
) {
    let Some(size) = service.object.spec.maglev_size else {
        return;
    };
    let n_endpoints = u32::try_from(n_endpoints).unwrap_or(u32::MAX);
    let wanted = n_endpoints.saturating_mul(MAGLEV_PER_ENDPOINT);
    if algorithm == Algorithm::Maglev && n_endpoints > 1 && size < wanted {
        let message = format!(
            "{size} places are few for {n_endpoints} endpoints, whose shares differ by more than a hundredth; use \
             {wanted} or more"
        );
        findings.push(about(Severity::Warning, service, message));
    }
}

fn about(severity: Severity, service: &Located<Service>, message: String) -> Finding {
    let reference = ObjectRef {
        kind: Kind::Service,
        name: service.object.meta.name.clone(),
    };
    let field = format!("metadata.annotations.{ANNOTATION_MAGLEV_SIZE}");
    Finding::about(severity, (&reference, service), &field, message)
}
