//! Setup: what the build and the tests need beyond stable Rust and a C compiler, found or installed.
//!
//! Says what it installs before it does so, and installs as root on Debian and its relatives only; elsewhere it fails
//! with one message that names the commands. Several runs at a time are safe. Never removes a package and never changes
//! the user's rustup.

use std::{
    env,
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    bpf_toolchain::{
        LINKER_LLVM_MAJOR, LINKER_VERSION, Missing, OBJECT_VARIABLE, Search, TOOLS_DIR, Toolchain,
        path_variable,
    },
    privilege, run, workspace,
};

/// Programs that the tests, the bench and the demo run, and the packages they come in.
const TEST_TOOLS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("nft", "nftables"),
    ("iptables-nft-restore", "iptables"),
    ("conntrack", "conntrack"),
];

/// The system's directories of programs for root, which are missing from the `PATH` of some root shells.
const SYSTEM_DIRS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Sees to it that the eBPF programs can be compiled.
pub(crate) fn toolchain() -> Result<()> {
    if path_variable(OBJECT_VARIABLE).is_some() || find().is_ok() {
        return Ok(());
    }
    let _lock = lock()?;
    // Another run may have installed it meanwhile.
    let Err(missing) = find() else {
        return Ok(());
    };
    if missing.chosen_by_variable || !can_install() {
        bail!("{missing}");
    }
    install(&missing)?;
    find()
        .map(drop)
        .map_err(|missing| anyhow::anyhow!("the installation did not help: {missing}"))
}

/// Sees to the toolchain and to the programs that tests and demo run.
pub(crate) fn with_test_tools() -> Result<()> {
    toolchain()?;
    if privilege::is_root() {
        test_tools()?;
    }
    match (path_variable(OBJECT_VARIABLE), find()) {
        (Some(object), _) => eprintln!("setup: prebuilt object {}", object.display()),
        (None, Ok(toolchain)) => eprintln!(
            "setup: {} with {}",
            toolchain.rustc.display(),
            toolchain.linker.display()
        ),
        (None, Err(missing)) => bail!("{missing}"),
    }
    Ok(())
}

fn find() -> Result<Toolchain, Missing> {
    Search::from_env(workspace::root()).find()
}

fn test_tools() -> Result<()> {
    let packages = missing_packages(&TEST_TOOLS);
    if packages.is_empty() {
        return Ok(());
    }
    let _lock = lock()?;
    let packages = missing_packages(&TEST_TOOLS);
    if packages.is_empty() {
        return Ok(());
    }
    if !can_install() {
        bail!(
            "the tests need programs that are missing; install the packages {}",
            packages.join(" ")
        );
    }
    install_packages(&packages)
}

/// Installing is left to the user on systems that we do not know, and to root on those that we do.
pub(crate) fn can_install() -> bool {
    privilege::is_root() && Path::new("/etc/debian_version").exists() && is_program("apt-get")
}

fn install(missing: &Missing) -> Result<()> {
    let mut packages = Vec::new();
    if missing.needs_rustc {
        packages.extend(["rustc-web", "cargo-web", "rust-web-src"].map(str::to_owned));
    }
    let needs_linker = !missing.no_linker_at.is_empty();
    if needs_linker {
        packages.extend(linker_packages());
    }
    install_packages(&packages)?;
    if needs_linker {
        install_linker()?;
    }
    Ok(())
}

/// What building bpf-linker takes.
fn linker_packages() -> Vec<String> {
    let llvm = LINKER_LLVM_MAJOR;
    let mut packages = vec![
        format!("llvm-{llvm}-dev"),
        format!("libpolly-{llvm}-dev"),
        "libzstd-dev".to_owned(),
        "zlib1g-dev".to_owned(),
    ];
    packages.extend(missing_packages(&[("cc", "gcc"), ("c++", "g++")]));
    packages
}

fn install_packages(packages: &[String]) -> Result<()> {
    eprintln!("setup: installing Debian packages: {}", packages.join(" "));
    // A package that stands in the way is never removed.
    run::succeed(apt_get().arg("update"))?;
    run::succeed(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
            .args(packages),
    )
    .with_context(|| format!("installing {}", packages.join(" ")))
}

/// apt, which waits for another one on this machine.
pub(crate) fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "DPkg::Lock::Timeout=600"]);
    command
}

fn install_linker() -> Result<()> {
    let llvm = LINKER_LLVM_MAJOR;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let tools = workspace::root().join("target").join(TOOLS_DIR);
    eprintln!(
        "setup: building bpf-linker {LINKER_VERSION} into {} (about a minute)",
        tools.display()
    );
    let feature = format!("llvm-{llvm}");
    let mut command = run::cargo(["install", "bpf-linker", "--version", LINKER_VERSION]);
    command
        .args([
            "--locked",
            "--no-default-features",
            "--features",
            &feature,
            "--root",
        ])
        .arg(&tools)
        // A directory of its own keeps it off the lock of builds in this workspace.
        .env("CARGO_TARGET_DIR", tools.join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix);
    run::succeed(&mut command)?;
    fs::remove_dir_all(tools.join("build")).context("remove the build of bpf-linker")
}

/// Holds off other runs of setup in this workspace until it is dropped.
pub(crate) fn lock() -> Result<File> {
    let target = workspace::root().join("target");
    fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
    let path = target.join(format!("{TOOLS_DIR}.lock"));
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("setup: waiting for another setup to finish");
        file.lock()
            .with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

/// The packages of those programs that are not there.
fn missing_packages(programs: &[(&str, &str)]) -> Vec<String> {
    programs
        .iter()
        .filter(|(program, _)| !is_program(program))
        .map(|(_, package)| (*package).to_owned())
        .collect()
}

/// Whether a program is where root finds it.
pub(crate) fn is_program(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.map(Into::into))
        .any(|dir| dir.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_of_missing_programs_are_installed() {
        let programs = [("sh", "dash"), ("no-such-program", "its-package")];
        assert_eq!(missing_packages(&programs), ["its-package"]);
    }

    #[test]
    fn the_linker_is_built_against_the_llvm_it_is_trusted_to_read() {
        assert!(linker_packages().contains(&format!("llvm-{LINKER_LLVM_MAJOR}-dev")));
    }
}
