//! Backends that come and go under clients which keep their port: the conntrack cases of Kubernetes' own tests.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
};

use lb_tests::{deployment::ready_endpoints, manifest::Manifest, netns::require_root, poll};

use crate::scene::{
    ECHO_PORT, ECHO_TARGET, LIMIT, PORT, SILENCE, Scene, TARGET, ask, bound, connected, is_echoed,
    manifest,
};

/// First of the ports that clients keep.
const FIXED: u16 = 7_000;

#[test]
fn a_udp_client_with_a_fixed_port_is_answered_by_the_pod_that_replaces_its_own() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1"], &[]);
    let sockets: Vec<UdpSocket> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (name, namespace, front))| {
            let socket = bound(namespace, front, FIXED + n);
            for _ in 0..3 {
                assert_eq!(
                    ask(&socket, front, LIMIT).as_deref(),
                    Some("pod-1-1"),
                    "{name}"
                );
            }
            socket
        })
        .collect();
    for replacement in ["pod-2-1", "pod-1-2"] {
        scene.serve(&[replacement]);
        scene.servers.remove("pod-1-1");
        for (socket, (name, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            // The very next datagram, and all after it.
            for _ in 0..3 {
                assert_eq!(
                    ask(socket, front, LIMIT).as_deref(),
                    Some(replacement),
                    "{name}"
                );
            }
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn a_udp_client_that_began_before_its_service_is_answered_once_it_is_there_and_there_again() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let services = |wanted: bool| {
        let agent = scene.agent();
        let is_so = |text: &str| text.contains("web") == wanted;
        let what = "the service to come or go";
        agent
            .fulcrum_until(&["get", "services"], LIMIT, what, is_so)
            .unwrap();
    };
    scene.deployment.write(&Manifest::default()).unwrap();
    services(false);
    let sockets: Vec<UdpSocket> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (name, namespace, front))| {
            let socket = bound(namespace, front, FIXED + n);
            for _ in 0..2 {
                assert_eq!(ask(&socket, front, SILENCE), None, "{name}");
            }
            socket
        })
        .collect();
    for backend in ["pod-1-1", "pod-2-1", "pod-1-2"] {
        scene.serve(&[backend]);
        for (socket, (name, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            let what = format!("{backend} to answer {name}");
            poll::until(LIMIT, &what, || {
                Ok(ask(socket, front, SILENCE).filter(|answer| answer == backend))
            })
            .unwrap();
            for _ in 0..3 {
                assert_eq!(
                    ask(socket, front, LIMIT).as_deref(),
                    Some(backend),
                    "{name}"
                );
            }
        }
        scene.deployment.write(&Manifest::default()).unwrap();
        services(false);
        // Clients go on meanwhile; nobody cares what becomes of it.
        for (socket, (_, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            ask(socket, front, SILENCE);
        }
    }
}

/// Writes the service anew with another text instead of this one.
fn rewrite(scene: &Scene, from: &str, to: &str) {
    let text = manifest(&scene.deployment.cluster, &["pod-1-1"]);
    let text = text.text().replace(from, to);
    scene.deployment.write_file("services.yaml", &text).unwrap();
}

#[test]
fn a_udp_client_with_a_fixed_port_is_answered_once_an_endpoint_gets_ready_and_again() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let sockets: Vec<UdpSocket> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (_, namespace, front))| bound(namespace, front, FIXED + n))
        .collect();
    for _ in 0..2 {
        rewrite(&scene, "ready: true", "ready: false");
        let slices = ["get", "endpointslices", "--output", "json"];
        let is_unready = |text: &str| ready_endpoints(text, "web") == Some(Vec::new());
        let agent = scene.agent();
        agent
            .fulcrum_until(&slices, LIMIT, "the endpoint to be unready", is_unready)
            .unwrap();
        for (socket, (_, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            // A flow whose backend is the last one stays; nobody cares.
            ask(socket, front, SILENCE);
        }
        rewrite(&scene, "ready: false", "ready: true");
        for (socket, (name, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            let answer = poll::until(LIMIT, "an answer", || Ok(ask(socket, front, SILENCE)));
            assert_eq!(answer.unwrap(), "pod-1-1", "{name}");
        }
    }
}

#[test]
fn a_udp_client_with_a_fixed_port_follows_its_service_to_another_target_port() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let sockets: Vec<UdpSocket> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (_, namespace, front))| bound(namespace, front, FIXED + n))
        .collect();
    let port = |target: u16| format!("ort: {target}");
    for (target, answers) in [
        (TARGET, "pod-1-1"),
        (ECHO_TARGET, "hello"),
        (TARGET, "pod-1-1"),
    ] {
        rewrite(&scene, &port(TARGET), &port(target));
        for (socket, (name, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            let what = format!("{answers:?} by {name}");
            poll::until(LIMIT, &what, || {
                Ok(ask(socket, front, SILENCE).filter(|answer| answer == answers))
            })
            .unwrap();
            for _ in 0..3 {
                let answer = ask(socket, front, LIMIT);
                assert_eq!(answer.as_deref(), Some(answers), "{name}");
            }
        }
    }
}

