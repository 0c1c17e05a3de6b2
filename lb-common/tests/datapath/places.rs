//! What is sent into a service CIDR and to no frontend.

use lb_common::{
    abi::{
        Reason::{
            DropNotService, DropUnallocated, HitOriginal, HitReply, Open, PassNoService, PassToTc,
            RejectNotServed, Resolved,
        },
        Service, ServiceKey, place, service_flags,
    },
    datapath::{
        Verdict,
        Via::{Host, Kernel, Neighbour},
    },
    fake::{FakePacket, PacketSpec, Transport, error_about},
    net::{addr::Addr, icmp::IcmpError, ip::proto},
};

use crate::{
    answers::answers,
    made::{Segment, sctp, tcp},
    world::{
        ACK, CLIENT_PORT, RST, SERVICE_PORT, SYN, UDP, World, addr, answer, assert_counts,
        delivered, for_both_families, forwarded, leaves, local_pod, node_addr, outsider,
        remote_pod, request, sends, to_gateway, vip,
    },
};

for_both_families!(
    an_address_that_no_service_has_leads_nowhere,
    outside_of_the_prefixes_nothing_is_dropped,
    a_port_that_no_service_has_is_refused,
    a_protocol_that_no_service_has_is_refused,
    before_the_stack_it_is_dropped_but_not_answered,
    a_longer_prefix_inside_is_what_it_says,
    a_shorter_prefix_around_is_what_it_says,
    a_frontend_needs_no_prefix,
    live_flows_outlive_their_service,
    the_way_out_of_the_node_is_not_looked_at,
);

const TRANSPORTS: [Transport; 4] = [SYN, ACK, RST, UDP];

/// A node with a service CIDR, its service, and the mark of an address that a service has.
fn world<A: Addr>() -> World<A> {
    let world = World::<A>::with_remote_backends(1);
    allot(&world);
    world
}

fn allot<A: Addr>(world: &World<A>) {
    world
        .node
        .set_place(addr(96, 0), World::<A>::net_bits(), place::SERVICES);
    let other = Service {
        id: 1_000,
        version: 1,
        flags: service_flags::ANY_PORT,
        ..Service::default()
    };
    world
        .node
        .set_service(ServiceKey::new(vip(1), 0, 0), Some(other));
}

fn to<A: Addr>(client: A, dst: (A, u16), transport: Transport) -> FakePacket {
    PacketSpec::new((client, CLIENT_PORT), dst, transport).packet()
}

fn an_address_that_no_service_has_leads_nowhere<A: Addr>() {
    let world = world::<A>();
    for transport in TRANSPORTS {
        for (program, client) in [
            (world.pod(), local_pod(9)),
            (world.uplink(), outsider(1)),
            (world.host(), node_addr()),
            (world.lo(), node_addr()),
        ] {
            for port in [0, SERVICE_PORT, 65_535] {
                let packet = to::<A>(client, (vip(2), port), transport);
                let counts = &[DropUnallocated];
                leaves(&world.node, program, &packet, Verdict::Drop, counts);
            }
        }
    }
    let packet = sctp((local_pod::<A>(9), 1), (vip(2), 2), 3, &[1; 20]);
    let packet = FakePacket::new(packet);
    let counts = &[DropUnallocated];
    leaves(&world.node, world.pod(), &packet, Verdict::Drop, counts);
}

fn outside_of_the_prefixes_nothing_is_dropped<A: Addr>() {
    let world = world::<A>();
    for transport in TRANSPORTS {
        for dst in [addr(95, 1), addr(97, 1), node_addr(), local_pod(1)] {
            let packet = to::<A>(local_pod(9), (dst, SERVICE_PORT), transport);
            let counts = &[PassNoService];
            leaves(&world.node, world.pod(), &packet, Verdict::Pass, counts);
        }
    }
}

