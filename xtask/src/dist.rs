//! What is handed out: a tarball and a Debian package of the binary, its unit, its manual and its licences.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{binary, run};

mod deb;
mod tree;

/// The version of everything in the workspace.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes both, and says where they are. Without a binary, the release is built.
pub(crate) fn run(given: Option<PathBuf>, into: Option<PathBuf>) -> Result<()> {
    let program = if let Some(program) = given {
        program
    } else {
        binary::build_shipped()?
    };
    if !program.is_file() {
        bail!("no file {}; name a binary `fulcrum`", program.display());
    }
    // As a command it is looked for in PATH, were it a bare name.
    let program = program.canonicalize()?;
    let into = into.unwrap_or_else(binary::dist_dir);
    fs::create_dir_all(&into).with_context(|| format!("make {}", into.display()))?;
    let name = format!("fulcrum-{VERSION}-{}-linux", std::env::consts::ARCH);
    let root = into.join(&name);
    remove(&root)?;
    tree::make(&root, &program)?;
    let tarball = into.join(format!("{name}.tar.gz"));
    pack(&into, &name, &tarball)?;
    let package = into.join(format!("fulcrum_{VERSION}_{}.deb", deb::architecture()?));
    deb::build(&root, &package)?;
    remove(&root)?;
    println!("{}\n{}", tarball.display(), package.display());
    Ok(())
}

/// Packs a directory inside another one, as its own root's property.
fn pack(within: &Path, name: &str, tarball: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--create", "--gzip", "--sort=name"]);
    command
        .args(["--owner=root:0", "--group=root:0", "--file"])
        .arg(tarball);
    run::succeed(command.arg("--directory").arg(within).arg(name))
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        let context = || format!("remove {}", directory.display());
        fs::remove_dir_all(directory).with_context(context)?;
    }
    Ok(())
}
