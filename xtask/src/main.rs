//! `cargo xtask`: everything the work on fulcrum needs beside cargo itself.
//!
//! Each verb is one module. What continuous integration runs is `cargo xtask ci` and nothing else.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod binary;
#[cfg_attr(
    not(test),
    allow(
        dead_code,
        reason = "the build script of lb-user uses it and includes it by path"
    )
)]
mod bpf_object;
#[allow(
    dead_code,
    reason = "the build script of lb-user includes it too and uses the rest"
)]
mod bpf_toolchain;
mod ci;
mod deny;
mod dist;
mod fuzz;
mod kernel;
mod privilege;
mod run;
mod setup;
mod suite;
mod tally;
mod tidy;
mod verify;
mod workspace;

/// Build, show, test and check fulcrum.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find the toolchain of the eBPF programs and what the tests need; install what is missing (Debian, as root).
    Setup,
    /// Build the release binary `fulcrum` with the programs inside.
    Build,
    /// Pack the release binary with its unit, manual and licences: a tarball and a Debian package, in `target/dist`.
    Dist {
        /// Pack this binary instead.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
        /// Put them there.
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
    },
    /// Make two nodes out of network namespaces, run fulcrum on them and show what it does.
    Demo {
        /// Passed to the demo, e.g. `--keep` to leave the nodes up.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the tests of one level, or all of them.
    Test {
        #[arg(value_enum, default_value_t)]
        selection: suite::Selection,
        /// In a virtual machine, on Debian 12's Linux 6.1 or the kernel of another Debian package.
        #[arg(
            long,
            value_name = "PACKAGE",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = kernel::CURRENT
        )]
        kernel: Option<String>,
        /// Passed to the test runner, e.g. a part of a test's name.
        #[arg(last = true)]
        filter: Vec<String>,
    },
    /// Check the conventions of this code base.
    Tidy,
    /// Load the programs and compare what the verifier says with the committed baseline.
    Verify {
        /// Passed to the check: `--update` writes the baseline, `--bench` measures time per packet.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure what packets, connections and changes cost here and others, in one interleaved run; write plots and the
    /// README's table.
    Bench {
        /// In two minutes, and coarser.
        #[arg(long)]
        quick: bool,
        /// Write all figures there.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Check licences, advisories and sources of the dependencies.
    Deny,
    /// Fuzz what reads foreign bytes: manifests, what is shown of them, packets.
    Fuzz {
        /// What to fuzz; without it, everything, one after the other.
        #[arg(value_enum)]
        target: Option<fuzz::Target>,
        /// How long each.
        #[arg(default_value_t = 300)]
        seconds: u32,
        /// Passed to libFuzzer; with a file, that input alone is run.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Everything that continuous integration checks.
    Ci,
}

fn main() -> ExitCode {
    match run_verb(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_verb(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup => setup::with_test_tools()?,
        Verb::Build => binary::build()?,
        Verb::Dist { binary, into } => dist::run(binary, into)?,
        Verb::Demo { arguments } => return Err(binary::demo(&arguments)),
        Verb::Test {
            selection,
            kernel: Some(package),
            filter,
        } => return kernel::run(selection, &filter, &package),
        Verb::Test {
            selection, filter, ..
        } => return suite::run(selection, &filter),
        Verb::Tidy => tidy::run()?,
        Verb::Verify { arguments } => verify::run(&arguments)?,
        Verb::Bench { quick, json } => bench::run(quick, json.as_deref())?,
        Verb::Deny => deny::run()?,
        Verb::Fuzz {
            target,
            seconds,
            arguments,
        } => fuzz::run(target, seconds, &arguments)?,
        Verb::Ci => return ci::run(),
    }
    Ok(ExitCode::SUCCESS)
}
