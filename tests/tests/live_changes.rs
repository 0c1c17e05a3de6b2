//! Manifests that change while clients connect: nothing that stays is disturbed, and what changes takes effect.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lb_tests::{
    client::{self, Exchange, UdpMode},
    deployment::Deployment,
    manifest::{Endpoint, EndpointSlice, Manifest, Port, Service},
    netns::require_root,
    poll,
    server::Server,
    tally::Tally,
    topology::{self, Cluster, Config},
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const OTHER: [&str; 2] = ["10.96.0.20", "fd00:10:96::14"];
const EXCHANGES: [Exchange; 2] = [Exchange::Tcp, Exchange::Udp(UdpMode::Unconnected)];
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn two_hundred_changes_of_endpoints_fail_no_connection() {
    const N_CHANGES: usize = 200;
    const PERMANENT: [&str; 2] = ["pod-1-1", "pod-2-1"];
    // The clients connect as fast as they can for a minute, and flows outlive that: room for all of them.
    const ROOMY: &str = "--flow-table-size=2097152";
    // In this order each change adds or removes something.
    const GUESTS: [&[&str]; 4] = [&[], &["pod-1-2"], &["pod-1-2", "pod-2-2"], &["pod-2-2"]];
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy_with(&PERMANENT, &[ROOMY]);
    let is_over = AtomicBool::new(false);
    let tallies = thread::scope(|scope| {
        // Set also when a change fails, so that the clients end.
        let over = SetOnDrop(&is_over);
        let clients = [0, 1].map(|family| {
            let (cluster, is_over) = (&deployment.cluster, &is_over);
            scope.spawn(move || connect_until(is_over, cluster, frontends(WEB)[family]))
        });
        for change in 1..=N_CHANGES {
            let backends = [&PERMANENT[..], GUESTS[change % GUESTS.len()]].concat();
            change_backends(&deployment, &backends);
        }
        drop(over);
        clients.map(|client| client.join().unwrap())
    });
    for tally in tallies {
        assert!(tally.failures().is_empty(), "{tally}");
        let n_hits: usize = tally.hits().values().sum();
        assert!(
            n_hits > N_CHANGES,
            "connections were made throughout: {tally}"
        );
        tally
            .spread_over(&["pod-1-1", "pod-1-2", "pod-2-1", "pod-2-2"])
            .unwrap();
    }
    deployment.expect_no_drops().unwrap();
}

/// Connects again and again, by TCP and UDP in turn.
fn connect_until(is_over: &AtomicBool, cluster: &Cluster, address: SocketAddr) -> Tally {
    asking(cluster).namespace.run(|| {
        let mut tally = Tally::new(format!("exchanges with {address}"), usize::MAX);
        for exchange in EXCHANGES.iter().cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            tally.count(client::hit(*exchange, address));
        }
        tally
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gives the service these backends and waits until the agents have them.
fn change_backends(deployment: &Deployment, backends: &[&str]) {
    let manifest = web(&deployment.cluster, backends, PORT, TARGET);
    deployment.write(&manifest).unwrap();
    deployment.wait_for_pods("web", backends, TARGET).unwrap();
}

#[test]
fn another_target_port_takes_the_next_connection_there() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["pod-2-1"]);
    let pods = pods(&deployment.cluster);
    let _second = Server::hostname(&pods["pod-2-1"].1.namespace, "second", 9090).unwrap();
    expect(&deployment, WEB, PORT, "pod-2-1");
    let manifest = web(&deployment.cluster, &["pod-2-1"], PORT, 9090);
    deployment.write(&manifest).unwrap();
    expect(&deployment, WEB, PORT, "second");
    deployment.expect_no_drops().unwrap();
}

#[test]
fn another_service_port_serves_and_the_old_one_is_nobodys() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["pod-1-1"]);
    expect(&deployment, WEB, PORT, "pod-1-1");
    let manifest = web(&deployment.cluster, &["pod-1-1"], 8000, TARGET);
    deployment.write(&manifest).unwrap();
    expect(&deployment, WEB, 8000, "pod-1-1");
    expect_nobody(&deployment, PORT, REFUSED);
}

