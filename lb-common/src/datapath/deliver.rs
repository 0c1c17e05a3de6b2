//! Where a packet goes after its rewrite: the next hop that its flow knows, or what the FIB says.

use super::{Hook, HopMemory, Tables, Via, Work};
use crate::{
    abi::{NextHop, Reason, next_hop::NextHopRef, place},
    flow::{
        Direction,
        clock::{NEXT_HOP_IDLE, NEXT_HOP_VALID, Tick, age},
    },
    hash,
    net::addr::Addr,
};

/// Places where a neighbour's entry may be.
const PROBES: u32 = 4;

/// What the kernel's FIB says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A neighbour whose MAC is known.
    Neighbour,
    /// The way is known, the neighbour's MAC is not; `mtu` is 0, but for a packet larger than the way takes.
    Unresolved,
    /// No route, or one that does not forward.
    None,
}

/// The way by the next hop that a flow remembers, while it is believed.
///
/// # Errors
/// The reason to drop, or at XDP to leave the packet to TC.
#[inline(always)]
pub(super) fn known<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    next_hop: NextHopRef,
) -> Option<Result<Via, Reason>> {
    if !next_hop.is_neighbour() {
        return to_stack(T::HOOK, next_hop);
    }
    is_believed(tables, next_hop, &mut work.hop, work.now)
        .then(|| fits(work, tables, Via::Neighbour))
}

/// Copies the neighbour that a flow remembers; true: it is believed.
#[inline(always)]
pub(super) fn is_believed<A: Addr, T: Tables<A>>(
    tables: &T,
    next_hop: NextHopRef,
    hop: &mut NextHop,
    now: Tick,
) -> bool {
    let Some(memory) = tables.hop(next_hop.index()) else {
        return false;
    };
    memory.read(hop);
    next_hop.matches(hop.stamp) && age(now, hop.valid_until) == 0
}

/// The way of what the host's stack receives; XDP leaves it to TC.
#[inline(always)]
fn to_stack(hook: Hook, next_hop: NextHopRef) -> Option<Result<Via, Reason>> {
    let via = match next_hop {
        NextHopRef::STACK => Via::Stack,
        NextHopRef::HOST => Via::Host,
        _ => return None,
    };
    Some(match hook {
        Hook::Tc => Ok(via),
        Hook::Xdp => Err(Reason::PassToTc),
    })
}

/// Notes the way to a backend that is this node itself, if it is.
///
/// On its own way the packet stays on the device that it came by, so that the host's own filters see what they
/// always saw. A source that the stack refuses there comes by the host's device: one of the node's own, or a
/// service address.
#[inline(always)]
pub(super) fn is_here<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    direction: Direction,
) -> bool {
    if tables.place(work.flow.rewrite.ends.dst) != place::NODE {
        return false;
    }
    work.flow.next_hop = if tables.role().is_host() || direction == Direction::Reply {
        NextHopRef::HOST
    } else {
        NextHopRef::STACK
    };
    true
}

/// The way by the FIB, for the first packet after a next hop's time is up, or of a new flow; notes the
/// next hop in the flow.
///
/// At TC the packet goes through the kernel's neighbour table even where the MAC is known: that keeps
/// the neighbour confirmed without anybody's help. A pod that packets are handed to past its device's host side takes
/// them by whatever MAC, so its neighbour need not be. A call of its own in the BPF object: the query takes much of a
/// stack frame.
///
/// # Errors
/// The reason to drop, or at XDP to leave the packet to TC.
#[inline(never)]
pub(super) fn resolve<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    direction: Direction,
) -> Result<Via, Reason> {
    work.flow.next_hop = NextHopRef::NONE;
    let Work {
        flow,
        hop,
        source,
        segment_len,
        ..
    } = work;
    let route = tables.route(&flow.rewrite.ends, *segment_len, hop, source);
    if route == Route::None {
        // The FIB does not tell an address of the node's own from one that nobody has.
        let here = is_here(work, tables, direction);
        return to_stack(T::HOOK, work.flow.next_hop)
            .filter(|_| here)
            .unwrap_or(Err(leave_or(T::HOOK, Reason::DropNoRoute)));
    }
    // A backend that is itself routed to the services: its packets would come back for ever, since no hop is
    // taken off what the host sends.
    if work.hop.ifindex == tables.node().host_ifindex {
        return Err(leave_or(T::HOOK, Reason::DropNoRoute));
    }
    let via = fits(work, tables, Via::Kernel)?;
    match (T::HOOK, route) {
        // Only TC remembers: its packets are the ones that confirm the neighbour. So the first one to a neighbour within
        // its time is left to TC, whichever flow's it is.
        (Hook::Xdp, Route::Neighbour) => {
            work.flow.next_hop = tables.recollect(&work.hop, &mut work.entry, work.now);
            if work.flow.next_hop == NextHopRef::NONE {
                return Err(Reason::PassToTc);
            }
            return Ok(Via::Neighbour);
        }
        (Hook::Xdp, _) => return Err(Reason::PassToTc),
        (Hook::Tc, Route::Neighbour) if !T::DRY => {
            work.hop.stamp = if tables.has_peer(work.hop.ifindex) {
                NextHop::STRAIGHT
            } else {
                0
            };
            work.hop.valid_until = work.now.wrapping_add(NEXT_HOP_VALID);
            work.flow.next_hop = tables.remember(&work.hop, &mut work.entry, work.now);
            // By the device it would wait in a queue there, and the next one would overtake it.
            if via == Via::Kernel && work.hop.is_straight() && tables.role().is_ingress() {
                tables.count(Reason::Resolved);
                return Ok(Via::Neighbour);
            }
        }
        (Hook::Tc, _) => {}
    }
    tables.count(Reason::Resolved);
    Ok(via)
}

