//! `fulcrum run` on a node of a [`crate::topology::Cluster`]: started, watched and stopped.
//!
//! Each has a [`Place`] of its own unless a test gives it one, so that nothing of the machine is touched and runs side by
//! side do not meet. The log is kept and printed when a test fails. The flags of the binary stand
//! in this file and nowhere else.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    place::Place,
    poll,
    topology::{Node, POD_DEVICES},
};

/// Names the binary to test.
const BINARY_VARIABLE: &str = "FULCRUM_BIN";
/// Names one of another layout, to which the binary to test is upgraded.
const NEXT_BINARY_VARIABLE: &str = "FULCRUM_NEXT_BIN";
/// How long the agent may take to load its programs and serve what the manifests say.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long it may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Places of its flow tables, unless a test has a number of its own: by default they follow the machine's memory, and many
/// agents run at once.
const FLOW_TABLE_SIZE: &str = "--flow-table-size=262144";
/// The line on standard output that says that it serves.
const READY: &str = "ready";
/// Of a longer log, the first half is forgotten.
const MAX_LOG: usize = 1 << 20;

/// What an agent serves.
#[derive(Clone, Copy, Debug)]
pub enum Manifests<'a> {
    /// A file or a directory.
    Path(&'a Path),
    /// A text on standard input.
    Stdin(&'a str),
    /// What a configuration file says, which a flag names; the uplinks and the pods' devices stand there too.
    Configured,
}

/// How an agent is started.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Where it keeps what is its own.
    pub place: &'a Place,
    /// What it serves.
    pub manifests: Manifests<'a>,
    /// Further flags of `fulcrum run`.
    pub flags: &'a [&'a str],
    /// Variables of its environment, beside the test's own.
    pub environment: &'a [(&'a str, &'a str)],
    /// A program that becomes the agent, with its arguments before the agent's command line; may be empty.
    pub wrapper: &'a [&'a str],
}

/// A running agent; ends when it is dropped.
#[derive(Debug)]
pub struct Balancer {
    node_name: String,
    place: Place,
    child: Child,
    log: Arc<Log>,
    readers: Vec<JoinHandle<()>>,
}

impl Balancer {
    /// Starts the agent on `node` and waits until it serves what `manifests`, a file or a directory, says.
    ///
    /// `flags` are further flags of `fulcrum run`. The agent ends with the thread that calls this, at the latest.
    pub fn start(node: &Node, manifests: &Path, flags: &[&str]) -> Result<Self> {
        Self::start_at(&Place::new()?, node, Manifests::Path(manifests), flags)
    }

    /// As [`Self::start`], with directories that the test gives.
    pub fn start_at(
        place: &Place,
        node: &Node,
        manifests: Manifests<'_>,
        flags: &[&str],
    ) -> Result<Self> {
        let launch = Launch {
            place,
            manifests,
            flags,
            environment: &[],
            wrapper: &[],
        };
        Self::launch(node, launch)
    }

    /// As [`Self::start`], with all that can be given.
    pub fn launch(node: &Node, launch: Launch<'_>) -> Result<Self> {
        let mut balancer = Self::spawn(node, launch)?;
        let what = format!("`fulcrum run` on {} to be ready", balancer.node_name);
        balancer.wait_until(&what, Log::is_ready)?;
        Ok(balancer)
    }

    /// Starts the agent in a place and waits until it has said `line`, which may be long before it serves.
    pub fn start_until(
        place: &Place,
        node: &Node,
        manifests: Manifests<'_>,
        line: &str,
    ) -> Result<Self> {
        let launch = Launch {
            place,
            manifests,
            flags: &[],
            environment: &[],
            wrapper: &[],
        };
        let mut balancer = Self::spawn(node, launch)?;
        let what = format!("`fulcrum run` on {} to say {line:?}", balancer.node_name);
        balancer.wait_until(&what, |log| log.text().contains(line))?;
        Ok(balancer)
    }