#[test]
fn a_deleted_service_is_translated_no_more_and_works_again_when_it_comes_back() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["pod-1-1", "pod-2-1"]);
    for _ in 0..3 {
        change_backends(&deployment, &["pod-1-1", "pod-2-1"]);
        deployment.write(&Manifest::default()).unwrap();
        expect_nobody(&deployment, PORT, IGNORED);
        let services = deployment.balancers[0].fulcrum(&["maps", "services4"]);
        assert_eq!(services.unwrap().lines().count(), 1, "the head alone");
        change_backends(&deployment, &["pod-2-1"]);
        expect(&deployment, WEB, PORT, "pod-2-1");
    }
}

#[test]
fn a_broken_file_keeps_what_it_said_last_and_others_go_on() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["pod-1-1"]);
    let cluster = &deployment.cluster;
    let other = |backends: &[&str]| {
        let other = service("other", OTHER, PORT, TARGET);
        let manifest = Manifest::default().with(&other);
        slices(manifest, cluster, "other", backends, TARGET)
    };
    let write_other = |backends: &[&str]| {
        let text = other(backends);
        deployment.write_file("other.yaml", text.text()).unwrap();
    };
    write_other(&["pod-1-2"]);
    expect(&deployment, OTHER, PORT, "pod-1-2");
    let broken = "kind: Service\nmetadata: {name: web\n";
    deployment.write_file("services.yaml", broken).unwrap();
    let balancer = &deployment.balancers[0];
    let is_noticed = |status: &str| status.contains("services.yaml");
    balancer
        .fulcrum_until(
            &["status"],
            LIMIT,
            "the broken file to be noticed",
            is_noticed,
        )
        .unwrap();
    write_other(&["pod-2-2"]);
    expect(&deployment, OTHER, PORT, "pod-2-2");
    expect(&deployment, WEB, PORT, "pod-1-1");
    // Mended, it counts again.
    change_backends(&deployment, &["pod-2-1"]);
    expect(&deployment, WEB, PORT, "pod-2-1");
    let status = balancer.fulcrum(&["status"]).unwrap();
    assert!(!status.contains("services.yaml"), "{status}");
}

#[test]
fn a_file_may_move_its_objects_to_another_and_go() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["pod-1-1"]);
    let other = Manifest::default().with(&service("other", OTHER, PORT, TARGET));
    let other = slices(other, &deployment.cluster, "other", &["pod-2-1"], TARGET);
    deployment.write_file("a.yaml", other.text()).unwrap();
    expect(&deployment, OTHER, PORT, "pod-2-1");
    // Written in full before the first one goes: at no moment is the service gone.
    deployment.write_file("b.yaml", other.text()).unwrap();
    std::fs::remove_file(deployment.path("a.yaml")).unwrap();
    let balancer = &deployment.balancers[0];
    let has_moved = |status: &str| !status.contains("a.yaml") && !status.contains("b.yaml");
    balancer
        .fulcrum_until(&["status"], LIMIT, "one file to remain", has_moved)
        .unwrap();
    expect(&deployment, OTHER, PORT, "pod-2-1");
    expect(&deployment, WEB, PORT, "pod-1-1");
    std::fs::remove_file(deployment.path("b.yaml")).unwrap();
    let is_gone = |services: &str| !services.contains("other");
    balancer
        .fulcrum_until(&["get", "services"], LIMIT, "the service to go", is_gone)
        .unwrap();
    expect(&deployment, WEB, PORT, "pod-1-1");
}

/// Waits until this server answers for the service on both families and protocols; from then on nobody else does.
fn expect(deployment: &Deployment, ips: [&str; 2], port: u16, server: &str) {
    asking(&deployment.cluster).namespace.run(|| {
        for ip in ips {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            for exchange in EXCHANGES {
                let what = format!("{server} to answer {exchange} for {address}");
                let ask = || client::hit(exchange, address);
                poll::until(LIMIT, &what, || {
                    Ok(ask().is_ok_and(|answer| answer == server).then_some(()))
                })
                .unwrap();
                for _ in 0..10 {
                    assert_eq!(ask().unwrap(), server);
                }
            }
        }
    });
}

