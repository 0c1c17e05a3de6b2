//! Everything that crosses the kernel boundary: the tables' names, capacities, keys and values.
//!
//! One file per table. Rules that hold for all of them: natural alignment, fields in an order that
//! leaves no hole, explicit `pad` that is always zero (the kernel hashes every byte of a key), no
//! `bool`, `enum`, `Option` or `usize`. Ports and numbers are in host byte order; addresses are words
//! in network byte order ([`crate::net::addr`]).

pub mod affinity;
pub mod backend;
pub mod counter;
pub mod dialled;
pub mod flow;
pub mod former;
pub mod fragment;
pub mod growth;
pub mod held_piece;
#[cfg(feature = "next-layout")]
pub mod next_flow;
pub mod next_hop;
pub mod node;
pub mod place;
pub mod service;
pub mod source;
pub mod takeover;
pub mod trace;

pub use affinity::{Affinity, AffinityKey};
pub use backend::{Backend, backend_flags};
pub use counter::Reason;
pub use dialled::{Dialled, DialledKey};
#[cfg(not(feature = "next-layout"))]
pub use flow::FlowSlot;
pub use former::SlotLayout;
pub use fragment::Fragment;
pub use held_piece::{HeldPiece, PieceKey};
#[cfg(feature = "next-layout")]
pub use next_flow::FlowSlot;
pub use next_hop::NextHop;
pub use node::NodeConfig;
pub use place::PlaceKey;
pub use service::{Service, ServiceKey, SlotRange, service_flags};
pub use source::{Source, SourceKey};
pub use trace::TraceRecord;

/// Version of the tables' layout; part of the directory where they are pinned.
///
/// Any change of a key, a value, a map type or the meaning of a field raises it.
pub const LAYOUT_VERSION: u32 = if cfg!(feature = "next-layout") { 5 } else { 4 };

/// Plain data of the tables: `repr(C)`, no padding, every bit pattern valid.
///
/// Each implementation stands in the type's own file beside the assertion of its size. Userspace
/// relies on it to copy values to and from the kernel byte by byte.
pub trait Plain: Copy + 'static {}

impl Plain for u32 {}
impl Plain for u64 {}

/// Names of the maps as the kernel, `bpftool` and the pin directory show them (15 characters at most).
pub mod map {
    /// `ServiceKey<Addr4>` -> `Service`.
    pub const SERVICES4: &str = "services4";
    /// `ServiceKey<Addr6>` -> `Service`.
    pub const SERVICES6: &str = "services6";
    /// Slot index -> backend id (0: unused). Shared by both families; a service owns ranges of it.
    pub const SLOTS: &str = "slots";
    /// Backend id -> `Backend<Addr4>`.
    pub const BACKENDS4: &str = "backends4";
    /// Backend id -> `Backend<Addr6>`.
    pub const BACKENDS6: &str = "backends6";
    /// Flow position -> `FlowSlot<Addr4>`.
    pub const FLOWS4: &str = "flows4";
    /// Flow position -> `FlowSlot<Addr6>`.
    pub const FLOWS6: &str = "flows6";
    /// While the table grows: position in the other one -> `FlowSlot<Addr4>`; pinned elsewhere.
    pub const FLOWS4_OTHER: &str = "flows4_other";
    /// While the table grows: position in the other one -> `FlowSlot<Addr6>`; pinned elsewhere.
    pub const FLOWS6_OTHER: &str = "flows6_other";
    /// Next-hop index -> `NextHop`.
    pub const NEXT_HOPS: &str = "next_hops";
    /// Reason -> count, per CPU.
    pub const COUNTERS: &str = "counters";
    /// Space and prefix -> what is known of it ([`super::place`]); longest prefix match.
    pub const PLACES4: &str = "places4";
    /// Space and prefix -> what is known of it ([`super::place`]); longest prefix match.
    pub const PLACES6: &str = "places6";
    /// `AffinityKey<Addr4>` -> `Affinity`.
    pub const AFFINITY4: &str = "affinity4";
    /// `AffinityKey<Addr6>` -> `Affinity`.
    pub const AFFINITY6: &str = "affinity6";
    /// `SourceKey` -> `Source<Addr4>`.
    pub const SOURCES4: &str = "sources4";
    /// `SourceKey` -> `Source<Addr6>`.
    pub const SOURCES6: &str = "sources6";

