//! Where the stack forwards: who is stopped by a firewall, datagrams that are cut, and what becomes of connections when the
//! setting changes.

use lb_tests::{
    client::{self, UdpMode},
    firewall::Firewall,
    netns::require_root,
};

use crate::{
    handover::{Client, ENDS, end, start},
    scene::{ECHO_PORT, PORT, SILENCE, Scene, cluster},
};

const BACKENDS: [&str; 2] = ["pod-1-1", "pod-2-1"];
const FORWARD: &str = "--forward";
const CHOSEN: &str = "the stack forwards, as --forward auto says";
/// Bytes of datagrams that are cut on their way.
const LARGE: usize = 4_000;

/// Which is not the address that a backend on another node sees.
#[test]
fn a_firewall_stops_a_client_by_its_own_address() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&BACKENDS, &[FORWARD, "stack"]);
    let cluster = &scene.deployment.cluster;
    let [v4, v6] = cluster.client.addresses.both();
    let rules = [format!("ip saddr {v4}"), format!("ip6 saddr {v6}")]
        .map(|from| format!("{from} ct state new counter name stopped drop\n"));
    let wall = Firewall::new(&cluster.nodes[0].namespace, &rules.concat()).unwrap();
    for (way, namespace, to) in scene.ways(PORT) {
        let stopped = wall.count("stopped").unwrap();
        if way.starts_with("outside") {
            let tried = namespace.run(|| client::try_connect(to, SILENCE));
            assert!(tried.unwrap().is_none(), "{way}");
            assert!(wall.count("stopped").unwrap() > stopped, "{way}");
        } else {
            namespace.run(|| client::tcp_hit(to)).unwrap();
        }
    }
}

#[test]
fn rules_for_forwarded_packets_make_the_stack_forward_by_themselves() {
    if !require_root() {
        return;
    }
    let cluster = cluster();
    Firewall::new(&cluster.nodes[0].namespace, "").unwrap();
    let scene = Scene::on(cluster, &BACKENDS, &[FORWARD, "auto"]);
    let [here, there] = &scene.deployment.balancers[..] else {
        panic!("two agents");
    };
    assert!(here.log().contains(CHOSEN), "{}", here.log());
    assert!(
        here.log().contains("inet guard chain forward (policy drop"),
        "{}",
        here.log()
    );
    let node = &scene.deployment.cluster.nodes[0].namespace;
    let output = node.run(|| here.place().fulcrum(&["check"])).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains(") sees traffic to services, which the stack forwards"),
        "{said}"
    );
    assert!(!there.log().contains(CHOSEN), "{}", there.log());
    for client in &mut Client::all(&scene, 6_000) {
        assert!(client.goes_on(), "{}", client.name);
    }
}

/// Both ways, and with a firewall in between that knows none but whole connections.
#[test]
fn large_datagrams_are_cut_and_put_together() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&BACKENDS, &[FORWARD, "stack"]);
    let node = &scene.deployment.cluster.nodes[0].namespace;
    let payload: Vec<u8> = (0..LARGE).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let everybody_is_echoed = |when: &str| {
        // The node itself is told how much its way takes, and cuts what it sends.
        let others = |(way, ..): &(String, _, _)| !way.starts_with("node");
        for (way, namespace, to) in scene.ways(ECHO_PORT).into_iter().filter(others) {
            for _ in 0..4 {
                let echoed = namespace.run(|| {
                    let socket = client::udp_socket(UdpMode::Connected, to)?;
                    client::echoed_datagram(&socket, &payload)
                });
                assert!(
                    echoed.as_ref().is_ok_and(|it| *it == payload),
                    "{when}: {way}: {echoed:?}"
                );
            }
        }
    };
    everybody_is_echoed("without a firewall");
    let wall = Firewall::new(node, "").unwrap();
    everybody_is_echoed("with a firewall");
    assert_eq!(wall.count("of_services").unwrap(), 0);
}

#[test]
fn connections_keep_to_what_they_were_opened_with() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[FORWARD, "stack"]);
    let mut clients = Client::all(&scene, 6_000);
    let settings = ["direct", "stack"].into_iter().cycle();
    for ((setting, (_, how)), first_port) in settings.zip(ENDS).zip([6_100, 6_200]) {
        let place = end(&mut scene, how);
        for client in &mut clients {
            assert!(client.goes_on(), "no agent: {}", client.name);
        }
        start(&mut scene, &place, &[FORWARD, setting]);
        clients.extend(Client::all(&scene, first_port));
        for client in &mut clients {
            assert!(client.goes_on(), "{setting}: {}", client.name);
            assert_eq!(client.server(), client.server, "{setting}: {}", client.name);
        }
    }
}
