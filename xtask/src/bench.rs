//! Bench: what packets, connections and changes cost, beside what they cost others, with the binary as people get it.
//!
//! The measuring itself makes networks and so belongs to the tests crate; this builds everything in release, sees to the
//! peers' tools, and lets it write plots and the README's table into the source tree.

use std::path::Path;

use anyhow::Result;

use crate::{
    binary::{self, BINARY_VARIABLE},
    privilege, run, setup, workspace,
};

pub(crate) fn run(quick: bool, json: Option<&Path>) -> Result<()> {
    privilege::require_root("make the bench's network namespaces")?;
    setup::with_test_tools()?;
    binary::build()?;
    let mut command = run::cargo([
        "run",
        "--quiet",
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        "lb-bench",
        "--",
    ]);
    command.env(BINARY_VARIABLE, binary::path());
    command.arg("--documents").arg(workspace::root());
    if quick {
        command.arg("--quick");
    }
    if let Some(json) = json {
        // The bench runs in the root of the workspace, its caller may be elsewhere.
        command.arg("--json").arg(std::path::absolute(json)?);
    }
    run::succeed(&mut command)
}
