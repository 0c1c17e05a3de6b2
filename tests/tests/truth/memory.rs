//! A case's tables in memory, filled as the agent fills the kernel's, and a node whose datapath reads them.

use std::{fs, net::IpAddr};

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::{Backend, NextHop, NodeConfig, ServiceKey, node::masquerade},
    datapath::Route,
    fake::FakeNode,
    net::addr::{Addr, Addr4, Addr6},
};
use lb_tests::truth::{Case, Masquerade, SourceClass};
use lb_user::{
    alloc::Allocations,
    apply::{FakeMaps, LbMaps, Scenario},
    compile::{self, NodeFacts, NodePortAddresses},
    plan::Capacity,
    source::dir::Directory,
    store::Store,
};

/// The host side of every pod's device.
pub(crate) const POD_DEVICE: u32 = 10;
/// The way out of the node.
pub(crate) const UPLINK: u32 = 2;
/// The end of the agent's pair where the node's stack receives.
const HOST_DEVICE: u32 = 20;
/// The other end, where what the node's processes send comes out.
pub(crate) const HOST_PEER: u32 = 21;
/// The loopback device.
pub(crate) const LOOPBACK: u32 = 1;
/// Flow positions, enough for the tries of one flow; a connection takes two.
const FLOWS: u32 = 1_024;
/// What a pod sees that reaches itself: the agent's defaults.
const HAIRPIN: [&str; 2] = ["169.254.90.1", "fd66:756c:6372:756d::1"];
/// The moment at which a node begins.
pub(crate) const NOW: u32 = 1_000;

/// The tables of a case, by the way of the agent: manifests, snapshot, compiled, planned and applied.
pub(crate) fn tables(case: &Case, mode: Masquerade) -> Result<FakeMaps> {
    let dir = tempfile::tempdir().context("make a directory for manifests")?;
    fs::write(dir.path().join("case.yaml"), case.manifest()?)?;
    let mut source = Directory::new(dir.path());
    let mut store = Store::new([source.name()]);
    for change in source.scan().changes {
        store.apply(change);
    }
    let snapshot = store.snapshot();
    ensure!(snapshot.is_synced, "the first look was not complete");
    let compiled = compile::compile(&snapshot, &facts(case, mode)?, &Allocations::default());
    let mut tables = Scenario::new(Capacity::default());
    let outcome = tables.reconcile(&compiled.desired);
    ensure!(
        outcome.is_complete() && outcome.refused.is_empty(),
        "not everything was carried out: {outcome:?}"
    );
    Ok(tables.maps().clone())
}

fn facts(case: &Case, mode: Masquerade) -> Result<NodeFacts> {
    let node_ports: Vec<&str> = case
        .flags
        .node_port_addresses
        .iter()
        .map(String::as_str)
        .collect();
    Ok(NodeFacts {
        name: case.node.name.clone(),
        service_cidrs: case.flags.service_cidrs.clone(),
        pod_cidrs: case.pod_cidrs(),
        addresses: case.node.local_ips.iter().copied().collect(),
        primary: case.node.primary_ips.iter().copied().collect(),
        zone: case.node.zone.clone(),
        prefixes_tell_pods: mode != Masquerade::AsNeeded,
        node_port_addresses: match node_ports.as_slice() {
            [] => NodePortAddresses::All,
            ["primary"] => NodePortAddresses::Primary,
            nets => {
                let nets = nets.iter().map(|net| net.parse());
                NodePortAddresses::Inside(nets.collect::<Result<_, _>>()?)
            }
        },
        ..NodeFacts::default()
    })
}

/// A node of one family whose tables say what `maps` says, and which has a way to every endpoint of the case.
pub(crate) fn node<A: Addr>(case: &Case, maps: &FakeMaps, mode: Masquerade) -> Result<FakeNode<A>> {
    node_of(FLOWS, case, maps, mode)
}

