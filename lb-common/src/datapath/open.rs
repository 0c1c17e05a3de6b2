//! The first packet of a connection: service, policy, backend, way, two slots.

use super::{
    Decision, Hook, Role, Tables, Via, Work, deliver,
    follow::{count_xdp, refuse},
    leave,
    policy::{self, Call, Client},
    source::{self, Attempt, CANDIDATES},
};
use crate::{
    abi::{
        AffinityKey, Reason, ServiceKey, SlotRange, backend_flags,
        next_hop::NextHopRef,
        node::{features, masquerade},
        place, service_flags, takeover,
    },
    flow::{
        Direction,
        clock::{age, seconds},
        reserve::Claim,
        slot::{BackendRef, SlotFlags},
        table::{Existing, FlowTable, Refusal, Slots},
    },
    net::{addr::Addr, ip::proto, tcp::Flags},
    select,
};

/// Decides about the first packet of a connection whose backend is chosen: [`Work::decision`].
///
/// A call of its own in the BPF object beside [`choose`], not around it: together their stack frames are more than
/// the kernel allows.
#[inline(never)]
pub(super) fn open<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, existing: Existing) {
    work.decision = opened(work, tables, existing);
}

#[inline(always)]
fn opened<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, existing: Existing) -> Decision {
    let way = find_way(work, tables);
    masquerade(work, tables);
    let way = way.map(|via| match work.flow.next_hop {
        NextHopRef::HOST => Via::Host,
        _ => via,
    });
    work.flow.back = way_back(tables.role(), work.flow.next_hop);
    work.flow.first = first_flags(work.tcp);
    // What XDP cannot send it leaves to TC, but it opens the flow all the same: if TC chose again, backends
    // that XDP reaches would be chosen more often than others.
    if T::HOOK == Hook::Tc
        && let Err(reason) = way
    {
        return refuse(reason);
    }
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    table.foresee(&work.key, &mut work.flow);
    if !T::DRY
        && let Err(refusal) = insert(work, tables, &table, existing)
    {
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

/// Chooses a backend for a packet without a flow, or whose flow must be opened anew; false: [`Work::decision`] says
/// what becomes of it.
#[inline(never)]
pub(super) fn choose<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> bool {
    match call(work, tables) {
        Ok(()) => true,
        Err(decision) => {
            work.decision = decision;
            false
        }
    }
}

/// Who dials what, and which backend it gets.
///
/// # Errors
/// What becomes of a packet that opens no flow.
#[inline(always)]
pub(super) fn call<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Result<(), Decision> {
    // No service is dialled on the way out: what a process dials comes by the host's own device.
    if tables.role() == Role::Egress {
        return leave::begin(work, tables);
    }
    let takeover = tables.takeover();
    if takeover & takeover::TO != 0 && matches!(tables.role(), Role::Pod | Role::Uplink) {
        return Err(Decision::Pass(Reason::PassTakeover));
    }
    work.frontend = ServiceKey::new(work.key.ends.dst, work.key.dport, work.key.proto);
    if !tables.service(&work.frontend, &mut work.call.service) {
        let place = tables.place(work.key.ends.dst);
        // The kernel gives a replaced element's memory away at once, so who is just looking at it may miss a key that
        // was there all the time. Who looks again finds it; nobody is asked twice about a pod's own address.
        if place == place::PODS || !tables.service(&work.frontend, &mut work.call.service) {
            return Err(unserved(work, tables, place));
        }
    }
    begins(work, tables, takeover)?;
    policy::find_client(work, tables);
    settle(work, tables)
}

/// What is sent to no frontend: somebody else's traffic, or a mistake inside a service CIDR.
#[inline(always)]
fn unserved<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T, place: u32) -> Decision {
    if place != place::SERVICES {
        return Decision::Pass(Reason::PassNoService);
    }
    work.frontend.port = 0;
    work.frontend.proto = 0;
    match tables.stamp(&work.frontend) {
        Some(_) => Decision::Reject(Reason::RejectNotServed),
        None => Decision::Drop(Reason::DropUnallocated),
    }
}

/// Checks that the packet may begin a connection.
///
/// # Errors
/// What becomes of it else. A socket of the node's own may have a node port for its own port: what it is sent stays
/// its own.
#[inline(always)]
fn begins<A: Addr, T: Tables<A>>(
    work: &Work<A>,
    tables: &T,
    takeover: u32,
) -> Result<(), Decision> {
    let is_late = proto::has_connections(work.key.proto) && !work.tcp.opens();
    if is_late && tables.role() == Role::Loopback {
        return Err(Decision::Pass(Reason::PassNoService));
    }
    let may_be_own = is_late && work.key.proto == proto::TCP || work.key.proto == proto::UDP;
    if may_be_own
        && work.call.service.flags & service_flags::CLUSTER_IP == 0
        && tables.has_socket(&work.key)
    {
        return Err(Decision::Pass(Reason::PassOwnSocket));
    }
    if !is_late {
        return Ok(());
    }
    if takeover & takeover::FROM != 0 {
        return Err(Decision::Pass(Reason::PassTakeover));
    }
    // While flows are on their way from one table to another the retransmit finds this one.
    if tables.node().features & features::SETTLING != 0 {
        return Err(Decision::Drop(Reason::DropNotSyn));
    }
    if !is_resumed(work) {
        return Err(Decision::Reject(Reason::RejectNoFlow));
    }
    if !T::DRY {
        tables.count(Reason::Resumed);
    }
    Ok(())
}

/// True if the packet is of a connection that another node has opened, or this one before its tables were lost, and whose
/// backend can be told all the same. A SYN-ACK is of none: clients send no such thing.
#[inline(always)]
fn is_resumed<A: Addr>(work: &Work<A>) -> bool {
    work.call.service.flags & service_flags::MAGLEV != 0
        && work.key.proto == proto::TCP
        && !work.tcp.accepts()
}

/// Picks a backend that is this service's at this moment.
///
/// The agent may replace the service, its slots and its backends at any time, and the kernel may give
/// a deleted service's memory to another under our eyes. So the copy of the service is used only if the
/// backend names it and the frontend still has that version afterwards. One retry: two changes within a
/// packet's time do not happen to one service.
#[inline(always)]
fn settle<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Result<(), Decision> {
    if let Some(settled) = attempt(work, tables) {
        return settled;
    }
    if tables.service(&work.frontend, &mut work.call.service)
        && let Some(settled) = attempt(work, tables)
    {
        return settled;
    }
    Err(Decision::Drop(Reason::DropServiceChanged))
}

/// One attempt; `None`: the service has changed meanwhile.
#[inline(always)]
fn attempt<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Option<Result<(), Decision>> {
    let picked = policy::admit(work, tables)
        .and_then(|()| pick(work, tables).ok_or(Decision::Drop(Reason::DropServiceChanged)));
    let service = &work.call.service;
    if tables.stamp(&work.frontend) != Some((service.id, service.version)) {
        return None;
    }
    if picked.is_ok() {
        remember(work, tables);
    }
    Some(picked)
}

/// One pick, noted in the flow to be: the backend that the client had, else one of its list: uniformly at random, or by
/// the packet's place in a Maglev table.
#[inline(always)]
fn pick<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Option<()> {
    work.call.is_affine = false;
    if work.call.service.affinity_timeout_s != 0 && is_remembered(work, tables) {
        let (_, known) = work.affinity;
        if take(work, tables, known.backend, Some(known.generation)).is_some() {
            work.call.is_affine = true;
            return Some(());
        }
    }
    if work.call.service.flags & service_flags::LEAST_CONNECTIONS != 0 {
        let id = less_busy(work.call.range, tables)?;
        return take(work, tables, id, None);
    }
    let luck = if work.call.service.flags & service_flags::MAGLEV != 0 {
        select::of_packet(tables.maglev_key(), &work.key)
    } else {
        tables.random()
    };
    let slot = select::uniform(work.call.range, luck)?;
    take(work, tables, tables.slot(slot)?, None)
}

/// Of two backends by chance the one that has fewer connections for its weight.
///
/// Two, since to look at all takes time, and with two the busiest differs from the others little more than with all
/// (Mitzenmacher 2001). The better of two is not what all nodes choose at once when they see the same.
#[inline(always)]
fn less_busy<A: Addr, T: Tables<A>>(range: SlotRange, tables: &T) -> Option<u32> {
    let first = tables.slot(select::uniform(range, tables.random())?)?;
    let second = tables.slot(select::uniform(range, tables.random())?)?;
    let is_second = load::<A, T>(tables, second)?.is_less_than(load::<A, T>(tables, first)?);
    Some(if is_second { second } else { first })
}

#[inline(always)]
fn load<A: Addr, T: Tables<A>>(tables: &T, id: u32) -> Option<select::Load> {
    let weight = backend_flags::weight(tables.backend(id)?.flags);
    Some(select::Load::new(tables.connections(id), weight))
}

/// True if the client was given a backend, and its time is not up.
#[inline(always)]
fn is_remembered<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> bool {
    let service = &work.call.service;
    let (key, known) = &mut work.affinity;
    *key = AffinityKey::new(work.key.ends.src, service.id);
    tables.affinity(key, known)
        && age(work.now, known.last_opened) <= seconds(service.affinity_timeout_s)
}

/// Notes a backend in the flow to be, if it is the service's; one of a known `generation` only if it is in the
/// client's list now.
#[inline(always)]
fn take<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    id: u32,
    generation: Option<u16>,
) -> Option<()> {
    let backend = tables.backend(id)?;
    let call = &work.call;
    let is_lost = generation
        .is_some_and(|known| known != backend.generation || backend.flags & call.list.flag() == 0);
    if backend.service != call.service.id || is_lost {
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
    work.call.is_counted = backend.flags & backend_flags::COUNTED != 0;
    Some(())
}

/// Begins the client's time with its backend anew.
#[inline(always)]
fn remember<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) {
    if T::DRY || work.call.service.affinity_timeout_s == 0 {
        return;
    }
    let (key, given) = &mut work.affinity;
    given.backend = work.flow.backend.id;
    given.generation = work.flow.backend.generation;
    given.pad = 0;
    given.last_opened = work.now;
    if !tables.set_affinity(key, given) {
        tables.count(Reason::AffinityFull);
    }
}

