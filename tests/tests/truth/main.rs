//! Every flow of the fact tables, through the datapath on the host and through `fulcrum trace`: both say what the table says.
//!
//! The tables are in `testdata` and read by [`lb_tests::truth`]. A failing test prints every flow that differs, with the
//! packet and what became of it. `tests/truth_live` sends the packets of some cases over real devices.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod affinity;
mod batch;
mod datapath;
mod memory;
mod packets;
mod trace;

use std::{num::NonZero, thread};

use anyhow::Result;
use lb_tests::{
    netns::require_root,
    truth::{self, Answer, Case, Flow, Masquerade},
};

/// The flows of kube-proxy's own tests.
const UPSTREAM: &str = "packetflow.yaml";
/// Those of ours.
const OWN: &str = "truthtable.yaml";

#[test]
fn the_datapath_carries_out_every_flow_of_kube_proxys_tests() {
    run(UPSTREAM, datapath::answers);
}

#[test]
fn the_datapath_carries_out_every_flow_of_our_own_table() {
    run(OWN, datapath::answers);
}

#[test]
fn trace_explains_every_flow_of_kube_proxys_tests() {
    if !require_root() {
        return;
    }
    run(UPSTREAM, trace::answers);
}

#[test]
fn trace_explains_every_flow_of_our_own_table() {
    if !require_root() {
        return;
    }
    run(OWN, trace::answers);
}

/// What one runner makes of a case's flows in one mode, in their order.
type Answers = Vec<Result<Answer>>;

/// Asks a runner about every case in every mode that the case speaks of, and fails with all that differs.
#[track_caller]
fn run(table: &str, answers: impl Fn(&Case, Masquerade) -> Result<Answers> + Sync) {
    let cases = truth::load(table).unwrap();
    let n_workers = thread::available_parallelism().map_or(1, NonZero::get);
    let failures: Vec<String> = thread::scope(|scope| {
        let workers: Vec<_> = cases
            .chunks(cases.len().div_ceil(n_workers).max(1))
            .map(|cases| {
                scope.spawn(|| {
                    cases
                        .iter()
                        .flat_map(|case| differs(case, &answers))
                        .collect()
                })
            })
            .collect();
        let found = workers.into_iter().map(|worker| worker.join().unwrap());
        found.collect::<Vec<Vec<String>>>().concat()
    });
    assert!(
        failures.is_empty(),
        "{} flows of {table} differ:\n  {}",
        failures.len(),
        failures.join("\n  ")
    );
}

/// What a runner makes of a case that the table does not say.
fn differs(case: &Case, answers: &impl Fn(&Case, Masquerade) -> Result<Answers>) -> Vec<String> {
    let of_mode = |mode| {
        let given = match answers(case, mode) {
            Ok(given) => given,
            Err(error) => return vec![format!("{} ({mode}): {error:#}", case.id)],
        };
        assert_eq!(
            given.len(),
            case.flows.len(),
            "{}: one answer each",
            case.id
        );
        let flows = case.flows.iter().zip(given);
        let differs = flows.filter_map(|(flow, answer)| {
            let error = answer
                .and_then(|answer| case.judge(flow, mode, &answer))
                .err()?;
            Some(format!("{} ({mode}): {}: {error:#}", case.id, shown(flow)))
        });
        differs.collect()
    };
    case.modes().into_iter().flat_map(of_mode).collect()
}

/// A flow as `fulcrum trace` would be asked about it.
fn shown(flow: &Flow) -> String {
    let Flow {
        name,
        class,
        protocol,
        from,
        to,
        ..
    } = flow;
    format!(
        "{name:?} (--in {} --from {from} --to {to} --protocol {protocol})",
        class.way_in()
    )
}
