//! The first packet of a connection: service, backend, way, two slots.

use super::{
    Decision, Hook, Role, Tables, Work, deliver,
    follow::{count_xdp, refuse},
};
use crate::{
    abi::{Reason, Service, ServiceKey, backend_flags, next_hop::NextHopRef, place},
    flow::{
        Direction,
        slot::BackendRef,
        table::{Existing, FlowTable, Refusal},
    },
    net::{addr::Addr, ip::proto},
    select,
};

/// Source ports that are tried before a masqueraded connection is refused.
const PORT_TRIES: u32 = 4;

/// Decides about a packet without a flow, or whose flow must be opened anew.
#[inline(never)]
pub(super) fn open<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    existing: Existing,
) -> Decision {
    // Nothing begins on the way out: what a process dials comes by the host's own device.
    if tables.role() == Role::Egress {
        return Decision::Pass(Reason::PassNoService);
    }
    let key = ServiceKey::new(work.key.ends.dst, work.key.dport, work.key.proto);
    let Some(service) = tables.service(&key) else {
        return Decision::Pass(Reason::PassNoService);
    };
    if work.key.proto == proto::TCP && !work.tcp.opens() {
        return match tables.role() {
            // The node's own socket may be in the middle of a connection of its own.
            Role::Loopback => Decision::Pass(Reason::PassNoService),
            _ => Decision::Drop(Reason::DropNotSyn),
        };
    }
    if let Err(reason) = choose(work, tables, &key, service) {
        return Decision::Drop(reason);
    }
    work.flow.rewrite.ends.src = work.key.ends.src;
    work.flow.next_hop = NextHopRef::NONE;
    let way = if T::HOOK == Hook::Xdp && work.flow.local {
        deliver::is_here(work, tables, Direction::Original);
        Err(Reason::PassToTc)
    } else {
        deliver::resolve(work, tables, Direction::Original)
    };
    work.flow.back = way_back(tables.role(), work.flow.next_hop);
    // What XDP cannot send it leaves to TC, but it opens the flow all the same: if TC chose again, backends
    // that XDP reaches would be chosen more often than others.
    if T::HOOK == Hook::Tc
        && let Err(reason) = way
    {
        return refuse(reason);
    }
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), &node.hash_key, work.now);
    if let Err(refusal) = insert(work, tables, &table, existing) {
        return Decision::Drop(match refusal {
            Refusal::Full => Reason::DropFlowTableFull,
            Refusal::Busy => Reason::DropFlowBusy,
            Refusal::ReplyTaken => Reason::DropPortInUse,
        });
    }
    if existing == Existing::Replace {
        tables.count(Reason::Reopened);
    }
    match way {
        Ok(via) => {
            count_xdp(tables);
            Decision::Send(Reason::Open, via)
        }
        Err(reason) => {
            tables.count(Reason::OpenedForTc);
            refuse(reason)
        }
    }
}

/// Picks a backend, uniformly at random, that is this service's at this moment.
///
/// The agent may replace the service, its slots and its backends at any time, and the kernel may give
/// a deleted service's memory to another under our eyes. So the copy of the service is used only if the
/// backend names it and the frontend still has that version afterwards. One retry: two changes within a
/// packet's time do not happen to one service.
#[inline(always)]
fn choose<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    key: &ServiceKey<A>,
    mut service: Service,
) -> Result<(), Reason> {
    for _ in 0..2 {
        let picked = pick(work, tables, &service);
        match tables.service(key) {
            Some(now) if now.version == service.version && now.id == service.id => {
                return picked.ok_or(Reason::DropNoBackend);
            }
            Some(now) => service = now,
            None => return Err(Reason::DropServiceChanged),
        }
    }
    Err(Reason::DropServiceChanged)
}

/// One pick, noted in the flow to be.
#[inline(always)]
fn pick<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, service: &Service) -> Option<()> {
    let slot = select::uniform(service.cluster, tables.random())?;
    let id = tables.slot(slot)?;
    let backend = tables.backend(id)?;
    if backend.service != service.id {
        return None;
    }
    let flow = &mut work.flow;
    flow.rewrite.ends.dst = backend.addr;
    flow.rewrite.dport = backend.port;
    flow.backend = BackendRef {
        id,
        generation: backend.generation,
    };
    flow.local = backend.flags & backend_flags::LOCAL != 0;
    Some(())
}

/// The way of the answers, where it is known from the first: to the node's own processes, or from them.
#[inline(always)]
fn way_back(role: Role, next_hop: NextHopRef) -> NextHopRef {
    if role.is_host() {
        NextHopRef::HOST
    } else if next_hop == NextHopRef::STACK {
        NextHopRef::STACK
    } else {
        NextHopRef::NONE
    }
}

/// Puts the flow into the table, with another source port if the client's own is in use towards the backend.
#[inline(always)]
fn insert<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    existing: Existing,
) -> Result<(), Refusal> {
    let node = tables.node();
    masquerade(work, tables);
    work.flow.rewrite.sport = work.key.sport;
    for attempt in 0..PORT_TRIES {
        let refusal = match table.open(&work.key, &mut work.flow, existing) {
            Ok(()) if attempt == 0 => return Ok(()),
            Ok(()) => {
                tables.count(Reason::PortRemapped);
                return Ok(());
            }
            Err(refusal) => refusal,
        };
        if refusal != Refusal::ReplyTaken || node.snat_port_count == 0 {
            return Err(refusal);
        }
        let offset = (u64::from(tables.random()) * u64::from(node.snat_port_count)) >> 32;
        work.flow.rewrite.sport = node.snat_port_base.wrapping_add(offset as u32) as u16;
    }
    Err(Refusal::ReplyTaken)
}

/// Takes another source address where the answers would not come back through this node with the client's own.
#[inline(always)]
fn masquerade<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) {
    let Work {
        key, flow, source, ..
    } = work;
    let ends = &mut flow.rewrite.ends;
    if tables.role() == Role::Pod {
        // A pod answers itself without asking anybody.
        if ends.dst == key.ends.src && !tables.hairpin_addr().is_unspecified() {
            ends.src = tables.hairpin_addr();
        }
        return;
    }
    let is_here = matches!(flow.next_hop, NextHopRef::STACK | NextHopRef::HOST);
    let is_uplink = tables.role() == Role::Uplink;
    if is_here || is_uplink && (flow.local || tables.place(key.ends.src) == place::PODS) {
        return;
    }
    // A process of the node's own is seen as if it had dialled the backend: by the source that the way prefers.
    let own = match *source {
        source if !source.is_unspecified() => source,
        _ if flow.local => key.ends.src,
        _ => tables.node_addr(),
    };
    if !own.is_unspecified() {
        ends.src = own;
    }
}
