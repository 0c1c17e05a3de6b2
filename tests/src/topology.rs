//! A cluster made of network namespaces: nodes with their pods, and a client outside.
//!
//! ```text
//!   pod-1-1   pod-1-2          pod-2-1   pod-2-2
//!     eth0      eth0             eth0      eth0       one namespace per pod
//!     lxc1      lxc2             lxc1      lxc2
//!       node-1 ----- tun2 ~ tun1 ----- node-2         the tunnel only with `Interconnect::Tun`
//!       uplink0                        uplink0
//!          └───────────── br0 ────────────┘           the segment, a bridge in a namespace of its own
//!                          │
//!                       uplink0
//!                       client
//! ```
//!
//! The pods' network is routed: a node has a host route to each of its pods, and routes to the other nodes' pods by the
//! segment or by tunnels. The client reaches services by way of one node, as an outside network with a route for service
//! prefixes does, and has no route to pods. Addresses: [`crate::addressing`]. When [`Cluster::new`] returns, the first
//! packet gets through. No namespace has a route out of the machine; dropping the cluster removes everything.

use anyhow::{Result, ensure};

use crate::{
    addressing::{
        self, Dual, GATEWAY_V4, GATEWAY_V6, SEGMENT_LEN_V4, SEGMENT_LEN_V6, SERVICES_V4,
        SERVICES_V6,
    },
    blackhole::Blackholes,
    link,
    netns::Namespace,
    residue,
    server::Server,
    tun::{self, Tun},
};

/// The device of nodes and client on the segment.
pub const UPLINK: &str = "uplink0";
/// A pattern that means the node side of every pod's device.
pub const POD_DEVICES: &str = "lxc*";
/// The pods' own device.
const POD_DEVICE: &str = "eth0";

/// What kind of cluster to make.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many pods each node has; its length is the number of nodes.
    pub pods: Vec<u8>,
    /// The way from node to node for the pods' packets.
    pub interconnect: Interconnect,
    /// `rp_filter` of every device.
    pub reverse_path: ReversePath,
    /// MTU of every device.
    pub mtu: u32,
    /// Whether a person can enter the namespaces.
    pub naming: Naming,
}

/// The way from node to node for the pods' packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interconnect {
    /// The segment: Ethernet.
    Ethernet,
    /// A point-to-point tunnel between each two nodes, without Ethernet header.
    Tun,
}

/// Values of `rp_filter`: which sources a device accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// All.
    Off = 0,
    /// Those that the device itself leads to.
    Strict = 1,
    /// Those that any device leads to; Debian's default.
    Loose = 2,
}

/// Whether a person can enter the namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// No: they go with the process, however it ends.
    Anonymous,
    /// By name.
    Named,
}

impl Default for Config {
    /// Two nodes of two pods each, on Ethernet.
    fn default() -> Self {
        Self {
            pods: vec![2, 2],
            interconnect: Interconnect::Ethernet,
            reverse_path: ReversePath::Loose,
            mtu: 1500,
            naming: Naming::Anonymous,
        }
    }
}

/// Nodes, their pods, and a client outside.
#[derive(Debug)]
pub struct Cluster {
    // Carriers of packets stop before their devices go.
    tunnels: Vec<Tun>,
    /// The nodes, `node-1` first.
    pub nodes: Vec<Node>,
    /// The client outside.
    pub client: Client,
    /// The bridge between nodes and client.
    pub segment: Namespace,
    _blackholes: Blackholes,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `node-1`, `node-2` ...
    pub name: String,
    /// Counted from one.
    pub number: u8,
    /// Where its agent runs.
    pub namespace: Namespace,
    /// Its addresses on the segment.
    pub addresses: Dual,
    /// The devices that lead out of it.
    pub uplinks: Vec<String>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// `pod-1-1`: node and pod, both counted from one.
    pub name: String,
    /// Counted from one, on each node.
    pub number: u8,
    /// The pod's own namespace.
    pub namespace: Namespace,
    /// Its addresses.
    pub addresses: Dual,
    /// The node side of its device.
    pub device: String,
}

/// The client outside.
#[derive(Debug)]
pub struct Client {
    /// Where it runs.
    pub namespace: Namespace,
    /// Its addresses on the segment.
    pub addresses: Dual,
}

