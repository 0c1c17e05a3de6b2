//! The network that one contender works in: a client, a node, and backends, in namespaces of their own.
//!
//! Every contender has its own, so that all are there at once and can be measured in turns. All neighbours are permanent: no
//! packet waits for one, and none is sent but those that are counted.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use lb_tests::{
    addressing::{self, Dual},
    link,
    netns::Namespace,
    packet::{Mac, Macs},
    topology::{Node, UPLINK},
};
use nix::net::if_::if_nametoindex;

use crate::{
    generator::Generator,
    services::{self, PORT, Services, TARGET},
    setting::Setting,
    sink::Sink,
};

/// Where clients and backends are.
#[allow(
    dead_code,
    reason = "which of them XDP is measured in is one line of the settings"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// The client is a pod of the node, the backends are behind its uplink.
    PodAndUplink,
    /// Each is behind an uplink of its own.
    TwoUplinks,
    /// Both are behind the one uplink, in one namespace: what comes by it leaves by it.
    OneUplink,
}

/// The client's and the backends' device.
pub(crate) const FAR: &str = "eth0";
/// The first of the client's addresses.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// The gateway that pods have.
const GATEWAY: &str = "169.254.1.1";
/// Neighbours of the node that lead to the client and to the backends.
const TO_CLIENT: &str = "198.18.0.3";
const TO_BACKENDS: &str = "198.18.0.2";

const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 1];
const CLIENT_SIDE: Mac = [2, 0, 0, 0, 0, 2];
const BACKEND_SIDE: Mac = [2, 0, 0, 0, 0, 3];
const BACKEND_MAC: Mac = [2, 0, 0, 0, 0, 4];

/// See the module.
#[derive(Debug)]
pub(crate) struct Site {
    /// Where packets begin.
    pub(crate) client: Namespace,
    /// Where they end, if that is not the client's.
    backend: Option<Namespace>,
    /// What they pass.
    pub(crate) node: Node,
    /// Who makes them.
    pub(crate) generator: Generator,
    /// Where they are dialled.
    pub(crate) dialled: SocketAddrV4,
    /// Where they are counted: at the backends first, then, if that is elsewhere, at the client.
    sinks: Vec<Sink>,
    /// The client's device.
    pub(crate) ifindex: u32,
}

impl Site {
    /// Makes the network; nobody works in it yet.
    pub(crate) fn new(setting: &Setting, services: Services) -> Result<Self> {
        let layout = setting.layout;
        let client = Namespace::anonymous("bench-client")?;
        let backend = match layout {
            Layout::OneUplink => None,
            Layout::PodAndUplink | Layout::TwoUplinks => {
                Some(Namespace::anonymous("bench-backend")?)
            }
        };
        let node = node(layout)?;
        connect(layout, &node.namespace, &client, backend.as_ref())?;
        let dialled = if setting.worker.has_services() {
            SocketAddrV4::new(services.dialled(), PORT)
        } else {
            let backend = services::backends().next().context("a backend")?;
            SocketAddrV4::new(backend, TARGET)
        };
        let macs = Macs {
            src: CLIENT_MAC,
            dst: layout.macs()[0],
        };
        let far = |namespace: &Namespace| {
            namespace
                .run(|| if_nametoindex(FAR))
                .context("find a device")
        };
        let ifindex = far(&client)?;
        let ends = backend.iter().chain([&client]);
        let sinks = ends
            .map(|end| {
                end.run(|| Sink::attach(setting.receiver, if_nametoindex(FAR)?, dialled.port()))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            generator: Generator::new(macs, CLIENT, dialled)?,
            client,
            backend,
            node,
            dialled,
            sinks,
            ifindex,
        })
    }

    /// The client's machine as a node with this uplink, which need not be there, for an agent of its own.
    pub(crate) fn machine(&self, uplink: &str) -> Node {
        Node {
            name: "client".to_owned(),
            number: 1,
            namespace: self.client.again(),
            addresses: Dual {
                v4: CLIENT,
                ..addressing::node(1)
            },
            uplinks: vec![uplink.to_owned()],
            pods: Vec::new(),
        }
    }

    /// The namespace of the backends, if it is another one than the client's: else they cannot talk by sockets, since the
    /// packets would not leave.
    pub(crate) fn backend(&self) -> Option<&Namespace> {
        self.backend.as_ref()
    }