fn a_port_that_no_service_has_is_refused<A: Addr>() {
    let world = world::<A>();
    for port in [0, 1, 81, 65_535] {
        let syn = Segment {
            ports: (CLIENT_PORT, port),
            flags: 2,
            ..Segment::default()
        };
        let reset = Segment {
            ports: (port, CLIENT_PORT),
            ack: 1,
            flags: 0x14,
            ..Segment::default()
        };
        let packet = tcp::<A>(local_pod(9), vip(1), &syn);
        let expected = tcp::<A>(vip(1), local_pod(9), &reset);
        let reason = RejectNotServed;
        answers(&world.node, world.pod(), &packet, expected.bytes(), reason);
        let packet = to::<A>(local_pod(9), (vip(1), port), UDP);
        let ends = (vip::<A>(1), local_pod(9));
        let told = error_about(&packet, IcmpError::PortUnreachable, ends);
        answers(&world.node, world.pod(), &packet, &told, reason);
    }
}

fn a_protocol_that_no_service_has_is_refused<A: Addr>() {
    let world = world::<A>();
    let key = ServiceKey::new(vip(1), SERVICE_PORT, proto::UDP);
    world.node.set_service(key, None);
    let packet = to::<A>(local_pod(9), (vip(1), SERVICE_PORT), UDP);
    let ends = (vip::<A>(1), local_pod(9));
    let told = error_about(&packet, IcmpError::PortUnreachable, ends);
    answers(&world.node, world.pod(), &packet, &told, RejectNotServed);
    let (client, service) = ((local_pod::<A>(9), 5), (vip(1), SERVICE_PORT));
    let packet = FakePacket::new(sctp(client, service, 7, &[3, 0, 0, 8, 1, 2, 3, 4]));
    let told = sctp(service, client, 7, &[6, 1, 0, 4]);
    answers(&world.node, world.pod(), &packet, &told, RejectNotServed);
    // What the service does have is opened.
    let syn = request(local_pod(9), SYN);
    let (there, way) = (forwarded(&syn, remote_pod(1)), (Kernel, to_gateway()));
    let counts = &[Resolved, Open];
    sends(&world.node, world.pod(), &syn, &there, way, counts);
}

fn before_the_stack_it_is_dropped_but_not_answered<A: Addr>() {
    let world = world::<A>();
    for transport in TRANSPORTS {
        let packet = to::<A>(outsider(1), (vip(2), SERVICE_PORT), transport);
        let counts = &[DropUnallocated];
        leaves(&world.node, world.xdp(), &packet, Verdict::Drop, counts);
        let packet = to::<A>(outsider(1), (vip(1), 81), transport);
        let counts = &[PassToTc];
        leaves(&world.node, world.xdp(), &packet, Verdict::Pass, counts);
    }
}

/// A node's address, or pods' prefix, that somebody put inside of the service CIDR.
fn a_longer_prefix_inside_is_what_it_says<A: Addr>() {
    let world = world::<A>();
    let bits = World::<A>::addr_bits();
    world.node.set_place(vip(20), bits, place::NODE);
    world.node.set_place(vip(32), bits - 4, place::PODS);
    for transport in TRANSPORTS {
        for n in [20, 32, 47] {
            let packet = to::<A>(local_pod(9), (vip(n), SERVICE_PORT), transport);
            let counts = &[PassNoService];
            leaves(&world.node, world.pod(), &packet, Verdict::Pass, counts);
            // The node's own route leads here: there is nobody to pass it to.
            let counts = &[DropNotService];
            leaves(&world.node, world.host(), &packet, Verdict::Drop, counts);
        }
        for n in [19, 21, 31, 48] {
            let packet = to::<A>(local_pod(9), (vip(n), SERVICE_PORT), transport);
            let counts = &[DropUnallocated];
            leaves(&world.node, world.pod(), &packet, Verdict::Drop, counts);
        }
    }
}

