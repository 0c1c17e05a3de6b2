//! A case as a place: namespaces with its addresses, a server at every endpoint, and the agent.
//!
//! ```text
//!   pod P ... pod Q           remote R ... remote S     one namespace per address
//!     lxc1      lxc2            far1         far2
//!        test-node ─ uplink0 ~ uplink0 ─ outside        clients' addresses are on its loopback device
//! ```
//!
//! The node routes everything that it does not know to the outside, and the outside to the node, so each packet that no
//! service takes ends at a witness of its own: the node's where the table says `local`, the outside's where it says `pass`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use lb_tests::{
    addressing::Dual,
    balancer::Balancer,
    link,
    netns::Namespace,
    server::Server,
    topology::{self, UPLINK},
    truth::{Case, Expect, Flow, Masquerade, SourceClass},
    xdp_pass::XdpPass,
};
use serde_json::Value;
use tempfile::TempDir;

/// The device of everything that is behind another namespace.
pub(crate) const LEAF_DEVICE: &str = "eth0";
/// L3 bytes of every packet.
const MTU: u32 = 1500;
/// The outside on the node's link.
const OUTSIDE: [&str; 2] = ["192.168.0.1", "2001:db8::ffff"];
/// The gateway of every leaf, an address that nobody has.
const GATEWAY: &str = "169.254.1.1";

/// Where the packets of the uplink are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// At TC ingress.
    Tc,
    /// In the driver as well.
    Xdp,
}

/// See the module. The agent and the servers go before their namespaces.
pub(crate) struct Site {
    pub(crate) agent: Balancer,
    _servers: Vec<Server>,
    _peer: Option<XdpPass>,
    manifests: TempDir,
    pub(crate) node: topology::Node,
    pub(crate) outside: Namespace,
    pods: BTreeMap<IpAddr, Namespace>,
    _remotes: BTreeMap<IpAddr, Namespace>,
}

impl Site {
    /// Makes the place of a case, in which the agent serves.
    pub(crate) fn new(case: &Case, mode: Masquerade, hook: Hook) -> Result<Self> {
        let node = node(case)?;
        let outside = namespace("outside")?;
        connect(case, &node.namespace, &outside)?;
        let (pods, remotes) = leaves(case);
        let pods = attach(&node.namespace, "lxc", &pods)?;
        let remotes = attach(&outside, "far", &remotes)?;
        for namespace in pods
            .values()
            .chain(remotes.values())
            .chain([&node.namespace, &outside])
        {
            link::wait_for_carriers(namespace)?;
        }
        let peer = match hook {
            Hook::Tc => None,
            Hook::Xdp => Some(prepare_for_native_xdp(&outside)?),
        };
        let manifests = tempfile::tempdir().context("make a directory for manifests")?;
        fs::write(manifests.path().join("case.yaml"), case.manifest()?)?;
        let mut flags = flags(case, mode);
        flags.extend((hook == Hook::Xdp).then(|| "--mode=xdp".to_owned()));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let agent = Balancer::start(&node, manifests.path(), &flags)?;
        let mut servers = backends(case, &pods, &remotes)?;
        servers.extend(strangers(case, &node.namespace, &outside)?);
        Ok(Self {
            agent,
            _servers: servers,
            _peer: peer,
            manifests,
            node,
            outside,
            pods,
            _remotes: remotes,
        })
    }

    /// What `fulcrum trace` answers to a batch on the running agent's tables.
    pub(crate) fn trace(&self, batch: &str) -> Result<Vec<Value>> {
        let path = self.manifests.path().join("batch.jsonl");
        fs::write(&path, batch)?;
        let path = path.to_str().context("a path of UTF-8")?;
        let output = self
            .agent
            .fulcrum(&["trace", "--batch", path, "--output", "json"])?;
        let lines = output.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("read {line:?}")))
            .collect()
    }

    /// Where a flow is dialled, and by which device its packets leave.
    pub(crate) fn client(&self, flow: &Flow) -> Result<(&Namespace, &'static str)> {
        Ok(match flow.class {
            SourceClass::Pod => {
                let pod = self.pods.get(&flow.from.ip());
                (pod.context("the pod that dials")?, LEAF_DEVICE)
            }
            SourceClass::External => (&self.outside, UPLINK),
            SourceClass::Node | SourceClass::Localhost => (&self.node.namespace, "lo"),
        })
    }
}