impl Cluster {
    /// Makes a cluster in which packets already flow.
    pub fn new(config: &Config) -> Result<Self> {
        let n_nodes = config.pods.len();
        ensure!(
            (1..=99).contains(&n_nodes) && config.pods.iter().all(|n_pods| *n_pods < 200),
            "a cluster of {n_nodes} nodes with {:?} pods: has 1 to 99 nodes with fewer than 200 pods",
            config.pods
        );
        residue::reap();
        let blackholes = Blackholes::hold()?;
        let segment = namespace("segment", config)?;
        let client = Client {
            namespace: namespace("client", config)?,
            addresses: addressing::client(),
        };
        let nodes: Vec<Node> = (1..)
            .zip(&config.pods)
            .map(|(number, n_pods)| Node::new(number, *n_pods, config))
            .collect::<Result<_>>()?;
        let mut cluster = Self {
            tunnels: Vec::new(),
            nodes,
            client,
            segment,
            _blackholes: blackholes,
        };
        cluster.connect(config)?;
        Ok(cluster)
    }

    /// Every pod with the node that it runs on.
    pub fn pods(&self) -> impl Iterator<Item = (&Node, &Pod)> {
        self.nodes
            .iter()
            .flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    /// Starts a server on this port in every pod; each answers with the pod's name.
    pub fn serve_hostnames(&self, port: u16) -> Result<Vec<Server>> {
        self.pods()
            .map(|(_, pod)| Server::hostname(&pod.namespace, &pod.name, port))
            .collect()
    }

    /// Lets the client reach services by way of this node, instead of the first one.
    pub fn route_client_via(&self, node: &Node) -> Result<()> {
        self.client.namespace.ip(&service_routes("replace", node))
    }

    /// Lays all links. The far ends come up first, so that each near end has a carrier at once.
    fn connect(&mut self, config: &Config) -> Result<()> {
        let segment = &self.segment;
        segment.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        segment.ip(&self.segment_commands(config))?;
        if config.interconnect == Interconnect::Tun {
            self.tunnels.extend(lay_tunnels(&mut self.nodes)?);
        }
        for node in &self.nodes {
            node.namespace.ip(&self.node_commands(node, config))?;
            for pod in &node.pods {
                pod.namespace.ip(&pod.commands(node.number))?;
            }
        }
        let Client {
            namespace,
            addresses,
        } = &self.client;
        namespace.ip(&[
            link::up(UPLINK),
            link::addresses(UPLINK, *addresses, SEGMENT_LEN_V4, SEGMENT_LEN_V6),
            link::link_local(UPLINK, addresses.v6.segments()[7]),
            service_routes("add", &self.nodes[0]),
        ]
        .concat())?;
        let pods = self.pods().map(|(_, pod)| &pod.namespace);
        let others = self.nodes.iter().map(|node| &node.namespace);
        pods.chain(others)
            .chain([namespace, &self.segment])
            .try_for_each(link::wait_for_carriers)
    }

    fn segment_commands(&self, config: &Config) -> Vec<String> {
        // Without snooping, neighbour discovery needs no querier.
        let mut commands = vec!["link add br0 type bridge stp_state 0 mcast_snooping 0".to_owned()];
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), &node.namespace));
        let ports = nodes.chain([("client", &self.client.namespace)]);
        for ((device, namespace), number) in ports.zip(1_u8..) {
            let mac = format!("02:fc:00:00:00:{number:02x}");
            commands.push(link::veth(device, &mac, UPLINK, namespace, config.mtu));
            commands.push(format!("link set dev {device} master br0 up"));
        }
        commands.push("link set dev br0 up".to_owned());
        commands
    }

    fn node_commands(&self, node: &Node, config: &Config) -> Vec<String> {
        let mut commands = link::up(UPLINK);
        commands.extend(link::addresses(
            UPLINK,
            node.addresses,
            SEGMENT_LEN_V4,
            SEGMENT_LEN_V6,
        ));
        commands.extend(link::link_local(UPLINK, node.number.into()));
        for pod in &node.pods {
            commands.extend(node.pod_commands(pod, config));
        }
        for other in self
            .nodes
            .iter()
            .filter(|other| other.number != node.number)
        {
            commands.extend(node.peer_commands(other, config));
        }
        commands
    }
}

impl Node {
    fn new(number: u8, n_pods: u8, config: &Config) -> Result<Self> {
        let name = format!("node-{number}");
        let own = namespace(&name, config)?;
        own.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        let pods = (1..=n_pods)
            .map(|pod| Pod::new(number, pod, config))
            .collect::<Result<_>>()?;
        Ok(Self {
            name,
            number,
            namespace: own,
            addresses: addressing::node(number),
            uplinks: vec![UPLINK.to_owned()],
            pods,
        })
    }