    fn spawn(node: &Node, launch: Launch<'_>) -> Result<Self> {
        let Launch {
            place, manifests, ..
        } = launch;
        let mut command = invocation(node, &launch)?;
        let mut child = command
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        if let (Some(mut stdin), Manifests::Stdin(text)) = (child.stdin.take(), manifests) {
            // A broken pipe means that the agent gave up; its log says why.
            let _ = stdin.write_all(text.as_bytes());
        }
        let log = Arc::new(Log::default());
        let mut readers = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            readers.push(log.follow(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            readers.push(log.follow(stderr));
        }
        Ok(Self {
            node_name: node.name.clone(),
            place: place.clone(),
            child,
            log,
            readers,
        })
    }

    /// What `fulcrum` with these arguments says about this agent.
    pub fn fulcrum(&self, arguments: &[&str]) -> Result<String> {
        let output = self.place.fulcrum(arguments)?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`fulcrum {}` about {} failed ({}): {}",
            arguments.join(" "),
            self.node_name,
            output.status,
            message.trim()
        );
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// Asks until the output satisfies `is_wanted`; `what` completes "waited ... for".
    pub fn fulcrum_until(
        &self,
        arguments: &[&str],
        limit: Duration,
        what: &str,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut last = String::new();
        let result = poll::until(limit, what, || {
            last = self.fulcrum(arguments)?;
            Ok(is_wanted(&last).then_some(()))
        });
        match result {
            Ok(()) => Ok(last),
            Err(error) => {
                let verb = arguments.join(" ");
                bail!("{error:#}; `fulcrum {verb}` said at last:\n{last}")
            }
        }
    }

    /// How often each reason was counted so far, by name.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        #[derive(serde::Deserialize)]
        struct Row {
            reason: String,
            count: u64,
        }
        let text = self.fulcrum(&["counters", "--all", "--output", "json"])?;
        let rows: Vec<Row> = serde_json::from_str(&text)
            .with_context(|| format!("read the counters of {}: {text}", self.node_name))?;
        Ok(rows
            .into_iter()
            .map(|row| (row.reason, row.count))
            .collect())
    }

    /// The node that the agent serves.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The flags that make `fulcrum` speak of this agent.
    pub fn flags(&self) -> [String; 4] {
        self.place.flags()
    }

    /// The agent's directories, which outlive it as long as somebody holds them.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the agent has said so far.
    pub fn log(&self) -> String {
        self.log.text().clone()
    }

    /// Ends the agent as an operator does, and returns how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Ends the agent with no chance to tidy up.
    pub fn kill(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Stops the agent in its tracks, as if it were dead, while the kernel goes on with what it holds; until the value
    /// is dropped.
    pub fn freeze(&mut self) -> Frozen<'_> {
        self.signal(Signal::SIGSTOP);
        Frozen(self)
    }

    /// Tells the agent to read its configuration again; does not wait for it.
    pub fn hang_up(&mut self) {
        self.signal(Signal::SIGHUP);
    }

    fn wait_until(&mut self, what: &str, is_done: impl Fn(&Log) -> bool) -> Result<()> {
        let child = &mut self.child;
        let log = &self.log;
        let result = poll::until(START_LIMIT, what, || {
            if is_done(log) {
                return Ok(Some(()));
            }
            match child
                .try_wait()
                .context("ask for the state of `fulcrum run`")?
            {
                Some(status) => bail!("`fulcrum run` ended with {status}, waited for {what}"),
                None => Ok(None),
            }
        });
        let Err(error) = result else { return Ok(()) };
        // What it said last may still be on its way.
        self.end();
        bail!("{error:#}; its log:\n{}", self.log())
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let what = format!("`fulcrum run` on {} to end", self.node_name);
        let child = &mut self.child;
        poll::until(STOP_LIMIT, &what, || {
            child
                .try_wait()
                .context("ask for the state of `fulcrum run`")
        })
    }

    fn signal(&mut self, signal: Signal) {
        // A child that has been waited for has no process id any more.
        if matches!(self.child.try_wait(), Ok(None))
            && let Ok(id) = i32::try_from(self.child.id())
        {
            // It may have ended meanwhile, which is what was asked for.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }

    /// Ends the agent whatever it takes; never fails, as a test may be unwinding.
    fn end(&mut self) {
        self.signal(Signal::SIGTERM);
        if self.wait().is_err() {
            eprintln!(
                "`fulcrum run` on {} did not end {STOP_LIMIT:?} after SIGTERM; killed; its log:\n{}",
                self.node_name,
                self.log()
            );
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

/// An agent that does nothing; goes on when this is dropped.
#[derive(Debug)]
pub struct Frozen<'a>(&'a mut Balancer);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::SIGCONT);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            eprintln!("the log of {}:\n{}", self.node_name, self.log());
        }
    }
}

