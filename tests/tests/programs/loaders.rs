//! The object under another loader: `bpftool`, which is libbpf, takes it and prints its tables with field names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use lb_common::{abi::service_flags, net::addr::Addr4};
use lb_tests::netns::require_root;
use lb_user::{
    apply::{BpfMaps, LbMaps},
    loader::object::OBJECT,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::Vip;

/// A BPF filesystem of the test's own; everything pinned in it goes with it.
struct Bpffs(TempDir);

impl Bpffs {
    fn new() -> Self {
        // libbpf turns the dots of a pin's path into underscores.
        let dir = tempfile::Builder::new()
            .prefix("fulcrum-bpffs-")
            .tempdir()
            .unwrap();
        mount(
            Some("bpf"),
            dir.path(),
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        Self(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Never hides the failure of a test; the directory then stays, and its path says what it was.
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
fn bpftool_loads_the_object_and_names_the_fields_of_its_tables() {
    if !require_root() || !bpftool_is_here() {
        return;
    }
    let (files, pins) = (TempDir::new().unwrap(), Bpffs::new());
    let object = files.path().join("lb-ebpf.o");
    fs::write(&object, OBJECT).unwrap();
    let maps = pins.join("maps");
    fs::create_dir(&maps).unwrap();
    bpftool(&[
        "prog",
        "loadall",
        text(&object),
        text(&pins.join("programs")),
        "pinmaps",
        text(&maps),
    ]);

    let port = Vip::Local.port::<Addr4>(6);
    let mut tables = BpfMaps::open(&maps).unwrap();
    tables
        .put_service(&port.frontends[0], &port.entry(3))
        .unwrap();

    let dump = bpftool(&["-j", "map", "dump", "pinned", text(&maps.join("services4"))]);
    let none = json!({"base": 0, "count": 0});
    let expected = json!([{
        "key": {"addr": {"be32": u32::from_ne_bytes([10, 96, 0, 1])}, "port": 80, "proto": 6, "pad": 0},
        "value": {
            "id": 2, "version": 3, "cluster": {"base": 2, "count": 1}, "external_local": none, "internal_local": none,
            "flags": service_flags::CLUSTER_IP, "affinity_timeout_s": 0, "guard": 0,
        },
    }]);
    let entries = dump.as_array().map_or(&[][..], Vec::as_slice);
    let formatted: Vec<&Value> = entries
        .iter()
        .map(|entry| entry.get("formatted").unwrap_or(entry))
        .collect();
    assert_eq!(json!(formatted), expected);
}

/// Without it the test is skipped, which continuous integration does not allow.
fn bpftool_is_here() -> bool {
    let here = Command::new("bpftool").arg("version").output().is_ok();
    let ci = std::env::var_os("CI").is_some_and(|value| value == *"true");
    assert!(
        here || !ci,
        "bpftool is not installed, and skipping is forbidden here"
    );
    if !here {
        println!("skipped: bpftool is not installed");
    }
    here
}

/// What `bpftool` prints, as JSON if it is.
fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "bpftool {}: {errors}",
        arguments.join(" ")
    );
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
