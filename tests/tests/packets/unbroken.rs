//! The agent ends and starts again and again, by force and as told, while manifests change and clients go on asking.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use lb_tests::{
    balancer::{Balancer, Manifests},
    client,
    netns::require_root,
    poll::{self, modestly, patiently},
};

use crate::{
    handover::ENDS,
    restart::{SetOnDrop, ask_until},
    scene::{ECHO_PORT, LIMIT, PORT, Scene, connected, manifest},
};

/// Times that the agent ends; each by another of the ways there are.
const ROUNDS: usize = 6;
/// Long connections of each way to the service, on a machine that is not slow throughout.
const STREAMS: usize = 16;
/// Bytes that are sent before they are read back.
const CHUNK: usize = 16_384;

/// Sends what nobody else sends, and reads it back, until it is over; returns how many bytes went there and back.
pub(crate) fn stream_until(
    is_over: &AtomicBool,
    done: &AtomicUsize,
    mut stream: TcpStream,
    seed: u64,
) -> u64 {
    stream.set_read_timeout(Some(patiently(LIMIT))).unwrap();
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut n_bytes = 0;
    let mut sent = vec![0; CHUNK];
    let mut echoed = vec![0; CHUNK];
    while !is_over.load(Ordering::Relaxed) {
        for word in sent.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_ne_bytes());
        }
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut echoed).unwrap();
        assert!(sent == echoed, "after {n_bytes} bytes");
        n_bytes += CHUNK as u64;
        done.fetch_add(1, Ordering::Relaxed);
        client::pace();
    }
    n_bytes
}

/// Long connections, and how often each went on.
fn streams(scene: &Scene) -> Vec<(TcpStream, AtomicUsize)> {
    scene
        .ways(ECHO_PORT)
        .into_iter()
        .flat_map(|(_, namespace, front): (_, _, SocketAddr)| {
            (0..modestly(STREAMS)).map(move |_| (connected(namespace, front), AtomicUsize::new(0)))
        })
        .collect()
}

/// Has the first node's agent end and another one follow, again and again; everybody must go on in between.
fn take_turns(scene: &Scene, agents: &mut Vec<Balancer>, settle: &dyn Fn(&str)) {
    let cluster = &scene.deployment.cluster;
    let manifests = scene.deployment.path("");
    for (round, (name, how)) in ENDS.into_iter().cycle().take(ROUNDS).enumerate() {
        let agent = agents.remove(0);
        let place = agent.place().clone();
        how(agent).unwrap();
        settle(&format!("after {name}"));
        // Old backends stay, so that nobody has to leave the one that it is with.
        let others: &[&str] = if round % 2 == 0 {
            &["pod-1-1", "pod-2-1", "pod-1-2"]
        } else {
            &["pod-1-1", "pod-2-1"]
        };
        scene.deployment.write(&manifest(cluster, others)).unwrap();
        let manifests = Manifests::Path(&manifests);
        let next = Balancer::start_at(&place, &cluster.nodes[0], manifests, &[]);
        agents.insert(0, next.unwrap());
        settle("with a new agent");
    }
}

/// What an agent says on its way to serving, in this order.
const STEPS: [&str; 7] = [
    " INFO this node ",
    " INFO took over the pair of an earlier agent",
    " INFO took over the tables of an earlier agent",
    " INFO sizes ",
    " INFO took over the services of an earlier agent",
    "device attached device=\"lo\"",
    "device attached device=\"lxc2\"",
];

/// Kills the first node's agent and those that follow it before they serve, each a step further.
fn kill_on_the_way(scene: &Scene, agents: &mut Vec<Balancer>, settle: &dyn Fn(&str)) {
    let node = &scene.deployment.cluster.nodes[0];
    let manifests = scene.deployment.path("");
    let manifests = Manifests::Path(&manifests);
    let agent = agents.remove(0);
    let place = agent.place().clone();
    agent.kill().unwrap();
    for step in STEPS {
        let next = Balancer::start_until(&place, node, manifests, step).unwrap();
        next.kill().unwrap();
        settle(&format!("after an end at {step:?}"));
    }
    let next = Balancer::start_at(&place, node, manifests, &[]);
    agents.insert(0, next.unwrap());
    settle("with an agent that came to serve");
}

#[test]
fn nothing_is_lost_while_agents_are_killed_on_their_way_to_serving() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    expect_nothing_lost(&mut scene, kill_on_the_way);
}

#[test]
fn nothing_is_lost_while_the_agent_ends_and_starts_and_its_manifests_change() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    expect_nothing_lost(&mut scene, take_turns);
}

/// What is done while clients ask: with the scene, its agents, and a function that waits until everybody has gone on since.
pub(crate) type Turns = fn(&Scene, &mut Vec<Balancer>, &dyn Fn(&str));

/// Everybody asks all the time while `turns` are taken, and every request is answered, every byte right.
pub(crate) fn expect_nothing_lost(scene: &mut Scene, turns: Turns) {
    let mut agents = std::mem::take(&mut scene.deployment.balancers);
    let is_over = AtomicBool::new(false);
    let askers: Vec<_> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (_, namespace, front))| (7_000 + n, namespace, front, AtomicUsize::new(0)))
        .collect();
    let streams = streams(scene);
    let (tallies, n_bytes) = thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        let is_over = &is_over;
        let clients: Vec<_> = askers
            .iter()
            .map(|(fixed, namespace, front, asked)| {
                scope.spawn(move || {
                    ask_until(is_over, asked, namespace, *front, *fixed, client::pace)
                })
            })
            .collect();
        let transfers: Vec<_> = streams
            .iter()
            .zip(1..)
            .map(|((stream, done), seed)| {
                let stream = stream.try_clone().unwrap();
                scope.spawn(move || stream_until(is_over, done, stream, seed))
            })
            .collect();
        let counts = || -> Vec<usize> {
            let asked = askers.iter().map(|way| &way.3);
            let all = asked.chain(streams.iter().map(|stream| &stream.1));
            all.map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let settle = |when: &str| {
            let since = counts();
            poll::until(LIMIT, &format!("every client to go on {when}"), || {
                let now = counts();
                let is_on = now.iter().zip(&since).all(|(now, since)| *now > since + 1);
                Ok(is_on.then_some(()))
            })
            .unwrap();
        };
        turns(scene, &mut agents, &settle);
        drop(over);
        let tallies = clients.into_iter().map(|client| client.join().unwrap());
        let tallies: Vec<_> = tallies.collect();
        let bytes = transfers
            .into_iter()
            .map(|transfer| transfer.join().unwrap());
        (tallies, bytes.collect::<Vec<u64>>())
    });
    for tally in tallies {
        assert!(tally.failures().is_empty(), "{tally}");
    }
    assert_eq!(n_bytes.len(), 12 * modestly(STREAMS));
    scene.deployment.balancers = agents;
    scene.deployment.expect_no_drops().unwrap();
}