/// The same with room for many flows.
pub(crate) fn node_of<A: Addr>(
    flows: u32,
    case: &Case,
    maps: &FakeMaps,
    mode: Masquerade,
) -> Result<FakeNode<A>> {
    let node = FakeNode::new(flows, config(case, mode));
    node.set_now(NOW);
    // Not the primary address, so that a source that was replaced shows also where the node itself dials.
    let mut own = case.node.local_ips.iter().rev();
    let other = own.find(|ip| !ip.is_loopback() && A::from_ip(**ip).is_some());
    if let Some(preferred) = other.copied().and_then(A::from_ip) {
        node.set_preferred_source(preferred);
    }
    put_frontends(&node, maps)?;
    put_backends(&node, maps)?;
    for (area, place) in maps.places()? {
        if let Some(prefix) = A::from_ip(area.net.addr()) {
            let bits = area.net.prefix_len().into();
            node.set_prefix(area.space, prefix, bits, place.code());
        }
    }
    let endpoints = case.endpoints().into_iter();
    for ip in endpoints.filter(|ip| !case.is_local(*ip)) {
        let is_here = case.is_local_endpoint(ip);
        let device = if is_here { POD_DEVICE } else { UPLINK };
        if let Some(to) = A::from_ip(ip) {
            node.set_route(to, Route::Neighbour, by(device));
        }
    }
    Ok(node)
}

fn put_frontends<A: Addr>(node: &FakeNode<A>, maps: &FakeMaps) -> Result<()> {
    for (key, service) in maps.services()? {
        let Some(addr) = A::from_ip(key.addr) else {
            continue;
        };
        node.set_service(ServiceKey::new(addr, key.port, key.proto), Some(service));
        for range in [
            service.cluster,
            service.external_local,
            service.internal_local,
        ] {
            for (slot, id) in (range.base..).zip(maps.slots(range)?) {
                node.set_slot(slot, id);
            }
        }
    }
    Ok(())
}

fn put_backends<A: Addr>(node: &FakeNode<A>, maps: &FakeMaps) -> Result<()> {
    for (id, row) in maps.backends()? {
        if id.family != A::FAMILY || row.service == 0 {
            continue;
        }
        let backend = Backend {
            addr: A::from_ip(row.addr).context("a backend of another family")?,
            service: row.service,
            port: row.port,
            generation: row.generation,
            flags: row.flags,
        };
        node.set_backend(id.id, Some(backend));
    }
    Ok(())
}

fn config(case: &Case, mode: Masquerade) -> NodeConfig {
    let primary = |v6: bool| {
        let mut ips = case.node.primary_ips.iter();
        ips.find(|ip| ip.is_ipv6() == v6).copied()
    };
    NodeConfig {
        addr4: primary(false).and_then(Addr4::from_ip).unwrap_or_default(),
        addr6: primary(true).and_then(Addr6::from_ip).unwrap_or_default(),
        host_ifindex: HOST_DEVICE,
        snat_port_base: 61_000,
        snat_port_count: 1_000,
        hairpin4: Addr4::from_ip(hairpin(false)).unwrap_or_default(),
        hairpin6: Addr6::from_ip(hairpin(true)).unwrap_or_default(),
        masquerade: match mode {
            Masquerade::AsNeeded => masquerade::AS_NEEDED,
            Masquerade::KubeProxy => masquerade::KUBE_PROXY,
            Masquerade::All => masquerade::ALL,
        },
        ..NodeConfig::default()
    }
}

/// Gives the node a way to a client that is none of its processes.
pub(crate) fn route_to<A: Addr>(case: &Case, node: &FakeNode<A>, ip: IpAddr, class: SourceClass) {
    let device = if class == SourceClass::Pod {
        POD_DEVICE
    } else {
        UPLINK
    };
    if let Some(to) = A::from_ip(ip).filter(|_| !case.is_local(ip)) {
        node.set_route(to, Route::Neighbour, by(device));
    }
}

/// What a pod of a family sees that reaches itself.
pub(crate) fn hairpin(v6: bool) -> IpAddr {
    HAIRPIN[usize::from(v6)].parse().unwrap()
}

/// A neighbour behind a device.
fn by(ifindex: u32) -> NextHop {
    NextHop {
        ifindex,
        mtu: 1_500,
        macs: NextHop::join_macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        ..NextHop::default()
    }
}
