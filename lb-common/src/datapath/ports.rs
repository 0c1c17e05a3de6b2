//! Everything the datapath asks of its host.

use bytemuck::Pod;

use super::{Route, Work, source::Tried};
use crate::{
    abi::{
        Affinity, AffinityKey, Backend, NextHop, NodeConfig, PieceKey, Reason, Service, ServiceKey,
        Source, SourceKey, next_hop::NextHopRef,
    },
    flow::{FlowKey, clock::Tick, table::Slots},
    hash::HashKey,
    net::{addr::Addr, crc32c, csum::Delta, ip::Ends, letter::Letter},
};

/// A packet as the datapath sees it: offsets count from the IP header.
///
/// The layer below it is the host's: it knows what stands before the IP header, and how the kernel
/// keeps checksums of packets whose sum the hardware has yet to make.
#[expect(
    clippy::len_without_is_empty,
    reason = "nobody asks: an empty one does not parse"
)]
pub trait Packet {
    /// Bytes from the IP header to the packet's end.
    fn len(&self) -> u32;
    /// True if it is seen at a glance that it has at least `len` bytes from the IP header on; else [`Packet::len`] says.
    #[inline(always)]
    fn holds(&self, len: u32) -> bool {
        len <= self.len()
    }
    /// Bytes of the largest packet that leaves, given that this one is `len` bytes long by its IP header and its headers
    /// take `headers` of them: less than `len` where segmentation offload cuts it up.
    fn segment_len(&self, len: u32, headers: u32) -> u32;
    /// Makes the first `len` bytes, or all, such that they can be read; where that fails, reading does.
    #[inline(always)]
    fn reach(&mut self, len: u32) {
        let _ = len;
    }
    /// Copies a header; `None`: the packet ends before it does.
    fn read<T: Pod>(&self, at: u32) -> Option<T>;
    /// Writes a header, or part of one.
    fn write<T: Pod>(&mut self, at: u32, value: T) -> Option<()>;
    /// What was written altered the sum over the whole packet, which the device may have left for the
    /// kernel to check.
    fn change_sum(&mut self, change: Delta);
    /// Brings the transport checksum at `at` up to date.
    ///
    /// `addresses` is what changed in the pseudo header, `header` what changed in the transport header
    /// itself; `zero_is_none`: a zero checksum stands for "none" and stays (UDP).
    fn update_checksum(
        &mut self,
        at: u32,
        addresses: Delta,
        header: Delta,
        zero_is_none: bool,
    ) -> Option<()>;
    /// [`crc32c::replace_first`]. A host may have it in a place of its own: it is a long calculation.
    #[inline(always)]
    fn replace_in_crc(check: u32, old: u32, new: u32, len: u32) -> u32 {
        crc32c::replace_first(check, old, new, len)
    }
    /// [`Letter::sum`]; likewise.
    #[inline(always)]
    fn sum(letter: &Letter, from: usize, len: u32) -> u64 {
        letter.sum(from, len)
    }
    /// Copies the first `len` bytes, which are not more than it has, into `words`; what is left of the last word
    /// keeps its value. `None`: they could not be read.
    fn copy(&self, words: &mut [u32], len: u32) -> Option<()>;
    /// Makes the first `len` bytes of `words` the whole packet. `None`: it could not be done, and what is
    /// left of the packet must be dropped.
    fn replace(&mut self, words: &[u32], len: u32) -> Option<()>;
}

/// What a device is to the node; fixed when the program is attached to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The host's side of a pod's device.
    Pod,
    /// A device that leads out of the node.
    Uplink,
    /// The far end of the pair by which the node's own processes send to service addresses.
    Host,
    /// The loopback device, on the way out: the node to its own addresses.
    Loopback,
    /// Any device on the way out: what the node's own processes answer.
    Egress,
}

impl Role {
    /// True if packets are met where they come in.
    #[inline(always)]
    pub fn is_ingress(self) -> bool {
        matches!(self, Self::Pod | Self::Uplink | Self::Host)
    }

    /// True if packets come from the node's own processes, which dialled.
    #[inline(always)]
    pub fn is_host(self) -> bool {
        matches!(self, Self::Host | Self::Loopback)
    }
}

/// What letting fragments in has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Released {
    /// There were none.
    None,
    /// There were some.
    Some,
    /// There were some, and the packet at hand was lost over them.
    Damaged,
}

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Traffic control: anything can be done.
    Tc,
    /// The driver: only packets that leave by a device which takes frames from drivers.
    Xdp,
}

/// The tables of one family, and the node's facts, clock and luck.
pub trait Tables<A: Addr> {
    /// The flow table's memory.
    type Slots: Slots<A>;
    /// One next hop's memory.
    type Hop: HopMemory;

    /// Where the program runs.
    const HOOK: Hook;
    /// True if the tables are only asked: no flow is opened or refreshed, nothing remembered.
    const DRY: bool = false;

