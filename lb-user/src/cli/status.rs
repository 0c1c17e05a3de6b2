//! `fulcrum status`: how the running agent fares.

use std::process::ExitCode;

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
    devices: Vec<Device>,
    findings: Vec<Finding>,
    troubles: Vec<String>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    role: Role,
    hooks: Option<String>,
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
        let mut text = format!("agent {} serves {} services\n", self.pid, self.n_services);
        if !self.devices.is_empty() {
            let rows: Vec<Vec<&str>> = self.devices.iter().map(Device::cells).collect();
            text.push('\n');
            text.push_str(&output::table(&["DEVICE", "ROLE", "HOOKS"], &rows));
        }
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

impl Device {
    fn cells(&self) -> Vec<&str> {
        vec![
            &self.name,
            self.role.name(),
            self.hooks.as_deref().unwrap_or(&self.error),
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
            "pid": 7, "generation": 1, "n_services": 2,
            "devices": [
                {"name": "eth0", "role": "uplink", "hooks": "tc+xdp"},
                {"name": "tun0", "role": "pod", "hooks": null, "error": "no program"},
            ],
            "findings": [{
                "file": "a.yaml", "line": 3, "document": 1, "severity": "error",
                "object": "Service default/web", "field": "", "message": "has no port",
            }],
            "troubles": ["no room"],
        }))
        .expect("a status");
        let expected = "\
agent 7 serves 2 services

DEVICE   ROLE     HOOKS
eth0     uplink   tc+xdp
tun0     pod      no program

no room
a.yaml:3: error: Service default/web: has no port
";
        assert_eq!(status.render(), expected);
    }
}
