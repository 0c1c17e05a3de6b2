//! All that a run found out: its rows, the bar, and what is to be known about the machine. It is what JSON says; tables and
//! plots are made of it.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    bar::Mark,
    measure::Measure,
    stats::{Ratio, Summary},
};

/// What a run found out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// [`crate::scale::Scale::name`].
    pub(crate) scale: String,
    /// Where and when.
    pub(crate) machine: Machine,
    /// What is compared with what.
    pub(crate) notes: Vec<String>,
    /// The same thing measured twice in every round: what differs by less is noise.
    pub(crate) noise: BTreeMap<Measure, Ratio>,
    /// The figures.
    pub(crate) rows: Vec<Row>,
    /// The goals.
    pub(crate) bar: Vec<Mark>,
    /// What was not as it must be.
    pub(crate) faults: Vec<String>,
}

/// Where and when a run was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The day.
    pub(crate) date: String,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The processor's name.
    pub(crate) processor: String,
    /// How many of them.
    pub(crate) cpus: usize,
    /// Of the peers' tools.
    pub(crate) versions: Vec<String>,
    /// How many processes wanted to run, when the run began and when it ended: more than one was not ours.
    pub(crate) load: Vec<String>,
}

/// One figure with its samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) measure: Measure,
    /// Of what.
    pub(crate) name: String,
    /// With how many services.
    pub(crate) services: u32,
    /// [`Measure::unit`].
    pub(crate) unit: String,
    /// Of the samples.
    pub(crate) summary: Summary,
    /// One of each round.
    pub(crate) samples: Vec<f64>,
    /// Packets that were sent, and how many arrived, over all rounds; none where packets are not counted.
    pub(crate) packets: Option<[u64; 2]>,
}

/// What identifies a row.
pub(crate) type Key = (Measure, String, u32);

/// Samples as they come in.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    taken: BTreeMap<Key, Vec<f64>>,
    packets: BTreeMap<Key, [u64; 2]>,
    /// [`Report::faults`].
    pub(crate) faults: Vec<String>,
}

impl Samples {
    /// Notes a sample.
    pub(crate) fn add(&mut self, measure: Measure, name: &str, services: u32, sample: f64) {
        let key = (measure, name.to_owned(), services);
        self.taken.entry(key).or_default().push(sample);
    }

    /// Notes how many packets a sample took; it is a fault if not all arrived.
    pub(crate) fn count(
        &mut self,
        measure: Measure,
        name: &str,
        services: u32,
        sent: u64,
        arrived: u64,
    ) {
        if sent != arrived {
            let title = measure.title();
            self.faults.push(format!(
                "{title}: {name} with {services} services: {arrived} packets arrived of {sent}"
            ));
        }
        let key = (measure, name.to_owned(), services);
        let sum = self.packets.entry(key).or_default();
        sum[0] += sent;
        sum[1] += arrived;
    }

    /// The rows, in the order of the measures.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |(key, samples): (&Key, &Vec<f64>)| {
            let (measure, name, services) = key.clone();
            Some(Row {
                measure,
                name,
                services,
                unit: measure.unit().to_owned(),
                summary: Summary::of(samples)?,
                samples: samples.clone(),
                packets: self.packets.get(key).copied(),
            })
        };
        self.taken.iter().filter_map(row).collect()
    }
}

impl Report {
    /// The row of this name.
    pub(crate) fn row(&self, measure: Measure, name: &str, services: u32) -> Option<&Row> {
        let is_it =
            |row: &&Row| row.measure == measure && row.name == name && row.services == services;
        self.rows.iter().find(is_it)
    }

    /// As it was written.
    pub(crate) fn json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).context("write a report")
    }
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let model = model
            .unwrap_or_default()
            .trim_start_matches([' ', '\t', ':']);
        let kernel =
            fs::read_to_string("/proc/sys/kernel/osrelease").context("ask for the kernel")?;
        let said = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let tools = [("nft", "--version"), ("iptables-legacy", "--version")];
        let versions = tools.iter().filter_map(|(tool, flag)| said(tool, &[flag]));
        Ok(Self {
            date: said("date", &["--utc", "+%Y-%m-%d"]).unwrap_or_default(),
            kernel: kernel.trim().to_owned(),
            processor: model.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            versions: versions.collect(),
            load: vec![Self::load()?],
        })
    }

    /// How many processes wanted to run, on average of the last minute.
    pub(crate) fn load() -> Result<String> {
        let load = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
        Ok(load.split(' ').next().unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_did_not_arrive_are_a_fault_of_their_row() {
        let mut samples = Samples::default();
        let measure = Measure::FirstPacket;
        for (sent, arrived) in [(10, 10), (10, 9)] {
            samples.add(measure, "tc", 1, 5.0);
            samples.count(measure, "tc", 1, sent, arrived);
        }
        let expected =
            "UDP packet, the first of its flow: tc with 1 services: 9 packets arrived of 10";
        assert_eq!(samples.faults, [expected]);
        let rows = samples.rows();
        assert_eq!(rows[0].packets, Some([20, 19]));
        assert_eq!(rows[0].samples, [5.0, 5.0]);
    }
}
