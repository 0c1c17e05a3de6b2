//! The flow table grows while connections are at work: none of them notices, and new ones find room.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use lb_tests::{
    balancer::Balancer,
    client::{self, UdpMode},
    deployment::Deployment,
    manifest::{Endpoint, EndpointSlice, Manifest, Port, Service},
    netns::require_root,
    poll,
    server::Server,
    topology::{Cluster, Config, Pod},
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// Growing is loading all programs three times.
const LIMIT: Duration = Duration::from_mins(5);
/// Connections that stay, per family, before and after: two places each, so just more than three quarters of the table as it was.
/// Of many more some would be refused before it grows.
const N_LONG: usize = 194;
/// Clients that dial anew, from one port each.
const N_DIALLING: usize = 2;
/// Ports of theirs, outside of what the kernel gives out.
const FIRST_PORT: u16 = 20_000;
/// A port is taken in both families at once.
const PORTS_APART: u16 = 100;

#[test]
fn connections_go_on_while_the_table_grows_and_new_ones_find_room() {
    if !require_root() {
        return;
    }
    let (deployment, _servers) = deploy(&["--flow-table-size=512", "--flow-table-max=1024"]);
    let balancer = &deployment.balancers[0];
    assert_eq!(sizes(balancer), [512, 512]);
    let work = Work::default();
    // No process is started while clients dial: until it is another program, it holds their sockets, and so their ports.
    let pod = asking(&deployment.cluster);
    let client = &pod.namespace;
    thread::scope(|scope| {
        let over = SetOnDrop(&work.is_over);
        for (family, address) in frontends().into_iter().enumerate() {
            let ports = FIRST_PORT + PORTS_APART * u16::try_from(family).unwrap()..;
            for port in ports.take(N_DIALLING) {
                let work = &work;
                scope.spawn(move || client.run(|| work.dial(port, address)));
            }
            let work = &work;
            scope.spawn(move || client.run(|| work.exchange_datagrams(address)));
        }
        // The second time there is room, as each family's table has grown.
        for n_grown in [2, 2] {
            for address in frontends() {
                let streams = client.run(|| long_connections(address)).unwrap();
                let work = &work;
                scope.spawn(move || work.keep_busy(streams));
            }
            poll::until(LIMIT, "both flow tables to grow", || {
                let log = balancer.log();
                Ok((log.matches("the flow table has grown ").count() == n_grown).then_some(()))
            })
            .unwrap();
        }
        // All over again with the tables as they are now.
        work.expect_more();
        drop(over);
    });
    assert_eq!(work.failures.into_inner().unwrap(), Vec::<String>::new());
    assert_eq!(sizes(balancer), [1024, 1024]);
    let counters = balancer.counters().unwrap();
    assert_eq!(counters["drop_flow_table_full"], 0, "{counters:?}");
    let log = balancer.log();
    assert!(!log.contains("ERROR"), "{log}");
}