#[test]
fn udp_flows_stay_where_they_are_while_other_backends_come_and_go() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    let mut flows = Vec::new();
    for round in 0..4 {
        for (name, namespace, front) in scene.ways(PORT) {
            let port = FIXED + u16::try_from(flows.len()).unwrap();
            let socket = bound(namespace, front, port);
            let server = ask(&socket, front, LIMIT);
            assert!(server.is_some(), "{name}, round {round}");
            flows.push((name, socket, front, server));
        }
    }
    for guests in [&["pod-1-2", "pod-2-2"][..], &["pod-2-2"], &[], &["pod-1-2"]] {
        scene.serve(&[&["pod-1-1", "pod-2-1"][..], guests].concat());
        for (name, socket, front, server) in &flows {
            assert_eq!(ask(socket, *front, LIMIT), *server, "{name}");
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn a_tcp_connection_outlives_its_backends_part_in_the_service() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    let mut streams = Vec::new();
    for _ in 0..3 {
        for (name, namespace, front) in scene.ways(ECHO_PORT) {
            streams.push((name, connected(namespace, front)));
        }
    }
    for backends in [&["pod-1-2"][..], &[], &["pod-2-2"]] {
        scene.serve(backends);
        for (name, stream) in &mut streams {
            assert!(is_echoed(stream), "{name} with {backends:?}");
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn a_tcp_connection_is_reset_when_its_backend_has_left_if_that_is_asked_for() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &["--tcp-after-removal=reset"]);
    let connect = || {
        let ways = scene.ways(ECHO_PORT).into_iter();
        ways.map(|(name, namespace, front)| (name, connected(namespace, front)))
            .collect::<Vec<_>>()
    };
    for (here, next) in [
        ("pod-1-1", "pod-2-1"),
        ("pod-2-1", "node-1"),
        ("node-1", "pod-1-2"),
    ] {
        let mut leaving = connect();
        scene.serve(&[here, "pod-2-2"]);
        for (name, stream) in &mut leaving {
            assert!(is_echoed(stream), "{name}: {here} serves still");
        }
        scene.serve(&[next]);
        let mut staying = connect();
        let before = scene.count("reject_backend_gone");
        for (name, stream) in &mut leaving {
            assert!(is_reset(stream), "{name}: {here} has left");
        }
        let counted = scene.count("reject_backend_gone") - before;
        assert!(counted >= leaving.len() as u64, "{counted} are counted");
        scene.serve(&[next, "pod-2-2"]);
        for (name, stream) in &mut staying {
            assert!(is_echoed(stream), "{name}: {next} serves");
        }
        scene.serve(&[next]);
    }
    scene.deployment.expect_no_drops().unwrap();
}

/// A word is sent, and the connection reset.
fn is_reset(stream: &mut TcpStream) -> bool {
    let sent = stream.write_all(b"word");
    let received = stream.read(&mut [0; 4]);
    let kinds = [sent.err(), received.err()].map(|error| error.map(|error| error.kind()));
    kinds.contains(&Some(ErrorKind::ConnectionReset))
}

#[test]
fn a_udp_client_with_a_fixed_port_follows_its_service_from_node_to_pod_and_back() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["node-1"], &[]);
    let sockets: Vec<UdpSocket> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (_, namespace, front))| bound(namespace, front, FIXED + n))
        .collect();
    for (backend, before) in [
        ("node-1", None),
        ("node-2", Some("node-1")),
        ("pod-1-1", Some("node-2")),
        ("node-1", None),
        ("pod-2-1", None),
    ] {
        if backend == "node-1" && !scene.servers.contains_key(backend) {
            let again = scene.start_servers(backend);
            scene.servers.insert(backend.to_owned(), again);
        }
        scene.serve(&[backend]);
        if let Some(gone) = before {
            scene.servers.remove(gone);
        }
        for (socket, (name, _, front)) in sockets.iter().zip(scene.ways(PORT)) {
            // The very next datagram, and all after it.
            for _ in 0..3 {
                let answer = ask(socket, front, LIMIT);
                assert_eq!(answer.as_deref(), Some(backend), "{name}");
            }
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn a_client_of_a_connection_that_nobody_knows_any_more_is_told_at_once() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    for (name, namespace, front) in scene.ways(ECHO_PORT) {
        let mut stream = connected(namespace, front);
        let (before, port) = (scene.count("reject_no_flow"), stream.local_addr().unwrap());
        let from = format!("{port}");
        scene
            .agent()
            .fulcrum(&["flows", "delete", "--from", &from])
            .unwrap();
        assert!(!is_echoed(&mut stream), "{name}");
        // What the node sends to itself may be for a socket of its own: there the stack says that it is not.
        let is_the_stacks = port.ip() == front.ip();
        let is_counted = scene.count("reject_no_flow") > before;
        assert_eq!(is_counted, !is_the_stacks, "{name}");
    }
}
