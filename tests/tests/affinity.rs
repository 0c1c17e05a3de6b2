//! `sessionAffinity: ClientIP` as clients notice it. How long it lasts is a matter of the clock and tested where the clock can
//! be set: `tests/truth`.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use lb_tests::{
    deployment::Deployment,
    dial::{Dial, Ended, Protocol, dial},
    manifest::{Exposed, Governed, Manifest, Port, Service},
    netns::{Namespace, require_root},
    server::Server,
    topology::{Cluster, Config, UPLINK},
};

const TARGET: u16 = 8080;
/// Ports of the service, and the node ports of each.
const PORTS: [(u16, u16); 2] = [(80, 30_080), (81, 30_081)];
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const BALANCER_IPS: [&str; 2] = ["198.19.100.10", "fd00:198:19:100::a"];
const LIMIT: Duration = Duration::from_secs(5);
/// Addresses of the client outside: each is a client of its own.
const N_CLIENTS: u8 = 16;
/// Longer than any test takes.
const AFFINITY: [&str; 2] = [
    "sessionAffinity: ClientIP",
    "sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}",
];

#[test]
fn a_client_keeps_its_backend_whichever_address_it_dials() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&AFFINITY);
    let cluster = &scene.deployment.cluster;
    let here = &cluster.nodes[0];
    let pod = here.pods.last().unwrap();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in 0..2 {
            let clients = [
                (&pod.namespace, pod.addresses.both()[family]),
                (&here.namespace, here.addresses.both()[family]),
                (
                    &cluster.client.namespace,
                    cluster.client.addresses.both()[family],
                ),
            ];
            for (namespace, own) in clients {
                let first = server(namespace, protocol, own, scene.addresses(family, 0)[0]);
                for address in scene.addresses(family, 0).into_iter().cycle().take(15) {
                    let server = server(namespace, protocol, own, address);
                    assert_eq!(server, first, "{own} dials {address} by {protocol}");
                }
            }
        }
    }
}

#[test]
fn clients_and_ports_are_independent_of_each_other() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&AFFINITY);
    let first = scene.servers_of_all(0);
    let second = scene.servers_of_all(1);
    // Of sixteen clients, all at one of three backends: once in fourteen million honest runs.
    let used: BTreeSet<&String> = first.values().collect();
    assert!(used.len() > 1, "all clients are at one backend: {first:?}");
    // Each at the same backend with both ports: once in forty million.
    assert_ne!(first, second, "the second port follows the first");
    assert_eq!(scene.servers_of_all(0), first, "nothing has moved");
    assert_eq!(scene.servers_of_all(1), second, "nothing has moved");
}

#[test]
fn a_client_whose_backend_leaves_gets_another_and_keeps_that() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&AFFINITY);
    let before = scene.servers_of_all(0);
    let gone = before.values().next().unwrap().clone();
    let left: Vec<&str> = SERVING.into_iter().filter(|name| *name != gone).collect();
    scene.serve(&AFFINITY, &left);
    let after = scene.servers_of_all(0);
    for (client, server) in &after {
        assert_ne!(*server, gone, "{client}");
        if before[client] != gone {
            assert_eq!(*server, before[client], "{client} had no reason to move");
        }
    }
    assert_eq!(
        scene.servers_of_all(0),
        after,
        "they keep what they have now"
    );
    // Back again, it is a new endpoint: nobody returns to it on account of what was.
    scene.serve(&AFFINITY, &SERVING);
    assert_eq!(
        scene.servers_of_all(0),
        after,
        "nobody moves when an endpoint comes"
    );
}

#[test]
fn the_local_policy_comes_before_affinity() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&[AFFINITY[0], AFFINITY[1], "externalTrafficPolicy: Local"]);
    let cluster = &scene.deployment.cluster;
    let namespace = &cluster.client.namespace;
    let local: Vec<&str> = SERVING
        .into_iter()
        .filter(|name| name.starts_with("pod-1-"))
        .collect();
    let mut n_remote = 0;
    for own in clients() {
        let [cluster_ip, node_port, balancer] = scene.addresses(0, 0);
        let before = server(namespace, Protocol::Tcp, own, cluster_ip);
        n_remote += usize::from(!local.contains(&before.as_str()));
        for address in [node_port, balancer, node_port, balancer] {
            let server = server(namespace, Protocol::Tcp, own, address);
            assert!(
                local.contains(&server.as_str()),
                "{own} at {server} by {address}"
            );
        }
    }
    assert!(
        n_remote > 0,
        "no client was at an endpoint elsewhere: nothing was tested"
    );
}

