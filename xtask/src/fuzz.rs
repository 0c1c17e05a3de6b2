//! Fuzz: the targets of `tests/fuzz`, built so that coverage guides them, and run for a while.
//!
//! The project's compiler suffices; libFuzzer comes with its crate. Whatever is found stays below `target/fuzz`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{run, workspace};

/// What is fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Target {
    /// Any bytes as a file of manifests.
    Manifest,
    /// What is shown of manifests, read again.
    Roundtrip,
    /// Any packets at the datapath.
    Packet,
}

/// Directories of manifests that fuzzing begins with.
const SEEDS: [&str; 2] = ["examples", "tests/testdata"];

/// What libFuzzer is guided by: counters of the code that ran, and the values that it compared.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Roundtrip => "roundtrip",
            Self::Packet => "packet",
        }
    }

    fn reads_manifests(self) -> bool {
        self != Self::Packet
    }
}

/// Runs one target, or each of them, for so many seconds, with more arguments for libFuzzer.
///
/// Where the arguments name a file, that input alone is run.
pub(crate) fn run(target: Option<Target>, seconds: u32, arguments: &[String]) -> Result<()> {
    let programs = build()?;
    let targets = match &target {
        Some(target) => std::slice::from_ref(target),
        None => Target::value_variants(),
    };
    for target in targets {
        run::succeed(&mut fuzzer(&programs, *target, seconds, arguments)?)?;
    }
    Ok(())
}

/// Where everything of it lies.
fn directory() -> PathBuf {
    workspace::root().join("target/fuzz")
}

/// The directory of the programs, built.
fn build() -> Result<PathBuf> {
    // With a target named, the flags are not those of build scripts.
    let triple = host()?;
    let mut cargo = run::cargo(["build", "--release", "--locked", "--target", &triple]);
    cargo
        .arg("--manifest-path")
        .arg(workspace::root().join("tests/fuzz/Cargo.toml"))
        .env("CARGO_TARGET_DIR", directory())
        .env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    run::succeed(&mut cargo)?;
    Ok(directory().join(triple).join("release"))
}

fn host() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc
        .current_dir(workspace::root())
        .args(["--print", "host-tuple"]);
    let output = rustc.output().context("cannot run `rustc`")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn fuzzer(programs: &Path, target: Target, seconds: u32, arguments: &[String]) -> Result<Command> {
    let name = target.name();
    let (corpus, failed) = (
        directory().join("corpus").join(name),
        directory().join("failed"),
    );
    for directory in [&corpus, &failed] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut fuzzer = Command::new(programs.join(name));
    fuzzer.current_dir(workspace::root()).args(arguments);
    fuzzer.arg(format!("-artifact_prefix={}/{name}-", failed.display()));
    if arguments.iter().all(|argument| argument.starts_with('-')) {
        fuzzer.arg(format!("-max_total_time={seconds}"));
        fuzzer.args(["-max_len=16384", "-timeout=10", "-rss_limit_mb=1024"]);
        if target.reads_manifests() {
            fuzzer.arg("-dict=tests/fuzz/manifest.dict");
        }
        fuzzer.arg(corpus);
        if target.reads_manifests() {
            fuzzer.args(SEEDS);
        }
    }
    Ok(fuzzer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_built() {
        let manifest = fs::read_to_string(workspace::root().join("tests/fuzz/Cargo.toml"));
        let manifest = manifest.expect("readable");
        for target in Target::value_variants() {
            let path = format!("path = \"targets/{}.rs\"", target.name());
            assert!(manifest.contains(&path), "{path}");
        }
        assert_eq!(
            manifest.matches("[[bin]]").count(),
            Target::value_variants().len()
        );
    }

    #[test]
    fn all_that_fuzzing_begins_with_is_there() {
        for path in SEEDS.into_iter().chain(["tests/fuzz/manifest.dict"]) {
            assert!(workspace::root().join(path).exists(), "{path}");
        }
    }
}
