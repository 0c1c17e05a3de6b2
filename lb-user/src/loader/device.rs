//! What a device is, and which programs it takes.
//!
//! Pure: from the attributes that netlink tells to a [`Role`]. The ports of a bond or team take none: their
//! packets are met again on the master. Pods behind a bridge are met at the bridge's ports, not at the
//! bridge.

use std::{collections::BTreeSet, fmt};

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoNetkit, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};

use nix::net::if_::if_nametoindex;

use super::{pair, pattern::Pattern, peers::Obstacle};

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

/// Queueing disciplines in which no packet waits: that of a device without a queue, and that of one that is not up yet.
const IDLE_QUEUES: [&str; 2] = ["noqueue", "noop"];

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
    /// The bond or team that it is a port of.
    pub aggregate: Option<u32>,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether frames come by it that this machine itself has made: the other end of a pair, a program's, or those of a port.
    pub is_fed_here: bool,
    /// Whether it belongs to the pair of an agent, ours or another.
    pub is_host_pair: bool,
    /// Largest packet, L3 bytes.
    pub mtu: u32,
    /// Why packets to a pod do not go past it, as far as the device itself says.
    pub obstacle: Option<Obstacle>,
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
    /// The device is not one of a pair, or the end of one that belongs in a pod.
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
    /// The end of our own pair where the node's own connections come in.
    Host,
    /// Loopback: the node's connections to itself.
    Lo,
    /// No device, but a control group: the node's own sockets.
    Sockets,
}

/// Which devices the agent attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Uplinks.
    pub uplinks: Uplinks,
    /// Pod devices; none given: pairs whose other end is in another namespace.
    pub pods: Option<Vec<Pattern>>,
    /// Index of our own pair's far end; none: there is no pair, and host clients are not served.
    pub host: Option<u32>,
}

/// How uplinks are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplinks {
    /// By name, whether or not they exist.
    Named(Vec<Pattern>),
    /// By index, found out from the routes.
    Found(BTreeSet<u32>),
}

impl Selection {
    /// The part that `device` plays, if any. An uplink is never a pod device.
    pub fn role(&self, device: &Device) -> Option<Role> {
        if device.layer == Layer::Loopback {
            return self.host.map(|_| Role::Lo);
        }
        if self.host == Some(device.index) {
            return Some(Role::Host);
        }
        if device.aggregate.is_some() || device.is_host_pair {
            return None;
        }
        if self.is_uplink(device) {
            return Some(Role::Uplink);
        }
        self.is_pod(device).then_some(Role::Pod)
    }

    /// Whether a device is meant as an uplink.
    pub fn is_uplink(&self, device: &Device) -> bool {
        match &self.uplinks {
            Uplinks::Named(patterns) => any_matches(patterns, device),
            Uplinks::Found(indexes) => indexes.contains(&device.index),
        }
    }

    /// Whether a device is the host side of a pod's, if it is no uplink.
    pub fn is_pod(&self, device: &Device) -> bool {
        match &self.pods {
            Some(patterns) => any_matches(patterns, device),
            None => device.pair == Pair::Elsewhere,
        }
    }
}

fn any_matches(patterns: &[Pattern], device: &Device) -> bool {
    patterns.iter().any(|pattern| pattern.matches(&device.name))
}

impl From<LinkMessage> for Device {
    fn from(message: LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            name: String::new(),
            layer: Layer::from_arphrd(message.header.link_layer_type.into()),
            pair: Pair::None,
            aggregate: None,
            is_bridge: false,
            is_fed_here: false,
            is_host_pair: false,
            mtu: 0,
            obstacle: None,
        };
        let mut peer_elsewhere = false;
        let (mut controller, mut is_aggregated) = (None, false);
        let mut queue = None;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => device.name = name,
                LinkAttribute::Mtu(mtu) => device.mtu = mtu,
                LinkAttribute::IfAlias(alias) => {
                    device.is_host_pair = pair::name::owner(&alias).is_some();
                }
                LinkAttribute::Controller(index) => controller = Some(index),
                LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
                LinkAttribute::Qdisc(qdisc) => {
                    queue = Some(qdisc).filter(|qdisc| !IDLE_QUEUES.contains(&qdisc.as_str()));
                }
                LinkAttribute::LinkInfo(infos) => {
                    is_aggregated |= infos.iter().any(is_of_aggregate);
                    device.learn(&infos);
                }
                _ => {}
            }
        }
        device.aggregate = controller.filter(|_| is_aggregated);
        if device.pair == Pair::Here && peer_elsewhere {
            device.pair = Pair::Elsewhere;
        }
        if device.pair != Pair::Elsewhere {
            device.obstacle = Some(Obstacle::NoPair);
        }
        let queue = queue.map(|qdisc| Obstacle::Queue { qdisc });
        device.obstacle = device.obstacle.or(queue);
        device
    }
}

