//! The release binary `fulcrum`, and the demo that shows it.

use std::{
    convert::Infallible, os::unix::process::CommandExt as _, path::PathBuf, process::Command,
};

use anyhow::{Context as _, Error, Result};

use crate::{privilege, run, setup, workspace};

/// The variable that tells demo and tests which binary to run.
pub(crate) const BINARY_VARIABLE: &str = "FULCRUM_BIN";
/// The variable that tells tests which binary of another layout there is.
pub(crate) const NEXT_BINARY_VARIABLE: &str = "FULCRUM_NEXT_BIN";

/// Builds the binary as a plain `cargo build --release` does.
pub(crate) fn build() -> Result<()> {
    setup::toolchain()?;
    run::succeed(&mut run::cargo(["build", "--release"]))
}

/// Builds the binary that is handed out, and says where it is.
pub(crate) fn build_shipped() -> Result<PathBuf> {
    setup::toolchain()?;
    run::succeed(&mut run::cargo(["build", "--profile", "shipped"]))?;
    Ok(target_dir().join("shipped/fulcrum"))
}

/// Builds the binary of a release to come that tests upgrade to, as the tests' own profile does.
pub(crate) fn build_next() -> Result<()> {
    let next = [
        "build",
        "--package",
        "lb-user",
        "--features",
        "next-layout",
        "--bin",
        "fulcrum-next",
    ];
    run::succeed(&mut run::cargo(next))
}

/// Where [`build_next`] leaves it.
pub(crate) fn next_path() -> PathBuf {
    target_dir().join("debug/fulcrum-next")
}

/// Where [`build`] leaves the binary.
pub(crate) fn path() -> PathBuf {
    release_dir().join("fulcrum")
}

/// Becomes the demo; returns only if that fails.
pub(crate) fn demo(arguments: &[String]) -> Error {
    match become_demo(arguments) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn become_demo(arguments: &[String]) -> Result<Infallible> {
    privilege::require_root("make the demo's network namespaces")?;
    setup::with_test_tools()?;
    build()?;
    let demo = [
        "build",
        "--release",
        "--package",
        "lb-tests",
        "--bin",
        "lb-demo",
    ];
    run::succeed(&mut run::cargo(demo))?;
    let program = release_dir().join("lb-demo");
    let failure = Command::new(&program)
        .args(arguments)
        .env(BINARY_VARIABLE, path())
        .exec();
    Err(failure).with_context(|| format!("cannot run {}", program.display()))
}

/// Runs the demo to its end, as the tests' own profile builds it; the binary that it shows is the released one.
pub(crate) fn check_demo() -> Result<()> {
    privilege::require_root("make the demo's network namespaces")?;
    build()?;
    let demo = [
        "run",
        "--quiet",
        "--package",
        "lb-tests",
        "--bin",
        "lb-demo",
    ];
    run::succeed(run::cargo(demo).env(BINARY_VARIABLE, path()))
}

/// Where what is handed out goes.
pub(crate) fn dist_dir() -> PathBuf {
    target_dir().join("dist")
}

fn release_dir() -> PathBuf {
    target_dir().join("release")
}

/// Where all that is built goes.
pub(crate) fn target_dir() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace::root().join(target)
}
