//! Test suites and the levels they belong to, and how they are run.
//!
//! A level is a place where a test can fail: the host, one program in the kernel, a scenario, a network. The output of
//! libtest goes through unchanged; the last line is the sum over all suites. In CI, and where root asks for all levels,
//! tests that need root fail instead of skipping.

use std::{
    env, fs,
    io::{self, BufReader, Write},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    binary::{self, BINARY_VARIABLE, NEXT_BINARY_VARIABLE},
    privilege, run, setup,
    tally::Tally,
    workspace,
};

/// The suites of the tests crate that are not of the level [`Level::Netns`].
const LEVELS: [(&str, Level); 6] = [
    ("differential", Level::Prog),
    ("programs", Level::Prog),
    ("race", Level::Prog),
    ("replay", Level::Scenario),
    ("scenarios", Level::Scenario),
    ("truth", Level::Scenario),
];

/// Ends a suite that takes many times as long as any does, and says so: libtest names the test that was running. All others
/// are still run then.
const BOUNDED: &str =
    r#"target."cfg(unix)".runner=["timeout","--foreground","--verbose","--kill-after=30","15m"]"#;

/// Makes a test that needs root fail where it would skip.
pub(crate) const REQUIRE_ROOT_VARIABLE: &str = "FULCRUM_REQUIRE_ROOT";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Pure code on the host.
    Unit,
    /// The real programs by `BPF_PROG_TEST_RUN`.
    Prog,
    /// Manifests in, map contents out.
    Scenario,
    /// Nodes made of network namespaces.
    Netns,
}

/// The levels that one run covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Selection {
    /// Pure code on the host
    Unit,
    /// The real programs, packet by packet
    Prog,
    /// Manifests in, map contents out
    Scenario,
    /// Nodes made of network namespaces
    Netns,
    /// Every level
    #[default]
    All,
}

impl Selection {
    /// From cheap to dear.
    fn levels(self) -> &'static [Level] {
        match self {
            Self::Unit => &[Level::Unit],
            Self::Prog => &[Level::Prog],
            Self::Scenario => &[Level::Scenario],
            Self::Netns => &[Level::Netns],
            Self::All => &[Level::Unit, Level::Prog, Level::Scenario, Level::Netns],
        }
    }
}

