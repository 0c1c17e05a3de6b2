//! Node ports and load balancers on two and more nodes: whose endpoints are used, whom a pod sees as its client, and what
//! becomes of a client when there is nobody for him.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use lb_tests::{
    client,
    deployment::Deployment,
    dial::{Dial, Ended, Protocol, dial},
    manifest::{Exposed, Governed, Manifest, Port, Service},
    netns::{Namespace, require_root},
    poll,
    server::Server,
    topology::{Cluster, Config, Node, UPLINK},
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30_080;
const ECHO_TARGET: u16 = 8081;
const ECHO_NODE_PORT: u16 = 30_081;
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const BALANCER_IPS: [&str; 2] = ["198.19.100.10", "fd00:198:19:100::a"];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
/// How long what should be answered may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long an agent may take to follow a change of the node.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);
/// Nothing came in this time: nothing comes.
const SILENCE: Duration = Duration::from_millis(300);
/// What a refusal may take here; on an idle machine it comes in far less than 10 ms.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn under_the_local_policy_pods_see_the_client_and_a_node_without_pods_drops() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(
        &[1, 1, 0],
        &["externalTrafficPolicy: Local"],
        &["pod-1-1", "pod-2-1"],
    );
    let cluster = &scene.deployment.cluster;
    let client = &cluster.client;
    for protocol in PROTOCOLS {
        for family in 0..2 {
            let own = client.addresses.both()[family];
            for (node, pod) in cluster.nodes.iter().zip(["pod-1-1", "pod-2-1"]) {
                for _ in 0..8 {
                    let seen = answered(&client.namespace, protocol, own, on(node, family));
                    assert_eq!(seen, (pod.to_owned(), own), "{protocol} by {}", node.name);
                }
            }
            let last = on(&cluster.nodes[2], family);
            let ended = dialled(&client.namespace, protocol, own, last, SILENCE).ended;
            assert_eq!(ended, Ended::Silent, "{protocol} by the node without pods");
        }
    }
    let dropped = scene.deployment.balancers[2].counters().unwrap()["drop_no_local_backend"];
    assert!(
        dropped >= 4,
        "{dropped} packets dropped for want of a local endpoint"
    );
}

#[test]
fn the_local_policy_does_not_hold_for_pods_and_the_node_itself() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(
        &[2, 1],
        &["externalTrafficPolicy: Local"],
        &["pod-1-1", "pod-2-1"],
    );
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    let pod = &here.pods[1];
    for family in 0..2 {
        for address in [on(here, family), balancer(family)] {
            let own = pod.addresses.both()[family];
            let mut servers = BTreeSet::new();
            for _ in 0..40 {
                let (server, seen) = answered(&pod.namespace, Protocol::Tcp, own, address);
                assert_eq!(seen, own, "{server} sees the pod as it is");
                servers.insert(server);
            }
            assert_eq!(servers, both(), "a pod dials {address}");
            let servers: BTreeSet<String> = (0..40)
                .map(|_| answered(&here.namespace, Protocol::Tcp, any(family), address).0)
                .collect();
            assert_eq!(servers, both(), "the node dials {address}");
        }
    }
}

