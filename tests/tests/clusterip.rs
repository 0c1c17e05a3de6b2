//! Pods that dial ClusterIPs, through `fulcrum run` on every node: TCP and UDP, both families, to backends on their own
//! node and on another one.
//!
//! The spread is judged at a level that an honest run fails once in 10^9 ([`lb_tests::tally`]): the kernel's random
//! numbers cannot be seeded.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use lb_tests::{
    client::{self, Exchange, UdpMode},
    deployment::Deployment,
    manifest::{Endpoint, EndpointSlice, Manifest, Pod, Port, Service},
    netns::{Namespace, require_root},
    poll,
    server::Server,
    topology::{self, Cluster, Config, Interconnect},
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// The service of all backends.
const ALL: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// The service of the first pod of node 1 alone.
const NEAR: [&str; 2] = ["10.96.0.11", "fd00:10:96::b"];
/// The service of the first pod of node 2 alone.
const FAR: [&str; 2] = ["10.96.0.12", "fd00:10:96::c"];
const BACKENDS: [&str; 4] = ["pod-1-1", "pod-1-2", "pod-2-1", "pod-2-2"];
const CONNECTED: Exchange = Exchange::Udp(UdpMode::Connected);
const EXCHANGES: [Exchange; 3] = [
    Exchange::Tcp,
    CONNECTED,
    Exchange::Udp(UdpMode::Unconnected),
];
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn ten_thousand_connections_and_datagrams_all_get_through_and_spread_uniformly() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, Server::hostname);
    for address in frontends(ALL) {
        for exchange in [Exchange::Tcp, CONNECTED] {
            let before = deployment.balancers[0].counters().unwrap();
            exchange_many(&deployment, exchange, address, 10_000);
            let after = deployment.balancers[0].counters().unwrap();
            let grown = |reason: &str| after[reason] - before[reason];
            assert_eq!(grown("open"), 10_000, "{exchange} {address}");
            if exchange == CONNECTED {
                assert_eq!(grown("hit_reply"), 10_000, "one answer each");
                assert_eq!(grown("hit_original"), 0, "one datagram each");
            }
        }
    }
    deployment.expect_no_drops().unwrap();
    let there = deployment.balancers[1].counters().unwrap();
    assert_eq!(
        there["open"], 0,
        "the backends' node has nothing to translate"
    );
}

#[test]
fn services_work_over_tunnels_without_ethernet_too() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Tun, Server::hostname);
    for address in frontends(ALL) {
        for exchange in [Exchange::Tcp, CONNECTED] {
            exchange_many(&deployment, exchange, address, 1000);
        }
    }
    deployment.expect_no_drops().unwrap();
    assert_eq!(deployment.balancers[0].counters().unwrap()["open"], 4000);
}

/// Exchanges from the pod that asks; all succeed, and all backends have their share.
fn exchange_many(deployment: &Deployment, exchange: Exchange, address: SocketAddr, n: usize) {
    let asking = asking(&deployment.cluster);
    let tally = client::many(&asking.namespace, exchange, address, n);
    tally
        .complete()
        .and_then(|tally| tally.uniform_over(&BACKENDS))
        .unwrap();
}

#[test]
fn backends_near_and_far_answer_from_the_cluster_ip_on_every_kind_of_socket() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, Server::hostname);
    let cases = [(NEAR, "pod-1-1"), (FAR, "pod-2-1")];
    for (service, backend) in cases {
        for address in frontends(service) {
            for exchange in EXCHANGES {
                let asking = asking(&deployment.cluster);
                let tally = client::many(&asking.namespace, exchange, address, 50);
                tally
                    .complete()
                    .and_then(|tally| tally.spread_over(&[backend]))
                    .unwrap();
            }
        }
    }
    deployment.expect_no_drops().unwrap();
}

#[test]
fn large_transfers_arrive_as_they_were_sent_in_both_directions() {
    const N_BYTES: usize = 32 << 20;
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    // The period is prime, so that no two segments that could be exchanged are alike.
    let sent: Vec<u8> = (0..251).cycle().take(N_BYTES + 1).collect();
    for address in frontends(NEAR).into_iter().chain(frontends(FAR)) {
        let received = asking(&deployment.cluster)
            .namespace
            .run(|| client::echoed(address, &sent).unwrap());
        assert!(
            received == sent,
            "{address}: {} bytes of {} came back, or others",
            received.len(),
            sent.len()
        );
    }
    deployment.expect_no_drops().unwrap();
}

