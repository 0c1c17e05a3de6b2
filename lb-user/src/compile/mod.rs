//! From objects to the desired state of one node.
//!
//! Pure and total: no clock, no IO, and what cannot be served is a [`Finding`]. The result depends on
//! what the snapshot holds, never on the order in which it came to be. A [`compiler`] that goes on from one snapshot to the next
//! comes to the same and does only what the difference asks for.
//!
//! ```text
//! services ---------> alloc ----> addresses --+
//! slices, endpoints, pods -> slices ----------+--> frontend, endpoint --> Desired
//!                                             +--> view
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    alloc::{Addresses, Allocations, PortRange},
    desired::{Algorithm, Desired},
    model::{finding::Finding, object::ObjectName},
    shared_map::SharedMap,
    store::Snapshot,
};

mod balancing;
pub mod compiler;
mod dialled;
mod endpoint;
pub mod explain;
mod external;
mod findings;
mod frontend;
mod generated;
pub mod health;
mod mirror;
mod places;
mod select;
mod slices;
pub mod view;

use self::{compiler::Compiler, health::HealthCheck};

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
    /// Those of each device that may stand in for clients', the one that is taken first at first.
    pub stand_ins: BTreeMap<u32, Vec<IpAddr>>,
    /// The address by which the cluster knows the node, one per family.
    pub primary: BTreeSet<IpAddr>,
    /// Whether services have only what their manifests give: nothing is allocated.
    pub gives_nothing: bool,
    /// Whether nothing but prefixes tells pods from other clients, as kube-proxy has it.
    pub prefixes_tell_pods: bool,
    /// The node's zone, where a flag gives it; else its Node object may.
    pub zone: Option<String>,
    /// Which of the node's addresses answer on node ports.
    pub node_port_addresses: NodePortAddresses,
    /// Numbers that node ports are allocated from.
    pub node_port_range: PortRange,
    /// Whether explicit values outside of the ranges are errors instead of warnings.
    pub is_strict: bool,
    /// How backends are chosen where a service does not say.
    pub algorithm: Algorithm,
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
    /// Addresses of all frontends but node ports.
    pub dialled: Arc<BTreeSet<IpAddr>>,
    /// What each service has; a service that is refused is missing.
    pub addresses: SharedMap<ObjectName, Addresses>,
    /// What load balancers outside are told on the services' health check ports.
    pub health_checks: SharedMap<ObjectName, HealthCheck>,
    /// What is not served as written, sorted by place.
    pub findings: Vec<Finding>,
    /// To be kept, and given in the next time.
    pub allocations: Arc<Allocations>,
}

/// Compiles a snapshot for a node.
pub fn compile(snapshot: &Snapshot, facts: &NodeFacts, previous: &Allocations) -> Compiled {
    Compiler::new(snapshot, facts, previous).into_compiled()
}

#[cfg(test)]
mod tests;
