//! What lies where: pods, this node, prefixes that `ClusterIP`s are taken from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::{NodeFacts, external::Asking, frontend};
use crate::{
    desired::Place,
    model::{
        object::{ObjectName, family_of},
        service::LABEL_PROXY_NAME,
    },
    store::Snapshot,
};

/// What single addresses of services are, by service; none is empty.
pub(super) type Exceptions = BTreeMap<ObjectName, Vec<(IpNet, Place)>>;

/// All prefixes; the longest counts, and of two for one prefix the one that is said last here.
pub(super) fn places(
    snapshot: &Snapshot,
    facts: &NodeFacts,
    exceptions: &Exceptions,
) -> BTreeMap<IpNet, Place> {
    let services = facts.service_cidrs.iter();
    let mut places: BTreeMap<IpNet, Place> =
        services.map(|net| (net.trunc(), Place::Services)).collect();
    places.extend(exceptions.values().flatten().copied());
    let nodes = snapshot.nodes.values();
    let pods = nodes.flat_map(|node| &node.object.pod_cidrs);
    let pods = facts.pod_cidrs.iter().chain(pods);
    places.extend(pods.map(|net| (net.trunc(), Place::Pods)));
    // An address of the node is the node's, also where it is a prefix of pods to the bit. Its loopback address is
    // not: that is everybody's.
    let own = facts.addresses.iter().filter(|addr| !addr.is_loopback());
    places.extend(own.map(|addr| (IpNet::from(*addr), Place::Node)));
    if facts.prefixes_tell_pods {
        let everything = [
            IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::from(Ipv6Addr::UNSPECIFIED),
        ];
        for addr in everything {
            let family = family_of(addr);
            let mut known = places.iter();
            if !known.any(|(net, place)| *place == Place::Pods && family_of(net.addr()) == family) {
                let net = IpNet::new_assert(addr, 0);
                places.entry(net).or_insert(Place::Unknown);
            }
        }
    }
    places
}

/// The node's addresses that stand in for clients', but for those that services have: what comes back to these is
/// for the service.
pub(super) fn sources(dialled: &BTreeSet<IpAddr>, facts: &NodeFacts) -> BTreeMap<u32, Vec<IpAddr>> {
    let free = |(device, addrs): (&u32, &Vec<IpAddr>)| {
        let free = addrs.iter().filter(|addr| !dialled.contains(*addr));
        (*device, free.copied().collect::<Vec<_>>())
    };
    let devices = facts.stand_ins.iter().map(free);
    devices.filter(|(_, addrs)| !addrs.is_empty()).collect()
}

/// Single addresses of a service: `ClusterIP`s outside of the prefixes, where nothing else than their services is served
/// either; and those inside of services that another proxy serves, whose traffic is none of ours.
pub(super) fn exceptions(asking: &Asking<'_>) -> Vec<(IpNet, Place)> {
    let is_inside = |ip: &IpAddr| {
        asking
            .facts
            .service_cidrs
            .iter()
            .any(|net| net.contains(ip))
    };
    let service = &asking.service.object;
    let is_served = frontend::is_served(service);
    let is_foreign = service.meta.labels.contains_key(LABEL_PROXY_NAME);
    let ips = asking.addresses.ips.iter();
    let places = ips.filter_map(|ip| match is_inside(ip) {
        false if is_served => Some((IpNet::from(*ip), Place::Services)),
        true if is_foreign => Some((IpNet::from(*ip), Place::Unknown)),
        _ => None,
    });
    places.collect()
}
