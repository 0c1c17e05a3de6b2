//! `places`: what is to be known of prefixes; longest prefix wins.
//!
//! Written by the agent only, read by the datapath when a flow is opened or a next hop asked for anew. One
//! trie per family holds many spaces. Space [`NODE_SPACE`] says what lies behind an address; a
//! node's address inside a pods' prefix, as a bridge has, is the node's: it is the longer prefix. Each other
//! space says who may dial the frontends that name it ([`super::Service::guard`]).

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// Pods of the cluster, on whichever node.
pub const PODS: u32 = 1;
/// This node itself: its own processes answer there.
pub const NODE: u32 = 2;
/// A prefix that `ClusterIP`s are taken from: what no service has there leads nowhere.
pub const SERVICES: u32 = 3;
/// Everything else, where nobody says which addresses are pods'.
pub const UNKNOWN: u32 = 4;
/// In the space of a guard: these may come in.
pub const ALLOWED: u32 = 5;

/// The space that says what lies where.
pub const NODE_SPACE: u32 = 0;

/// What stands behind the prefix length in a key; a prefix covers the whole space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceKey<A> {
    /// [`NODE_SPACE`] or a guard.
    pub space: u32,
    /// The address.
    pub addr: A,
}

/// Bits of a key before its address.
pub const SPACE_BITS: u32 = 32;

const _: () = assert!(size_of::<PlaceKey<Addr4>>() == 8);
const _: () = assert!(size_of::<PlaceKey<Addr6>>() == 20);
impl Plain for PlaceKey<Addr4> {}
impl Plain for PlaceKey<Addr6> {}
