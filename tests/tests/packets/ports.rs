//! Source ports for connections whose own are taken: out of the range, then those of the uplink's further addresses, and
//! what becomes of the one that finds none.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use lb_tests::{netns::require_root, poll, topology::UPLINK};
use serde_json::Value;

use crate::scene::{LIMIT, PORT, SILENCE, Scene, ask, cluster};

/// What all clients dial from.
const OWN: u16 = 7_000;
/// The whole range of ports that they may get instead.
const RANGED: u16 = 20_000;
/// Addresses of the node besides its own, of each family.
const FURTHER: [[&str; 2]; 2] = [
    ["198.18.0.21", "198.18.0.22"],
    ["fd00:198:18::21", "fd00:198:18::22"],
];
/// Addresses of the client: as many as there are pairs of the node's addresses and ports, and one.
const CLIENTS: u8 = 7;

fn client_addr(n: u8, family: usize) -> IpAddr {
    [
        format!("198.18.0.{}", 100 + n),
        format!("fd00:198:18::{}", 100 + n),
    ][family]
        .parse()
        .unwrap()
}

/// A socket with the same port at each of the client's addresses.
fn sockets(scene: &Scene, family: usize) -> Vec<UdpSocket> {
    let client = &scene.deployment.cluster.client.namespace;
    let bound = |n| client.run(|| UdpSocket::bind((client_addr(n, family), OWN)).unwrap());
    (0..CLIENTS).map(bound).collect()
}

/// The sources by which the backend sees the clients of this port, of one family.
fn sources(scene: &Scene, front: SocketAddr) -> BTreeSet<SocketAddr> {
    let to = front.to_string();
    let text = scene.agent().fulcrum(&["flows", "--to", &to, "-o", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&text.unwrap()).unwrap();
    rows.iter()
        .map(|row| row["source"].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_connection_whose_port_is_taken_gets_another_until_there_is_none() {
    if !require_root() {
        return;
    }
    let cluster = cluster();
    let outside = &cluster.client.namespace;
    for (family, len) in [24, 64].into_iter().enumerate() {
        let nodad = if family == 1 { " nodad" } else { "" };
        let add = |ip: &str| format!("addr add {ip}/{len} dev {UPLINK}{nodad}");
        cluster.nodes[0]
            .namespace
            .ip(&FURTHER[family].map(add))
            .unwrap();
        let clients = (0..CLIENTS).map(|n| add(&client_addr(n, family).to_string()));
        outside.ip(&clients.collect::<Vec<_>>()).unwrap();
    }
    let range = format!("--snat-ports={RANGED}-{RANGED}");
    let scene = Scene::on(cluster, &["pod-2-1"], &[&range]);
    for (family, further) in FURTHER.into_iter().enumerate() {
        let [front, _] = scene.fronts(family, PORT);
        let sockets = sockets(&scene, family);
        let (last, first) = sockets.split_last().unwrap();
        for (n, socket) in first.iter().enumerate() {
            let answer = ask(socket, front, LIMIT);
            assert_eq!(answer.as_deref(), Some("pod-2-1"), "client {n} to {front}");
        }
        let own = scene.deployment.cluster.nodes[0].addresses.both()[family];
        let further = further.map(|ip| ip.parse().unwrap());
        let all = [own].into_iter().chain(further);
        let wanted = all.flat_map(|ip| [OWN, RANGED].map(|port| SocketAddr::new(ip, port)));
        assert_eq!(sources(&scene, front), wanted.collect());

        // Nothing is left; everybody else is served as before, and whoever goes makes room.
        let before = scene.count("drop_port_in_use");
        assert_eq!(ask(last, front, SILENCE), None, "{front}");
        assert_eq!(scene.count("drop_port_in_use"), before + 1);
        for socket in first {
            assert!(ask(socket, front, LIMIT).is_some(), "{front}");
        }
        let gone = first[0].local_addr().unwrap().to_string();
        scene
            .agent()
            .fulcrum(&["flows", "delete", "--from", &gone])
            .unwrap();
        assert!(ask(last, front, LIMIT).is_some(), "{front}");
    }
    let agent = scene.agent();
    poll::until(LIMIT, "the log to name the flag", || {
        let log = agent.log();
        let is_told = log.contains("drop_port_in_use rises") && log.contains("--snat-ports");
        Ok(is_told.then_some(()))
    })
    .unwrap();
}
