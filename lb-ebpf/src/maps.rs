//! The map statics, and which of them belong to which family.
//!
//! Capacities are those of [`capacity`]; the loader resizes them. All values are defined, with their
//! readers and writers, in [`lb_common::abi`].

use aya_ebpf::{
    Global,
    bindings::{__sk_buff, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, xdp_md},
    btf_maps::{Array, DevMapHash, HashMap, LpmTrie, LruHashMap, PerCpuArray},
    macros::btf_map,
};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, Dialled, DialledKey, FlowSlot, Fragment, HeldPiece,
        NextHop, NodeConfig, PlaceKey, Reason, Service, ServiceKey, Source, SourceKey, TraceRecord,
        capacity,
        former::{IN_ORDER, Layouts},
        held_piece::FRAME_LEN,
    },
    datapath::Work,
    flow::FlowKey,
    hash::HashKey,
    net::addr::{Addr, Addr4, Addr6},
    select::MAGLEV_KEY,
};

use crate::{
    memory::{
        glance4, glance6, oldest4, oldest6, outdo4, outdo6, reserve4, reserve6, room4, room6,
        search4, search6, unmark4, unmark6,
    },
    pieces::{note4, note6, recall4, recall6},
    stages::{try_source_tc4, try_source_tc6, try_source_xdp4, try_source_xdp6},
};

/// The agent adds and removes services at run time: memory only for those that are there.
pub(crate) type Services<A> = HashMap<
    ServiceKey<A>,
    Service,
    { capacity::SERVICES as usize },
    { BPF_F_NO_PREALLOC as usize },
>;
pub(crate) type Backends<A> = Array<Backend<A>, { capacity::BACKENDS as usize }>;
/// Mappable, which also puts the slots on page boundaries, so that one never straddles two cache lines.
pub(crate) type Flows<A> =
    Array<FlowSlot<A>, { capacity::FLOWS as usize }, { BPF_F_MMAPABLE as usize }>;
pub(crate) type OtherFlows<A> = Array<FlowSlot<A>, 1, { BPF_F_MMAPABLE as usize }>;
pub(crate) type Places<A> = LpmTrie<PlaceKey<A>, u32, { capacity::PLACES as usize }>;
/// Memory only for clients that are there.
pub(crate) type Affinities<A> = HashMap<
    AffinityKey<A>,
    Affinity,
    { capacity::AFFINITY as usize },
    { BPF_F_NO_PREALLOC as usize },
>;
/// Addresses of devices that may stand in for clients'; memory only for those that are there.
pub(crate) type Sources<A> =
    HashMap<SourceKey, Source<A>, { capacity::SOURCES as usize }, { BPF_F_NO_PREALLOC as usize }>;
/// What sockets have dialled; where they are not met, the loader makes it one of one entry.
pub(crate) type DialledBy<A> =
    LruHashMap<DialledKey<A>, Dialled<A>, { capacity::DIALLED as usize }>;
pub(crate) type Connections = Array<u32, { capacity::BACKENDS as usize }>;
pub(crate) type Fragments<A> = Array<Fragment<A>, { capacity::FRAGMENTS as usize }>;

#[btf_map(name = "services4")]
static SERVICES4: Services<Addr4> = Services::new();
#[btf_map(name = "services6")]
static SERVICES6: Services<Addr6> = Services::new();
#[btf_map(name = "slots")]
pub(crate) static SLOTS: Array<u32, { capacity::SLOTS as usize }> = Array::new();
#[btf_map(name = "backends4")]
static BACKENDS4: Backends<Addr4> = Backends::new();
#[btf_map(name = "backends6")]
static BACKENDS6: Backends<Addr6> = Backends::new();
#[btf_map(name = "flows4")]
static FLOWS4: Flows<Addr4> = Flows::new();
#[btf_map(name = "flows6")]
static FLOWS6: Flows<Addr6> = Flows::new();
/// The table beside, while the flow table grows: then the loader gives it its size.
#[btf_map(name = "flows4_other")]
static FLOWS4_OTHER: OtherFlows<Addr4> = OtherFlows::new();
#[btf_map(name = "flows6_other")]
static FLOWS6_OTHER: OtherFlows<Addr6> = OtherFlows::new();
#[btf_map(name = "next_hops")]
pub(crate) static NEXT_HOPS: Array<NextHop, { capacity::NEXT_HOPS as usize }> = Array::new();
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();
#[btf_map(name = "places4")]
static PLACES4: Places<Addr4> = Places::new();
#[btf_map(name = "places6")]
static PLACES6: Places<Addr6> = Places::new();
#[btf_map(name = "affinity4")]
static AFFINITY4: Affinities<Addr4> = Affinities::new();
#[btf_map(name = "affinity6")]
static AFFINITY6: Affinities<Addr6> = Affinities::new();
#[btf_map(name = "sources4")]
static SOURCES4: Sources<Addr4> = Sources::new();
#[btf_map(name = "sources6")]
static SOURCES6: Sources<Addr6> = Sources::new();
#[btf_map(name = "dialled4")]
static DIALLED4: DialledBy<Addr4> = DialledBy::new();
#[btf_map(name = "dialled6")]
static DIALLED6: DialledBy<Addr6> = DialledBy::new();