/// The way to the backend.
#[inline(always)]
pub(super) fn find_way<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
) -> Result<Via, Reason> {
    if tables.role() == Role::Egress {
        work.flow.next_hop = NextHopRef::STACK;
        return Ok(Via::Stack);
    }
    work.flow.rewrite.ends.src = work.key.ends.src;
    work.flow.source = SlotFlags::default();
    work.flow.next_hop = NextHopRef::NONE;
    work.call.is_left_to_stack =
        leave::is_left_to_stack(tables) && !deliver::is_here(work, tables, Direction::Original);
    if work.call.is_left_to_stack {
        work.flow.next_hop = NextHopRef::STACK;
        return Ok(Via::Stack);
    }
    if T::HOOK == Hook::Xdp && work.flow.local {
        work.source = A::default();
        deliver::is_here(work, tables, Direction::Original);
        return Err(Reason::PassToTc);
    }
    deliver::resolve(work, tables, Direction::Original)
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

/// What a packet that may be in the middle of its connection says of it.
#[inline(always)]
fn first_flags(tcp: Flags) -> SlotFlags {
    if tcp.rst() {
        SlotFlags::RESET
    } else if tcp.fin() {
        SlotFlags::FIN
    } else {
        SlotFlags::default()
    }
}

/// Puts the flow into the table, with another source if the client's own is in use towards the backend.
#[inline(always)]
fn insert<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    existing: Existing,
) -> Result<(), Refusal> {
    let original = table.begin(&work.key, &work.flow, existing)?;
    source::begin(&mut work.search, tables);
    for _ in 0..CANDIDATES {
        match tables.try_source(work, original.position).attempt() {
            Attempt::Taken => {}
            Attempt::Reserved => return complete(work, tables, table, original),
            Attempt::Full => return give_up(table, original, Refusal::Full),
            Attempt::Busy => return give_up(table, original, Refusal::Busy),
        }
    }
    give_up(table, original, Refusal::ReplyTaken)
}

