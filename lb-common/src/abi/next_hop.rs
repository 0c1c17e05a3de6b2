//! `next_hops`: where a packet goes after its rewrite; few and hot, flows point into it.
//!
//! Written and read by the datapath. An entry is one neighbour: device and both MACs. It is believed
//! until `valid_until`; the first packet after that asks the FIB and lets the kernel send, which
//! confirms the neighbour, so a gateway's failover is followed without the agent. A pod of this node
//! that packets are handed to past its device's host side needs no such confirmation.

use super::Plain;

/// One neighbour as the FIB named it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// `straight << 31 | generation << 1 | being written`; the only word of the table that is compared-and-exchanged.
    pub stamp: u32,
    /// Last tick ([`crate::flow::clock`]) at which the entry is believed.
    pub valid_until: u32,
    /// Device to send by; 0: the entry was never used.
    pub ifindex: u32,
    /// Largest packet, L3 bytes, that the route takes.
    pub mtu: u32,
    /// The neighbour's MAC and the device's own, as the first twelve bytes of an Ethernet header stand in
    /// memory. All zero where the device has none: the kernel then takes the header off again.
    pub macs: [u32; 3],
}

impl NextHop {
    /// The bit of the stamp that [`NextHop::is_straight`] tells. Beside the generation, where programs which do not know it
    /// look at nothing.
    pub const STRAIGHT: u32 = 1 << 31;

    /// True if what comes in may be handed to the other end of the device, in a pod's network namespace, past this end.
    #[inline(always)]
    pub fn is_straight(&self) -> bool {
        self.stamp & Self::STRAIGHT != 0
    }

    /// Both MACs, the neighbour's and the device's own, as an entry keeps them.
    #[expect(
        clippy::many_single_char_names,
        reason = "bytes in a row have no other names"
    )]
    pub fn join_macs(dst: [u8; 6], src: [u8; 6]) -> [u32; 3] {
        let [a, b, c, d, e, f] = dst;
        let [g, h, i, j, k, l] = src;
        [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
    }

    /// The neighbour's MAC and the device's own.
    #[expect(
        clippy::many_single_char_names,
        reason = "bytes in a row have no other names"
    )]
    pub fn split_macs(&self) -> ([u8; 6], [u8; 6]) {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l]] = self.macs.map(u32::to_ne_bytes);
        ([a, b, c, d, e, f], [g, h, i, j, k, l])
    }
}

const _: () = assert!(size_of::<NextHop>() == 28);
impl Plain for NextHop {}

/// A flow's reference to a next hop: ten bits of index, six of generation. Index 0 is no entry: its references
/// are the ways that need none.
///
/// The generation keeps a flow from using an entry that was given to another neighbour.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopRef(u16);

impl NextHopRef {
    /// No next hop is known.
    pub const NONE: Self = Self(0);
    /// The packet's own way through the stack: at ingress up to the host's sockets, at egress on its way out.
    pub const STACK: Self = Self(1 << 10);
    /// The host's stack, by the ingress of the device that is made for it ([`super::NodeConfig::host_ifindex`]):
    /// it takes sources there that it would refuse elsewhere.
    pub const HOST: Self = Self(2 << 10);
    /// Largest index.
    pub const INDEX_MASK: u32 = 0x3ff;

    /// A reference to `index` at `generation` (taken modulo 64).
    #[inline(always)]
    pub fn new(index: u32, generation: u32) -> Self {
        Self(((generation & 0x3f) << 10 | index & 0x3ff) as u16)
    }

    /// The reference as a flow slot keeps it.
    #[inline(always)]
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The 16 bits that a flow slot keeps.
    #[inline(always)]
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Position in the table.
    #[inline(always)]
    pub fn index(self) -> u32 {
        u32::from(self.0) & 0x3ff
    }

    /// True if it refers to an entry of the table.
    #[inline(always)]
    pub fn is_neighbour(self) -> bool {
        self.0 & 0x3ff != 0
    }

    /// True if the entry's stamp is the one that the reference was made for, and not being written.
    #[inline(always)]
    pub fn matches(self, stamp: u32) -> bool {
        stamp & 1 == 0 && (stamp >> 1) & 0x3f == u32::from(self.0) >> 10
    }
}
