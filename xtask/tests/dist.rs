//! The package and the tarball, as they are unpacked elsewhere.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The binary to pack: named by `FULCRUM_BIN`, else the one beside `xtask`; none if neither is there.
fn binary() -> Option<PathBuf> {
    let named = env::var_os("FULCRUM_BIN").map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("fulcrum");
    Some(named.unwrap_or_else(beside)).filter(|path| path.is_file())
}

/// The binary without what a debugger wants, which takes most of the time to pack.
fn stripped(binary: &Path, scratch: &Path) -> PathBuf {
    let stripped = scratch.join("stripped");
    said(Command::new("strip").arg("-o").arg(&stripped).arg(binary));
    stripped
}

/// What the command prints; it must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Modes and owners by path, of a listing in the manner of `tar -v`.
fn listed(listing: &str, prefix: &str) -> Vec<(String, String)> {
    let lines = listing.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let path = words[5].strip_prefix(prefix).unwrap();
        (path.to_owned(), format!("{} {}", words[0], words[1]))
    });
    lines.collect()
}

/// What must be in both, and how.
const EXPECTED: [(&str, &str); 15] = [
    ("etc/default/fulcrum", "-rw-r--r--"),
    ("etc/fulcrum/manifests/", "drwxr-xr-x"),
    ("etc/fulcrum/manifests/README", "-rw-r--r--"),
    ("usr/bin/fulcrum", "-rwxr-xr-x"),
    ("usr/lib/systemd/system/fulcrum.service", "-rw-r--r--"),
    (
        "usr/share/bash-completion/completions/fulcrum",
        "-rw-r--r--",
    ),
    ("usr/share/doc/fulcrum/LICENSE-APACHE", "-rw-r--r--"),
    ("usr/share/doc/fulcrum/LICENSE-MIT", "-rw-r--r--"),
    ("usr/share/doc/fulcrum/README.md", "-rw-r--r--"),
    ("usr/share/doc/fulcrum/copyright", "-rw-r--r--"),
    ("usr/share/doc/fulcrum/examples/hostname.yaml", "-rw-r--r--"),
    (
        "usr/share/fish/vendor_completions.d/fulcrum.fish",
        "-rw-r--r--",
    ),
    ("usr/share/man/man1/fulcrum-run.1.gz", "-rw-r--r--"),
    ("usr/share/man/man1/fulcrum.1.gz", "-rw-r--r--"),
    ("usr/share/zsh/vendor-completions/_fulcrum", "-rw-r--r--"),
];

#[test]
fn what_is_packed_is_complete_and_runs_where_it_is_unpacked() {
    let Some(binary) = binary() else {
        eprintln!(
            "skipped: no binary `fulcrum` to pack; build it by `cargo build`, or name it by FULCRUM_BIN"
        );
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let into = scratch.path().join("dist");
    let mut dist = Command::new(env!("CARGO_BIN_EXE_xtask"));
    dist.args(["dist", "--binary"]);
    dist.arg(stripped(&binary, scratch.path()));
    said(dist.arg("--into").arg(&into));

    let name = format!("fulcrum-{VERSION}-{}-linux", env::consts::ARCH);
    let tarball = into.join(format!("{name}.tar.gz"));
    let package = fs::read_dir(&into)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|found| found == "deb"))
        .unwrap();
    let left = fs::read_dir(&into).unwrap().count();
    assert_eq!(left, 2, "nothing but the two is left behind");

    let tar = said(Command::new("tar").arg("-tvzf").arg(&tarball));
    let contents = said(Command::new("dpkg-deb").arg("--contents").arg(&package));
    for (listing, prefix) in [(&tar, format!("{name}/")), (&contents, "./".to_owned())] {
        let listed = listed(listing, &prefix);
        for (path, mode) in EXPECTED {
            let entry = (path.to_owned(), format!("{mode} root/root"));
            assert!(listed.contains(&entry), "{entry:?} is not in\n{listing}");
        }
    }

    let field = |name| {
        let mut command = Command::new("dpkg-deb");
        said(command.arg("--field").arg(&package).arg(name))
            .trim()
            .to_owned()
    };
    assert_eq!(
        (field("Package").as_str(), field("Version").as_str()),
        ("fulcrum", VERSION)
    );
    assert!(
        field("Depends").starts_with("libc6 (>= 2."),
        "{}",
        field("Depends")
    );
    expect_runs(&scratch.path().join("tar"), |root| {
        fs::create_dir(root).unwrap();
        let mut command = Command::new("tar");
        command.args(["--strip-components=1", "-xzf"]).arg(&tarball);
        said(command.arg("-C").arg(root));
    });
    expect_runs(&scratch.path().join("deb"), |root| {
        said(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root));
    });
    expect_control(&package, &scratch.path().join("control"));
}

/// What is unpacked there says its version and has its unit.
fn expect_runs(root: &Path, unpack: impl FnOnce(&Path)) {
    unpack(root);
    let version = said(Command::new(root.join("usr/bin/fulcrum")).arg("--version"));
    assert_eq!(version.trim(), format!("fulcrum {VERSION}"));
    let unit = fs::read_to_string(root.join("usr/lib/systemd/system/fulcrum.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/fulcrum run "), "{unit}");
}

/// The scripts are those of a shell, and whatever is below /etc is the operator's.
fn expect_control(package: &Path, into: &Path) {
    said(
        Command::new("dpkg-deb")
            .arg("--control")
            .arg(package)
            .arg(into),
    );
    let conffiles = fs::read_to_string(into.join("conffiles")).unwrap();
    assert_eq!(
        conffiles,
        "/etc/default/fulcrum\n/etc/fulcrum/manifests/README\n"
    );
    for script in ["postinst", "prerm", "postrm"] {
        said(Command::new("sh").arg("-n").arg(into.join(script)));
    }
    // Where no systemd runs, nothing is started and nothing fails.
    if !Path::new("/run/systemd/system").exists() {
        for arguments in [vec!["configure"], vec!["configure", "0.0.9"]] {
            said(
                Command::new("sh")
                    .arg(into.join("postinst"))
                    .args(arguments),
            );
        }
        // An upgrade cleans nothing up: there is no `fulcrum` in this PATH that could.
        for arguments in [["upgrade", "0.2.0"], ["failed-upgrade", "0.2.0"]] {
            let mut command = Command::new("/bin/sh");
            command.env("PATH", "/nonexistent").arg(into.join("prerm"));
            said(command.args(arguments));
        }
    }
}