/// What the clients do, and what goes wrong.
#[derive(Default)]
struct Work {
    is_over: AtomicBool,
    n_rounds: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Work {
    /// Does something again and again.
    fn repeat(&self, what: &str, mut once: impl FnMut(usize) -> anyhow::Result<()>) {
        give_way();
        for round in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = once(round) {
                let failure = format!("{what}, round {round}: {error:#}");
                self.failures.lock().unwrap().push(failure);
                return;
            }
            self.n_rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Dials from one port, has something sent back, and resets: each time the flow is opened anew.
    fn dial(&self, port: u16, address: SocketAddr) {
        self.repeat(&format!("{address} from port {port}"), |round| {
            let mut stream = client::connect_from_port(port, address)?;
            echo(&mut stream, round)?;
            client::reset(stream)
        });
    }

    /// Has bytes sent back on all connections in turn.
    fn keep_busy(&self, mut streams: Vec<TcpStream>) {
        let n_streams = streams.len();
        self.repeat("a long connection", |round| {
            echo(&mut streams[round % n_streams], round)
        });
    }

    /// Has datagrams sent back by the backend that answered first.
    fn exchange_datagrams(&self, address: SocketAddr) {
        let socket: UdpSocket = client::udp_socket(UdpMode::Connected, address).unwrap();
        self.repeat(&format!("datagrams to {address}"), |round| {
            let sent = payload(round);
            let got = client::echoed_datagram(&socket, &sent)?;
            anyhow::ensure!(got == sent, "other bytes came back");
            Ok(())
        });
    }

    /// Waits until every client has done as much again as there are connections.
    fn expect_more(&self) {
        let wanted = self.n_rounds.load(Ordering::Relaxed) + 8 * N_LONG;
        poll::until(LIMIT, "the clients to go on", || {
            let is_enough = self.n_rounds.load(Ordering::Relaxed) > wanted;
            let has_failed = !self.failures.lock().unwrap().is_empty();
            Ok((is_enough || has_failed).then_some(()))
        })
        .unwrap();
    }
}

/// Leaves the processors to the agent, for whom the verifier has much to do: clients without a pause would make it wait.
fn give_way() {
    // Of the calling thread.
    rustix::process::setpriority_process(None, 19).unwrap();
}

/// Sends bytes and gets the same ones back.
fn echo(stream: &mut TcpStream, round: usize) -> anyhow::Result<()> {
    let sent = payload(round);
    stream.write_all(&sent)?;
    let mut got = vec![0; sent.len()];
    stream.read_exact(&mut got)?;
    anyhow::ensure!(got == sent, "other bytes came back");
    Ok(())
}

fn payload(round: usize) -> Vec<u8> {
    round.to_be_bytes().repeat(8)
}

fn long_connections(address: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    (0..N_LONG).map(|_| client::connect(address)).collect()
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Places in both flow tables, as `fulcrum maps` says.
fn sizes(balancer: &Balancer) -> [u64; 2] {
    let maps = balancer.fulcrum(&["maps", "--output", "json"]).unwrap();
    let maps: serde_json::Value = serde_json::from_str(&maps).unwrap();
    ["flows4", "flows6"].map(|name| {
        let mut maps = maps.as_array().unwrap().iter();
        let map = maps.find(|map| map["name"] == name).unwrap();
        map["max_entries"].as_u64().unwrap()
    })
}

/// Two nodes; the last pod of node 1 asks, all others answer: so many that none has more connections than it serves.
fn deploy(flags: &[&str]) -> (Deployment, Vec<Server>) {
    let config = Config {
        pods: vec![4, 3],
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let asking = &asking(&cluster).name;
    let backends: Vec<_> = cluster
        .pods()
        .filter(|(_, pod)| pod.name != *asking)
        .collect();
    let servers = backends
        .iter()
        .map(|(_, pod)| Server::echo(&pod.namespace, TARGET).unwrap())
        .collect();
    let service = Service {
        name: "web".to_owned(),
        cluster_ips: WEB.map(|ip| ip.parse().unwrap()).into(),
        ports: ports(),
        selector: None,
    };
    let mut manifest = Manifest::default().with(&service);
    for family in [0, 1] {
        let endpoints = backends.iter().map(|(node, pod)| Endpoint {
            address: pod.addresses.both()[family],
            node_name: node.name.clone(),
            ready: true,
        });
        manifest = manifest.with(&EndpointSlice {
            name: format!("web-{family}"),
            service: "web".to_owned(),
            endpoints: endpoints.collect(),
            ports: ports(),
        });
    }
    (
        Deployment::start(cluster, &manifest, flags).unwrap(),
        servers,
    )
}

fn ports() -> Vec<Port> {
    ["TCP", "UDP"]
        .map(|protocol| Port::new(protocol, PORT, TARGET))
        .into()
}

fn asking(cluster: &Cluster) -> &Pod {
    cluster.nodes[0].pods.last().unwrap()
}

fn frontends() -> [SocketAddr; 2] {
    WEB.map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT))
}
