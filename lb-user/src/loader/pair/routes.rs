//! Which routes lead to the pair, and what has to happen so that they do.
//!
//! Pure. A route is ours if it carries our protocol number and leads out of our device; a route of anybody
//! else for the same prefix is never touched, and ours gives way to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use lb_common::net::addr::Family;

use super::name::Hairpin;
use crate::{
    loader::{
        route::{Hop, Route},
        uplink::{NodeAddresses, Survey},
    },
    plan::Delta,
};

/// The number by which our routes are known (`ip route show proto 102`). Not among those that the kernel's
/// `rt_protos` names.
pub const PROTOCOL: u8 = 102;
/// What every IPv6 link takes (RFC 8200).
const LEAST_MTU6: u32 = 1280;
/// Headers of IPv4 and TCP without options, bytes.
const HEADERS4: u32 = 40;
/// Headers of IPv6 and TCP without options, bytes.
const HEADERS6: u32 = 60;
/// What every IPv4 host takes (RFC 9293 section 3.7.1).
const LEAST_MSS4: u32 = 536;
/// Where no uplink says anything.
const USUAL_MTU: u32 = 1500;

/// What the routes follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Prefixes that `ClusterIPs` are taken from.
    pub service_cidrs: Vec<IpNet>,
    /// All service addresses.
    pub services: Arc<BTreeSet<IpAddr>>,
    /// The node's addresses, preferred as source.
    pub sources: NodeAddresses,
    /// Largest packet, L3 bytes, that leaves the node: what the node's own connections begin with.
    pub mtu: u32,
    /// Whether the kernel has IPv6.
    pub has_ipv6: bool,
}

/// One route to the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The next hop.
    pub gateway: IpAddr,
    /// The source that connections take.
    pub source: Option<IpAddr>,
    /// The TCP segments that connections offer to take, bytes. The route's own MTU is the pair's, so that datagrams
    /// come to the datapath whole: a fragment has no ports to be translated by.
    pub advmss: u32,
}

/// The changes, and what is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be made or replaced.
    pub put: Vec<(IpNet, Value)>,
    /// To be removed.
    pub delete: Vec<(IpNet, Value)>,
    /// Prefixes without a route of ours, and why.
    pub left_out: BTreeMap<IpNet, Reason>,
}

/// Why a service address has no route to the pair, so that processes of this node do not reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Somebody else has a route for just this prefix.
    Foreign {
        /// Its protocol number.
        protocol: u8,
    },
    /// The address is the next hop of a route: the node would lose its way.
    Gateway,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { protocol } => write!(
                f,
                "another route leads there (protocol {protocol}); remove it, or let it lead to \
                 what serves the address"
            ),
            Self::Gateway => {
                f.write_str("it is the next hop of a route; give the service another address")
            }
        }
    }
}

/// The smallest MTU of the uplinks: a connection that begins with more would first be told that it is too
/// much.
pub fn mtu(survey: &Survey, uplinks: impl Iterator<Item = u32>) -> u32 {
    let uplinks: BTreeSet<u32> = uplinks.collect();
    let of_uplinks = survey
        .devices
        .iter()
        .filter(|device| uplinks.contains(&device.index) && device.mtu > 0);
    of_uplinks
        .map(|device| device.mtu)
        .min()
        .unwrap_or(USUAL_MTU)
}

/// What turns the routes of the survey into the wanted ones; `device` is the node's end of the pair.
pub fn changes(wanted: &Wanted, hairpin: Hairpin, survey: &Survey, device: u32) -> Changes {
    let mut there = BTreeMap::new();
    let mut foreign = BTreeMap::new();
    for route in &survey.routes {
        match ours(route, device) {
            Some(value) => drop(there.insert(route.prefix, value)),
            None => drop(foreign.insert(route.prefix, route.protocol)),
        }
    }
    let own = survey.own_addresses();
    let gateways = survey.gateways();
    let mut changes = Changes::default();
    let mut prefixes = BTreeMap::new();
    for prefix in prefixes_of(wanted) {
        let is_host = prefix.prefix_len() == prefix.max_prefix_len();
        let reason = foreign
            .get(&prefix)
            .map(|protocol| Reason::Foreign {
                protocol: *protocol,
            })
            .or((is_host && gateways.contains(&prefix.addr())).then_some(Reason::Gateway));
        if let Some(reason) = reason {
            changes.left_out.insert(prefix, reason);
        } else if !(is_host && own.contains(&prefix.addr())) {
            // The node's own address is met at loopback: the kernel asks its table of local addresses first.
            prefixes.insert(prefix, value(wanted, hairpin, prefix, &own));
        }
    }
    let delta = Delta::between(prefixes, there, PartialEq::eq);
    changes.put = delta.create;
    let updated = delta.update.into_iter();
    changes
        .put
        .extend(updated.map(|(prefix, wanted, _)| (prefix, wanted)));
    changes.delete = delta.delete;
    changes
}

