//! The bench: what a packet, a connection and a change of a service cost here, and what they cost others, in one interleaved run.
//!
//! `cargo xtask bench` builds and runs it. It makes a network of namespaces for everyone who is compared, goes through all of them
//! in every round, and ends with tables, the bar, JSON and plots. It fails if a packet did not arrive, and never for being
//! slow. Everything that it makes goes with it, also when it fails or is interrupted.

mod agent;
mod bar;
mod connections;
mod contender;
mod cpu;
mod document;
mod generator;
mod loading;
mod measure;
mod packets;
mod peers;
mod plot;
mod programs;
mod report;
mod rounds;
mod run;
mod runs;
mod scale;
mod services;
mod setting;
mod sink;
mod site;
mod stats;
mod stream;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use lb_tests::signals::Signals;
use nix::unistd::geteuid;

use crate::scale::Scale;

const USAGE: &str = "\
Usage: cargo xtask bench [--quick] [--json FILE]

Measures in network namespaces of its own, as root, what packets, connections and changes cost.

  --quick           in two minutes, and coarser
  --json FILE       write all figures there
";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is asked for.
struct Arguments {
    scale: Scale,
    json: Option<PathBuf>,
    /// Where plots and the README's table go: the root of the source tree.
    documents: Option<PathBuf>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>> {
    let mut parsed = Arguments {
        scale: Scale::FULL,
        json: None,
        documents: None,
    };
    while let Some(argument) = arguments.next() {
        let mut path = || {
            let path = arguments.next().map(PathBuf::from);
            path.with_context(|| format!("{argument}: a path is missing"))
        };
        match argument.as_str() {
            "--quick" => parsed.scale = Scale::QUICK,
            // What the tests run.
            "--tiny" => parsed.scale = Scale::TINY,
            "--json" => parsed.json = Some(path()?),
            // What `cargo xtask bench` adds.
            "--documents" => parsed.documents = Some(path()?),
            "--help" | "-h" => return Ok(None),
            _ => bail!("unknown argument {argument:?}\n{USAGE}"),
        }
    }
    Ok(Some(parsed))
}

fn run(arguments: impl Iterator<Item = String>) -> Result<ExitCode> {
    let Some(arguments) = parse(arguments)? else {
        print!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    };
    if !geteuid().is_root() {
        bail!("network namespaces need root; run the same command as root");
    }
    let signals = Signals::catch()?;
    let report = run::run(&arguments.scale, &signals)?;
    println!("{}", table::report(&report));
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    if !report.faults.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if let Some(root) = &arguments.documents {
        document::write(root, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}
