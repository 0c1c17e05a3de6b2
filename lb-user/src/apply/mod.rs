//! The only code that writes the tables: it carries plans out, on the kernel's maps or on others.
//!
//! Guarantees: the ledger's picture is true after every step, also when steps fail; a step whose ground
//! has failed is left out; the failure of one service port stops no other. Never decides what the tables
//! should say, and never retries for longer than [`Retry`] allows.

mod anew;
mod audit;
mod bpf;
mod dialled_rows;
mod dump;
mod fake;
mod faulty;
mod fill;
mod flow_rows;
mod layout;
mod lbmaps;
#[cfg(test)]
mod pinned;
mod pod;
mod retry;
mod rows;
#[cfg(test)]
mod safety;
mod scenario;
#[cfg(test)]
mod some_ports;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod watched;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use lb_common::{abi::Backend, net::addr::Family};
use thiserror::Error;

use self::retry::Tries;
pub use self::{
    anew::write_anew,
    audit::{Mend, Part, audit},
    bpf::BpfMaps,
    dump::{Names, dump},
    fake::FakeMaps,
    faulty::{Faults, FaultyMaps},
    fill::FlowTableLook,
    layout::{
        FORMER, MapError, MapKind, SHAPES, Shape, former_value_size, open_flow_table, open_pinned,
    },
    lbmaps::{Access, IsLive, LbMaps, TableError},
    pod::Raw,
    retry::Retry,
    rows::{MapInfo, Table, counts, dump_rows, maps_table, read_rows, write_rows},
    scenario::{Scenario, short_name},
};
use crate::{
    desired::{Desired, PortName},
    plan::{
        BackendId, BackendRow, Blocked, Capacity, Damaged, Found, Ledger, Plan, Refusal, Step,
        plan, plan_ports,
    },
};

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Report {
    /// Steps that were carried out.
    pub n_done: usize,
    /// Steps that failed.
    pub failed: Vec<Failure>,
    /// Steps that were left out because a step before them had failed.
    pub skipped: Vec<Skipped>,
    /// When packets saw all of it and only what had rested was left to be freed; none where nothing had.
    pub seen: Option<Instant>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// Whether every step was carried out.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.skipped.is_empty()
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct Failure {
    /// The service port, where the step is about one.
    pub subject: Option<String>,
    /// The step.
    pub step: Step,
    /// The last error.
    pub error: TableError,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        write!(f, "{}: {}", self.step, self.error)
    }
}

/// A step that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The step.
    pub step: Step,
    /// What it lacked; `None`: its service port had failed before.
    pub reason: Option<Blocked>,
}

/// What became of a desired state.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is refused, by name.
    pub refused: Vec<Refusal>,
    /// One report per plan that was carried out.
    pub reports: Vec<Report>,
}

impl Outcome {
    /// Whether the tables now say all that was not refused.
    pub fn is_complete(&self) -> bool {
        self.reports.iter().all(Report::is_complete)
    }

    /// Whether the tables now say all of it.
    pub fn is_all_done(&self) -> bool {
        self.is_complete() && self.refused.is_empty()
    }
}

/// Why tables that an earlier agent has left behind cannot be taken over.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// They cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// They contradict themselves.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// The ledger of tables that an earlier agent has left behind; nobody else may write them. The names of
/// service ports come from the state that is desired now.
pub fn restore(
    maps: &mut impl LbMaps,
    desired: &Desired,
    capacity: Capacity,
) -> Result<Ledger, RestoreError> {
    // What the earlier agent had freed may still be in a reader's hands.
    maps.grace()?;
    let mut found = Found {
        backends: maps.backends()?,
        places: maps.places()?,
        sources: maps.sources()?,
        ..Found::default()
    };
    for (key, service) in maps.services()? {
        let lists = [
            maps.slots(service.cluster)?,
            maps.slots(service.external_local)?,
            maps.slots(service.internal_local)?,
        ];
        found.services.insert(key, (service, lists));
    }
    Ok(Ledger::restore(found, desired, capacity)?)
}

/// Plans that one call of [`reconcile`] may take. Each after the first needs room that the one before
/// has made.
const MAX_ROUNDS: usize = 8;

/// Makes the tables say what is desired, as far as they have room and do not fail.
pub fn reconcile(
    desired: &Desired,
    ledger: &mut Ledger,
    maps: &mut impl LbMaps,
    retry: &Retry,
) -> Outcome {
    let mut outcome = Outcome::default();
    for _ in 0..MAX_ROUNDS {
        let plan = plan(desired, ledger);
        let report = run(&plan, ledger, maps, retry);
        let complete = report.is_complete();
        outcome.reports.push(report);
        outcome.refused = plan.refused;
        if plan.deferred.is_empty() {
            break;
        }
        outcome.refused.extend(plan.deferred);
        if !complete {
            break;
        }
    }
    outcome
}

