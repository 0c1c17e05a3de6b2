//! What other CPUs and the agent do while a packet is under way.

use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, NextHop, NodeConfig, PieceKey, Reason, Service, ServiceKey,
        Source, SourceKey,
    },
    datapath::{Hook, Packet, Released, Role, Route, Tables, Verdict, Work, process},
    fake::{FakePacket, FakeTables},
    flow::{FlowKey, clock::Tick},
    hash::HashKey,
    net::{addr::Addr, ip::Ends},
};

/// When they do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Right after a service was read.
    ServiceRead,
    /// Right after the FIB was asked.
    RouteAsked,
    /// Right before a fragment is put on the shelf.
    PieceComes,
    /// Right after.
    PieceHeld,
}

/// Tables that something is done to at such moments.
pub(crate) struct Interleaved<'n, A, F> {
    tables: FakeTables<'n, A, false, false>,
    meddle: F,
    is_damaging: bool,
}

impl<'n, A: Addr, F: Fn(Moment)> Interleaved<'n, A, F> {
    pub(crate) fn new(tables: FakeTables<'n, A, false, false>, meddle: F) -> Self {
        Self {
            tables,
            meddle,
            is_damaging: false,
        }
    }

    /// Where the packet at hand is lost over those that are let in.
    pub(crate) fn damaging(self) -> Self {
        Self {
            is_damaging: true,
            ..self
        }
    }

    pub(crate) fn run(&self, packet: &mut FakePacket) -> Verdict {
        process(packet, self, &mut Work::default())
    }
}

impl<'n, A: Addr, F: Fn(Moment)> Tables<A> for Interleaved<'n, A, F> {
    type Slots = <FakeTables<'n, A, false, false> as Tables<A>>::Slots;
    type Hop = <FakeTables<'n, A, false, false> as Tables<A>>::Hop;
    const HOOK: Hook = Hook::Tc;

    fn service(&self, key: &ServiceKey<A>, into: &mut Service) -> bool {
        let is_there = self.tables.service(key, into);
        (self.meddle)(Moment::ServiceRead);
        is_there
    }

    fn stamp(&self, key: &ServiceKey<A>) -> Option<(u32, u32)> {
        let stamp = self.tables.stamp(key);
        (self.meddle)(Moment::ServiceRead);
        stamp
    }

    fn allows(&self, guard: u32, client: A) -> bool {
        self.tables.allows(guard, client)
    }

    fn affinity(&self, key: &AffinityKey<A>, into: &mut Affinity) -> bool {
        self.tables.affinity(key, into)
    }

    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) -> bool {
        self.tables.set_affinity(key, affinity)
    }

    fn source(&self, key: &SourceKey, into: &mut Source<A>) -> bool {
        self.tables.source(key, into)
    }

    fn has_socket(&self, key: &FlowKey<A>) -> bool {
        self.tables.has_socket(key)
    }

    fn role(&self) -> Role {
        self.tables.role()
    }

    fn ingress_ifindex(&self) -> u32 {
        self.tables.ingress_ifindex()
    }

    fn node(&self) -> &NodeConfig {
        Tables::<A>::node(&self.tables)
    }

    fn node_addr(&self) -> A {
        self.tables.node_addr()
    }

    fn maglev_key(&self) -> &HashKey {
        Tables::<A>::maglev_key(&self.tables)
    }

    fn flow_mask(&self) -> u32 {
        self.tables.flow_mask()
    }

    fn slots(&self) -> &Self::Slots {
        self.tables.slots()
    }

    fn takeover(&self) -> u32 {
        self.tables.takeover()
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.tables.slot(index)
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.tables.backend(id)
    }

    fn connections(&self, id: u32) -> u32 {
        self.tables.connections(id)
    }

    fn add_connections(&self, id: u32, change: u32) {
        self.tables.add_connections(id, change);
    }

    fn place(&self, addr: A) -> u32 {
        self.tables.place(addr)
    }

    fn hairpin_addr(&self) -> A {
        self.tables.hairpin_addr()
    }

    fn hop(&self, index: u32) -> Option<Self::Hop> {
        self.tables.hop(index)
    }

    fn may_redirect(&self, ifindex: u32) -> bool {
        self.tables.may_redirect(ifindex)
    }

    fn has_peer(&self, ifindex: u32) -> bool {
        self.tables.has_peer(ifindex)
    }

    fn route(&self, ends: &Ends<A>, len: u32, hop: &mut NextHop, source: &mut A) -> Route {
        let route = self.tables.route(ends, len, hop, source);
        (self.meddle)(Moment::RouteAsked);
        route
    }

    fn recall(&self, key: &FlowKey<A>, id: u32, now: Tick) -> u64 {
        self.tables.recall(key, id, now)
    }

    fn note(&self, key: &FlowKey<A>, id: u32, now: Tick) {
        Tables::note(&self.tables, key, id, now);
    }

    fn hold<P: Packet>(&self, packet: &P, datagram: &PieceKey, now: Tick) -> u64 {
        (self.meddle)(Moment::PieceComes);
        let claim = self.tables.hold(packet, datagram, now);
        (self.meddle)(Moment::PieceHeld);
        claim
    }

    fn take_back(&self, claim: u64) -> bool {
        self.tables.take_back(claim)
    }

    fn release(&self, datagram: &PieceKey, now: Tick) -> Released {
        match self.tables.release(datagram, now) {
            Released::Some if self.is_damaging => Released::Damaged,
            released => released,
        }
    }

    fn now(&self) -> Tick {
        self.tables.now()
    }

    fn random(&self) -> u32 {
        self.tables.random()
    }

    fn count(&self, reason: Reason) {
        self.tables.count(reason);
    }
}
