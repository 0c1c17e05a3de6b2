//! From what the sources say to what the tables contain: store, compile, plan, apply.
//!
//! Owns the tables and the picture of them. Nothing is written before every source has told
//! everything once, so that what is merely late is never taken as deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use lb_common::flow::clock::{Tick, age, seconds};

use super::{
    health::Health,
    node::Demand,
    probe::{
        overlay::{Overlay, Readiness},
        target::Targets,
    },
    run_dir::RunDir,
    view::View,
};
use crate::{
    alloc::Allocations,
    apply::{self, LbMaps, Mend, Part, RestoreError, Retry, TableError},
    causes::with_causes,
    compile::{
        Compiled, NodeFacts,
        compiler::{Compiler, Followed},
    },
    config::reload::Live,
    desired::{Desired, Place, PortName},
    mended,
    model::{
        finding::{Finding, Severity},
        object::{ObjectName, ObjectRef},
    },
    plan::{Capacity, Ledger},
    shared_map::SharedMap,
    source::{Change, ScanResult},
    store::{Snapshot, Store},
};

/// How many entries that were put back are named at once.
const MAX_NAMED: usize = 10;

/// The tables and what they should contain.
#[derive(Debug)]
pub struct Controller<M> {
    store: Store,
    facts: NodeFacts,
    maps: M,
    ledger: Ledger,
    /// Whether the ledger is that of what the tables said at first.
    is_restored: bool,
    run_dir: Arc<RunDir>,
    /// What services had at the start.
    allocations: Arc<Allocations>,
    /// What was compiled last.
    compiler: Option<Box<Compiler>>,
    /// Whether the tables say all of that, so that only what differs from it is to be done.
    is_all_done: bool,
    /// What that asks of devices and routes.
    demand: Demand,
    /// Service ids of the tables.
    ports: Arc<BTreeMap<u32, PortName>>,
    /// What the sources find wrong.
    source_findings: Vec<Finding>,
    /// What the agent's own probes have found out; none where the status of pods decides.
    readiness: Option<Readiness>,
    /// What keeps others of the agent's tasks from their work.
    others_troubles: BTreeSet<String>,
    /// What was logged and still holds: told once, not with every change.
    told: BTreeSet<String>,
    /// When each object was first seen.
    seen: SharedMap<ObjectRef, SystemTime>,
    /// What appeared since the last reconciliation, or went.
    news: BTreeMap<ObjectRef, News>,
    /// A service had affinity when clients were last swept.
    had_affinity: bool,
    /// What of the tables is compared with the ledger next.
    to_audit: Part,
    /// Why that could not be done, said once.
    audit_troubles: BTreeMap<Part, String>,
    /// How long it took to take what sources had to say since the last reconciliation.
    absorbing: Duration,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Here,
    Gone,
}

/// How long a reconciliation takes, from objects that were read to the last write.
#[derive(Clone, Copy, Debug)]
struct Took {
    /// To put them into the store.
    absorbing: Duration,
    /// When the rest began.
    start: Instant,
}

impl Took {
    fn so_far(self) -> Duration {
        self.absorbing + self.start.elapsed()
    }
}

/// What came of a reconciliation.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For those who ask.
    pub view: View,
    /// What the services need of the node's devices and routes.
    pub demand: Demand,
    /// What is to be probed.
    pub targets: Targets,
    /// What is said on health check ports.
    pub health: Health,
    /// How large the tables should be instead, if they are too small.
    pub wanted: Option<Capacity>,
    /// Whether something is left to be tried again.
    pub is_incomplete: bool,
    /// Whether all services were looked at, and not only some endpoints.
    pub is_whole: bool,
}

/// In the place of tables where there are none yet.
#[derive(Debug)]
pub struct NoTables;

impl Controller<NoTables> {
    /// Waits for the source of this name.
    pub fn waiting(
        source: String,
        facts: NodeFacts,
        run_dir: Arc<RunDir>,
        allocations: Allocations,
    ) -> Self {
        Self {
            store: Store::new([source]),
            facts,
            maps: NoTables,
            ledger: Ledger::new(Capacity::default()),
            is_restored: false,
            run_dir,
            allocations: Arc::new(allocations),
            compiler: None,
            is_all_done: false,
            demand: Demand::default(),
            ports: Arc::default(),
            source_findings: Vec::new(),
            readiness: None,
            others_troubles: BTreeSet::new(),
            told: BTreeSet::new(),
            seen: SharedMap::new(),
            news: BTreeMap::new(),
            // An earlier agent's services may have had some.
            had_affinity: true,
            to_audit: Part::default(),
            audit_troubles: BTreeMap::new(),
            absorbing: Duration::ZERO,
        }
    }

