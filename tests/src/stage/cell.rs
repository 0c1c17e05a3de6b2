//! One cell of the matrix: who dials which address of what, in which family.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, bail, ensure};

use super::services::{ECHO, SERVED, WITNESS, frontend};
use crate::{
    addressing::Dual,
    client::{self, Exchange, UdpMode},
    netns::Namespace,
    topology::{Cluster, Node, POD_DEVICE, Pod, UPLINK},
};

/// The agent's device that the node's routes to services lead to.
const HOST_DEVICE: &str = "fulcrum0";
/// Connections, and sockets of each kind, in one cell.
const N_EXCHANGES: usize = 3;
/// What is sent and must come back by TCP: more than the windows and queues on the way hold at once.
const N_BYTES: usize = 300_000;
/// What is sent and must come back as one datagram.
const DATAGRAM: usize = 1200;
const EXCHANGES: [Exchange; 3] = [
    Exchange::Tcp,
    Exchange::Udp(UdpMode::Connected),
    Exchange::Udp(UdpMode::Unconnected),
];

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A process of the node, in the node's own namespace.
    Host,
    /// The last pod of the node.
    Pod,
    /// The client outside, whose packets come in through the node.
    Outside,
}

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// The backend's own address, without any service.
    Direct,
    /// The service's `clusterIP`.
    ClusterIp,
    /// The service's node port on the node itself.
    OwnNodePort,
    /// The service's node port on the other node.
    OtherNodePort,
    /// The address that the service's load balancer has.
    LoadBalancer,
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Backend {
    /// The first pod of the node.
    LocalPod,
    /// A pod of the other node.
    RemotePod,
    /// A process of the node.
    HostHere,
    /// A process of the other node.
    HostThere,
    /// The pod that dials.
    Itself,
    /// Who is outside.
    Outside,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One combination of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Who dials.
    pub client: Client,
    /// What is dialled.
    pub frontend: Frontend,
    /// Who answers.
    pub backend: Backend,
    /// In which family.
    pub family: Family,
}

/// Whom the server sees.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// This address.
    As(IpAddr),
    /// Anybody but this address.
    NotAs(IpAddr),
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Host, Self::Pod, Self::Outside];

    /// The device by which it dials services.
    pub fn device(self) -> &'static str {
        match self {
            Self::Host => HOST_DEVICE,
            Self::Pod => POD_DEVICE,
            Self::Outside => UPLINK,
        }
    }

    /// Where its sockets are.
    pub fn namespace(self, cluster: &Cluster) -> Result<&Namespace> {
        let here = &cluster.nodes[0];
        Ok(match self {
            Self::Host => &here.namespace,
            Self::Pod => &here.pods.last().context("a pod that dials")?.namespace,
            Self::Outside => &cluster.client.namespace,
        })
    }
}

impl Frontend {
    /// What services have.
    pub const OF_SERVICES: [Self; 4] = [
        Self::ClusterIp,
        Self::OwnNodePort,
        Self::OtherNodePort,
        Self::LoadBalancer,
    ];

    /// The node that a packet to such an address meets first.
    fn translated_by(self, cluster: &Cluster) -> &Node {
        &cluster.nodes[usize::from(self == Self::OtherNodePort)]
    }
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::LocalPod,
        Self::RemotePod,
        Self::HostHere,
        Self::HostThere,
        Self::Itself,
        Self::Outside,
    ];
    /// Pods and processes of both nodes.
    pub const OF_NODES: [Self; 4] = [
        Self::LocalPod,
        Self::RemotePod,
        Self::HostHere,
        Self::HostThere,
    ];

    /// Its addresses.
    pub fn addresses(self, cluster: &Cluster) -> [IpAddr; 2] {
        self.place(cluster).addresses.both()
    }

    /// The name of its node; empty outside.
    pub(super) fn node_name(self, cluster: &Cluster) -> String {
        let node = self.place(cluster).node;
        node.map_or_else(String::new, |node| node.name.clone())
    }

    /// Where its servers are.
    pub fn namespace(self, cluster: &Cluster) -> &Namespace {
        self.place(cluster).namespace
    }

    fn place(self, cluster: &Cluster) -> Place<'_> {
        let [here, there, ..] = cluster.nodes.as_slice() else {
            unreachable!("a stage has two nodes")
        };
        let of_pod = |node, pod| Place::of_pod(node, pod);
        match self {
            Self::LocalPod => of_pod(here, &here.pods[0]),
            Self::RemotePod => of_pod(there, &there.pods[0]),
            Self::HostHere => Place::of_node(here),
            Self::HostThere => Place::of_node(there),
            Self::Itself => of_pod(here, &here.pods[here.pods.len() - 1]),
            Self::Outside => Place {
                addresses: cluster.client.addresses,
                name: "client",
                namespace: &cluster.client.namespace,
                node: None,
            },
        }
    }
}

/// Where a backend is.
struct Place<'a> {
    addresses: Dual,
    name: &'a str,
    namespace: &'a Namespace,
    node: Option<&'a Node>,
}

impl<'a> Place<'a> {
    fn of_pod(node: &'a Node, pod: &'a Pod) -> Self {
        Self {
            addresses: pod.addresses,
            name: &pod.name,
            namespace: &pod.namespace,
            node: Some(node),
        }
    }

