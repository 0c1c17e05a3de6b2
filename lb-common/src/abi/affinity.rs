//! `affinity`: which backend a client was last given.
//!
//! Written by the datapath when a connection of a service with `sessionAffinity: ClientIP` is opened, aged by the
//! agent. An entry counts only while its backend is the same one and in the list that the client may use,
//! so nothing has to be cleared when endpoints come and go. Bounded: a client for whom there is no room gets a
//! backend like any other, counted.

use super::Plain;
use crate::net::addr::{Addr, Addr4, Addr6};

/// A client of a service port, whichever of its addresses it dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey<A> {
    /// The client's address as it came.
    pub client: A,
    /// [`super::Service::id`].
    pub service: u32,
}

impl<A: Addr> AffinityKey<A> {
    /// The key of a client of a service port.
    #[inline(always)]
    pub fn new(client: A, service: u32) -> Self {
        Self { client, service }
    }
}

/// What a client was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affinity {
    /// Index into `backends`.
    pub backend: u32,
    /// [`super::Backend::generation`] when it was chosen.
    pub generation: u16,
    /// Zero.
    pub pad: u16,
    /// When the client's last connection was opened, ticks of [`crate::flow::clock`].
    pub last_opened: u32,
}

const _: () = assert!(size_of::<AffinityKey<Addr4>>() == 8);
const _: () = assert!(size_of::<AffinityKey<Addr6>>() == 20);
const _: () = assert!(size_of::<Affinity>() == 12);
impl Plain for AffinityKey<Addr4> {}
impl Plain for AffinityKey<Addr6> {}
impl Plain for Affinity {}
