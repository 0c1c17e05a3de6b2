//! What others do for a Service on a node: rules as kube-proxy writes them, put in place by the tools that it uses.
//!
//! The shape of the rules is that of `pkg/proxy/nftables/README.md` and `pkg/proxy/iptables/proxier.go` of Kubernetes 1.33:
//! all chains that a packet passes, in the order in which it passes them. Left out is what no service here has: node ports,
//! load balancers, source ranges, health checks.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_tests::netns::Namespace;

pub(crate) mod iptables;
pub(crate) mod nftables;

/// The mark of what is masqueraded.
const MARK: &str = "0x4000";
/// The prefix of all pods.
const PODS: &str = "10.244.0.0/16";

/// Gives a text to a command in a namespace; how long it took.
fn pipe(namespace: &Namespace, command: &[&str], text: &str) -> Result<Duration> {
    let (program, arguments) = command.split_first().context("a program")?;
    let start = Instant::now();
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A broken pipe means that it gave up; its message says why.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} refuses the rules: {}",
        said.trim()
    );
    Ok(start.elapsed())
}

/// Forgets all connections that the kernel tracks in a namespace.
pub(crate) fn forget_connections(namespace: &Namespace) -> Result<()> {
    let mut command: Command = namespace.command("conntrack");
    let output = command.arg("--flush").output().context("start conntrack")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "conntrack: {}", said.trim());
    Ok(())
}