fn flags(case: &Case, mode: Masquerade) -> Vec<String> {
    let mut flags = vec![format!("--masquerade={mode}")];
    flags.extend(
        case.pod_cidrs()
            .iter()
            .map(|cidr| format!("--pod-cidr={cidr}")),
    );
    let services = case.flags.service_cidrs.iter();
    flags.extend(services.map(|cidr| format!("--service-cidr={cidr}")));
    let node_ports = case.flags.node_port_addresses.iter();
    flags.extend(node_ports.map(|of| format!("--nodeport-addresses={of}")));
    flags
}

/// What native XDP on veth needs: whole checksums, and a peer that takes what XDP sends back.
fn prepare_for_native_xdp(outside: &Namespace) -> Result<XdpPass> {
    link::set_tx_offload(outside, UPLINK, false)?;
    XdpPass::attach(outside, UPLINK)
}

fn node(case: &Case) -> Result<topology::Node> {
    let own = namespace(&case.node.name)?;
    own.sysctls(&[
        ("net/ipv4/conf/all/rp_filter", "2"),
        ("net/ipv4/conf/default/rp_filter", "2"),
    ])?;
    let mut addresses = Dual {
        v4: [0; 4].into(),
        v6: [0; 16].into(),
    };
    for ip in &case.node.primary_ips {
        match ip {
            IpAddr::V4(ip) => addresses.v4 = *ip,
            IpAddr::V6(ip) => addresses.v6 = *ip,
        }
    }
    Ok(topology::Node {
        name: case.node.name.clone(),
        number: 1,
        namespace: own,
        addresses,
        uplinks: vec![UPLINK.to_owned()],
        pods: Vec::new(),
    })
}

/// A namespace that routes, and whose addresses are usable at once.
fn namespace(label: &str) -> Result<Namespace> {
    let namespace = Namespace::anonymous(label)?;
    namespace.sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/all/disable_ipv6", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
    ])?;
    Ok(namespace)
}

/// The link between the node and the outside, with all addresses of both.
fn connect(case: &Case, node: &Namespace, outside: &Namespace) -> Result<()> {
    let mut commands = vec![link::veth(
        UPLINK,
        "02:fc:00:00:00:01",
        UPLINK,
        outside,
        MTU,
    )];
    commands.extend(link::up(UPLINK));
    commands.extend(link::link_local(UPLINK, 1));
    for ip in case.node.local_ips.iter().filter(|ip| !ip.is_loopback()) {
        let len = if case.node.primary_ips.contains(ip) {
            [24, 64][usize::from(ip.is_ipv6())]
        } else {
            whole(*ip)
        };
        commands.push(format!("addr add {ip}/{len} dev {UPLINK}{}", nodad(*ip)));
    }
    commands.extend(OUTSIDE.map(|via| format!("route add default via {via} dev {UPLINK}")));
    let mut beyond = link::up(UPLINK);
    beyond.extend(link::link_local(UPLINK, 2));
    beyond.push(format!("addr add {}/24 dev {UPLINK}", OUTSIDE[0]));
    beyond.push(format!("addr add {}/64 dev {UPLINK} nodad", OUTSIDE[1]));
    for ip in outsiders(case) {
        beyond.push(format!("addr add {ip}/{} dev lo{}", whole(ip), nodad(ip)));
    }
    for ip in &case.node.primary_ips {
        beyond.push(format!("route add default via {ip} dev {UPLINK}"));
    }
    // The far end exists once the near one does.
    node.ip(&commands[..1])?;
    outside.ip(&beyond)?;
    node.ip(&commands[1..])
}

/// Addresses of the outside: its clients', unless a flow dials them, and those of packets that nobody takes.
fn outsiders(case: &Case) -> BTreeSet<IpAddr> {
    let sources = case
        .flows
        .iter()
        .filter(|flow| flow.class == SourceClass::External)
        .map(|flow| flow.from.ip());
    let passed = passed(case).map(|to| to.ip());
    let is_dialled = |ip: &IpAddr| {
        let mut flows = case.flows.iter();
        flows.any(|flow| flow.to.ip() == *ip && flow.expect != Expect::Pass)
    };
    sources.chain(passed).filter(|ip| !is_dialled(ip)).collect()
}

/// What pods dial and no service takes.
fn passed(case: &Case) -> impl Iterator<Item = SocketAddr> {
    let is_passed = |flow: &&Flow| flow.class == SourceClass::Pod && flow.expect == Expect::Pass;
    case.flows.iter().filter(is_passed).map(|flow| flow.to)
}

