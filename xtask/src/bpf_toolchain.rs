//! The toolchain that compiles the eBPF programs: a Rust compiler that has its own library source, and bpf-linker.
//!
//! Any compiler will do, stable or nightly, as long as the source of `core` lies in its sysroot: the BPF target has no
//! prebuilt library, and the source of another version does not compile. Choices made by environment variable are
//! never silently replaced by something else.
//!
//! This module only looks; it never installs, writes or downloads. It is std-only because the build script of
//! `lb-user` includes it by path.

use std::{
    env,
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Names a prebuilt object, relative to the root of the workspace; then no toolchain is needed.
pub(crate) const OBJECT_VARIABLE: &str = "LB_BPF_OBJECT";
/// Names the compiler to use, and no other.
pub(crate) const RUSTC_VARIABLE: &str = "LB_BPF_RUSTC";
/// Names the linker to use, and no other.
pub(crate) const LINKER_VARIABLE: &str = "LB_BPF_LINKER";

/// Where `cargo xtask setup` installs bpf-linker, below the workspace's `target`.
pub(crate) const TOOLS_DIR: &str = "bpf-tools";
/// The LLVM that `cargo xtask setup` builds bpf-linker against. It reads the bitcode of its own version and of older
/// ones, so a compiler with a newer LLVM cannot be used with it.
pub(crate) const LINKER_LLVM_MAJOR: u32 = 22;

/// The version of bpf-linker that the programs were tested with.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/src/lib.rs";

/// A compiler, the cargo beside it and a linker that fit together.
#[derive(Debug)]
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    pub(crate) cargo: PathBuf,
    pub(crate) linker: PathBuf,
}

/// Everything that decides which toolchain is found.
#[derive(Debug)]
pub(crate) struct Search {
    /// The root of the workspace, whose `target` holds what setup installed.
    pub(crate) workspace: PathBuf,
    /// `$LB_BPF_RUSTC`
    pub(crate) chosen_rustc: Option<PathBuf>,
    /// `$LB_BPF_LINKER`
    pub(crate) chosen_linker: Option<PathBuf>,
    /// The directory that holds rustup's toolchains.
    pub(crate) rustup_toolchains: Option<PathBuf>,
    /// The compiler of the distribution.
    pub(crate) system_rustc: PathBuf,
    /// Directories in which a bpf-linker may lie, in order.
    pub(crate) linker_dirs: Vec<PathBuf>,
}

/// Why no toolchain was found: what is missing, and for each compiler why it was refused.
#[derive(Debug, Default)]
pub(crate) struct Missing {
    /// Compiler and reason. Empty if the compiler was found.
    pub(crate) refused: Vec<(PathBuf, String)>,
    pub(crate) needs_rustc: bool,
    /// The places where no linker was. Empty if the linker was found.
    pub(crate) no_linker_at: Vec<PathBuf>,
    /// An environment variable named what is unusable, so installing something else would not help.
    pub(crate) chosen_by_variable: bool,
}

impl Search {
    pub(crate) fn from_env(workspace: &Path) -> Self {
        let home = env::home_dir();
        let home_dir = |variable: &str, default: &str| {
            path_variable(variable).or_else(|| Some(home.as_ref()?.join(default)))
        };
        let path = env::var_os("PATH").unwrap_or_default();
        let mut linker_dirs = vec![tools_bin(workspace)];
        linker_dirs.extend(env::split_paths(&path));
        linker_dirs.extend(home_dir("CARGO_HOME", ".cargo").map(|dir| dir.join("bin")));
        Self {
            workspace: workspace.to_path_buf(),
            chosen_rustc: path_variable(RUSTC_VARIABLE),
            chosen_linker: path_variable(LINKER_VARIABLE),
            rustup_toolchains: home_dir("RUSTUP_HOME", ".rustup").map(|dir| dir.join("toolchains")),
            system_rustc: PathBuf::from("/usr/bin/rustc"),
            linker_dirs,
        }
    }