impl Device {
    /// Whether it is still there, in the network namespace of this thread.
    pub fn exists(&self) -> bool {
        if_nametoindex(self.name.as_str()) == Ok(self.index)
    }

    fn learn(&mut self, infos: &[LinkInfo]) {
        for info in infos {
            if let LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit | InfoKind::Tun) = info {
                self.is_fed_here = true;
            }
            if let LinkInfo::Kind(InfoKind::Netkit) = info {
                self.obstacle = Some(Obstacle::Netkit);
            }
            match info {
                LinkInfo::Kind(InfoKind::Veth | InfoKind::Netkit) => self.pair = Pair::Here,
                LinkInfo::Kind(InfoKind::Bridge) => self.is_bridge = true,
                LinkInfo::PortKind(InfoPortKind::Bridge) => self.obstacle = Some(Obstacle::Port),
                // What a pod sends comes in at the primary end.
                LinkInfo::Data(InfoData::Netkit(facts))
                    if facts.contains(&InfoNetkit::Primary(false)) =>
                {
                    self.pair = Pair::None;
                }
                _ => {}
            }
        }
    }
}

/// Whether a device is a port of a bond or team.
fn is_of_aggregate(info: &LinkInfo) -> bool {
    matches!(
        info,
        LinkInfo::PortKind(InfoPortKind::Bond | InfoPortKind::Team)
    )
}

