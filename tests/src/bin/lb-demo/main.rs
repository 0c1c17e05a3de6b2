//! The demo: two nodes made of network namespaces, `fulcrum run` on each, and the requests of a first look at Services.
//!
//! Serves the directory `examples` and shows what its readers expect: the tables of services and endpoints, and answers of
//! every endpoint, for TCP and UDP, IPv4 and IPv6, from a pod, from a node itself and from outside; then node ports, session
//! affinity, and what `externalTrafficPolicy` is for. Whatever is not as it should be ends the demo with a message and exit
//! code 1. It removes everything that it made, also when it fails or is interrupted.
//!
//! With `--keep` a background process holds it all until `--down NAME` asks it to end; there is one way of taking down.

mod affinity;
mod health;
mod node_port;
mod policy;
mod scene;
mod served;
mod show;

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use lb_tests::{poll, signals::Signals, topology::Naming};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, dup2_stderr, dup2_stdout, setsid},
};

use crate::scene::Demo;

/// How long a kept demo may take to end.
const LIMIT: Duration = Duration::from_secs(30);
/// What this program is called in `/proc/<pid>/comm`.
const PROGRAM: &str = "lb-demo";
/// Names of kept demos begin as those of their namespaces.
const NAME_PREFIX: &str = "fc-";

const USAGE: &str = "\
Usage: cargo xtask demo [--keep | --down NAME]

Makes two nodes and a client out of network namespaces, runs fulcrum on both nodes, and sends requests.

  --keep        leave it up, and print the commands to explore it and to take it down
  --down NAME   take down what --keep left up
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => show_and_remove(),
        ["--keep"] => start_keeper(),
        ["--down", name] => take_down(name),
        // What --keep runs in the background.
        ["--hold"] => hold(),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show_and_remove() -> Result<()> {
    let signals = Signals::catch()?;
    let demo = Demo::new(Naming::Anonymous)?;
    demo.show(&signals)?;
    drop(demo);
    println!("\nEverything as expected. All of it is removed again.");
    Ok(())
}

/// Starts the background process of `--keep` and hands on what it says until it is up, or has failed.
fn start_keeper() -> Result<()> {
    let own = std::env::current_exe().context("find the program of the demo")?;
    let mut command = Command::new(own);
    command
        .arg0(PROGRAM)
        .arg("--hold")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut keeper = command
        .spawn()
        .context("start the background process of the demo")?;
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| println!("{line}"));
    }
    // It closes its output when it is up; what has ended by then has failed and said why.
    match keeper
        .try_wait()
        .context("ask for the state of the background process")?
    {
        None => Ok(()),
        Some(status) => bail!("the demo did not come up ({status})"),
    }
}

/// The background process: holds everything until it is told to end.
fn hold() -> Result<()> {
    setsid().context("leave the terminal")?;
    let signals = Signals::catch()?;
    let demo = Demo::new(Naming::Named)?;
    demo.show(&signals)?;
    demo.print_hints()?;
    detach_output()?;
    signals.wait()
}

/// Lets whoever reads our output see its end.
fn detach_output() -> Result<()> {
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    dup2_stdout(&null).context("close standard output")?;
    dup2_stderr(&null).context("close standard error")?;
    Ok(())
}

/// Asks a kept demo to end, and waits until it has.
fn take_down(name: &str) -> Result<()> {
    let id = name
        .strip_prefix(NAME_PREFIX)
        .and_then(|id| id.parse::<i32>().ok());
    let Some(id) = id.filter(|id| is_keeper(*id)) else {
        bail!(
            "no demo {name:?} is up; `cargo xtask demo --keep` prints the name of the one it leaves"
        );
    };
    kill(Pid::from_raw(id), Signal::SIGTERM)
        .with_context(|| format!("tell process {id} to end"))?;
    poll::until(LIMIT, &format!("process {id} to end"), || {
        Ok((!is_keeper(id)).then_some(()))
    })?;
    println!("{name} is down.");
    Ok(())
}

/// Whether this process is the background process of a demo.
fn is_keeper(id: i32) -> bool {
    // A process that has ended, and that nobody has waited for yet, has no command line.
    let command_line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    matches!(words.as_slice(), [program, b"--hold", ..] if *program == PROGRAM.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_kept_demo_is_taken_down() {
        for name in [
            "",
            "fc-",
            "fc-1",
            "1",
            &format!("fc-{}", std::process::id()),
        ] {
            let error = take_down(name).unwrap_err().to_string();
            assert!(
                error.contains("is up; `cargo xtask demo --keep`"),
                "{error}"
            );
        }
    }
}
