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
}

const _: () = assert!(size_of::<NodeConfig>() == 84);
impl Plain for NodeConfig {}
