//! `services`: one lookup says everything about a frontend.
//!
//! Written by the agent only, read by the datapath when a flow is opened. When the table is full the
//! agent refuses further services by name and the ones that stand go on working.

use super::Plain;
use crate::net::addr::{Addr, Addr4, Addr6};

/// What a client dials: address, port and protocol.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey<A> {
    /// The service address.
    pub addr: A,
    /// The port, host byte order.
    pub port: u16,
    /// IANA protocol number: 6 TCP, 17 UDP, 132 SCTP; 0 with port 0: all that nobody serves.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
}

impl<A: Addr> ServiceKey<A> {
    /// The key of one frontend.
    #[inline(always)]
    pub fn new(addr: A, port: u16, proto: u8) -> Self {
        Self {
            addr,
            port,
            proto,
            pad: 0,
        }
    }
}

/// A run of `slots` that belongs to one service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotRange {
    /// First slot.
    pub base: u32,
    /// Number of slots; 0: nobody serves here.
    pub count: u32,
}

/// What the datapath must know of a frontend.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The service port this frontend belongs to; never 0. Every backend in its slots names it.
    pub id: u32,
    /// Raised with each write of this entry, so that a reader in flight notices the change.
    pub version: u32,
    /// Backends for traffic that the traffic policies do not restrict.
    pub cluster: SlotRange,
    /// Backends for external traffic under `externalTrafficPolicy: Local`.
    pub external_local: SlotRange,
    /// Backends for internal traffic under `internalTrafficPolicy: Local`.
    pub internal_local: SlotRange,
    /// See [`service_flags`].
    pub flags: u32,
    /// Seconds of `sessionAffinity: ClientIP`; 0: none.
    pub affinity_timeout_s: u32,
    /// The space of [`super::place`] that says who may dial; 0: everybody. Never used again for others.
    pub guard: u32,
}

/// Bits of [`Service::flags`].
pub mod service_flags {
    /// The address is a `ClusterIP`.
    pub const CLUSTER_IP: u32 = 1 << 0;
    /// The address is the node's, the port a node port.
    pub const NODE_PORT: u32 = 1 << 1;
    /// The address is that of a load balancer.
    pub const LOAD_BALANCER: u32 = 1 << 2;
    /// The address is one of `externalIPs`.
    pub const EXTERNAL_IP: u32 = 1 << 3;
    /// Nobody serves here: the address is one of a service, the port and protocol are those of no service. Pings are
    /// answered, and where the address is inside of a prefix of services, all else is rejected.
    pub const ANY_PORT: u32 = 1 << 4;
    /// Clients outside reach the endpoints of this node alone.
    pub const EXTERNAL_LOCAL: u32 = 1 << 5;
    /// Clients of the `ClusterIP` reach the endpoints of this node alone.
    pub const INTERNAL_LOCAL: u32 = 1 << 6;
    /// The lists are Maglev tables: the same packet finds the same backend on every node.
    pub const MAGLEV: u32 = 1 << 7;
    /// Of two backends by chance the one that has fewer connections is chosen.
    pub const LEAST_CONNECTIONS: u32 = 1 << 8;
}

const _: () = assert!(size_of::<ServiceKey<Addr4>>() == 8);
const _: () = assert!(size_of::<ServiceKey<Addr6>>() == 20);
const _: () = assert!(size_of::<SlotRange>() == 8);
const _: () = assert!(size_of::<Service>() == 44 && align_of::<Service>() == 4);
impl Plain for ServiceKey<Addr4> {}
impl Plain for ServiceKey<Addr6> {}
impl Plain for Service {}
