//! An agent ends and another one starts in its place: connections go on where they were.
//!
//! Nothing is sent while no agent runs: with the programs gone, a backend's answer would reach its client untranslated, and
//! the client's kernel would reset the connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::ExitStatus,
};

use anyhow::Result;
use lb_tests::{
    balancer::{Balancer, Manifests},
    client::{self, Exchange},
    netns::{Namespace, require_root},
    place::Place,
};
use serde_json::Value;

use crate::scene::{
    ECHO_PORT, LIMIT, PORT, Scene, TARGET, ask, bound, connected, is_echoed, manifest,
};

type End = fn(Balancer) -> Result<ExitStatus>;

/// As an operator does it, and as the kernel does it when memory is short.
const ENDS: [(&str, End); 2] = [("SIGTERM", Balancer::stop), ("SIGKILL", Balancer::kill)];

const BACKENDS: [&str; 2] = ["pod-1-1", "pod-2-1"];

/// Ends the agent of the first node.
pub(crate) fn end(scene: &mut Scene, how: End) -> Place {
    let balancer = scene.deployment.balancers.remove(0);
    let place = balancer.place().clone();
    how(balancer).unwrap();
    place
}

/// Starts another one in its place, and returns when it serves.
pub(crate) fn start(scene: &mut Scene, place: &Place, flags: &[&str]) {
    let node = &scene.deployment.cluster.nodes[0];
    let manifests = scene.deployment.path("");
    let agent = Balancer::start_at(place, node, Manifests::Path(&manifests), flags).unwrap();
    scene.deployment.balancers.insert(0, agent);
}

/// Somebody who has asked by TCP and by UDP, and goes on.
struct Client<'a> {
    name: String,
    stream: TcpStream,
    socket: UdpSocket,
    to: SocketAddr,
    /// Who answered its datagrams.
    server: String,
    namespace: &'a Namespace,
}

impl<'a> Client<'a> {
    fn all(ways: &[(String, &'a Namespace, SocketAddr)]) -> Vec<Self> {
        (6_000..)
            .zip(ways)
            .map(|(port, (name, namespace, to))| {
                let mut echo = *to;
                echo.set_port(to.port() + ECHO_PORT - PORT);
                let socket = bound(namespace, *to, port);
                Self {
                    name: name.clone(),
                    stream: connected(namespace, echo),
                    server: ask(&socket, *to, LIMIT).unwrap(),
                    socket,
                    to: *to,
                    namespace,
                }
            })
            .collect()
    }

    fn asks(&self) -> String {
        let answer = ask(&self.socket, self.to, LIMIT);
        answer.unwrap_or_else(|| format!("nobody answers {}", self.name))
    }
}

/// Every connection with its backend.
fn flows(agent: &Balancer) -> BTreeMap<[String; 3], String> {
    let text = agent.fulcrum(&["flows", "-o", "json"]).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    rows.iter()
        .map(|row| {
            let key = ["protocol", "client", "to"].map(|key| word(row, key));
            (key, word(row, "backend"))
        })
        .collect()
}

#[test]
fn connections_stay_with_their_backends_over_a_restart() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    // The scene lends its namespaces, and is altered: the clients outlive no agent's end by themselves.
    let cluster_ways = scene.ways(PORT).len();
    for (name, how) in ENDS {
        let before;
        let opened;
        let told;
        {
            let ways = scene.ways(PORT);
            assert_eq!(ways.len(), cluster_ways);
        }
        let mut clients = {
            let ways = scene.ways(PORT);
            let clients = Client::all(&ways);
            let parts = clients.into_iter().map(|client| {
                let Client {
                    name,
                    stream,
                    socket,
                    to,
                    server,
                    ..
                } = client;
                (name, stream, socket, to, server)
            });
            parts.collect::<Vec<_>>()
        };
        before = flows(scene.agent());
        opened = scene.count("open");
        assert!(opened >= 2 * clients.len() as u64);
        let place = end(&mut scene, how);
        // With no agent the tables say what they said.
        told = place.fulcrum(&["flows", "-o", "json"]).unwrap();
        assert!(told.status.success(), "{told:?}");
        start(&mut scene, &place, &[]);
        let log = scene.agent().log();
        assert!(log.contains("took over the tables of an earlier agent"), "{log}");
        assert!(!log.contains("made anew"), "{log}");
        for (client, stream, socket, to, server) in &mut clients {
            assert!(is_echoed(stream), "{name}: {client}");
            assert_eq!(
                ask(socket, *to, LIMIT).as_ref(),
                Some(&*server),
                "{name}: {client}"
            );
        }
        assert_eq!(scene.count("open"), opened, "{name}: no flow was opened anew");
        let after = flows(scene.agent());
        for (flow, backend) in &before {
            assert_eq!(after.get(flow), Some(backend), "{name}: {flow:?}");
        }
        // Whoever comes new is served, too.
        for (client, namespace, to) in scene.ways(PORT) {
            let hit = namespace.run(|| client::hit(Exchange::Tcp, to));
            assert!(hit.is_ok(), "{name}: {client}: {hit:?}");
        }
        assert!(scene.count("open") > opened, "{name}: it counts on");
    }
}