/// Addresses of pods here, and of endpoints elsewhere.
fn leaves(case: &Case) -> (BTreeSet<IpAddr>, BTreeSet<IpAddr>) {
    let endpoints = case.endpoints();
    let is_pod = |ip: &&IpAddr| case.is_local_endpoint(**ip);
    let mut pods: BTreeSet<IpAddr> = endpoints.iter().filter(is_pod).copied().collect();
    let clients = case.flows.iter();
    let clients = clients.filter(|flow| flow.class == SourceClass::Pod);
    pods.extend(clients.map(|flow| flow.from.ip()));
    let is_remote = |ip: &IpAddr| !pods.contains(ip) && !case.is_local(*ip);
    let remotes = endpoints.into_iter().filter(is_remote).collect();
    (pods, remotes)
}

/// A namespace for each address, behind `hub`, to which everything else goes.
fn attach(
    hub: &Namespace,
    label: &str,
    ips: &BTreeSet<IpAddr>,
) -> Result<BTreeMap<IpAddr, Namespace>> {
    let mut leaves = BTreeMap::new();
    for (number, ip) in (1_u8..).zip(ips) {
        let leaf = namespace(&ip.to_string())?;
        let device = format!("{label}{number}");
        let mac = format!("02:fc:01:{:02x}:00:{number:02x}", label.len());
        let mut commands = vec![link::veth(&device, &mac, LEAF_DEVICE, &leaf, MTU)];
        commands.extend(link::up(&device));
        commands.push(format!("addr add fe80::1/64 dev {device} nodad"));
        commands.push(format!("route add {ip} dev {device}"));
        hub.ip(&commands)?;
        let mut own = link::up(LEAF_DEVICE);
        own.extend(link::link_local(LEAF_DEVICE, 0x10 + u16::from(number)));
        own.push(format!(
            "addr add {ip}/{} dev {LEAF_DEVICE}{}",
            whole(*ip),
            nodad(*ip)
        ));
        if ip.is_ipv4() {
            own.push(format!(
                "neigh add {GATEWAY} lladdr {mac} dev {LEAF_DEVICE} nud permanent"
            ));
            own.push(format!("route add {GATEWAY} dev {LEAF_DEVICE} scope link"));
            own.push(format!("route add default via {GATEWAY} dev {LEAF_DEVICE}"));
        } else {
            own.push(format!("route add default via fe80::1 dev {LEAF_DEVICE}"));
        }
        leaf.ip(&own)?;
        leaves.insert(*ip, leaf);
    }
    Ok(leaves)
}

/// A witness at every candidate of every flow, called by its address.
fn backends(
    case: &Case,
    pods: &BTreeMap<IpAddr, Namespace>,
    remotes: &BTreeMap<IpAddr, Namespace>,
) -> Result<Vec<Server>> {
    let candidates = case.flows.iter().filter_map(|flow| match &flow.expect {
        Expect::Forward(candidates) => Some(candidates),
        _ => None,
    });
    let all: BTreeSet<SocketAddr> = candidates.flatten().copied().collect();
    let mut servers = Vec::new();
    for backend in all {
        let ip = backend.ip();
        let namespace = pods.get(&ip).or_else(|| remotes.get(&ip));
        let namespace = namespace.with_context(|| format!("the place of {ip}"))?;
        servers.push(Server::witness(namespace, &ip.to_string(), backend.port())?);
    }
    Ok(servers)
}

/// Witnesses of the node and of the outside, where packets end that no service takes.
fn strangers(case: &Case, node: &Namespace, outside: &Namespace) -> Result<Vec<Server>> {
    let is_local = |flow: &&Flow| {
        let is_health_check = case.health(flow.to.port()).is_some();
        flow.expect == Expect::Local && !is_health_check
    };
    let local = case
        .flows
        .iter()
        .filter(is_local)
        .map(|flow| flow.to.port());
    let local: BTreeSet<u16> = local.collect();
    let node = local
        .into_iter()
        .map(|port| Server::witness(node, "node", port));
    let passed: BTreeSet<u16> = passed(case).map(|to| to.port()).collect();
    let outside = passed
        .into_iter()
        .map(|port| Server::witness(outside, "outside", port));
    node.chain(outside).collect()
}

/// The length of a prefix of one address.
fn whole(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn nodad(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { " nodad" } else { "" }
}
