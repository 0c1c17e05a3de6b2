//! Nodes, as far as the datapath looks at them.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::object::Meta;

/// Label that names a node's zone.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";

/// One Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name and labels.
    pub meta: Meta,
    /// `status.addresses` of the types that are IP addresses, in order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether it is about to go: `metadata.deletionTimestamp` is set, or the cluster's autoscaler has said so.
    pub is_leaving: bool,
}

impl Node {
    /// The zone, where the node is labelled with one.
    pub fn zone(&self) -> Option<&Arc<str>> {
        let zone = self.meta.labels.get(LABEL_ZONE);
        zone.filter(|zone| !zone.is_empty())
    }
}
