//! What continuous integration checks, from quick to slow.
//!
//! Every step runs, also after one has failed, so that one run shows all that is wrong. The tests come last: the last
//! line of the output is their sum.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    binary, deny, kernel, run, setup,
    suite::{self, Selection},
    tidy, verify,
};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 8] = [
    ("setup", setup::with_test_tools),
    ("fmt", fmt),
    ("tidy", tidy::run),
    ("clippy", clippy),
    ("deny", deny::run),
    ("verify", || verify::run(&[])),
    ("demo", binary::check_demo),
    ("kernel", kernel::check),
];

pub(crate) fn run() -> Result<ExitCode> {
    let outcomes = STEPS.map(|(name, step)| {
        eprintln!("ci: {name}");
        let start = Instant::now();
        let result = step();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        Outcome {
            name,
            passed: result.is_ok(),
            duration: start.elapsed(),
        }
    });
    eprintln!("ci: test");
    // A plain run of the tests prints their sum last; what else failed is said before.
    report(&outcomes);
    let tests = suite::run(Selection::All, &[])?;
    Ok(if outcomes.iter().all(|outcome| outcome.passed) {
        tests
    } else {
        ExitCode::FAILURE
    })
}

struct Outcome {
    name: &'static str,
    passed: bool,
    duration: Duration,
}

fn report(outcomes: &[Outcome]) {
    for Outcome {
        name,
        passed,
        duration,
    } in outcomes
    {
        let word = if *passed { "ok" } else { "FAILED" };
        eprintln!("ci: {name:8} {word:6} {:>4} s", duration.as_secs());
    }
}

fn fmt() -> Result<()> {
    run::succeed(&mut run::cargo(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let args = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "lb-common/fake",
    ];
    let mut command = run::cargo(args);
    run::succeed(command.args(["--", "--deny", "warnings"]))
}