/// Runs the tests; the exit code says whether all of them passed.
pub(crate) fn run(selection: Selection, filter: &[String]) -> Result<ExitCode> {
    let commands = commands(selection)?;
    setup::toolchain()?;
    if selection != Selection::Unit {
        setup::with_test_tools()?;
        binary::build()?;
        binary::build_next()?;
    }
    let mut total = Tally::default();
    let mut failed = Vec::new();
    for mut command in commands {
        command.args(["--no-fail-fast", "--config", BOUNDED]);
        command.arg("--").args(filter);
        command.env(BINARY_VARIABLE, binary::path());
        command.env(NEXT_BINARY_VARIABLE, binary::next_path());
        if requires_root(selection) {
            command.env(REQUIRE_ROOT_VARIABLE, "1");
        }
        let (tally, succeeded) = stream(&mut command, io::stdout().lock())?;
        total += tally;
        if !succeeded {
            failed.push(run::shown(&command));
        }
    }
    for command in &failed {
        eprintln!("error: `{command}` failed");
    }
    println!("{total}");
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn requires_root(selection: Selection) -> bool {
    let in_ci = env::var_os("CI").is_some_and(|value| value == "true");
    in_ci || (selection == Selection::All && privilege::is_root())
}

/// The runs of cargo that cover these levels.
pub(crate) fn commands(selection: Selection) -> Result<Vec<Command>> {
    let suites = if selection == Selection::Unit {
        Vec::new()
    } else {
        suites(&workspace::root().join("tests/tests"), &LEVELS)?
    };
    let mut commands = Vec::new();
    for level in selection.levels() {
        if *level == Level::Unit {
            commands.extend(unit());
            continue;
        }
        let names = suites.iter().filter(|suite| suite.level == *level);
        let targets: Vec<_> = names.flat_map(|suite| ["--test", &suite.name]).collect();
        if !targets.is_empty() {
            let mut command = run::cargo(["test", "--package", "lb-tests"]);
            command.args(targets);
            commands.push(command);
        }
    }
    if commands.is_empty() {
        bail!("no suite in tests/tests belongs to the level {selection:?}");
    }
    Ok(commands)
}

fn unit() -> [Command; 3] {
    const CRATES: [&str; 4] = ["lb-common", "lb-ebpf", "lb-user", "xtask"];
    // With the same features as in the runs of the tests crate, so that nothing is compiled twice.
    let mut crates = run::cargo(["test", "--features", "lb-common/fake"]);
    crates.args(CRATES.iter().flat_map(|name| ["--package", name]));
    let mut upgrade = run::cargo(["test", "--package", "lb-common", "--lib"]);
    upgrade.args(["--features", "next-layout", "--test", "flow_table"]);
    let harness = run::cargo(["test", "--package", "lb-tests", "--lib", "--bins"]);
    [crates, upgrade, harness]
}

#[derive(Debug, PartialEq, Eq)]
struct Suite {
    name: String,
    level: Level,
}

/// The suites in a directory of integration tests, in the order of their names.
fn suites(dir: &Path, levels: &[(&str, Level)]) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    for entry in
        fs::read_dir(dir).with_context(|| format!("list the suites in {}", dir.display()))?
    {
        let path = entry?.path();
        let is_file = path.extension().is_some_and(|extension| extension == "rs");
        if !is_file && !path.join("main.rs").is_file() {
            continue;
        }
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let entry = levels.iter().find(|(suite, _)| *suite == name);
        let level = entry.map_or(Level::Netns, |(_, level)| *level);
        suites.push(Suite { name, level });
    }
    suites.sort_by(|a, b| a.name.cmp(&b.name));
    for (name, level) in levels {
        if !suites.iter().any(|suite| suite.name == *name) {
            bail!(
                "the suite {name} of the level {level:?} is not in {}; correct the table in xtask/src/suite.rs",
                dir.display()
            );
        }
    }
    Ok(suites)
}

/// Runs a test command, copies its output, and says whether it succeeded.
fn stream(command: &mut Command, copy: impl Write) -> Result<(Tally, bool)> {
    let shown = run::shown(command);
    let context = || format!("run `{shown}`");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(context)?;
    let output = child.stdout.take().context("the output of the tests")?;
    let tally = Tally::stream(BufReader::new(output), copy);
    let status = child.wait().with_context(context)?;
    Ok((tally.with_context(context)?, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suite(name: &str, level: Level) -> Suite {
        Suite {
            name: name.to_owned(),
            level,
        }
    }

    fn directory(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn a_suite_that_the_table_does_not_name_needs_a_network() {
        let dir = directory(&[
            "programs.rs",
            "clusterip.rs",
            "cli/main.rs",
            "testdata/a.yaml",
        ]);
        let found = suites(dir.path(), &[("programs", Level::Prog)]).unwrap();
        assert_eq!(
            found,
            [
                suite("cli", Level::Netns),
                suite("clusterip", Level::Netns),
                suite("programs", Level::Prog),
            ]
        );
    }

    #[test]
    fn a_suite_of_the_table_without_a_file_is_an_error() {
        let dir = directory(&["clusterip.rs"]);
        let error = suites(dir.path(), &[("programs", Level::Prog)]).unwrap_err();
        assert!(error.to_string().contains("the suite programs"), "{error}");
    }

    #[test]
    fn a_run_counts_its_tests_and_tells_failure_from_success() {
        let line = "test result: FAILED. 2 passed; 1 failed; 0 ignored";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("echo '{line}'; exit 101")]);
        let (tally, succeeded) = stream(&mut command, io::sink()).unwrap();
        assert_eq!(
            tally,
            Tally {
                n_passed: 2,
                n_failed: 1
            }
        );
        assert!(!succeeded);
    }
}
