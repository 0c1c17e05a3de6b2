//! The program that says what would become of a packet: the datapath over tables that are only asked.

use aya_ebpf::{EbpfContext, bindings::TC_ACT_UNSPEC, programs::TcContext};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, NextHop, NodeConfig, Reason, Service, ServiceKey, Source,
        SourceKey, TraceRecord,
        trace::{decision, flow, mark},
    },
    datapath::{Decision, Explained, Hook, Role, Route, Tables, Work, explain},
    flow::{Direction, FlowKey, clock::Tick},
    hash::HashKey,
    net::{
        addr::{Addr, Addr4, Addr6},
        eth::{self, ether_type},
        ip::Ends,
    },
};

use crate::{
    maps::{FamilyMaps, TRACE_RECORD},
    memory::{KernelHop, KernelSlots},
    packet::TcPacket,
    tables::KernelTables,
};

/// The kernel's tables without their writes.
struct Asked {
    tables: KernelTables<false>,
    /// The machine that this runs on is not the node in question.
    alone: bool,
}

/// Says what would become of the packet; the mark says by which device it comes, and whose tables these are.
#[inline(always)]
pub(crate) fn trace(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context lives as long as the program.
    let (protocol, wanted, ifindex) = unsafe { ((*skb).protocol, (*skb).mark, (*skb).ifindex) };
    let asked = Asked {
        tables: KernelTables::<false> {
            ctx: ctx.as_ptr(),
            ifindex,
            role: role(wanted & mark::ROLE),
        },
        alone: wanted & mark::ALONE != 0,
    };
    let mut packet = TcPacket::<{ eth::LEN }>::new(skb);
    match u16::from_be(protocol as u16) {
        ether_type::IPV4 => tell::<Addr4>(&mut packet, &asked),
        ether_type::IPV6 => tell::<Addr6>(&mut packet, &asked),
        _ => {}
    }
    TC_ACT_UNSPEC
}

fn role(code: u32) -> Role {
    match code {
        0 => Role::Pod,
        1 => Role::Uplink,
        2 => Role::Host,
        _ => Role::Loopback,
    }
}

#[inline(always)]
fn tell<A: FamilyMaps>(packet: &mut TcPacket<{ eth::LEN }>, asked: &Asked) {
    let (Some(work), Some(record)) = (A::work().get_ptr_mut(0), TRACE_RECORD.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: this CPU's own value; programs on one CPU do not interrupt each other.
    let work = unsafe { &mut *work };
    // SAFETY: who runs the program runs it alone.
    let record = unsafe { &mut *record };
    let explained = explain::<A, _, _>(packet, asked, work);
    write(record, work, &explained);
    record.place = Tables::<A>::place(asked, work.key.ends.dst);
}

#[inline(always)]
fn write<A: Addr>(record: &mut TraceRecord, work: &Work<A>, explained: &Explained) {
    (record.decision, record.reason) = code(explained.decision);
    (record.service_decision, record.service_reason) = match explained.service {
        Ok(()) => (decision::SEND, Reason::Open as u32),
        Err(decision) => code(decision),
    };
    record.flow = match explained.flow {
        None => flow::NONE,
        Some(Direction::Original) => flow::ORIGINAL,
        Some(Direction::Reply) => flow::REPLY,
    };
    let call = &work.call;
    record.client = call.client as u32;
    record.list = call.list as u32;
    record.range = call.range;
    record.is_affine = u32::from(call.is_affine);
    record.is_masqueraded = u32::from(call.is_masqueraded);
    record.service = call.service;
    let new = &work.flow.rewrite;
    record.new_src = new.ends.src.words();
    record.new_dst = new.ends.dst.words();
    record.new_sport = u32::from(new.sport);
    record.new_dport = u32::from(new.dport);
    record.hop = work.hop;
}

#[inline(always)]
fn code(of: Decision) -> (u32, u32) {
    match of {
        Decision::Pass(reason) => (decision::PASS, reason as u32),
        Decision::Drop(reason) => (decision::DROP, reason as u32),
        Decision::Reject(reason) => (decision::REJECT, reason as u32),
        Decision::Send(reason, _) => (decision::SEND, reason as u32),
    }
}

impl<A: FamilyMaps> Tables<A> for Asked {
    type Slots = KernelSlots;
    type Hop = KernelHop;
    const HOOK: Hook = Hook::Tc;
    const DRY: bool = true;

    #[inline(always)]
    fn role(&self) -> Role {
        self.tables.role
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.tables.ifindex
    }

    #[inline(always)]
    fn node(&self) -> &NodeConfig {
        Tables::<A>::node(&self.tables)
    }

    #[inline(always)]
    fn node_addr(&self) -> A {
        self.tables.node_addr()
    }

    #[inline(always)]
    fn maglev_key(&self) -> &HashKey {
        Tables::<A>::maglev_key(&self.tables)
    }

    #[inline(always)]
    fn flow_mask(&self) -> u32 {
        Tables::<A>::flow_mask(&self.tables)
    }

    #[inline(always)]
    fn slots(&self) -> &KernelSlots {
        &KernelSlots
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<A>, into: &mut Service) -> bool {
        self.tables.service(key, into)
    }

    #[inline(always)]
    fn stamp(&self, key: &ServiceKey<A>) -> Option<(u32, u32)> {
        self.tables.stamp(key)
    }

    #[inline(always)]
    fn takeover(&self) -> u32 {
        Tables::<A>::takeover(&self.tables)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        Tables::<A>::slot(&self.tables, index)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.tables.backend(id)
    }

    #[inline(always)]
    fn connections(&self, id: u32) -> u32 {
        Tables::<A>::connections(&self.tables, id)
    }

    #[inline(always)]
    fn add_connections(&self, _id: u32, _change: u32) {}

    #[inline(always)]
    fn place(&self, addr: A) -> u32 {
        self.tables.place(addr)
    }

    #[inline(always)]
    fn allows(&self, guard: u32, client: A) -> bool {
        self.tables.allows(guard, client)
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey<A>, into: &mut Affinity) -> bool {
        self.tables.affinity(key, into)
    }

    #[inline(always)]
    fn set_affinity(&self, _key: &AffinityKey<A>, _affinity: &Affinity) -> bool {
        true
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey, into: &mut Source<A>) -> bool {
        self.tables.source(key, into)
    }

    #[inline(always)]
    fn has_socket(&self, key: &FlowKey<A>) -> bool {
        !self.alone && self.tables.has_socket(key)
    }

    #[inline(always)]
    fn hairpin_addr(&self) -> A {
        self.tables.hairpin_addr()
    }

    #[inline(always)]
    fn hop(&self, index: u32) -> Option<KernelHop> {
        Tables::<A>::hop(&self.tables, index)
    }

    /// It is TC that is explained.
    #[inline(always)]
    fn may_redirect(&self, _ifindex: u32) -> bool {
        false
    }

    #[inline(always)]
    fn has_peer(&self, _ifindex: u32) -> bool {
        false
    }

    #[inline(always)]
    fn route(&self, ends: &Ends<A>, len: u32, hop: &mut NextHop, source: &mut A) -> Route {
        if self.alone {
            *source = A::default();
            return Route::None;
        }
        self.tables.route(ends, len, hop, source)
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        Tables::<A>::now(&self.tables)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        Tables::<A>::random(&self.tables)
    }

    #[inline(always)]
    fn count(&self, _reason: Reason) {}
}
