//! The Debian package: what dpkg has to know beside the files.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{VERSION, tree};
use crate::{run, workspace};

/// Run by dpkg before and after it does something.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];
/// The names of the C library's versions begin so.
const GLIBC: &[u8] = b"GLIBC_2.";

/// Debian's name of the architecture that this program is built for.
pub(super) fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("Debian's name of {other} is not known; add it in xtask/src/dist/deb.rs"),
    }
}

/// Makes a package out of a tree, into which its description goes.
pub(super) fn build(root: &Path, package: &Path) -> Result<()> {
    let files = tree::files(root)?;
    let control = root.join("DEBIAN");
    let mut n_bytes = 0;
    for file in &files {
        n_bytes += fs::metadata(root.join(file))?.len();
    }
    let kept = files.iter().filter(|file| file.starts_with("etc"));
    let kept: String = kept
        .flat_map(|file| ["/".to_owned(), file.display().to_string(), "\n".to_owned()])
        .collect();
    tree::write(&control.join("conffiles"), kept.as_bytes())?;
    let binary = root.join("usr/bin/fulcrum");
    let binary = fs::read(&binary).with_context(|| format!("read {}", binary.display()))?;
    let text = description(n_bytes.div_ceil(1024), least_glibc(&binary))?;
    tree::write(&control.join("control"), text.as_bytes())?;
    for name in SCRIPTS {
        let source = workspace::root().join("lb-user/dist/debian").join(name);
        let text = fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        let script = control.join(name);
        tree::write(&script, &text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(&control, fs::Permissions::from_mode(0o755))?;
    // Most of it is one program, for which gzip is nearly as good and many times as quick as xz.
    let mut command = Command::new("dpkg-deb");
    command.args(["-Zgzip", "--root-owner-group", "--build"]);
    run::succeed(command.arg(root).arg(package))
}

fn description(n_kib: u64, glibc: u32) -> Result<String> {
    let architecture = architecture()?;
    Ok(format!(
        "Package: fulcrum
Version: {VERSION}
Architecture: {architecture}
Maintainer: The authors of fulcrum <fulcrum@localhost>
Installed-Size: {n_kib}
Depends: libc6 (>= 2.{glibc}), libgcc-s1, init-system-helpers
Recommends: mount
Suggests: bpftool, iproute2
Section: net
Priority: optional
Description: Kubernetes Services in eBPF, from a directory of manifests
 An agent that serves Kubernetes Services on a node: ClusterIPs, node ports and
 external addresses, for pods, the node's own processes and clients outside.
 It needs neither an API server nor kube-proxy nor netfilter, but Linux 6.1 or
 newer.
"
    ))
}

/// The least minor version of the GNU C library 2 that has all that the program asks of it.
fn least_glibc(binary: &[u8]) -> u32 {
    let names = binary.windows(GLIBC.len()).enumerate();
    let minors = names.filter(|(_, window)| *window == GLIBC).map(|(at, _)| {
        let digits = binary[at + GLIBC.len()..].iter();
        let digits = digits.take_while(|byte| byte.is_ascii_digit()).take(3);
        digits.fold(0, |minor, digit| minor * 10 + u32::from(digit - b'0'))
    });
    minors.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_c_library_that_is_named_is_needed() {
        let names = b"\0GLIBC_2.2.5\0GLIBC_2.34\0xGLIBC_2.9\0GLIBC_PRIVATE";
        assert_eq!(least_glibc(names), 34);
        assert_eq!(least_glibc(b"GLIBC_2."), 0);
        assert_eq!(least_glibc(b"static"), 0);
    }
}
