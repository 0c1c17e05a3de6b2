//! The requests that make the pair, as messages of rtnetlink.
//!
//! Pure.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteProtocol, RouteScope, RouteType,
    },
};

use super::{
    claim::Link,
    name::{FAR_MAC, Mac, NEAR_MAC, PairName},
    routes::{PROTOCOL, Value},
};

/// Makes both ends, with the MACs by which they are known until they have an alias; with these numbers, or with any.
pub(super) fn create(
    name: &PairName,
    mtu: u32,
    numbers: Option<(u32, u32)>,
) -> RouteNetlinkMessage {
    let (near, far) = numbers.unwrap_or_default();
    let end = |index, name: String, mac: Mac| {
        let mut message = numbered(index);
        message.attributes = vec![
            LinkAttribute::IfName(name),
            LinkAttribute::Address(mac.into()),
            LinkAttribute::Mtu(mtu),
        ];
        message
    };
    let mut message = end(near, name.near(), NEAR_MAC);
    let far = end(far, name.far(), FAR_MAC);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
    ]));
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn properties(
    index: u32,
    mac: Option<Mac>,
    mtu: u32,
    alias: &str,
) -> RouteNetlinkMessage {
    let mut message = numbered(index);
    message.attributes = vec![
        LinkAttribute::Mtu(mtu),
        LinkAttribute::IfAlias(alias.to_owned()),
    ];
    let mac = mac.map(|mac| LinkAttribute::Address(mac.into()));
    message.attributes.extend(mac);
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn up(index: u32) -> RouteNetlinkMessage {
    let mut message = numbered(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn delete(index: u32) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(numbered(index))
}

pub(super) fn delete_named(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
    RouteNetlinkMessage::DelLink(message)
}

pub(super) fn all_links() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetLink(LinkMessage::default())
}

pub(super) fn all_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// An address that is valid on this node only: never chosen as a source.
pub(super) fn address(index: u32, addr: Ipv4Addr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(addr.into()),
        AddressAttribute::Address(addr.into()),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

/// Whether a message of [`address`] asks for what an answer to [`all_addresses`] says.
pub(super) fn is_same_address(asked: &RouteNetlinkMessage, found: &AddressMessage) -> bool {
    let RouteNetlinkMessage::NewAddress(asked) = asked else {
        return false;
    };
    let is_local = |attribute: &&AddressAttribute| matches!(attribute, AddressAttribute::Local(_));
    let local = |message: &AddressMessage| message.attributes.iter().find(is_local).cloned();
    let key = |message: &AddressMessage| (message.header.index, message.header.prefix_len);
    key(asked) == key(found) && local(asked) == local(found)
}

/// A neighbour that nobody needs to be asked for.
pub(super) fn neighbour(index: u32, addr: IpAddr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    let (family, destination) = match addr {
        IpAddr::V4(addr) => (AddressFamily::Inet, NeighbourAddress::Inet(addr)),
        IpAddr::V6(addr) => (AddressFamily::Inet6, NeighbourAddress::Inet6(addr)),
    };
    message.header.family = family;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.into()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

/// The neighbours of one device.
pub(super) fn neighbours_of(index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.attributes = vec![NeighbourAttribute::IfIndex(index)];
    RouteNetlinkMessage::GetNeighbour(message)
}

/// Whether a message of [`neighbour`] asks for what an answer to [`neighbours_of`] says.
pub(super) fn is_same_neighbour(asked: &RouteNetlinkMessage, found: &RouteNetlinkMessage) -> bool {
    let (RouteNetlinkMessage::NewNeighbour(asked), RouteNetlinkMessage::NewNeighbour(found)) =
        (asked, found)
    else {
        return false;
    };
    let key = |message: &NeighbourMessage| (message.header.ifindex, message.header.state);
    let has = |attribute| found.attributes.contains(attribute);
    key(asked) == key(found) && asked.attributes.iter().all(has)
}

/// A route to the pair; also names the one to be removed.
pub(super) fn route(prefix: IpNet, value: Value, device: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    // No prefix of the device says that the next hop is on its link.
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![
        RouteAttribute::Destination(route_address(prefix.addr())),
        RouteAttribute::Oif(device),
        RouteAttribute::Gateway(route_address(value.gateway)),
        RouteAttribute::Metrics(vec![RouteMetric::Advmss(value.advmss)]),
    ];
    message.attributes.extend(
        value
            .source
            .map(|addr| RouteAttribute::PrefSource(route_address(addr))),
    );
    message
}

/// What an answer to [`all_links`] says.
pub(super) fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        is_up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkNetNsId(_) => link.is_peer_elsewhere = true,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    Some(link)
}

fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn route_address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(addr) => RouteAddress::Inet(addr),
        IpAddr::V6(addr) => RouteAddress::Inet6(addr),
    }
}