#[test]
fn datagrams_of_every_size_up_to_the_mtu_come_back_whole() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    for address in frontends(NEAR).into_iter().chain(frontends(FAR)) {
        // MTU less IP and UDP headers.
        let largest = if address.is_ipv4() { 1472 } else { 1452 };
        asking(&deployment.cluster).namespace.run(|| {
            let socket = client::udp_socket(UdpMode::Connected, address).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            for len in [0, 1, 2, 511, 1024, largest - 1, largest] {
                let sent: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
                assert_eq!(socket.send(&sent).unwrap(), len);
                let mut received = vec![0; 2048];
                let n = socket.recv(&mut received).unwrap();
                assert!(received[..n] == sent, "{address}: {len} bytes");
            }
        });
    }
    deployment.expect_no_drops().unwrap();
}

#[test]
fn many_connections_side_by_side_keep_apart() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    for address in frontends(ALL) {
        asking(&deployment.cluster).namespace.run(|| {
            let mut streams: Vec<TcpStream> = (0..400).map(|_| connect(address)).collect();
            for round in 0..3_u32 {
                let words = (0..).map(|number: u32| [round, number].map(u32::to_be_bytes).concat());
                for (stream, word) in streams.iter_mut().zip(words.clone()) {
                    stream.write_all(&word).unwrap();
                }
                for (stream, word) in streams.iter_mut().zip(words) {
                    let mut answer = [0; 8];
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, *word);
                }
            }
        });
    }
    deployment.expect_no_drops().unwrap();
    assert_eq!(deployment.balancers[0].counters().unwrap()["open"], 800);
}

#[test]
fn a_connection_goes_on_when_its_next_hop_has_to_be_asked_for_again() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    let balancer = &deployment.balancers[0];
    let resolved = || balancer.counters().unwrap()["resolved"];
    for address in frontends(FAR) {
        asking(&deployment.cluster).namespace.run(|| {
            let mut stream = connect(address);
            // The connection's first packets ask; what follows within a second does not.
            ping(&mut stream);
            ping(&mut stream);
            let before = resolved();
            poll::until(LIMIT, "the next hop to be asked for again", || {
                ping(&mut stream);
                Ok((resolved() > before).then_some(()))
            })
            .unwrap();
            ping(&mut stream);
        });
    }
    deployment.expect_no_drops().unwrap();
}

#[test]
fn a_connection_goes_on_after_its_backend_has_left_the_service() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    let addresses = frontends(ALL);
    let mut streams: Vec<TcpStream> = asking(&deployment.cluster).namespace.run(|| {
        addresses
            .iter()
            .flat_map(|address| (0..20).map(|_| connect(*address)))
            .collect()
    });
    streams.iter_mut().for_each(ping);
    // Every second backend leaves; then all do.
    for n_left in [2, 0] {
        let left = BACKENDS.iter().step_by(2).take(n_left).copied();
        let left: Vec<&str> = left.collect();
        deployment
            .write(&manifest(&deployment.cluster, &left))
            .unwrap();
        let endpoints = endpoints_of(&deployment.cluster, &left);
        deployment.wait_for_endpoints("all", &endpoints).unwrap();
        streams.iter_mut().for_each(ping);
    }
    drop(streams);
    // A new connection finds nobody, and is told so at once.
    let before = deployment.balancers[0].counters().unwrap()["reject_no_backend"];
    asking(&deployment.cluster).namespace.run(|| {
        let limit = Duration::from_millis(100);
        let error = TcpStream::connect_timeout(&addresses[0], limit).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    let after = deployment.balancers[0].counters().unwrap()["reject_no_backend"];
    assert!(after > before);
}

#[test]
fn a_udp_client_moves_on_when_its_backend_no_longer_serves() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, Server::hostname);
    let addresses = frontends(ALL);
    let namespace = &asking(&deployment.cluster).namespace;
    let sockets = addresses.map(|address| {
        namespace.run(|| client::udp_socket(UdpMode::Unconnected, address).unwrap())
    });
    let mut left = BACKENDS.to_vec();
    while left.len() > 1 {
        let [of_v4, of_v6] = [0, 1].map(|family| {
            let ask = || client::udp_hit(&sockets[family], addresses[family]).unwrap();
            let server = ask();
            assert_eq!(ask(), server, "it stays where it is as long as that serves");
            server
        });
        left.retain(|backend| *backend != of_v4 && *backend != of_v6);
        if left.is_empty() {
            break;
        }
        deployment
            .write(&manifest(&deployment.cluster, &left))
            .unwrap();
        let endpoints = endpoints_of(&deployment.cluster, &left);
        deployment.wait_for_endpoints("all", &endpoints).unwrap();
        for (socket, address) in sockets.iter().zip(addresses) {
            let server = client::udp_hit(socket, address).unwrap();
            assert!(left.contains(&server.as_str()), "{server} of {left:?}");
        }
    }
    let counters = deployment.balancers[0].counters().unwrap();
    assert!(counters["reopened"] >= 2, "{counters:?}");
    deployment.expect_no_drops().unwrap();
}

