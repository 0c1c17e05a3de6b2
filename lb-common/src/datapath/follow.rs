//! A packet of a known flow: one slot, at most one backend, one rewrite, a next hop.

use super::{Decision, Hook, Role, Tables, Via, Work, deliver};
use crate::{
    abi::{NextHop, Reason, backend_flags, next_hop::NextHopRef, node::features, takeover},
    flow::{
        Direction,
        clock::{STREAM, age},
        slot::{BackendRef, SlotFlags, State},
        table::{FlowTable, Found, Slots},
        tcp::{self, Heard},
    },
    net::{addr::Addr, ip::proto},
};

/// What following a flow comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Followed {
    /// The packet's fate is known.
    Decided(Decision),
    /// The slot was given to another connection while it was read, or is that of an ended one: a miss after all.
    Missed,
    /// This packet begins a new connection in the flow's place.
    Lost,
}

/// What to do with a packet that begins a new connection in the place of a known flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnLoss {
    /// Say so.
    OpenAnew,
    /// Follow the flow all the same: nobody else serves.
    Stay,
}

/// Decides about a packet whose flow was found.
#[inline(always)]
pub(super) fn follow<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
    on_loss: OnLoss,
) -> Followed {
    let flags = found.slot.flags();
    let direction = flags.direction();
    if T::HOOK == Hook::Xdp && flags.local() && direction == Direction::Original {
        return Followed::Decided(Decision::Pass(Reason::PassToTc));
    }
    let backend = found.slot.backend();
    let next_hop = found.slot.next_hop();
    // On the way out only what the host itself answers is not yet what it should be, or what the stack has forwarded
    // ([`super::leave`]). By any other device an answer of the host's own is forged: the stack would refuse its source,
    // and must not be helped.
    let is_out =
        next_hop == NextHopRef::STACK && (direction == Direction::Reply) != flags.leaving();
    if (tables.role() == Role::Egress) != is_out {
        return Followed::Decided(Decision::Pass(Reason::PassNoService));
    }
    if on_loss == OnLoss::OpenAnew
        && direction == Direction::Original
        && opens_anew(work, tables, table, found)
    {
        return Followed::Lost;
    }
    if ends_with_backend(work, tables, flags) && is_gone(tables, backend) {
        if !T::DRY {
            table.advance(found, State::Closed);
        }
        return Followed::Decided(Decision::Reject(Reason::RejectBackendGone));
    }
    if direction == Direction::Reply && work.tcp.accepts() && accepts_another(table, found) {
        if !T::DRY {
            table.retire(found, &work.key);
        }
        return Followed::Missed;
    }
    found.slot.rewrite(&mut work.flow.rewrite);
    if !table.is_still(found) {
        return Followed::Missed;
    }
    let way = deliver::known(work, tables, next_hop).unwrap_or_else(|| {
        // TC asks the FIB, and lets the kernel confirm the neighbour; XDP goes on with what TC has noted, of this flow or
        // another one.
        if T::HOOK == Hook::Xdp && next_hop != NextHopRef::NONE {
            return Err(Reason::PassToTc);
        }
        let way = deliver::resolve(work, tables, direction);
        if !T::DRY {
            found
                .slot
                .replace_next_hop(backend, next_hop, work.flow.next_hop);
        }
        way
    });
    if T::DRY {
        if way.is_err() {
            work.hop = NextHop::default();
        }
        let via = way.unwrap_or(Via::Kernel);
        return Followed::Decided(Decision::Send(hit(direction), via));
    }
    let via = match way {
        Ok(via) => via,
        Err(reason) => return Followed::Decided(refuse(reason)),
    };
    note(work, tables, table, found, flags);
    count_xdp(tables);
    Followed::Decided(Decision::Send(hit(direction), via))
}

/// Takes note of a packet of another proxy's connection, which goes on untouched; true: it begins a new one in its place.
///
/// What the node itself sends comes here only if connection tracking does not know the connection (any more).
#[inline(always)]
pub(super) fn begins_anew<A: Addr, T: Tables<A>>(
    work: &Work<A>,
    tables: &T,
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
    on_loss: OnLoss,
) -> bool {
    found.slot.set_last_seen(work.now);
    if found.slot.flags().direction() == Direction::Reply || on_loss == OnLoss::Stay {
        return false;
    }
    let is_new = if proto::has_connections(work.key.proto) {
        work.tcp.opens() && found.word.state() != State::HalfOpen
    } else {
        is_gone(tables, found.slot.backend())
    };
    (is_new || tables.role().is_host()) && tables.takeover() & takeover::TO == 0
}

#[inline(always)]
pub(super) fn hit(direction: Direction) -> Reason {
    match direction {
        Direction::Original => Reason::HitOriginal,
        Direction::Reply => Reason::HitReply,
    }
}

/// True if this packet begins a new connection in the place of the one that was found.
///
/// TCP and SCTP: a SYN on a connection that is ending, has ended, or was refused; or that was never answered and whose
/// backend no longer serves. UDP: the backend no longer serves, so the client moves on with this packet.
#[inline(always)]
fn opens_anew<A: Addr, T: Tables<A>>(
    work: &Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
) -> bool {
    if !proto::has_connections(work.key.proto) {
        return !found.slot.flags().leaving() && is_gone(tables, found.slot.backend());
    }
    if !work.tcp.opens() {
        return false;
    }
    if found.word.state() != State::HalfOpen || found.slot.flags().reset() {
        return found.word.state() != State::Established;
    }
    is_gone(tables, found.slot.backend()) && !table.twin_flags(found).answered()
}

