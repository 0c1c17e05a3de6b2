//! Facts of the node that are fixed when the programs are loaded.

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// Load-time constants; the verifier sees their values and removes what they rule out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

const _: () = assert!(size_of::<NodeConfig>() == 128);
impl Plain for NodeConfig {}
