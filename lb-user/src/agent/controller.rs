//! From what the sources say to what the tables contain: store, compile, plan, apply.
//!
//! Owns the tables and the picture of them. Nothing is written before every source has told
//! everything once, so that what is merely late is never taken as deleted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use lb_common::flow::clock::{Tick, age, seconds};

use super::{node::Demand, run_dir::RunDir, view::View};
use crate::{
    alloc::Allocations,
    apply::{self, LbMaps, Retry},
    causes::with_causes,
    compile::{self, Compiled, NodeFacts},
    desired::{Desired, FrontendKind, Place},
    model::{
        finding::{Finding, Severity},
        object::ObjectRef,
    },
    plan::{Capacity, Ledger},
    source::{Change, ScanResult},
    store::Store,
};

/// The tables and what they should contain.
#[derive(Debug)]
pub struct Controller<M> {
    store: Store,
    facts: NodeFacts,
    maps: M,
    ledger: Ledger,
    run_dir: Arc<RunDir>,
    allocations: Allocations,
    /// What the sources find wrong.
    source_findings: Vec<Finding>,
    /// What was logged and still holds: told once, not with every change.
    told: BTreeSet<String>,
    /// When each object was first seen.
    seen: Arc<BTreeMap<ObjectRef, SystemTime>>,
    /// What appeared since the last reconciliation, or went.
    news: BTreeMap<ObjectRef, News>,
    /// A service had affinity when clients were last swept.
    had_affinity: bool,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    Here,
    Gone,
}

/// What came of a reconciliation.
#[derive(Debug)]
pub struct Outcome {
    /// For those who ask.
    pub view: View,
    /// What the services need of the node's devices and routes.
    pub demand: Demand,
    /// Whether something is left to be tried again.
    pub is_incomplete: bool,
}

impl<M: LbMaps> Controller<M> {
    /// Waits for the source of this name; `maps` are empty.
    pub fn new(
        source: String,
        facts: NodeFacts,
        maps: M,
        run_dir: Arc<RunDir>,
        allocations: Allocations,
    ) -> Self {
        Self {
            store: Store::new([source]),
            facts,
            maps,
            ledger: Ledger::new(Capacity::default()),
            run_dir,
            allocations,
            source_findings: Vec::new(),
            told: BTreeSet::new(),
            seen: Arc::default(),
            news: BTreeMap::new(),
            had_affinity: false,
        }
    }

    /// Takes what a source has to say.
    pub fn absorb(&mut self, result: ScanResult) {
        for change in result.changes {
            match &change {
                Change::Upsert(located) => {
                    self.news.insert(located.object.reference(), News::Here);
                }
                Change::Delete(reference) => {
                    self.news.insert(reference.clone(), News::Gone);
                }
                Change::Synced(_) => {}
            }
            self.store.apply(change);
        }
        self.source_findings = result.findings;
    }

    /// Takes notice of the node's own addresses.
    pub fn relocate(&mut self, addresses: BTreeSet<IpAddr>) {
        self.facts.addresses = addresses;
    }

    /// Whether every source has told everything once.
    pub fn is_synced(&self) -> bool {
        self.store.snapshot().is_synced
    }

    /// Makes the tables say what the sources say, as far as it goes.
    pub fn reconcile(&mut self, now: SystemTime) -> Outcome {
        let snapshot = self.store.snapshot();
        let mut view = View {
            generation: snapshot.generation,
            ..View::default()
        };
        let mut is_incomplete = false;
        let mut demand = Demand::default();
        if snapshot.is_synced {
            let compiled = compile::compile(&snapshot, &self.facts, &self.allocations);
            self.keep(&compiled);
            is_incomplete = self.apply(&compiled, &mut view);
            demand = demand_of(&compiled.desired);
            self.age(now);
            view.addresses = compiled.addresses;
            view.findings = compiled.findings;
            view.snapshot = snapshot;
        }
        view.findings.extend(self.source_findings.iter().cloned());
        view.findings.sort();
        view.seen = Arc::clone(&self.seen);
        view.names = self.names();
        self.tell(&view);
        Outcome {
            view,
            demand,
            is_incomplete,
        }
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
        self.allocations = compiled.allocations.clone();
    }

