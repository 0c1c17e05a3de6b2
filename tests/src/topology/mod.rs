//! A cluster made of network namespaces: nodes with their pods, and a client outside.
//!
//! ```text
//!   pod-1-1   pod-1-2          pod-2-1   pod-2-2
//!     eth0      eth0             eth0      eth0       one namespace per pod
//!     lxc1      lxc2             lxc1      lxc2       ports of cni0 with `Attachment::Bridge`
//!       node-1 ----- tun2 ~ tun1 ----- node-2         or vxlan0, or nothing, by `Interconnect`
//!       uplink0                        uplink0
//!          └───────────── br0 ────────────┘           the segment, a bridge in a namespace of its own
//!                          │
//!                       uplink0                       with `Outside::BehindGateway` a gateway is between
//!                       client
//! ```
//!
//! Pods are reached by a host route each, or as one subnet behind a bridge; other nodes' pods by the segment or by tunnels.
//! The client reaches services by way of one node, as an outside network with a route for service prefixes does; on the
//! segment it has no route to pods, and a gateway has one for each node's. Addresses: [`crate::addressing`]. When [`Cluster::new`] returns, the first packet gets through. No
//! namespace has a route out of the machine; dropping the cluster removes everything.

use anyhow::{Result, ensure};

use crate::{
    addressing, blackhole::Blackholes, link, netns::Namespace, residue, server::Server, tun::Tun,
};

mod config;
mod node;
mod outside;
mod pod;
mod way;

pub use config::{
    Attachment, Config, DefaultRoute, Interconnect, Naming, Outside, ReversePath, Segment,
};
pub use node::Node;
pub use outside::{Client, Gateway};
pub use pod::{POD_DEVICE, Pod};
pub use way::VXLAN;

/// The device of nodes, gateway and client on their way to each other.
pub const UPLINK: &str = "uplink0";
/// What carries [`UPLINK`] where the segment's frames have tags.
const TRUNK: &str = "trunk0";
/// A pattern that means the node side of every pod's device.
pub const POD_DEVICES: &str = "lxc*";

/// Nodes, their pods, and a client outside.
#[derive(Debug)]
pub struct Cluster {
    // Carriers of packets stop before their devices go.
    tunnels: Vec<Tun>,
    /// The nodes, `node-1` first.
    pub nodes: Vec<Node>,
    /// The client outside.
    pub client: Client,
    /// What the client is behind, if anything.
    pub gateway: Option<Gateway>,
    /// The bridge between nodes and client.
    pub segment: Namespace,
    _blackholes: Blackholes,
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
        let (gateway, addresses) = match config.outside {
            Outside::OnSegment => (None, addressing::client()),
            Outside::BehindGateway => (
                Some(Gateway::new(config)?),
                addressing::client_behind_gateway(),
            ),
        };
        let client = Client {
            namespace: namespace("client", config)?,
            addresses,
        };
        let nodes: Vec<Node> = (1..)
            .zip(&config.pods)
            .map(|(number, n_pods)| Node::new(number, *n_pods, config))
            .collect::<Result<_>>()?;
        let mut cluster = Self {
            tunnels: Vec::new(),
            nodes,
            client,
            gateway,
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
        self.outermost()
            .1
            .ip(&outside::service_routes("replace", node))
    }

    /// Lays all links. The far ends come up first, so that each near end has a carrier at once.
    fn connect(&mut self, config: &Config) -> Result<()> {
        let segment = &self.segment;
        segment.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        segment.ip(&self.segment_commands(config))?;
        if config.segment == Segment::Tagged {
            let nodes = self.nodes.iter().map(|node| &node.namespace);
            for station in nodes.chain([self.outermost().1]) {
                let tagged = link::vlan(TRUNK, UPLINK);
                station.ip(&[link::up(TRUNK), vec![tagged]].concat())?;
            }
        }
        self.tunnels = way::lay_tunnels(&mut self.nodes, config.interconnect)?;
        let stops: Vec<way::Stop> = self.nodes.iter().map(Node::stop).collect();
        for node in &self.nodes {
            let mut others = stops.clone();
            others.retain(|other| other.number != node.number);
            node.namespace.ip(&node.commands(&others, config))?;
            let forwarding = way::forwarding(&others, config.interconnect);
            if !forwarding.is_empty() {
                node.namespace.bridge(&forwarding)?;
            }
            for pod in &node.pods {
                pod.namespace.ip(&pod.commands(node.number, config))?;
            }
        }
        if let Some(gateway) = &self.gateway {
            gateway.connect(&self.client, &self.nodes, config)?;
        }
        self.client.connect(self.gateway.as_ref(), &self.nodes[0])?;
        self.namespaces().try_for_each(link::wait_for_carriers)
    }

    /// All namespaces; pods before what their packets go through.
    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        let pods = self.pods().map(|(_, pod)| &pod.namespace);
        let nodes = self.nodes.iter().map(|node| &node.namespace);
        let gateway = self.gateway.iter().map(|gateway| &gateway.namespace);
        pods.chain(nodes)
            .chain(gateway)
            .chain([&self.client.namespace, &self.segment])
    }

    /// Who is on the segment besides the nodes, by name: gateway or client.
    fn outermost(&self) -> (&'static str, &Namespace) {
        match &self.gateway {
            Some(gateway) => ("gateway", &gateway.namespace),
            None => ("client", &self.client.namespace),
        }
    }

    fn segment_commands(&self, config: &Config) -> Vec<String> {
        // Without snooping, neighbour discovery needs no querier.
        let mut commands = vec!["link add br0 type bridge stp_state 0 mcast_snooping 0".to_owned()];
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), &node.namespace, config.segment_mtu()));
        let (name, namespace) = self.outermost();
        let ports = nodes.chain([(name, namespace, config.mtu)]);
        for ((device, namespace, mtu), number) in ports.zip(1_u8..) {
            let mac = format!("02:fc:00:00:00:{number:02x}");
            commands.push(link::veth(device, &mac, config.port(), namespace, mtu));
            commands.push(format!("link set dev {device} master br0 up"));
        }
        commands.push("link set dev br0 up".to_owned());
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
