//! Whose source gives way to one of this node's: each mode's whole table ([`crate::truth`]), and what it leads to.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{HitOriginal, HitReply, Open, OpenedForTc, PassToTc, Resolved},
        backend_flags,
        node::masquerade,
    },
    datapath::{
        Verdict,
        Via::{Host, Kernel, Neighbour, Stack},
    },
    fake::PacketSpec,
    net::addr::{Addr, Addr4, Addr6},
};

use crate::{
    truth::{Cell, Fate, From, Front, HERE, THERE, endpoint, ends_of, fib_source, publish},
    world::{
        BACKEND_PORT, CLIENT_PORT, SYN, SYN_ACK, UDP, World, answer, for_both_families, forwarded,
        hairpin, hands_over, leaves, local_pod, node_addr, outsider, preferred, remote_pod,
        renamed, request, sends, to_gateway, to_pod,
    },
};

for_both_families!(
    as_needed_a_source_gives_way_where_the_answer_would_stray,
    like_kube_proxy_a_source_gives_way_where_its_chains_say,
    with_masquerade_all_every_client_of_a_cluster_ip_gives_way,
    before_the_stack_a_source_gives_way_likewise,
    without_an_address_of_the_nodes_a_source_stays,
    a_pod_that_dials_itself_is_masqueraded_in_every_mode,
    a_pod_elsewhere_that_dials_itself_here_is_answered_here,
    a_masqueraded_client_of_a_process_here_comes_by_the_hosts_device,
    a_masqueraded_pod_is_answered_by_a_process_here,
    as_needed_a_client_of_a_process_here_keeps_its_source,
    the_node_that_dials_itself_is_masqueraded_only_in_name,
);

/// The source that a backend sees, and whether it is told to be this node's.
fn seen<A: Addr>(cell: &Cell, id: u8) -> (A, bool) {
    let client = cell.from.addr::<A>();
    let is_loopback = cell.from == From::Loopback;
    let is_due = match cell.mode {
        masquerade::AS_NEEDED => cell.strays(id),
        _ => matches!(
            cell.fate(),
            Fate::To {
                is_marked: true,
                ..
            }
        ),
    };
    if !is_due && !is_loopback {
        return (client, false);
    }
    let source = if cell.prefers {
        fib_source()
    } else if cell.from == From::Host && id == HERE {
        // As if the process had dialled the pod.
        client
    } else {
        node_addr()
    };
    let is_told = cell.mode != masquerade::AS_NEEDED || source != client;
    (source, is_told)
}

/// Asserts the source of a connection to each endpoint that a cell leads to, by TC and as it is explained.
fn is_seen<A: Addr>(cell: &Cell) {
    let Fate::To { endpoints, .. } = cell.fate() else {
        return;
    };
    let world = cell.world::<A>();
    let (role, device) = cell.from.device();
    for id in endpoints {
        let service = cell.service::<A>();
        // This endpoint alone.
        let only = |range: lb_common::abi::SlotRange| lb_common::abi::SlotRange {
            base: 100 + u32::from(id),
            count: range.count.min(1),
        };
        world.node.set_slot(100 + u32::from(id), id.into());
        let service = lb_common::abi::Service {
            version: 2,
            cluster: only(service.cluster),
            external_local: only(service.external_local),
            internal_local: only(service.internal_local),
            ..service
        };
        publish(&world, cell.front.addr(), service);
        let spec = cell.dials::<A>(u16::from(id), UDP);
        let (source, is_told) = seen::<A>(cell, id);
        let (_, work) = world.node.dry(role, device).explain(&spec.packet());
        assert_eq!(work.call.is_masqueraded, is_told, "{cell:?} to {id}");
        assert_eq!(work.flow.rewrite.ends.src, source, "{cell:?} to {id}");
        let mut there = forwarded(&spec, endpoint::<A>(id));
        there.ends.src = source;
        there.ttl = spec.ttl - u8::from(!cell.from.is_node());
        let hop = if id == HERE { to_pod() } else { to_gateway() };
        let opened = &[Resolved, Open];
        let program = cell.from.program(&world);
        sends(&world.node, program, &spec, &there, (Kernel, hop), opened);
    }
}

fn as_needed_a_source_gives_way_where_the_answer_would_stray<A: Addr>() {
    for cell in Cell::all(masquerade::AS_NEEDED) {
        is_seen::<A>(&cell);
    }
}

fn like_kube_proxy_a_source_gives_way_where_its_chains_say<A: Addr>() {
    for cell in Cell::all(masquerade::KUBE_PROXY) {
        is_seen::<A>(&cell);
    }
}

