//! What is installed, as a directory: the same tree in the tarball and in the package.
//!
//! The binary itself says what its manual pages and completions are, so they cannot differ from it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{run, workspace};

/// Where documentation goes.
const DOC: &str = "usr/share/doc/fulcrum";

/// Files of the workspace and where they go. In `/usr/lib` and not in `/lib`, which may be a link that unpacking the tarball
/// would replace.
const FILES: [(&str, &str); 9] = [
    (
        "lb-user/dist/fulcrum.service",
        "usr/lib/systemd/system/fulcrum.service",
    ),
    ("lb-user/dist/fulcrum.default", "etc/default/fulcrum"),
    (
        "lb-user/dist/manifests-README",
        "etc/fulcrum/manifests/README",
    ),
    ("README.md", "usr/share/doc/fulcrum/README.md"),
    ("CHANGELOG.md", "usr/share/doc/fulcrum/CHANGELOG.md"),
    // Debian wants the terms under this name.
    ("LICENSE", "usr/share/doc/fulcrum/copyright"),
    ("LICENSE-APACHE", "usr/share/doc/fulcrum/LICENSE-APACHE"),
    ("LICENSE-MIT", "usr/share/doc/fulcrum/LICENSE-MIT"),
    ("ARCHITECTURE.md", "usr/share/doc/fulcrum/ARCHITECTURE.md"),
];

/// Shells and where they look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/fulcrum"),
    ("zsh", "usr/share/zsh/vendor-completions/_fulcrum"),
    ("fish", "usr/share/fish/vendor_completions.d/fulcrum.fish"),
];

/// Makes the tree in `root`, which must not exist.
pub(super) fn make(root: &Path, binary: &Path) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("make {}", root.display()))?;
    place(binary, &root.join("usr/bin/fulcrum"))?;
    for (from, to) in FILES {
        place(&workspace::root().join(from), &root.join(to))?;
    }
    for example in workspace::files(&workspace::root().join("examples"), "yaml")? {
        write(
            &root.join(DOC).join("examples").join(example.path),
            example.text.as_bytes(),
        )?;
    }
    for (shell, to) in COMPLETIONS {
        write(&root.join(to), &said(binary, &["completions", shell])?)?;
    }
    let manual = root.join("usr/share/man/man1");
    fs::create_dir_all(&manual)?;
    run::succeed(Command::new(binary).arg("man").arg(&manual))?;
    // Without the time of day, so that the same input gives the same file.
    run::succeed(Command::new("gzip").args(["-9", "-n", "-r"]).arg(&manual))?;
    settle(root)
}

/// The files below `root`, relative to it, in order.
pub(super) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a file and makes the directories on its way.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    fs::write(path, content).with_context(|| format!("write {}", path.display()))
}

fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    let context = || format!("copy {} to {}", from.display(), to.display());
    fs::copy(from, to).map(drop).with_context(context)
}

/// Whoever builds it, and with whatever umask: everything is readable, and the program alone can be run.
fn settle(path: &Path) -> Result<()> {
    let is_program = path.ends_with("usr/bin/fulcrum");
    let mode = if path.is_dir() || is_program {
        0o755
    } else {
        0o644
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            settle(&entry?.path())?;
        }
    }
    Ok(())
}

fn said(binary: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(binary);
    command.args(arguments).stderr(Stdio::inherit());
    let output = command
        .output()
        .with_context(|| format!("cannot run `{}`", run::shown(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", run::shown(&command), output.status);
    }
    Ok(output.stdout)
}
