//! One node's devices, routes and neighbours, with nobody at the other ends: the network that programs see when they
//! are run on made-up packets.
//!
//! All neighbours are permanent, so the FIB always answers the same. The addresses are those of [`crate::addressing`]:
//! this is node 1, its pods are 1 and 2. Behind the uplink are:
//!
//! | pods of | are reached |
//! | --- | --- |
//! | node 2 | through node 2, whose MAC is known |
//! | node 3 | through node 3, whose MAC is not known |
//! | node 4 | through node 2, by a route that takes [`NARROW_MTU`] bytes |
//! | node 5 | not at all |

use anyhow::{Context, Result};
use lb_common::net::addr::{Addr, Addr4, Addr6, Family};
use nix::net::if_::if_nametoindex;

use crate::{
    addressing::{Dual, client, node, pod, pod_cidrs},
    netns::Namespace,
    packet::Mac,
};

/// The node's number.
pub const NODE: u8 = 1;
/// A node whose MAC is known.
pub const NEIGHBOUR: u8 = 2;
/// A node whose MAC is not known.
pub const UNRESOLVED: u8 = 3;
/// A node that is reached by a route of [`NARROW_MTU`].
pub const NARROW: u8 = 4;
/// A node that is not reached.
pub const UNROUTED: u8 = 5;
/// Largest packet, L3 bytes, of the route to node [`NARROW`]; the least that IPv6 allows.
pub const NARROW_MTU: u16 = 1280;

/// A device of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The Ethernet that leads to other nodes and to clients.
    Uplink,
    /// The node's side of pod 1 or 2.
    Pod(u8),
    /// The end of the host's own pair where what its processes send comes out; the other end is
    /// [`LoneNode::host_ifindex`].
    Host,
}

impl Device {
    const ALL: [Self; 4] = [Self::Uplink, Self::Pod(1), Self::Pod(2), Self::Host];

    /// The name of the device.
    pub fn name(self) -> String {
        match self {
            Self::Uplink => "up0".to_owned(),
            Self::Pod(pod) => format!("lxc{pod}"),
            Self::Host => "host1".to_owned(),
        }
    }

    /// The device's own MAC.
    pub fn mac(self) -> Mac {
        match self {
            Self::Uplink => station(NODE),
            Self::Pod(pod) => [2, 0, 0, 0, 1, pod],
            Self::Host => [2, 0, 0, 0, 3, 1],
        }
    }

    /// The MAC of the pod or of the pair's other end behind the device, or of the node that the uplink's routes lead to.
    pub fn neighbour(self) -> Mac {
        match self {
            Self::Uplink => station(NEIGHBOUR),
            Self::Pod(pod) => [2, 0, 0, 0, 2, pod],
            Self::Host => [2, 0, 0, 0, 3, 2],
        }
    }
}

/// The MAC of the external client.
pub const CLIENT_MAC: Mac = station(200);

/// The address of one family.
pub fn address<A: Addr>(dual: Dual) -> A {
    let words = match A::FAMILY {
        Family::V4 => Addr4::from(dual.v4).words(),
        Family::V6 => Addr6::from(dual.v6).words(),
    };
    A::from_words(words)
}

/// A station on the uplink's segment.
const fn station(host: u8) -> Mac {
    [2, 0, 0, 0, 0, host]
}

/// See the module. Everything goes when it is dropped.
#[derive(Debug)]
pub struct LoneNode {
    namespace: Namespace,
}

impl LoneNode {
    /// Makes the network.
    pub fn new() -> Result<Self> {
        let namespace = Namespace::anonymous("lone-node")?;
        namespace.ip(&commands())?;
        namespace.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ])?;
        Ok(Self { namespace })
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The number of a device.
    pub fn ifindex(&self, device: Device) -> Result<u32> {
        let name = device.name();
        self.namespace
            .run(|| if_nametoindex(name.as_str()))
            .with_context(|| format!("find the device {name}"))
    }

    /// The number of the device at whose ingress the host's stack receives.
    pub fn host_ifindex(&self) -> Result<u32> {
        self.namespace
            .run(|| if_nametoindex("host1-peer"))
            .context("find the device host1-peer")
    }

    /// Gives a device another MAC.
    pub fn set_mac(&self, device: Device, mac: Mac) -> Result<()> {
        let mut commands = vec![format!(
            "link set dev {} address {}",
            device.name(),
            display(mac)
        )];
        // The change makes the kernel forget the device's neighbours, permanent ones included.
        let behind = all_neighbours()
            .into_iter()
            .filter(|(of, ..)| *of == device);
        commands.extend(behind.flat_map(neighbours));
        self.namespace.ip(&commands)
    }
}

fn commands() -> Vec<String> {
    let mut commands: Vec<String> = Device::ALL.into_iter().flat_map(link).collect();
    let Dual { v4, v6 } = node(NODE);
    commands.extend([
        format!("addr add {v4}/24 dev up0"),
        format!("addr add {v6}/64 dev up0 nodad"),
    ]);
    commands.extend(all_neighbours().into_iter().flat_map(neighbours));
    for number in [1, 2] {
        let name = Device::Pod(number).name();
        commands.extend(
            pod(NODE, number)
                .both()
                .map(|pod| format!("route add {pod} dev {name}")),
        );
    }
    commands.extend(routes(NEIGHBOUR, NEIGHBOUR, ""));
    commands.extend(routes(UNRESOLVED, UNRESOLVED, ""));
    commands.extend(routes(
        NARROW,
        NEIGHBOUR,
        &format!(" mtu lock {NARROW_MTU}"),
    ));
    commands
}

fn link(device: Device) -> Vec<String> {
    let (name, mac) = (device.name(), display(device.mac()));
    vec![
        format!("link add {name} address {mac} type veth peer name {name}-peer"),
        format!("link set dev {name} addrgenmode none up"),
        format!("link set dev {name}-peer addrgenmode none up"),
    ]
}

/// Who is known behind which device, and by which MAC.
fn all_neighbours() -> [(Device, Dual, Mac); 4] {
    let pod = |number| {
        (
            Device::Pod(number),
            pod(NODE, number),
            Device::Pod(number).neighbour(),
        )
    };
    [
        (Device::Uplink, node(NEIGHBOUR), Device::Uplink.neighbour()),
        (Device::Uplink, client(), CLIENT_MAC),
        pod(1),
        pod(2),
    ]
}

fn neighbours((device, addresses, mac): (Device, Dual, Mac)) -> [String; 2] {
    addresses.both().map(|addr| {
        let (name, mac) = (device.name(), display(mac));
        format!("neigh add {addr} lladdr {mac} nud permanent dev {name}")
    })
}

/// Routes to the pods of node `of` through the node `via`.
fn routes(of: u8, via: u8, options: &str) -> [String; 2] {
    let [via4, via6] = node(via).both();
    let [cidr4, cidr6] = pod_cidrs(of);
    [(cidr4, via4), (cidr6, via6)].map(|(cidr, via)| format!("route add {cidr} via {via}{options}"))
}

fn display(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
