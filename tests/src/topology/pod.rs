//! A pod, and its connection to its node.

use anyhow::Result;

use super::{Attachment, Config, namespace};
use crate::{
    addressing::{self, Dual, GATEWAY_V4, GATEWAY_V6, LEN_V4, LEN_V6},
    link,
    netns::Namespace,
};

/// The pods' own device.
pub const POD_DEVICE: &str = "eth0";
/// The bridge of a node's pods.
pub(super) const BRIDGE: &str = "cni0";

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

impl Pod {
    pub(super) fn new(node: u8, number: u8, config: &Config) -> Result<Self> {
        let name = format!("pod-{node}-{number}");
        Ok(Self {
            namespace: namespace(&name, config)?,
            name,
            number,
            addresses: addressing::pod(node, number),
            device: format!("lxc{number}"),
        })
    }

    /// The node's side: the device, and the way to the pod. `from` is what the node sends from.
    pub(super) fn node_commands(&self, node: u8, from: Dual, config: &Config) -> Vec<String> {
        let device = &self.device;
        let make = match config.attachment {
            Attachment::Routed | Attachment::Bridge => link::veth,
            Attachment::Netkit => link::netkit,
        };
        let mac = gateway_mac(node, self.number);
        let mut commands = vec![make(device, &mac, POD_DEVICE, &self.namespace, config.mtu)];
        commands.extend(link::up(device));
        if config.attachment == Attachment::Bridge {
            commands.push(format!("link set dev {device} master {BRIDGE}"));
            return commands;
        }
        commands.push(format!("addr add {GATEWAY_V6}/64 dev {device} nodad"));
        for (to, from) in self.addresses.both().into_iter().zip(from.both()) {
            commands.push(format!("route add {to} dev {device} src {from}"));
        }
        commands
    }

    /// The pod's own side: everything that is not on its link goes to its node.
    pub(super) fn commands(&self, node: u8, config: &Config) -> Vec<String> {
        let mut commands = link::up(POD_DEVICE);
        commands.extend(link::link_local(POD_DEVICE, 0x10 + u16::from(self.number)));
        if config.attachment == Attachment::Bridge {
            commands.extend(link::addresses(POD_DEVICE, self.addresses, LEN_V4, LEN_V6));
            let gateways = addressing::bridge(node).both();
            commands.extend(gateways.map(|via| format!("route add default via {via}")));
            return commands;
        }
        let mac = gateway_mac(node, self.number);
        commands.extend(link::addresses(POD_DEVICE, self.addresses, 32, 128));
        commands.extend([
            format!("neigh add {GATEWAY_V4} lladdr {mac} dev {POD_DEVICE} nud permanent"),
            format!("route add {GATEWAY_V4} dev {POD_DEVICE} scope link"),
            format!("route add default via {GATEWAY_V4} dev {POD_DEVICE}"),
            format!("route add default via {GATEWAY_V6} dev {POD_DEVICE}"),
        ]);
        commands
    }
}

/// The bridge of a node's pods, without ports.
pub(super) fn bridge_commands(node: u8, config: &Config) -> Vec<String> {
    let mut commands = vec![format!(
        "link add {BRIDGE} address 02:fc:03:{node:02x}:00:01 mtu {} type bridge stp_state 0 mcast_snooping 0",
        config.mtu
    )];
    commands.extend(link::up(BRIDGE));
    commands.extend(link::addresses(
        BRIDGE,
        addressing::bridge(node),
        LEN_V4,
        LEN_V6,
    ));
    commands.extend(link::link_local(BRIDGE, 1));
    commands
}

/// The MAC of the node side of a pod's device, known in advance for the pod's static neighbour.
fn gateway_mac(node: u8, pod: u8) -> String {
    format!("02:fc:01:{node:02x}:00:{pod:02x}")
}
