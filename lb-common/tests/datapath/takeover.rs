//! Connections change hands with another proxy: what passes to it, and what does not.

use lb_common::{
    abi::{
        Reason::{DropNotService, HitOriginal, Open, PassTakeover, RejectNoFlow},
        takeover::{APART, APART_PORTS, FROM, TO},
    },
    datapath::Verdict,
    fake::{FakeTables, PacketSpec, Transport},
    flow::{
        FlowKey, Rewrite,
        slot::{SlotFlags, State},
        table::{Existing, FlowTable, NewFlow},
    },
    net::addr::Addr,
};

use crate::world::{
    ACK, BACKEND_PORT, FIN, SYN, SYN_ACK, UDP, World, answer, for_both_families, forwarded,
    local_pod, outsider, remote_pod, request,
};

for_both_families!(
    what_is_late_passes_and_what_is_new_is_ours,
    what_is_new_passes_and_what_is_known_is_ours,
    a_flow_of_the_others_passes_in_both_directions,
    a_syn_takes_the_place_of_a_flow_of_the_others,
    a_syn_in_the_place_of_an_ended_flow_is_the_others,
    ports_of_the_node_lie_apart,
    where_none_is_left_apart_there_are_others,
);

fn send<A: Addr>(tables: &FakeTables<'_, A, false, false>, transport: Transport) -> Verdict {
    tables
        .run(&mut request::<A>(local_pod(9), transport).packet())
        .verdict
}

fn counted<A: Addr>(world: &World<A>, reason: lb_common::abi::Reason) -> u64 {
    world
        .node
        .take_counts()
        .get(&reason)
        .copied()
        .unwrap_or_default()
}

fn what_is_late_passes_and_what_is_new_is_ours<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    send(&world.pod(), ACK);
    assert_eq!(counted(&world, RejectNoFlow), 1);
    world.node.set_takeover(FROM);
    assert_eq!(send(&world.pod(), ACK), Verdict::Pass);
    assert_eq!(counted(&world, PassTakeover), 1);
    // Its route leads here: what nobody knows goes nowhere, but is not reset.
    assert_eq!(send(&world.host(), ACK), Verdict::Drop);
    assert_eq!(counted(&world, DropNotService), 1);
    for transport in [SYN, UDP] {
        send(&world.pod(), transport);
        assert_eq!(counted(&world, Open), 1);
    }
}

fn what_is_new_passes_and_what_is_known_is_ours<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    send(&world.pod(), UDP);
    world.node.set_takeover(FROM | TO);
    world.node.take_counts();
    assert_eq!(send(&world.pod(), SYN), Verdict::Pass);
    assert_eq!(counted(&world, PassTakeover), 1);
    send(&world.pod(), UDP);
    assert_eq!(counted(&world, HitOriginal), 1);
    // Netfilter has given the node's own to the other proxy before they come here.
    send(&world.host(), SYN);
    assert_eq!(counted(&world, Open), 1);
}

/// A flow of another proxy's between pod 9 and backend 1.
fn foreign<A: Addr>(world: &World<A>, transport: Transport, state: State) {
    let request = request::<A>(local_pod(9), transport);
    let there = forwarded(&request, local_pod(1)).key();
    let key: FlowKey<A> = request.key();
    let mut flow = NewFlow {
        rewrite: Rewrite {
            ends: there.ends,
            sport: there.sport,
            dport: BACKEND_PORT,
        },
        source: SlotFlags::FOREIGN,
        ..NewFlow::default()
    };
    let node = &world.node;
    let slots = node.flows();
    let table = FlowTable::new(&slots, node.flows().mask(), node.config(), node.now());
    table
        .open(&key, &mut flow, Existing::Keep)
        .expect("there is room");
    let found = table.find(&key).expect("it is there");
    if state != State::HalfOpen {
        table.advance(&found, state);
    }
}

fn a_flow_of_the_others_passes_in_both_directions<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    world.node.set_takeover(FROM);
    foreign(&world, ACK, State::Established);
    assert_eq!(send(&world.pod(), ACK), Verdict::Pass);
    assert_eq!(counted(&world, PassTakeover), 1);
    let there = forwarded(&request::<A>(local_pod(9), ACK), local_pod(1));
    let mut back = answer(&there, ACK).packet();
    assert_eq!(world.pod().run(&mut back).verdict, Verdict::Pass);
    assert_eq!(counted(&world, PassTakeover), 1);
}

fn a_syn_takes_the_place_of_a_flow_of_the_others<A: Addr>() {
    for (state, reason) in [
        (State::HalfOpen, PassTakeover),
        (State::Established, Open),
        (State::Closed, Open),
    ] {
        let world = World::<A>::with_local_backends(1);
        world.node.set_takeover(FROM);
        foreign(&world, SYN, state);
        send(&world.pod(), SYN);
        assert_eq!(counted(&world, reason), 1, "{state:?}");
    }
}

fn a_syn_in_the_place_of_an_ended_flow_is_the_others<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    send(&world.pod(), SYN);
    let there = forwarded(&request::<A>(local_pod(9), SYN), local_pod(1));
    let back = |transport| {
        let mut packet = answer(&there, transport).packet();
        world.pod().run(&mut packet);
    };
    back(SYN_ACK);
    send(&world.pod(), ACK);
    send(&world.pod(), FIN);
    back(FIN);
    world.node.set_takeover(FROM | TO);
    world.node.take_counts();
    for transport in [SYN, ACK] {
        assert_eq!(send(&world.pod(), transport), Verdict::Pass);
        assert_eq!(counted(&world, PassTakeover), 1);
    }
}

fn ports_of_the_node_lie_apart<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world.node.set_takeover(APART);
    let mut packet = request::<A>(outsider(1), SYN).packet();
    world.uplink().run(&mut packet);
    let there = forwarded(&request::<A>(outsider(1), SYN), remote_pod(1));
    let l4 = packet.bytes().len() - there.packet().bytes().len();
    let header = if there.packet().bytes()[0] >> 4 == 4 {
        20
    } else {
        40
    };
    let port = u16::from_be_bytes([packet.bytes()[l4 + header], packet.bytes()[l4 + header + 1]]);
    let (first, number) = APART_PORTS;
    assert!((first..first + number).contains(&u32::from(port)), "{port}");
}

/// A connection that might be taken for one of the other proxy's is better than none.
fn where_none_is_left_apart_there_are_others<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world.node.set_takeover(APART);
    let (_, number) = APART_PORTS;
    for sport in (20_000..).take(number as usize + 8) {
        let open = PacketSpec {
            sport,
            ..request::<A>(outsider(1), SYN)
        };
        let outcome = world.uplink().run(&mut open.packet());
        assert!(
            matches!(outcome.verdict, Verdict::Send(_)),
            "{sport}: {outcome:?}"
        );
    }
}
