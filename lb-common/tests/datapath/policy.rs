//! Who may use which endpoints: the whole table, against the rules as kube-proxy writes them ([`crate::truth`]).

use std::collections::BTreeSet;

use lb_common::{
    abi::{
        Reason::{self, Answered, DropNoLocalBackend, PassToTc, RejectNoBackend},
        node::masquerade,
    },
    datapath::{Client, Hook, List, Tables, Verdict, Via},
    fake::{FakeTables, PacketSpec, Transport},
    net::addr::Addr,
};

use crate::{
    truth::{Cell, Fate, From, Front, addrs, ends_of},
    world::{SYN, UDP, World, assert_counts, for_both_families},
};

for_both_families!(
    a_client_reaches_the_endpoints_that_kube_proxy_gives_it,
    before_the_stack_the_choice_is_the_same,
    the_explanation_names_client_and_list,
);

const MODES: [u32; 3] = [
    masquerade::AS_NEEDED,
    masquerade::KUBE_PROXY,
    masquerade::ALL,
];
/// Connections after which an endpoint of two was met: one in 2^40 times it would not be.
const ENOUGH: u16 = 40;
/// Connections that no other endpoint may be met by.
const SOME: u16 = 6;

/// All cells of all modes; which source the FIB prefers is nothing to a policy.
fn cells() -> impl Iterator<Item = Cell> {
    let all = MODES.into_iter().flat_map(Cell::all);
    all.filter(|cell| !cell.prefers)
}

/// Runs a first packet; what XDP leaves goes on to TC.
fn dial<A: Addr, const XDP: bool>(
    cell: &Cell,
    world: &World<A>,
    first: FakeTables<'_, A, XDP, false>,
    spec: &PacketSpec<A>,
) -> (Verdict, Vec<u8>) {
    let mut packet = spec.packet();
    let mut verdict = first.run(&mut packet).verdict;
    if XDP && verdict == Verdict::Pass {
        assert_eq!(packet, spec.packet(), "{cell:?}");
        verdict = cell.from.program(world).run(&mut packet).verdict;
    }
    (verdict, packet.bytes().to_vec())
}

/// Asserts a cell's fate by the program that its packets meet first.
fn meets<A: Addr, const XDP: bool>(
    cell: &Cell,
    world: &World<A>,
    first: FakeTables<'_, A, XDP, false>,
    transport: Transport,
) {
    let refusal: Option<(Verdict, &[Reason])> = match cell.fate() {
        Fate::To { endpoints, .. } => {
            let (mut seen, expected) = (BTreeSet::new(), addrs::<A>(&endpoints));
            for sport in 1..=ENOUGH {
                let spec = cell.dials(sport, transport);
                let (verdict, packet) = dial(cell, world, first, &spec);
                assert!(matches!(verdict, Verdict::Send(_)), "{cell:?}: {verdict:?}");
                seen.insert(ends_of::<A>(&packet).dst);
                if sport >= SOME && seen == expected {
                    break;
                }
            }
            assert_eq!(seen, expected, "{cell:?}");
            None
        }
        Fate::Drop => Some((Verdict::Drop, &[DropNoLocalBackend])),
        Fate::Reject => Some((back(cell), &[RejectNoBackend, Answered])),
    };
    let Some((expected, counts)) = refusal else {
        return;
    };
    let (verdict, _) = dial(cell, world, first, &cell.dials(1, transport));
    assert_eq!(verdict, expected, "{cell:?}");
    // XDP drops, but never answers.
    let is_left = FakeTables::<'_, A, XDP, false>::HOOK == Hook::Xdp && expected != Verdict::Drop;
    let left = is_left.then_some(PassToTc);
    let counts: Vec<_> = counts.iter().copied().chain(left).collect();
    assert_counts(&world.node, &counts);
}

/// How an answer goes back.
fn back(cell: &Cell) -> Verdict {
    if cell.from.is_node() {
        Verdict::Send(Via::Host)
    } else {
        Verdict::Back
    }
}

fn a_client_reaches_the_endpoints_that_kube_proxy_gives_it<A: Addr>() {
    for cell in cells() {
        let as_needed = cell.mode == masquerade::AS_NEEDED;
        let world = cell.world::<A>();
        let transport = if as_needed { UDP } else { SYN };
        meets(&cell, &world, cell.from.program(&world), transport);
    }
}

fn before_the_stack_the_choice_is_the_same<A: Addr>() {
    let comes_by_uplink = |cell: &Cell| matches!(cell.from, From::PodPrefix | From::Outside);
    for cell in cells().filter(comes_by_uplink) {
        let world = cell.world::<A>();
        meets(&cell, &world, world.xdp(), SYN);
    }
}

/// One of a list's names is enough for a reader to know why an endpoint is not in it.
fn the_explanation_names_client_and_list<A: Addr>() {
    for cell in cells() {
        let world = cell.world::<A>();
        let (role, device) = cell.from.device();
        let (_, work) = world
            .node
            .dry(role, device)
            .explain(&cell.dials::<A>(1, SYN).packet());
        let as_needed = cell.mode == masquerade::AS_NEEDED;
        let client = match cell.from {
            From::Host | From::Loopback => Client::Host,
            From::PodDevice if as_needed => Client::Pod,
            _ if !cell.knows_pods && !as_needed => Client::Unknown,
            From::PodDevice | From::PodPrefix if cell.knows_pods => Client::Pod,
            _ => Client::External,
        };
        assert_eq!(work.call.client, client, "{cell:?}");
        let is_exempt = matches!(client, Client::Host | Client::Pod);
        let list = match cell.front {
            Front::ClusterIp if cell.internal_local => List::InternalLocal,
            Front::ClusterIp => List::Cluster,
            _ if cell.external_local && !is_exempt => List::ExternalLocal,
            _ => List::Cluster,
        };
        assert_eq!(work.call.list, list, "{cell:?}");
        let service = cell.service::<A>();
        assert_eq!(work.call.service, service, "{cell:?}");
        let range = [
            service.cluster,
            service.external_local,
            service.internal_local,
        ][list as usize];
        assert_eq!(work.call.range, range, "{cell:?}");
    }
}
