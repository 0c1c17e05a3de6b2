//! Blackhole routes of the machine for the prefixes that tests send to, while a test runs.
//!
//! Test traffic stays in its namespaces; should a mistake ever send some from the machine itself, it ends here instead
//! of leaving by the default route. Every route is of type blackhole, for exactly one of [`PREFIXES`], carries
//! [`PROTOCOL`], and has the process id as its metric, so that runs side by side own different routes and
//! [`crate::residue`] finds those of dead processes. No other route of the machine is ever touched: a more specific
//! route that the machine has keeps working.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, bail};

use crate::addressing::PREFIXES;

/// Marks our routes; no routing daemon of `rt_protos` uses this number.
const PROTOCOL: u8 = 252;

/// How many holders this process has; the routes are there while it is not zero.
static HOLDERS: Mutex<usize> = Mutex::new(0);

/// Keeps the routes in place while it lives.
#[derive(Debug)]
pub(crate) struct Blackholes(());

impl Blackholes {
    /// Adds the routes unless another holder of this process did.
    pub(crate) fn hold() -> Result<Self> {
        let mut holders = holders();
        if *holders == 0 {
            let metric = std::process::id();
            if let Err(error) = ip(&commands("add", PREFIXES.iter().copied(), metric)) {
                // Some may have been added before one failed.
                remove(PREFIXES.iter().copied(), metric);
                return Err(error.context("add blackhole routes for the tests' prefixes"));
            }
        }
        *holders += 1;
        Ok(Self(()))
    }
}

impl Drop for Blackholes {
    fn drop(&mut self) {
        let mut holders = holders();
        *holders -= 1;
        if *holders == 0 {
            remove(PREFIXES.iter().copied(), std::process::id());
        }
    }
}

/// Removes the routes of processes that `is_alive` denies.
pub(crate) fn reap(is_alive: impl Fn(u32) -> bool) -> Result<()> {
    for family in ["-4", "-6"] {
        for (prefix, metric) in listed(family)? {
            if !is_alive(metric) {
                remove([prefix.as_str()].into_iter(), metric);
            }
        }
    }
    Ok(())
}

/// Our routes of every process, as prefix and metric.
fn listed(family: &str) -> Result<Vec<(String, u32)>> {
    let protocol = PROTOCOL.to_string();
    let output = Command::new("ip")
        .args([
            "-j",
            family,
            "route",
            "show",
            "type",
            "blackhole",
            "proto",
            &protocol,
        ])
        .output()
        .context("run `ip route show`; install iproute2")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let routes: Vec<serde_json::Value> =
        serde_json::from_str(&text).context("read the output of `ip -j route show`")?;
    let route = |route: &serde_json::Value| {
        let prefix = route["dst"].as_str()?.to_owned();
        let metric = u32::try_from(route["metric"].as_u64()?).ok()?;
        Some((prefix, metric))
    };
    Ok(routes.iter().filter_map(route).collect())
}

fn remove<'a>(prefixes: impl Iterator<Item = &'a str>, metric: u32) {
    // Drop may run while a test unwinds; what cannot be removed now is removed by a later run.
    let _ = ip(&commands("del", prefixes, metric));
}

fn commands<'a>(verb: &str, prefixes: impl Iterator<Item = &'a str>, metric: u32) -> String {
    let command =
        |prefix| format!("route {verb} blackhole {prefix} proto {PROTOCOL} metric {metric}\n");
    prefixes.map(command).collect()
}

/// Runs all commands, also after one failed.
fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run `ip`; install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(commands.as_bytes())
            .context("write to `ip`")?;
    }
    let output = child.wait_with_output().context("wait for `ip`")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn holders() -> MutexGuard<'static, usize> {
    HOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}
