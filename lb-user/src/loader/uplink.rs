//! Uplinks and node addresses where the flags say nothing: out of the routes and addresses of the node.
//!
//! Pure. The default route names the uplink, as it does for everything else on the node, and so do the
//! routes to the pods of other nodes: an overlay device that leads there brings their replies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{
    device::{Device, Layer, Pair, Selection},
    route::{Hop, Route},
};

/// Addresses of a device that stand in for clients' at most: each has thousands of ports towards each backend.
const MAX_STAND_INS: usize = 256;

/// The node's own addresses, at most one per family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// One address of a device, in the order in which the kernel lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Index of the device.
    pub device: u32,
    /// The address.
    pub addr: IpAddr,
    /// Valid everywhere, and neither temporary nor being given up.
    pub usable: bool,
    /// Valid everywhere, neither temporary nor being given up or tried: fit to stand in for clients' addresses, also
    /// as one of several in a network.
    pub may_stand_in: bool,
}

/// What the kernel says about devices, routes and addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// All devices.
    pub devices: Vec<Device>,
    /// The routes of the main table.
    pub routes: Vec<Route>,
    /// The addresses of all devices.
    pub addresses: Vec<Assigned>,
}

impl NodeAddresses {
    /// The address of the same family as `of`.
    pub fn like(self, of: IpAddr) -> Option<IpAddr> {
        match of {
            IpAddr::V4(_) => self.v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }
}

impl Survey {
    /// The devices by which packets leave the node for pods elsewhere or for the world: those of the default
    /// routes, and those by which the routes to the pods' prefixes lead.
    ///
    /// Not the devices of this node's own pods: `pods` says which these are, and a bridge leads to none but them.
    pub fn ways_out(&self, pod_cidrs: &BTreeSet<IpNet>, pods: &Selection) -> BTreeSet<u32> {
        let of_default = self.routes.iter().filter(|route| route.is_default());
        let of_default = of_default.flat_map(|route| &route.hops);
        let of_default = of_default.filter(|hop| self.device(hop.device).is_some_and(may_lead_out));
        let of_pods = pod_cidrs.iter().flat_map(|cidr| self.hops_into(cidr));
        let of_pods = of_pods.filter(|hop| {
            self.device(hop.device).is_some_and(|device| {
                // A pod may be a router, and a node a container: behind a gateway are other nodes.
                let is_pods =
                    pods.is_pod(device) && (hop.gateway.is_none() || device.pair == Pair::None);
                may_lead_out(device) && !device.is_bridge && !is_pods
            })
        });
        of_default.chain(of_pods).map(|hop| hop.device).collect()
    }

    /// The ways into a prefix: of the routes inside of it, and of the one that covers it, unless that is the
    /// default route.
    fn hops_into(&self, prefix: &IpNet) -> impl Iterator<Item = &Hop> {
        let inside = self
            .routes
            .iter()
            .filter(|route| prefix.contains(&route.prefix));
        let covering = self
            .routes
            .iter()
            .filter(|route| {
                !route.is_default() && route.prefix != *prefix && route.prefix.contains(prefix)
            })
            .max_by_key(|route| route.prefix.prefix_len());
        inside.chain(covering).flat_map(|route| &route.hops)
    }

    fn device(&self, index: u32) -> Option<&Device> {
        self.devices.iter().find(|device| device.index == index)
    }

    /// Those uplinks that are there.
    pub fn uplinks(&self, selection: &Selection) -> impl Iterator<Item = &Device> {
        self.devices
            .iter()
            .filter(|device| may_lead_out(device) && selection.is_uplink(device))
    }

    /// The node's addresses: those asked for, else the preferred source of a default route over an
    /// uplink, else the first usable address of an uplink.
    pub fn node_addresses(&self, asked: NodeAddresses, selection: &Selection) -> NodeAddresses {
        let is_uplink = |index: u32| {
            self.device(index)
                .is_some_and(|device| selection.is_uplink(device))
        };
        let preferred = self
            .routes
            .iter()
            .filter(|route| route.is_default())
            .filter(|route| route.hops.iter().any(|hop| is_uplink(hop.device)))
            .filter_map(|route| route.source);
        let first = self
            .addresses
            .iter()
            .filter(|address| address.usable && is_uplink(address.device))
            .map(|address| address.addr);
        let mut found = asked;
        for addr in preferred.chain(first) {
            match addr {
                IpAddr::V4(addr) => found.v4 = found.v4.or(Some(addr)),
                IpAddr::V6(addr) => found.v6 = found.v6.or(Some(addr)),
            }
        }
        found
    }

    /// All unicast addresses that are the node's own and mean it to others as well: neither loopback nor
    /// link-local ones, and not those of an agent's pair.
    pub fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let is_of_pair = |index| self.device(index).is_some_and(|device| device.is_host_pair);
        self.addresses
            .iter()
            .filter(|assigned| !is_of_pair(assigned.device))
            .map(|assigned| assigned.addr)
            .filter(|addr| is_meant_for_others(*addr))
            .collect()
    }

    /// The addresses of each uplink that may stand in for clients', the one that its default routes prefer first, then the
    /// node's, then the others as the kernel lists them.
    pub fn stand_ins(
        &self,
        selection: &Selection,
        node: NodeAddresses,
    ) -> BTreeMap<u32, Vec<IpAddr>> {
        let of_device = |device: &Device| {
            let mut own: Vec<IpAddr> = self
                .addresses
                .iter()
                .filter(|assigned| assigned.device == device.index && assigned.may_stand_in)
                .map(|assigned| assigned.addr)
                .filter(|addr| is_meant_for_others(*addr))
                .collect();
            let routes = self.routes.iter().filter(|route| {
                route.is_default() && route.hops.iter().any(|hop| hop.device == device.index)
            });
            let preferred: Vec<IpAddr> = routes.filter_map(|route| route.source).collect();
            // Stable: those that are alike stay in the kernel's order.
            own.sort_by_key(|addr| {
                let is_node = node.like(*addr) == Some(*addr);
                (!preferred.contains(addr), !is_node)
            });
            own.truncate(MAX_STAND_INS);
            (device.index, own)
        };
        let devices = self.uplinks(selection).map(of_device);
        devices.filter(|(_, own)| !own.is_empty()).collect()
    }

    /// The next hops of all routes.
    pub fn gateways(&self) -> BTreeSet<IpAddr> {
        let hops = self.routes.iter().flat_map(|route| &route.hops);
        hops.filter_map(|hop| hop.gateway).collect()
    }
}

fn may_lead_out(device: &Device) -> bool {
    device.layer != Layer::Loopback && !device.is_host_pair && device.aggregate.is_none()
}

fn is_meant_for_others(addr: IpAddr) -> bool {
    let is_link_local = match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    !(is_link_local || addr.is_loopback() || addr.is_unspecified() || addr.is_multicast())
}

#[cfg(test)]
mod tests;
