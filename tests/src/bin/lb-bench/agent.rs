//! The agent at work in a site: `fulcrum run` as people get it, and what its log says about time.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    balancer::{Balancer, Launch, Manifests},
    place::Place,
    poll, residue,
    topology::Node,
};
use tempfile::TempDir;

use crate::services::{Form, Services};

/// Places of its flow tables: what it takes by itself on a machine of 16 GiB.
const FLOW_TABLE_SIZE: &str = "--flow-table-size=1048576";
/// Its log says how long parts of its work took.
const LOG_LEVEL: &str = "--log-level=info,lb_user::source=debug,lb_user::agent::controller=debug";
/// How long a change may take to be seen.
const CHANGE_LIMIT: Duration = Duration::from_mins(2);
/// What the log says when the tables were changed.
const CHANGED: &str = "tables changed";
/// ... how many ports of services there are now ...
const PORTS: &str = "ports=";
/// ... how long that took ...
const TOOK: &str = "took_us=";
/// ... and until when packets saw it.
const SEEN: &str = "seen_us=";
/// What the log says when manifests were read, and after which word how long that took, each in microseconds.
const PARSED: [&str; 2] = ["manifests read", TOOK];
/// ... when they were compiled ...
const COMPILED: [&str; 2] = [" compiled ", "compiled_us="];
/// ... when it was known what to write ...
const PLANNED: [&str; 2] = ["carried out", "planned_us="];
/// ... and when it was written.
const WRITTEN: [&str; 2] = ["carried out", "written_us="];

/// An agent that serves; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Agent {
    balancer: Balancer,
    manifests: TempDir,
}

impl Agent {
    /// Starts it with these services and waits until it serves them.
    pub(crate) fn start(node: &Node, services: Services, flags: &[&str]) -> Result<Self> {
        Self::serve(
            node,
            services,
            Self::manifests_of(services, Form::Json)?,
            flags,
        )
    }

    /// A directory of manifests of these services.
    pub(crate) fn manifests_of(services: Services, form: Form) -> Result<TempDir> {
        let manifests = tempfile::Builder::new()
            .prefix(&residue::prefix())
            .tempdir();
        let manifests = manifests.context("make a directory for manifests")?;
        services.write(manifests.path(), form)?;
        Ok(manifests)
    }

    /// As [`Self::start`], with manifests that are written already.
    pub(crate) fn serve(
        node: &Node,
        services: Services,
        manifests: TempDir,
        flags: &[&str],
    ) -> Result<Self> {
        let flags = [&[FLOW_TABLE_SIZE, LOG_LEVEL], flags].concat();
        let launch = Launch {
            place: &Place::new()?,
            manifests: Manifests::Path(manifests.path()),
            flags: &flags,
            environment: &[],
            wrapper: &[],
        };
        let agent = Self {
            balancer: Balancer::launch(node, launch)?,
            manifests,
        };
        agent.wait_for_change(1)?;
        agent.ensure_all(services)?;
        Ok(agent)
    }

    /// The directory that it follows.
    pub(crate) fn manifests(&self) -> &Path {
        self.manifests.path()
    }

    /// How long it took from parsed objects to the last write of a map, each time that it changed the tables.
    pub(crate) fn changes(&self) -> Vec<Duration> {
        self.durations([CHANGED, TOOK])
    }

    /// The same until packets saw all of it, which is before what was freed may be used again.
    pub(crate) fn seen(&self) -> Vec<Duration> {
        self.durations([CHANGED, SEEN])
    }

    /// How long the parts of its start took: to parse the manifests, to compile, to plan, to write maps.
    pub(crate) fn parts(&self) -> [Duration; 4] {
        let first = |part| self.durations(part).first().copied().unwrap_or_default();
        // It compiles before it makes tables, to know how large, and looks once more when they are there.
        let compiled = self.durations(COMPILED).into_iter().sum();
        [first(PARSED), compiled, first(PLANNED), first(WRITTEN)]
    }

    /// What the log says after this word in lines about this, as durations.
    fn durations(&self, [about, word]: [&str; 2]) -> Vec<Duration> {
        let numbers = self.numbers(about, word).into_iter();
        numbers.map(Duration::from_micros).collect()
    }

    /// Fails unless it serves all ports of these services, and no endpoint was left out.
    fn ensure_all(&self, services: Services) -> Result<()> {
        let ports = self.numbers(CHANGED, PORTS).last().copied();
        let wanted = services.ports();
        ensure!(
            ports == u64::try_from(wanted).ok(),
            "the agent serves {ports:?} ports of {wanted}; its log:\n{}",
            self.balancer.log()
        );
        let log = self.balancer.log();
        let error = log.lines().find(|line| line.contains(" ERROR "));
        ensure!(
            error.is_none(),
            "the agent has an error: {}",
            error.unwrap_or_default()
        );
        Ok(())
    }

    /// What the log says after this word in lines about this.
    fn numbers(&self, about: &str, word: &str) -> Vec<u64> {
        let log = self.balancer.log();
        let lines = log.lines().filter(|line| line.contains(about));
        lines.filter_map(|line| number(line, word)).collect()
    }

    /// Waits until the tables have been changed so often.
    pub(crate) fn wait_for_change(&self, number: usize) -> Result<Duration> {
        poll::until(CHANGE_LIMIT, "the agent to change its tables", || {
            Ok(self.changes().get(number - 1).copied())
        })
    }

    /// Takes all connections out of its table.
    pub(crate) fn forget_connections(&self) -> Result<()> {
        self.balancer
            .fulcrum(&["flows", "delete", "--all"])
            .map(|_| ())
    }

    /// Resident memory: its own now, and the most that it was, with what of its tables was mapped; bytes.
    pub(crate) fn memory(&self) -> Result<[u64; 2]> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.balancer.pid()))
            .context("ask for the agent's memory")?;
        let kib = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next());
            Ok(number
                .with_context(|| format!("no {name}"))?
                .parse::<u64>()?
                * 1024)
        };
        Ok([kib("RssAnon:")?, kib("VmHWM:")?])
    }

    /// Memory of its tables, bytes.
    pub(crate) fn tables(&self) -> Result<u64> {
        let text = self.balancer.fulcrum(&["maps", "--output", "json"])?;
        let maps: Vec<serde_json::Value> =
            serde_json::from_str(&text).context("read the list of tables")?;
        let sizes = maps.iter().filter_map(|map| map["memory"].as_u64());
        Ok(sizes.sum())
    }
}

fn number(line: &str, word: &str) -> Option<u64> {
    let (_, after) = line.split_once(word)?;
    let digits = after.split(|char: char| !char.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_of_changes_in_numbers() {
        let line =
            "2026-01-01T00:00:00Z  INFO fulcrum: tables changed ports=2 steps=7 took_us=1234 x=5";
        assert_eq!(number(line, TOOK), Some(1234));
        assert_eq!(number(line, PORTS), Some(2));
        assert_eq!(number("tables changed ports=2", TOOK), None);
    }
}
