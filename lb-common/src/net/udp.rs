//! UDP header (RFC 768).

use bytemuck::{Pod, Zeroable};

/// Bytes from the UDP header to its checksum.
pub const CHECK_AT: u32 = 6;

/// The header on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Udp {
    /// Source port.
    pub sport: [u8; 2],
    /// Destination port.
    pub dport: [u8; 2],
    /// Length of header and payload, bytes.
    pub len: [u8; 2],
    /// Checksum over pseudo header, header and payload; zero: none (IPv4 only).
    pub check: [u8; 2],
}

const _: () = assert!(size_of::<Udp>() == 8 && align_of::<Udp>() == 1);
