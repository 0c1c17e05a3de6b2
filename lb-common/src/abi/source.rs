//! `sources4`, `sources6`: the addresses of a device that may stand in for a client's.

use super::Plain;
use crate::net::addr::{Addr, Addr4, Addr6};

/// One of a device's addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey {
    /// The device that packets leave by.
    pub ifindex: u32,
    /// Which of its addresses: from 0 to one less than [`Source::count`].
    pub at: u32,
}

/// The address, and how many the device has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source<A> {
    /// The address.
    pub addr: A,
    /// How many the device has of this family; the same in all of its entries but while they change.
    pub count: u32,
}

const _: () = assert!(size_of::<SourceKey>() == 8);
const _: () = assert!(size_of::<Source<Addr4>>() == 8);
const _: () = assert!(size_of::<Source<Addr6>>() == 20);
impl Plain for SourceKey {}
impl<A: Addr> Plain for Source<A> {}
