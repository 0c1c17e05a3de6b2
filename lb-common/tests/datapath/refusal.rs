//! What is not ours goes on untouched; what is ours and cannot be sent is dropped. Each for a reason.

use lb_common::{
    abi::{
        NextHop,
        Reason::{
            self, DropFlowTableFull, DropNoRoute, DropTooBig, DropTtl, HitReply, Open,
            PassMalformed, PassNoService, PassProtocol, RejectNoBackend, RejectNoFlow, Resolved,
        },
    },
    datapath::{
        Route, Verdict,
        Via::{Kernel, Neighbour},
    },
    fake::{FakePacket, PacketSpec, Transport, error_about},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        icmp::IcmpError,
    },
};

use crate::answers::answers;
use crate::world::{
    ACK, CLIENT_PORT, MTU, RST, SYN, SYN_ACK, UDP, World, answer, delivered, for_both_families,
    forwarded, is_reset, leaves, local_pod, node_addr, outsider, remote_pod, request, sends,
    to_gateway, to_pod, vip,
};

for_both_families!(
    what_is_no_service_passes,
    a_packet_cut_short_anywhere_passes,
    a_tcp_header_of_impossible_length_passes,
    only_a_syn_opens_a_connection,
    no_route_drops,
    the_last_hop_is_not_taken_away,
    a_packet_larger_than_the_route_takes_is_dropped,
    segments_count_not_the_packet_they_are_cut_from,
    a_known_flow_is_refused_by_the_same_rules,
    an_unresolved_neighbour_is_left_to_the_kernel,
    a_full_flow_table_refuses,
);

#[track_caller]
fn passes<A: Addr>(world: &World<A>, packet: &FakePacket, reason: Reason) {
    leaves(&world.node, world.pod(), packet, Verdict::Pass, &[reason]);
}

/// Dropped, and the sender told so.
#[track_caller]
fn answered<A: Addr>(world: &World<A>, packet: &FakePacket, error: IcmpError) {
    let (reason, dialled) = match error {
        IcmpError::TooBig(_) => (DropTooBig, vip::<A>(1)),
        IcmpError::TimeExceeded => (DropTtl, node_addr()),
        IcmpError::PortUnreachable => (RejectNoBackend, vip(1)),
    };
    let expected = error_about(packet, error, (dialled, local_pod(9)));
    answers(&world.node, world.pod(), packet, &expected, reason);
}

#[track_caller]
fn drops<A: Addr>(world: &World<A>, packet: &FakePacket, reason: Reason) {
    leaves(&world.node, world.pod(), packet, Verdict::Drop, &[reason]);
}

/// A request with some of its bytes replaced.
fn with_bytes<A: Addr>(transport: Transport, at: usize, bytes: &[u8]) -> FakePacket {
    let mut packet = request::<A>(local_pod(9), transport).packet();
    packet.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    packet
}

fn ip_header_len<A: Addr>() -> usize {
    match A::FAMILY {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

fn what_is_no_service_passes<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for transport in [SYN, ACK, RST, UDP] {
        let to = |addr: A, port| {
            PacketSpec::new((local_pod(9), CLIENT_PORT), (addr, port), transport).packet()
        };
        passes(&world, &to(vip(1), 81), PassNoService);
        passes(&world, &to(vip(2), 80), PassNoService);
        passes(&world, &to(node_addr(), 80), PassNoService);
    }
    let back = answer(&request::<A>(local_pod(9), ACK), ACK);
    passes(&world, &back.packet(), PassNoService);
}

fn a_packet_cut_short_anywhere_passes<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for transport in [SYN, UDP] {
        let whole = request::<A>(local_pod(9), transport).packet();
        for len in 0..whole.bytes().len() {
            let cut = FakePacket::new(whole.bytes()[..len].to_vec());
            passes(&world, &cut, PassMalformed);
        }
    }
}

/// Also where the frame is long enough, by what pads it.
fn a_tcp_header_of_impossible_length_passes<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let at = ip_header_len::<A>() + 12;
    for words in (0..5).chain(7..16) {
        passes(
            &world,
            &with_bytes::<A>(SYN, at, &[words << 4]),
            PassMalformed,
        );
    }
}

