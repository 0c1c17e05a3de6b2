//! What is found in the place of an agent's tables when the next one starts: of a wrong form, damaged, half grown, or to be
//! removed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use aya::maps::{Array, IterableMap as _, MapData};
use lb_common::abi::map;
use lb_tests::{
    balancer::Balancer,
    client::{self, Exchange},
    netns::require_root,
    place::Place,
};
use lb_user::apply::{BpfMaps, LbMaps as _};

use crate::{
    handover::{Client, end, start},
    scene::{PHASE_LIMIT, PORT, Scene},
};

const BACKENDS: [&str; 2] = ["pod-1-1", "pod-2-1"];

/// The directory of the maps that an agent has left.
fn maps(place: &Place) -> PathBuf {
    let only = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap();
        let mut paths = entries.map(|entry| entry.unwrap().path());
        paths.find(|path| !path.ends_with("links")).unwrap()
    };
    only(&only(&place.bpffs().join("fulcrum"))).join("maps")
}

/// Puts an array of words in the place of a map.
fn replace(place: &Place, name: &str) {
    let path = maps(place).join(name);
    fs::remove_file(&path).unwrap();
    let other = Array::<MapData, u32>::create(3, 0).unwrap();
    other.map().pin(&path).unwrap();
}

fn expect_new_connections(scene: &Scene) {
    for (way, namespace, to) in scene.ways(PORT) {
        let hit = namespace.run(|| client::hit(Exchange::Tcp, to));
        assert!(hit.is_ok(), "{way}: {hit:?}");
    }
}

#[test]
fn a_map_that_does_not_fit_is_made_anew_and_said_to_be() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    let mut clients = Client::all(&scene, 6_000);
    let place = end(&mut scene, Balancer::stop);
    replace(&place, map::COUNTERS);
    start(&mut scene, &place, &[]);
    let log = scene.agent().log();
    assert!(
        log.contains("map counters is made anew: it is array of 3 entries with keys of 4 and values of 4 bytes"),
        "{log}"
    );
    assert!(
        !log.contains("connections of an earlier agent are forgotten"),
        "{log}"
    );
    assert_eq!(scene.count("open"), 0);
    for client in &mut clients {
        assert!(client.goes_on(), "nothing relies on counters");
    }
    let place = end(&mut scene, Balancer::kill);
    replace(&place, map::BACKENDS6);
    start(&mut scene, &place, &[]);
    let log = scene.agent().log();
    for message in [
        "map backends6 is made anew: it is array of 3 entries",
        "map flows4 is made anew: it relies on backends6, which is made anew",
        "connections of an earlier agent are forgotten",
    ] {
        assert!(log.contains(message), "{message}: {log}");
    }
    expect_new_connections(&scene);
}

#[test]
fn damaged_tables_are_made_anew_and_the_agent_serves() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    let place = end(&mut scene, Balancer::stop);
    let mut tables = BpfMaps::open(&maps(&place)).unwrap();
    let (key, mut service) = tables.services().unwrap().pop_first().unwrap();
    service.id = 0;
    tables.put_service(&key, &service).unwrap();
    drop(tables);
    start(&mut scene, &place, &[]);
    let log = scene.agent().log();
    assert!(
        log.contains("map slots is made anew: the tables are damaged: the entry of "),
        "{log}"
    );
    assert!(log.contains("names a service that cannot be"), "{log}");
    expect_new_connections(&scene);
}

