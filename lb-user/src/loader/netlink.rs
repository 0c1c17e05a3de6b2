//! Links, default routes and addresses of the network namespace that the agent runs in.
//!
//! Reads only; nothing here changes a device, a route or an address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use futures_util::{StreamExt, TryStreamExt};
use lb_common::net::addr::Family;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::{sync::Notify, task::JoinSet};

use super::{
    device::Device,
    uplink::{Assigned, DefaultRoute, Survey},
};

/// Two rtnetlink connections: one for questions, one for events.
///
/// Apart, because a burst of events may overrun a socket's buffer, and an answer would be lost with them.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    changed: Arc<Notify>,
    /// Ends the connections when it is dropped.
    _connections: JoinSet<()>,
}

/// Why the kernel's view of the devices cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused a listing.
    #[error("cannot list the node's {what}")]
    List {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
}

impl Netlink {
    /// Opens both connections; must be called inside a tokio runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (questions, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        let (events, events_handle, mut messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link])
                .map_err(NetlinkError::Open)?;
        let changed = Arc::new(Notify::new());
        let notify = Arc::clone(&changed);
        let mut connections = JoinSet::new();
        connections.spawn(questions);
        connections.spawn(events);
        connections.spawn(async move {
            // What the message says does not matter, not even that some were lost: any leads to a new listing.
            while messages.next().await.is_some() {
                notify.notify_one();
            }
            // The connection ends with its last handle.
            drop(events_handle);
        });
        Ok(Self {
            handle,
            changed,
            _connections: connections,
        })
    }

    /// Waits until a link may have changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Everything that can be listed, at about one moment.
    pub async fn survey(&self) -> Result<Survey, NetlinkError> {
        Ok(Survey {
            devices: self.devices().await?,
            routes: self.default_routes().await?,
            addresses: self.addresses().await?,
        })
    }

    /// All devices.
    pub async fn devices(&self) -> Result<Vec<Device>, NetlinkError> {
        self.handle
            .link()
            .get()
            .execute()
            .map_ok(Device::from)
            .try_collect()
            .await
            .map_err(|source| NetlinkError::List {
                what: "devices",
                source,
            })
    }

    /// The default routes of both families in the main table.
    async fn default_routes(&self) -> Result<Vec<DefaultRoute>, NetlinkError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut found = Vec::new();
        for question in [v4, v6] {
            let routes: Vec<RouteMessage> = self
                .handle
                .route()
                .get(question)
                .execute()
                .try_collect()
                .await
                .map_err(|source| NetlinkError::List {
                    what: "routes",
                    source,
                })?;
            found.extend(routes.iter().flat_map(ways_out));
        }
        Ok(found)
    }

    /// The addresses of all devices.
    async fn addresses(&self) -> Result<Vec<Assigned>, NetlinkError> {
        let messages: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|source| NetlinkError::List {
                what: "addresses",
                source,
            })?;
        Ok(messages.iter().filter_map(assigned).collect())
    }
}

/// The devices that a route leads out of, if it is a default route of the main table.
fn ways_out(route: &RouteMessage) -> Vec<DefaultRoute> {
    let family = match route.header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return Vec::new(),
    };
    let is_default = route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.header.table == RouteHeader::RT_TABLE_MAIN;
    if !is_default {
        return Vec::new();
    }
    let mut devices = Vec::new();
    let mut source = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(hops) => {
                devices.extend(hops.iter().map(|hop| hop.interface_index));
            }
            RouteAttribute::PrefSource(RouteAddress::Inet(addr)) => {
                source = Some(IpAddr::V4(*addr));
            }
            RouteAttribute::PrefSource(RouteAddress::Inet6(addr)) => {
                source = Some(IpAddr::V6(*addr));
            }
            _ => {}
        }
    }
    devices
        .into_iter()
        .map(|device| DefaultRoute {
            family,
            device,
            source,
        })
        .collect()
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let (mut local, mut address, mut flags) = (None, None, AddressFlags::empty());
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point device the other one is the peer's.
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => address = Some(*addr),
            AddressAttribute::Flags(bits) => flags = *bits,
            _ => {}
        }
    }
    let unfit = AddressFlags::Deprecated | AddressFlags::Dadfailed | AddressFlags::Secondary;
    Some(Assigned {
        device: message.header.index,
        addr: local.or(address)?,
        usable: message.header.scope == AddressScope::Universe && !flags.intersects(unfit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_route(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.kind = RouteType::Unicast;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.attributes = attributes;
        route
    }

    #[test]
    fn a_default_route_names_its_device_and_source() {
        let source = Ipv4Addr::new(192, 0, 2, 1);
        let route = default_route(vec![
            RouteAttribute::Oif(4),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)),
        ]);
        let expected = DefaultRoute {
            family: Family::V4,
            device: 4,
            source: Some(source.into()),
        };
        assert_eq!(ways_out(&route), [expected]);
    }

    #[test]
    fn other_routes_name_none() {
        let mut longer = default_route(vec![RouteAttribute::Oif(4)]);
        longer.header.destination_prefix_length = 8;
        let mut elsewhere = default_route(vec![RouteAttribute::Oif(4)]);
        elsewhere.header.table = 100;
        let mut blackhole = default_route(vec![RouteAttribute::Oif(4)]);
        blackhole.header.kind = RouteType::BlackHole;
        for route in [longer, elsewhere, blackhole] {
            assert_eq!(ways_out(&route), [], "{route:?}");
        }
    }

    #[test]
    fn temporary_and_link_local_addresses_are_not_usable() {
        let address = |scope, flags| {
            let mut message = AddressMessage::default();
            message.header.scope = scope;
            message.attributes = vec![
                AddressAttribute::Address(IpAddr::V6(Ipv6Addr::LOCALHOST)),
                AddressAttribute::Flags(flags),
            ];
            assigned(&message).expect("an address").usable
        };
        assert!(address(AddressScope::Universe, AddressFlags::Permanent));
        assert!(!address(AddressScope::Link, AddressFlags::Permanent));
        assert!(!address(AddressScope::Universe, AddressFlags::Secondary));
        assert!(!address(AddressScope::Universe, AddressFlags::Deprecated));
    }
}