#[test]
fn clients_are_refused_at_once_where_nobody_serves() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[1, 1], &["externalTrafficPolicy: Local"], &[]);
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    let clients = [
        ("pod", &here.pods[0].namespace),
        ("node", &here.namespace),
        ("outside", &cluster.client.namespace),
    ];
    for (name, namespace) in clients {
        for family in 0..2 {
            for address in [service(family), on(here, family), balancer(family)] {
                for protocol in PROTOCOLS {
                    let Dial { ended, took } =
                        dialled(namespace, protocol, any(family), address, LIMIT);
                    assert_eq!(
                        ended,
                        Ended::Refused,
                        "{name} dials {address} by {protocol}"
                    );
                    println!("{name} {address} {protocol}: refused after {took:?}");
                    assert!(
                        took < REFUSAL_LIMIT,
                        "{name} {address} {protocol}: {took:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_remote_backend_of_a_client_outside_works_both_ways() {
    const N_BYTES: usize = 4 << 20;
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[1, 1], &[], &["pod-2-1"]);
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    // The period is prime, so that no two segments that could be exchanged are alike.
    let sent: Vec<u8> = (0..251).cycle().take(N_BYTES).collect();
    for family in 0..2 {
        let address = SocketAddr::new(on(here, family).ip(), ECHO_NODE_PORT);
        let received = cluster
            .client
            .namespace
            .run(|| client::echoed(address, &sent).unwrap());
        assert!(
            received == sent,
            "{address}: {} bytes came back, or others",
            received.len()
        );
        let own = cluster.client.addresses.both()[family];
        for protocol in PROTOCOLS {
            let seen = answered(&cluster.client.namespace, protocol, own, on(here, family));
            let expected = ("pod-2-1".to_owned(), here.addresses.both()[family]);
            assert_eq!(
                seen, expected,
                "{protocol}: its answers must come by {}",
                here.name
            );
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn the_nodes_own_connections_from_a_node_port_are_its_own() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[1, 1], &[], &["pod-1-1", "pod-2-1"]);
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    let _outside = Server::witness(&cluster.client.namespace, "outside", TARGET).unwrap();
    for protocol in PROTOCOLS {
        for family in 0..2 {
            let own = here.addresses.both()[family];
            let from = SocketAddr::new(own, NODE_PORT);
            let to = SocketAddr::new(cluster.client.addresses.both()[family], TARGET);
            let dial = here
                .namespace
                .run(|| dial(protocol, from, to, LIMIT).unwrap());
            let expected = Ended::Answered {
                server: "outside".to_owned(),
                client: own,
            };
            assert_eq!(dial.ended, expected, "{protocol} from {from}");
            // Everybody else still reaches the node port.
            let client = &cluster.client;
            let (server, _) = answered(
                &client.namespace,
                protocol,
                client.addresses.both()[family],
                from,
            );
            assert!(both().contains(&server), "{server} answered at {from}");
        }
    }
}

#[test]
fn the_node_reaches_node_ports_on_its_loopback_address() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[1, 1], &[], &["pod-1-1", "pod-2-1"]);
    let here = &scene.deployment.cluster.nodes[0];
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), NODE_PORT);
    for protocol in PROTOCOLS {
        let mut servers = BTreeSet::new();
        for _ in 0..40 {
            let (server, seen) = answered(&here.namespace, protocol, any(0), to);
            assert!(!seen.is_loopback(), "{server} could not answer {seen}");
            servers.insert(server);
        }
        assert_eq!(servers, both(), "{protocol}");
    }
    // Never on the loopback address of IPv6, as with kube-proxy: the node's stack answers for itself.
    let to = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), NODE_PORT);
    let ended = dialled(&here.namespace, Protocol::Tcp, any(1), to, LIMIT).ended;
    assert_eq!(ended, Ended::Refused);
}

#[test]
fn the_internal_local_policy_holds_at_the_cluster_ip_alone() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(
        &[2, 1],
        &["internalTrafficPolicy: Local"],
        &["pod-1-1", "pod-2-1"],
    );
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    let pod = &here.pods[1];
    for family in 0..2 {
        let own = pod.addresses.both()[family];
        let ask = |address| -> BTreeSet<String> {
            (0..40)
                .map(|_| answered(&pod.namespace, Protocol::Tcp, own, address).0)
                .collect()
        };
        assert_eq!(ask(service(family)), BTreeSet::from(["pod-1-1".to_owned()]));
        assert_eq!(ask(on(here, family)), both());
        assert_eq!(ask(balancer(family)), both());
    }
}