/// The last step, with a source that is free.
#[inline(always)]
fn complete<A: Addr, T: Tables<A>>(
    work: &mut Work<A>,
    tables: &T,
    table: &FlowTable<'_, A, T::Slots>,
    original: Claim,
) -> Result<(), Refusal> {
    let attempt = work.search.attempt;
    let Ok(reply) = work.search.reserved.claim() else {
        return give_up(table, original, Refusal::Busy);
    };
    table.finish(&work.key, &work.flow, original, reply)?;
    // What leaves was counted when it came in.
    if work.call.is_counted && tables.role() != Role::Egress {
        tables.add_connections(work.flow.backend.id, 1);
    }
    if attempt > source::FIRST {
        tables.count(Reason::PortRemapped);
    }
    if source::is_unrested(attempt) {
        tables.count(Reason::PortUnrested);
    }
    if original.displaces | reply.displaces != 0 {
        tables.count(Reason::FlowDisplaced);
    }
    Ok(())
}

#[inline(always)]
fn give_up<A: Addr, S: Slots<A>>(
    table: &FlowTable<'_, A, S>,
    original: Claim,
    refusal: Refusal,
) -> Result<(), Refusal> {
    table.give_back(original);
    Err(refusal)
}

/// Takes another source address where the rules of [`masquerade`] ask for it, or where a pod or the loopback address
/// dials what would answer it without asking anybody.
#[inline(always)]
pub(super) fn masquerade<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) {
    // That of what leaves is known.
    if tables.role() == Role::Egress {
        return;
    }
    work.search.is_node = 0;
    exchange_source(work, tables);
    work.search.preferred = work.flow.rewrite.ends.src;
}

