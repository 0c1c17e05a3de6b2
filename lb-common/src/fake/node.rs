//! A node's maps in memory, and the programs that work on them.

use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::{
    packet::FakePacket,
    slots::{FakeSlots, FakeWordRows},
};
use crate::{
    abi::{
        Affinity, AffinityKey, Backend, Fragment, HeldPiece, NextHop, NodeConfig, PieceKey, Reason,
        Service, ServiceKey, Source, SourceKey, capacity, held_piece::FRAME_LEN,
        next_hop::NextHopRef, place,
    },
    datapath::{
        Explained, Hook, HopMemory, Packet, Released, Role, Route, Tables, Verdict, Work, explain,
        process,
    },
    flow::{FlowKey, clock::Tick},
    fragment::{
        record,
        shelf::{self, Claim, Frame},
    },
    hash::HashKey,
    net::{
        addr::{Addr, Family},
        ip::Ends,
    },
    select::MAGLEV_KEY,
};

/// All that the programs on one node share. Everything can be changed between any two packets.
#[derive(Debug)]
pub struct FakeNode<A> {
    config: NodeConfig,
    maglev_key: HashKey,
    flows: FakeSlots<A>,
    hops: Vec<Cell<NextHop>>,
    services: RefCell<BTreeMap<ServiceKey<A>, Service>>,
    slots: RefCell<BTreeMap<u32, u32>>,
    backends: RefCell<BTreeMap<u32, Backend<A>>>,
    connections: RefCell<BTreeMap<u32, u32>>,
    places: RefCell<BTreeMap<(u32, A, u32), u32>>,
    affinity: RefCell<BTreeMap<AffinityKey<A>, Affinity>>,
    /// Clients whose affinity there is room for.
    affinity_room: Cell<usize>,
    sources: RefCell<BTreeMap<SourceKey, Source<A>>>,
    sockets: RefCell<BTreeSet<FlowKey<A>>>,
    routes: RefCell<BTreeMap<A, (Route, NextHop)>>,
    /// Devices that XDP may send by.
    xdp_devices: RefCell<BTreeSet<u32>>,
    /// Devices that packets may go past.
    peer_devices: RefCell<BTreeSet<u32>>,
    source: RefCell<A>,
    fragments: FakeWordRows,
    pieces: FakeWordRows,
    /// The packets on the shelf, by buffer.
    kept: RefCell<BTreeMap<u32, Vec<u8>>>,
    /// Those that are to come in again, and by which device.
    released: RefCell<Vec<(u32, FakePacket)>>,
    takeover: Cell<u32>,
    now: Cell<Tick>,
    luck: Cell<u64>,
    counts: RefCell<BTreeMap<Reason, u64>>,
    /// Not cleared between packets, as the kernel's is not.
    work: RefCell<Work<A>>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The datapath's verdict.
    pub verdict: Verdict,
    /// Where it is sent, if it is.
    pub hop: NextHop,
}

impl<A: Addr> FakeNode<A> {
    /// A node with empty tables, `flows` flow positions, and the facts in `config` but for its masks.
    ///
    /// # Panics
    /// If `flows` is not a power of two.
    pub fn new(flows: u32, config: NodeConfig) -> Self {
        Self {
            config: NodeConfig {
                flow_mask4: flows - 1,
                flow_mask6: flows - 1,
                ..config
            },
            maglev_key: MAGLEV_KEY,
            flows: FakeSlots::new(flows),
            hops: (0..capacity::NEXT_HOPS).map(|_| Cell::default()).collect(),
            services: RefCell::default(),
            slots: RefCell::default(),
            backends: RefCell::default(),
            connections: RefCell::default(),
            places: RefCell::default(),
            affinity: RefCell::default(),
            affinity_room: Cell::new(capacity::AFFINITY as usize),
            sources: RefCell::default(),
            sockets: RefCell::default(),
            routes: RefCell::default(),
            xdp_devices: RefCell::default(),
            peer_devices: RefCell::default(),
            source: RefCell::default(),
            fragments: FakeWordRows::new(capacity::FRAGMENTS + 1, size_of::<Fragment<A>>()),
            pieces: FakeWordRows::new(
                capacity::PIECE_SETS * capacity::PIECES_PER_SET + 1,
                size_of::<HeldPiece>() - FRAME_LEN,
            ),
            kept: RefCell::default(),
            released: RefCell::default(),
            takeover: Cell::new(0),
            now: Cell::new(0),
            luck: Cell::new(1),
            counts: RefCell::default(),
            work: RefCell::default(),
        }
    }