/// Does what [`reconcile`] would, where nothing but these service ports is others than it was after the last reconciliation.
/// Nothing that was refused or failed then may wait for its turn.
pub fn reconcile_ports(
    desired: &Desired,
    names: &BTreeSet<PortName>,
    ledger: &mut Ledger,
    maps: &mut impl LbMaps,
    retry: &Retry,
) -> Outcome {
    let plan = plan_ports(desired, names, ledger).filter(|plan| plan.deferred.is_empty());
    let Some(plan) = plan else {
        return reconcile(desired, ledger, maps, retry);
    };
    let report = run(&plan, ledger, maps, retry);
    Outcome {
        refused: plan.refused,
        reports: vec![report],
    }
}

/// Carries out a plan, step by step.
pub fn run(plan: &Plan, ledger: &mut Ledger, maps: &mut impl LbMaps, retry: &Retry) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut failed_services = BTreeSet::new();
    let mut tries = Tries::new(retry);
    let mut steps = plan.steps.as_slice();
    while let Some(step) = steps.first() {
        let n_done = write_backends(steps, ledger, maps, &failed_services);
        report.n_done += n_done;
        steps = steps.get(n_done.max(1)..).unwrap_or_default();
        if n_done > 0 {
            continue;
        }
        if *step == Step::Grace {
            report.seen.get_or_insert_with(Instant::now);
        }
        let service = ledger.service_of(step);
        if service.is_some_and(|service| failed_services.contains(&service)) {
            report.skipped.push(Skipped {
                step: step.clone(),
                reason: None,
            });
            continue;
        }
        if let Err(blocked) = ledger.permits(step) {
            report.skipped.push(Skipped {
                step: step.clone(),
                reason: Some(blocked),
            });
            continue;
        }
        match tries.call(|| carry_out(step, maps)) {
            Ok(()) => {
                ledger.commit(step);
                report.n_done += 1;
            }
            Err(error) => {
                failed_services.extend(service);
                let subject = service.and_then(|service| ledger.name(service));
                let subject = subject.map(ToString::to_string);
                report.failed.push(Failure {
                    subject,
                    step: step.clone(),
                    error,
                });
            }
        }
    }
    report.took = start.elapsed();
    report
}

/// Writes the backends that come next if they stand side by side and are one service's. 0: each has to go by itself.
fn write_backends(
    steps: &[Step],
    ledger: &mut Ledger,
    maps: &mut impl LbMaps,
    failed: &BTreeSet<u32>,
) -> usize {
    let Some(Step::WriteBackend { id: first, row }) = steps.first() else {
        return 0;
    };
    let service = row.service;
    let next = |(step, id): (&Step, u32)| match step {
        Step::WriteBackend { id: at, row } => {
            let is_next = at.family == first.family && at.id == id && row.service == service;
            (is_next && ledger.permits(step).is_ok()).then_some(*row)
        }
        _ => None,
    };
    let rows: Vec<BackendRow> = steps.iter().zip(first.id..).map_while(next).collect();
    if rows.len() < 2 || failed.contains(&service) {
        return 0;
    }
    let n_written = maps.put_backends(*first, &rows);
    for step in steps.iter().take(n_written) {
        ledger.commit(step);
    }
    n_written
}

fn carry_out(step: &Step, maps: &mut impl LbMaps) -> Result<(), TableError> {
    match step {
        Step::WriteBackend { id, row } | Step::RetireBackend { id, row } => {
            maps.put_backend(*id, row)
        }
        Step::WriteSlots { base, ids, .. } => maps.write_slots(*base, ids),
        Step::PutService { key, service } => maps.put_service(key, service),
        Step::DeleteService { key, .. } => maps.delete_service(key),
        Step::Grace => maps.grace(),
        Step::FreeBackend { id, generation } => maps.put_backend(*id, &freed(*id, *generation)),
        Step::PutPlace(area, place) => maps.put_place(*area, *place),
        Step::DeletePlace(area) => maps.delete_place(*area),
        Step::PutSource(id, row) => maps.put_source(*id, row),
        Step::DeleteSource(id) => maps.delete_source(*id),
    }
}

/// The row of a backend that is nobody's any more.
fn freed(id: BackendId, generation: u16) -> BackendRow {
    Backend {
        addr: match id.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        },
        service: 0,
        port: 0,
        generation,
        flags: 0,
    }
}