    /// Returns whether something is left to be done.
    fn apply(&mut self, compiled: &Compiled, view: &mut View) -> bool {
        let outcome = apply::reconcile(
            &compiled.desired,
            &mut self.ledger,
            &mut self.maps,
            &Retry::default(),
        );
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
            tracing::info!(ports, steps = n_steps, "tables changed");
        }
        !outcome.is_complete()
    }

    /// Notes the time of what appeared, and forgets that of what went.
    fn age(&mut self, now: SystemTime) {
        if self.news.is_empty() {
            return;
        }
        let seen = Arc::make_mut(&mut self.seen);
        for (reference, news) in std::mem::take(&mut self.news) {
            match news {
                News::Here => {
                    seen.entry(reference).or_insert(now);
                }
                News::Gone => {
                    seen.remove(&reference);
                }
            }
        }
    }

    fn names(&self) -> BTreeMap<u32, String> {
        let ids: BTreeSet<u32> = self
            .ledger
            .services()
            .values()
            .map(|service| service.id)
            .collect();
        ids.into_iter()
            .filter_map(|id| Some((id, self.ledger.name(id)?.to_string())))
            .collect()
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

fn demand_of(desired: &Desired) -> Demand {
    let frontends = desired.ports.values().flat_map(|port| &port.frontends);
    // Node ports are on the node's own addresses, to which no route leads.
    let frontends = frontends.filter(|frontend| frontend.kind != FrontendKind::NodePort);
    let pods = desired.places.iter();
    let pods = pods.filter(|(_, place)| **place == Place::Pods);
    Demand {
        services: frontends.map(|frontend| frontend.addr).collect(),
        pod_cidrs: pods.map(|(net, _)| *net).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        apply::{FakeMaps, Faults, FaultyMaps, dump},
        model::object::{Kind, ObjectName},
        source::stdin,
    };

    const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.2]}]
