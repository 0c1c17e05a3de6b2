//! Routes of the main table, as far as decisions follow from them.
//!
//! Pure: from a message of the kernel to a [`Route`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
        RouteType,
    },
};

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub prefix: IpNet,
    /// By which devices; none: it leads nowhere (blackhole, unreachable, prohibit).
    pub hops: Vec<Hop>,
    /// The source that it prefers.
    pub source: Option<IpAddr>,
    /// Largest TCP segment that is offered to peers, bytes, where the route says so.
    pub advmss: Option<u32>,
    /// Who made it: `RTPROT_*`.
    pub protocol: u8,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub device: u32,
    /// The next hop; none: the destination is on the device's link.
    pub gateway: Option<IpAddr>,
}

impl Route {
    /// Whether it is the default route of its family.
    pub fn is_default(&self) -> bool {
        self.prefix.prefix_len() == 0
    }

    /// The route that a message tells of, if it is one of the main table that packets of others may take.
    pub fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let leads = match header.kind {
            RouteType::Unicast => true,
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => false,
            _ => return None,
        };
        if header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut read = Read {
            destination: any,
            ..Read::default()
        };
        message.attributes.iter().for_each(|it| read.learn(it));
        Some(Self {
            prefix: IpNet::new(read.destination, header.destination_prefix_length).ok()?,
            hops: if leads { read.hops() } else { Vec::new() },
            source: read.source,
            advmss: read.advmss,
            protocol: header.protocol.into(),
        })
    }
}

/// What the attributes say.
struct Read {
    destination: IpAddr,
    device: Option<u32>,
    gateway: Option<IpAddr>,
    several: Vec<Hop>,
    source: Option<IpAddr>,
    advmss: Option<u32>,
}

impl Default for Read {
    fn default() -> Self {
        Self {
            destination: Ipv4Addr::UNSPECIFIED.into(),
            device: None,
            gateway: None,
            several: Vec::new(),
            source: None,
            advmss: None,
        }
    }
}

impl Read {
    fn learn(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Destination(it) => {
                if let Some(addr) = address(it) {
                    self.destination = addr;
                }
            }
            RouteAttribute::Oif(index) => self.device = Some(*index),
            RouteAttribute::Gateway(it) => self.gateway = address(it),
            RouteAttribute::PrefSource(it) => self.source = address(it),
            RouteAttribute::MultiPath(hops) => self.several = hops.iter().map(hop).collect(),
            RouteAttribute::Metrics(metrics) => {
                self.advmss = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Advmss(mss) => Some(*mss),
                    _ => None,
                });
            }
            _ => {}
        }
    }

    fn hops(&self) -> Vec<Hop> {
        let single = self.device.map(|device| Hop {
            device,
            gateway: self.gateway,
        });
        single.into_iter().chain(self.several.clone()).collect()
    }
}

fn hop(hop: &RouteNextHop) -> Hop {
    let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(it) => address(it),
        _ => None,
    });
    Hop {
        device: hop.interface_index,
        gateway,
    }
}

fn address(found: &RouteAddress) -> Option<IpAddr> {
    match found {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.kind = RouteType::Unicast;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.attributes = attributes;
        route
    }

    #[test]
    fn a_default_route_names_its_device_next_hop_and_source() {
        let source = Ipv4Addr::new(192, 0, 2, 1);
        let gateway = Ipv4Addr::new(192, 0, 2, 254);
        let route = Route::of(&message(vec![
            RouteAttribute::Oif(4),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)),
            RouteAttribute::Metrics(vec![RouteMetric::Lock(4), RouteMetric::Advmss(1400)]),
        ]))
        .expect("a route");
        let hop = Hop {
            device: 4,
            gateway: Some(gateway.into()),
        };
        assert!(route.is_default());
        assert_eq!(route.hops, [hop]);
        assert_eq!((route.source, route.advmss), (Some(source.into()), Some(1400)));
    }

    #[test]
    fn a_route_of_several_ways_names_them_all() {
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        let hops = RouteAttribute::MultiPath(vec![hop(4), hop(5)]);
        let route = Route::of(&message(vec![hops])).expect("a route");
        let devices: Vec<u32> = route.hops.iter().map(|hop| hop.device).collect();
        assert_eq!(devices, [4, 5]);
    }

    #[test]
    fn a_blackhole_leads_nowhere_and_other_tables_do_not_count() {
        let mut blackhole = message(vec![RouteAttribute::Oif(4)]);
        blackhole.header.kind = RouteType::BlackHole;
        assert_eq!(Route::of(&blackhole).expect("a route").hops, []);
        let mut elsewhere = message(vec![RouteAttribute::Oif(4)]);
        elsewhere.header.table = 100;
        let mut local = message(vec![RouteAttribute::Oif(4)]);
        local.header.kind = RouteType::Local;
        for message in [elsewhere, local] {
            assert_eq!(Route::of(&message), None, "{message:?}");
        }
    }
}
