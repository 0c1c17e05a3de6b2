//! Verify: what the kernel's verifier says about the programs, compared with a committed baseline.
//!
//! The comparison itself loads programs and so belongs to the tests crate; this only runs it.

use anyhow::Result;

use crate::{privilege, run, setup};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    privilege::require_root("load the eBPF programs")?;
    setup::toolchain()?;
    let mut command = run::cargo([
        "run",
        "--quiet",
        "--package",
        "lb-tests",
        "--bin",
        "lb-verify",
    ]);
    command.arg("--").args(arguments);
    run::succeed(&mut command)
}
