//! The datapath's tables on BPF maps: one body for both families and all programs.

use core::{
    arch::asm,
    ffi::c_void,
    intrinsics::{AtomicOrdering::SeqCst, atomic_xadd},
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_fib_lookup as FibLookup},
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_fib_lookup, bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, NextHop, NodeConfig, PieceKey, PlaceKey, Reason, Service,
        ServiceKey, Source, SourceKey, next_hop::NextHopRef, place,
    },
    datapath::{Hook, Packet, Released, Role, Route, Tables, Tried, Work},
    flow::{
        FlowKey,
        clock::{self, Tick},
    },
    hash::HashKey,
    net::ip::Ends,
};

use crate::{
    maps::{
        COUNTERS, FamilyMaps, MAGLEV, NEXT_HOPS, NODE, PEER_DEVICES, SLOTS, TAKEOVER, XDP_DEVICES,
    },
    memory::{KernelHop, KernelSlots, copy},
    packet::XdpPacket,
    pieces, socket,
    stages::{recollect_hop, remember_hop},
};

/// `BPF_FIB_LKUP_RET_SUCCESS` of `include/uapi/linux/bpf.h`.
const FIB_SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the route is found, the neighbour not resolved.
const FIB_NO_NEIGH: i64 = 7;
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`: the packet is larger than the route takes.
const FIB_FRAG_NEEDED: i64 = 8;

/// What one program run knows besides the maps.
pub(crate) struct KernelTables<const XDP: bool> {
    /// The program's context.
    pub(crate) ctx: *mut c_void,
    pub(crate) ifindex: u32,
    pub(crate) role: Role,
}

impl<A: FamilyMaps, const XDP: bool> Tables<A> for KernelTables<XDP> {
    type Slots = KernelSlots;
    type Hop = KernelHop;
    const HOOK: Hook = if XDP { Hook::Xdp } else { Hook::Tc };

    #[inline(always)]
    fn role(&self) -> Role {
        self.role
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    fn node(&self) -> &NodeConfig {
        node()
    }

    #[inline(always)]
    fn node_addr(&self) -> A {
        A::node_addr(node())
    }

    #[inline(always)]
    fn maglev_key(&self) -> &HashKey {
        let mut key = (&raw const MAGLEV).cast::<HashKey>();
        // SAFETY: an empty instruction, as in `node`.
        unsafe { asm!("", inout("r1") key, options(nomem, nostack, preserves_flags)) };
        // SAFETY: as in `node`.
        unsafe { &*key }
    }

    #[inline(always)]
    fn flow_mask(&self) -> u32 {
        A::flow_mask(node())
    }

    #[inline(always)]
    fn slots(&self) -> &KernelSlots {
        &KernelSlots
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey<A>, into: &mut Service) -> bool {
        // SAFETY: copied at once. The kernel may give the element to another key meanwhile; the datapath
        // checks version and backend before it believes the copy.
        unsafe { A::services().get(key).map(|service| copy(service, into)) }.is_some()
    }

    #[inline(always)]
    fn stamp(&self, key: &ServiceKey<A>) -> Option<(u32, u32)> {
        // SAFETY: as above.
        let service = unsafe { A::services().get(key) };
        service.map(|service| (service.id, service.version))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::backends().get(id).copied()
    }

    #[inline(always)]
    fn connections(&self, id: u32) -> u32 {
        A::connections().get_ptr(id).map_or(0, |count| {
            // SAFETY: a word of an array, which other CPUs write as a whole.
            unsafe { count.read_volatile() }
        })
    }

    #[inline(always)]
    fn add_connections(&self, id: u32, change: u32) {
        if let Some(count) = A::connections().get_ptr_mut(id) {
            // SAFETY: as above; aligned to 4.
            unsafe { atomic_xadd::<u32, u32, { SeqCst }>(count, change) };
        }
    }

    #[inline(always)]
    fn place(&self, addr: A) -> u32 {
        prefix(place::NODE_SPACE, addr)
    }

    #[inline(always)]
    fn allows(&self, guard: u32, client: A) -> bool {
        prefix(guard, client) == place::ALLOWED
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey<A>, into: &mut Affinity) -> bool {
        // SAFETY: copied at once. Torn by another CPU it names a backend that is checked like any other.
        unsafe { A::affinities().get(key).map(|known| copy(known, into)) }.is_some()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey<A>, affinity: &Affinity) -> bool {
        A::affinities()
            .insert(key, affinity, u64::from(BPF_ANY))
            .is_ok()
    }

    #[inline(always)]
    fn source(&self, key: &SourceKey, into: &mut Source<A>) -> bool {
        // SAFETY: copied at once. Torn, it names one of the node's addresses all the same.
        unsafe { A::sources().get(key).map(|source| copy(source, into)) }.is_some()
    }

    #[inline(always)]
    fn has_socket(&self, key: &FlowKey<A>) -> bool {
        socket::is_connected(self.ctx, key)
    }

    #[inline(always)]
    fn hairpin_addr(&self) -> A {
        A::hairpin_addr(node())
    }

    #[inline(always)]
    fn hop(&self, index: u32) -> Option<KernelHop> {
        NEXT_HOPS.get_ptr_mut(index).map(KernelHop)
    }

    #[inline(always)]
    fn may_redirect(&self, ifindex: u32) -> bool {
        XDP && XDP_DEVICES.get_ifindex(ifindex).is_some()
            && XdpPacket::new(self.ctx.cast()).is_linear()
    }

    #[inline(always)]
    fn has_peer(&self, ifindex: u32) -> bool {
        // SAFETY: only whether it is there is asked.
        !XDP && unsafe { PEER_DEVICES.get(&ifindex) }.is_some()
    }

    #[inline(always)]
    fn route(&self, ends: &Ends<A>, len: u32, hop: &mut NextHop, source: &mut A) -> Route {
        // The kernel refuses devices that do not forward, as the loopback device seldom does.
        let ifindex = match self.role {
            Role::Loopback => node().host_ifindex,
            _ => self.ifindex,
        };
        route(self.ctx, (ifindex, len), ends, hop, source)
    }

    #[inline(always)]
    fn recall(&self, key: &FlowKey<A>, id: u32, now: Tick) -> u64 {
        A::recall(key, id, now)
    }

    #[inline(always)]
    fn note(&self, key: &FlowKey<A>, id: u32, now: Tick) {
        A::note(key, id, now);
    }

    #[inline(always)]
    fn hold<P: Packet>(&self, packet: &P, datagram: &PieceKey, now: Tick) -> u64 {
        // Nothing is kept before the stack.
        if XDP {
            return 0;
        }
        pieces::hold(self.ctx.cast(), packet.len(), datagram, now)
    }

    #[inline(always)]
    fn take_back(&self, claim: u64) -> bool {
        pieces::take_back(claim)
    }

    #[inline(always)]
    fn release(&self, datagram: &PieceKey, now: Tick) -> Released {
        if XDP {
            return Released::None;
        }
        pieces::release(self.ctx.cast(), datagram, now)
    }

    #[inline(always)]
    fn remember(&self, hop: &NextHop, entry: &mut NextHop, now: Tick) -> NextHopRef {
        NextHopRef::from_bits(remember_hop(hop, entry, now) as u16)
    }

    #[inline(always)]
    fn recollect(&self, hop: &NextHop, entry: &mut NextHop, now: Tick) -> NextHopRef {
        NextHopRef::from_bits(recollect_hop(hop, entry, now) as u16)
    }

    #[inline(always)]
    fn try_source(&self, work: &mut Work<A>, original: u32) -> Tried {
        Tried(if XDP {
            A::try_source_xdp(self.ctx.cast(), work, original)
        } else {
            A::try_source_tc(self.ctx.cast(), work, original)
        })
    }

    #[inline(always)]
    fn takeover(&self) -> u32 {
        TAKEOVER.get(0).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        // SAFETY: takes nothing.
        clock::tick(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes nothing.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, reason: Reason) {
        if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own value; programs on one CPU do not interrupt each other.
            unsafe { *counter += 1 };
        }
    }
}

/// The load-time facts, read in place.
#[inline(always)]
pub(crate) fn node() -> &'static NodeConfig {
    let mut node = (&raw const NODE).cast::<NodeConfig>();
    // SAFETY: an empty instruction that hides where the pointer comes from: the compiler must not
    // take the initial values for the ones that the loader writes.
    unsafe { asm!("", inout("r1") node, options(nomem, nostack, preserves_flags)) };
    // SAFETY: `Global` is the value and nothing else, and the loader writes it before the program runs.
    unsafe { &*node }
}

/// What is known of an address in one space.
#[inline(always)]
fn prefix<A: FamilyMaps>(space: u32, addr: A) -> u32 {
    let mut key = MaybeUninit::<Key<PlaceKey<A>>>::uninit();
    let words = key.as_mut_ptr().cast::<u32>();
    let bits = size_of::<PlaceKey<A>>() as u32 * 8;
    // SAFETY: the key is a length, a space and an address, all of them words. One by one, since the compiler
    // would write two at once where the verifier wants words of eight bytes aligned.
    unsafe {
        words.write_volatile(bits);
        words.add(1).write_volatile(space);
        for (at, word) in addr
            .words()
            .into_iter()
            .take(size_of::<A>() / 4)
            .enumerate()
        {
            words.add(2 + at).write_volatile(word);
        }
    }
    // SAFETY: written in full.
    let key = unsafe { key.assume_init_ref() };
    A::places().get(key).copied().unwrap_or(0)
}

/// A MAC out of the query, half word by half word: it is not aligned to more, and the verifier refuses
/// unaligned reads of the stack.
#[inline(always)]
fn mac(bytes: &[u8; 6]) -> [u8; 6] {
    let halves = bytes.as_ptr().cast::<u16>();
    // SAFETY: six bytes, aligned to 2 inside the query.
    let [[a, b], [c, d], [e, f]] =
        [0, 1, 2].map(|half| unsafe { halves.add(half).read_volatile() }.to_ne_bytes());
    [a, b, c, d, e, f]
}

/// One FIB lookup, as if a packet of `len` bytes came in by `ifindex` and went to `ends.dst`.
#[inline(always)]
fn route<A: FamilyMaps>(
    ctx: *mut c_void,
    (ifindex, len): (u32, u32),
    ends: &Ends<A>,
    hop: &mut NextHop,
    source: &mut A,
) -> Route {
    let mut words = MaybeUninit::<[u64; size_of::<FibLookup>() / 8]>::uninit();
    let words = words.as_mut_ptr().cast::<u64>();
    for at in 0..size_of::<FibLookup>() / 8 {
        // SAFETY: inside the query. One by one: the compiler would call a function that does it byte by byte.
        unsafe { words.add(at).write_volatile(0) };
    }
    // SAFETY: as large as the query, aligned to more; all zero is a valid one.
    let query = unsafe { &mut *words.cast::<FibLookup>() };
    query.family = A::AF;
    query.ifindex = ifindex;
    // A length makes the kernel report the route's own MTU.
    query.__bindgen_anon_1.tot_len = len.min(0xffff) as u16;
    let addresses = [
        (offset_of!(FibLookup, __bindgen_anon_3), ends.src),
        (offset_of!(FibLookup, __bindgen_anon_4), ends.dst),
    ];
    for (offset, addr) in addresses {
        let at = (&raw mut *query)
            .cast::<u8>()
            .wrapping_add(offset)
            .cast::<u32>();
        for (word, value) in addr
            .words()
            .into_iter()
            .take(size_of::<A>() / 4)
            .enumerate()
        {
            // SAFETY: inside the query; one by one as in `prefix`.
            unsafe { at.add(word).write_volatile(value) };
        }
    }
    let size = size_of::<FibLookup>() as i32;
    let flags = node().fib_flags;
    // SAFETY: the context is this program's, the query `size` bytes long.
    let mut found = unsafe { bpf_fib_lookup(ctx, query, size, flags) };
    let mut narrow = 0;
    if found == FIB_FRAG_NEEDED {
        // That is all the kernel says of a packet that is too large: a small one finds the way.
        // SAFETY: both members of the union are a u16.
        narrow = u32::from(unsafe { query.__bindgen_anon_1.mtu_result });
        query.__bindgen_anon_1.tot_len = 1;
        // SAFETY: as above.
        found = unsafe { bpf_fib_lookup(ctx, query, size, flags) };
    }
    hop.ifindex = query.ifindex;
    // Without a route the query still holds the packet's own source.
    *source = if flags == 0 || !matches!(found, FIB_SUCCESS | FIB_NO_NEIGH) {
        A::default()
    } else {
        // SAFETY: both members of the union are plain words; IPv4 uses the first.
        A::from_words(unsafe { query.__bindgen_anon_3.ipv6_src })
    };
    match found {
        FIB_SUCCESS => {
            // SAFETY: both members of the union are a u16.
            hop.mtu = u32::from(unsafe { query.__bindgen_anon_1.mtu_result });
            hop.macs = NextHop::join_macs(mac(&query.dmac), mac(&query.smac));
            Route::Neighbour
        }
        FIB_NO_NEIGH => {
            hop.mtu = narrow;
            Route::Unresolved
        }
        _ => Route::None,
    }
}