fn a_shorter_prefix_around_is_what_it_says<A: Addr>() {
    let world = world::<A>();
    world.node.set_place(A::default(), 0, place::UNKNOWN);
    world.node.set_place(addr(96, 0), 8, place::PODS);
    let counts = &[DropUnallocated];
    let packet = to::<A>(local_pod(9), (vip(2), SERVICE_PORT), SYN);
    leaves(&world.node, world.pod(), &packet, Verdict::Drop, counts);
    let counts = &[PassNoService];
    let packet = to::<A>(local_pod(9), (addr(97, 1), SERVICE_PORT), SYN);
    leaves(&world.node, world.pod(), &packet, Verdict::Pass, counts);
}

/// Its address may be allotted from anywhere; it is served wherever it lies.
fn a_frontend_needs_no_prefix<A: Addr>() {
    for place in [place::PODS, place::NODE, place::UNKNOWN, place::SERVICES] {
        let world = World::<A>::with_remote_backends(1);
        world.node.set_place(vip(1), World::<A>::addr_bits(), place);
        let syn = request(local_pod(9), SYN);
        let (there, way) = (forwarded(&syn, remote_pod(1)), (Kernel, to_gateway()));
        let counts = &[Resolved, Open];
        sends(&world.node, world.pod(), &syn, &there, way, counts);
    }
}

/// The service is deleted, and its address allotted to nobody, or to one that has not its port.
fn live_flows_outlive_their_service<A: Addr>() {
    for (transport, reply) in [(SYN, crate::world::SYN_ACK), (UDP, UDP)] {
        for is_allotted in [true, false] {
            let world = World::<A>::with_remote_backends(1);
            let open = request(local_pod(9), transport);
            let there = forwarded(&open, remote_pod(1));
            let (asked, known) = ((Kernel, to_gateway()), (Neighbour, to_gateway()));
            let counts = &[Resolved, Open];
            sends(&world.node, world.pod(), &open, &there, asked, counts);
            allot(&world);
            for protocol in [proto::TCP, proto::UDP] {
                let key = ServiceKey::new(vip(1), SERVICE_PORT, protocol);
                world.node.set_service(key, None);
            }
            world.node.set_backend(1, None);
            if !is_allotted {
                world.node.set_service(ServiceKey::new(vip(1), 0, 0), None);
            }
            let hit = &[HitOriginal];
            sends(&world.node, world.pod(), &open, &there, known, hit);
            let (back, home) = (answer(&there, reply), delivered(&open, reply));
            let pods = (Kernel, crate::world::to_pod());
            let hit = &[Resolved, HitReply];
            sends(&world.node, world.uplink(), &back, &home, pods, hit);
            // A new one is nobody's.
            let other = PacketSpec { sport: 1, ..open };
            let mut packet = other.packet();
            let verdict = world.pod().run(&mut packet).verdict;
            let (expected, reason) = if is_allotted {
                (Verdict::Back, RejectNotServed)
            } else {
                (Verdict::Drop, DropUnallocated)
            };
            assert_eq!(verdict, expected);
            let answered = is_allotted.then_some(lb_common::abi::Reason::Answered);
            let counts: Vec<_> = [reason].into_iter().chain(answered).collect();
            assert_counts(&world.node, &counts);
        }
    }
}

/// It was decided where the packet came in, or it is the node's own, which comes by its own device.
fn the_way_out_of_the_node_is_not_looked_at<A: Addr>() {
    let world = world::<A>();
    for transport in TRANSPORTS {
        for dst in [(vip(2), SERVICE_PORT), (vip(1), 81)] {
            let packet = to::<A>(node_addr(), dst, transport);
            let counts = &[PassNoService];
            leaves(&world.node, world.egress(), &packet, Verdict::Pass, counts);
        }
    }
    let mut refused = to::<A>(node_addr(), (vip(1), 81), UDP);
    let verdict = world.host().run(&mut refused).verdict;
    assert_eq!(verdict, Verdict::Send(Host));
}