fn with_masquerade_all_every_client_of_a_cluster_ip_gives_way<A: Addr>() {
    let cells = Cell::all(masquerade::ALL);
    for cell in cells.iter().filter(|cell| cell.front == Front::ClusterIp) {
        is_seen::<A>(cell);
    }
    let others = cells.iter().filter(|cell| cell.front == Front::NodePort);
    for cell in others.filter(|cell| !cell.prefers) {
        is_seen::<A>(cell);
    }
}

/// XDP does not ask the FIB about an endpoint here, so the node's first address stands for the preferred one.
fn before_the_stack_a_source_gives_way_likewise<A: Addr>() {
    let comes_by_uplink = |cell: &Cell| matches!(cell.from, From::PodPrefix | From::Outside);
    for mode in [masquerade::AS_NEEDED, masquerade::KUBE_PROXY] {
        for cell in Cell::all(mode).into_iter().filter(comes_by_uplink) {
            let Fate::To { endpoints, .. } = cell.fate() else {
                continue;
            };
            let world = cell.world::<A>();
            world.note_way(to_gateway());
            for sport in 1..=8 {
                let spec = cell.dials::<A>(sport, SYN);
                let mut packet = spec.packet();
                let is_left = world.xdp().run(&mut packet).verdict == Verdict::Pass;
                if is_left {
                    cell.from.program(&world).run(&mut packet);
                }
                let ends = ends_of::<A>(packet.bytes());
                let id = if is_left { HERE } else { THERE };
                assert!(endpoints.contains(&id), "{cell:?}");
                assert_eq!(ends.dst, endpoint(id), "{cell:?}");
                let (mut source, _) = seen::<A>(&cell, id);
                if is_left && source == fib_source() {
                    source = node_addr();
                }
                assert_eq!(ends.src, source, "{cell:?} to {id}");
            }
        }
    }
}

fn without_addresses<A: Addr>(mode: u32) -> NodeConfig {
    NodeConfig {
        addr4: Addr4::default(),
        addr6: Addr6::default(),
        masquerade: mode,
        ..World::<A>::config()
    }
}

/// Better a strayed answer than a source that nobody has.
fn without_an_address_of_the_nodes_a_source_stays<A: Addr>() {
    for mode in [masquerade::AS_NEEDED, masquerade::KUBE_PROXY] {
        for cell in Cell::all(mode) {
            let Fate::To { .. } = cell.fate() else {
                continue;
            };
            let world = cell.world_of::<A>(without_addresses::<A>(mode));
            let spec = cell.dials::<A>(1, SYN);
            let mut packet = spec.packet();
            let verdict = cell.from.program(&world).run(&mut packet).verdict;
            assert_eq!(verdict, Verdict::Send(Kernel), "{cell:?}");
            let ends = ends_of::<A>(packet.bytes());
            let id = if ends.dst == endpoint(HERE) {
                HERE
            } else {
                THERE
            };
            // The FIB may still name a source.
            let (source, _) = seen::<A>(&cell, id);
            let source = match source {
                source if source == node_addr() => spec.ends.src,
                source => source,
            };
            assert_eq!(ends.src, source, "{cell:?} to {id}");
        }
    }
}

const MODES: [u32; 3] = [
    masquerade::AS_NEEDED,
    masquerade::KUBE_PROXY,
    masquerade::ALL,
];

fn in_mode<A: Addr>(mode: u32) -> World<A> {
    World::<A>::with_config(NodeConfig {
        masquerade: mode,
        ..World::<A>::config()
    })
}

fn a_pod_that_dials_itself_is_masqueraded_in_every_mode<A: Addr>() {
    for mode in MODES {
        let world = in_mode::<A>(mode).and_backends(1, local_pod, backend_flags::LOCAL);
        let open = request(local_pod(1), SYN);
        let mut there = forwarded(&open, local_pod(1));
        there.ends.src = hairpin();
        let (way, opened) = ((Kernel, to_pod()), &[Resolved, Open]);
        let (_, work) = world
            .node
            .dry(lb_common::datapath::Role::Pod, crate::world::POD_DEVICE)
            .explain(&open.packet());
        assert!(work.call.is_masqueraded);
        sends(&world.node, world.pod(), &open, &there, way, opened);
    }
}

