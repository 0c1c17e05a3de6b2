//! `dialled4`, `dialled6`: which backends sockets of the node's own have been given when they dialled a service.
//!
//! Written and read by the programs of the sockets' control group alone ([`crate::datapath::dial`]). Nobody clears an entry:
//! when the table is full, the kernel forgets what was not asked for the longest.

use super::Plain;
use crate::net::addr::{Addr, Addr4, Addr6};

/// A socket, and one end of what it has dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialledKey<A> {
    /// The socket's cookie, its upper half first.
    pub socket: [u32; 2],
    /// The service's address, or the backend's.
    pub addr: A,
    /// Its port, host byte order.
    pub port: u16,
    /// IANA protocol number: 6 TCP, 17 UDP.
    pub proto: u8,
    /// [`BACKEND_OF`] or [`SERVICE_OF`].
    pub asks: u8,
}

/// The key has the service's address: asks for the backend that the socket has there. UDP alone.
pub const BACKEND_OF: u8 = 0;
/// The key has the backend's address: asks what the socket has dialled.
pub const SERVICE_OF: u8 = 1;

impl<A: Addr> DialledKey<A> {
    /// The key of one end of what a socket of this cookie has dialled.
    #[inline(always)]
    pub fn new(cookie: u64, (addr, port): (A, u16), proto: u8, asks: u8) -> Self {
        Self {
            socket: [(cookie >> 32) as u32, cookie as u32],
            addr,
            port,
            proto,
            asks,
        }
    }
}

/// The other end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dialled<A> {
    /// The backend's address, or the service's.
    pub addr: A,
    /// Index into `backends`.
    pub backend: u32,
    /// Its port, host byte order.
    pub port: u16,
    /// [`super::Backend::generation`] when it was chosen.
    pub generation: u16,
}

const _: () = assert!(size_of::<DialledKey<Addr4>>() == 16);
const _: () = assert!(size_of::<DialledKey<Addr6>>() == 28);
const _: () = assert!(size_of::<Dialled<Addr4>>() == 12);
const _: () = assert!(size_of::<Dialled<Addr6>>() == 24);
impl Plain for DialledKey<Addr4> {}
impl Plain for DialledKey<Addr6> {}
impl<A: Addr> Plain for Dialled<A> {}