";

    fn controller<M: LbMaps>(maps: M) -> (Controller<M>, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let run_dir = Arc::new(RunDir::open(dir.path()).expect("free"));
        let facts = NodeFacts {
            name: "n1".to_owned(),
            service_cidrs: vec!["10.96.0.0/12".parse().expect("literal")],
            pod_cidrs: vec!["10.244.0.0/16".parse().expect("literal")],
            addresses: BTreeSet::new(),
            ..NodeFacts::default()
        };
        let source = stdin::NAME.to_owned();
        (
            Controller::new(source, facts, maps, run_dir, Allocations::default()),
            dir,
        )
    }

    fn look(text: &str) -> ScanResult {
        stdin::read_from(text.as_bytes()).expect("readable")
    }

    fn tables<M: LbMaps>(controller: &Controller<M>) -> String {
        dump(&controller.maps, &|_| None).expect("readable tables")
    }

    #[test]
    fn nothing_is_written_before_the_first_listing_is_complete() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        let mut partial = look(WEB);
        partial
            .changes
            .retain(|change| !matches!(change, Change::Synced(_)));
        controller.absorb(partial);
        assert!(!controller.reconcile(SystemTime::now()).is_incomplete);
        assert!(!controller.is_synced());
        assert_eq!(controller.maps.n_writes(), 0);

        controller.absorb(look(WEB));
        controller.reconcile(SystemTime::now());
        assert!(controller.is_synced());
        let tables = tables(&controller);
        assert!(tables.contains("10.96.0.10:80/TCP"), "{tables}");
        assert!(tables.contains("10.244.1.2:8080"), "{tables}");
    }

    #[test]
    fn service_addresses_and_pods_prefixes_are_asked_of_the_node() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        assert_eq!(
            controller.reconcile(SystemTime::now()).demand,
            Demand::default()
        );
        controller.absorb(look(WEB));
        let demand = controller.reconcile(SystemTime::now()).demand;
        let expected = Demand {
            services: ["10.96.0.10".parse().expect("literal")].into(),
            pod_cidrs: ["10.244.0.0/16".parse().expect("literal")].into(),
        };
        assert_eq!(demand, expected);
    }

    #[test]
    fn node_ports_are_on_every_address_of_the_node_and_ask_for_no_route() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        let node_port = WEB.replace(
            "ports: [{port: 80}]",
            "type: NodePort, ports: [{port: 80, nodePort: 30080}]",
        );
        controller.absorb(look(&node_port));
        for own in ["192.0.2.1", "192.0.2.2"] {
            let own = ["127.0.0.1", own].map(|addr| addr.parse().expect("literal"));
            controller.relocate(own.into());
            let demand = controller.reconcile(SystemTime::now()).demand;
            assert_eq!(
                demand.services,
                ["10.96.0.10".parse().expect("literal")].into()
            );
            let tables = tables(&controller);
            let answering = tables
                .lines()
                .filter(|line| line.contains(":30080/TCP"))
                .count();
            assert_eq!(answering, 2, "{tables}");
            assert!(
                own.iter()
                    .all(|addr| tables.contains(&format!("{addr}:30080"))),
                "{tables}"
            );
            assert!(!tables.contains("PLACE 127.0.0.1"), "{tables}");
        }
    }

    #[test]
    fn the_nodes_addresses_are_followed() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        controller.absorb(look(WEB));
        controller.reconcile(SystemTime::now());
        assert!(!tables(&controller).contains(" node"));
        controller.relocate(["192.0.2.1".parse().expect("literal")].into());
        controller.reconcile(SystemTime::now());
        let tables = tables(&controller);
        assert!(tables.contains("PLACE 192.0.2.1/32 node\n"), "{tables}");
    }

    #[test]
    fn the_view_names_what_the_tables_number() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        controller.absorb(look(WEB));
        let view = controller.reconcile(SystemTime::now()).view;
        let id = controller
            .maps
            .services()
            .expect("readable")
            .values()
            .next()
            .map(|row| row.id);
        let name = view.names.get(&id.expect("one service")).expect("its name");
        assert_eq!(name, "default/web TCP IPv4");
        let shown = |kind| view.objects(kind).remove(0);
        assert_eq!(shown(Kind::Service)["spec"]["clusterIP"], "10.96.0.10");
        assert_eq!(
            shown(Kind::EndpointSlice)["endpoints"][0]["addresses"][0],
            "10.244.1.2"
        );
    }

    #[test]
    fn addresses_that_were_given_are_on_disk() {
        let (mut controller, dir) = controller(FakeMaps::default());
        let allocated = WEB.replace("clusterIP: 10.96.0.10, ", "");
        controller.absorb(look(&allocated));
        let view = controller.reconcile(SystemTime::now()).view;
        let kept = std::fs::read_to_string(dir.path().join("allocations.json")).expect("kept");
        let service = view.objects(Kind::Service).remove(0);
        let given = service["spec"]["clusterIP"].as_str().expect("an address");
        assert!(kept.contains(given), "{kept}");
    }

    #[test]
    fn what_the_kernel_refuses_is_tried_again_and_told_once() {
        let refuse = FaultyMaps::new(FakeMaps::default(), Faults::Always, libc::EPERM);
        let (mut controller, _dir) = controller(refuse);
        controller.absorb(look(WEB));
        let first = controller.reconcile(SystemTime::now());
        assert!(first.is_incomplete);
        let second = controller.reconcile(SystemTime::now());
        assert!(second.is_incomplete);
        assert!(!first.view.troubles.is_empty());
        assert_eq!(
            first.view.troubles, second.view.troubles,
            "the same text, so logged once"
        );
    }

    #[test]
    fn age_counts_from_the_first_sight_of_an_object() {
        let (mut controller, _dir) = controller(FakeMaps::default());
        let start = SystemTime::UNIX_EPOCH;
        let key = ObjectRef {
            kind: Kind::Service,
            name: ObjectName::new("default", "web"),
        };
        controller.absorb(look(WEB));
        controller.reconcile(start);
        let view = controller.reconcile(start + Duration::from_secs(5)).view;
        assert_eq!(view.seen.get(&key), Some(&start));
    }
}