    /// Takes what the source has to say at first; `probes`: the agent's own ones decide on readiness.
    pub fn begin(&mut self, first: ScanResult, probes: bool) {
        if probes {
            self.probed(Readiness::new());
        }
        self.absorb(first);
    }

    /// How large tables should be that are made for what the sources have told.
    pub fn capacity(&mut self) -> Capacity {
        let start = Instant::now();
        let snapshot = self.store.snapshot();
        if !snapshot.is_synced {
            return Capacity::default();
        }
        let seen = self.seen_through_probes(&snapshot);
        let (compiler, _) = self.compile(&seen.snapshot);
        let capacity = Capacity::of(&compiler.compiled().desired);
        self.compiler = Some(compiler);
        self.absorbing += start.elapsed();
        capacity
    }

    /// Fills these tables from now on; they are empty, or as an earlier agent has left them.
    pub fn fill<M: LbMaps>(self, maps: M) -> Controller<M> {
        Controller {
            ledger: Ledger::new(maps.capacity()),
            maps,
            store: self.store,
            facts: self.facts,
            is_restored: self.is_restored,
            run_dir: self.run_dir,
            allocations: self.allocations,
            compiler: self.compiler,
            is_all_done: self.is_all_done,
            demand: self.demand,
            ports: self.ports,
            source_findings: self.source_findings,
            readiness: self.readiness,
            others_troubles: self.others_troubles,
            told: self.told,
            seen: self.seen,
            news: self.news,
            had_affinity: self.had_affinity,
            to_audit: self.to_audit,
            audit_troubles: self.audit_troubles,
            absorbing: self.absorbing,
        }
    }
}

impl<M> Controller<M> {
    /// Takes what a source has to say.
    pub fn absorb(&mut self, result: ScanResult) {
        let start = Instant::now();
        for change in result.changes {
            match &change {
                Change::Upsert(object) => {
                    self.news.insert(object.reference(), News::Here);
                }
                Change::Delete(reference) => {
                    self.news.insert(reference.clone(), News::Gone);
                }
                Change::Synced(_) => {}
            }
            self.store.apply(change);
        }
        self.source_findings = result.findings;
        self.absorbing += start.elapsed();
    }

    /// Takes notice of the node's own addresses.
    pub fn relocate(&mut self, addresses: BTreeSet<IpAddr>) {
        self.facts.addresses = addresses;
    }

    /// Takes notice of the addresses that may stand in for clients', by device.
    pub fn stand_in(&mut self, addresses: BTreeMap<u32, Vec<IpAddr>>) {
        self.facts.stand_ins = addresses;
    }

    /// Takes notice of another configuration, as far as it can change.
    pub fn configure(&mut self, live: Live) {
        live.services.tell(&mut self.facts);
        self.facts.pod_cidrs = live.pod_cidrs;
    }

    /// Takes notice of what the agent's own probes have found out. From the first time on they decide.
    pub fn probed(&mut self, readiness: Readiness) {
        self.readiness = Some(readiness);
    }

    /// Takes notice of what keeps others of the agent's tasks from their work.
    pub fn hear(&mut self, troubles: BTreeSet<String>) {
        self.others_troubles = troubles;
    }

    /// Whether every source has told everything once.
    pub fn is_synced(&self) -> bool {
        self.store.snapshot().is_synced
    }

    /// What is known, with pods as ready as the agent's own probes say.
    fn seen_through_probes(&self, snapshot: &Arc<Snapshot>) -> Overlay {
        match &self.readiness {
            Some(readiness) => Overlay::new(snapshot, readiness),
            None => Overlay::none(snapshot),
        }
    }

    /// Compiles what is known now, as far as it differs from what was known before. Says what differs.
    fn compile(&mut self, snapshot: &Snapshot) -> (Box<Compiler>, Followed) {
        let start = Instant::now();
        let (compiler, followed) = if let Some(mut compiler) = self.compiler.take() {
            let followed = compiler.follow(snapshot, &self.facts);
            (compiler, followed)
        } else {
            let compiler = Compiler::new(snapshot, &self.facts, &self.allocations);
            (Box::new(compiler), Followed::Everything)
        };
        if !matches!(followed, Followed::Endpoints(_)) {
            self.keep(compiler.compiled());
            self.demand = demand_of(compiler.compiled());
        }
        let compiled_us = start.elapsed().as_micros();
        tracing::debug!(compiled_us, "compiled");
        (compiler, followed)
    }

    /// Addresses are kept before they are used: one that clients know is never given to another service.
    fn keep(&mut self, compiled: &Compiled) {
        if compiled.allocations == self.allocations {
            return;
        }
        if let Err(error) = self.run_dir.keep(&compiled.allocations) {
            tracing::error!(
                error = with_causes(&error),
                "addresses may change with the next start"
            );
        }
        self.allocations = Arc::clone(&compiled.allocations);
    }
}

