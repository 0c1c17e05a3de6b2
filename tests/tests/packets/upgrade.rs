//! An upgrade to a build whose flow slots are laid out otherwise: connections are carried over while packets pass.

use std::{fs, path::Path};

use lb_tests::{
    balancer::{Balancer, Manifests, next_binary},
    netns::require_root,
    place::Place,
    poll,
};

use crate::{
    handover::{Client, ENDS},
    scene::{PHASE_LIMIT, Scene},
    unbroken::expect_nothing_lost,
};

/// Of a table that is replaced, in their order; an agent is killed in each of them.
const PHASES: [&str; 3] = ["Announced", "Diverted", "Grown"];

/// Nobody's time is up who waits. Of those who ask once it soon is, or there would be no source ports left in the end.
const PATIENT: &str = "--timeout-udp-stream=10m";
const SMALL: [&str; 2] = [PATIENT, "--flow-table-size=131072"];
const LARGE: [&str; 2] = [PATIENT, "--flow-table-size=262144"];

/// Starts an agent that is to have large tables.
fn start(scene: &Scene, place: &Place) -> Balancer {
    let manifests = scene.deployment.path("");
    let node = &scene.deployment.cluster.nodes[0];
    Balancer::start_at(place, node, Manifests::Path(&manifests), &LARGE).unwrap()
}

fn log_says(agent: &Balancer, line: &str) {
    let what = format!("the agent to say {line:?}");
    poll::until(PHASE_LIMIT, &what, || {
        Ok(agent.log().contains(line).then_some(()))
    })
    .unwrap();
}

/// The directories of layouts below the run directory's pins, each with what is in it.
fn layouts(place: &Place) -> Vec<(String, Vec<String>)> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let parent = place.bpffs().join("fulcrum");
    let run_dir = parent.join(&names(&parent)[0]);
    let layouts = names(&run_dir).into_iter();
    layouts
        .filter(|name| name != "links")
        .map(|name| (name.clone(), names(&run_dir.join(&name))))
        .collect()
}

/// Kills the agent while it lets a table grow, has the next release's follow, and kills that one in each phase of what
/// it does to the flow tables.
fn upgrade(scene: &Scene, agents: &mut Vec<Balancer>, settle: &dyn Fn(&str)) {
    let agent = agents.remove(0);
    let place = agent.place().clone();
    agent.stop().unwrap();
    let grows = start(scene, &place);
    log_says(&grows, "programs swapped phase=Diverted");
    grows.kill().unwrap();
    settle("after an end while the table grows");
    assert_eq!(layouts(&place)[0].0, "v4");
    let place = place.of_build(next_binary().unwrap());
    for phase in PHASES {
        let next = start(scene, &place);
        log_says(&next, &format!("programs swapped phase={phase}"));
        next.kill().unwrap();
        settle(&format!("after an end in the phase {phase}"));
    }
    let next = start(scene, &place);
    let own = (
        "v5".to_owned(),
        ["maps", "node", "trace"].map(str::to_owned).to_vec(),
    );
    poll::until(
        PHASE_LIMIT,
        "both tables to have the layout of its release",
        || Ok((layouts(&place) == [own.clone()]).then_some(())),
    )
    .unwrap();
    settle("with an agent of the next release");
    agents.insert(0, next);
}

#[test]
fn connections_outlive_an_upgrade_to_a_release_of_another_layout() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &SMALL);
    let mut idle = Client::all(&scene, 6_500);
    for client in &idle {
        // Who goes on after an answer is a stream.
        assert_eq!(client.server(), client.server, "{}", client.name);
    }
    let opened = scene.count("open");
    expect_nothing_lost(&mut scene, upgrade);
    for client in &mut idle {
        assert!(client.goes_on(), "{}", client.name);
        assert_eq!(client.server(), client.server, "{}", client.name);
    }
    assert!(scene.count("open") > opened, "it counts on");
    for (name, how) in ENDS {
        let agent = scene.deployment.balancers.remove(0);
        let place = agent.place().clone();
        how(agent).unwrap();
        scene.deployment.balancers.insert(0, start(&scene, &place));
        let log = scene.agent().log();
        assert!(!log.contains("made anew"), "{name}: {log}");
        for client in &mut idle {
            assert!(client.goes_on(), "{name}: {}", client.name);
        }
    }
}