#[inline(always)]
fn exchange_source<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) {
    let Work {
        key,
        flow,
        source,
        call,
        search,
        ..
    } = work;
    let ends = &mut flow.rewrite.ends;
    flow.rewrite.sport = key.sport;
    call.is_masqueraded = false;
    let is_hairpin = ends.dst == key.ends.src;
    if is_hairpin
        && tables.role() == Role::Pod
        && !call.is_left_to_stack
        && !tables.hairpin_addr().is_unspecified()
    {
        ends.src = tables.hairpin_addr();
        call.is_masqueraded = true;
        return;
    }
    let mode = tables.node().masquerade;
    let is_here =
        matches!(flow.next_hop, NextHopRef::STACK | NextHopRef::HOST) && !call.is_left_to_stack;
    let is_loopback = call.client == Client::Host && key.ends.src.is_loopback();
    let is_due = if mode == masquerade::AS_NEEDED {
        !is_here && (is_hairpin || returns_elsewhere(tables.role(), call, flow.local))
    } else {
        !is_here && is_hairpin || policy::is_masqueraded_by_kube_proxy(mode, call)
    };
    if !is_due && !is_loopback {
        return;
    }
    if call.is_left_to_stack {
        call.is_masqueraded = true;
        flow.source = SlotFlags::MASQUERADED;
        return;
    }
    // A process of the node's own is seen as if it had dialled the backend: by the source that the way prefers.
    let is_own = call.client == Client::Host && flow.local && !is_loopback;
    let own = match *source {
        source if !source.is_unspecified() => source,
        _ if is_own => key.ends.src,
        _ => tables.node_addr(),
    };
    if own.is_unspecified() {
        return;
    }
    call.is_masqueraded = own != ends.src || mode != masquerade::AS_NEEDED;
    search.is_node = u32::from(call.is_masqueraded);
    ends.src = own;
    if flow.next_hop == NextHopRef::STACK {
        // One of the node's own sources, which the stack refuses on the packet's own way.
        flow.next_hop = NextHopRef::HOST;
    }
}

/// True if the backend would answer the client by another way than through this node.
#[inline(always)]
fn returns_elsewhere(role: Role, call: &Call, is_local: bool) -> bool {
    match call.client {
        // A pod of this node is answered here; one of another node, that dialled this node, on its own.
        Client::Pod => role != Role::Pod && !is_local,
        Client::Host => true,
        Client::External | Client::Unknown => !is_local,
    }
}