    /// Who counts what reaches the backends.
    pub(crate) fn receiver(&self) -> Result<&Sink> {
        self.sinks.first().context("a sink at the backends")
    }

    /// Who counts what comes back.
    pub(crate) fn returned(&self) -> Result<&Sink> {
        self.sinks.last().context("a sink at the client")
    }
}

impl Layout {
    /// MACs of the node, towards the client and towards the backends.
    fn macs(self) -> [Mac; 2] {
        match self {
            Self::PodAndUplink | Self::TwoUplinks => [CLIENT_SIDE, BACKEND_SIDE],
            Self::OneUplink => [BACKEND_SIDE; 2],
        }
    }

    /// The node's device towards the client.
    fn client_side(self) -> &'static str {
        match self {
            Self::PodAndUplink => "lxc1",
            Self::TwoUplinks => "uplink1",
            Self::OneUplink => UPLINK,
        }
    }

    fn uplinks(self) -> Vec<String> {
        let uplinks: &[&str] = match self {
            Self::PodAndUplink | Self::OneUplink => &[UPLINK],
            Self::TwoUplinks => &[UPLINK, "uplink1"],
        };
        uplinks.iter().map(|&uplink| uplink.to_owned()).collect()
    }
}

fn node(layout: Layout) -> Result<Node> {
    let namespace = Namespace::anonymous("bench-node")?;
    namespace.sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
    ])?;
    Ok(Node {
        name: "node-1".to_owned(),
        number: 1,
        namespace,
        addresses: addressing::node(1),
        uplinks: layout.uplinks(),
        pods: Vec::new(),
    })
}

fn connect(
    layout: Layout,
    node: &Namespace,
    client: &Namespace,
    backend: Option<&Namespace>,
) -> Result<()> {
    let side = layout.client_side();
    let [client_side, backend_side] = layout.macs().map(display);
    let mut commands = vec![link::veth(side, &client_side, FAR, client, 1500)];
    commands.extend(link::up(side));
    if let Some(backend) = backend {
        commands.push(link::veth(UPLINK, &backend_side, FAR, backend, 1500));
        commands.extend(link::up(UPLINK));
    }
    commands.extend(link::addresses(UPLINK, addressing::node(1), 24, 64));
    commands.extend(leads(side, TO_CLIENT, CLIENT_MAC, 1));
    let backend_mac = if backend.is_some() {
        BACKEND_MAC
    } else {
        CLIENT_MAC
    };
    commands.extend(leads(UPLINK, TO_BACKENDS, backend_mac, 2));
    node.ip(&commands)?;
    client.ip(&far_end(CLIENT_MAC, &client_side, &[CLIENT]))?;
    if let Some(backend) = backend {
        let addresses: Vec<_> = services::backends().collect();
        backend.ip(&far_end(BACKEND_MAC, &backend_side, &addresses))?;
    }
    // A veth takes frames of XDP only if its peer polls, which it does where packets are merged.
    node.run(|| link::set_gro(side, true))?;
    [Some(client), backend, Some(node)]
        .into_iter()
        .flatten()
        .try_for_each(|namespace| {
            // XDP must find checksums made.
            let devices = if namespace.label() == node.label() {
                vec![side, UPLINK]
            } else {
                vec![FAR]
            };
            let offload =
                |device| link::set_tx_offload(namespace, device, layout == Layout::PodAndUplink);
            devices.into_iter().try_for_each(offload)?;
            link::wait_for_carriers(namespace)
        })
}

/// The node's way to the pods of node `number`.
fn leads(device: &str, via: &str, mac: Mac, number: u8) -> [String; 2] {
    let mac = display(mac);
    [
        format!("neigh add {via} lladdr {mac} nud permanent dev {device}"),
        format!("route add 10.244.{number}.0/24 via {via} dev {device} onlink"),
    ]
}

/// What is at the other end of one of the node's devices.
fn far_end(mac: Mac, node_mac: &str, addresses: &[Ipv4Addr]) -> Vec<String> {
    let mut commands = vec![format!("link set dev {FAR} address {}", display(mac))];
    commands.extend(link::up(FAR));
    commands.extend(
        addresses
            .iter()
            .map(|address| format!("addr add {address}/32 dev {FAR}")),
    );
    commands.push(format!(
        "neigh add {GATEWAY} lladdr {node_mac} nud permanent dev {FAR}"
    ));
    commands.push(format!("route add default via {GATEWAY} dev {FAR} onlink"));
    commands
}

fn display(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