/// The pods that may serve; the last pod of the first node asks.
const SERVING: [&str; 3] = ["pod-1-1", "pod-2-1", "pod-2-2"];

/// A cluster whose pods are witnesses, a service of some of them, and a client with many addresses.
struct Scene {
    deployment: Deployment,
    _servers: Vec<Server>,
}

impl Scene {
    #[track_caller]
    fn new(spec: &[&'static str]) -> Self {
        let config = Config {
            pods: vec![2, 2],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let commands = clients().map(|ip| format!("addr add {ip}/24 dev {UPLINK}"));
        cluster
            .client
            .namespace
            .ip(&commands.collect::<Vec<_>>())
            .unwrap();
        let servers = cluster.pods();
        let servers = servers
            .map(|(_, pod)| Server::witness(&pod.namespace, &pod.name, TARGET).unwrap())
            .collect();
        let manifest = manifest(&cluster, spec, &SERVING);
        Self {
            deployment: Deployment::start(cluster, &manifest, &[]).unwrap(),
            _servers: servers,
        }
    }

    /// Makes these pods the ones that serve, and waits until every agent has them.
    #[track_caller]
    fn serve(&self, spec: &[&'static str], serving: &[&str]) {
        let cluster = &self.deployment.cluster;
        self.deployment
            .write(&manifest(cluster, spec, serving))
            .unwrap();
        self.deployment
            .wait_for_pods("web", serving, TARGET)
            .unwrap();
    }

    /// ClusterIP, node port and load balancer of one of the service's ports.
    fn addresses(&self, family: usize, port: usize) -> [SocketAddr; 3] {
        let (port, node_port) = PORTS[port];
        let node = self.deployment.cluster.nodes[0].addresses.both()[family];
        [
            SocketAddr::new(CLUSTER_IPS[family].parse().unwrap(), port),
            SocketAddr::new(node, node_port),
            SocketAddr::new(BALANCER_IPS[family].parse().unwrap(), port),
        ]
    }

    /// Where each client ends that dials one of the service's ports.
    #[track_caller]
    fn servers_of_all(&self, port: usize) -> BTreeMap<IpAddr, String> {
        let namespace = &self.deployment.cluster.client.namespace;
        let address = self.addresses(0, port)[2];
        clients()
            .map(|own| (own, server(namespace, Protocol::Tcp, own, address)))
            .collect()
    }
}

/// Further addresses of the client outside.
fn clients() -> impl Iterator<Item = IpAddr> {
    (1..=N_CLIENTS).map(|n| Ipv4Addr::new(198, 18, 0, 200 + n).into())
}

fn manifest(cluster: &Cluster, spec: &[&'static str], serving: &[&str]) -> Manifest {
    let ports = PORTS.iter().flat_map(|(port, _)| {
        ["TCP", "UDP"].map(|protocol| Port {
            name: format!("{}-{port}", protocol.to_lowercase()),
            ..Port::new(protocol, *port, TARGET)
        })
    });
    let service = Governed {
        exposed: Exposed {
            service: Service {
                name: "web".to_owned(),
                cluster_ips: CLUSTER_IPS.map(|ip| ip.parse().unwrap()).into(),
                ports: ports.collect(),
                selector: Some("web".to_owned()),
            },
            node_ports: PORTS
                .iter()
                .flat_map(|(_, node_port)| [*node_port; 2])
                .collect(),
            ips: BALANCER_IPS.map(|ip| ip.parse().unwrap()).into(),
        },
        spec: spec.to_vec(),
    };
    let manifest = Manifest::default().with(&service);
    manifest.with_pods_of(cluster, serving, "web")
}

/// Who answers.
#[track_caller]
fn server(namespace: &Namespace, protocol: Protocol, own: IpAddr, to: SocketAddr) -> String {
    let from = SocketAddr::new(own, 0);
    let Dial { ended, took } = namespace.run(|| dial(protocol, from, to, LIMIT)).unwrap();
    match ended {
        Ended::Answered { server, .. } => server,
        other => panic!("{own} dials {to} by {protocol}: {other:?} after {took:?}"),
    }
}
