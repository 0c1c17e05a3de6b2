//! `lb-verify [--update] [--bench]`: loads all programs, prints what they take, and compares it with the baseline.
//!
//! `cargo xtask verify` runs it. It exits with 1 if anything differs more than it may. `--bench` measures the time that
//! a packet takes instead, which it prints and never judges.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};
use lb_tests::{bench, verify::Report};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/verify-baseline.json");

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => compare(Path::new(BASELINE)),
        ["--update"] => update(Path::new(BASELINE)),
        ["--bench"] => bench::run(),
        _ => bail!("unknown arguments {arguments:?}; expected nothing, --update or --bench"),
    }
}

fn update(path: &Path) -> Result<()> {
    let report = Report::measure()?;
    println!("{}", report.table());
    report.write(path)
}

fn compare(path: &Path) -> Result<()> {
    let report = Report::measure()?;
    println!("{}", report.table());
    let Some(baseline) = Report::read(path)? else {
        bail!("there is no baseline; write it by `cargo xtask verify --update`");
    };
    let differences = report.differences(&baseline);
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "the programs are not those of the baseline, written on Linux {}; this is {}. If they shall be so, write it \
         anew by `cargo xtask verify --update`:\n  {}",
        baseline.kernel,
        report.kernel,
        differences.join("\n  ")
    );
}
