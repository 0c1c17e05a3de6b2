//! A connection's life: opened, followed both ways, closed, opened anew.

use lb_common::{
    abi::{
        Backend,
        Reason::{HitOriginal, HitReply, Open, PassNoService, Reopened, Resolved},
        ServiceKey, backend_flags,
    },
    datapath::{
        Verdict,
        Via::{Kernel, Neighbour},
    },
    fake::{PacketSpec, Transport},
    flow::clock::seconds,
    net::{addr::Addr, ip::proto},
};

use crate::world::{
    ACK, FIN, RST, SYN, SYN_ACK, UDP, World, answer, backend, delivered, for_both_families,
    forwarded, is_reset, leaves, local_pod, remote_pod, request, sends, to_gateway, to_pod,
};

for_both_families!(
    a_tcp_connection_is_opened_and_followed_both_ways,
    a_datagram_is_forwarded_and_answered,
    a_datagram_without_checksum_stays_without,
    a_remote_backend_answers_through_the_uplink,
    tcp_keeps_a_backend_that_leaves,
    udp_moves_on_when_its_backend_leaves,
    udp_stays_when_nobody_else_serves,
    udp_stays_when_the_service_is_gone,
    udp_notices_that_its_backend_is_another,
    a_syn_on_a_closed_connection_opens_it_anew,
    a_syn_on_an_established_connection_does_not,
    a_reset_ends_a_connection_after_a_minute,
    an_idle_connection_is_forgotten_and_a_busy_one_is_not,
);

/// Opens a connection from local pod 9 to local backend 1; returns the request.
fn connect<A: Addr>(world: &World<A>, transport: Transport) -> PacketSpec<A> {
    let request = request(local_pod(9), transport);
    let there = forwarded(&request, local_pod(1));
    sends(
        &world.node,
        world.pod(),
        &request,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
    request
}

/// Runs the backend's answer to `request`; the connection's first if `counts` says so.
fn answered<A: Addr>(world: &World<A>, request: &PacketSpec<A>, transport: Transport, first: bool) {
    let back = answer(&forwarded(request, local_pod(1)), transport);
    let (via, counts) = if first {
        (Kernel, vec![Resolved, HitReply])
    } else {
        (Neighbour, vec![HitReply])
    };
    let delivered = delivered(request, transport);
    sends(
        &world.node,
        world.pod(),
        &back,
        &delivered,
        (via, to_pod()),
        &counts,
    );
}

/// Runs another packet of a known flow, towards local backend 1.
fn follows<A: Addr>(world: &World<A>, packet: &PacketSpec<A>) {
    let there = forwarded(packet, local_pod(1));
    sends(
        &world.node,
        world.pod(),
        packet,
        &there,
        (Neighbour, to_pod()),
        &[HitOriginal],
    );
}

fn a_tcp_connection_is_opened_and_followed_both_ways<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = connect(&world, SYN);
    answered(&world, &syn, SYN_ACK, true);
    let options = if size_of::<A>() == 4 {
        vec![1; 8]
    } else {
        Vec::new()
    };
    let data = PacketSpec {
        transport: ACK,
        payload: vec![7; 1_000],
        options,
        ttl: 2,
        ..syn
    };
    follows(&world, &data);
    answered(&world, &data, ACK, false);
}

fn a_datagram_is_forwarded_and_answered<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, UDP);
    answered(&world, &query, UDP, true);
    follows(
        &world,
        &PacketSpec {
            payload: Vec::new(),
            ..query.clone()
        },
    );
    answered(&world, &query, UDP, false);
}

fn a_datagram_without_checksum_stays_without<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, Transport::UdpUnchecked);
    answered(&world, &query, Transport::UdpUnchecked, true);
}

fn a_remote_backend_answers_through_the_uplink<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let syn = request(local_pod(9), SYN);
    let there = forwarded(&syn, remote_pod(1));
    let out = (Kernel, to_gateway());
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        out,
        &[Resolved, Open],
    );
    let (back, home) = (answer(&there, SYN_ACK), delivered(&syn, SYN_ACK));
    sends(
        &world.node,
        world.uplink(),
        &back,
        &home,
        (Kernel, to_pod()),
        &[Resolved, HitReply],
    );
}

fn tcp_keeps_a_backend_that_leaves<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = connect(&world, SYN);
    world.leave(1, &[]);
    answered(&world, &syn, SYN_ACK, true);
    follows(
        &world,
        &PacketSpec {
            transport: ACK,
            ..syn.clone()
        },
    );
    follows(
        &world,
        &PacketSpec {
            transport: FIN,
            ..syn
        },
    );
}

