//! A pod that reaches itself through its service.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{HitOriginal, HitReply, Open, Resolved},
        backend_flags,
    },
    datapath::Via::{Kernel, Neighbour},
    net::addr::{Addr, Addr4, Addr6},
};

use crate::world::{
    SYN, SYN_ACK, UDP, World, answer, delivered, for_both_families, forwarded, hairpin, local_pod,
    node_addr, request, sends, to_pod,
};

for_both_families!(
    a_pod_that_dials_itself_sees_another_source,
    another_pod_keeps_its_own_source,
    without_a_hairpin_address_a_pod_reaches_itself_from_the_node,
);

fn a_pod_that_dials_itself_sees_another_source<A: Addr>() {
    for (transport, reply) in [(SYN, SYN_ACK), (UDP, UDP)] {
        let world = World::<A>::with_local_backends(1);
        let open = request(local_pod(1), transport);
        let mut there = forwarded(&open, local_pod(1));
        there.ends.src = hairpin();
        let opened = [Resolved, Open];
        let (asked, known) = ((Kernel, to_pod()), (Neighbour, to_pod()));
        sends(&world.node, world.pod(), &open, &there, asked, &opened);
        sends(
            &world.node,
            world.pod(),
            &open,
            &there,
            known,
            &[HitOriginal],
        );
        // The pod answers whom it sees; what comes back to it is from the service.
        let (back, home) = (answer(&there, reply), delivered(&open, reply));
        let first = [Resolved, HitReply];
        sends(&world.node, world.pod(), &back, &home, asked, &first);
        sends(&world.node, world.pod(), &back, &home, known, &[HitReply]);
    }
}

fn another_pod_keeps_its_own_source<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let open = request(local_pod(2), SYN);
    let there = forwarded(&open, local_pod(1));
    let way = (Kernel, to_pod());
    sends(
        &world.node,
        world.pod(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
}

fn without_a_hairpin_address_a_pod_reaches_itself_from_the_node<A: Addr>() {
    let world = World::<A>::with_config(NodeConfig {
        hairpin4: Addr4::default(),
        hairpin6: Addr6::default(),
        ..World::<A>::config()
    })
    .and_backends(1, local_pod, backend_flags::LOCAL);
    let open = request(local_pod(1), SYN);
    let mut there = forwarded(&open, local_pod(1));
    there.ends.src = node_addr();
    let way = (Kernel, to_pod());
    sends(
        &world.node,
        world.pod(),
        &open,
        &there,
        way,
        &[Resolved, Open],
    );
}
