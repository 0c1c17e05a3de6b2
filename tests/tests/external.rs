//! A client outside that dials ClusterIPs by way of one node: backends of that node see the client's address, others see
//! the node's, and every answer comes from the ClusterIP. At TC, and with native XDP on the uplink.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_tests::{
    client::{self, Exchange, UdpMode},
    deployment::Deployment,
    link,
    manifest::{Endpoint, EndpointSlice, Manifest, Pod, Port, Service},
    netns::require_root,
    poll,
    server::Server,
    topology::{Cluster, Config, Node, UPLINK},
    xdp_pass::XdpPass,
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// The service of all pods.
const ALL: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// The service of the first pod of node 1 alone.
const NEAR: [&str; 2] = ["10.96.0.11", "fd00:10:96::b"];
/// The service of the first pod of node 2 alone.
const FAR: [&str; 2] = ["10.96.0.12", "fd00:10:96::c"];
const ECHO_PORT: u16 = 81;
const ECHO_TARGET: u16 = 8081;
const EXCHANGES: [Exchange; 3] = [
    Exchange::Tcp,
    Exchange::Udp(UdpMode::Connected),
    Exchange::Udp(UdpMode::Unconnected),
];
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn backends_here_see_the_client_and_backends_elsewhere_see_the_node() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(cluster(), &[]);
    let cluster = &deployment.cluster;
    // The client reaches the services through node 1, then through node 2.
    for via in &cluster.nodes {
        cluster.route_client_via(via).unwrap();
        for address in frontends(ALL, PORT) {
            for exchange in EXCHANGES {
                exchange_many(cluster, via, exchange, address, 1000);
            }
        }
    }
    deployment.expect_no_drops().unwrap();
    for balancer in &deployment.balancers {
        let opened = balancer.counters().unwrap()["open"];
        assert_eq!(opened, 6000, "{}", balancer.node_name());
    }
}

