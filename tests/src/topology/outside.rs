//! What is not of the cluster: the client outside, and the gateway that it may be behind.

use anyhow::{Context, Result};

use super::{Config, Node, UPLINK, namespace, way::ethernet_commands};
use crate::{
    addressing::{
        self, Dual, LEN_V4, LEN_V6, LOAD_BALANCERS_V4, LOAD_BALANCERS_V6, SERVICES_V4, SERVICES_V6,
    },
    link,
    netns::Namespace,
};

/// The gateway's device in the network behind it.
const INNER: &str = "inner0";

/// The client outside.
#[derive(Debug)]
pub struct Client {
    /// Where it runs.
    pub namespace: Namespace,
    /// Its addresses, on the segment or behind the gateway.
    pub addresses: Dual,
}

/// A router between the segment and the client.
#[derive(Debug)]
pub struct Gateway {
    /// Where it routes.
    pub namespace: Namespace,
    /// Its addresses on the segment.
    pub addresses: Dual,
}

impl Client {
    /// The client's own side of its link, and its ways: on the segment to services by `via`, else by the gateway to all.
    pub(super) fn connect(&self, gateway: Option<&Gateway>, via: &Node) -> Result<()> {
        let mut commands = link::up(UPLINK);
        commands.extend(link::addresses(UPLINK, self.addresses, LEN_V4, LEN_V6));
        commands.extend(link::link_local(UPLINK, self.addresses.v6.segments()[7]));
        if gateway.is_some() {
            let gateways = addressing::inner_gateway().both();
            commands
                .extend(gateways.map(|via| format!("route add default via {via} dev {UPLINK}")));
        } else {
            commands.extend(service_routes("add", via));
        }
        self.namespace.ip(&commands)
    }
}

impl Gateway {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let own = namespace("gateway", config)?;
        own.sysctls(&[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            // A change of the MAC is announced, by gratuitous ARP and by an unsolicited advertisement.
            ("net/ipv4/conf/default/arp_notify", "1"),
            ("net/ipv6/conf/default/ndisc_notify", "1"),
        ])?;
        Ok(Self {
            namespace: own,
            addresses: addressing::gateway(),
        })
    }

    /// The gateway's own side of its links; to services by the first of `nodes`, to pods by theirs.
    pub(super) fn connect(&self, client: &Client, nodes: &[Node], config: &Config) -> Result<()> {
        let mac = "02:fc:04:00:00:01";
        let mut commands = vec![link::veth(
            INNER,
            mac,
            UPLINK,
            &client.namespace,
            config.mtu,
        )];
        let ends = [
            (UPLINK, self.addresses),
            (INNER, addressing::inner_gateway()),
        ];
        for (device, addresses) in ends {
            commands.extend(link::up(device));
            commands.extend(link::addresses(device, addresses, LEN_V4, LEN_V6));
            commands.extend(link::link_local(device, addresses.v6.segments()[7]));
        }
        for node in nodes {
            commands.extend(ethernet_commands(node.stop()));
        }
        let first = nodes.first().context("a node to reach services by")?;
        commands.extend(service_routes("add", first));
        self.namespace.ip(&commands)
    }

    /// Gives the gateway another MAC, as when its standby takes over: the new one is announced, and what is sent to the
    /// old one is lost.
    pub fn fail_over(&self, mac: &str) -> Result<()> {
        let command = format!("link set dev {UPLINK} address {mac}");
        self.namespace
            .ip(&[command])
            .with_context(|| format!("let the gateway fail over to {mac}"))
    }
}

/// Routes to services and load balancers by way of `node`.
pub(super) fn service_routes(verb: &str, node: &Node) -> Vec<String> {
    let [v4, v6] = node.addresses.both();
    let routes = [
        (SERVICES_V4, v4),
        (LOAD_BALANCERS_V4, v4),
        (SERVICES_V6, v6),
        (LOAD_BALANCERS_V6, v6),
    ];
    routes
        .map(|(prefix, via)| format!("route {verb} {prefix} via {via} dev {UPLINK}"))
        .into()
}
