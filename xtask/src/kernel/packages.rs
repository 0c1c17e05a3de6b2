//! What the virtual machine is made of: Debian's packages, unpacked below `target` and installed nowhere.
//!
//! Nothing is installed because it need not be, and because a machine may have a newer QEMU that Debian's would displace.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{binary, run, setup};

/// Debian's name for its current kernel.
pub(crate) const CURRENT: &str = "linux-image-amd64";
/// Debian 12's kernel is of this series.
const SERIES: &str = "linux-image-6.1.";
/// The machine, and what its first root runs.
const EMULATOR: &str = "qemu-system-x86_64";
const EMULATOR_PACKAGE: &str = "qemu-system-x86";
const SHELL_PACKAGE: &str = "busybox-static";
/// What is unpacked of a kernel: a tenth of it, as drivers of hardware are the rest.
const PARTS: [&str; 13] = [
    "./boot/vmlinuz-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch",
    "./lib/modules/*/kernel/crypto",
    "./lib/modules/*/kernel/drivers/char",
    "./lib/modules/*/kernel/drivers/net/*.ko",
    "./lib/modules/*/kernel/drivers/net/bonding",
    "./lib/modules/*/kernel/drivers/net/vxlan",
    "./lib/modules/*/kernel/drivers/net/wireguard",
    "./lib/modules/*/kernel/drivers/virtio",
    "./lib/modules/*/kernel/fs",
    "./lib/modules/*/kernel/lib",
    "./lib/modules/*/kernel/net",
];

/// All that a machine takes.
#[derive(Debug)]
pub(super) struct Parts {
    /// The kernel's image.
    pub(super) image: PathBuf,
    /// Its modules: the directory that is named after its release.
    pub(super) modules: PathBuf,
    /// A shell with all that it needs in one program without libraries.
    pub(super) busybox: PathBuf,
    /// The emulator as it is called here.
    pub(super) emulator: Emulator,
}

/// The emulator: the machine's own, or one that was unpacked.
#[derive(Debug)]
pub(super) enum Emulator {
    /// In the `PATH`.
    Installed,
    /// Below this directory.
    Unpacked(PathBuf),
}

impl Emulator {
    /// The command that begins with it.
    pub(super) fn command(&self) -> Command {
        let root = match self {
            Self::Installed => return Command::new(EMULATOR),
            Self::Unpacked(root) => root,
        };
        let mut command = Command::new(root.join("usr/bin").join(EMULATOR));
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = env::join_paths(libraries.map(|path| root.join(path)));
        command.env("LD_LIBRARY_PATH", libraries.unwrap_or_default());
        for firmware in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(root.join(firmware));
        }
        command
    }
}

/// The directory of everything about the virtual machine.
pub(super) fn directory() -> PathBuf {
    binary::target_dir().join("vm")
}

/// Finds all of it, and fetches what is missing; `kernel` is the name of a package, [`CURRENT`] that of Debian 12.
pub(super) fn get(kernel: &str) -> Result<Parts> {
    let _lock = setup::lock()?;
    let dir = directory();
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let kernel = match kernel {
        CURRENT => unpacked_kernel(&dir).map_or_else(current_kernel, Ok)?,
        name => name.to_owned(),
    };
    let kernel_dir = dir.join(&kernel);
    if !has_parts(&kernel_dir) {
        fetch_kernel(&kernel, &kernel_dir)?;
    }
    let tools = dir.join("tools");
    if !tools.is_dir() {
        fetch_tools(&tools)?;
    }
    let (image, modules) = parts_of(&kernel_dir)?;
    let busybox = tools.join("bin/busybox");
    if !modules.join("modules.dep").is_file() {
        let release = modules.file_name().unwrap_or_default();
        let mut depmod = Command::new(&busybox);
        depmod.arg("depmod").arg("-b").arg(&kernel_dir).arg(release);
        run::succeed(&mut depmod)?;
    }
    let emulator = if setup::is_program(EMULATOR) {
        Emulator::Installed
    } else {
        Emulator::Unpacked(tools)
    };
    Ok(Parts {
        image,
        modules,
        busybox,
        emulator,
    })
}