/// How a connection fails that nobody takes: an error, and what is counted.
type Failure = (ErrorKind, &'static str);

/// Another port of a `ClusterIP` that is served.
const REFUSED: Failure = (ErrorKind::ConnectionRefused, "reject_not_served");
/// An address of the service prefixes that no service has.
const IGNORED: Failure = (ErrorKind::TimedOut, "drop_unallocated");

/// Waits until connections to the service fail in this way.
fn expect_nobody(deployment: &Deployment, port: u16, (kind, counter): Failure) {
    let balancer = &deployment.balancers[0];
    let addresses = WEB.map(|ip| SocketAddr::new(ip.parse().unwrap(), port));
    let connect = |address| {
        let limit = Duration::from_millis(200);
        let namespace = &asking(&deployment.cluster).namespace;
        namespace.run(|| TcpStream::connect_timeout(&address, limit))
    };
    let fails = |address| connect(address).is_err_and(|error| error.kind() == kind);
    let what = format!("connections to port {port} to fail: {kind}");
    poll::until(LIMIT, &what, || {
        Ok((addresses.map(fails) == [true, true]).then_some(()))
    })
    .unwrap();
    let before = balancer.counters().unwrap();
    for address in addresses {
        assert_eq!(connect(address).unwrap_err().kind(), kind);
    }
    let after = balancer.counters().unwrap();
    assert_eq!(after["open"], before["open"], "nothing is translated");
    assert!(
        after[counter] >= before[counter] + 2,
        "{counter}: every one is counted"
    );
}

/// Nodes of three and two pods: the third of node 1 asks, the others answer with their names.
fn deploy(backends: &[&str]) -> (Deployment, Vec<Server>) {
    deploy_with(backends, &[])
}

fn deploy_with(backends: &[&str], flags: &[&str]) -> (Deployment, Vec<Server>) {
    let config = Config {
        pods: vec![3, 2],
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let servers = cluster.serve_hostnames(TARGET).unwrap();
    let manifest = web(&cluster, backends, PORT, TARGET);
    (
        Deployment::start(cluster, &manifest, flags).unwrap(),
        servers,
    )
}

fn web(cluster: &Cluster, backends: &[&str], port: u16, target: u16) -> Manifest {
    let manifest = Manifest::default().with(&service("web", WEB, port, target));
    slices(manifest, cluster, "web", backends, target)
}

fn service(name: &str, ips: [&str; 2], port: u16, target: u16) -> Service {
    Service {
        name: name.to_owned(),
        cluster_ips: ips.map(|ip| ip.parse().unwrap()).into(),
        ports: ports(port, target),
        selector: None,
    }
}

/// Adds the endpoints of a service, one slice per family.
fn slices(
    manifest: Manifest,
    cluster: &Cluster,
    service: &str,
    backends: &[&str],
    target: u16,
) -> Manifest {
    let pods = pods(cluster);
    [0, 1].into_iter().fold(manifest, |manifest, family| {
        let endpoint = |name: &&str| {
            let (node, pod) = pods[name];
            Endpoint {
                address: pod.addresses.both()[family],
                node_name: node.name.clone(),
                ready: true,
            }
        };
        manifest.with(&EndpointSlice {
            name: format!("{service}-{family}"),
            service: service.to_owned(),
            endpoints: backends.iter().map(endpoint).collect(),
            ports: ports(PORT, target),
        })
    })
}

fn ports(port: u16, target: u16) -> Vec<Port> {
    ["TCP", "UDP"]
        .map(|protocol| Port::new(protocol, port, target))
        .into()
}

fn pods(cluster: &Cluster) -> BTreeMap<&str, (&topology::Node, &topology::Pod)> {
    cluster
        .pods()
        .map(|(node, pod)| (pod.name.as_str(), (node, pod)))
        .collect()
}

/// The pod that asks.
fn asking(cluster: &Cluster) -> &topology::Pod {
    cluster.nodes[0].pods.last().unwrap()
}

fn frontends(service: [&str; 2]) -> [SocketAddr; 2] {
    service.map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT))
}
