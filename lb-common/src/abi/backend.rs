//! `backends`: an id names one endpoint *of one service port*.
//!
//! So "does it still serve this service" and "is it in the list that this client may use" are one
//! read. Written by the agent only; an id is reused only after every reader in flight has gone.

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// One endpoint of one service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend<A> {
    /// The endpoint's address.
    pub addr: A,
    /// [`crate::abi::Service::id`] of the service port that it serves; 0: the id is free.
    pub service: u32,
    /// The endpoint's port, host byte order.
    pub port: u16,
    /// Raised each time the id is given to another endpoint, so that flows notice.
    pub generation: u16,
    /// See [`backend_flags`].
    pub flags: u32,
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// It may keep the flows that it has.
    pub const SERVING: u32 = 1 << 0;
    /// It is in the service's cluster list.
    pub const IN_CLUSTER: u32 = 1 << 1;
    /// It is in the list for external traffic under a Local policy.
    pub const IN_EXTERNAL_LOCAL: u32 = 1 << 2;
    /// It is in the list for internal traffic under a Local policy.
    pub const IN_INTERNAL_LOCAL: u32 = 1 << 3;
    /// It runs on this node.
    pub const LOCAL: u32 = 1 << 4;
    /// Its connections are counted ([`super::map::CONNECTIONS4`]).
    pub const COUNTED: u32 = 1 << 5;
    /// The bits above tell its weight, which is 1 where they are 0.
    pub const WEIGHT_SHIFT: u32 = 8;

    /// The bits that tell a weight, which is 1 or more.
    pub const fn of_weight(weight: u32) -> u32 {
        weight.saturating_sub(1) << WEIGHT_SHIFT
    }

    /// The weight that flags tell.
    #[inline(always)]
    pub const fn weight(flags: u32) -> u32 {
        (flags >> WEIGHT_SHIFT).wrapping_add(1)
    }
}

const _: () = assert!(size_of::<Backend<Addr4>>() == 16);
const _: () = assert!(size_of::<Backend<Addr6>>() == 28);
impl Plain for Backend<Addr4> {}
impl Plain for Backend<Addr6> {}
