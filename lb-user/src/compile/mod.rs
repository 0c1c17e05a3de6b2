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
        endpoint::EndpointSlice,
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef},
        service::{Service, ServiceType, TrafficPolicy},
    },
    store::Snapshot,
};

mod endpoint;
mod frontend;
mod generated;
mod mirror;
mod select;
mod slices;
pub mod view;

use self::{
    slices::Sources,
    view::{EndpointsView, ServiceView},
};

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
}

/// Everything that follows from one snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What the tables should say.
    pub desired: Desired,
    /// Rows of `get services`, sorted by name.
    pub services: Vec<ServiceView>,
    /// Rows of `get endpoints`, sorted by name.
    pub endpoints: Vec<EndpointsView>,
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
    let mut compiled = Compiled {
        allocations: allocated.allocations,
        ..Compiled::default()
    };
    compiled.desired.places = places(snapshot, facts);
    for (name, service) in &snapshot.services {
        let Some(addresses) = allocated.addresses.get(name) else {
            compiled
                .services
                .push(ServiceView::new(&service.object, &Addresses::default()));
            continue;
        };
        let slices = sources.slices(service, &addresses.families, &mut findings);
        limits(name, service, &mut findings);
        if frontend::is_served(&service.object) {
            serve(service, addresses, &slices, facts, &mut compiled.desired);
        }
        compiled
            .services
            .push(ServiceView::new(&service.object, addresses));
        compiled.endpoints.extend(EndpointsView::new(
            &service.object,
            &addresses.families,
            &slices,
        ));
    }
    findings.sort();
    findings.dedup();
    compiled.findings = findings;
    compiled
}

/// Adds the ports of one service.
fn serve(
    service: &Located<Service>,
    addresses: &Addresses,
    slices: &[EndpointSlice],
    facts: &NodeFacts,
    desired: &mut Desired,
) {
    for (port, name, mut entry) in frontend::ports(&service.object, addresses) {
        let endpoints = endpoint::merge(slices, port, name.family);
        entry.backends = endpoint::serving(&endpoints, &service.object, &facts.name);
        desired.ports.insert(name, entry);
    }
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
    if matches!(
        spec.service_type,
        ServiceType::NodePort | ServiceType::LoadBalancer
    ) {
        let message = format!(
            "only the ClusterIP of a {} is served yet",
            spec.service_type
        );
        push(Severity::Notice, "spec.type", message);
    }
    if !spec.external_ips.is_empty() {
        push(
            Severity::Notice,
            "spec.externalIPs",
            "external addresses are not served yet".into(),
        );
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