fn prefixes_of(wanted: &Wanted) -> impl Iterator<Item = IpNet> {
    let is_covered = |addr: &IpAddr| wanted.service_cidrs.iter().any(|cidr| cidr.contains(addr));
    let outside = wanted
        .services
        .iter()
        // What is sent to a loopback address never leaves it.
        .filter(move |addr| !addr.is_loopback() && !is_covered(addr))
        .map(|addr| IpNet::from(*addr));
    let cidrs = wanted.service_cidrs.iter().map(IpNet::trunc);
    cidrs
        .chain(outside)
        .filter(|prefix| wanted.has_ipv6 || prefix.addr().is_ipv4())
}

fn value(wanted: &Wanted, hairpin: Hairpin, prefix: IpNet, own: &BTreeSet<IpAddr>) -> Value {
    let family = if prefix.addr().is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let source = wanted.sources.like(prefix.addr());
    Value {
        gateway: hairpin.gateway(prefix.addr()),
        // The kernel refuses a source that is not (yet) on a device.
        source: source.filter(|addr| own.contains(addr)),
        advmss: match family {
            Family::V4 => wanted.mtu.saturating_sub(HEADERS4).max(LEAST_MSS4),
            Family::V6 => wanted.mtu.max(LEAST_MTU6) - HEADERS6,
        },
    }
}