impl<M: LbMaps> Controller<M> {
    /// Makes the tables say what the sources say, as far as it goes.
    pub fn reconcile(&mut self, now: SystemTime) -> Outcome {
        let start = Instant::now();
        let snapshot = self.store.snapshot();
        let mut view = View {
            generation: snapshot.generation,
            ..View::default()
        };
        let mut outcome = Outcome::default();
        if snapshot.is_synced {
            let seen = self.seen_through_probes(&snapshot);
            let (goes_on, followed) = self.compile(&seen.snapshot);
            let compiled = goes_on.compiled();
            let took = Took {
                absorbing: std::mem::take(&mut self.absorbing),
                start,
            };
            let is_whole = !self.is_all_done || !matches!(followed, Followed::Endpoints(_));
            let applied = self.apply(compiled, &followed, &mut view, took);
            (outcome.is_incomplete, outcome.wanted) = applied;
            outcome.is_whole = is_whole;
            outcome.targets = seen.targets;
            outcome.health = Health {
                is_leaving: self.is_leaving(&snapshot),
                checks: compiled.health_checks.clone(),
            };
            self.age(now);
            view.facts = self.facts.clone();
            view.served = compiled.desired.ports.clone();
            view.addresses = compiled.addresses.clone();
            view.findings.clone_from(&compiled.findings);
            view.findings.extend(seen.findings);
            view.snapshot = seen.snapshot;
            self.compiler = Some(goes_on);
        }
        outcome.demand = self.demand.clone();
        view.troubles.extend(self.others_troubles.iter().cloned());
        view.findings.extend(self.source_findings.iter().cloned());
        view.findings.sort();
        view.seen = self.seen.clone();
        view.ports = Arc::clone(&self.ports);
        self.tell(&view);
        Outcome { view, ..outcome }
    }

    /// Forgets the backends of clients whose time is up, of services that have no affinity any more, and of those
    /// that are gone.
    pub fn sweep(&mut self, now: Tick) {
        let timeouts: BTreeMap<u32, Tick> = self
            .ledger
            .services()
            .values()
            .map(|service| (service.id, seconds(service.affinity_timeout_s)))
            .collect();
        if timeouts.values().all(|timeout| *timeout == 0) && !self.had_affinity {
            return;
        }
        self.had_affinity = timeouts.values().any(|timeout| *timeout != 0);
        let is_live = |service: u32, last_opened| {
            let timeout = timeouts.get(&service).copied().unwrap_or(0);
            timeout != 0 && age(now, last_opened) <= timeout
        };
        if let Err(error) = self.maps.sweep_affinity(&is_live) {
            tracing::warn!(
                error = with_causes(&error),
                "clients are remembered for too long"
            );
        }
    }

    /// Compares a part of the tables with what was written there, the next one each time, and puts back what something else
    /// has changed.
    pub fn audit(&mut self) {
        if !self.is_restored {
            return;
        }
        let part = self.to_audit;
        self.to_audit = part.next();
        match apply::audit(part, &self.ledger, &mut self.maps) {
            Ok(mends) => {
                self.audit_troubles.remove(&part);
                told(&mends);
            }
            Err(error) => {
                let error = with_causes(&error);
                if self.audit_troubles.get(&part) != Some(&error) {
                    tracing::warn!(
                        error,
                        "cannot put back what something had changed in the tables; tried again"
                    );
                }
                self.audit_troubles.insert(part, error);
            }
        }
    }

    /// Whether this node's Node object says that it is about to go. Without one it stays.
    fn is_leaving(&self, snapshot: &Snapshot) -> bool {
        let name = ObjectName::new("", &self.facts.name);
        let node = snapshot.nodes.get(&name);
        node.is_some_and(|node| node.object.is_leaving)
    }

    /// Writes all that there is into larger tables.
    pub fn write_anew(&self, larger: &mut M) -> Result<(), TableError> {
        apply::write_anew(&self.ledger, larger)
    }

    /// Goes on with larger tables that say all that the others say.
    pub fn go_over_to(&mut self, larger: M) {
        self.ledger.grow(larger.capacity());
        self.maps = larger;
        // What had no room has some now.
        self.is_all_done = false;
    }

