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

/// Directories whose manifests fuzzing begins with, alone in a file or among other text.
const SEEDS: [&str; 4] = [
    "examples",
    "tests/testdata",
    "tests/testdata/documents",
    "tests/testdata/faulty",
];

/// How a line begins that stands between manifests in a text.
const BETWEEN: [&str; 5] = ["===", "-- ", "```", "~ ", "> "];

/// What `@service` stands for in a text.
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n";

/// What libFuzzer is guided by: counters of the code that ran, and the values that it compared.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg",
    "fuzzing",
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
    sow(&directory().join("seeds"))?;
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

/// Writes every manifest of the repository into a file of its own.
fn sow(seeds: &Path) -> Result<()> {
    fs::create_dir_all(seeds).with_context(|| format!("make {}", seeds.display()))?;
    let mut texts = Vec::new();
    for directory in SEEDS {
        let directory = workspace::root().join(directory);
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_file() {
                texts.push(fs::read_to_string(&path).with_context(|| path.display().to_string())?);
            }
        }
    }
    let seeds_of = texts.iter().flat_map(|text| manifests(text));
    for (number, manifest) in seeds_of.enumerate() {
        fs::write(seeds.join(format!("{number:04}")), manifest)?;
    }
    Ok(())
}

/// The manifests in a text.
fn manifests(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if BETWEEN.iter().any(|between| line.starts_with(between)) {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(if line.trim() == "@service" {
                SERVICE
            } else {
                line
            });
        }
    }
    parts.retain(|part| part.contains("kind"));
    parts
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
            fuzzer.arg(directory().join("seeds"));
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
    fn manifests_are_found_in_a_text() {
        let text = "About.\n=== a\n@service\nspec:\n~ spec\n=== b\nkind: Pod\n";
        let found = manifests(text);
        assert_eq!(
            found,
            [format!("{SERVICE}spec:\n"), "kind: Pod\n".to_owned()]
        );
    }

    #[test]
    fn all_that_fuzzing_begins_with_is_there() {
        for path in SEEDS.into_iter().chain(["tests/fuzz/manifest.dict"]) {
            assert!(workspace::root().join(path).exists(), "{path}");
        }
    }
}
