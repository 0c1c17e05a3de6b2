//! Which source address and port a connection leaves with, if its own are not free towards the backend.
//!
//! A port is taken as long as a flow to the same backend has it, and rests for as long as the backend may remember the
//! connection (TIME-WAIT): a new one from the same port would look like an old segment of it and be dropped there
//! (PAWS, RFC 7323 section 5). One port serves many backends. What is free is asked of the flow table, by reserving the
//! reply's slot; here is only the order in which candidates are proposed.

use super::{Tables, Work};
use crate::{
    abi::{ServiceKey, SourceKey, takeover},
    flow::{
        reserve::Reserved,
        table::{FlowTable, Refusal, Rest},
    },
    net::addr::Addr,
};

/// The search for a source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<A> {
    /// The address of the first choice.
    pub preferred: A,
    /// One: it is one of the node's, and its others may stand in for it. Else zero.
    pub is_node: u32,
    /// Not zero: its port is one of [`takeover::APART_PORTS`], if one is free.
    pub is_apart: u32,
    /// How many candidates were tried.
    pub attempt: u32,
    /// The reply's slot, once it is reserved.
    pub reserved: Reserved,
    /// Which further address is tried first.
    pub first: u32,
    /// Goes through the ports, from one packet to the next, so that the one that was used last comes last.
    pub cursor: u32,
}

/// Where a candidate comes from.
#[derive(Clone, Copy)]
struct Kind {
    /// Another of the node's addresses than the preferred one.
    further: bool,
    /// A port of the range for that, and not the client's own.
    ranged: bool,
}

/// Candidates, in this order: the client's own port; ports of the range; the same for further addresses.
const OWN: u32 = 0;
/// The last port of the range at the preferred address.
const RANGED: u32 = 3;
/// The last further address with the client's own port.
const FURTHER: u32 = 11;
/// The last candidate at all that has rested.
const RESTED: u32 = 16;
/// How many candidates there are: last some that still rest.
pub(super) const CANDIDATES: u32 = 20;

/// The client's own port, as [`Search::attempt`] counts after it.
pub(super) const FIRST: u32 = 1;

/// True if the candidate that was tried as the `attempt`th may be taken before its rest is over, since no other was free.
#[inline(always)]
pub(super) fn is_unrested(attempt: u32) -> bool {
    attempt > RESTED + 1
}

#[inline(always)]
fn kind(attempt: u32) -> Kind {
    Kind {
        further: attempt > RANGED && attempt <= RESTED,
        ranged: attempt != OWN && attempt != RESTED + 1 && (attempt <= RANGED || attempt > FURTHER),
    }
}

/// Begins a search. Asked here what is asked of the program's role: [`try_source`] is one function for all programs.
#[inline(always)]
pub(super) fn begin<A: Addr, T: Tables<A>>(search: &mut Search<A>, tables: &T) {
    // Nothing branches here: the verifier would follow both ways through all that comes after.
    let is_the_nodes = search.is_node | u32::from(tables.role().is_host());
    search.is_apart = is_the_nodes & (tables.takeover() / takeover::APART) & 1;
    search.attempt = 0;
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is not free, or there is no such.
    Taken,
    /// It is; [`Search::reserved`] is the reply's slot.
    Reserved,
    /// The flow table has no place.
    Full,
    /// Another CPU is at it.
    Busy,
}

/// What became of a candidate, in one word: it crosses a call in the BPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried(pub u32);

impl Tried {
    /// The flow table changes at this moment.
    pub const BUSY: Self = Self::new(Attempt::Busy);

    #[inline(always)]
    const fn new(attempt: Attempt) -> Self {
        Self(match attempt {
            Attempt::Taken => 0,
            Attempt::Reserved => 1,
            Attempt::Full => 2,
            Attempt::Busy => 3,
        })
    }