    /// The TC program on device `ifindex`, which is a `role` to the node.
    pub fn tc(&self, role: Role, ifindex: u32) -> FakeTables<'_, A, false, false> {
        FakeTables {
            node: self,
            flows: &self.flows,
            role,
            ifindex,
        }
    }

    /// The XDP program on the uplink `ifindex`.
    pub fn xdp(&self, ifindex: u32) -> FakeTables<'_, A, true, false> {
        FakeTables {
            node: self,
            flows: &self.flows,
            role: Role::Uplink,
            ifindex,
        }
    }

    /// What the TC program on device `ifindex` would do, without doing it.
    pub fn dry(&self, role: Role, ifindex: u32) -> FakeTables<'_, A, false, true> {
        FakeTables {
            node: self,
            flows: &self.flows,
            role,
            ifindex,
        }
    }

    /// Adds, replaces or (`None`) removes a service.
    pub fn set_service(&self, key: ServiceKey<A>, service: Option<Service>) {
        set(&self.services, key, service);
    }

    /// Writes a slot; 0: unused.
    pub fn set_slot(&self, index: u32, backend: u32) {
        set(&self.slots, index, Some(backend));
    }

    /// Adds, replaces or (`None`) removes a backend.
    pub fn set_backend(&self, id: u32, backend: Option<Backend<A>>) {
        set(&self.backends, id, backend);
    }

    /// Connections of backends whose connections are counted, by id.
    pub fn connections(&self) -> BTreeMap<u32, u32> {
        self.connections.borrow().clone()
    }

    /// Writes the same.
    pub fn set_connections(&self, id: u32, count: u32) {
        set(&self.connections, id, Some(count));
    }

    /// Says what lies at the addresses that share the first `bits` bits with `prefix`: [`crate::abi::place`].
    pub fn set_place(&self, prefix: A, bits: u32, place: u32) {
        self.set_prefix(place::NODE_SPACE, prefix, bits, place);
    }

    /// Says the same in any space.
    pub fn set_prefix(&self, space: u32, prefix: A, bits: u32, code: u32) {
        let key = (space, prefix, bits);
        self.places.borrow_mut().insert(key, code);
    }

    /// Gives a device these addresses, which may stand in for clients'.
    pub fn set_sources(&self, ifindex: u32, addrs: &[A]) {
        let mut sources = self.sources.borrow_mut();
        sources.retain(|key, _| key.ifindex != ifindex);
        let count = u32::try_from(addrs.len()).unwrap_or(u32::MAX);
        for (at, addr) in (0..).zip(addrs) {
            let source = Source { addr: *addr, count };
            sources.insert(SourceKey { ifindex, at }, source);
        }
    }

    /// How many clients' affinity there is room for.
    pub fn set_affinity_room(&self, room: usize) {
        self.affinity_room.set(room);
    }

    /// What clients were given.
    pub fn affinity(&self) -> BTreeMap<AffinityKey<A>, Affinity> {
        self.affinity.borrow().clone()
    }

    /// Gives the node a connected socket that packets of this key are for.
    pub fn add_socket(&self, key: FlowKey<A>) {
        self.sockets.borrow_mut().insert(key);
    }

    /// The address that the FIB prefers as a source; unspecified, as at first: it does not say.
    pub fn set_preferred_source(&self, source: A) {
        self.source.replace(source);
    }

    /// Lets XDP send by a device though a packet came by another one.
    pub fn add_xdp_device(&self, ifindex: u32) {
        self.xdp_devices.borrow_mut().insert(ifindex);
    }

    /// Lets packets go past a device to the pod at its other end, or no more.
    pub fn set_peer_device(&self, ifindex: u32, has_peer: bool) {
        let mut devices = self.peer_devices.borrow_mut();
        if has_peer {
            devices.insert(ifindex);
        } else {
            devices.remove(&ifindex);
        }
    }

    /// What the FIB says about one destination; without it there is no route.
    pub fn set_route(&self, dst: A, route: Route, hop: NextHop) {
        set(&self.routes, dst, Some((route, hop)));
    }

    /// Says which proxy has what: [`crate::abi::takeover`].
    pub fn set_takeover(&self, takeover: u32) {
        self.takeover.set(takeover);
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Tick) {
        self.now.set(now);
    }

    /// The clock.
    pub fn now(&self) -> Tick {
        self.now.get()
    }

    /// From now on another CPU is at it, with a work area of its own.
    pub fn change_cpu(&self) {
        *self.work.borrow_mut() = Work::default();
    }

    /// Begins another random sequence.
    ///
    /// # Panics
    /// If `seed` is 0, of which xorshift makes nothing but zeros.
    pub fn seed(&self, seed: u64) {
        assert_ne!(seed, 0, "seed 0: take any other");
        self.luck.set(seed);
    }

    /// What was counted since the last call, nothing with a count of zero.
    pub fn take_counts(&self) -> BTreeMap<Reason, u64> {
        self.counts.take()
    }

    /// Fragments that were let in again since the last call, and the devices that they come by, in order.
    pub fn take_released(&self) -> Vec<(u32, FakePacket)> {
        self.released.take()
    }

    /// The flow table's memory.
    pub fn flows(&self) -> &FakeSlots<A> {
        &self.flows
    }

    /// Switches on these of [`crate::abi::node::features`], and no others.
    pub fn set_features(&mut self, features: u32) {
        self.config.features = features;
    }

    /// The node's facts.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    fn prefix(&self, space: u32, addr: A) -> u32 {
        let places = self.places.borrow();
        let matching = places
            .iter()
            .filter(|((there, prefix, bits), _)| *there == space && shares(addr, *prefix, *bits));
        matching
            .max_by_key(|((_, _, bits), _)| *bits)
            .map_or(0, |(_, code)| *code)
    }

    /// xorshift64 (Marsaglia 2003), its better half.
    fn random(&self) -> u32 {
        let mut luck = self.luck.get();
        luck ^= luck << 13;
        luck ^= luck >> 7;
        luck ^= luck << 17;
        self.luck.set(luck);
        (luck >> 32) as u32
    }
}