#[test]
fn node_ports_follow_the_nodes_addresses() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[1, 1], &[], &["pod-1-1", "pod-2-1"]);
    let cluster = &scene.deployment.cluster;
    let (here, client) = (&cluster.nodes[0], &cluster.client);
    let changes = [
        ("198.18.0.50/24", "198.18.0.50"),
        ("fd00:198:18::50/64 nodad", "fd00:198:18::50"),
    ];
    for (family, (with_len, ip)) in changes.into_iter().enumerate() {
        let to = SocketAddr::new(ip.parse().unwrap(), NODE_PORT);
        let from = SocketAddr::new(client.addresses.both()[family], 0);
        // Without a service, the address itself refuses; without the address, nobody is there.
        let is_served = || {
            let dial = client
                .namespace
                .run(|| dial(Protocol::Tcp, from, to, SILENCE));
            dial.is_ok_and(|dial| matches!(dial.ended, Ended::Answered { .. }))
        };
        let change = |verb: &str| {
            here.namespace
                .ip(&[format!("addr {verb} {with_len} dev {UPLINK}")])
                .unwrap();
        };
        assert!(!is_served(), "{ip} is nobody's yet");
        change("add");
        poll::until(FOLLOW_LIMIT, "the new address to be served", || {
            Ok(is_served().then_some(()))
        })
        .unwrap();
        change("del");
        poll::until(FOLLOW_LIMIT, "nobody to answer", || {
            Ok((!is_served()).then_some(()))
        })
        .unwrap();
    }
}

/// A cluster whose pods are witnesses, and a service of some of them.
struct Scene {
    deployment: Deployment,
    _servers: Vec<Server>,
}

impl Scene {
    /// Nodes with this many pods; `spec` are further fields of the service, `serving` its pods by name.
    #[track_caller]
    fn new(pods: &[u8], spec: &[&'static str], serving: &[&str]) -> Self {
        let config = Config {
            pods: pods.into(),
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let servers = cluster.pods().flat_map(|(_, pod)| {
            [
                Server::witness(&pod.namespace, &pod.name, TARGET).unwrap(),
                Server::echo(&pod.namespace, ECHO_TARGET).unwrap(),
            ]
        });
        let servers = servers.collect();
        let manifest = manifest(&cluster, spec, serving);
        Self {
            deployment: Deployment::start(cluster, &manifest, &[]).unwrap(),
            _servers: servers,
        }
    }
}

fn manifest(cluster: &Cluster, spec: &[&'static str], serving: &[&str]) -> Manifest {
    let port = |name: &str, protocol, port, target| Port {
        name: name.to_owned(),
        ..Port::new(protocol, port, target)
    };
    let service = Governed {
        exposed: Exposed {
            service: Service {
                name: "web".to_owned(),
                cluster_ips: CLUSTER_IPS.map(|ip| ip.parse().unwrap()).into(),
                ports: vec![
                    port("tcp", "TCP", PORT, TARGET),
                    port("udp", "UDP", PORT, TARGET),
                    port("echo", "TCP", PORT + 1, ECHO_TARGET),
                ],
                selector: Some("web".to_owned()),
            },
            node_ports: vec![NODE_PORT, NODE_PORT, ECHO_NODE_PORT],
            ips: BALANCER_IPS.map(|ip| ip.parse().unwrap()).into(),
        },
        spec: spec.to_vec(),
    };
    let manifest = Manifest::default().with(&service);
    manifest.with_pods_of(cluster, serving, "web")
}

#[track_caller]
fn dialled(
    namespace: &Namespace,
    protocol: Protocol,
    from: IpAddr,
    to: SocketAddr,
    limit: Duration,
) -> Dial {
    let from = SocketAddr::new(from, 0);
    namespace.run(|| dial(protocol, from, to, limit)).unwrap()
}

/// Who answers, and whom he sees.
#[track_caller]
fn answered(
    namespace: &Namespace,
    protocol: Protocol,
    from: IpAddr,
    to: SocketAddr,
) -> (String, IpAddr) {
    let Dial { ended, took } = dialled(namespace, protocol, from, to, LIMIT);
    match ended {
        Ended::Answered { server, client } => (server, client),
        other => panic!("{to} by {protocol}: {other:?} after {took:?}"),
    }
}

fn both() -> BTreeSet<String> {
    ["pod-1-1", "pod-2-1"].map(str::to_owned).into()
}

/// The service's node port on a node.
fn on(node: &Node, family: usize) -> SocketAddr {
    SocketAddr::new(node.addresses.both()[family], NODE_PORT)
}

fn service(family: usize) -> SocketAddr {
    SocketAddr::new(CLUSTER_IPS[family].parse().unwrap(), PORT)
}

fn balancer(family: usize) -> SocketAddr {
    SocketAddr::new(BALANCER_IPS[family].parse().unwrap(), PORT)
}

/// Whatever address the kernel takes.
fn any(family: usize) -> IpAddr {
    [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ][family]
}