/// True if the connection is to be reset once its backend is gone.
#[inline(always)]
fn ends_with_backend<A: Addr, T: Tables<A>>(work: &Work<A>, tables: &T, flags: SlotFlags) -> bool {
    tables.node().features & features::RESET_GONE != 0
        && proto::has_connections(work.key.proto)
        && !flags.orphan()
}

/// True if the backend no longer serves.
#[inline(always)]
pub(super) fn is_gone<A: Addr, T: Tables<A>>(tables: &T, chosen: BackendRef) -> bool {
    !tables.backend(chosen.id).is_some_and(|backend| {
        backend.generation == chosen.generation && backend.flags & backend_flags::SERVING != 0
    })
}

/// True if a SYN-ACK in the flow's reply direction is not the flow's.
///
/// Once the backend has finished it accepts nothing, unless it is dialled again: by a SYN that came by here, or by one
/// that did not, since one client may reach the backend from the same port by another node or directly. As long
/// as only the client has finished, the backend may not have heard it yet, and repeat itself.
#[inline(always)]
fn accepts_another<A: Addr, S: Slots<A>>(
    table: &FlowTable<'_, A, S>,
    found: &Found<A, S::Words>,
) -> bool {
    let has_finished = match found.word.state() {
        State::Closed => true,
        State::Closing => found.slot.flags().fin(),
        State::HalfOpen => found.slot.flags().reset(),
        _ => false,
    };
    has_finished && !table.twin_flags(found).syn()
}

/// Notes the packet in the flow: time, counts, state.
#[inline(always)]
fn note<A: Addr, T: Tables<A>>(
    work: &Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    found: &Found<A, <T::Slots as Slots<A>>::Words>,
    flags: SlotFlags,
) {
    let state = found.word.state();
    found.slot.count(work.ip.len);
    if flags.orphan() {
        return;
    }
    // A closed connection's lifetime is not prolonged: its ports come back. But a reset that both go on after was
    // none: it was forged, or outside of the window.
    if state != State::Closed || flags.reset() && !work.tcp.rst() {
        found.slot.see(work.now);
    }
    let heard = Heard {
        own_fin: false,
        other_fin: false,
        goes_on: state == State::HalfOpen && goes_on(work, table, found, flags),
    };
    let next = if proto::has_connections(work.key.proto) {
        next_tcp_state(work, table, found, flags, heard)
    } else {
        tcp::next_datagram(state, heard)
    };
    if next != state {
        let backend = found.slot.backend();
        if table.advance(found, next) && next == State::Closed && !flags.leaving() {
            discount(tables, backend);
        }
    }
}

/// Takes an ended connection from its backend, if those are counted.
#[inline(always)]
fn discount<A: Addr, T: Tables<A>>(tables: &T, chosen: BackendRef) {
    if let Some(backend) = tables.backend(chosen.id)
        && backend.generation == chosen.generation
        && backend.flags & backend_flags::COUNTED != 0
    {
        tables.add_connections(chosen.id, u32::MAX);
    }
}

/// True if with this packet the client of a half-open flow goes on after an answer, which nobody can who does not hear
/// it; or the answers themselves go on, as a stream's do that was asked for once.
#[inline(always)]
fn goes_on<A: Addr, S: Slots<A>>(
    work: &Work<A>,
    table: &FlowTable<'_, A, S>,
    found: &Found<A, S::Words>,
    flags: SlotFlags,
) -> bool {
    match flags.direction() {
        Direction::Original => !work.tcp.opens() && flags.answered(),
        Direction::Reply => {
            // Noted on both slots, so that who is never answered reads one line and not two. An earlier release has it on the
            // reply's alone.
            if !table.twin_flags(found).answered() {
                table.add_flags(found, SlotFlags::ANSWERED);
            }
            !proto::has_connections(work.key.proto)
                && age(work.now, table.twin_last_seen(found)) > STREAM
        }
    }
}

#[inline(always)]
fn next_tcp_state<A: Addr, S: Slots<A>>(
    work: &Work<A>,
    table: &FlowTable<'_, A, S>,
    found: &Found<A, S::Words>,
    flags: SlotFlags,
    heard: Heard,
) -> State {
    // Only a SYN that could not be given to anybody else comes here; its answer is to be known as such.
    if work.tcp.opens() && found.word.state() as u32 >= State::Closing as u32 {
        found.slot.add_flags(SlotFlags::SYN);
    }
    if work.tcp.rst() && !flags.reset() {
        table.add_flags(found, SlotFlags::RESET);
    }
    let fin = work.tcp.fin();
    if fin && !flags.fin() {
        found.slot.add_flags(SlotFlags::FIN);
    }
    let own_fin = heard.goes_on && flags.fin();
    let other_fin = (fin || own_fin) && table.twin_flags(found).fin();
    let heard = Heard {
        own_fin,
        other_fin,
        ..heard
    };
    tcp::next(found.word.state(), work.tcp, heard)
}

/// Passing and dropping are told apart by the reason.
#[inline(always)]
pub(super) fn refuse(reason: Reason) -> Decision {
    match reason {
        Reason::PassToTc => Decision::Pass(reason),
        _ => Decision::Drop(reason),
    }
}

#[inline(always)]
pub(super) fn count_xdp<A: Addr, T: Tables<A>>(tables: &T) {
    if T::HOOK == Hook::Xdp {
        tables.count(Reason::XdpForward);
    }
}
