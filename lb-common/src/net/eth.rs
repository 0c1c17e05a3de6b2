//! Ethernet II header (IEEE 802.3), as far as a router reads and writes it.

use bytemuck::{Pod, Zeroable};

/// Length of the header, bytes, without tags.
pub const LEN: u32 = 14;

/// `EtherType`s (IEEE 802 numbers), host byte order.
pub mod ether_type {
    /// RFC 894.
    pub const IPV4: u16 = 0x0800;
    /// RFC 2464.
    pub const IPV6: u16 = 0x86dd;
}

/// The header on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ethernet {
    /// Destination MAC.
    pub dst: [u8; 6],
    /// Source MAC.
    pub src: [u8; 6],
    /// `EtherType`, network byte order.
    pub ether_type: [u8; 2],
}

const _: () = assert!(size_of::<Ethernet>() == LEN as usize && align_of::<Ethernet>() == 1);