/// A kernel of Debian 12 that is there already.
fn unpacked_kernel(dir: &Path) -> Option<String> {
    let entries = fs::read_dir(dir).ok()?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(SERIES) && !name.ends_with(PARTIAL))
        .max()
}

/// Debian 12's current kernel, by its name in the machine's package lists.
fn current_kernel() -> Result<String> {
    update_lists()?;
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", CURRENT]);
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", run::shown(&command)))?;
    of_series(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
        format!("the package lists of this machine have no {SERIES}*; name a kernel by `--kernel=PACKAGE`")
    })
}

/// The dependency that is a kernel of Debian 12.
fn of_series(depends: &str) -> Option<String> {
    let names = depends
        .lines()
        .filter_map(|line| line.split("Depends: ").nth(1));
    names
        .map(str::trim)
        .find(|name| name.starts_with(SERIES))
        .map(str::to_owned)
}

/// The image and the modules of the one kernel in a directory.
fn parts_of(kernel_dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let only = |dir: PathBuf| {
        let entry = fs::read_dir(&dir)
            .ok()
            .and_then(|mut entries| entries.next());
        entry
            .and_then(Result::ok)
            .map(|entry| entry.path())
            .with_context(|| {
                format!(
                    "{} is empty; remove {} and try again",
                    dir.display(),
                    kernel_dir.display()
                )
            })
    };
    let image = only(kernel_dir.join("boot"))?;
    Ok((image, only(kernel_dir.join("lib/modules"))?))
}

/// Tells what was unpacked of a kernel, in its directory.
const PARTS_FILE: &str = "parts";

/// Whether a directory has all that is needed of a kernel now; an earlier build may have unpacked less.
fn has_parts(kernel_dir: &Path) -> bool {
    fs::read_to_string(kernel_dir.join(PARTS_FILE)).is_ok_and(|parts| parts == PARTS.join("\n"))
}

/// Ends the name of a directory that is not complete.
const PARTIAL: &str = ".partial";

fn fetch_kernel(package: &str, to: &Path) -> Result<()> {
    eprintln!(
        "setup: downloading the Debian package {package} (70 MB) and unpacking 90 MB of it into {}; nothing is installed",
        to.display()
    );
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| format!("remove {}", to.display()))?;
    }
    whole(to, |partial| {
        download(partial, &["download", package])?;
        unpack(partial, &PARTS)?;
        fs::write(partial.join(PARTS_FILE), PARTS.join("\n")).context("note what was unpacked")
    })
}

fn fetch_tools(to: &Path) -> Result<()> {
    let has_emulator = setup::is_program(EMULATOR);
    let packages = if has_emulator {
        SHELL_PACKAGE.to_owned()
    } else {
        format!("{SHELL_PACKAGE}, {EMULATOR_PACKAGE} and what that needs")
    };
    eprintln!(
        "setup: downloading the Debian packages {packages} and unpacking them into {}; nothing is installed",
        to.display()
    );
    whole(to, |partial| {
        download(partial, &["download", SHELL_PACKAGE])?;
        if !has_emulator {
            let archives = format!("Dir::Cache::archives={}", partial.display());
            let install = [
                "install",
                "--download-only",
                "--yes",
                "--no-install-recommends",
            ];
            let arguments = [&install[..], &["-o", &archives, EMULATOR_PACKAGE]];
            download(partial, &arguments.concat())?;
        }
        unpack(
            partial,
            &["./bin", "./lib", "./usr/bin", "./usr/lib", "./usr/share"],
        )
    })
}

