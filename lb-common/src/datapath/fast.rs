//! The fast path: a packet of a connection in progress, in one go.
//!
//! Most packets are such: headers without anything special, a flow at home in the table, nothing that begins or ends, a
//! next hop that is believed. They take one line of the flow table and one of the next hops, and what is known of them stays
//! in registers. Any other packet is left as it is, to [`super::glance`], which knows all cases: what this one
//! does with a packet is what that one would have done.

use super::{
    Decision, Hook, Packet, Progress, Role, Tables, Via, Work, deliver, follow,
    parse::{self, Parsed, Plain},
    rewrite,
};
use crate::{
    abi::{Reason, node::features},
    flow::{
        Direction, Rewrite,
        slot::{SlotFlags, State},
        table::{FlowTable, Found, Slots},
    },
    net::{addr::Addr, ip::proto},
};

/// Reads the headers, and carries the packet through if it is one of those.
#[inline(never)]
pub(super) fn forward<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    work.now = tables.now();
    if let Some(plain) = Plain::read(packet) {
        // Now already: who reads in one word what was just written in parts waits until it is in the cache.
        work.key = plain.key;
        // Who only asks has time. On their way out few packets are anybody's.
        if !T::DRY
            && plain.tcp.goes_on()
            && tables.role() != Role::Egress
            && let Some(progress) = at_home(packet, tables, work, &plain)
        {
            return progress;
        }
        plain.keep(work);
        return Progress::Read;
    }
    match parse::parse(packet, work) {
        Ok(Parsed::Ports) => Progress::Read,
        Ok(Parsed::Icmp) => Progress::Icmp,
        Err(reason) => super::carry_out(Decision::Pass(reason), packet, tables, work),
    }
}

/// `None`: nothing was done.
#[inline(always)]
fn at_home<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    plain: &Plain<A>,
) -> Option<Progress> {
    let Plain {
        key,
        ip,
        segment_len,
        ..
    } = plain;
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), tables.node(), work.now);
    let (found, flags) = table.at_home(key)?;
    let next_hop = found.slot.next_hop();
    let goes = is_settled::<A, T>(&found, flags)
        && table.is_fresh(&found)
        && is_served(tables, &found, key.proto, flags)
        && next_hop.is_neighbour()
        && deliver::is_believed(tables, next_hop, &mut work.hop, work.now)
        && deliver::takes(tables, &work.hop)
        && deliver::has_hops(tables, ip.ttl)
        && !deliver::is_too_big(&work.hop, *segment_len);
    if !goes {
        return None;
    }
    let mut new = Rewrite::default();
    found.slot.rewrite(&mut new);
    if !table.is_still(&found) {
        return None;
    }
    found.slot.count(ip.len);
    found.slot.see(work.now);
    follow::count_xdp(tables);
    let hops = super::hops(Via::Neighbour, tables.role());
    if rewrite::rewrite(packet, key, ip, &new, hops).is_none() {
        tables.count(Reason::DropEdit);
        return Some(Progress::Dropped);
    }
    tables.count(follow::hit(flags.direction()));
    Some(Progress::Sent)
}

/// True if a packet with which nothing begins or ends changes nothing of the flow, and may be sent from here.
#[inline(always)]
fn is_settled<A: Addr, T: Tables<A>>(
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
    flags: SlotFlags,
) -> bool {
    let is_original = flags.direction() == Direction::Original;
    // TC delivers to this node's own pods.
    if !flags.is_plain() || T::HOOK == Hook::Xdp && is_original && flags.local() {
        return false;
    }
    match found.word.state() {
        State::Established => true,
        State::HalfOpen => is_original && !flags.answered(),
        _ => false,
    }
}

/// False if the backend no longer serves, and the packet is not to follow it.
#[inline(always)]
fn is_served<A: Addr, T: Tables<A>>(
    tables: &T,
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
    protocol: u8,
    flags: SlotFlags,
) -> bool {
    let leaves = if protocol == proto::UDP {
        flags.direction() == Direction::Original
    } else {
        tables.node().features & features::RESET_GONE != 0
    };
    !leaves || !follow::is_gone(tables, found.slot.backend())
}