#[btf_map(name = "fragments4")]
static FRAGMENTS4: Fragments<Addr4> = Fragments::new();
#[btf_map(name = "fragments6")]
static FRAGMENTS6: Fragments<Addr6> = Fragments::new();
#[btf_map(name = "pieces")]
pub(crate) static PIECES: Array<
    HeldPiece,
    { (capacity::PIECE_SETS * capacity::PIECES_PER_SET) as usize },
> = Array::new();
/// Which proxy has what: [`lb_common::abi::takeover`].
#[btf_map(name = "takeover")]
pub(crate) static TAKEOVER: Array<u32, 1> = Array::new();
/// Devices that XDP may send by though a packet came by another one; the kernel takes those out that go.
#[btf_map(name = "xdp_devices")]
pub(crate) static XDP_DEVICES: DevMapHash<{ capacity::XDP_DEVICES as usize }> = DevMapHash::new();
/// Host sides of pods' devices that packets may go past; asked when a next hop is looked up.
#[btf_map(name = "peer_devices")]
pub(crate) static PEER_DEVICES: HashMap<
    u32,
    u32,
    { capacity::PEER_DEVICES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
/// How many connections backends have: [`lb_common::abi::map::CONNECTIONS4`].
#[btf_map(name = "connections4")]
static CONNECTIONS4: Connections = Connections::new();
#[btf_map(name = "connections6")]
static CONNECTIONS6: Connections = Connections::new();
/// What a search among fragments has found so far.
#[btf_map(name = "scratch")]
pub(crate) static SCRATCH: PerCpuArray<[u32; 4], 1> = PerCpuArray::new();
/// A packet, while it serves to let others in.
#[btf_map(name = "spare")]
pub(crate) static SPARE: PerCpuArray<[u8; FRAME_LEN], 1> = PerCpuArray::new();

#[btf_map(name = "trace_record")]
pub(crate) static TRACE_RECORD: Array<TraceRecord, 1> = Array::new();

#[btf_map(name = "work4")]
static WORK4: PerCpuArray<Work<Addr4>, 1> = PerCpuArray::new();
#[btf_map(name = "work6")]
static WORK6: PerCpuArray<Work<Addr6>, 1> = PerCpuArray::new();

/// Load-time facts; the loader writes them before the verifier sees the program.
#[unsafe(no_mangle)]
pub(crate) static NODE: Global<NodeConfig> = Global::new(NodeConfig {
    flow_mask4: capacity::FLOWS - 1,
    flow_mask6: capacity::FLOWS - 1,
    ..NodeConfig::DEFAULT
});

/// The key under which Maglev services look packets up; the loader writes it if a flag gives another.
#[unsafe(no_mangle)]
pub(crate) static MAGLEV: Global<HashKey> = Global::new(MAGLEV_KEY);

/// The cookie of the network namespace whose sockets are given backends when they dial, if the loader writes one.
#[unsafe(no_mangle)]
pub(crate) static NETNS: Global<u64> = Global::new(0);

/// Where words of flow slots stand; the loader writes it if there is a layout before this one.
#[unsafe(no_mangle)]
pub(crate) static LAYOUTS: Global<Layouts> = Global::new(IN_ORDER);

/// One family's maps and facts; everything that uses them is written once.
pub(crate) trait FamilyMaps: Addr {
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    fn services() -> &'static Services<Self>;
    fn backends() -> &'static Backends<Self>;
    fn connections() -> &'static Connections;
    fn flows() -> &'static Flows<Self>;
    fn other_flows() -> &'static OtherFlows<Self>;
    fn places() -> &'static Places<Self>;
    fn affinities() -> &'static Affinities<Self>;
    fn sources() -> &'static Sources<Self>;
    fn dialled() -> &'static DialledBy<Self>;
    fn work() -> &'static PerCpuArray<Work<Self>, 1>;
    fn fragments() -> &'static Fragments<Self>;
    /// [`crate::pieces`]' global functions of the family.
    fn recall(key: &FlowKey<Self>, id: u32, now: u32) -> u64;
    fn note(key: &FlowKey<Self>, id: u32, now: u32) -> u64;
    /// [`crate::memory`]'s global function of the family.
    fn reserve(key: &FlowKey<Self>, request: u32, now: u32, twin: u32) -> u64;
    fn search(key: &FlowKey<Self>, base: u64) -> u64;
    fn glance(position: u32, now: u32) -> u64;
    fn room(home: u32, now: u32) -> u64;
    fn oldest(first: u32, second: u32, now: u32) -> u64;
    fn outdo(key: &FlowKey<Self>, mine: u32, base: u64) -> u32;
    /// [`lb_common::flow::table::FlowTable::unmark_homes_here`], checked by the verifier once.
    fn unmark(position: u32) -> u32;
    /// [`crate::stages`]' global functions of the family.
    fn try_source_tc(ctx: *mut __sk_buff, work: *mut Work<Self>, original: u32) -> u32;
    fn try_source_xdp(ctx: *mut xdp_md, work: *mut Work<Self>, original: u32) -> u32;
    fn flow_mask(node: &NodeConfig) -> u32;
    fn node_addr(node: &NodeConfig) -> Self;
    fn hairpin_addr(node: &NodeConfig) -> Self;
}

macro_rules! bind {
    ($addr:ty, $af:literal, $services:ident, $backends:ident, $connections:ident, $flows:ident, $others:ident, $places:ident, $affinities:ident, $sources:ident, $dialled:ident, $work:ident, $fragments:ident, $recall:path, $note:path, $reserve:path, $glance:path, $room:path, $search:path, $oldest:path, $outdo:path, $unmark:path, $try_tc:path, $try_xdp:path, $mask:ident, $own:ident, $hairpin:ident) => {
        impl FamilyMaps for $addr {
            const AF: u8 = $af;
            #[inline(always)]
            fn services() -> &'static Services<Self> {
                &$services
            }
            #[inline(always)]
            fn backends() -> &'static Backends<Self> {
                &$backends
            }
            #[inline(always)]
            fn connections() -> &'static Connections {
                &$connections
            }
            #[inline(always)]
            fn flows() -> &'static Flows<Self> {
                &$flows
            }
            #[inline(always)]
            fn other_flows() -> &'static OtherFlows<Self> {
                &$others
            }
            #[inline(always)]
            fn places() -> &'static Places<Self> {
                &$places
            }
            #[inline(always)]
            fn affinities() -> &'static Affinities<Self> {
                &$affinities
            }
            #[inline(always)]
            fn sources() -> &'static Sources<Self> {
                &$sources
            }
            #[inline(always)]
            fn dialled() -> &'static DialledBy<Self> {
                &$dialled
            }
            #[inline(always)]
            fn work() -> &'static PerCpuArray<Work<Self>, 1> {
                &$work
            }
            #[inline(always)]
            fn fragments() -> &'static Fragments<Self> {
                &$fragments
            }
            #[inline(always)]
            fn recall(key: &FlowKey<Self>, id: u32, now: u32) -> u64 {
                $recall(key, id, now)
            }
            #[inline(always)]
            fn note(key: &FlowKey<Self>, id: u32, now: u32) -> u64 {
                $note(key, id, now)
            }
            #[inline(always)]
            fn reserve(key: &FlowKey<Self>, request: u32, now: u32, twin: u32) -> u64 {
                $reserve(key, request, now, twin)
            }
            #[inline(always)]
            fn search(key: &FlowKey<Self>, base: u64) -> u64 {
                $search(key, base)
            }
            #[inline(always)]
            fn oldest(first: u32, second: u32, now: u32) -> u64 {
                $oldest(first, second, now)
            }
            #[inline(always)]
            fn outdo(key: &FlowKey<Self>, mine: u32, base: u64) -> u32 {
                $outdo(key, mine, base)
            }

            #[inline(always)]
            fn unmark(position: u32) -> u32 {
                $unmark(position)
            }
            #[inline(always)]
            fn glance(position: u32, now: u32) -> u64 {
                $glance(position, now)
            }
            #[inline(always)]
            fn room(home: u32, now: u32) -> u64 {
                $room(home, now)
            }
            #[inline(always)]
            fn try_source_tc(ctx: *mut __sk_buff, work: *mut Work<Self>, original: u32) -> u32 {
                $try_tc(ctx, work, original)
            }
            #[inline(always)]
            fn try_source_xdp(ctx: *mut xdp_md, work: *mut Work<Self>, original: u32) -> u32 {
                $try_xdp(ctx, work, original)
            }
            #[inline(always)]
            fn flow_mask(node: &NodeConfig) -> u32 {
                node.$mask
            }
            #[inline(always)]
            fn node_addr(node: &NodeConfig) -> Self {
                node.$own
            }
            #[inline(always)]
            fn hairpin_addr(node: &NodeConfig) -> Self {
                node.$hairpin
            }
        }
    };
}

bind!(
    Addr4,
    2,
    SERVICES4,
    BACKENDS4,
    CONNECTIONS4,
    FLOWS4,
    FLOWS4_OTHER,
    PLACES4,
    AFFINITY4,
    SOURCES4,
    DIALLED4,
    WORK4,
    FRAGMENTS4,
    recall4,
    note4,
    reserve4,
    glance4,
    room4,
    search4,
    oldest4,
    outdo4,
    unmark4,
    try_source_tc4,
    try_source_xdp4,
    flow_mask4,
    addr4,
    hairpin4
);
bind!(
    Addr6,
    10,
    SERVICES6,
    BACKENDS6,
    CONNECTIONS6,
    FLOWS6,
    FLOWS6_OTHER,
    PLACES6,
    AFFINITY6,
    SOURCES6,
    DIALLED6,
    WORK6,
    FRAGMENTS6,
    recall6,
    note6,
    reserve6,
    glance6,
    room6,
    search6,
    oldest6,
    outdo6,
    unmark6,
    try_source_tc6,
    try_source_xdp6,
    flow_mask6,
    addr6,
    hairpin6
);
