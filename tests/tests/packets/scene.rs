//! The cluster that all of these happen on, its clients and what they dial.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use lb_tests::{
    addressing::Dual,
    balancer::Balancer,
    client,
    deployment::Deployment,
    manifest::{Endpoint, EndpointSlice, Exposed, Manifest, Port, Service},
    netns::Namespace,
    poll::patiently,
    server::Server,
    topology::{Cluster, Config, Node},
};

pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8_080;
pub(crate) const ECHO_PORT: u16 = 81;
pub(crate) const ECHO_TARGET: u16 = 8_081;
pub(crate) const NODE_PORT: u16 = 30_080;
pub(crate) const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const BALANCER: [&str; 2] = ["198.19.100.10", "fd00:198:19:100::a"];
/// How long anything that must happen may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// The same for a phase of a growing flow table: before the first the verifier sees the programs of all three, and shares the
/// processors with the clients and with other tests.
pub(crate) const PHASE_LIMIT: Duration = Duration::from_mins(2);
/// Nothing came in this time: nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(200);

/// Nodes of three and two pods; the last of the first node only asks.
pub(crate) struct Scene {
    pub(crate) deployment: Deployment,
    /// What answers at each place, by its name: with it on [`TARGET`], and all that it gets on [`ECHO_TARGET`].
    pub(crate) servers: BTreeMap<String, [Server; 2]>,
}

/// Where something may serve: a pod, or a node as host-network pods have it.
struct Place<'a> {
    name: &'a str,
    node: &'a Node,
    addresses: Dual,
    namespace: &'a Namespace,
}

impl<'a> Place<'a> {
    fn all(cluster: &'a Cluster) -> impl Iterator<Item = Self> {
        let pods = cluster.pods().map(|(node, pod)| Self {
            name: &pod.name,
            node,
            addresses: pod.addresses,
            namespace: &pod.namespace,
        });
        let nodes = cluster.nodes.iter().map(|node| Self {
            name: &node.name,
            node,
            addresses: node.addresses,
            namespace: &node.namespace,
        });
        pods.chain(nodes)
    }

    fn servers(&self) -> [Server; 2] {
        [
            Server::hostname(self.namespace, self.name, TARGET).unwrap(),
            Server::echo(self.namespace, ECHO_TARGET).unwrap(),
        ]
    }
}

/// The cluster without anything that serves.
pub(crate) fn cluster() -> Cluster {
    let config = Config {
        pods: vec![3, 2],
        ..Config::default()
    };
    Cluster::new(&config).unwrap()
}

impl Scene {
    /// With these pods, or nodes, behind the service.
    pub(crate) fn new(backends: &[&str], flags: &[&str]) -> Self {
        Self::on(cluster(), backends, flags)
    }

    /// The same on a cluster that a test has made something of.
    pub(crate) fn on(cluster: Cluster, backends: &[&str], flags: &[&str]) -> Self {
        let servers = Place::all(&cluster).map(|place| (place.name.to_owned(), place.servers()));
        let servers = servers.collect();
        cluster.route_client_via(&cluster.nodes[0]).unwrap();
        let manifest = manifest(&cluster, backends);
        let deployment = Deployment::start(cluster, &manifest, flags).unwrap();
        Self {
            deployment,
            servers,
        }
    }

    /// Puts these behind the service, and returns when every agent has them.
    pub(crate) fn serve(&self, backends: &[&str]) {
        let cluster = &self.deployment.cluster;
        self.deployment.write(&manifest(cluster, backends)).unwrap();
        let endpoints: Vec<String> = Place::all(cluster)
            .filter(|place| backends.contains(&place.name))
            .flat_map(|place| place.addresses.both())
            .flat_map(|addr| [TARGET, ECHO_TARGET].map(|port| SocketAddr::new(addr, port)))
            .map(|endpoint| endpoint.to_string())
            .collect();
        self.deployment
            .wait_for_endpoints("web", &endpoints)
            .unwrap();
    }

    /// The agent of the node by which all clients come.
    pub(crate) fn agent(&self) -> &Balancer {
        &self.deployment.balancers[0]
    }

    /// Starts the servers of a place that has none.
    pub(crate) fn start_servers(&self, name: &str) -> [Server; 2] {
        self.place(name).servers()
    }

    /// The namespace of a pod, or of a node.
    pub(crate) fn pod(&self, name: &str) -> &Namespace {
        self.place(name).namespace
    }

    /// An address of a pod, or of a node.
    pub(crate) fn pod_addr(&self, name: &str, family: usize) -> IpAddr {
        self.place(name).addresses.both()[family]
    }