    fn of_node(node: &'a Node) -> Self {
        Self {
            addresses: node.addresses,
            name: &node.name,
            namespace: &node.namespace,
            node: Some(node),
        }
    }
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Of these addresses, IPv4 first, the one of this family.
    pub fn of(self, addresses: [IpAddr; 2]) -> IpAddr {
        addresses[self as usize]
    }
}

impl Cell {
    /// All combinations of these, in both families.
    pub fn all(clients: &[Client], frontends: &[Frontend], backends: &[Backend]) -> Vec<Self> {
        let mut cells = Vec::new();
        for client in clients {
            for frontend in frontends {
                for backend in backends {
                    cells.extend(Family::ALL.map(|family| Self {
                        client: *client,
                        frontend: *frontend,
                        backend: *backend,
                        family,
                    }));
                }
            }
        }
        cells
    }

    /// Whether agents serve what is dialled.
    pub fn is_served(&self) -> bool {
        SERVED.contains(&self.frontend)
    }

    /// Exchanges of every kind, each answered by the backend that is meant, from the address that was dialled, with what
    /// was sent; and the backend sees whom it should.
    pub fn run(&self, cluster: &Cluster) -> Result<()> {
        let namespace = self.client.namespace(cluster)?;
        let address = |port| frontend(cluster, self.frontend, self.backend, self.family, port);
        let name = self.backend.place(cluster).name;
        let (witness, echo) = (address(WITNESS), address(ECHO));
        let seen = self.seen(cluster, witness.ip())?;
        namespace.run(|| {
            for exchange in EXCHANGES {
                for number in 1..=N_EXCHANGES {
                    let answer = client::hit(exchange, witness);
                    answer
                        .and_then(|answer| seen.check(&answer, name))
                        .with_context(|| format!("exchange {number} of {exchange} {witness}"))?;
                }
            }
            echo_all(echo).with_context(|| format!("echo {echo}"))
        })
    }

    /// Who the server sees when `dialled` is: the client's own address, unless answers would not come back through the
    /// node that translates (the design's section on source NAT).
    fn seen(&self, cluster: &Cluster, dialled: IpAddr) -> Result<Seen> {
        let to = self.family.of(self.backend.addresses(cluster));
        let own = self.client.namespace(cluster)?;
        let is_direct = self.frontend == Frontend::Direct;
        if self.client == Client::Pod && self.backend == Backend::Itself && !is_direct {
            return Ok(Seen::NotAs(to));
        }
        let translates = self.frontend.translated_by(cluster);
        let is_elsewhere = self.backend.node_name(cluster) != translates.name;
        // A process of the node is seen as if it had dialled the backend itself.
        let dials = self.client == Client::Host && self.frontend != Frontend::OtherNodePort;
        let is_elsewhere = is_elsewhere || dials && self.backend != Backend::HostHere;
        // Answers to its own pods a node meets wherever they come from.
        let is_its_pod = self.client == Client::Pod && self.frontend != Frontend::OtherNodePort;
        if is_direct || is_its_pod || !is_elsewhere {
            return Ok(Seen::As(own.source_to(dialled)?));
        }
        // As the node itself sends to it: by the preferred source of the way there.
        Ok(Seen::As(translates.namespace.source_to(to)?))
    }
}

impl Seen {
    /// Fails unless this answer of a witness is by `name` and says that it saw the right client.
    fn check(&self, answer: &str, name: &str) -> Result<()> {
        let Some((server, client)) = answer.split_once(" from ") else {
            bail!("the answer is {answer:?}");
        };
        ensure!(server == name, "{server} answered instead of {name}");
        let client: IpAddr = client.parse().with_context(|| answer.to_owned())?;
        match *self {
            Self::As(address) => ensure!(
                client == address,
                "{name} saw the client as {client} instead of {address}"
            ),
            Self::NotAs(address) => {
                ensure!(
                    client != address,
                    "{name} saw itself, {address}, as its client"
                );
            }
        }
        Ok(())
    }
}

/// A stream and a datagram, there and back.
fn echo_all(address: SocketAddr) -> Result<()> {
    // The period is prime, so that no two segments that could be exchanged are alike.
    let sent: Vec<u8> = (0..251).cycle().take(N_BYTES).collect();
    let received = client::echoed(address, &sent).context("TCP")?;
    ensure!(
        received == sent,
        "{} bytes of {N_BYTES} came back by TCP, or others",
        received.len()
    );
    let socket = client::udp_socket(UdpMode::Connected, address)?;
    let received = client::echoed_datagram(&socket, &sent[..DATAGRAM]).context("UDP")?;
    ensure!(
        received == sent[..DATAGRAM],
        "a datagram of {} bytes came back instead of the one of {DATAGRAM}, or another",
        received.len()
    );
    Ok(())
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Pod => "pod",
            Self::Outside => "outside",
        })
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::ClusterIp => "cluster-ip",
            Self::OwnNodePort => "own-node-port",
            Self::OtherNodePort => "other-node-port",
            Self::LoadBalancer => "load-balancer",
        })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LocalPod => "local-pod",
            Self::RemotePod => "remote-pod",
            Self::HostHere => "host-here",
            Self::HostThere => "host-there",
            Self::Itself => "itself",
            Self::Outside => "outside",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            frontend,
            backend,
            family,
        } = self;
        write!(f, "{client}/{frontend}/{backend}/{family}")
    }
}