/// Checks what the packet must satisfy to leave by the next hop; `via`, or the stack's way if it must be cut.
#[inline(always)]
fn fits<A: Addr, T: Tables<A>>(work: &Work<A>, tables: &T, via: Via) -> Result<Via, Reason> {
    if !takes(tables, &work.hop) {
        return Err(Reason::PassToTc);
    }
    if !has_hops(tables, work.ip.ttl) {
        return Err(leave_or(T::HOOK, Reason::DropTtl));
    }
    if !is_too_big(&work.hop, work.segment_len) {
        return Ok(via);
    }
    if T::HOOK == Hook::Tc && work.ip.may_fragment && tables.node().host_ifindex != 0 {
        tables.count(Reason::Fragmented);
        return Ok(Via::Host);
    }
    Err(leave_or(T::HOOK, Reason::DropTooBig))
}

/// True if the next hop's device takes packets from here.
#[inline(always)]
pub(super) fn takes<A: Addr, T: Tables<A>>(tables: &T, hop: &NextHop) -> bool {
    T::HOOK == Hook::Tc
        || hop.ifindex == tables.ingress_ifindex()
        || tables.may_redirect(hop.ifindex)
}

/// True if a packet of this TTL goes further than here.
#[inline(always)]
pub(super) fn has_hops<A: Addr, T: Tables<A>>(tables: &T, ttl: u8) -> bool {
    ttl > 1 || tables.role().is_host()
}

/// True if a packet of `len` L3 bytes is more than the way takes.
#[inline(always)]
pub(super) fn is_too_big(hop: &NextHop, len: u32) -> bool {
    hop.mtu != 0 && len > hop.mtu
}

/// What TC drops XDP leaves to TC, untouched.
#[inline(always)]
fn leave_or(hook: Hook, drop: Reason) -> Reason {
    match hook {
        Hook::Xdp => Reason::PassToTc,
        Hook::Tc => drop,
    }
}

/// Notes the neighbour that the FIB has just named: what a flow remembers it by. `entry` is room to work in.
///
/// An entry belongs to one neighbour until nobody has asked for it for a minute; then another may
/// have it, with a new generation, so that flows which still point at it notice.
#[inline(always)]
pub fn remember<A: Addr, T: Tables<A>>(
    tables: &T,
    hop: &NextHop,
    entry: &mut NextHop,
    now: Tick,
) -> NextHopRef {
    let start = hash::finish(identity(hop)) as u32;
    for probe in 0..PROBES {
        let index = index_of(start, probe);
        let Some(memory) = tables.hop(index) else {
            continue;
        };
        memory.read(entry);
        if entry.stamp & 1 != 0 {
            continue;
        }
        if same_neighbour(entry, hop) {
            let changed = (entry.stamp ^ hop.stamp) & NextHop::STRAIGHT;
            if changed != 0 {
                // Refused, if another CPU has done it.
                memory.exchange_stamp(entry.stamp, entry.stamp ^ changed);
            }
            memory.prolong(hop.valid_until, hop.mtu);
            return NextHopRef::new(index, entry.stamp >> 1);
        }
        let free = entry.ifindex == 0 || age(now, entry.valid_until) > NEXT_HOP_IDLE;
        if !free || !memory.exchange_stamp(entry.stamp, entry.stamp | 1) {
            continue;
        }
        memory.write(hop);
        let generation = (entry.stamp >> 1).wrapping_add(1) & 0x3f;
        let straight = hop.stamp & NextHop::STRAIGHT;
        memory.exchange_stamp(entry.stamp | 1, straight | generation << 1);
        return NextHopRef::new(index, generation);
    }
    NextHopRef::NONE
}

/// The entry of the neighbour that the FIB has just named, if it is believed: what another flow has it from.
#[inline(always)]
pub fn recollect<A: Addr, T: Tables<A>>(
    tables: &T,
    hop: &NextHop,
    entry: &mut NextHop,
    now: Tick,
) -> NextHopRef {
    let start = hash::finish(identity(hop)) as u32;
    for probe in 0..PROBES {
        let index = index_of(start, probe);
        let Some(memory) = tables.hop(index) else {
            continue;
        };
        memory.read(entry);
        let is_believed = entry.stamp & 1 == 0 && age(now, entry.valid_until) == 0;
        if is_believed && same_neighbour(entry, hop) {
            return NextHopRef::new(index, entry.stamp >> 1);
        }
    }
    NextHopRef::NONE
}

/// Where the entry of a neighbour may be. Index 0 stands for the ways that need no entry.
#[inline(always)]
fn index_of(start: u32, probe: u32) -> u32 {
    (start.wrapping_add(probe) & NextHopRef::INDEX_MASK).max(1)
}

#[inline(always)]
fn same_neighbour(a: &NextHop, b: &NextHop) -> bool {
    let ([a0, a1, a2], [b0, b1, b2]) = (a.macs, b.macs);
    (a.ifindex ^ b.ifindex) | (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) == 0
}

#[inline(always)]
fn identity(hop: &NextHop) -> u64 {
    let [a, b, c] = hop.macs;
    (u64::from(a) << 32 | u64::from(b)) ^ (u64::from(c) << 24 ^ u64::from(hop.ifindex))
}