    fn place(&self, name: &str) -> Place<'_> {
        let mut places = Place::all(&self.deployment.cluster);
        places.find(|place| place.name == name).unwrap()
    }

    /// Everybody who dials: a pod, a process of the node, somebody outside.
    pub(crate) fn clients(&self) -> [(&'static str, &Namespace); 3] {
        let cluster = &self.deployment.cluster;
        [
            ("pod", &cluster.nodes[0].pods[2].namespace),
            ("node", &cluster.nodes[0].namespace),
            ("outside", &cluster.client.namespace),
        ]
    }

    /// The service's `ClusterIP` and node port, of the service port that leads to `TARGET` or to `ECHO_TARGET`.
    pub(crate) fn fronts(&self, family: usize, port: u16) -> [SocketAddr; 2] {
        let node = self.deployment.cluster.nodes[0].addresses.both()[family];
        [
            SocketAddr::new(WEB[family].parse().unwrap(), port),
            SocketAddr::new(node, NODE_PORT + port - PORT),
        ]
    }

    /// Every client with every address that it may dial.
    pub(crate) fn ways(&self, port: u16) -> Vec<(String, &Namespace, SocketAddr)> {
        let mut ways = Vec::new();
        for (name, namespace) in self.clients() {
            for family in 0..2 {
                for front in self.fronts(family, port) {
                    ways.push((format!("{name} to {front}"), namespace, front));
                }
            }
        }
        ways
    }

    /// A count of the first node's agent.
    pub(crate) fn count(&self, reason: &str) -> u64 {
        self.agent().counters().unwrap()[reason]
    }
}

/// The service with these backends.
pub(crate) fn manifest(cluster: &Cluster, backends: &[&str]) -> Manifest {
    let ports = || {
        let of = |name: &str, protocol, port, target| Port {
            name: name.to_owned(),
            ..Port::new(protocol, port, target)
        };
        vec![
            of("tcp", "TCP", PORT, TARGET),
            of("udp", "UDP", PORT, TARGET),
            of("echo-tcp", "TCP", ECHO_PORT, ECHO_TARGET),
            of("echo-udp", "UDP", ECHO_PORT, ECHO_TARGET),
            of("sctp", "SCTP", PORT, TARGET),
        ]
    };
    let service = Service {
        name: "web".to_owned(),
        cluster_ips: WEB.map(|ip| ip.parse().unwrap()).into(),
        ports: ports(),
        selector: None,
    };
    let node_ports = [
        NODE_PORT,
        NODE_PORT,
        NODE_PORT + 1,
        NODE_PORT + 1,
        NODE_PORT,
    ];
    let mut manifest = Manifest::default().with(&Exposed {
        service,
        node_ports: node_ports.into(),
        ips: BALANCER.map(|ip| ip.parse().unwrap()).into(),
    });
    for family in 0..2 {
        let endpoints = Place::all(cluster).filter(|place| backends.contains(&place.name));
        let endpoints = endpoints.map(|place| Endpoint {
            address: place.addresses.both()[family],
            node_name: place.node.name.clone(),
            ready: true,
        });
        manifest = manifest.with(&EndpointSlice {
            name: format!("web-{family}"),
            service: "web".to_owned(),
            endpoints: endpoints.collect(),
            ports: ports(),
        });
    }
    manifest
}

/// A socket of a namespace with a port of its own.
pub(crate) fn bound(namespace: &Namespace, to: SocketAddr, port: u16) -> UdpSocket {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    namespace.run(|| UdpSocket::bind((any, port)).unwrap())
}

/// Who answers one datagram, if anybody does before `limit`, and from the address that was dialled.
pub(crate) fn ask(socket: &UdpSocket, to: SocketAddr, limit: Duration) -> Option<String> {
    let mut answer = [0; 512];
    socket.set_read_timeout(Some(patiently(limit))).unwrap();
    // An error is one that an earlier datagram has caused: nobody serves there yet.
    socket.send_to(b"hello\n", to).ok()?;
    let (len, from) = socket.recv_from(&mut answer).ok()?;
    assert_eq!(from, to, "the answer comes from what was dialled");
    let text = String::from_utf8_lossy(&answer[..len]).into_owned();
    Some(text.trim_start_matches("You've hit ").trim_end().to_owned())
}

/// A connection to an echo server on which a word went there and back, twice: it is established by any measure.
pub(crate) fn connected(namespace: &Namespace, to: SocketAddr) -> TcpStream {
    let mut stream = namespace.run(|| client::connect(to).unwrap());
    for _ in 0..2 {
        assert!(is_echoed(&mut stream), "{to}");
    }
    stream
}

/// A word goes there and back.
pub(crate) fn is_echoed(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"word").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"word"
}