fn ours(route: &Route, device: u32) -> Option<Value> {
    match route.hops[..] {
        [
            Hop {
                device: hop,
                gateway,
            },
        ] if hop == device && route.protocol == PROTOCOL => Some(Value {
            // Without one it is not as it should be, and differs from any that is.
            gateway: gateway.unwrap_or(route.prefix.addr()),
            source: route.source,
            advmss: route.advmss.unwrap_or(0),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::uplink::Assigned;

    const PAIR: u32 = 7;

    fn net(text: &str) -> IpNet {
        text.parse().expect("literal")
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("literal")
    }

    fn wanted(services: &[&str]) -> Wanted {
        Wanted {
            service_cidrs: vec![net("10.96.0.0/12"), net("fd00:10:96::/112")],
            services: Arc::new(services.iter().map(|text| addr(text)).collect()),
            sources: NodeAddresses {
                v4: Some("192.0.2.1".parse().expect("literal")),
                v6: None,
            },
            mtu: 1450,
            has_ipv6: true,
        }
    }

    fn survey(routes: &[(&str, u32, &str, u8)]) -> Survey {
        let routes = routes
            .iter()
            .map(|(prefix, device, gateway, protocol)| Route {
                prefix: net(prefix),
                hops: vec![Hop {
                    device: *device,
                    gateway: Some(addr(gateway)),
                }],
                source: (*protocol == PROTOCOL).then(|| addr("192.0.2.1")),
                advmss: (*protocol == PROTOCOL).then_some(1410),
                protocol: *protocol,
            });
        Survey {
            devices: Vec::new(),
            routes: routes.collect(),
            addresses: vec![Assigned {
                device: 2,
                addr: addr("192.0.2.1"),
                usable: true,
                may_stand_in: true,
            }],
        }
    }

    fn planned(services: &[&str], routes: &[(&str, u32, &str, u8)]) -> Changes {
        changes(&wanted(services), Hairpin::default(), &survey(routes), PAIR)
    }

    fn names(routes: &[(IpNet, Value)]) -> Vec<String> {
        routes.iter().map(|(net, _)| net.to_string()).collect()
    }

    #[test]
    fn service_prefixes_and_addresses_outside_of_them_lead_to_the_pair() {
        let changes = planned(
            &["10.96.0.10", "203.0.113.5", "fd00:10:96::a", "2001:db8::5"],
            &[],
        );
        assert_eq!(
            names(&changes.put),
            [
                "10.96.0.0/12",
                "203.0.113.5/32",
                "2001:db8::5/128",
                "fd00:10:96::/112"
            ]
        );
        let v4 = Value {
            gateway: addr("169.254.90.1"),
            source: Some(addr("192.0.2.1")),
            advmss: 1410,
        };
        let v6 = Value {
            gateway: addr("fe80::f0:1c"),
            source: None,
            advmss: 1390,
        };
        assert_eq!((changes.put[0].1, changes.put[2].1), (v4, v6));
        assert_eq!(
            (changes.delete, changes.left_out),
            (Vec::new(), BTreeMap::new())
        );
    }

    #[test]
    fn what_is_there_stays_and_what_nobody_wants_goes() {
        let there = [
            ("10.96.0.0/12", PAIR, "169.254.90.1", PROTOCOL),
            ("203.0.113.5/32", PAIR, "169.254.90.1", PROTOCOL),
            // Another agent's, a person's.
            ("203.0.113.6/32", 9, "169.254.90.1", PROTOCOL),
            ("203.0.113.7/32", PAIR, "169.254.90.1", 4),
        ];
        let changes = planned(&[], &there);
        assert_eq!(names(&changes.put), ["fd00:10:96::/112"]);
        assert_eq!(names(&changes.delete), ["203.0.113.5/32"]);
    }

    #[test]
    fn a_route_that_differs_is_replaced() {
        let there = [("10.96.0.0/12", PAIR, "169.254.9.9", PROTOCOL)];
        let changes = planned(&[], &there);
        assert_eq!(names(&changes.put), ["fd00:10:96::/112", "10.96.0.0/12"]);
        assert_eq!(changes.delete, []);
    }

    #[test]
    fn the_routes_of_others_are_respected() {
        let there = [
            ("10.96.0.0/12", 2, "192.0.2.254", 3),
            ("203.0.113.5/32", 2, "192.0.2.254", 186),
        ];
        let changes = planned(&["203.0.113.5"], &there);
        assert_eq!(names(&changes.put), ["fd00:10:96::/112"]);
        let expected = [
            (net("10.96.0.0/12"), Reason::Foreign { protocol: 3 }),
            (net("203.0.113.5/32"), Reason::Foreign { protocol: 186 }),
        ];
        assert_eq!(changes.left_out, expected.into());
    }

    #[test]
    fn neither_the_nodes_own_address_nor_its_way_out_is_led_astray() {
        let there = [("0.0.0.0/0", 2, "192.0.2.254", 3)];
        let changes = planned(&["192.0.2.1", "192.0.2.254"], &there);
        assert_eq!(names(&changes.put), ["10.96.0.0/12", "fd00:10:96::/112"]);
        assert_eq!(
            changes.left_out,
            [(net("192.0.2.254/32"), Reason::Gateway)].into()
        );
    }

    #[test]
    fn without_ipv6_there_are_no_routes_of_it() {
        let wanted = Wanted {
            has_ipv6: false,
            ..wanted(&["2001:db8::5"])
        };
        let changes = changes(&wanted, Hairpin::default(), &survey(&[]), PAIR);
        assert_eq!(names(&changes.put), ["10.96.0.0/12"]);
    }

    #[test]
    fn connections_begin_with_the_smallest_mtu_of_the_uplinks() {
        let device = |index, mtu| crate::loader::device::Device {
            index,
            name: index.to_string(),
            layer: crate::loader::device::Layer::Ethernet,
            pair: crate::loader::device::Pair::None,
            aggregate: None,
            is_bridge: false,
            is_fed_here: false,
            is_host_pair: false,
            mtu,
            obstacle: None,
        };
        let survey = Survey {
            devices: vec![device(2, 9000), device(3, 1450), device(4, 576)],
            ..Survey::default()
        };
        assert_eq!(mtu(&survey, [2, 3].into_iter()), 1450);
        assert_eq!(mtu(&survey, [].into_iter()), 1500);
        let wanted = Wanted {
            mtu: 576,
            ..wanted(&[])
        };
        let offered: Vec<u32> = changes(&wanted, Hairpin::default(), &survey, PAIR)
            .put
            .iter()
            .map(|(_, value)| value.advmss)
            .collect();
        assert_eq!(offered, [536, 1220]);
    }
}
