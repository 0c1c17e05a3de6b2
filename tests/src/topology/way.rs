//! The way from node to node for the pods' packets: the segment itself, TUN links, or vxlan.

use anyhow::Result;

use super::{Config, Interconnect, Node, UPLINK};
use crate::{
    addressing::{self, Dual},
    link,
    tun::{self, Tun},
};

/// The vxlan device of a node.
pub const VXLAN: &str = "vxlan0";

/// A node as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// The node's number.
    pub(super) number: u8,
    /// Its addresses on the segment.
    pub(super) addresses: Dual,
}

/// Makes the devices that have a far side, and notes all tunnel devices among the nodes' uplinks.
pub(super) fn lay_tunnels(nodes: &mut [Node], interconnect: Interconnect) -> Result<Vec<Tun>> {
    match interconnect {
        Interconnect::Ethernet => Ok(Vec::new()),
        Interconnect::Tun => lay_tuns(nodes),
        Interconnect::Vxlan => {
            let uplinks = nodes.iter_mut().map(|node| &mut node.uplinks);
            uplinks.for_each(|uplinks| uplinks.push(VXLAN.to_owned()));
            Ok(Vec::new())
        }
    }
}

/// What `own` needs to reach the pods of all `others`.
pub(super) fn commands(own: Stop, others: &[Stop], config: &Config) -> Vec<String> {
    let mut commands = Vec::new();
    if config.interconnect == Interconnect::Vxlan {
        commands.extend(vxlan_commands(own, config.way_mtu()));
    }
    for other in others {
        commands.extend(match config.interconnect {
            Interconnect::Ethernet => ethernet_commands(*other),
            Interconnect::Tun => tun_commands(own, *other, config.way_mtu()),
            Interconnect::Vxlan => vxlan_peer_commands(*other),
        });
    }
    commands
}

/// Where the vxlan device of a node finds the others', as `bridge` commands; none for other interconnects.
pub(super) fn forwarding(others: &[Stop], interconnect: Interconnect) -> Vec<String> {
    if interconnect != Interconnect::Vxlan {
        return Vec::new();
    }
    let entry = |other: &Stop| {
        let (mac, to) = (vxlan_mac(other.number), other.addresses.v4);
        format!("fdb append {mac} dev {VXLAN} dst {to}")
    };
    others.iter().map(entry).collect()
}

/// What a station on the segment needs to reach the pods of `other` by the segment.
pub(super) fn ethernet_commands(other: Stop) -> Vec<String> {
    let cidrs = addressing::pod_cidrs(other.number);
    let gateways = cidrs.iter().zip(other.addresses.both());
    gateways
        .map(|(cidr, via)| format!("route add {cidr} via {via} dev {UPLINK}"))
        .collect()
}

fn tun_commands(own: Stop, other: Stop, mtu: u32) -> Vec<String> {
    let device = tun_device(other.number);
    let mut commands = vec![format!("link set dev {device} mtu {mtu}")];
    commands.extend(link::up(&device));
    commands.extend(link::addresses(
        &device,
        addressing::tunnel(own.number),
        32,
        128,
    ));
    let cidrs = addressing::pod_cidrs(other.number);
    commands.extend(cidrs.map(|cidr| format!("route add {cidr} dev {device}")));
    commands
}

fn vxlan_commands(own: Stop, mtu: u32) -> Vec<String> {
    /// Any network identifier.
    const ID: u32 = 96;
    /// The port that IANA assigned.
    const PORT: u16 = 4789;
    let (mac, local) = (vxlan_mac(own.number), own.addresses.v4);
    let mut commands = vec![format!(
        "link add {VXLAN} address {mac} mtu {mtu} type vxlan id {ID} local {local} dstport {PORT} nolearning"
    )];
    commands.extend(link::up(VXLAN));
    commands.extend(link::addresses(
        VXLAN,
        addressing::tunnel(own.number),
        32,
        128,
    ));
    commands
}

fn vxlan_peer_commands(other: Stop) -> Vec<String> {
    let mac = vxlan_mac(other.number);
    let ends = addressing::tunnel(other.number).both();
    let ways = addressing::pod_cidrs(other.number).into_iter().zip(ends);
    ways.flat_map(|(cidr, via)| {
        [
            format!("neigh add {via} lladdr {mac} dev {VXLAN} nud permanent"),
            format!("route add {cidr} via {via} dev {VXLAN} onlink"),
        ]
    })
    .collect()
}

/// Links each two nodes, and notes the new devices among their uplinks.
fn lay_tuns(nodes: &mut [Node]) -> Result<Vec<Tun>> {
    let mut tuns = Vec::new();
    for (index, a) in nodes.iter().enumerate() {
        for b in &nodes[index + 1..] {
            let (to_b, to_a) = (tun_device(b.number), tun_device(a.number));
            let a = tun::End {
                namespace: &a.namespace,
                device: &to_b,
            };
            let b = tun::End {
                namespace: &b.namespace,
                device: &to_a,
            };
            tuns.push(Tun::new(a, b)?);
        }
    }
    let numbers: Vec<u8> = nodes.iter().map(|node| node.number).collect();
    for node in nodes {
        let others = numbers.iter().filter(|number| **number != node.number);
        node.uplinks
            .extend(others.map(|number| tun_device(*number)));
    }
    Ok(tuns)
}

/// The device that leads to this node.
fn tun_device(node: u8) -> String {
    format!("tun{node}")
}

fn vxlan_mac(node: u8) -> String {
    format!("02:fc:02:00:00:{node:02x}")
}