fn set<K: Ord, V>(table: &RefCell<BTreeMap<K, V>>, key: K, value: Option<V>) {
    match value {
        Some(value) => table.borrow_mut().insert(key, value),
        None => table.borrow_mut().remove(&key),
    };
}

/// True if the first `bits` bits of both addresses are equal.
fn shares<A: Addr>(a: A, b: A, bits: u32) -> bool {
    let (a, b) = (a.words().map(u32::from_be), b.words().map(u32::from_be));
    (0..4).all(|word: usize| {
        let bits = bits.saturating_sub(word as u32 * 32).min(32);
        let differ = a[word] ^ b[word];
        bits == 0 || differ >> (32 - bits) == 0
    })
}

/// One program on one device of a [`FakeNode`].
#[derive(Clone, Copy, Debug)]
pub struct FakeTables<'n, A, const XDP: bool, const DRY: bool> {
    node: &'n FakeNode<A>,
    flows: &'n FakeSlots<A>,
    role: Role,
    ifindex: u32,
}

impl<A: Addr> FakeTables<'_, A, false, true> {
    /// Decides about a packet; what it would become is in the work area that comes back.
    pub fn explain(&self, packet: &FakePacket) -> (Explained, Work<A>) {
        let mut work = Work::default();
        let explained = explain(&mut packet.clone(), self, &mut work);
        (explained, work)
    }
}

impl<A: Addr, const XDP: bool> FakeTables<'_, A, XDP, false> {
    /// Takes a packet through the datapath.
    pub fn run<P: Packet>(&self, packet: &mut P) -> Outcome {
        let work = &mut *self.node.work.borrow_mut();
        let verdict = process(packet, self, work);
        Outcome {
            verdict,
            hop: work.hop,
        }
    }
}