    /// The device of a pod, and the way to it.
    fn pod_commands(&self, pod: &Pod, config: &Config) -> Vec<String> {
        let device = &pod.device;
        let mac = gateway_mac(self.number, pod.number);
        let mut commands = vec![link::veth(
            device,
            &mac,
            POD_DEVICE,
            &pod.namespace,
            config.mtu,
        )];
        commands.extend(link::up(device));
        commands.push(format!("addr add {GATEWAY_V6}/64 dev {device} nodad"));
        for (to, from) in pod.addresses.both().into_iter().zip(self.addresses.both()) {
            commands.push(format!("route add {to} dev {device} src {from}"));
        }
        commands
    }

    /// The way to another node's pods.
    fn peer_commands(&self, other: &Self, config: &Config) -> Vec<String> {
        let cidrs = addressing::pod_cidrs(other.number);
        if config.interconnect == Interconnect::Ethernet {
            let gateways = cidrs.iter().zip(other.addresses.both());
            return gateways
                .map(|(cidr, via)| format!("route add {cidr} via {via} dev {UPLINK}"))
                .collect();
        }
        let device = tunnel_device(other.number);
        let mut commands = vec![format!("link set dev {device} mtu {}", config.mtu)];
        commands.extend(link::up(&device));
        commands.extend(link::addresses(
            &device,
            addressing::tunnel(self.number),
            32,
            128,
        ));
        commands.extend(
            cidrs
                .iter()
                .map(|cidr| format!("route add {cidr} dev {device}")),
        );
        commands
    }
}

impl Pod {
    fn new(node: u8, number: u8, config: &Config) -> Result<Self> {
        let name = format!("pod-{node}-{number}");
        Ok(Self {
            namespace: namespace(&name, config)?,
            name,
            number,
            addresses: addressing::pod(node, number),
            device: format!("lxc{number}"),
        })
    }

    /// The pod's own side: everything goes to its node.
    fn commands(&self, node: u8) -> Vec<String> {
        let mac = gateway_mac(node, self.number);
        let mut commands = link::up(POD_DEVICE);
        commands.extend(link::addresses(POD_DEVICE, self.addresses, 32, 128));
        commands.extend(link::link_local(POD_DEVICE, 2));
        commands.extend([
            format!("neigh add {GATEWAY_V4} lladdr {mac} dev {POD_DEVICE} nud permanent"),
            format!("route add {GATEWAY_V4} dev {POD_DEVICE} scope link"),
            format!("route add default via {GATEWAY_V4} dev {POD_DEVICE}"),
            format!("route add default via {GATEWAY_V6} dev {POD_DEVICE}"),
        ]);
        commands
    }
}

/// A namespace whose devices, made later, take these settings from `default`.
fn namespace(label: &str, config: &Config) -> Result<Namespace> {
    let namespace = match config.naming {
        Naming::Anonymous => Namespace::anonymous(label)?,
        Naming::Named => Namespace::named(label)?,
    };
    let rp_filter = (config.reverse_path as u8).to_string();
    namespace.sysctls(&[
        // The effective value is the larger of these and the device's own, which is copied from `default`.
        ("net/ipv4/conf/all/rp_filter", &rp_filter),
        ("net/ipv4/conf/default/rp_filter", &rp_filter),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
    ])?;
    Ok(namespace)
}

/// Links each two nodes, and notes the new devices among their uplinks.
fn lay_tunnels(nodes: &mut [Node]) -> Result<Vec<Tun>> {
    let mut tunnels = Vec::new();
    for (index, a) in nodes.iter().enumerate() {
        for b in &nodes[index + 1..] {
            let (to_b, to_a) = (tunnel_device(b.number), tunnel_device(a.number));
            let a = tun::End {
                namespace: &a.namespace,
                device: &to_b,
            };
            let b = tun::End {
                namespace: &b.namespace,
                device: &to_a,
            };
            tunnels.push(Tun::new(a, b)?);
        }
    }
    let numbers: Vec<u8> = nodes.iter().map(|node| node.number).collect();
    for node in nodes {
        let others = numbers.iter().filter(|number| **number != node.number);
        node.uplinks
            .extend(others.map(|number| tunnel_device(*number)));
    }
    Ok(tunnels)
}

/// The device that leads to this node.
fn tunnel_device(node: u8) -> String {
    format!("tun{node}")
}

/// The MAC of the node side of a pod's device, known in advance for the pod's static neighbour.
fn gateway_mac(node: u8, pod: u8) -> String {
    format!("02:fc:01:{node:02x}:00:{pod:02x}")
}

fn service_routes(verb: &str, node: &Node) -> Vec<String> {
    let routes = [SERVICES_V4, SERVICES_V6]
        .into_iter()
        .zip(node.addresses.both());
    routes
        .map(|(prefix, via)| format!("route {verb} {prefix} via {via} dev {UPLINK}"))
        .collect()
}