#[test]
fn a_malformed_ipv4_header_passes() {
    let world = World::<Addr4>::with_local_backends(1);
    let len = request::<Addr4>(local_pod(9), UDP).packet().bytes()[3];
    for first in [0x00, 0x05, 0x40, 0x44, 0x4f, 0x55, 0x65, 0xf5] {
        passes(
            &world,
            &with_bytes::<Addr4>(UDP, 0, &[first]),
            PassMalformed,
        );
    }
    for total in [0, 19, 20, 27, len + 1, 255] {
        passes(
            &world,
            &with_bytes::<Addr4>(UDP, 2, &[0, total]),
            PassMalformed,
        );
    }
    passes(
        &world,
        &with_bytes::<Addr4>(UDP, 2, &[0xff, 0xff]),
        PassMalformed,
    );
}

#[test]
fn a_malformed_ipv6_header_passes() {
    let world = World::<Addr6>::with_local_backends(1);
    let len = request::<Addr6>(local_pod(9), UDP).packet().bytes()[5];
    for first in [0x00, 0x45, 0x50, 0x70] {
        passes(
            &world,
            &with_bytes::<Addr6>(UDP, 0, &[first]),
            PassMalformed,
        );
    }
    for payload in [0, 7, len + 1, 255] {
        passes(
            &world,
            &with_bytes::<Addr6>(UDP, 4, &[0, payload]),
            PassMalformed,
        );
    }
}

#[test]
fn other_protocols_pass() {
    let world = World::<Addr4>::with_local_backends(1);
    for protocol in [1, 2, 4, 47, 50, 58, 136] {
        passes(
            &world,
            &with_bytes::<Addr4>(UDP, 9, &[protocol]),
            PassProtocol,
        );
    }
    let world = World::<Addr6>::with_local_backends(1);
    for next_header in [50, 51, 58, 59, 135, 136] {
        passes(
            &world,
            &with_bytes::<Addr6>(UDP, 6, &[next_header]),
            PassProtocol,
        );
    }
}

fn only_a_syn_opens_a_connection<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for flags in (0..=u8::MAX).filter(|flags| flags & 0b1_0110 != 0b0_0010) {
        let late = request::<A>(local_pod(9), Transport::Tcp(flags));
        if flags & 0b100 == 0 {
            is_reset(&world, world.pod(), &late);
        } else {
            // A RST is never answered.
            drops(&world, &late.packet(), RejectNoFlow);
        }
    }
    // ECN-setup SYN (RFC 3168) and TCP Fast Open are SYNs like any other.
    let syn = PacketSpec {
        payload: vec![1; 100],
        ..request(local_pod(9), Transport::Tcp(0xc2))
    };
    let there = forwarded(&syn, local_pod(1));
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
}

fn no_route_drops<A: Addr>() {
    let world = World::<A>::new().and_backends(1, |n| outsider(n), 0);
    world.node.set_route(outsider(1), Route::None, to_gateway());
    drops(
        &world,
        &request::<A>(local_pod(9), SYN).packet(),
        DropNoRoute,
    );
    // Nothing stays behind of it: the next packet opens the connection.
    world
        .node
        .set_route(outsider(1), Route::Neighbour, to_gateway());
    world.serve(&[1]);
    let syn = request(local_pod(9), SYN);
    let there = forwarded(&syn, outsider(1));
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_gateway()),
        &[Resolved, Open],
    );
}

fn the_last_hop_is_not_taken_away<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for ttl in [0, 1] {
        let packet = PacketSpec {
            ttl,
            ..request::<A>(local_pod(9), SYN)
        }
        .packet();
        answered(&world, &packet, IcmpError::TimeExceeded);
    }
}

fn a_packet_larger_than_the_route_takes_is_dropped<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let room = MTU as usize - ip_header_len::<A>() - 8;
    let of = |len| PacketSpec {
        payload: vec![0; len],
        ..request::<A>(local_pod(9), UDP)
    };
    answered(&world, &of(room + 1).packet(), IcmpError::TooBig(MTU));
    let (fits, there) = (of(room), forwarded(&of(room), local_pod(1)));
    sends(
        &world.node,
        world.pod(),
        &fits,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
}