#[test]
fn a_connection_does_not_notice_that_other_services_come_and_go() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(Interconnect::Ethernet, echo);
    let addresses = frontends(ALL);
    let mut streams: Vec<TcpStream> = asking(&deployment.cluster).namespace.run(|| {
        addresses
            .iter()
            .flat_map(|address| (0..10).map(|_| connect(*address)))
            .collect()
    });
    for n_others in [20, 3, 40, 0] {
        let others = (0..n_others).fold(Manifest::default(), |manifest, number| {
            manifest.with(&Service {
                name: format!("other-{number}"),
                cluster_ips: vec![
                    format!("10.96.1.{number}").parse().unwrap(),
                    format!("fd00:10:96::1:{number}").parse().unwrap(),
                ],
                ports: ports(),
                selector: Some("backend".to_owned()),
            })
        });
        deployment.write_file("others.yaml", others.text()).unwrap();
        for balancer in &deployment.balancers {
            let what = format!("{n_others} other services");
            let has_all = |text: &str| text.matches("\"other-").count() == n_others;
            let arguments = ["get", "services", "--output", "json"];
            balancer
                .fulcrum_until(&arguments, LIMIT, &what, has_all)
                .unwrap();
        }
        streams.iter_mut().for_each(ping);
    }
    deployment.expect_no_drops().unwrap();
    let opened = deployment.balancers[0].counters().unwrap()["open"];
    assert_eq!(opened, 20, "no connection was opened a second time");
}

/// Nodes of three and two pods: the third of node 1 asks, the others serve.
fn deploy(
    interconnect: Interconnect,
    serve: impl Fn(&Namespace, &str, u16) -> anyhow::Result<Server>,
) -> (Deployment, Vec<Server>) {
    let config = Config {
        pods: vec![3, 2],
        interconnect,
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let servers = backends(&cluster)
        .values()
        .map(|(_, pod)| serve(&pod.namespace, &pod.name, TARGET).unwrap())
        .collect();
    let manifest = manifest(&cluster, &BACKENDS);
    (Deployment::start(cluster, &manifest, &[]).unwrap(), servers)
}

fn echo(namespace: &Namespace, _name: &str, port: u16) -> anyhow::Result<Server> {
    Server::echo(namespace, port)
}

/// The services, and of the pods those that serve.
fn manifest(cluster: &Cluster, serving: &[&str]) -> Manifest {
    let service = |name: &str, ips: [&str; 2], selector: Option<&str>| Service {
        name: name.to_owned(),
        cluster_ips: ips.map(|ip| ip.parse().unwrap()).into(),
        ports: ports(),
        selector: selector.map(str::to_owned),
    };
    let mut manifest = Manifest::default()
        .with(&service("all", ALL, Some("backend")))
        .with(&service("near", NEAR, None))
        .with(&service("far", FAR, None));
    let backends = backends(cluster);
    for (service, name) in [("near", "pod-1-1"), ("far", "pod-2-1")] {
        let (node, pod) = backends[name];
        for (address, family) in pod.addresses.both().into_iter().zip(["v4", "v6"]) {
            manifest = manifest.with(&slice(service, family, node, address));
        }
    }
    let serving = serving.iter().map(|name| backends[name]);
    serving.fold(manifest, |manifest, (node, pod)| {
        manifest.with(&Pod::of(node, pod, "backend"))
    })
}

fn slice(service: &str, family: &str, node: &topology::Node, address: IpAddr) -> EndpointSlice {
    EndpointSlice {
        name: format!("{service}-{family}"),
        service: service.to_owned(),
        endpoints: vec![Endpoint {
            address,
            node_name: node.name.clone(),
            ready: true,
        }],
        ports: ports(),
    }
}

fn ports() -> Vec<Port> {
    ["TCP", "UDP"]
        .map(|protocol| Port::new(protocol, PORT, TARGET))
        .into()
}

/// The pods that may serve, by name.
fn backends(cluster: &Cluster) -> BTreeMap<&str, (&topology::Node, &topology::Pod)> {
    let pods = cluster
        .pods()
        .map(|(node, pod)| (pod.name.as_str(), (node, pod)));
    pods.filter(|(name, _)| BACKENDS.contains(name)).collect()
}

/// What `get endpoints` lists for these backends.
fn endpoints_of(cluster: &Cluster, names: &[&str]) -> Vec<String> {
    let backends = backends(cluster);
    let addresses = names
        .iter()
        .flat_map(|name| backends[name].1.addresses.both());
    addresses
        .map(|address| SocketAddr::new(address, TARGET).to_string())
        .collect()
}

/// The pod that asks.
fn asking(cluster: &Cluster) -> &topology::Pod {
    cluster.nodes[0].pods.last().unwrap()
}

fn frontends(service: [&str; 2]) -> [SocketAddr; 2] {
    service.map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT))
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, LIMIT).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// One word there and back.
fn ping(stream: &mut TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}
