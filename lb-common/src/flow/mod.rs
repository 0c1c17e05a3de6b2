//! Connections: their keys, their states, and the table that holds them.

pub mod clock;
pub mod growth;
pub mod reserve;
pub mod slot;
pub mod table;
pub mod tcp;
pub mod walk;

use crate::net::{addr::Addr, ip::Ends};

/// What identifies one direction of a connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// The addresses.
    pub ends: Ends<A>,
    /// Source port, host byte order.
    pub sport: u16,
    /// Destination port, host byte order.
    pub dport: u16,
    /// IANA protocol number.
    pub proto: u8,
}

impl<A: Addr> FlowKey<A> {
    /// Both ports in one word, as the hash and the slots take them.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        u32::from(self.dport) << 16 | u32::from(self.sport)
    }
}

/// The addresses and ports that a packet leaves with.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite<A> {
    /// New addresses.
    pub ends: Ends<A>,
    /// New source port, host byte order.
    pub sport: u16,
    /// New destination port, host byte order.
    pub dport: u16,
}

impl<A: Addr> Rewrite<A> {
    /// The key of the packets that answer the rewritten ones.
    #[inline(always)]
    pub fn answered_by(&self, proto: u8, key: &mut FlowKey<A>) {
        key.ends.src = self.ends.dst;
        key.ends.dst = self.ends.src;
        key.sport = self.dport;
        key.dport = self.sport;
        key.proto = proto;
    }
}

/// Which way a slot's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Original,
    /// Backend to client.
    Reply,
}
