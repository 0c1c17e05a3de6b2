//! Wire formats: one header per file, and the arithmetic of the Internet checksum.
//!
//! Header types are byte structs of alignment 1: sound over any bytes, no accessor panics. They are
//! not the tables' types: see [`crate::abi`].

pub mod addr;
pub mod crc32c;
pub mod csum;
pub mod eth;
pub mod icmp;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod letter;
pub mod sctp;
pub mod tcp;
pub mod udp;
