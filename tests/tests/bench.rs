//! The bench runs, with numbers that say nothing: every row that it promises is there, and every packet that it sent has
//! arrived.

use std::{collections::BTreeSet, process::Command};

use lb_tests::{hooks, netns::require_root};
use serde_json::Value;

/// Services of the larger kind, and of those that are loaded, in a run of this size.
const MANY: u64 = 20;
const LOADED: [u64; 2] = [20, 40];

#[test]
fn every_row_is_there_and_every_packet_arrives() {
    if !require_root() {
        return;
    }
    if !hooks::are_links() {
        println!("skipped: the bench needs links for TC, which this kernel lacks");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let output = Command::new(env!("CARGO_BIN_EXE_lb-bench"))
        .args(["--tiny", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let text = std::fs::read_to_string(&json).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]));
    let rows = report["rows"].as_array().unwrap();
    let found: BTreeSet<_> = rows.iter().map(key).collect();
    assert_eq!(found, expected());
    for row in rows {
        assert!(!row["samples"].as_array().unwrap().is_empty(), "{row}");
        if let Some(packets) = row["packets"].as_array() {
            assert!(packets[0].as_u64() > Some(0), "{row}");
            assert_eq!(packets[0], packets[1], "{row}");
        }
    }
    let counted = rows.iter().filter(|row| row["packets"].is_array()).count();
    let met_as_packets = contenders().filter(|(name, _)| !name.starts_with("connect-time"));
    assert_eq!(counted, 3 * met_as_packets.count());
    // A goal is there for each pair of rows that it speaks of.
    assert_eq!(report["bar"].as_array().unwrap().len(), 17);
}

type Key = (String, String, u64);

fn key(row: &Value) -> Key {
    let text = |name: &str| row[name].as_str().expect("a text").to_owned();
    let services = row["services"].as_u64().expect("a number");
    (text("measure"), text("name"), services)
}

/// Who is compared, with how many services.
fn contenders() -> impl Iterator<Item = (&'static str, u64)> {
    let with = [
        "xdp",
        "tc",
        "connect-time",
        "connect-time+tc",
        "nftables",
        "iptables",
    ];
    let without = ["forwarding", "forwarding-again"];
    let with = with.into_iter().flat_map(|name| [(name, 1), (name, MANY)]);
    with.chain(without.map(|name| (name, 0)))
}

fn expected() -> BTreeSet<Key> {
    let mut keys = BTreeSet::new();
    let mut add = |measure: &str, name: &str, services: u64| {
        keys.insert((measure.to_owned(), name.to_owned(), services));
    };
    for (name, services) in contenders() {
        // It is a socket's address that is met there, and no packet's.
        if !name.starts_with("connect-time") {
            for measure in ["established-few", "established-many", "first-packet"] {
                add(measure, name, services);
            }
        }
        // Both of its ends are one: there are no sockets to talk to each other.
        if name != "xdp" {
            for measure in ["connection", "connect-middle", "connect-tail", "stream"] {
                add(measure, name, services);
            }
        }
        if ["nftables", "iptables"].contains(&name) {
            add("load", name, services);
        }
    }
    for services in LOADED {
        for measure in [
            "parse-json",
            "parse-yaml",
            "compile",
            "plan",
            "write",
            "load",
            "ready",
            "seen",
            "change",
            "followed",
            "service-seen",
            "service-change",
            "memory",
            "memory-each",
            "memory-peak",
            "tables",
        ] {
            add(measure, "tc", services);
        }
    }
    for host in ["xdp", "tc"] {
        for (measure, peers) in [
            ("run-pass", &[][..]),
            ("run-miss", &[]),
            ("run-open", &["stateless"]),
            ("run-hit-one", &["stateless", "lru-fib", "service-lru-fib"]),
            ("run-hit-many", &["stateless", "lru-fib", "service-lru-fib"]),
            ("run-hit-most", &["stateless", "lru-fib", "service-lru-fib"]),
        ] {
            add(measure, host, 0);
            for peer in peers.iter().chain(&["empty"]) {
                add(measure, &format!("{host} {peer}"), 0);
            }
        }
    }
    keys
}