    #[inline(always)]
    pub(super) fn attempt(self) -> Attempt {
        match self.0 {
            0 => Attempt::Taken,
            1 => Attempt::Reserved,
            2 => Attempt::Full,
            _ => Attempt::Busy,
        }
    }
}

/// Tries the next candidate for the flow whose original direction's slot is at `original`.
#[inline(always)]
pub fn try_source<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, original: u32) -> Tried {
    Tried::new(attempt(work, tables, original))
}

#[inline(always)]
fn attempt<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, original: u32) -> Attempt {
    let rest = if is_unrested(work.search.attempt + 1) {
        Rest::Broken
    } else {
        Rest::Kept
    };
    if !propose(work, tables) {
        return Attempt::Taken;
    }
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    work.search.reserved = table.answer(&work.key, &mut work.flow, original, rest);
    match work.search.reserved.claim() {
        Err(Refusal::ReplyTaken) => Attempt::Taken,
        Err(Refusal::Full) => Attempt::Full,
        Err(Refusal::Busy) => Attempt::Busy,
        Ok(reply) if is_the_nodes(work, tables) => {
            table.give_back(reply);
            Attempt::Taken
        }
        Ok(_) => Attempt::Reserved,
    }
}

/// Writes the next candidate into the flow to be; false: there is no such.
///
/// A call of its own in the BPF object: what it keeps on the stack is not in the way of the calls that reserve a slot.
#[inline(never)]
fn propose<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> bool {
    let node = tables.node();
    let (mut base, mut count) = (node.snat_port_base, node.snat_port_count);
    let search = &mut work.search;
    let attempt = search.attempt;
    search.attempt = attempt + 1;
    let Kind {
        mut further,
        mut ranged,
    } = kind(attempt);
    if further && search.is_node == 0 {
        return false;
    }
    // A port that the other proxy might give away as well is better than none.
    if attempt > RESTED {
        search.is_apart = 0;
    }
    if search.is_apart != 0 {
        (base, count) = takeover::APART_PORTS;
        ranged = true;
    }
    let ifindex = work.hop.ifindex;
    let source = &mut work.spare;
    let is_elsewhere = further;
    if further && (!tables.source(&SourceKey { ifindex, at: 0 }, source) || source.count < 2) {
        // There are none: more ports of the range take their places.
        (further, ranged) = (false, true);
    }
    if ranged && count == 0 {
        return false;
    }
    let rewrite = &mut work.flow.rewrite;
    rewrite.ends.src = search.preferred;
    rewrite.sport = work.key.sport;
    if !ranged && !further {
        return true;
    }
    if ranged {
        // Each CPU goes its own way round. Where that leads through what another has taken, it goes on elsewhere.
        if search.cursor == 0 || is_elsewhere {
            search.cursor = tables.random();
        }
        search.cursor = search.cursor.wrapping_add(1);
        let place = search.cursor.checked_rem(count).unwrap_or_default();
        rewrite.sport = base.wrapping_add(place) as u16;
    }
    if !further {
        return true;
    }
    // One after the other, so that each is tried once, from a random one on, so that all are used alike.
    if attempt == RANGED + 1 {
        search.first = tables.random();
    }
    let at = search.first.wrapping_add(attempt).checked_rem(source.count);
    let at = at.unwrap_or_default();
    if !tables.source(&SourceKey { ifindex, at }, source) {
        return false;
    }
    work.flow.rewrite.ends.src = work.spare.addr;
    true
}

/// True if the candidate is the node's in another way: a node port, or a socket that talks to the backend itself.
#[inline(always)]
fn is_the_nodes<A: Addr, T: Tables<A>>(work: &Work<A>, tables: &T) -> bool {
    if work.search.is_node == 0 && work.search.is_apart == 0 {
        return false;
    }
    let rewrite = &work.flow.rewrite;
    let frontend = ServiceKey::new(rewrite.ends.src, rewrite.sport, work.key.proto);
    tables.stamp(&frontend).is_some() || tables.has_socket(&work.flow.reply)
}