/// Notes what devices have from their ports: a bond meets the frames that its ports do.
pub fn inherit_from_ports(devices: &mut [Device]) {
    let ports = devices.iter().filter(|port| port.is_fed_here);
    let fed: BTreeSet<u32> = ports.filter_map(|port| port.aggregate).collect();
    for device in devices {
        device.is_fed_here |= fed.contains(&device.index);
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
            Self::Host => "host",
            Self::Lo => "lo",
            Self::Sockets => "sockets",
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
            uplinks: Uplinks::Named(parse(uplinks)),
            pods: pods.map(parse),
            host: None,
        }
    }

    #[test]
    fn a_pair_with_its_peer_in_another_namespace_is_a_pod_device() {
        let by_default = selection(&["eth0"], None);
        assert_eq!(by_default.role(&veth("veth1", Some(0))), Some(Role::Pod));
        assert_eq!(by_default.role(&veth("veth1", None)), None);
    }

    #[test]
    fn pods_behind_a_bridge_are_met_at_its_ports() {
        let by_default = selection(&["eth0"], None);
        let port = LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::PortKind(InfoPortKind::Bridge),
        ]);
        let peer = LinkAttribute::LinkNetNsId(2);
        let port = message("vethab12", arphrd::ETHER, vec![port, peer]);
        assert_eq!(by_default.role(&port.into()), Some(Role::Pod));
        let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]);
        let bridge = Device::from(message("cni0", arphrd::ETHER, vec![kind]));
        assert!(bridge.is_bridge);
        assert_eq!(by_default.role(&bridge), None);
    }

    #[test]
    fn of_a_netkit_only_the_primary_end_is_a_pod_device() {
        let end = |is_primary| {
            let facts = LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Netkit),
                LinkInfo::Data(InfoData::Netkit(vec![InfoNetkit::Primary(is_primary)])),
            ]);
            let attributes = vec![facts, LinkAttribute::LinkNetNsId(2)];
            Device::from(message("nk1", arphrd::ETHER, attributes))
        };
        let by_default = selection(&["eth0"], None);
        assert_eq!(by_default.role(&end(true)), Some(Role::Pod));
        assert_eq!(by_default.role(&end(false)), None);
    }

    #[test]
    fn of_our_own_pair_only_the_far_end_takes_a_program_whatever_the_patterns_say() {
        let end = |index, name: &str| {
            let attributes = vec![
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
                LinkAttribute::IfAlias("fulcrum:/run/fulcrum".to_owned()),
            ];
            let mut message = message(name, arphrd::ETHER, attributes);
            message.header.index = index;
            Device::from(message)
        };
        let mut all = selection(&["*"], Some(&["*"]));
        all.host = Some(9);
        assert_eq!(all.role(&end(8, "fulcrum0")), None);
        assert_eq!(all.role(&end(9, "fulcrum1")), Some(Role::Host));
        assert_eq!(all.role(&end(11, "other1")), None, "another agent's");
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
    fn packets_go_past_a_pair_that_is_nothing_else_and_has_no_queue() {
        let elsewhere = || LinkAttribute::LinkNetNsId(2);
        let obstacle = |kinds: Vec<LinkInfo>, more: Vec<LinkAttribute>| {
            let attributes = [vec![LinkAttribute::LinkInfo(kinds)], more].concat();
            Device::from(message("veth1", arphrd::ETHER, attributes)).obstacle
        };
        let veth = || vec![LinkInfo::Kind(InfoKind::Veth)];
        let queue = |kind: &str| LinkAttribute::Qdisc(kind.to_owned());
        for kind in ["noqueue", "noop"] {
            assert_eq!(obstacle(veth(), vec![elsewhere(), queue(kind)]), None);
        }
        let found = obstacle(veth(), vec![queue("tbf"), elsewhere()]);
        let qdisc = "tbf".to_owned();
        assert_eq!(found, Some(Obstacle::Queue { qdisc }));
        let here = obstacle(veth(), vec![queue("noqueue")]);
        assert_eq!(here, Some(Obstacle::NoPair));
        let netkit = vec![LinkInfo::Kind(InfoKind::Netkit)];
        let found = obstacle(netkit, vec![elsewhere()]);
        assert_eq!(found, Some(Obstacle::Netkit));
        let port = [veth(), vec![LinkInfo::PortKind(InfoPortKind::Bridge)]].concat();
        assert_eq!(obstacle(port, vec![elsewhere()]), Some(Obstacle::Port));
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
    fn loopback_is_no_uplink_and_ports_of_a_bond_take_no_programs() {
        let mut all = selection(&["*"], None);
        let lo = Device::from(message("lo", arphrd::LOOPBACK, Vec::new()));
        assert_eq!(all.role(&lo), None);
        all.host = Some(9);
        assert_eq!(all.role(&lo), Some(Role::Lo));
        let port = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bond)]);
        let port = Device::from(message(
            "eth1",
            arphrd::ETHER,
            vec![port, LinkAttribute::Controller(3)],
        ));
        assert_eq!(all.role(&port), None);
        // A bridge's port is one of its own.
        let port = LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge)]);
        let attributes = vec![port, LinkAttribute::Controller(3)];
        let port = Device::from(message("eth1", arphrd::ETHER, attributes));
        assert_eq!(all.role(&port), Some(Role::Uplink));
    }

    #[test]
    fn a_bond_is_fed_by_what_its_ports_are_fed_by() {
        let of_bond = || LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bond)]);
        let veth = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]);
        let port = |index, more: Vec<LinkAttribute>| {
            let attributes = [vec![of_bond(), LinkAttribute::Controller(index)], more];
            Device::from(message("eth1", arphrd::ETHER, attributes.concat()))
        };
        let bond = |index| Device {
            index,
            ..Device::from(message("bond0", arphrd::ETHER, Vec::new()))
        };
        let mut devices = [port(3, vec![]), port(4, vec![veth]), bond(3), bond(4)];
        inherit_from_ports(&mut devices);
        let fed = devices.map(|device| device.is_fed_here);
        assert_eq!(fed, [false, true, false, true]);
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