#[test]
fn a_flow_table_of_another_size_keeps_its_connections() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &["--flow-table-size=1024"]);
    let mut clients = Client::all(&scene, 6_000);
    let size = |scene: &Scene| {
        let text = scene.agent().fulcrum(&["maps", "-o", "json"]).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        let of = |name: &str| {
            let mut rows = list.as_array().unwrap().iter();
            let row = rows.find(|row| row["name"] == name).unwrap();
            row["max_entries"].as_u64().unwrap()
        };
        [of(map::FLOWS4), of(map::FLOWS6)]
    };
    assert_eq!(size(&scene), [1_024; 2]);
    // An agent that is asked for another size lets the tables grow at once; each ends in another phase of that, and what it
    // has begun the next one finishes.
    let phases = [
        ("Announced", 8_192),
        ("Diverted", 16_384),
        ("Grown", 32_768),
    ];
    for (phase, wanted) in phases {
        let place = end(&mut scene, Balancer::kill);
        start(
            &mut scene,
            &place,
            &[&format!("--flow-table-size={wanted}")],
        );
        let line = format!("programs swapped phase={phase}");
        log_says(&scene, &line);
        let place = end(&mut scene, Balancer::kill);
        for client in &mut clients {
            assert!(client.goes_on(), "{phase}, no agent: {}", client.name);
        }
        start(&mut scene, &place, &[]);
        // The size is what its pin says, which is given last.
        let what = format!("the table to grow on from {phase}");
        let has_grown = || Ok(size(&scene).contains(&wanted).then_some(()));
        lb_tests::poll::until(PHASE_LIMIT, &what, has_grown).unwrap();
        for client in &mut clients {
            assert!(client.goes_on(), "{phase}: {}", client.name);
        }
    }
}

/// Waits until the agent has said so.
fn log_says(scene: &Scene, line: &str) {
    lb_tests::poll::until(PHASE_LIMIT, line, || {
        Ok(scene.agent().log().contains(line).then_some(()))
    })
    .unwrap();
}

/// `fulcrum cleanup` in the network namespace of the node.
fn cleanup(scene: &Scene, place: &Place, flags: &[&str]) -> Output {
    let node = &scene.deployment.cluster.nodes[0].namespace;
    place.cleanup(node, flags).unwrap()
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_cleanup_removes_every_trace_of_an_agent_that_has_ended() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    let pid = scene.agent().pid();
    let place = scene.agent().place().clone();
    for flags in [&[][..], &["--dry-run"]] {
        let refused = cleanup(&scene, &place, flags);
        assert!(!refused.status.success());
        let expected = format!("an agent with process id {pid} runs in ");
        assert!(said(&refused).1.contains(&expected), "{refused:?}");
    }
    end(&mut scene, Balancer::kill);
    let devices = || {
        let node = &scene.deployment.cluster.nodes[0].namespace;
        let mut command = node.command("ip");
        let output = command.args(["link", "show", "fulcrum0"]).output();
        output.unwrap().status.success()
    };
    assert!(devices(), "nobody had the time to remove it");
    let would = cleanup(&scene, &place, &["--dry-run"]);
    let (would, message) = said(&would);
    assert!(
        would.contains("would remove device fulcrum0\n"),
        "{would}{message}"
    );
    let slots = maps(&place).join(map::SLOTS);
    assert!(
        would.contains(&format!("would remove pin {}\n", slots.display())),
        "{would}"
    );
    assert!(devices() && slots.exists(), "nothing was done");
    let (removed, _) = said(&cleanup(&scene, &place, &[]));
    assert_eq!(removed, would.replace("would remove", "removed"));
    assert!(!devices() && !place.bpffs().join("fulcrum").exists());
    assert!(
        place.run_dir().join("lock").exists(),
        "the run directory stays"
    );
    let again = cleanup(&scene, &place, &[]);
    let (text, message) = said(&again);
    assert!(again.status.success() && text.is_empty(), "{again:?}");
    assert!(
        message.starts_with("Nothing is left of an agent of "),
        "{message}"
    );
    let (text, _) = said(&cleanup(&scene, &place, &["-o", "json"]));
    assert_eq!(text.trim(), "[]");
    // And the next agent begins anew.
    start(&mut scene, &place, &[]);
    let log = scene.agent().log();
    assert!(!log.contains("earlier agent"), "{log}");
    expect_new_connections(&scene);
}
