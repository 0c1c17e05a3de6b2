//! The suites on another kernel: Debian 12's own, in a virtual machine without network or disk.
//!
//! Programs are built on the host as for a run there. The machine sees the host's files, all that it writes stays in its
//! memory, and what the tests say is counted here. Where the processor cannot run it, it is emulated.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    binary::{self, BINARY_VARIABLE, NEXT_BINARY_VARIABLE},
    setup,
    suite::{self, REQUIRE_ROOT_VARIABLE, Selection},
};

mod archive;
mod job;
mod machine;
mod modules;
mod packages;

use archive::Archive;
use job::{Job, quoted};
use machine::{Accelerator, Outcome};
pub(crate) use packages::CURRENT;
use packages::Parts;

const INIT: &str = include_str!("kernel/init.sh");
const GUEST: &str = include_str!("kernel/guest.sh");
/// Where the processor's help is asked for.
const KVM: &str = "/dev/kvm";
/// Passed on to the tests.
const VARIABLES: [&str; 2] = ["RUST_BACKTRACE", "RUST_LOG"];

/// Runs the tests on a kernel; the exit code says whether all of them passed. `package`: Debian's name of the kernel.
pub(crate) fn run(selection: Selection, filter: &[String], package: &str) -> Result<ExitCode> {
    Ok(if pass(selection, filter, package)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every program, packet by packet, on Debian 12's own kernel: what takes minutes even where the processor is emulated.
pub(crate) fn check() -> Result<()> {
    ensure!(
        pass(Selection::Prog, &[], CURRENT)?,
        "tests failed on {CURRENT}"
    );
    Ok(())
}

/// True: all tests passed.
fn pass(selection: Selection, filter: &[String], package: &str) -> Result<bool> {
    let parts = packages::get(package)?;
    setup::with_test_tools()?;
    let needs_binary = selection != Selection::Unit;
    if needs_binary {
        binary::build()?;
        binary::build_next()?;
    }
    let mut jobs = Vec::new();
    for command in suite::commands(selection)? {
        jobs.extend(Job::build(command)?);
    }
    let dir = packages::directory();
    let first_root = dir.join("first-root");
    let content = first_root_of(&settings(&parts, needs_binary)?, &parts, &jobs, filter)?;
    fs::write(&first_root, content).with_context(|| format!("write {}", first_root.display()))?;
    let (tally, failed) = run_somehow(&parts, &first_root, &dir)?;
    for program in &failed {
        eprintln!("error: {program} failed");
    }
    println!("{tally}");
    Ok(failed.is_empty())
}

/// By the processor, if it can; not every one that says so does.
fn run_somehow(
    parts: &Parts,
    first_root: &Path,
    dir: &Path,
) -> Result<(crate::tally::Tally, Vec<String>)> {
    let has_kvm = fs::File::options().read(true).write(true).open(KVM).is_ok();
    let accelerators = if has_kvm {
        &[Accelerator::Kvm, Accelerator::Emulation][..]
    } else {
        &[Accelerator::Emulation]
    };
    for accelerator in accelerators {
        eprintln!("kernel: starting the virtual machine by {accelerator}");
        match machine::run(parts, *accelerator, first_root, dir)? {
            Outcome::Ended { tally, failed } => return Ok((tally, failed)),
            Outcome::NotUp => eprintln!("kernel: it does not come up by {accelerator}"),
        }
    }
    anyhow::bail!("no virtual machine came up")
}

/// The archive that the machine starts from.
fn first_root_of(
    settings: &str,
    parts: &Parts,
    jobs: &[Job],
    filter: &[String],
) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let mut archive = Archive::default();
    archive.directory("bin");
    archive.program("bin/busybox", &read(&parts.busybox)?);
    archive.directory("modules");
    let dependencies = String::from_utf8(read(&parts.modules.join("modules.dep"))?)?;
    let mut order = String::new();
    for module in modules::first(&dependencies)? {
        let name = module.rsplit('/').next().unwrap_or(module);
        archive.program(
            &format!("modules/{name}"),
            &read(&parts.modules.join(module))?,
        );
        order.push_str(name);
        order.push('\n');
    }
    let lines: String = jobs.iter().map(|job| job.line(filter)).collect();
    for (name, content) in [
        ("order", order.as_str()),
        ("init", INIT),
        ("guest.sh", GUEST),
        ("settings.sh", settings),
        ("jobs.sh", &lines),
    ] {
        archive.program(name, content.as_bytes());
    }
    Ok(archive.finish())
}

/// Variables of the shell that runs the suites, and of the tests.
fn settings(parts: &Parts, needs_binary: bool) -> Result<String> {
    let absolute = |path: &Path| -> Result<String> {
        let path: PathBuf =
            fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
        Ok(quoted(&path.to_string_lossy()))
    };
    let mut lines = vec![
        format!("BUSYBOX={}", absolute(&parts.busybox)?),
        format!("MODULES={}", absolute(&parts.modules)?),
        format!("export {REQUIRE_ROOT_VARIABLE}=1"),
    ];
    if needs_binary {
        for (variable, path) in [
            (BINARY_VARIABLE, binary::path()),
            (NEXT_BINARY_VARIABLE, binary::next_path()),
        ] {
            lines.push(format!("export {variable}={}", absolute(&path)?));
        }
    }
    for name in VARIABLES {
        if let Ok(value) = env::var(name) {
            lines.push(format!("export {name}={}", quoted(&value)));
        }
    }
    Ok(lines.join("\n") + "\n")
}