/// Makes a directory that is there as a whole or not at all.
fn whole(dir: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let mut partial = dir.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("remove {}", partial.display()))?;
    }
    // Where apt keeps what is not complete.
    let inner = partial.join("partial");
    fs::create_dir_all(&inner).with_context(|| format!("make {}", inner.display()))?;
    fill(&partial)?;
    fs::remove_dir_all(&inner).with_context(|| format!("remove {}", inner.display()))?;
    fs::rename(&partial, dir).with_context(|| format!("rename {}", partial.display()))
}

fn update_lists() -> Result<()> {
    if !setup::can_install() {
        bail!("the virtual machine is made of Debian's packages; run this on Debian as root");
    }
    run::succeed(setup::apt_get().arg("update"))
}

/// Has apt download packages into a directory; what is downloaded is in the order of its output.
fn download(into: &Path, arguments: &[&str]) -> Result<()> {
    if !setup::can_install() {
        bail!("the virtual machine is made of Debian's packages; run this on Debian as root");
    }
    let download = || {
        let mut command = setup::apt_get();
        command
            .current_dir(into)
            .args(["-o", "APT::Sandbox::User=root"]);
        command.args(arguments);
        command
    };
    // The lists may be old, or not there.
    if run::succeed(&mut download()).is_err() {
        update_lists()?;
        run::succeed(&mut download())?;
    }
    Ok(())
}

/// Unpacks some parts of all packages in a directory, and removes the packages.
fn unpack(dir: &Path, parts: &[&str]) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let package = entry?.path();
        if package
            .extension()
            .is_none_or(|extension| extension != "deb")
        {
            continue;
        }
        unpack_one(&package, dir, parts)
            .with_context(|| format!("unpack {}", package.display()))?;
        fs::remove_file(&package).with_context(|| format!("remove {}", package.display()))?;
    }
    Ok(())
}

fn unpack_one(package: &Path, dir: &Path, parts: &[&str]) -> Result<()> {
    let mut archive = Command::new("dpkg-deb");
    archive
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped());
    let mut source = archive.spawn().context("cannot run `dpkg-deb`")?;
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--wildcards", "--directory"])
        .arg(dir)
        .args(parts);
    // Of what a package does not have, nothing is unpacked; that the whole is there is looked at later.
    tar.stderr(Stdio::null())
        .stdin(source.stdout.take().context("its output")?);
    tar.status().context("cannot run `tar`")?;
    let status = source.wait()?;
    if !status.success() {
        bail!("`dpkg-deb` failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_kernel_is_that_of_the_series_and_nothing_else() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(
            of_series(depends).as_deref(),
            Some("linux-image-6.1.0-56-amd64")
        );
        let newer = "linux-image-amd64\n  Depends: linux-image-6.12.43+deb13-amd64\n";
        assert_eq!(of_series(newer), None);
        assert_eq!(of_series(""), None);
    }

    #[test]
    fn a_directory_is_there_as_a_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("tools");
        let failed = whole(&dir, |partial| {
            fs::write(partial.join("half"), "")?;
            bail!("no network")
        });
        assert!(failed.is_err() && !dir.exists());
        whole(&dir, |partial| Ok(fs::write(partial.join("all"), "")?)).unwrap();
        let names: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["all"]);
    }

    #[test]
    fn of_several_kernels_the_last_complete_one_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.1.0-57-amd64.partial",
            "linux-image-6.12.1-amd64",
            "tools",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(
            unpacked_kernel(dir.path()).as_deref(),
            Some("linux-image-6.1.0-56-amd64")
        );
    }

    #[test]
    fn an_unpacked_emulator_finds_its_libraries_and_its_firmware() {
        let command = Emulator::Unpacked("/vm/tools".into()).command();
        let shown = run::shown(&command);
        assert_eq!(
            shown,
            "LD_LIBRARY_PATH=/vm/tools/usr/lib/x86_64-linux-gnu:/vm/tools/lib/x86_64-linux-gnu qemu-system-x86_64 \
             -L /vm/tools/usr/share/qemu -L /vm/tools/usr/share/seabios"
        );
    }
}
