//! An agent ends and another one starts in its place: connections go on where they were.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream, UdpSocket},
    process::ExitStatus,
};

use anyhow::Result;
use lb_tests::{
    balancer::{Balancer, Manifests},
    client::{self, Exchange},
    netns::require_root,
    place::Place,
};
use serde_json::Value;

use crate::scene::{ECHO_PORT, LIMIT, PORT, Scene, ask, bound, connected, is_echoed, manifest};

pub(crate) type End = fn(Balancer) -> Result<ExitStatus>;

/// As an operator does it, and as the kernel does it when memory is short.
pub(crate) const ENDS: [(&str, End); 2] =
    [("SIGTERM", Balancer::stop), ("SIGKILL", Balancer::kill)];
const BACKENDS: [&str; 2] = ["pod-1-1", "pod-2-1"];
/// Connections of one client to a service that remembers it. At any of three backends by chance: once in forty million.
const N_STICKY: usize = 16;
const STICKY: &str = "10.96.0.77";
const STICKY_FILE: &str = "sticky.yaml";

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
pub(crate) struct Client {
    pub(crate) name: String,
    stream: TcpStream,
    socket: UdpSocket,
    to: SocketAddr,
    /// Who answered its datagrams.
    pub(crate) server: String,
}

impl Client {
    /// One for every way to the service; sockets of further ones need ports of their own.
    pub(crate) fn all(scene: &Scene, first_port: u16) -> Vec<Self> {
        let ways = (first_port..).zip(scene.ways(PORT));
        ways.map(|(port, (name, namespace, to))| {
            let mut echo = to;
            echo.set_port(to.port() + ECHO_PORT - PORT);
            let socket = bound(namespace, to, port);
            Self {
                name,
                stream: connected(namespace, echo),
                server: ask(&socket, to, LIMIT).unwrap(),
                socket,
                to,
            }
        })
        .collect()
    }

    /// Its connection goes on.
    pub(crate) fn goes_on(&mut self) -> bool {
        is_echoed(&mut self.stream)
    }

    /// Who answers its datagrams now.
    pub(crate) fn server(&self) -> String {
        ask(&self.socket, self.to, LIMIT).unwrap_or_else(|| "nobody".to_owned())
    }
}

/// Every connection with its backend.
fn flows(agent: &Balancer) -> BTreeMap<[String; 3], String> {
    let text = agent.fulcrum(&["flows", "-o", "json"]).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    let word = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let flow = |row| {
        let key = ["protocol", "client", "to"].map(|key| word(row, key));
        (key, word(row, "backend"))
    };
    rows.iter().map(flow).collect()
}

#[test]
fn connections_stay_with_their_backends_over_a_restart() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    for ((name, how), first_port) in ENDS.into_iter().zip([6_000, 6_100]) {
        let mut clients = Client::all(&scene, first_port);
        let before = flows(scene.agent());
        let opened = scene.count("open");
        assert!(opened >= 2 * clients.len() as u64);
        let place = end(&mut scene, how);
        // With no agent the tables say what they said, and everybody is served.
        let told = place.fulcrum(&["flows", "-o", "json"]).unwrap();
        assert!(told.status.success(), "{told:?}");
        for client in &mut clients {
            assert!(client.goes_on(), "{name}, no agent: {}", client.name);
            assert_eq!(client.server(), client.server, "{name}, no agent");
        }
        start(&mut scene, &place, &[]);
        let log = scene.agent().log();
        assert!(
            log.contains("took over the tables of an earlier agent"),
            "{log}"
        );
        assert!(!log.contains("made anew"), "{log}");
        for client in &mut clients {
            assert!(client.goes_on(), "{name}: {}", client.name);
            assert_eq!(client.server(), client.server, "{name}: {}", client.name);
        }
        assert_eq!(
            scene.count("open"),
            opened,
            "{name}: no flow was opened anew"
        );
        let after = flows(scene.agent());
        for (flow, backend) in &before {
            assert_eq!(after.get(flow), Some(backend), "{name}: {flow:?}");
        }
        // Whoever comes new is served, too.
        for (way, namespace, to) in scene.ways(PORT) {
            let hit = namespace.run(|| client::hit(Exchange::Tcp, to));
            assert!(hit.is_ok(), "{name}: {way}: {hit:?}");
        }
        assert!(scene.count("open") > opened, "{name}: it counts on");
    }
}

#[test]
fn what_changed_while_no_agent_ran_is_found_by_the_next_one() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    scene
        .deployment
        .write_file(STICKY_FILE, &sticky(&scene))
        .unwrap();
    let tables = |place: &Place| {
        let output = place.fulcrum(&["maps", "services4"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let services = ["maps", "services4"];
    let has_it = |text: &str| text.contains(STICKY);
    let agent = scene.agent();
    agent
        .fulcrum_until(&services, LIMIT, "the other service", has_it)
        .unwrap();
    let mut clients = Client::all(&scene, 6_000);
    let left = |clients: &[Client]| {
        clients
            .iter()
            .filter(|client| client.server == "pod-1-1")
            .count()
    };
    assert!(left(&clients) > 0, "somebody is with the backend that goes");
    for (name, how) in ENDS {
        let place = end(&mut scene, how);
        assert_eq!(
            tables(&place).contains(STICKY),
            name == "SIGTERM",
            "as it was left"
        );
        let cluster = &scene.deployment.cluster;
        scene
            .deployment
            .write(&manifest(cluster, &["pod-2-1"]))
            .unwrap();
        scene.deployment.write_file(STICKY_FILE, "").unwrap();
        start(&mut scene, &place, &[]);
        assert!(!tables(&place).contains(STICKY), "its service is gone");
        for client in &mut clients {
            assert_eq!(client.server(), "pod-2-1", "{name}: {}", client.name);
            assert!(client.goes_on(), "{name}: TCP stays: {}", client.name);
        }
    }
}

#[test]
fn clients_are_remembered_over_a_restart() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    scene
        .deployment
        .write_file(STICKY_FILE, &sticky(&scene))
        .unwrap();
    let to = SocketAddr::new(STICKY.parse().unwrap(), PORT);
    let ask = |scene: &Scene| {
        let (_, namespace) = scene.clients()[0];
        namespace.run(|| client::hit(Exchange::Tcp, to))
    };
    let first =
        lb_tests::poll::until(LIMIT, "the service to answer", || Ok(ask(&scene).ok())).unwrap();
    for (name, how) in ENDS {
        let place = end(&mut scene, how);
        start(&mut scene, &place, &[]);
        for _ in 0..N_STICKY {
            assert_eq!(ask(&scene).unwrap(), first, "{name}");
        }
    }
}

/// A service that remembers its clients, with three pods.
fn sticky(scene: &Scene) -> String {
    let pods = ["pod-1-1", "pod-1-2", "pod-2-1"];
    let endpoints = pods.map(|pod| format!("{{addresses: [{}]}}", scene.pod_addr(pod, 0)));
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: sticky}}
spec:
  clusterIP: {STICKY}
  sessionAffinity: ClientIP
  ports: [{{port: {PORT}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: sticky-1, labels: {{kubernetes.io/service-name: sticky}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints: [{}]
",
        endpoints.join(", ")
    )
}
