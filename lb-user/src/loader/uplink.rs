//! Uplinks and node addresses where the flags say nothing: out of the routes and addresses of the node.
//!
//! Pure. The default route names the uplink, as it does for everything else on the node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::net::addr::Family;

use super::{
    device::{Device, Selection},
    pattern::Pattern,
};

/// The node's own addresses, at most one per family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

/// One way out of a default route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The family that it serves.
    pub family: Family,
    /// Index of the device.
    pub device: u32,
    /// The source that the route prefers.
    pub source: Option<IpAddr>,
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
}

/// What the kernel says about devices, routes and addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// All devices.
    pub devices: Vec<Device>,
    /// The ways out of the default routes.
    pub routes: Vec<DefaultRoute>,
    /// The addresses of all devices.
    pub addresses: Vec<Assigned>,
}

impl Survey {
    /// The devices of the default routes, as patterns that mean these names; none when there is no
    /// default route.
    pub fn default_uplinks(&self) -> Vec<Pattern> {
        let mut names: Vec<&str> = self
            .devices
            .iter()
            .filter(|device| self.routes.iter().any(|route| route.device == device.index))
            .map(|device| device.name.as_str())
            .collect();
        names.sort_unstable();
        names.into_iter().map(Pattern::exact).collect()
    }

    /// The node's addresses: those asked for, else the preferred source of a default route over an
    /// uplink, else the first usable address of an uplink.
    pub fn node_addresses(&self, asked: NodeAddresses, selection: &Selection) -> NodeAddresses {
        let is_uplink = |index: u32| {
            self.devices
                .iter()
                .any(|device| device.index == index && selection.is_uplink(&device.name))
        };
        let preferred = self
            .routes
            .iter()
            .filter(|route| is_uplink(route.device))
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
}

#[cfg(test)]
mod tests {
    use super::{
        super::device::{Layer, Pair},
        *,
    };

    fn device(index: u32, name: &str) -> Device {
        Device {
            index,
            name: name.to_owned(),
            layer: Layer::Ethernet,
            pair: Pair::None,
            aggregated: false,
        }
    }

    fn route(device: u32, source: Option<&str>) -> DefaultRoute {
        let source = source.map(|addr| addr.parse().expect("literal"));
        DefaultRoute {
            family: Family::V4,
            device,
            source,
        }
    }

    fn assigned(device: u32, addr: &str, usable: bool) -> Assigned {
        Assigned {
            device,
            addr: addr.parse().expect("literal"),
            usable,
        }
    }

    fn found(
        asked: NodeAddresses,
        routes: &[DefaultRoute],
        addresses: &[Assigned],
    ) -> NodeAddresses {
        let survey = Survey {
            devices: vec![device(1, "lo"), device(2, "eth0"), device(3, "eth1")],
            routes: routes.to_vec(),
            addresses: addresses.to_vec(),
        };
        let selection = Selection {
            uplinks: vec![Pattern::exact("eth0")],
            pods: None,
        };
        survey.node_addresses(asked, &selection)
    }

    #[test]
    fn the_default_uplinks_are_the_devices_of_the_default_routes() {
        let survey = Survey {
            devices: vec![device(3, "wlan0"), device(2, "eth0"), device(4, "docker0")],
            routes: vec![route(3, None), route(2, None), route(2, None)],
            addresses: Vec::new(),
        };
        let expected = [Pattern::exact("eth0"), Pattern::exact("wlan0")];
        assert_eq!(survey.default_uplinks(), expected);
        assert_eq!(
            Survey {
                routes: Vec::new(),
                ..survey
            }
            .default_uplinks(),
            []
        );
    }

    #[test]
    fn the_preferred_source_of_an_uplinks_route_is_the_nodes_address() {
        let addresses = [
            assigned(2, "192.0.2.1", true),
            assigned(2, "192.0.2.9", true),
        ];
        let routes = [route(3, Some("198.51.100.1")), route(2, Some("192.0.2.9"))];
        let result = found(NodeAddresses::default(), &routes, &addresses);
        assert_eq!(result.v4, Some(Ipv4Addr::new(192, 0, 2, 9)));
        assert_eq!(result.v6, None);
    }

    #[test]
    fn without_one_the_first_usable_address_of_the_uplink_is() {
        let addresses = [
            assigned(3, "198.51.100.1", true),
            assigned(2, "fe80::1", false),
            assigned(2, "2001:db8::1", true),
            assigned(2, "192.0.2.1", true),
        ];
        let result = found(NodeAddresses::default(), &[route(2, None)], &addresses);
        assert_eq!(result.v4, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(result.v6, Some("2001:db8::1".parse().expect("literal")));
    }

    #[test]
    fn what_was_asked_for_stands() {
        let asked = NodeAddresses {
            v4: Some(Ipv4Addr::new(203, 0, 113, 5)),
            v6: None,
        };
        let routes = [route(2, Some("192.0.2.9"))];
        assert_eq!(found(asked, &routes, &[]).v4, asked.v4);
    }
}
