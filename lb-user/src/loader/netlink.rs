//! Links, routes and addresses of the network namespace that the agent runs in.
//!
//! Reads only; nothing here changes a device, a route or an address.

use std::{
    collections::BTreeMap,
    io, mem,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::{sync::Notify, task::JoinSet, time};

use super::{
    device::Device,
    route::Route,
    uplink::{Assigned, Survey},
};

/// What changes are followed of.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Pause before a socket for events that broke is replaced.
const RETRY: Duration = Duration::from_secs(1);

/// Two rtnetlink connections: one for questions, one for events.
///
/// Apart, because a burst of events may overrun a socket's buffer, and an answer would be lost with them.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    events: Arc<Events>,
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
        let socket = rtnetlink::new_multicast_connection(&GROUPS).map_err(NetlinkError::Open)?;
        let events = Arc::new(Events::default());
        let mut connections = JoinSet::new();
        connections.spawn(questions);
        let heard = Arc::clone(&events);
        connections.spawn(async move {
            let mut socket = Ok(socket);
            loop {
                if let Ok((connection, handle, mut messages)) = socket {
                    let listen = async {
                        while let Some((message, _)) = messages.next().await {
                            heard.note(message);
                        }
                    };
                    tokio::join!(connection, listen);
                    // The connection ends with its last handle.
                    drop(handle);
                }
                heard.lose("the socket for events broke");
                time::sleep(RETRY).await;
                socket = rtnetlink::new_multicast_connection(&GROUPS);
            }
        });
        Ok(Self {
            handle,
            events,
            _connections: connections,
        })
    }

    /// Waits until a link, an address or a route may have changed since the last call.
    pub async fn changed(&self) {
        self.events.changed.notified().await;
    }

    /// What events have told since the last call.
    pub fn heard(&self) -> Heard {
        mem::take(&mut self.events.heard())
    }

    /// Everything that can be listed, at about one moment.
    pub async fn survey(&self) -> Result<Survey, NetlinkError> {
        Ok(Survey {
            devices: self.devices().await?,
            routes: self.routes().await?,
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

    /// The routes of both families in the main table.
    async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut found = Vec::new();
        for question in [v4, v6] {
            let mut routes = self.handle.route().get(question).execute();
            // One at a time: a router has a million of them.
            while let Some(message) =
                routes
                    .try_next()
                    .await
                    .map_err(|source| NetlinkError::List {
                        what: "routes",
                        source,
                    })?
            {
                found.extend(Route::of(&message));
            }
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

/// What events tell, for whoever asks.
#[derive(Debug, Default)]
struct Events {
    changed: Notify,
    heard: Mutex<Heard>,
}

/// What events have told.
#[derive(Debug, Default)]
pub struct Heard {
    /// Devices about which there was something, by index: what they are now, and when that was first heard; nothing: gone.
    pub devices: BTreeMap<u32, Option<(Device, Instant)>>,
}

impl Events {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        // Each change of it is one assignment.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any event leads to a new listing, whatever it says; but a device that has just appeared need not wait for that.
    fn note(&self, message: NetlinkMessage<RouteNetlinkMessage>) {
        match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link))
                // Bridges tell about their ports as well, but not what they are.
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                let device = Device::from(link);
                let mut heard = self.heard();
                let known = heard.devices.get(&device.index).and_then(Option::as_ref);
                let since = known.map_or_else(Instant::now, |(_, since)| *since);
                heard.devices.insert(device.index, Some((device, since)));
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
                if link.header.interface_family == AddressFamily::Unspec =>
            {
                self.heard().devices.insert(link.header.index, None);
            }
            NetlinkPayload::Overrun(_) => return self.lose("more came than the socket takes"),
            _ => {}
        }
        self.changed.notify_one();
    }

    /// Some events are lost: everything is looked at anew, as after any event.
    fn lose(&self, reason: &str) {
        tracing::warn!(
            reason,
            "events about devices, addresses and routes were lost; all are listed anew"
        );
        self.changed.notify_one();
    }
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
    let unfit = AddressFlags::Deprecated | AddressFlags::Dadfailed;
    let addr = local.or(address)?;
    let is_global = message.header.scope == AddressScope::Universe && !flags.intersects(unfit);
    let is_secondary = flags.intersects(AddressFlags::Secondary);
    // One flag, two meanings: a further address of the same network, or one that changes for privacy's sake.
    let is_temporary = is_secondary && addr.is_ipv6();
    Some(Assigned {
        device: message.header.index,
        addr,
        usable: is_global && !is_secondary,
        may_stand_in: is_global && !is_temporary && !flags.intersects(AddressFlags::Tentative),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn further_addresses_stand_in_for_clients_and_passing_ones_do_not() {
        let may_stand_in = |addr: IpAddr, flags| {
            let mut message = AddressMessage::default();
            message.header.scope = AddressScope::Universe;
            message.attributes = vec![
                AddressAttribute::Address(addr),
                AddressAttribute::Flags(flags),
            ];
            assigned(&message).expect("an address").may_stand_in
        };
        let [v4, v6] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        assert!(may_stand_in(v4, AddressFlags::Permanent));
        assert!(may_stand_in(v4, AddressFlags::Secondary));
        assert!(may_stand_in(v6, AddressFlags::Permanent));
        assert!(!may_stand_in(v6, AddressFlags::Secondary), "temporary");
        for flags in [
            AddressFlags::Deprecated,
            AddressFlags::Tentative,
            AddressFlags::Dadfailed,
        ] {
            assert!(!may_stand_in(v6, flags), "{flags:?}");
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