#[test]
fn connections_from_one_port_to_two_services_keep_apart_before_one_backend() {
    if !require_root() {
        return;
    }
    let cluster = cluster();
    let far = &cluster.nodes[1];
    let ips = |number: u8| [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
    let services = [21, 22].map(|number| Service {
        name: format!("far-{number}"),
        cluster_ips: ips(number).map(|ip| ip.parse().unwrap()).into(),
        ports: vec![Port::new("UDP", PORT, TARGET)],
        selector: Some("far".to_owned()),
    });
    let manifest = services
        .iter()
        .fold(Manifest::default(), Manifest::with)
        .with(&Pod::of(far, &far.pods[0], "far"));
    let server = Server::witness(&far.pods[0].namespace, "far", TARGET).unwrap();
    let deployment = Deployment::start(cluster, &manifest, &[]).unwrap();
    let cluster = &deployment.cluster;
    for (family, from) in cluster.nodes[0].addresses.both().into_iter().enumerate() {
        cluster.client.namespace.run(|| {
            let any = if from.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = UdpSocket::bind((any, 7777)).unwrap();
            // Asked in turn: each answer must find its way to the service that was dialled.
            for _ in 0..3 {
                for service in [21, 22] {
                    let ip = ips(service)[family].parse().unwrap();
                    let answer = client::udp_hit(&socket, SocketAddr::new(ip, PORT)).unwrap();
                    assert_eq!(answer, format!("far from {from}"));
                }
            }
        });
    }
    drop(server);
    let counters = deployment.balancers[0].counters().unwrap();
    assert_eq!(counters["port_remapped"], 2, "one per family");
    assert_eq!(counters["open"], 4);
    deployment.expect_no_drops().unwrap();
}

#[test]
fn native_xdp_forwards_flows_to_backends_elsewhere_and_leaves_those_here_to_tc() {
    const N: u64 = 20;
    if !require_root() {
        return;
    }
    let cluster = cluster();
    let _peers = prepare_for_native_xdp(&cluster);
    let (deployment, _servers) = deploy(cluster, &["--mode=xdp"]);
    let (client, balancer) = (&deployment.cluster.client, &deployment.balancers[0]);
    // What N datagrams of one flow, and their answers, are counted as.
    let exchange = |socket: &UdpSocket, address| {
        let before = balancer.counters().unwrap();
        for _ in 0..N {
            client::udp_hit(socket, address).unwrap();
        }
        let after = balancer.counters().unwrap();
        ["xdp_forward", "pass_to_tc"].map(|reason| after[reason] - before[reason])
    };
    for (near, far) in frontends(NEAR, PORT).into_iter().zip(frontends(FAR, PORT)) {
        client.namespace.run(|| {
            let socket = client::udp_socket(UdpMode::Connected, near).unwrap();
            assert_eq!(
                exchange(&socket, near),
                [0, N],
                "the answers come from pods"
            );
            let socket = client::udp_socket(UdpMode::Connected, far).unwrap();
            // Now and then a packet goes to TC, by which the kernel confirms the neighbours.
            poll::until(LIMIT, "XDP to forward a whole round", || {
                Ok((exchange(&socket, far) == [2 * N, 0]).then_some(()))
            })
            .unwrap();
        });
    }
    deployment.expect_no_drops().unwrap();
}

#[test]
fn the_spread_is_as_uniform_with_native_xdp_as_without() {
    if !require_root() {
        return;
    }
    let cluster = cluster();
    let _peers = prepare_for_native_xdp(&cluster);
    let (deployment, _servers) = deploy(cluster, &["--mode=xdp"]);
    let cluster = &deployment.cluster;
    for address in frontends(ALL, PORT) {
        for exchange in EXCHANGES {
            exchange_many(cluster, &cluster.nodes[0], exchange, address, 1000);
        }
    }
    let counters = deployment.balancers[0].counters().unwrap();
    assert_eq!(counters["open"] + counters["opened_for_tc"], 6000);
    deployment.expect_no_drops().unwrap();
}

#[test]
fn native_xdp_carries_large_transfers() {
    if !require_root() {
        return;
    }
    // Jumbo frames lie in several buffers.
    for mtu in [1500, 9000] {
        carries_large_transfers(mtu);
    }
}

fn carries_large_transfers(mtu: u32) {
    let cluster = Cluster::new(&Config {
        mtu,
        ..Config::default()
    })
    .unwrap();
    let _peers = prepare_for_native_xdp(&cluster);
    let (deployment, _servers) = deploy(cluster, &["--mode=xdp"]);
    let pods = deployment.cluster.pods();
    let _echoes: Vec<Server> = pods
        .map(|(_, pod)| Server::echo(&pod.namespace, ECHO_TARGET).unwrap())
        .collect();
    let sent: Vec<u8> = (0..251).cycle().take(2 << 20).collect();
    let sent_len = sent.len();
    for address in frontends(ALL, ECHO_PORT) {
        // So many that some are served here and some elsewhere.
        for _ in 0..8 {
            let received = deployment
                .cluster
                .client
                .namespace
                .run(|| client::echoed(address, &sent).unwrap());
            assert!(received == sent, "{} bytes came back", received.len());
        }
    }
    let counters = deployment.balancers[0].counters().unwrap();
    // At least one transfer of each family, there and back, in frames of this size.
    let frames = 4 * sent_len as u64 / u64::from(mtu);
    assert!(counters["xdp_forward"] > frames, "{mtu}: {counters:?}");
    deployment.expect_no_drops().unwrap();
}

/// What native XDP on veth needs: whole checksums, and peers that take what XDP sends back.
fn prepare_for_native_xdp(cluster: &Cluster) -> Vec<XdpPass> {
    link::set_tx_offload(&cluster.client.namespace, UPLINK, false).unwrap();
    for (_, pod) in cluster.pods() {
        link::set_tx_offload(&pod.namespace, "eth0", false).unwrap();
    }
    let nodes = cluster.nodes.iter();
    nodes
        .map(|node| XdpPass::attach(&cluster.segment, &node.name).unwrap())
        .collect()
}

/// Exchanges of the client through node `via`; all succeed, all backends have their share, and each sees who it should.
fn exchange_many(cluster: &Cluster, via: &Node, exchange: Exchange, address: SocketAddr, n: usize) {
    let family = |[v4, v6]: [IpAddr; 2]| if address.is_ipv4() { v4 } else { v6 };
    let expected: Vec<String> = cluster
        .pods()
        .map(|(node, pod)| {
            let seen = if node.number == via.number {
                cluster.client.addresses
            } else {
                via.addresses
            };
            format!("{} from {}", pod.name, family(seen.both()))
        })
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let tally = client::many(&cluster.client.namespace, exchange, address, n);
    tally
        .complete()
        .and_then(|tally| tally.uniform_over(&expected))
        .unwrap();
}

fn cluster() -> Cluster {
    Cluster::new(&Config::default()).unwrap()
}

/// Services before servers in all pods, which say who they are and whom they see.
fn deploy(cluster: Cluster, flags: &[&str]) -> (Deployment, Vec<Server>) {
    let servers = cluster
        .pods()
        .map(|(_, pod)| Server::witness(&pod.namespace, &pod.name, TARGET).unwrap())
        .collect();
    let manifest = services(&cluster);
    let deployment = Deployment::start(cluster, &manifest, flags).unwrap();
    (deployment, servers)
}

fn services(cluster: &Cluster) -> Manifest {
    let port = |name: &str, protocol, port, target| Port {
        name: name.to_owned(),
        ..Port::new(protocol, port, target)
    };
    let ports = vec![
        port("tcp", "TCP", PORT, TARGET),
        port("udp", "UDP", PORT, TARGET),
        port("echo", "TCP", ECHO_PORT, ECHO_TARGET),
    ];
    let service = |name: &str, ips: [&str; 2], selector: Option<&str>| Service {
        name: name.to_owned(),
        cluster_ips: ips.map(|ip| ip.parse().unwrap()).into(),
        ports: ports.clone(),
        selector: selector.map(str::to_owned),
    };
    let mut manifest = Manifest::default()
        .with(&service("all", ALL, Some("witness")))
        .with(&service("near", NEAR, None))
        .with(&service("far", FAR, None));
    for (node, pod) in cluster.pods() {
        manifest = manifest.with(&Pod::of(node, pod, "witness"));
    }
    for (service, node) in ["near", "far"].into_iter().zip(&cluster.nodes) {
        for (address, family) in node.pods[0].addresses.both().into_iter().zip(["v4", "v6"]) {
            manifest = manifest.with(&EndpointSlice {
                name: format!("{service}-{family}"),
                service: service.to_owned(),
                endpoints: vec![Endpoint {
                    address,
                    node_name: node.name.clone(),
                    ready: true,
                }],
                ports: ports.clone(),
            });
        }
    }
    manifest
}

fn frontends(service: [&str; 2], port: u16) -> [SocketAddr; 2] {
    service.map(|ip| SocketAddr::new(ip.parse().unwrap(), port))
}
