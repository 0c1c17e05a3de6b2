//! Facts of the node that are fixed when the programs are loaded.

use super::{Plain, capacity};
use crate::{
    flow::clock::{Lifetimes, Timeouts},
    net::addr::{Addr4, Addr6},
};

/// Load-time constants; the verifier sees their values and removes what they rule out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Secret of the flow hash, one per node, kept over restarts as long as the flow tables live.
    pub hash_key: [u32; 12],
    /// IPv4 flow positions minus one; the number is a power of two.
    pub flow_mask4: u32,
    /// IPv6 flow positions minus one; the number is a power of two.
    pub flow_mask6: u32,
    /// The node's IPv4 address, source of masqueraded flows; zero: this node has none.
    pub addr4: Addr4,
    /// The node's IPv6 address, source of masqueraded flows; zero: this node has none.
    pub addr6: Addr6,
    /// First source port that masquerading may take besides the client's own, host byte order.
    pub snat_port_base: u32,
    /// Number of such ports; 0: only the client's own.
    pub snat_port_count: u32,
    /// Device at whose ingress the host's own stack is given what it shall receive or do; 0: none.
    pub host_ifindex: u32,
    /// Ethernet addresses of what is given to it there, as in [`super::NextHop::macs`].
    pub host_macs: [u32; 3],
    /// Flags for `bpf_fib_lookup`: `BPF_FIB_LOOKUP_SRC` (Linux 6.7) where the kernel names the preferred source.
    pub fib_flags: u32,
    /// Source of a pod's connection to itself, an IPv4 address that nobody has; zero: none.
    pub hairpin4: Addr4,
    /// Source of a pod's connection to itself, an IPv6 address that nobody has; zero: none.
    pub hairpin6: Addr6,
    /// When a client's source address gives way to one of this node's: see [`masquerade`].
    pub masquerade: u32,
    /// What is switched on: see [`features`].
    pub features: u32,
    /// How long a flow lives after its last packet, in ticks, by [`crate::flow::clock::row`].
    pub lifetimes: Lifetimes,
    /// While the flow table grows: positions minus one of the other IPv4 table; 0: there is none.
    pub other_mask4: u32,
    /// The same for IPv6.
    pub other_mask6: u32,
    /// Sets of buffers for fragments that come before their first one; 0: none is kept.
    pub piece_sets: u32,
}

impl NodeConfig {
    /// A node of which nothing is known but how long its flows live.
    pub const DEFAULT: Self = Self {
        hash_key: [0; 12],
        flow_mask4: 0,
        flow_mask6: 0,
        addr4: Addr4 { be32: 0 },
        addr6: Addr6 { be32: [0; 4] },
        snat_port_base: 0,
        snat_port_count: 0,
        host_ifindex: 0,
        host_macs: [0; 3],
        fib_flags: 0,
        hairpin4: Addr4 { be32: 0 },
        hairpin6: Addr6 { be32: [0; 4] },
        masquerade: masquerade::AS_NEEDED,
        features: 0,
        lifetimes: Timeouts::DEFAULT.lifetimes(),
        other_mask4: 0,
        other_mask6: 0,
        piece_sets: capacity::PIECE_SETS,
    };
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bits of [`NodeConfig::features`].
pub mod features {
    use crate::net::addr::Family;

    /// Echo requests to service addresses are answered.
    pub const ECHO: u32 = 1 << 0;
    /// TCP connections whose backend serves no more are reset.
    pub const RESET_GONE: u32 = 1 << 1;
    /// The flow table is growing, or another proxy's connections are taken over: TCP in the middle of an unknown
    /// connection is dropped, since its retransmit may find the flow, and not reset.
    pub const SETTLING: u32 = 1 << 2;
    /// New connections are forwarded by the stack ([`crate::datapath`], `leave`).
    pub const FORWARD_STACK: u32 = 1 << 3;
    /// Some connections are: what was forwarded is looked at on its way out.
    pub const LEAVING: u32 = 1 << 4;
    /// The slots of the IPv4 flow table have the former layout ([`crate::abi::former`]).
    pub const FORMER4: u32 = 1 << 5;
    /// The same for IPv6.
    pub const FORMER6: u32 = 1 << 6;
    /// The same for the other table, while one takes its place.
    pub const FORMER_OTHER: u32 = 1 << 7;

    /// [`FORMER4`] or [`FORMER6`].
    pub const fn former(family: Family) -> u32 {
        match family {
            Family::V4 => FORMER4,
            Family::V6 => FORMER6,
        }
    }
}

/// Values of [`NodeConfig::masquerade`].
pub mod masquerade {
    /// Where the answers would not come back through this node otherwise.
    pub const AS_NEEDED: u32 = 0;
    /// Exactly where kube-proxy does it.
    pub const KUBE_PROXY: u32 = 1;
    /// Exactly where kube-proxy does it with `--masquerade-all`: to `ClusterIP`s always.
    pub const ALL: u32 = 2;
}

const _: () = assert!(size_of::<NodeConfig>() == 208);
impl Plain for NodeConfig {}
