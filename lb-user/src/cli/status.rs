//! `fulcrum status`: how the running agent fares.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Place,
    output::{self, Format},
};
use crate::{
    control::{Request, client::ask},
    loader::device::Role,
};

/// Flags of `status`.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// The parts of the agent's status that are printed.
#[derive(Deserialize)]
struct Status {
    pid: u32,
    n_services: usize,
    #[serde(default)]
    n_endpoints: usize,
    memory: Option<Memory>,
    devices: Vec<Device>,
    findings: Vec<Finding>,
    troubles: Vec<String>,
    #[serde(default)]
    flows: Flows,
    #[serde(default)]
    configuration: Configuration,
    /// What was put back, by kind.
    #[serde(default)]
    mended: BTreeMap<String, u64>,
}

/// What the agent takes of its own, bytes.
#[derive(Deserialize)]
struct Memory {
    bytes: u64,
    per_endpoint: Option<u64>,
}

#[derive(Default, Deserialize)]
struct Configuration {
    file: Option<String>,
    error: Option<String>,
    waiting: Vec<Waiting>,
}

/// A key whose value in the file takes effect with the next start.
#[derive(Deserialize)]
struct Waiting {
    key: String,
    value: String,
    next: String,
}

#[derive(Default, Deserialize)]
struct Flows {
    tables: Vec<FlowTable>,
    sizes: Option<Sizes>,
}

/// Counted in slots.
#[derive(Deserialize)]
struct FlowTable {
    family: String,
    positions: u32,
    live: u32,
    half_open: u32,
    established: u32,
    ending: u32,
    expired: u32,
}