fn udp_moves_on_when_its_backend_leaves<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    world.serve(&[1]);
    let query = connect(&world, UDP);
    answered(&world, &query, UDP, true);
    world.leave(1, &[2]);
    let there = forwarded(&query, local_pod(2));
    let counts = [Resolved, Reopened, Open];
    sends(
        &world.node,
        world.pod(),
        &query,
        &there,
        (Kernel, to_pod()),
        &counts,
    );
    let (back, home) = (answer(&there, UDP), delivered(&query, UDP));
    sends(
        &world.node,
        world.pod(),
        &back,
        &home,
        (Kernel, to_pod()),
        &[Resolved, HitReply],
    );
    // What the old backend still sends is the client's, for ten seconds and no longer.
    answered(&world, &query, UDP, false);
    world.wait(seconds(11));
    let late = answer(&forwarded(&query, local_pod(1)), UDP).packet();
    leaves(
        &world.node,
        world.pod(),
        &late,
        Verdict::Pass,
        &[PassNoService],
    );
}

fn udp_stays_when_nobody_else_serves<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, UDP);
    world.leave(1, &[]);
    follows(&world, &query);
}

fn udp_stays_when_the_service_is_gone<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, UDP);
    world.node.set_backend(1, None);
    world.node.set_service(
        ServiceKey::new(query.ends.dst, query.dport, proto::UDP),
        None,
    );
    follows(&world, &query);
}

/// The id was given to another endpoint since.
fn udp_notices_that_its_backend_is_another<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, UDP);
    let other = backend(local_pod(5), backend_flags::LOCAL);
    world.node.set_backend(
        1,
        Some(Backend {
            generation: 2,
            ..other
        }),
    );
    let there = forwarded(&query, local_pod(5));
    let counts = [Resolved, Reopened, Open];
    sends(
        &world.node,
        world.pod(),
        &query,
        &there,
        (Kernel, to_pod()),
        &counts,
    );
}

fn a_syn_on_a_closed_connection_opens_it_anew<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    world.serve(&[1]);
    let syn = connect(&world, SYN);
    answered(&world, &syn, SYN_ACK, true);
    follows(
        &world,
        &PacketSpec {
            transport: FIN,
            ..syn.clone()
        },
    );
    answered(&world, &syn, FIN, false);
    // The last acknowledgement is still translated.
    follows(
        &world,
        &PacketSpec {
            transport: ACK,
            ..syn.clone()
        },
    );
    world.serve(&[2]);
    let there = forwarded(&syn, local_pod(2));
    let counts = [Resolved, Reopened, Open];
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &counts,
    );
}

fn a_syn_on_an_established_connection_does_not<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    world.serve(&[1]);
    let syn = connect(&world, SYN);
    follows(&world, &syn);
    answered(&world, &syn, SYN_ACK, true);
    world.serve(&[2]);
    follows(&world, &syn);
}

fn a_reset_ends_a_connection_after_a_minute<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = connect(&world, SYN);
    answered(&world, &syn, SYN_ACK, true);
    let data = PacketSpec {
        transport: ACK,
        ..syn.clone()
    };
    follows(&world, &data);
    answered(&world, &syn, RST, false);
    world.wait(seconds(59));
    let late = PacketSpec {
        transport: RST,
        ..syn
    };
    let there = forwarded(&late, local_pod(1));
    let counts = [Resolved, HitOriginal];
    sends(
        &world.node,
        world.pod(),
        &late,
        &there,
        (Kernel, to_pod()),
        &counts,
    );
    world.wait(seconds(2));
    is_reset(&world, world.pod(), &data);
}

fn an_idle_connection_is_forgotten_and_a_busy_one_is_not<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let query = connect(&world, UDP);
    answered(&world, &query, UDP, true);
    follows(&world, &query);
    // Only the backend speaks, and the flow lives all the same.
    for _ in 0..4 {
        world.wait(seconds(170));
        let back = answer(&forwarded(&query, local_pod(1)), UDP);
        let (home, counts) = (delivered(&query, UDP), [Resolved, HitReply]);
        sends(
            &world.node,
            world.pod(),
            &back,
            &home,
            (Kernel, to_pod()),
            &counts,
        );
    }
    let there = forwarded(&query, local_pod(1));
    follows(&world, &query);
    world.wait(seconds(181));
    sends(
        &world.node,
        world.pod(),
        &query,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
}
