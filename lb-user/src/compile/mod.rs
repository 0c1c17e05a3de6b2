//! From objects to the desired state of one node.
//!
//! Pure and total: no clock, no IO, and what cannot be served is a [`Finding`]. The result depends on
//! what the snapshot holds, never on the order in which it came to be.
//!
//! ```text
//! services ---------> alloc ----> addresses --+
//! slices, endpoints, pods -> slices ----------+--> frontend, endpoint --> Desired
//!                                             +--> view
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    alloc::{self, Addresses, Allocations},
    desired::{Desired, Place, Protocol},
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef},
        service::{Service, ServiceType, TrafficPolicy},
    },
    store::Snapshot,
};

mod endpoint;
pub mod explain;
mod external;
mod frontend;
mod generated;
mod mirror;
mod select;
mod slices;
pub mod view;

use self::{endpoint::Here, external::Taken, slices::Sources};

/// What is known about the node without any manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's name; endpoints of this name are local.
    pub name: String,
    /// Ranges that `ClusterIP`s are allocated from, the primary family first.
    pub service_cidrs: Vec<IpNet>,
    /// Prefixes of pods, beside those that Node objects give.
    pub pod_cidrs: Vec<IpNet>,
    /// The node's own addresses: what is sent there is for its own processes.
    pub addresses: BTreeSet<IpAddr>,
    /// The address by which the cluster knows the node, one per family.
    pub primary: BTreeSet<IpAddr>,
    /// The node's zone, where a flag gives it; else its Node object may.
    pub zone: Option<String>,
    /// Which of the node's addresses answer on node ports.
    pub node_port_addresses: NodePortAddresses,
}

/// Which of a node's addresses answer on node ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them.
    #[default]
    All,
    /// The one of each family by which the cluster knows the node.
    Primary,
    /// Those inside these prefixes.
    Inside(Vec<IpNet>),
}

/// Everything that follows from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the tables should say.
    pub desired: Desired,
    /// What each service has; a service that is refused is missing.
    pub addresses: BTreeMap<ObjectName, Addresses>,
    /// What is not served as written, sorted by place.
    pub findings: Vec<Finding>,
    /// To be kept, and given in the next time.
    pub allocations: Allocations,
}

/// Compiles a snapshot for a node.
pub fn compile(snapshot: &Snapshot, facts: &NodeFacts, previous: &Allocations) -> Compiled {
    let allocated = alloc::allocate(&snapshot.services, &facts.service_cidrs, previous);
    let mut findings = allocated.findings;
    let mut sources = Sources::new(snapshot, &mut findings);
    let here = Here::new(snapshot, facts);
    let mut taken = Taken::new(snapshot, &allocated.addresses);
    let mut compiled = Compiled {
        allocations: allocated.allocations,
        ..Compiled::default()
    };
    compiled.desired.places = places(snapshot, facts);
    for (name, service) in &snapshot.services {
        let Some(addresses) = allocated.addresses.get(name) else {
            continue;
        };
        let slices = sources.slices(service, &addresses.families, &mut findings);
        limits(name, service, &mut findings);
        if frontend::is_served(&service.object) {
            for (port, id, mut entry) in frontend::ports(&service.object, addresses) {
                let endpoints = endpoint::merge(&slices, port, id.family);
                entry.backends = endpoint::serving(&endpoints, &service.object, here);
                let place = (name, &**service);
                entry.frontends.extend(taken.external(
                    place,
                    port,
                    id.family,
                    facts,
                    &mut findings,
                ));
                compiled.desired.ports.insert(id, entry);
            }
        }
    }
    compiled.addresses = allocated.addresses;
    findings.sort();
    findings.dedup();
    compiled.findings = findings;
    compiled
}

/// What a manifest asks for and the datapath does not do yet.
fn limits(name: &ObjectName, service: &Located<Service>, findings: &mut Vec<Finding>) {
    let reference = ObjectRef {
        kind: Kind::Service,
        name: name.clone(),
    };
    let mut push = |severity, field: &str, message: String| {
        findings.push(Finding::about(
            severity,
            (&reference, service),
            field,
            message,
        ));
    };
    if !frontend::is_served(&service.object) {
        return;
    }
    let spec = &service.object.spec;
    for (index, port) in spec.ports.iter().enumerate() {
        if port.protocol == Protocol::Sctp {
            let field = format!("spec.ports[{index}].protocol");
            let message = format!(
                "port {} is not served: SCTP is not supported yet",
                port.port
            );
            push(Severity::Error, &field, message);
        }
    }
    let has_node_ports = spec.service_type == ServiceType::NodePort
        || spec.service_type == ServiceType::LoadBalancer && spec.allocate_node_ports == Some(true);
    if has_node_ports && spec.ports.iter().any(|port| port.node_port.is_none()) {
        let message = "node ports are not allocated yet; a port without `nodePort` has none";
        push(Severity::Notice, "spec.ports", message.into());
    }
    let is_external = spec.service_type != ServiceType::ClusterIp || !spec.external_ips.is_empty();
    let obstacles = [
        external::obstacle(&service.object).filter(|_| is_external),
        external::balancer_obstacle(&service.object),
    ];
    for (field, message) in obstacles.into_iter().flatten() {
        push(Severity::Warning, field, message.into());
    }
    if spec.affinity_timeout_s.is_some() {
        let message =
            "session affinity is not applied yet; each connection has a backend of its own";
        push(Severity::Warning, "spec.sessionAffinity", message.into());
    }
    if spec.internal_traffic_policy == TrafficPolicy::Local {
        let message = "the policy Local is not applied yet; all endpoints are used";
        push(
            Severity::Warning,
            "spec.internalTrafficPolicy",
            message.into(),
        );
    }
}

/// What lies where. An address of the node is the node's, also where it is a prefix of pods to the bit.
fn places(snapshot: &Snapshot, facts: &NodeFacts) -> BTreeMap<IpNet, Place> {
    let nodes = snapshot
        .nodes
        .values()
        .flat_map(|node| &node.object.pod_cidrs);
    let pods = facts.pod_cidrs.iter().chain(nodes);
    let pods = pods.map(|net| (net.trunc(), Place::Pods));
    let own = facts.addresses.iter();
    let own = own.map(|addr| (IpNet::from(*addr), Place::Node));
    pods.chain(own).collect()
}

#[cfg(test)]
mod tests;