    /// Position -> `Fragment<Addr4>`.
    pub const FRAGMENTS4: &str = "fragments4";
    /// Position -> `Fragment<Addr6>`.
    pub const FRAGMENTS6: &str = "fragments6";
    /// Buffer -> `HeldPiece`, of both families.
    pub const PIECES: &str = "pieces";
    /// 0 -> which proxy has what: [`super::takeover`].
    pub const TAKEOVER: &str = "takeover";
    /// Device -> itself, for devices that XDP may send by though a packet came by another one.
    pub const XDP_DEVICES: &str = "xdp_devices";
    /// Device -> 1, for host sides of pods' devices that nobody minds being passed by: [`super::NextHop::is_straight`].
    pub const PEER_DEVICES: &str = "peer_devices";
    /// Backend id -> how many connections it has, if they are counted ([`super::backend_flags::COUNTED`]): raised and lowered
    /// by the datapath, which does not see those that just go silent, and put right by the agent. So it may be off, even
    /// below 0, modulo 2^32.
    pub const CONNECTIONS4: &str = "connections4";
    /// The same for IPv6.
    pub const CONNECTIONS6: &str = "connections6";
    /// `DialledKey<Addr4>` -> `Dialled<Addr4>`, of which the kernel forgets the oldest; one entry where sockets are not met.
    pub const DIALLED4: &str = "dialled4";
    /// The same for IPv6.
    pub const DIALLED6: &str = "dialled6";

    /// 0 -> `TraceRecord`; not pinned.
    pub const TRACE_RECORD: &str = "trace_record";

    /// All that are pinned, in the order in which `fulcrum maps` lists them.
    pub const ALL: [&str; 25] = [
        SERVICES4,
        SERVICES6,
        SLOTS,
        BACKENDS4,
        BACKENDS6,
        FLOWS4,
        FLOWS6,
        NEXT_HOPS,
        COUNTERS,
        PLACES4,
        PLACES6,
        AFFINITY4,
        AFFINITY6,
        SOURCES4,
        SOURCES6,
        FRAGMENTS4,
        FRAGMENTS6,
        PIECES,
        TAKEOVER,
        XDP_DEVICES,
        PEER_DEVICES,
        CONNECTIONS4,
        CONNECTIONS6,
        DIALLED4,
        DIALLED6,
    ];
}

/// Entries of each table unless a flag says otherwise.
pub mod capacity {
    /// Frontends per family.
    pub const SERVICES: u32 = 65_536;
    /// Slots, both families together.
    pub const SLOTS: u32 = 1_048_576;
    /// Backends per family, id 0 included, which is never used.
    pub const BACKENDS: u32 = 262_144;
    /// Flow positions per family; a power of two. A connection takes two.
    pub const FLOWS: u32 = 262_144;
    /// Next hops; a power of two, at most 1,024 (ten bits of a flow's reference).
    pub const NEXT_HOPS: u32 = 1_024;
    /// Prefixes of pods, addresses of the node and source ranges, per family.
    pub const PLACES: u32 = 65_536;
    /// Addresses of devices that may stand in for clients', per family.
    pub const SOURCES: u32 = 4_096;
    /// Devices that XDP may send by.
    pub const XDP_DEVICES: u32 = 1_024;
    /// Host sides of pods' devices that packets may go past.
    pub const PEER_DEVICES: u32 = 4_096;
    /// Clients that affinity is remembered of, per family.
    pub const AFFINITY: u32 = 65_536;
    /// What sockets of the node's own have dialled, per family: one for a TCP connection, two for a service that a UDP socket
    /// sends to.
    pub const DIALLED: u32 = 65_536;
    /// Datagrams whose first fragment is remembered, per family; a power of two.
    pub const FRAGMENTS: u32 = 32_768;
    /// Fragments in one set of `pieces`: what one source can have kept.
    pub const PIECES_PER_SET: u32 = 64;
    /// Sets of `pieces`, both families together; 600 kB each.
    pub const PIECE_SETS: u32 = 8;
}