fn segments_count_not_the_packet_they_are_cut_from<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let syn = request(local_pod(9), SYN);
    let there = forwarded(&syn, local_pod(1));
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_pod()),
        &[Resolved, Open],
    );
    let data = PacketSpec {
        transport: ACK,
        payload: vec![0; 60_000],
        ..syn
    };
    let room = MTU - u32::try_from(ip_header_len::<A>()).expect("20 or 40") - 20;
    let cut = data.packet().cut_into(room + 1);
    answered(&world, &cut, IcmpError::TooBig(MTU));
    let mut packet = data.packet().cut_into(room);
    assert_eq!(
        world.pod().run(&mut packet).verdict,
        Verdict::Send(Neighbour)
    );
    assert_eq!(packet, forwarded(&data, local_pod(1)).packet());
}

fn a_known_flow_is_refused_by_the_same_rules<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let syn = request(local_pod(9), SYN);
    let there = forwarded(&syn, remote_pod(1));
    sends(
        &world.node,
        world.pod(),
        &syn,
        &there,
        (Kernel, to_gateway()),
        &[Resolved, Open],
    );
    let last = PacketSpec {
        ttl: 1,
        ..syn.clone()
    };
    answered(&world, &last.packet(), IcmpError::TimeExceeded);
    let big = PacketSpec {
        payload: vec![0; MTU as usize],
        ..syn.clone()
    };
    answered(&world, &big.packet(), IcmpError::TooBig(MTU));
    // The answer's way is asked from the FIB, which no longer knows the client.
    world.node.set_route(local_pod(9), Route::None, to_pod());
    let back = answer(&there, SYN_ACK);
    leaves(
        &world.node,
        world.uplink(),
        &back.packet(),
        Verdict::Drop,
        &[DropNoRoute],
    );
    world
        .node
        .set_route(local_pod(9), Route::Neighbour, to_pod());
    let home = delivered(&syn, SYN_ACK);
    sends(
        &world.node,
        world.uplink(),
        &back,
        &home,
        (Kernel, to_pod()),
        &[Resolved, HitReply],
    );
}

/// The kernel resolves it; a packet that is too large on the way there is answered all the same.
fn an_unresolved_neighbour_is_left_to_the_kernel<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    world
        .node
        .set_route(remote_pod(1), Route::Unresolved, to_gateway());
    let unknown = NextHop {
        mtu: 0,
        ..to_gateway()
    };
    let query = PacketSpec {
        payload: vec![0; 1_000],
        ..request(local_pod(9), UDP)
    };
    let big = PacketSpec {
        payload: vec![0; 2_000],
        ..query.clone()
    };
    answered(&world, &big.packet(), IcmpError::TooBig(MTU));
    let there = forwarded(&query, remote_pod(1));
    sends(
        &world.node,
        world.pod(),
        &query,
        &there,
        (Kernel, unknown),
        &[Resolved, Open],
    );
    let counts = [Resolved, Reason::HitOriginal];
    sends(
        &world.node,
        world.pod(),
        &query,
        &there,
        (Kernel, unknown),
        &counts,
    );
}

/// Every client goes on after its answer, so no connection makes room for another.
fn a_full_flow_table_refuses<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let mut refused = 0;
    for port in 1..=600 {
        let syn = PacketSpec {
            sport: port,
            ..request::<A>(local_pod(9), SYN)
        };
        let there = forwarded(&syn, local_pod(1));
        if world.pod().run(&mut syn.packet()).verdict == Verdict::Drop {
            refused += 1;
            continue;
        }
        let answered = world.pod().run(&mut answer(&there, SYN_ACK).packet());
        assert!(matches!(answered.verdict, Verdict::Send(_)), "port {port}");
        let goes_on = PacketSpec {
            transport: ACK,
            ..syn
        };
        world.pod().run(&mut goes_on.packet());
    }
    let counts = world.node.take_counts();
    // A connection takes two of the 1,024 slots.
    assert!(refused >= 600 - 512, "{refused}");
    assert_eq!(counts[&DropFlowTableFull], refused);
    assert_eq!(counts[&Open], 600 - refused);
    assert_eq!(counts[&HitReply], 600 - refused);
}