    /// The first compiler and the first linker that can be used.
    pub(crate) fn find(&self) -> Result<Toolchain, Missing> {
        let mut missing = Missing::default();
        let linker = self.find_linker(&mut missing);
        let compiler = self.find_compiler(linker.as_deref(), &mut missing);
        match (compiler, linker) {
            (Some((rustc, cargo)), Some(linker)) => Ok(Toolchain {
                rustc,
                cargo,
                linker,
            }),
            _ => Err(missing),
        }
    }

    fn find_linker(&self, missing: &mut Missing) -> Option<PathBuf> {
        let candidates: Vec<_> = match &self.chosen_linker {
            Some(chosen) => vec![chosen.clone()],
            None => self
                .linker_dirs
                .iter()
                .map(|dir| dir.join("bpf-linker"))
                .collect(),
        };
        let found = candidates.iter().find(|candidate| candidate.is_file());
        if found.is_none() {
            missing.chosen_by_variable |= self.chosen_linker.is_some();
            missing.no_linker_at.clone_from(&candidates);
        }
        found.cloned()
    }

    fn find_compiler(
        &self,
        linker: Option<&Path>,
        missing: &mut Missing,
    ) -> Option<(PathBuf, PathBuf)> {
        // Of a linker from elsewhere we cannot know the LLVM: its `--version` does not say.
        let ours = linker.is_none_or(|linker| linker.starts_with(tools_bin(&self.workspace)));
        let newest_llvm = if ours { LINKER_LLVM_MAJOR } else { u32::MAX };
        for rustc in self.compilers() {
            match usable_cargo(&rustc, newest_llvm) {
                Ok(cargo) => {
                    missing.refused.clear();
                    return Some((rustc, cargo));
                }
                Err(reason) => missing.refused.push((rustc, reason)),
            }
        }
        missing.needs_rustc = true;
        missing.chosen_by_variable |= self.chosen_rustc.is_some();
        None
    }

    fn compilers(&self) -> Vec<PathBuf> {
        if let Some(chosen) = &self.chosen_rustc {
            return vec![chosen.clone()];
        }
        let mut toolchains: Vec<_> = self
            .rustup_toolchains
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .map(|entry| entry.path().join("bin/rustc"))
            .filter(|rustc| rustc.is_file())
            .collect();
        // A nightly is the likeliest to have been installed for this purpose.
        toolchains
            .sort_by_key(|rustc| (!rustc.to_string_lossy().contains("nightly"), rustc.clone()));
        toolchains.push(self.system_rustc.clone());
        toolchains
    }
}

/// The cargo beside `rustc`, if that compiler can build `core` for a linker with at most `newest_llvm`.
fn usable_cargo(rustc: &Path, newest_llvm: u32) -> Result<PathBuf, String> {
    if !rustc.is_file() {
        return Err("no such file".to_owned());
    }
    let cargo = rustc.with_file_name("cargo");
    if !cargo.is_file() {
        return Err(format!("no cargo beside it ({})", cargo.display()));
    }
    let sysroot = PathBuf::from(stdout_of(rustc, &["--print", "sysroot"])?.trim());
    if !sysroot.join(CORE_SOURCE).is_file() {
        return Err(format!(
            "no library source (rust-src) in {}",
            sysroot.display()
        ));
    }
    let version = stdout_of(rustc, &["--version", "--verbose"])?;
    match llvm_major(&version) {
        Some(major) if major > newest_llvm => Err(format!(
            "its LLVM {major} is newer than the linker's LLVM {newest_llvm}"
        )),
        _ => Ok(cargo),
    }
}

