//! Compiles the crate `lb-ebpf` for the BPF target and leaves the path of the object in `FULCRUM_BPF_OBJECT`.
//!
//! Runs the cargo of a toolchain that has the library's source, whatever toolchain compiles this crate. Never installs
//! anything and never writes outside of `OUT_DIR`; what is missing is named, with the commands that provide it.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
};

#[path = "../xtask/src/bpf_object.rs"]
mod bpf_object;
#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use bpf_object::LegacyMaps;
use bpf_toolchain::{
    LINKER_VARIABLE, OBJECT_VARIABLE, RUSTC_VARIABLE, Search, Toolchain, is_passed_on,
    path_variable,
};

const TARGET: &str = "bpfel-unknown-none";

/// The release profile of the workspace is made for the binary; these settings are the programs' own. The linker
/// optimises all of the bitcode as one, so that the compiler need not, and makes the types out of debug information.
const PROFILE: [(&str, &str); 7] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_INCREMENTAL", "false"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];

/// Set if the programs shall log, for debugging.
const LOG_VARIABLE: &str = "CARGO_FEATURE_BPF_LOG";
/// What the programs are compiled with if this crate is.
const FEATURES: [(&str, &str); 2] = [
    (LOG_VARIABLE, "log"),
    ("CARGO_FEATURE_NEXT_LAYOUT", "next-layout"),
];

fn main() -> ExitCode {
    match object() {
        Ok(object) => {
            println!("cargo::rustc-env=FULCRUM_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn object() -> Result<PathBuf, String> {
    let manifest_dir = directory("CARGO_MANIFEST_DIR")?;
    let workspace = manifest_dir
        .parent()
        .ok_or("the crate must lie in its workspace")?;
    watch(workspace);
    let object = match path_variable(OBJECT_VARIABLE) {
        Some(prebuilt) => named(&workspace.join(prebuilt)),
        None => compiled(workspace)?,
    };
    let bytes = fs::read(&object)
        .map_err(|error| format!("cannot read the object {}: {error}", object.display()))?;
    let legacy_maps = if has(LOG_VARIABLE) {
        LegacyMaps::Allowed
    } else {
        LegacyMaps::Refused
    };
    bpf_object::check(&bytes, legacy_maps)
        .map_err(|fault| format!("the object {}: {fault}", object.display()))?;
    Ok(object)
}

/// A prebuilt object, built anew by whoever built it.
fn named(prebuilt: &Path) -> PathBuf {
    println!("cargo::rerun-if-changed={}", prebuilt.display());
    prebuilt.to_path_buf()
}

fn compiled(workspace: &Path) -> Result<PathBuf, String> {
    let toolchain = Search::from_env(workspace)
        .find()
        .map_err(|missing| missing.to_string())?;
    println!("cargo::rerun-if-changed={}", toolchain.linker.display());
    compile(&toolchain, workspace, &directory("OUT_DIR")?)
}

/// Names everything whose change calls for another build.
fn watch(workspace: &Path) {
    for path in [
        "lb-ebpf/Cargo.toml",
        "lb-ebpf/src",
        "lb-common/Cargo.toml",
        "lb-common/src",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    for variable in [OBJECT_VARIABLE, RUSTC_VARIABLE, LINKER_VARIABLE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
}

fn compile(toolchain: &Toolchain, workspace: &Path, out_dir: &Path) -> Result<PathBuf, String> {
    // A directory of its own: the outer build holds the lock of the workspace's.
    let target_dir = out_dir.join("bpf-target");
    let mut cargo = Command::new(&toolchain.cargo);
    for (name, _) in env::vars_os().filter(|(name, _)| !is_passed_on(name)) {
        cargo.env_remove(name);
    }
    cargo
        .current_dir(workspace)
        .env("RUSTC", &toolchain.rustc)
        // Set to nothing, they also switch off what a configuration file of the user says.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        // `build-std` is unstable, but any compiler can do it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(toolchain, workspace)?)
        .env("CARGO_TARGET_DIR", &target_dir)
        .envs(PROFILE)
        .args(["build", "--package", "lb-ebpf", "--bin", "lb-ebpf"])
        .args([
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target",
            TARGET,
        ]);
    for (_, feature) in FEATURES.iter().filter(|(variable, _)| has(variable)) {
        cargo.args(["--features", feature]);
    }
    let built = cargo.output();
    succeeded(toolchain, built)?;
    Ok(target_dir.join(TARGET).join("release/lb-ebpf"))
}

fn succeeded(toolchain: &Toolchain, built: io::Result<Output>) -> Result<(), String> {
    let cargo = toolchain.cargo.display();
    let output = built.map_err(|error| format!("{cargo} cannot be run: {error}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    // Cargo shows this with `-vv`.
    eprintln!("{messages}");
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{messages}\nthe eBPF programs do not compile with {} and {} ({})",
        toolchain.rustc.display(),
        toolchain.linker.display(),
        output.status
    ))
}

/// The flags of the compiler, in cargo's encoding, which allows blanks in paths.
fn rustflags(toolchain: &Toolchain, workspace: &Path) -> Result<String, String> {
    let host_arch = variable("CARGO_CFG_TARGET_ARCH")?;
    Ok([
        // The types of the maps are made out of it.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
        // v3 (Linux 5.12) is the first that has atomics which return the old value.
        "-Ctarget-cpu=v3".to_owned(),
        // Headers are structs of bytes; without it every field would be read byte by byte.
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
        format!("--cfg=bpf_target_arch=\"{host_arch}\""),
        // The verifier's log then names files as the repository does, wherever it lies.
        format!("--remap-path-prefix={}=.", workspace.display()),
    ]
    .join("\x1f"))
}

/// Whether this crate has the feature that a variable of cargo's stands for.
fn has(variable: &str) -> bool {
    env::var_os(variable).is_some()
}

fn directory(name: &str) -> Result<PathBuf, String> {
    variable(name).map(PathBuf::from)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}, which cargo sets: {error}"))
}