/// Its packet goes back by the uplink that it came by: from the node, so that the answer passes here again.
fn a_pod_elsewhere_that_dials_itself_here_is_answered_here<A: Addr>() {
    for mode in MODES {
        let world = in_mode::<A>(mode).and_backends(1, remote_pod, 0);
        let open = request(remote_pod(1), SYN);
        let mut there = forwarded(&open, remote_pod(1));
        there.ends.src = node_addr();
        let way = (Kernel, to_gateway());
        let opened = &[Resolved, Open];
        sends(&world.node, world.uplink(), &open, &there, way, opened);
        let back = answer(&there, SYN_ACK);
        let home = crate::world::delivered(&open, SYN_ACK);
        let hit = &[Resolved, HitReply];
        sends(&world.node, world.uplink(), &back, &home, way, hit);
    }
}

/// The stack refuses a source of the node's own on the packet's way. The process answers over the loopback device.
fn a_masqueraded_client_of_a_process_here_comes_by_the_hosts_device<A: Addr>() {
    for is_first_at_xdp in [false, true] {
        let world = in_mode::<A>(masquerade::KUBE_PROXY).and_backends(
            1,
            |_| node_addr(),
            backend_flags::LOCAL,
        );
        let open = request(outsider(1), SYN);
        let there = renamed(
            &open,
            (node_addr(), CLIENT_PORT),
            (node_addr(), BACKEND_PORT),
        );
        let counts: &[_] = if is_first_at_xdp {
            let left = &[PassToTc, OpenedForTc];
            leaves(
                &world.node,
                world.xdp(),
                &open.packet(),
                Verdict::Pass,
                left,
            );
            &[HitOriginal]
        } else {
            &[Open]
        };
        hands_over(&world.node, world.uplink(), &open, &there, Host, counts);
        let hit = &[HitOriginal];
        hands_over(&world.node, world.uplink(), &open, &there, Host, hit);
        // The first hop of the way home is not taken here: the process has sent it.
        let (back, home) = (answer(&there, SYN_ACK), answer(&open, SYN_ACK));
        let way = (Kernel, to_gateway());
        let asked = &[Resolved, HitReply];
        sends(&world.node, world.lo(), &back, &home, way, asked);
    }
}

/// The answer finds the pod by the FIB, and from then on by what was noted.
fn a_masqueraded_pod_is_answered_by_a_process_here<A: Addr>() {
    let mode = masquerade::ALL;
    let world = in_mode::<A>(mode).and_backends(1, |_| node_addr(), backend_flags::LOCAL);
    for transport in [SYN, UDP] {
        let open = request(local_pod(9), transport);
        let (seen, process) = ((node_addr(), CLIENT_PORT), (node_addr(), BACKEND_PORT));
        let there = renamed(&open, seen, process);
        hands_over(&world.node, world.pod(), &open, &there, Host, &[Open]);
        let reply = if transport == UDP { UDP } else { SYN_ACK };
        let (back, home) = (answer(&there, reply), answer(&open, reply));
        for (via, counts) in [
            (Kernel, &[Resolved, HitReply][..]),
            (Neighbour, &[HitReply]),
        ] {
            let way = (via, to_pod());
            sends(&world.node, world.lo(), &back, &home, way, counts);
        }
    }
}

fn as_needed_a_client_of_a_process_here_keeps_its_source<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let open = request(outsider(1), SYN);
    let client = (outsider(1), CLIENT_PORT);
    let there = renamed(&open, client, (node_addr(), BACKEND_PORT));
    hands_over(&world.node, world.uplink(), &open, &there, Stack, &[Open]);
}

/// It dials from the address that a process of its own would be dialled from.
fn the_node_that_dials_itself_is_masqueraded_only_in_name<A: Addr>() {
    for mode in MODES {
        let world = in_mode::<A>(mode).and_backends(1, |_| node_addr(), backend_flags::LOCAL);
        let own = preferred();
        let open = request(own, SYN);
        let there = renamed(&open, (own, CLIENT_PORT), (node_addr(), BACKEND_PORT));
        hands_over(&world.node, world.host(), &open, &there, Host, &[Open]);
        let (back, home) = (answer(&there, SYN_ACK), answer(&open, SYN_ACK));
        hands_over(&world.node, world.lo(), &back, &home, Host, &[HitReply]);
        let loopback = From::Loopback.addr();
        let open = PacketSpec {
            sport: 7,
            ..request(loopback, SYN)
        };
        let there = renamed(&open, (node_addr(), 7), (node_addr(), BACKEND_PORT));
        hands_over(&world.node, world.lo(), &open, &there, Host, &[Open]);
        let (back, home) = (answer(&there, SYN_ACK), answer(&open, SYN_ACK));
        hands_over(&world.node, world.lo(), &back, &home, Host, &[HitReply]);
    }
}
