//! A node: its devices, and its ways to its own pods, to other nodes' pods, and out.

use anyhow::Result;

use super::{
    Attachment, Config, DefaultRoute, Outside, Pod, UPLINK, namespace,
    pod::bridge_commands,
    way::{self, Stop},
};
use crate::{
    addressing::{self, Dual, LEN_V4, LEN_V6},
    link,
    netns::Namespace,
};

/// A node.
#[derive(Debug)]
pub struct Node {
    /// `node-1`, `node-2` ...
    pub name: String,
    /// Counted from one.
    pub number: u8,
    /// Where its agent runs, and its host-network pods.
    pub namespace: Namespace,
    /// Its addresses on the segment.
    pub addresses: Dual,
    /// The devices that lead out of it.
    pub uplinks: Vec<String>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

impl Node {
    pub(super) fn new(number: u8, n_pods: u8, config: &Config) -> Result<Self> {
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

    /// Everything on the node but what [`way::lay_tunnels`] makes; `others` are the other nodes.
    pub(super) fn commands(&self, others: &[Stop], config: &Config) -> Vec<String> {
        let mut commands = link::up(UPLINK);
        commands.extend(link::addresses(UPLINK, self.addresses, LEN_V4, LEN_V6));
        commands.extend(link::link_local(UPLINK, self.number.into()));
        commands.extend(way_out(config));
        if config.attachment == Attachment::Bridge {
            commands.extend(bridge_commands(self.number, config));
        }
        for pod in &self.pods {
            commands.extend(pod.node_commands(self.number, self.addresses, config));
        }
        commands.extend(way::commands(self.stop(), others, config));
        commands
    }

    /// The node as others see it.
    pub(super) fn stop(&self) -> Stop {
        Stop {
            number: self.number,
            addresses: self.addresses,
        }
    }
}

/// The way to the client outside, and to everywhere if nodes have a default route.
fn way_out(config: &Config) -> Vec<String> {
    let via = match config.outside {
        Outside::OnSegment => addressing::client(),
        Outside::BehindGateway => addressing::gateway(),
    };
    let destinations = match (config.default_route, config.outside) {
        (DefaultRoute::With, _) => ["default".to_owned(), "default".to_owned()],
        (DefaultRoute::Without, Outside::BehindGateway) => addressing::outside_cidrs(),
        (DefaultRoute::Without, Outside::OnSegment) => return Vec::new(),
    };
    let routes = destinations.into_iter().zip(via.both());
    routes
        .map(|(to, via)| format!("route add {to} via {via} dev {UPLINK}"))
        .collect()
}
