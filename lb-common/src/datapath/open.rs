//! The first packet of a connection: service, backend, way, two slots.

use super::{
    Decision, Hook, Role, Tables, Work, deliver,
    follow::{count_xdp, refuse},
};
use crate::{
    abi::{Reason, Service, ServiceKey, backend_flags, next_hop::NextHopRef},
    flow::{
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
    let key = ServiceKey::new(work.key.ends.dst, work.key.dport, work.key.proto);
    let Some(service) = tables.service(&key) else {
        return Decision::Pass(Reason::PassNoService);
    };
    if work.key.proto == proto::TCP && !work.tcp.opens() {
        return Decision::Drop(Reason::DropNotSyn);
    }
    if let Err(reason) = choose(work, tables, &key, service) {
        return Decision::Drop(reason);
    }
    work.flow.rewrite.ends.src = work.key.ends.src;
    work.flow.next_hop = NextHopRef::NONE;
    let way = if T::HOOK == Hook::Xdp && work.flow.local {
        Err(Reason::PassToTc)
    } else {
        deliver::resolve(work, tables)
    };
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

/// Puts the flow into the table; a masqueraded one takes another port if the client's own is in use.
#[inline(always)]
fn insert<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    existing: Existing,
) -> Result<(), Refusal> {
    let node = tables.node();
    let masquerade = masquerades(work, tables);
    if masquerade {
        work.flow.rewrite.ends.src = tables.node_addr();
    }
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
        if refusal != Refusal::ReplyTaken || !masquerade || node.snat_port_count == 0 {
            return Err(refusal);
        }
        let offset = (u64::from(tables.random()) * u64::from(node.snat_port_count)) >> 32;
        work.flow.rewrite.sport = node.snat_port_base.wrapping_add(offset as u32) as u16;
    }
    Err(Refusal::ReplyTaken)
}

/// True if the reply would not come back through this node: a remote backend of a client that is not
/// a pod.
#[inline(always)]
fn masquerades<A: Addr, T: Tables<A>>(work: &Work<A>, tables: &T) -> bool {
    !work.flow.local
        && tables.role() == Role::Uplink
        && !tables.node_addr().is_unspecified()
        && !tables.is_pod(work.key.ends.src)
}
