//! What a device is, and which programs it takes.
//!
//! Pure: from the attributes that netlink tells to a [`Role`]. Loopback takes none, and neither do
//! the ports of a bond or team: their packets are met again on the master.

use std::fmt;

use netlink_packet_route::link::{InfoKind, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage};

use super::pattern::Pattern;

/// `ARPHRD_*` numbers of `linux/if_arp.h` that decide something here.
mod arphrd {
    pub(super) const ETHER: u16 = 1;
    pub(super) const PPP: u16 = 512;
    pub(super) const RAWIP: u16 = 519;
    pub(super) const TUNNEL: u16 = 768;
    pub(super) const TUNNEL6: u16 = 769;
    pub(super) const LOOPBACK: u16 = 772;
    pub(super) const SIT: u16 = 776;
    pub(super) const IPGRE: u16 = 778;
    pub(super) const IP6GRE: u16 = 823;
    pub(super) const NONE: u16 = 0xfffe;
}

/// The facts about one device that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number; never reused while the device lives.
    pub index: u32,
    /// The name, which may change.
    pub name: String,
    /// What its packets begin with.
    pub layer: Layer,
    /// The other end, for devices that come in pairs.
    pub pair: Pair,
    /// Whether it is a port of a bond or team.
    pub aggregated: bool,
}

/// What the packets of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: tunnels without Ethernet, wireguard, PPP.
    Ip,
    /// Loopback.
    Loopback,
    /// Something that the programs do not know, by its `ARPHRD_*` number.
    Unknown(u16),
}

/// The other end of a veth or netkit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The device is not one of a pair.
    None,
    /// In this network namespace, or in one that cannot be told.
    Here,
    /// In another network namespace.
    Elsewhere,
}

/// Where a device stands between the node and the world.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Traffic from outside and from other nodes.
    Uplink,
    /// The host side of one pod's device.
    Pod,
}

/// Which devices the agent attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Uplinks.
    pub uplinks: Vec<Pattern>,
    /// Pod devices; none given: pairs whose other end is in another namespace.
    pub pods: Option<Vec<Pattern>>,
}

impl Selection {
    /// The part that `device` plays, if any. An uplink is never a pod device.
    pub fn role(&self, device: &Device) -> Option<Role> {
        if device.layer == Layer::Loopback || device.aggregated {
            return None;
        }
        if self.is_uplink(&device.name) {
            return Some(Role::Uplink);
        }
        let is_pod = match &self.pods {
            Some(patterns) => patterns.iter().any(|pattern| pattern.matches(&device.name)),
            None => device.pair == Pair::Elsewhere,
        };
        is_pod.then_some(Role::Pod)
    }

    /// Whether a device of this name is meant as an uplink.
    pub fn is_uplink(&self, name: &str) -> bool {
        self.uplinks.iter().any(|pattern| pattern.matches(name))
    }
}

impl From<LinkMessage> for Device {
    fn from(message: LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            name: String::new(),
            layer: Layer::from_arphrd(message.header.link_layer_type.into()),
            pair: Pair::None,
            aggregated: false,
        };
        let mut peer_elsewhere = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
                LinkAttribute::LinkInfo(infos) => device.learn(&infos),
                _ => {}
            }
        }
        if device.pair == Pair::Here && peer_elsewhere {
            device.pair = Pair::Elsewhere;
        }
        device
    }
}

impl Device {
    fn learn(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            match info {
                LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit) => self.pair = Pair::Here,
                LinkInfo::PortKind(InfoPortKind::Bond | InfoPortKind::Team) => {
                    self.aggregated = true;
                }
                _ => {}
            }
        }
    }
}

impl Layer {
    fn from_arphrd(number: u16) -> Self {
        match number {
            arphrd::ETHER => Self::Ethernet,
            arphrd::LOOPBACK => Self::Loopback,
            arphrd::PPP
            | arphrd::RAWIP
            | arphrd::TUNNEL
            | arphrd::TUNNEL6
            | arphrd::SIT
            | arphrd::IPGRE
            | arphrd::IP6GRE
            | arphrd::NONE => Self::Ip,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethernet | Self::Loopback => f.write_str("an Ethernet header"),
            Self::Ip => f.write_str("the IP header"),
            Self::Unknown(number) => write!(f, "an unknown header (ARPHRD {number})"),
        }
    }
}

impl Role {
    /// The role's name, as messages and `fulcrum status` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uplink => "uplink",
            Self::Pod => "pod",
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkLayerType;

    use super::*;

    fn message(name: &str, arphrd: u16, attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::from(arphrd);
        message.attributes = attributes;
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
    }

    fn veth(name: &str, peer: Option<i32>) -> Device {
        let mut attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
            InfoKind::Veth,
        )])];
        attributes.extend(peer.map(LinkAttribute::LinkNetNsId));
        message(name, arphrd::ETHER, attributes).into()
    }

    fn selection(uplinks: &[&str], pods: Option<&[&str]>) -> Selection {
        let parse = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.parse().expect("valid pattern"))
                .collect::<Vec<_>>()
        };
        Selection {
            uplinks: parse(uplinks),
            pods: pods.map(parse),
        }
    }

    #[test]
    fn a_pair_with_its_peer_in_another_namespace_is_a_pod_device() {
        let by_default = selection(&["eth0"], None);
        assert_eq!(by_default.role(&veth("veth1", Some(0))), Some(Role::Pod));
        assert_eq!(by_default.role(&veth("veth1", None)), None);
    }

    #[test]
    fn an_uplink_is_never_a_pod_device() {
        assert_eq!(
            selection(&["eth0"], None).role(&veth("eth0", Some(3))),
            Some(Role::Uplink)
        );
        let both = selection(&["eth*"], Some(&["eth0"]));
        assert_eq!(both.role(&veth("eth0", Some(3))), Some(Role::Uplink));
    }

    #[test]
    fn pod_patterns_replace_what_the_device_is() {
        let named = selection(&["eth0"], Some(&["cali*"]));
        assert_eq!(named.role(&veth("cali12", None)), Some(Role::Pod));
        assert_eq!(named.role(&veth("veth1", Some(0))), None);
    }

    #[test]
    fn a_peer_elsewhere_makes_no_pod_device_of_what_is_no_pair() {
        let vlan = message(
            "eth0.5",
            arphrd::ETHER,
            vec![
                LinkAttribute::LinkNetNsId(0),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan)]),
            ],
        );
        assert_eq!(selection(&["eth0"], None).role(&vlan.into()), None);
    }

    #[test]
    fn loopback_and_ports_of_a_bond_take_no_programs() {
        let all = selection(&["*"], None);
        assert_eq!(
            all.role(&message("lo", arphrd::LOOPBACK, Vec::new()).into()),
            None
        );
        let port = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bond)]);
        assert_eq!(
            all.role(&message("eth1", arphrd::ETHER, vec![port]).into()),
            None
        );
    }

    #[test]
    fn layers_follow_the_hardware_type() {
        for (number, layer) in [
            (arphrd::ETHER, Layer::Ethernet),
            (arphrd::NONE, Layer::Ip),
            (arphrd::TUNNEL, Layer::Ip),
            (arphrd::TUNNEL6, Layer::Ip),
            (arphrd::LOOPBACK, Layer::Loopback),
            (32, Layer::Unknown(32)),
        ] {
            assert_eq!(
                Device::from(message("x", number, Vec::new())).layer,
                layer,
                "{number}"
            );
        }
    }
}