/// The major version of LLVM in the output of `rustc --version --verbose`.
fn llvm_major(version: &str) -> Option<u32> {
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

fn stdout_of(program: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(args)
        // cargo points this at the libraries of the toolchain it came from.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{}` failed: {}", args.join(" "), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the cargo that builds the programs may see this variable of the cargo that runs us.
///
/// Flags, wrappers, profiles and library paths of the outer build must not leak into the inner one; how to reach the
/// registry must.
pub(crate) fn is_passed_on(variable: &OsStr) -> bool {
    const REGISTRY: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ];
    const OUTER_BUILD: [&str; 6] = [
        "CARGO",
        "__CARGO",
        "RUST",
        "CLIPPY_",
        "DEP_",
        "LD_LIBRARY_PATH",
    ];
    const BUILD_SCRIPT: [&str; 9] = [
        "OUT_DIR",
        "TARGET",
        "HOST",
        "NUM_JOBS",
        "OPT_LEVEL",
        "PROFILE",
        "DEBUG",
        "MAKEFLAGS",
        "MFLAGS",
    ];
    let variable = variable.to_string_lossy();
    let starts_with =
        |prefixes: &[&str]| prefixes.iter().any(|prefix| variable.starts_with(prefix));
    starts_with(&REGISTRY)
        || !(starts_with(&OUTER_BUILD) || BUILD_SCRIPT.contains(&variable.as_ref()))
}

/// The directory of the linker that `cargo xtask setup` installs.
pub(crate) fn tools_bin(workspace: &Path) -> PathBuf {
    workspace.join("target").join(TOOLS_DIR).join("bin")
}

/// The value of an environment variable; one that is set to nothing counts as not set.
pub(crate) fn path_variable(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "no toolchain can compile the eBPF programs")?;
        if self.needs_rustc {
            writeln!(f, "no Rust compiler with its own library source:")?;
            for (rustc, reason) in &self.refused {
                writeln!(f, "  {}: {reason}", rustc.display())?;
            }
        }
        match self.no_linker_at.as_slice() {
            [] => {}
            [only] => writeln!(f, "no bpf-linker: {} is not a file", only.display())?,
            [first, ..] => writeln!(
                f,
                "no bpf-linker: neither {} nor in PATH nor in cargo's bin directory",
                first.display()
            )?,
        }
        if self.chosen_by_variable {
            return write!(
                f,
                "correct or unset {RUSTC_VARIABLE} and {LINKER_VARIABLE}, which choose them"
            );
        }
        writeln!(f, "on Debian, as root, this installs what is missing:")?;
        writeln!(f, "  cargo xtask setup")?;
        writeln!(f, "elsewhere:")?;
        if self.needs_rustc {
            writeln!(f, "  rustup toolchain install nightly --component rust-src")?;
        }
        if !self.no_linker_at.is_empty() {
            writeln!(
                f,
                "  cargo install bpf-linker --version {LINKER_VERSION} --locked   (with the LLVM of that compiler, see its README)"
            )?;
        }
        write!(f, "or name a prebuilt object in {OBJECT_VARIABLE}")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A directory of fake compilers that is removed at the end.
    struct Machine {
        root: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().join(name)
        }

        fn search(&self) -> Search {
            Search {
                workspace: self.path("workspace"),
                chosen_rustc: None,
                chosen_linker: None,
                rustup_toolchains: Some(self.path("toolchains")),
                system_rustc: self.path("usr/bin/rustc"),
                linker_dirs: vec![tools_bin(&self.path("workspace")), self.path("elsewhere")],
            }
        }

        fn script(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        }

        fn compiler(&self, prefix: &str, llvm: u32, has_source: bool) -> PathBuf {
            let sysroot = self.path(prefix);
            self.script(&format!("{prefix}/bin/cargo"), "");
            if has_source {
                let source = sysroot.join(CORE_SOURCE);
                fs::create_dir_all(source.parent().unwrap()).unwrap();
                fs::write(source, "").unwrap();
            }
            self.script(
                &format!("{prefix}/bin/rustc"),
                &format!(
                    "case $1 in --print) echo {};; *) echo 'LLVM version: {llvm}.1.2';; esac",
                    sysroot.display()
                ),
            )
        }

        fn linker(dir: &Path) -> PathBuf {
            let path = dir.join("bpf-linker");
            fs::create_dir_all(dir).unwrap();
            fs::write(&path, "").unwrap();
            path
        }
    }

    #[test]
    fn a_nightly_with_source_goes_before_every_other_compiler() {
        let machine = Machine::new();
        machine.compiler("usr", 22, true);
        machine.compiler("toolchains/1.95", 22, true);
        let nightly = machine.compiler("toolchains/nightly-x86_64", 22, true);
        let linker = Machine::linker(&tools_bin(&machine.path("workspace")));
        let found = machine.search().find().unwrap();
        assert_eq!(found.rustc, nightly);
        assert_eq!(found.cargo, nightly.with_file_name("cargo"));
        assert_eq!(found.linker, linker);
    }

    #[test]
    fn a_compiler_without_source_is_refused_and_the_next_one_taken() {
        let machine = Machine::new();
        machine.compiler("toolchains/nightly-x86_64", 22, false);
        let system = machine.compiler("usr", 22, true);
        Machine::linker(&machine.path("elsewhere"));
        assert_eq!(machine.search().find().unwrap().rustc, system);
    }

    #[test]
    fn a_compiler_newer_than_our_own_linker_is_refused() {
        let machine = Machine::new();
        machine.compiler("toolchains/nightly-x86_64", LINKER_LLVM_MAJOR + 1, true);
        let system = machine.compiler("usr", LINKER_LLVM_MAJOR, true);
        Machine::linker(&tools_bin(&machine.path("workspace")));
        assert_eq!(machine.search().find().unwrap().rustc, system);
    }

    #[test]
    fn a_linker_from_elsewhere_is_trusted_to_fit_the_compiler() {
        let machine = Machine::new();
        let nightly = machine.compiler("toolchains/nightly-x86_64", LINKER_LLVM_MAJOR + 1, true);
        Machine::linker(&machine.path("elsewhere"));
        assert_eq!(machine.search().find().unwrap().rustc, nightly);
    }

    #[test]
    fn a_chosen_compiler_is_never_replaced_by_another() {
        let machine = Machine::new();
        machine.compiler("usr", 22, true);
        Machine::linker(&machine.path("elsewhere"));
        let chosen = machine.compiler("chosen", 22, false);
        let search = Search {
            chosen_rustc: Some(chosen.clone()),
            ..machine.search()
        };
        let missing = search.find().unwrap_err();
        assert!(missing.chosen_by_variable && missing.needs_rustc);
        assert_eq!(missing.refused.len(), 1);
        assert_eq!(missing.refused[0].0, chosen);
        assert!(missing.to_string().contains(RUSTC_VARIABLE));
    }

    #[test]
    fn the_message_names_every_refused_compiler_its_reason_and_the_commands() {
        let machine = Machine::new();
        let bare = machine.compiler("toolchains/stable-x86_64", 22, false);
        let message = machine.search().find().unwrap_err().to_string();
        for expected in [
            format!("{}: no library source (rust-src)", bare.display()),
            format!("{}: no such file", machine.path("usr/bin/rustc").display()),
            "cargo xtask setup".to_owned(),
            "rustup toolchain install nightly --component rust-src".to_owned(),
            format!("cargo install bpf-linker --version {LINKER_VERSION}"),
            OBJECT_VARIABLE.to_owned(),
        ] {
            assert!(
                message.contains(&expected),
                "{expected:?} is not in:\n{message}"
            );
        }
    }

    #[test]
    fn a_found_compiler_is_not_asked_for_when_only_the_linker_is_missing() {
        let machine = Machine::new();
        machine.compiler("usr", 22, true);
        let missing = machine.search().find().unwrap_err();
        assert!(!missing.needs_rustc && missing.refused.is_empty());
        assert_eq!(missing.no_linker_at.len(), 2);
        assert!(!missing.to_string().contains("rustup toolchain install"));
    }

    #[test]
    fn the_llvm_version_is_read_from_the_verbose_version() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nhost: x\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn the_inner_build_sees_the_registry_settings_and_nothing_else_of_the_outer_one() {
        for kept in [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_X_INDEX",
            "https_proxy",
        ] {
            assert!(is_passed_on(OsStr::new(kept)), "{kept}");
        }
        for dropped in [
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
            "CARGO_PROFILE_RELEASE_LTO",
            "OUT_DIR",
            "LD_LIBRARY_PATH",
        ] {
            assert!(!is_passed_on(OsStr::new(dropped)), "{dropped}");
        }
    }
}
