//! Faults that an earlier release had: what others do while a packet is under way.

use std::cell::Cell;

use lb_common::{
    abi::{
        Reason::{Answered, HitOriginal, Open, PassNoService, RejectNoBackend, Resolved},
        ServiceKey,
        next_hop::NextHopRef,
    },
    datapath::{Verdict, Via::Kernel},
    fake::{FakeTables, PacketSpec, error_about},
    flow::{
        clock::{NEXT_HOP_VALID, seconds},
        slot::BackendRef,
        table::{Existing, FlowTable, NewFlow},
    },
    net::{addr::Addr, icmp::IcmpError},
};

use crate::{
    interleaved::{Interleaved, Moment},
    world::{
        SYN, SYN_ACK, UDP, World, answer, assert_counts, for_both_families, forwarded, leaves,
        local_pod, node_addr, outsider, remote_pod, request, sends, to_gateway,
    },
};

for_both_families!(
    a_slot_recycled_while_the_fib_was_asked_keeps_its_own_next_hop,
    a_flow_that_ends_between_two_looks_is_counted_all_the_same,
    an_answer_that_misses_on_its_way_out_opens_nothing,
);

/// Puts another connection into the slot of the one that a packet belongs to.
fn recycle<A: Addr>(world: &World<A>, packet: &PacketSpec<A>, next_hop: NextHopRef) {
    let (flows, key) = (world.node.flows(), packet.key());
    let config = world.node.config();
    let table = FlowTable::new(&flows, flows.mask(), config, world.node.now());
    let mut flow = NewFlow {
        backend: BackendRef {
            id: 2,
            generation: 1,
        },
        next_hop,
        ..NewFlow::default()
    };
    flow.rewrite.ends.src = packet.ends.src;
    flow.rewrite.ends.dst = remote_pod(2);
    let opened = table.open(&key, &mut flow, Existing::Replace);
    assert_eq!(opened, Ok(()), "nobody is in its way");
}

fn next_hop_of<A: Addr>(world: &World<A>, packet: &PacketSpec<A>) -> NextHopRef {
    let flows = world.node.flows();
    let config = world.node.config();
    let table = FlowTable::new(&flows, flows.mask(), config, world.node.now());
    table.find(&packet.key()).expect("opened").slot.next_hop()
}

/// The next hop is exchanged for the one that was read, not written: the FIB takes its time.
fn a_slot_recycled_while_the_fib_was_asked_keeps_its_own_next_hop<A: Addr>() {
    let world = World::<A>::with_remote_backends(2);
    world.serve(&[1]);
    let syn = request(local_pod(9), SYN);
    let there = forwarded(&syn, remote_pod(1));
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        way,
        &[Resolved, Open],
    );
    world.wait(NEXT_HOP_VALID + 1);
    let others = NextHopRef::new(77, 3);
    let program = Interleaved::new(world.pod(), |moment| {
        if moment == Moment::RouteAsked {
            recycle(&world, &syn, others);
        }
    });
    let mut packet = syn.packet();
    // This packet still goes where its own flow says.
    assert_eq!(program.run(&mut packet), Verdict::Send(Kernel));
    assert_eq!(packet, there.packet());
    assert_counts(&world.node, &[Resolved, HitOriginal]);
    assert_eq!(next_hop_of(&world, &syn), others);
}

/// The backend no longer serves and nobody else does, so the flow would stay; it ends before it is looked at again.
fn a_flow_that_ends_between_two_looks_is_counted_all_the_same<A: Addr>() {
    for is_removed in [false, true] {
        let world = World::<A>::with_remote_backends(1);
        let query = request(local_pod(9), UDP);
        let there = forwarded(&query, remote_pod(1));
        let way = (Kernel, to_gateway());
        sends(
            &world.node,
            world.pod(),
            &query,
            &there,
            way,
            &[Resolved, Open],
        );
        world.leave(1, &[]);
        let (verdict, reason) = if is_removed {
            let key = ServiceKey::new(query.ends.dst, query.dport, 17);
            world.node.set_service(key, None);
            (Verdict::Pass, PassNoService)
        } else {
            (Verdict::Back, RejectNoBackend)
        };
        let waited = Cell::new(false);
        let program = Interleaved::new(world.pod(), |moment| {
            if moment == Moment::ServiceRead && !waited.replace(true) {
                world.wait(seconds(31));
            }
        });
        let mut packet = query.packet();
        assert_eq!(program.run(&mut packet), verdict);
        if verdict == Verdict::Back {
            assert_counts(&world.node, &[reason, Answered]);
            let told = IcmpError::PortUnreachable;
            let told = error_about(&query.packet(), told, (query.ends.dst, query.ends.src));
            assert_eq!(packet.bytes(), told);
        } else {
            assert_counts(&world.node, &[reason]);
            assert_eq!(packet, query.packet());
        }
    }
}

/// Even if a service is where the answer goes.
fn an_answer_that_misses_on_its_way_out_opens_nothing<A: Addr>() {
    let world = World::<A>::with_backend_here();
    let egress: FakeTables<'_, A, false, false> = world.egress();
    let client = outsider(1);
    world.serve_at(client, &[1]);
    for transport in [SYN, SYN_ACK, UDP] {
        let mut back = answer(&request(client, transport), transport);
        back.ends.src = node_addr();
        back.dport = 80;
        let passed = &[PassNoService];
        leaves(&world.node, egress, &back.packet(), Verdict::Pass, passed);
    }
}
