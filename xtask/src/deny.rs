//! Deny: licences, sources and advisories of the dependencies, checked by cargo-deny against `deny.toml`.
//!
//! The advisories stand in a database on the network. Where it cannot be reached, everything else is still checked, and
//! the output says what was not.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::{run, workspace};

/// The version that compiles with the project's Rust.
const VERSION: &str = "0.20.2";

/// The database that cargo-deny reads by default.
const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

pub(crate) fn run() -> Result<()> {
    let program = installed()?;
    let deny = || {
        let mut command = Command::new(&program);
        // The warnings are for who changes the dependencies: `cargo deny check` shows them.
        command
            .current_dir(workspace::root())
            .args(["--log-level", "error"]);
        command
    };
    run::succeed(deny().args(["check", "bans", "licenses", "sources"]))?;
    if !advisories_are_reachable() {
        eprintln!("deny: advisories NOT checked, {ADVISORIES} cannot be reached");
        return Ok(());
    }
    run::succeed(deny().args(["check", "advisories"]))
}

/// cargo-deny from the user's installation, else from ours, which is built at need (some minutes).
fn installed() -> Result<PathBuf> {
    let version = Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if version.is_ok_and(|status| status.success()) {
        return Ok("cargo-deny".into());
    }
    let tools = workspace::root().join("target/tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        eprintln!(
            "deny: building cargo-deny {VERSION} into {}",
            tools.display()
        );
        let mut install = run::cargo(["install", "cargo-deny", "--version", VERSION]);
        // Without optimization it builds in half the time, and has little to do.
        install
            .args(["--locked", "--quiet", "--debug", "--root"])
            .arg(&tools);
        run::succeed(&mut install)?;
    }
    Ok(program)
}

/// Whether the database answers; git is what cargo-deny fetches it with.
fn advisories_are_reachable() -> bool {
    Command::new("git")
        .args(["-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=20"])
        .args(["ls-remote", "--exit-code", ADVISORIES, "HEAD"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
