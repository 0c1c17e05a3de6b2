//! A case's packets explained by `fulcrum trace --manifests`, as a program that reads its JSON sees them.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    balancer,
    truth::{Case, Masquerade, traced},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::Answers;

/// A case laid out as files, and the flags that describe its node.
pub(crate) struct Asked {
    dir: TempDir,
    flags: Vec<String>,
}

impl Asked {
    /// Writes the manifests of a case.
    pub(crate) fn new(case: &Case, mode: Masquerade) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory for manifests")?;
        let manifests = dir.path().join("case.yaml");
        fs::write(&manifests, case.manifest()?)?;
        let mut flags = vec![
            format!("--manifests={}", manifests.display()),
            format!("--node={}", case.node.name),
            format!("--masquerade={mode}"),
        ];
        let mut each = |flag: &str, values: &mut dyn Iterator<Item = String>| {
            flags.extend(values.map(|value| format!("--{flag}={value}")));
        };
        each("zone", &mut case.node.zone.iter().cloned());
        each("node-ip", &mut texts(&case.node.primary_ips));
        each("local-ip", &mut texts(&case.node.local_ips));
        each("pod-cidr", &mut texts(&case.pod_cidrs()));
        each("service-cidr", &mut texts(&case.flags.service_cidrs));
        each(
            "nodeport-addresses",
            &mut texts(&case.flags.node_port_addresses),
        );
        Ok(Self { dir, flags })
    }

    /// The answer to a batch with this text, line by line.
    pub(crate) fn batch(&self, text: &str, flags: &[&str]) -> Result<Vec<Value>> {
        let path = self.dir.path().join("batch.jsonl");
        fs::write(&path, text)?;
        let path = path.to_str().context("a path of UTF-8")?;
        let mut arguments = vec!["--batch", path, "--output", "json"];
        arguments.extend(flags);
        let output = self.fulcrum(&arguments)?;
        let lines = output.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("read {line:?}")))
            .collect()
    }

    /// What `fulcrum trace` with these further arguments prints, if it succeeds.
    pub(crate) fn fulcrum(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(arguments)?;
        let output = command
            .output()
            .with_context(|| format!("run {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{command:?} ended with {}: {}",
            output.status,
            said.trim()
        );
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// `fulcrum trace` with the case's flags and these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(balancer::binary()?);
        // A run directory that does not exist: no agent is asked.
        command.arg("--run-dir").arg(self.path("no-agent"));
        command.arg("trace").args(&self.flags).args(arguments);
        Ok(command)
    }

    /// A path beside the manifests.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }
}

fn texts<T: ToString>(values: &[T]) -> impl Iterator<Item = String> {
    values.iter().map(T::to_string)
}

/// What `trace` says of each flow of a case.
pub(crate) fn answers(case: &Case, mode: Masquerade) -> Result<Answers> {
    let batch: String = case.flows.iter().map(traced::question).collect();
    let lines = Asked::new(case, mode)?.batch(&batch, &[])?;
    ensure!(
        lines.len() == case.flows.len(),
        "{} answers to {} questions",
        lines.len(),
        case.flows.len()
    );
    let flows = case.flows.iter().zip(&lines);
    Ok(flows
        .map(|(flow, line)| traced::read(case, flow, line).with_context(|| line.to_string()))
        .collect())
}