    /// Returns whether something is left to be done, and how large the tables should be instead if they are too small.
    fn apply(
        &mut self,
        compiled: &Compiled,
        followed: &Followed,
        view: &mut View,
        took: Took,
    ) -> (bool, Option<Capacity>) {
        if let Err(error) = self.restore(&compiled.desired) {
            let error = with_causes(&error);
            view.troubles
                .push(format!("the tables cannot be taken over: {error}"));
            return (true, None);
        }
        let (desired, ledger, maps) = (&compiled.desired, &mut self.ledger, &mut self.maps);
        let retry = Retry::default();
        let start = Instant::now();
        let outcome = match followed {
            Followed::Ports(names) | Followed::Endpoints(names) if self.is_all_done => {
                apply::reconcile_ports(desired, names, ledger, maps, &retry)
            }
            _ => apply::reconcile(desired, ledger, maps, &retry),
        };
        if !self.is_all_done || !matches!(followed, Followed::Endpoints(_)) {
            self.ports = self.ports();
        }
        let carrying_out = start.elapsed();
        self.is_all_done = outcome.is_all_done();
        view.troubles
            .extend(outcome.refused.iter().map(ToString::to_string));
        for failure in outcome.reports.iter().flat_map(|report| &report.failed) {
            // Without the step, whose ids and versions differ from try to try: it is told once.
            let subject = failure.subject.as_deref().unwrap_or("tables");
            view.troubles.push(format!("{subject}: {}", failure.error));
        }
        view.troubles.sort();
        view.troubles.dedup();
        let n_steps: usize = outcome.reports.iter().map(|report| report.n_done).sum();
        if n_steps > 0 {
            let ports = compiled.desired.ports.len();
            let took_us = took.so_far().as_micros();
            let seen = outcome.reports.iter().rev().find_map(|report| report.seen);
            // Readers in flight are waited for when nothing else is left.
            let freeing = seen
                .map_or(Duration::ZERO, |seen| seen.elapsed())
                .as_micros();
            let seen_us = took_us.saturating_sub(freeing);
            tracing::info!(ports, steps = n_steps, took_us, seen_us, "tables changed");
            let writing: Duration = outcome.reports.iter().map(|it| it.took).sum();
            let planned_us = carrying_out.saturating_sub(writing).as_micros();
            let written_us = writing.as_micros();
            tracing::debug!(planned_us, written_us, "carried out");
        }
        let wanted = self.ledger.wanted(desired, &outcome.refused);
        (!outcome.is_complete(), wanted)
    }

    /// Takes over what an earlier agent has left in the tables, once: with the names that are known now, its ids stay
    /// those of the same services and endpoints, and so do connections.
    fn restore(&mut self, desired: &Desired) -> Result<(), RestoreError> {
        if !self.is_restored {
            let capacity = self.maps.capacity();
            self.ledger = apply::restore(&mut self.maps, desired, capacity)?;
            self.is_restored = true;
            let frontends = self.ledger.services().len();
            let backends = self.ledger.backends().len();
            if frontends > 0 || backends > 0 {
                tracing::info!(
                    frontends,
                    backends,
                    "took over the services of an earlier agent"
                );
            }
        }
        Ok(())
    }

    /// Notes the time of what appeared, and forgets that of what went.
    fn age(&mut self, now: SystemTime) {
        for (reference, news) in std::mem::take(&mut self.news) {
            match news {
                News::Here if self.seen.contains_key(&reference) => {}
                News::Here => drop(self.seen.insert(reference, now)),
                News::Gone => drop(self.seen.remove(&reference)),
            }
        }
    }

    fn ports(&self) -> Arc<BTreeMap<u32, PortName>> {
        let named = self.ledger.answering();
        Arc::new(named.map(|(id, name)| (id, name.clone())).collect())
    }

    /// Logs what is new, and forgets what no longer holds so that it is told again when it returns.
    fn tell(&mut self, view: &View) {
        let mut holds = BTreeSet::new();
        for finding in &view.findings {
            let text = finding.to_string();
            if !self.told.contains(&text) {
                match finding.severity {
                    Severity::Error => tracing::error!("{text}"),
                    Severity::Warning => tracing::warn!("{text}"),
                    Severity::Notice => tracing::info!("{text}"),
                }
            }
            holds.insert(text);
        }
        for trouble in &view.troubles {
            if !self.told.contains(trouble) {
                tracing::error!("{trouble}");
            }
            holds.insert(trouble.clone());
        }
        self.told = holds;
    }
}

/// Counts what was put back, and names the first ones.
fn told(mends: &[Mend]) {
    for mend in mends {
        mended::count(mend.thing);
    }
    for mend in mends.iter().take(MAX_NAMED) {
        let (table, entry) = (mend.thing.name(), &mend.name);
        if mend.is_stranger {
            tracing::warn!(
                table,
                entry,
                "something had made an entry of the tables; removed"
            );
        } else {
            tracing::warn!(
                table,
                entry,
                "something had changed an entry of the tables; put back"
            );
        }
    }
    let more = mends.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        tracing::warn!(more, "so it was with more entries");
    }
}

fn demand_of(compiled: &Compiled) -> Demand {
    let pods = compiled.desired.places.iter();
    let pods = pods.filter(|(_, place)| **place == Place::Pods);
    Demand {
        services: Arc::clone(&compiled.dialled),
        pod_cidrs: pods.map(|(net, _)| *net).collect(),
    }
}

#[cfg(test)]
mod tests;
