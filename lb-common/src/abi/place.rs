//! `places`: what lies behind an address; longest prefix wins.
//!
//! Written by the agent only, read by the datapath when a flow is opened or a next hop asked for anew. A
//! node's address inside a pods' prefix, as a bridge has, is the node's: it is the longer prefix.

/// Pods of the cluster, on whichever node.
pub const PODS: u32 = 1;
/// This node itself: its own processes answer there.
pub const NODE: u32 = 2;
/// A prefix that `ClusterIP`s are taken from: what no service has there leads nowhere.
pub const SERVICES: u32 = 3;