    /// The role of the device that the packet came by.
    fn role(&self) -> Role;
    /// The device that the packet came by.
    fn ingress_ifindex(&self) -> u32;
    /// Load-time facts.
    fn node(&self) -> &NodeConfig;
    /// The node's address of this family; unspecified: it has none.
    fn node_addr(&self) -> A;
    /// The key under which Maglev services look packets up, the same on every node.
    fn maglev_key(&self) -> &HashKey;
    /// Flow positions minus one.
    fn flow_mask(&self) -> u32;
    /// The flow table's memory.
    fn slots(&self) -> &Self::Slots;
    /// The service at a frontend, copied; false: there is none.
    fn service(&self, key: &ServiceKey<A>, into: &mut Service) -> bool;
    /// Id and version of the service at a frontend.
    fn stamp(&self, key: &ServiceKey<A>) -> Option<(u32, u32)>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A backend, copied.
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// How many connections a backend has, modulo 2^32.
    fn connections(&self, id: u32) -> u32;
    /// Adds to that, modulo 2^32.
    fn add_connections(&self, id: u32, change: u32);
    /// What lies behind an address: [`crate::abi::place`], 0 where the table does not say.
    fn place(&self, addr: A) -> u32;
    /// True if a client of this address may pass a guard ([`crate::abi::place`]).
    fn allows(&self, guard: u32, client: A) -> bool;
    /// What a client was last given, copied; false: nothing.
    fn affinity(&self, key: &AffinityKey<A>, into: &mut Affinity) -> bool;
    /// Notes what a client is given; false: there was no room.
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) -> bool;
    /// An address of a device, copied; false: it has no such.
    fn source(&self, key: &SourceKey, into: &mut Source<A>) -> bool;
    /// True if the node itself has a connected socket that packets of this key are for.
    fn has_socket(&self, key: &FlowKey<A>) -> bool;
    /// Source of a pod's connection to itself; unspecified: there is none.
    fn hairpin_addr(&self) -> A;
    /// A next hop's memory.
    fn hop(&self, index: u32) -> Option<Self::Hop>;
    /// True if XDP may send the packet at hand by this device, another one than it came by; only XDP asks.
    fn may_redirect(&self, ifindex: u32) -> bool;
    /// True if packets may be handed to the other end of this device past this one; only TC asks.
    fn has_peer(&self, ifindex: u32) -> bool;
    /// Asks the kernel's FIB for the way of a packet of `len` L3 bytes to `ends.dst`, written to `hop` (stamp and
    /// validity aside), and which source the node prefers on it, written to `source`; unspecified where the
    /// kernel does not say.
    fn route(&self, ends: &Ends<A>, len: u32, hop: &mut NextHop, source: &mut A) -> Route;
    /// What the first fragment of this datagram has told: [`crate::fragment::record::find`].
    fn recall(&self, _key: &FlowKey<A>, _id: u32, _now: Tick) -> u64 {
        0
    }
    /// Notes the first fragment of a datagram: [`crate::fragment::record::note`].
    fn note(&self, _key: &FlowKey<A>, _id: u32, _now: Tick) {}
    /// Keeps a copy of the packet, a later fragment of this datagram: the [`crate::fragment::shelf::Claim`].
    fn hold<P: Packet>(&self, _packet: &P, _datagram: &PieceKey, _now: Tick) -> u64 {
        0
    }
    /// Gives up the copy that was kept by this claim; false: it is being let in at this moment.
    fn take_back(&self, _claim: u64) -> bool {
        false
    }
    /// Lets the fragments of this datagram that were kept come in again.
    fn release(&self, _datagram: &PieceKey, _now: Tick) -> Released {
        Released::None
    }
    /// Carries out [`super::remember`]; as with [`Tables::try_source`].
    #[inline(always)]
    fn remember(&self, hop: &NextHop, entry: &mut NextHop, now: Tick) -> NextHopRef
    where
        Self: Sized,
    {
        super::remember(self, hop, entry, now)
    }
    /// Carries out [`super::recollect`]; likewise.
    #[inline(always)]
    fn recollect(&self, hop: &NextHop, entry: &mut NextHop, now: Tick) -> NextHopRef
    where
        Self: Sized,
    {
        super::recollect(self, hop, entry, now)
    }
    /// Carries out [`super::try_source`]. A host may do so in a function of its own: in the kernel it is one that the
    /// verifier checks once, not anew for each candidate.
    #[inline(always)]
    fn try_source(&self, work: &mut Work<A>, original: u32) -> Tried
    where
        Self: Sized,
    {
        super::try_source(work, self, original)
    }
    /// Which proxy has what: [`crate::abi::takeover`].
    fn takeover(&self) -> u32;
    /// The coarse clock.
    fn now(&self) -> Tick;
    /// 32 random bits.
    fn random(&self) -> u32;
    /// Counts one event.
    fn count(&self, reason: Reason);
}

/// A next hop's memory, shared by all CPUs.
pub trait HopMemory: Copy {
    /// Copies the entry, its stamp first.
    fn read(self, into: &mut NextHop);
    /// Writes all but the stamp.
    fn write(self, hop: &NextHop);
    /// Moves the stamp from `old` to `new` if it is `old`; a full barrier. True: it was.
    fn exchange_stamp(self, old: u32, new: u32) -> bool;
    /// Prolongs the entry, whose neighbour takes packets of up to `mtu` bytes.
    fn prolong(self, valid_until: Tick, mtu: u32);
}
