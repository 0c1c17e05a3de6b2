//! Manifests in, tables out: one file in `testdata` per behaviour, and one test per file and kind of tables.
//!
//! Every scenario runs on tables in memory, and as root on the kernel's maps, which must say the same. At its end the
//! manifests go away, and with them whatever stands in the tables. `UPDATE_SCENARIOS=1` writes down what is to be seen
//! now; review the difference. The format is that of [`script`].

mod node;
mod script;

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use lb_common::abi::NodeConfig;
use lb_tests::{netns::require_root, progrun::Datapath};
use lb_user::{
    apply::{FakeMaps, LbMaps},
    plan::{Capacity, Ledger},
};

use self::{
    node::{Node, Observed},
    script::{Expected, Scene, Script, Topic},
};

const EXTENSION: &str = "scenario";
/// Rewrites what is expected.
const UPDATE_VARIABLE: &str = "UPDATE_SCENARIOS";
/// No packet comes by: the smallest table of flows will do.
const FLOW_TABLE_SIZE: u32 = 64;

/// One test per scenario and kind of tables.
macro_rules! scenarios {
    ($($name:ident,)+) => {
        const LISTED: &[&str] = &[$(stringify!($name)),+];

        mod memory {
            $(#[test]
            fn $name() {
                super::in_memory(stringify!($name));
            })+
        }

        mod kernel {
            $(#[test]
            fn $name() {
                super::in_kernel(stringify!($name));
            })+
        }
    };
}

scenarios! {
    address_allocated,
    address_asked_for,
    address_clash,
    algorithm,
    cluster_ip_dual_stack,
    conditions_not_given,
    endpoint_added_and_removed,
    endpoint_not_ready,
    endpoints_mirrored,
    family_added_and_removed,
    file_broken,
    frontend_moves,
    frontends_exchanged,
    headless_and_external_name,
    ids_rest,
    json_and_lists,
    labels_of_other_proxies,
    local_endpoints,
    named_target_ports,
    namespaces_apart,
    node_ports,
    port_changed,
    protocols_share_a_port,
    publish_not_ready_addresses,
    sctp_and_external_ips,
    selectorless,
    service_recreated,
    slices_ignored,
    slices_merged,
    terminating_endpoints,
    topology_hints,
    traffic_policies,
    udp_backend_retired,
    weights,
    without_endpoints,
}

#[test]
fn every_file_is_listed() {
    let mut files: Vec<_> = fs::read_dir(testdata())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension() == Some(OsStr::new(EXTENSION)))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(
        files, LISTED,
        "the list of scenarios is that of their files"
    );
}

fn in_memory(name: &str) {
    let capacity = Capacity::default();
    let (maps, ledger) = (FakeMaps::new(capacity), Ledger::new(capacity));
    let settle = if is_update() {
        Seen::write
    } else {
        Seen::check
    };
    let outcome = play(name, maps, ledger).and_then(settle);
    outcome.unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

fn in_kernel(name: &str) {
    if is_update() {
        println!("skipped: the scenarios are being rewritten");
        return;
    }
    if !require_root() {
        return;
    }
    let play = || {
        let Datapath { tables, .. } = Datapath::load(NodeConfig::default(), FLOW_TABLE_SIZE, &[])?;
        let ledger = Ledger::new(tables.capacity());
        play(name, tables, ledger)?.check()
    };
    play().unwrap_or_else(|error| panic!("{name}: {error:#}"));
}

/// A scenario and what was to be seen after each of its scenes.
#[derive(Debug)]
struct Seen {
    path: PathBuf,
    script: Script,
    observed: Vec<Observed>,
}

/// Carries out a scenario on empty tables.
fn play(name: &str, maps: impl LbMaps, ledger: Ledger) -> Result<Seen> {
    let path = testdata().join(name).with_extension(EXTENSION);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let script = Script::parse(&text)?;
    let mut node = Node::new(maps, ledger)?;
    let scenes = script.scenes.iter();
    let observed = scenes
        .map(|scene| node.change(&scene.changes))
        .collect::<Result<_>>()?;
    let left = node.clear()?;
    ensure!(left.is_empty(), "without manifests the tables say:\n{left}");
    Ok(Seen {
        path,
        script,
        observed,
    })
}

impl Seen {
    /// Fails with every block that differs.
    fn check(self) -> Result<()> {
        let scenes = self.script.scenes.iter().zip(&self.observed);
        let differences: String = scenes
            .map(|(scene, observed)| differences(scene, observed))
            .collect();
        ensure!(
            differences.is_empty(),
            "{}\n{differences}{UPDATE_VARIABLE}=1 writes down what is to be seen; review the difference",
            self.path.display()
        );
        Ok(())
    }

    /// Rewrites the scenario with what was to be seen.
    fn write(mut self) -> Result<()> {
        for (scene, observed) in self.script.scenes.iter_mut().zip(&self.observed) {
            for expected in &mut scene.expected {
                observed
                    .about(expected.topic)
                    .clone_into(&mut expected.text);
            }
        }
        write_if_new(&self.path, &self.script.to_string())?;
        // What no block expects is not written down by itself.
        self.check()
    }
}

fn differences(scene: &Scene, observed: &Observed) -> String {
    let mut text = String::new();
    let mut compare = |line: &str, topic: Topic, expected: &str| {
        let actual = observed.about(topic);
        if actual != expected {
            let _ = writeln!(
                text,
                "{line}: other {topic}:\n{expected}than now:\n{actual}"
            );
        }
    };
    for Expected { topic, line, text } in &scene.expected {
        compare(&format!("line {line}"), *topic, text);
    }
    let is_missing = |expected: &Expected| expected.topic != Topic::Findings;
    if scene.expected.iter().all(is_missing) {
        compare("no block", Topic::Findings, "");
    }
    text
}

fn write_if_new(path: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(path)? == text {
        return Ok(());
    }
    fs::write(path, text)
}

fn is_update() -> bool {
    env::var_os(UPDATE_VARIABLE).is_some_and(|value| value == "1")
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}