impl<'n, A: Addr, const XDP: bool, const DRY: bool> Tables<A> for FakeTables<'n, A, XDP, DRY> {
    type Slots = &'n FakeSlots<A>;
    type Hop = FakeHop<'n>;
    const HOOK: Hook = if XDP { Hook::Xdp } else { Hook::Tc };
    const DRY: bool = DRY;

    fn role(&self) -> Role {
        self.role
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ifindex
    }

    fn node(&self) -> &NodeConfig {
        &self.node.config
    }

    fn node_addr(&self) -> A {
        A::from_words(match A::FAMILY {
            Family::V4 => self.node.config.addr4.words(),
            Family::V6 => self.node.config.addr6.words(),
        })
    }

    fn maglev_key(&self) -> &HashKey {
        &self.node.maglev_key
    }

    fn flow_mask(&self) -> u32 {
        self.flows.mask()
    }

    fn slots(&self) -> &Self::Slots {
        &self.flows
    }

    fn service(&self, key: &ServiceKey<A>, into: &mut Service) -> bool {
        let known = self.node.services.borrow().get(key).copied();
        *into = known.unwrap_or(*into);
        known.is_some()
    }

    fn stamp(&self, key: &ServiceKey<A>) -> Option<(u32, u32)> {
        let services = self.node.services.borrow();
        services
            .get(key)
            .map(|service| (service.id, service.version))
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.node.slots.borrow().get(&index).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend<A>> {
        self.node.backends.borrow().get(&id).copied()
    }

    fn connections(&self, id: u32) -> u32 {
        self.node
            .connections
            .borrow()
            .get(&id)
            .copied()
            .unwrap_or(0)
    }

    fn add_connections(&self, id: u32, change: u32) {
        let mut connections = self.node.connections.borrow_mut();
        let count = connections.entry(id).or_default();
        *count = count.wrapping_add(change);
    }

    fn place(&self, addr: A) -> u32 {
        self.node.prefix(place::NODE_SPACE, addr)
    }

    fn allows(&self, guard: u32, client: A) -> bool {
        self.node.prefix(guard, client) == place::ALLOWED
    }

    fn affinity(&self, key: &AffinityKey<A>, into: &mut Affinity) -> bool {
        let known = self.node.affinity.borrow().get(key).copied();
        *into = known.unwrap_or(*into);
        known.is_some()
    }

    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) -> bool {
        let mut there = self.node.affinity.borrow_mut();
        let has_room = there.contains_key(key) || there.len() < self.node.affinity_room.get();
        if has_room {
            there.insert(*key, *affinity);
        }
        has_room
    }

    fn source(&self, key: &SourceKey, into: &mut Source<A>) -> bool {
        let known = self.node.sources.borrow().get(key).copied();
        *into = known.unwrap_or_default();
        known.is_some()
    }

    fn has_socket(&self, key: &FlowKey<A>) -> bool {
        self.node.sockets.borrow().contains(key)
    }

    fn hairpin_addr(&self) -> A {
        A::from_words(match A::FAMILY {
            Family::V4 => self.node.config.hairpin4.words(),
            Family::V6 => self.node.config.hairpin6.words(),
        })
    }