#[derive(Deserialize)]
struct Sizes {
    flow_table_size: u32,
    flow_table_max: u32,
    affinity_size: u32,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    role: Role,
    hooks: Option<String>,
    /// Why XDP is not among them though it was asked for.
    #[serde(default)]
    no_xdp: Option<String>,
    /// How packets get to the pod behind it, if it is a pod's.
    #[serde(default)]
    delivery: Option<String>,
    /// Why they do not go past it.
    #[serde(default)]
    no_peer: Option<String>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct Finding {
    file: String,
    line: usize,
    severity: String,
    object: String,
    field: String,
    message: String,
}

pub(super) fn status(args: &StatusArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let found: Value = ask(&place.run_dir(), Request::Status)?;
    let text = match args.output.structured(&found)? {
        Some(text) => text,
        None => serde_json::from_value::<Status>(found)
            .context(
                "the agent's status is not understood; use the binary that it was started from",
            )?
            .render(),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

impl Status {
    fn render(&self) -> String {
        let Self {
            pid,
            n_services,
            n_endpoints,
            ..
        } = self;
        let mut text =
            format!("agent {pid} serves {n_services} services, {n_endpoints} endpoints\n");
        text.push_str(&self.memory.as_ref().map_or_else(String::new, Memory::text));
        if !self.devices.is_empty() {
            let rows: Vec<Vec<String>> = self.devices.iter().map(Device::cells).collect();
            text.push('\n');
            text.push_str(&output::table(
                &["DEVICE", "ROLE", "HOOKS", "DELIVERY"],
                &rows,
            ));
        }
        text.push_str(&self.flows.text());
        text.push_str(&self.configuration.text());
        text.push_str(&self.mended());
        let findings = self.findings.iter().map(Finding::line);
        let complaints: Vec<String> = self.troubles.iter().cloned().chain(findings).collect();
        if !complaints.is_empty() {
            text.push('\n');
            for complaint in complaints {
                text.push_str(&complaint);
                text.push('\n');
            }
        }
        text
    }
}

impl Status {
    /// What something else had removed or changed.
    fn mended(&self) -> String {
        if self.mended.is_empty() {
            return String::new();
        }
        let counts = self.mended.iter();
        let counts: Vec<String> = counts.map(|(name, n)| format!("{name} {n}")).collect();
        let counts = counts.join(", ");
        format!("\nput back what something else had removed or changed: {counts}\n")
    }
}

impl Memory {
    fn text(&self) -> String {
        let whole = output::bytes(self.bytes);
        match self.per_endpoint {
            Some(each) => format!("memory of its own: {whole}, {each} bytes for each endpoint\n"),
            None => format!("memory of its own: {whole}\n"),
        }
    }
}

impl Flows {
    fn text(&self) -> String {
        let mut text = String::new();
        if !self.tables.is_empty() {
            let header = [
                "FLOW-TABLE",
                "PLACES",
                "USED",
                "HALF-OPEN",
                "ESTABLISHED",
                "ENDING",
                "EXPIRED",
            ];
            let rows: Vec<Vec<String>> = self.tables.iter().map(FlowTable::cells).collect();
            text.push('\n');
            text.push_str(&output::table(&header, &rows));
        }
        if let Some(sizes) = &self.sizes {
            let Sizes {
                flow_table_size,
                flow_table_max,
                affinity_size,
            } = sizes;
            let told = format!(
                "\nflow tables have {flow_table_size} places and may grow to {flow_table_max}; clients remembered: \
                 {affinity_size}\n"
            );
            text.push_str(&told);
        }
        text
    }
}

impl Configuration {
    fn text(&self) -> String {
        let Some(file) = &self.file else {
            return String::new();
        };
        let mut text = match &self.error {
            None => format!("\nconfiguration file {file}\n"),
            Some(error) => format!("\nconfiguration file {file} is not in effect: {error}\n"),
        };
        if !self.waiting.is_empty() {
            let rows = self.waiting.iter();
            let rows: Vec<Vec<&str>> = rows
                .map(|Waiting { key, value, next }| vec![key.as_str(), value, next])
                .collect();
            text.push_str(&output::table(&["KEY", "VALUE", "AT-NEXT-START"], &rows));
        }
        text
    }
}

impl FlowTable {
    fn cells(&self) -> Vec<String> {
        let percent = u64::from(self.live) * 100 / u64::from(self.positions.max(1));
        let numbers = [self.half_open, self.established, self.ending, self.expired];
        let mut cells = vec![
            self.family.clone(),
            self.positions.to_string(),
            format!("{} ({percent}%)", self.live),
        ];
        cells.extend(numbers.map(|number| number.to_string()));
        cells
    }
}

impl Device {
    fn cells(&self) -> Vec<String> {
        let hooks = match (&self.hooks, &self.no_xdp) {
            (Some(hooks), Some(reason)) => format!("{hooks} (no native XDP: {reason})"),
            (Some(hooks), None) => hooks.clone(),
            (None, _) => self.error.clone(),
        };
        let delivery = match (&self.delivery, &self.no_peer) {
            (Some(delivery), Some(reason)) => format!("{delivery} ({reason})"),
            (Some(delivery), None) => delivery.clone(),
            (None, _) => "-".to_owned(),
        };
        vec![
            self.name.clone(),
            self.role.name().to_owned(),
            hooks,
            delivery,
        ]
    }
}

impl Finding {
    fn line(&self) -> String {
        let place = if self.line > 0 {
            format!("{}:{}", self.file, self.line)
        } else {
            self.file.clone()
        };
        let parts = [
            &place,
            &self.severity,
            &self.object,
            &self.field,
            &self.message,
        ];
        let parts: Vec<&str> = parts
            .into_iter()
            .map(String::as_str)
            .filter(|part| !part.is_empty())
            .collect();
        parts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_troubles_and_findings_stand_one_per_line() {
        let status: Status = serde_json::from_value(json!({
            "pid": 7, "generation": 1, "n_services": 2, "n_endpoints": 5,
            "memory": {"bytes": 6_000_000, "per_endpoint": 1_200_000},
            "devices": [
                {"name": "eth0", "role": "uplink", "hooks": "tc+xdp"},
                {"name": "eth1", "role": "uplink", "hooks": "tc", "no_xdp": "taken"},
                {"name": "veth1", "role": "pod", "hooks": "tc", "delivery": "peer"},
                {"name": "veth2", "role": "pod", "hooks": "tc", "delivery": "device", "no_peer": "a queue"},
                {"name": "tun0", "role": "pod", "hooks": null, "error": "no program"},
            ],
            "findings": [{
                "file": "a.yaml", "line": 3, "document": 1, "severity": "error",
                "object": "Service default/web", "field": "", "message": "has no port",
            }],
            "troubles": ["no room"],
            "flows": {
                "tables": [{
                    "family": "IPv4", "positions": 200, "live": 8, "half_open": 1, "established": 4, "ending": 3,
                    "expired": 5,
                }],
                "sizes": {"flow_table_size": 200, "flow_table_max": 800, "affinity_size": 9},
            },
            "configuration": {
                "file": "/etc/f.yaml", "error": "f.yaml:1: unknown key `a`",
                "waiting": [{"key": "timeout-udp", "value": "30s", "next": "7s"}],
            },
            "mended": {"route": 2, "program": 1},
        }))
        .expect("a status");
        let expected = "\
agent 7 serves 2 services, 5 endpoints
memory of its own: 5Mi, 1200000 bytes for each endpoint

DEVICE   ROLE     HOOKS                       DELIVERY
eth0     uplink   tc+xdp                      -
eth1     uplink   tc (no native XDP: taken)   -
veth1    pod      tc                          peer
veth2    pod      tc                          device (a queue)
tun0     pod      no program                  -

FLOW-TABLE   PLACES   USED     HALF-OPEN   ESTABLISHED   ENDING   EXPIRED
IPv4         200      8 (4%)   1           4             3        5

flow tables have 200 places and may grow to 800; clients remembered: 9

configuration file /etc/f.yaml is not in effect: f.yaml:1: unknown key `a`
KEY           VALUE   AT-NEXT-START
timeout-udp   30s     7s

put back what something else had removed or changed: program 1, route 2

no room
a.yaml:3: error: Service default/web: has no port
";
        assert_eq!(status.render(), expected);
    }
}
