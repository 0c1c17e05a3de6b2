//! A node without a network: a directory of manifests, and everything from there to the tables.
//!
//! Goes the way of the agent (source, store, compile, plan, apply). The node is called `node-1` and has the addresses
//! 192.0.2.1 and `2001:db8::1`; `ClusterIP`s are allocated from 10.96.0.0/16 and `fd00:10:96::/112`.

use std::{fs, ops::ControlFlow, sync::Arc};

use anyhow::{Context, Result, ensure};
use lb_user::{
    alloc::Allocations,
    apply::{LbMaps, Scenario},
    cli,
    compile::{self, Compiled, NodeFacts, view::View},
    model::object::Kind,
    plan::{Ledger, plan},
    source::dir::Directory,
    store::{Snapshot, Store},
};
use tempfile::TempDir;

use super::script::{Change, Topic, Verb};

/// See the module.
pub(crate) struct Node<M> {
    dir: TempDir,
    source: Directory,
    store: Store,
    facts: NodeFacts,
    allocations: Arc<Allocations>,
    tables: Scenario<M>,
}

/// What is to be seen after a change.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    tables: String,
    findings: String,
    services: String,
    endpoints: String,
    steps: String,
}

impl Observed {
    /// What is to be seen about one topic.
    pub(crate) fn about(&self, topic: Topic) -> &str {
        match topic {
            Topic::Tables => &self.tables,
            Topic::Findings => &self.findings,
            Topic::Services => &self.services,
            Topic::Endpoints => &self.endpoints,
            Topic::Steps => &self.steps,
        }
    }
}

impl<M: LbMaps> Node<M> {
    /// A node whose directory and tables are empty.
    pub(crate) fn new(maps: M, ledger: Ledger) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for manifests")?;
        let source = Directory::new(dir.path());
        Ok(Self {
            store: Store::new([source.name()]),
            source,
            dir,
            facts: NodeFacts {
                name: "node-1".to_owned(),
                service_cidrs: vec!["10.96.0.0/16".parse()?, "fd00:10:96::/112".parse()?],
                pod_cidrs: Vec::new(),
                addresses: ["192.0.2.1".parse()?, "2001:db8::1".parse()?].into(),
                ..NodeFacts::default()
            },
            allocations: Arc::default(),
            tables: Scenario::on(maps, ledger),
        })
    }

    /// Changes the directory, and makes the tables follow.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<Observed> {
        for Change { verb, file, text } in changes {
            let path = self.dir.path().join(file);
            match verb {
                Verb::Apply => fs::write(&path, text),
                Verb::Delete => fs::remove_file(&path),
            }
            .with_context(|| format!("change {file}"))?;
        }
        self.look()
    }

    /// Takes all manifests away; gives back what the tables still say.
    pub(crate) fn clear(&mut self) -> Result<String> {
        for entry in fs::read_dir(self.dir.path())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(self.look()?.tables)
    }

    fn look(&mut self) -> Result<Observed> {
        let scanned = self.source.scan();
        for change in scanned.changes {
            self.store.apply(change);
        }
        let snapshot = self.store.snapshot();
        ensure!(snapshot.is_synced, "the first look was not complete");
        let compiled = compile::compile(&snapshot, &self.facts, &self.allocations);
        let steps = self.reconcile(&compiled)?;
        let services = shown(&snapshot, &compiled, Kind::Service);
        let endpoints = shown(&snapshot, &compiled, Kind::Endpoints);
        let Compiled {
            mut findings,
            allocations,
            ..
        } = compiled;
        self.allocations = allocations;
        findings.extend(scanned.findings);
        findings.sort();
        let findings = findings.iter().map(|finding| format!("{finding}\n"));
        Ok(Observed {
            tables: self.without_own_places(&self.tables.dump()?),
            findings: self.with_short_paths(&findings.collect::<String>()),
            services: without_age(&services),
            endpoints: without_age(&endpoints),
            steps,
        })
    }

    /// The steps that were carried out, one per line.
    fn reconcile(&mut self, compiled: &Compiled) -> Result<String> {
        // The plan that the tables will be given, made on a copy of what they are known to hold.
        let planned = plan(&compiled.desired, &mut self.tables.ledger().clone());
        let outcome = self.tables.reconcile(&compiled.desired);
        let n_done: usize = outcome.reports.iter().map(|report| report.n_done).sum();
        let is_whole = outcome.is_complete() && outcome.refused.is_empty();
        ensure!(
            is_whole && n_done == planned.steps.len(),
            "not everything was carried out: {outcome:?}"
        );
        let steps = planned.steps.iter().map(|step| format!("{step}\n"));
        Ok(steps.collect())
    }

    /// Without the prefixes of services and the node's own, which are there from the start and stay.
    fn without_own_places(&self, dump: &str) -> String {
        let cidrs = self.facts.service_cidrs.iter();
        let cidrs = cidrs.map(|cidr| format!("PLACE {cidr} services"));
        let own = self.facts.addresses.iter();
        let own = own.map(|addr| {
            format!(
                "PLACE {addr}/{} node",
                if addr.is_ipv4() { 32 } else { 128 }
            )
        });
        let constant: Vec<_> = cidrs.chain(own).collect();
        let changing = dump
            .lines()
            .filter(|line| !constant.iter().any(|it| it == line));
        changing.flat_map(|line| [line, "\n"]).collect()
    }

    /// Files by their names in the directory, whose own place differs from run to run.
    fn with_short_paths(&self, text: &str) -> String {
        let dir = self.source.name();
        text.replace(&format!("{dir}/"), "")
            .replace(&dir, "manifests")
    }
}

/// What `get` prints, made of objects as the agent hands them out; nothing where there are none.
fn shown(snapshot: &Snapshot, compiled: &Compiled, kind: Kind) -> String {
    let view = View {
        snapshot,
        addresses: &compiled.addresses,
        since: &|_| None,
    };
    let mut objects = Vec::new();
    view.each(kind, &|_, _| true, &mut |object| {
        objects.push(object);
        ControlFlow::Continue(())
    });
    cli::table(kind, &objects)
}

/// The table without its last column, which tells the time.
fn without_age(table: &str) -> String {
    let width = table.lines().next().and_then(|header| header.rfind("AGE"));
    let cut = |line: &str| {
        let kept = width.and_then(|width| line.get(..width)).unwrap_or(line);
        format!("{}\n", kept.trim_end())
    };
    table.lines().map(cut).collect()
}
