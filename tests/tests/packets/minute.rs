//! A minute in which the agent is killed every two seconds wherever it is then, is upgraded at half time, and has its
//! manifests rewritten each time.

use std::time::{Duration, Instant};

use lb_tests::{
    balancer::{Balancer, Manifests, next_binary},
    netns::require_root,
    poll,
};

use crate::{
    scene::{LIMIT, Scene, manifest},
    unbroken::expect_nothing_lost,
};

const LASTS: Duration = Duration::from_mins(1);
const EVERY: Duration = Duration::from_secs(2);
/// The first of what an agent says.
const STARTED: &str = " INFO this node ";

/// Agents follow each other as they are killed; the last one comes to serve.
fn kill_and_upgrade(scene: &Scene, agents: &mut Vec<Balancer>, settle: &dyn Fn(&str)) {
    let cluster = &scene.deployment.cluster;
    let node = &cluster.nodes[0];
    let path = scene.deployment.path("");
    let manifests = Manifests::Path(&path);
    let mut agent = agents.remove(0);
    let own = agent.place().clone();
    let next = own.of_build(next_binary().unwrap());
    // Old backends stay, so that nobody has to leave the one that it is with.
    let backends: [&[&str]; 2] = [&["pod-1-1", "pod-2-1", "pod-1-2"], &["pod-1-1", "pod-2-1"]];
    let began = Instant::now();
    for backends in backends.into_iter().cycle() {
        let until = Instant::now() + EVERY;
        poll::until(LIMIT, "its time to be over", || {
            Ok((Instant::now() >= until).then_some(()))
        })
        .unwrap();
        scene
            .deployment
            .write(&manifest(cluster, backends))
            .unwrap();
        agent.kill().unwrap();
        let elapsed = began.elapsed();
        if elapsed >= LASTS {
            break;
        }
        let place = if elapsed < LASTS / 2 { &own } else { &next };
        agent = Balancer::start_until(place, node, manifests, STARTED).unwrap();
    }
    settle("without an agent");
    agents.insert(0, Balancer::start_at(&next, node, manifests, &[]).unwrap());
    settle("with an agent that came to serve");
}

#[test]
fn nothing_is_lost_in_a_minute_of_kills_rewritten_manifests_and_an_upgrade() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    expect_nothing_lost(&mut scene, kill_and_upgrade);
}
