//! What kind of cluster to make: every choice is a value of [`Config`], and each has a default.

use super::{TRUNK, UPLINK};

/// What kind of cluster to make.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many pods each node has; its length is the number of nodes.
    pub pods: Vec<u8>,
    /// How pods are connected to their node.
    pub attachment: Attachment,
    /// The way from node to node for the pods' packets.
    pub interconnect: Interconnect,
    /// What the frames on the segment look like.
    pub segment: Segment,
    /// Where the client outside is.
    pub outside: Outside,
    /// Whether nodes have a default route.
    pub default_route: DefaultRoute,
    /// `rp_filter` of every device.
    pub reverse_path: ReversePath,
    /// MTU of every device, L3 bytes.
    pub mtu: u32,
    /// MTU of the devices between nodes other than Ethernet, if it is another one.
    pub tunnel_mtu: Option<u32>,
    /// Whether a person can enter the namespaces.
    pub naming: Naming,
}

/// How pods are connected to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// A veth pair each; the node has a route to every pod.
    Routed,
    /// As ports of the node's bridge `cni0`: pods of one node share a link.
    Bridge,
    /// A netkit pair each; the node has a route to every pod. Not every kernel has it: see
    /// [`crate::kernel::has_netkit`].
    Netkit,
}

/// The way from node to node for the pods' packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interconnect {
    /// The segment: Ethernet.
    Ethernet,
    /// A point-to-point tunnel between each two nodes, without Ethernet header.
    Tun,
    /// A vxlan device on every node, over the segment; who is behind which node is told, not learnt.
    Vxlan,
}

/// What the frames on the nodes' segment look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// As they are.
    Untagged,
    /// With the tag of a VLAN, whose devices the stations on it use. Not every kernel has such: see
    /// [`crate::kernel::has_vlans`].
    Tagged,
}

/// Where the client outside is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// On the nodes' segment.
    OnSegment,
    /// In a network of its own, which a gateway on the segment leads to.
    BehindGateway,
}

/// Whether nodes have a default route.
///
/// It leads to the gateway, or to the client if there is none: never out of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRoute {
    /// No: nodes reach what they have a route for.
    Without,
    /// Yes.
    With,
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
            attachment: Attachment::Routed,
            interconnect: Interconnect::Ethernet,
            segment: Segment::Untagged,
            outside: Outside::OnSegment,
            default_route: DefaultRoute::Without,
            reverse_path: ReversePath::Loose,
            mtu: 1500,
            tunnel_mtu: None,
            naming: Naming::Anonymous,
        }
    }
}

impl Config {
    /// The device of a station on the segment that its frames come by.
    pub(super) fn port(&self) -> &'static str {
        match self.segment {
            Segment::Untagged => UPLINK,
            Segment::Tagged => TRUNK,
        }
    }

    /// MTU of what carries the pods' packets from node to node.
    pub(crate) fn way_mtu(&self) -> u32 {
        match self.interconnect {
            Interconnect::Ethernet => self.mtu,
            Interconnect::Tun | Interconnect::Vxlan => self.tunnel_mtu.unwrap_or(self.mtu),
        }
    }

    /// MTU of the nodes' own device on the segment.
    pub(crate) fn segment_mtu(&self) -> u32 {
        /// What vxlan over IPv4 puts before a packet: IPv4, UDP and vxlan headers, and the inner Ethernet header.
        const VXLAN: u32 = 20 + 8 + 8 + 14;
        match self.interconnect {
            Interconnect::Ethernet | Interconnect::Tun => self.mtu,
            Interconnect::Vxlan => self.mtu + VXLAN,
        }
    }
}