/// The command that starts an agent.
fn invocation(node: &Node, launch: &Launch<'_>) -> Result<Command> {
    let Launch {
        place,
        manifests,
        flags,
        environment,
        wrapper,
    } = launch;
    let mut command = match wrapper {
        [] => node.namespace.daemon(place.binary()?),
        [wrapper, arguments @ ..] => {
            let mut command = node.namespace.daemon(wrapper);
            command.args(arguments).arg(place.binary()?);
            command
        }
    };
    command.envs(environment.iter().copied());
    command.args(place.flags()).arg("run").args(run_flags(node));
    match manifests {
        Manifests::Path(path) => {
            command
                .args(device_flags(node))
                .arg("--manifests")
                .arg(path);
        }
        Manifests::Stdin(_) => {
            command.args(device_flags(node)).args(["--manifests", "-"]);
        }
        Manifests::Configured => {}
    }
    let mut flags_given = flags.iter();
    if !flags_given.any(|flag| flag.starts_with("--flow-table-size")) {
        command.arg(FLOW_TABLE_SIZE);
    }
    command
        .args(*flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// The binary to test: named by `FULCRUM_BIN`, else the one in the target directory that this test was built in.
pub fn binary() -> Result<PathBuf> {
    built(BINARY_VARIABLE, "fulcrum", "cargo build")
}

/// A binary of another layout: named by `FULCRUM_NEXT_BIN`, else found likewise.
pub fn next_binary() -> Result<PathBuf> {
    let how = "cargo build --package lb-user --features next-layout";
    built(NEXT_BINARY_VARIABLE, "fulcrum-next", how)
}

fn built(variable: &str, name: &str, how: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable}={}: is no file", path.display());
        return Ok(path);
    }
    let own = std::env::current_exe().context("find the directory of this test")?;
    // Tests are in target/<profile>/deps, other binaries in target/<profile>.
    let found = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.with_context(|| {
        format!(
            "no `{name}` beside {}; build it by `{how}`, or name it by {variable}",
            own.display()
        )
    })
}

/// What `fulcrum run` must know about the node.
fn run_flags(node: &Node) -> Vec<String> {
    let addresses = node.addresses.both();
    let addresses = addresses.map(|address| format!("--node-ip={address}"));
    let name = format!("--node-name={}", node.name);
    std::iter::once(name).chain(addresses).collect()
}

/// What it must know about the node's devices.
fn device_flags(node: &Node) -> Vec<String> {
    let uplinks = node.uplinks.iter();
    let uplinks = uplinks.map(|device| format!("--uplink={device}"));
    let pods = format!("--pod-device={POD_DEVICES}");
    std::iter::once(pods).chain(uplinks).collect()
}

/// What an agent says.
#[derive(Debug, Default)]
struct Log {
    text: Mutex<String>,
}

impl Log {
    /// Notes every line of `stream` until it ends.
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let log = Arc::clone(self);
        thread::spawn(move || {
            let lines = BufReader::new(stream).split(b'\n');
            lines
                .map_while(Result::ok)
                .for_each(|line| log.push(&String::from_utf8_lossy(&line)));
        })
    }

    fn push(&self, line: &str) {
        let mut text = self.text();
        text.push_str(line);
        text.push('\n');
        if text.len() > MAX_LOG {
            let half = text.floor_char_boundary(MAX_LOG / 2);
            let from = text[half..]
                .find('\n')
                .map_or(text.len(), |at| half + at + 1);
            text.drain(..from);
        }
    }

    fn is_ready(&self) -> bool {
        self.text().lines().any(|line| line == READY)
    }

    fn text(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_ready_by_a_line_of_its_own() {
        let log = Log::default();
        log.push("not ready yet");
        assert!(!log.is_ready());
        log.push("ready");
        assert!(log.is_ready());
    }

    #[test]
    fn a_long_log_keeps_its_end() {
        let log = Log::default();
        let line = "é".repeat(500);
        for _ in 0..2000 {
            log.push(&line);
        }
        log.push("end");
        let text = log.text();
        assert!(text.len() <= MAX_LOG);
        assert!(
            text.starts_with(&line) && text.ends_with("end\n"),
            "whole lines"
        );
    }
}