    fn hop(&self, index: u32) -> Option<FakeHop<'n>> {
        self.node
            .hops
            .get((index & NextHopRef::INDEX_MASK) as usize)
            .map(FakeHop)
    }

    fn may_redirect(&self, ifindex: u32) -> bool {
        self.node.xdp_devices.borrow().contains(&ifindex)
    }

    fn has_peer(&self, ifindex: u32) -> bool {
        self.node.peer_devices.borrow().contains(&ifindex)
    }

    fn route(&self, ends: &Ends<A>, len: u32, hop: &mut NextHop, source: &mut A) -> Route {
        *source = A::default();
        let routes = self.node.routes.borrow();
        let Some((route, found)) = routes.get(&ends.dst) else {
            return Route::None;
        };
        if *route != Route::None {
            *source = *self.node.source.borrow();
        }
        // The kernel tells a packet that is too large before it looks for the neighbour.
        let mtu = if *route == Route::Unresolved && len <= found.mtu {
            0
        } else {
            found.mtu
        };
        *hop = NextHop {
            stamp: hop.stamp,
            valid_until: hop.valid_until,
            mtu,
            ..*found
        };
        *route
    }

    fn recall(&self, key: &FlowKey<A>, id: u32, now: Tick) -> u64 {
        record::find(
            &&self.node.fragments,
            &self.node.config.hash_key,
            key,
            id,
            now,
        )
        .0
    }

    fn note(&self, key: &FlowKey<A>, id: u32, now: Tick) {
        record::note(
            &&self.node.fragments,
            &self.node.config.hash_key,
            key,
            id,
            now,
        );
    }

    fn hold<P: Packet>(&self, packet: &P, datagram: &PieceKey, now: Tick) -> u64 {
        let pieces = &self.node.pieces;
        let mut words = vec![0; FRAME_LEN / 4];
        if packet.copy(&mut words, packet.len()).is_none() {
            return 0;
        }
        let claim = shelf::claim(&pieces, &self.node.config, datagram, now);
        if let Some(row) = claim
            .is_some()
            .then(|| pieces.row(claim.buffer()))
            .flatten()
        {
            let mut bytes = bytemuck::cast_slice::<u32, u8>(&words).to_vec();
            bytes.truncate(packet.len() as usize);
            self.node.kept.borrow_mut().insert(claim.buffer(), bytes);
            let frame = Frame {
                ifindex: self.ifindex,
                l2: 0,
                len: packet.len(),
            };
            shelf::publish(row, claim, datagram, frame, now);
        }
        claim.0
    }

    fn take_back(&self, claim: u64) -> bool {
        let claim = Claim(claim);
        self.node
            .pieces
            .row(claim.buffer())
            .is_some_and(|row| shelf::take_back(row, claim))
    }

    fn release(&self, datagram: &PieceKey, now: Tick) -> Released {
        let pieces = &self.node.pieces;
        let first = shelf::first_buffer(&self.node.config, datagram).unwrap_or(0);
        let mut released = Released::None;
        for buffer in first..first + capacity::PIECES_PER_SET {
            let claim = shelf::release(&pieces, buffer, datagram, now);
            let Some(row) = pieces.row(buffer).filter(|_| claim.is_some()) else {
                continue;
            };
            released = Released::Some;
            let ifindex = shelf::frame(row).ifindex;
            let kept = self.node.kept.borrow_mut().remove(&buffer);
            shelf::give_back(row, claim);
            let packet = FakePacket::new(kept.unwrap_or_default());
            self.node.released.borrow_mut().push((ifindex, packet));
        }
        released
    }

    fn takeover(&self) -> u32 {
        self.node.takeover.get()
    }

    fn now(&self) -> Tick {
        self.node.now()
    }

    fn random(&self) -> u32 {
        self.node.random()
    }

    fn count(&self, reason: Reason) {
        if !DRY {
            *self.node.counts.borrow_mut().entry(reason).or_default() += 1;
        }
    }
}

/// One next hop's memory.
#[derive(Clone, Copy, Debug)]
pub struct FakeHop<'n>(&'n Cell<NextHop>);

impl HopMemory for FakeHop<'_> {
    fn read(self, into: &mut NextHop) {
        *into = self.0.get();
    }

    fn write(self, hop: &NextHop) {
        self.0.set(NextHop {
            stamp: self.0.get().stamp,
            ..*hop
        });
    }

    fn exchange_stamp(self, old: u32, new: u32) -> bool {
        let hop = self.0.get();
        if hop.stamp == old {
            self.0.set(NextHop { stamp: new, ..hop });
        }
        hop.stamp == old
    }

    fn prolong(self, valid_until: Tick, mtu: u32) {
        self.0.set(NextHop {
            valid_until,
            mtu,
            ..self.0.get()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::Addr6;

    #[test]
    fn a_prefix_may_end_anywhere() {
        let addr = |ip: &str| Addr6::from_ip(ip.parse().expect("literal")).expect("IPv6");
        let (a, b) = (addr("fd00:0:0:8000::1"), addr("fd00:0:0:c000::1"));
        assert!(shares(a, b, 0) && shares(a, b, 32) && shares(a, b, 49));
        assert!(!shares(a, b, 50) && !shares(a, b, 64) && !shares(a, b, 128));
        assert!(shares(a, a, 128));
    }
}
