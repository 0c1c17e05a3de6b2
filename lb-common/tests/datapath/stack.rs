//! Connections that the stack forwards: the destination is rewritten where a packet comes in, the source where it
//! leaves, and in between stand client and backend.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{
            DropPortInUse, HitError, HitOriginal, HitReply, Open, PassNoService, PortRemapped,
            Reopened, Resolved,
        },
        backend_flags,
        node::features,
    },
    datapath::{
        Verdict,
        Via::{Kernel, Stack},
    },
    fake::{FakePacket, FakeTables, PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6},
};

use crate::{
    icmp_made::{message, quotes, time_exceeded, unreachable},
    world::{
        ACK, BACKEND_PORT, CLIENT_PORT, FIN, POD_DEVICE, RST, SERVICE_PORT, SNAT_PORT, SYN,
        SYN_ACK, UDP, World, answer, assert_counts, backend, delivered, for_both_families,
        forwarded, hairpin, hands_over, leaves, local_pod, node_addr, outsider, preferred,
        remote_pod, renamed, request, sends, to_gateway, vip,
    },
};

for_both_families!(
    without_masquerade_a_request_is_done_where_it_comes_in_and_an_answer_where_it_leaves,
    a_source_that_must_give_way_does_so_on_the_way_out,
    the_source_is_the_one_that_the_way_prefers,
    a_pod_reaches_itself,
    somebody_elsewhere_reaches_itself,
    two_services_of_one_backend_have_ports_of_their_own,
    a_port_that_is_taken_on_the_way_out_is_another_there,
    a_connection_is_opened_anew_in_both_flows,
    a_datagram_moves_on_with_both_flows,
    a_masqueraded_datagram_stays_when_nobody_else_serves,
    a_process_of_the_node_is_reached_as_ever,
    the_node_itself_dials_past_the_stack,
    connections_outlive_the_setting,
    what_others_forward_is_not_touched,
    an_error_is_translated_where_the_packet_it_is_about_would_be,
    a_node_without_address_exchanges_none,
    nothing_is_opened_on_the_way_out_for_a_flow_that_is_not_masqueraded,
);

const EXCHANGES: [(Transport, Transport); 2] = [(SYN, SYN_ACK), (UDP, UDP)];
const BOTH: u32 = features::FORWARD_STACK | features::LEAVING;

type Program<'a, A> = FakeTables<'a, A, false, false>;

fn config<A: Addr>(features: u32) -> NodeConfig {
    NodeConfig {
        features,
        ..World::<A>::config()
    }
}

fn world<A: Addr>() -> World<A> {
    World::with_config(config::<A>(BOTH))
}

fn served<A: Addr>(at: impl Fn(u8) -> A) -> World<A> {
    world().and_backends(1, at, 0)
}

impl<A: Addr> World<A> {
    /// The way out to a pod of this node.
    fn to_pod(&self) -> Program<'_, A> {
        self.node.tc(lb_common::datapath::Role::Egress, POD_DEVICE)
    }
}

/// One packet after its hop through the stack.
fn forwarded_by_stack<A: Addr>(packet: &PacketSpec<A>) -> PacketSpec<A> {
    PacketSpec {
        ttl: packet.ttl - 1,
        ..packet.clone()
    }
}

/// Who talks to whom, as it is seen where a packet comes in, in between, and where it leaves.
struct Talk<A> {
    asked: PacketSpec<A>,
    seen: PacketSpec<A>,
    left: PacketSpec<A>,
}

impl<A: Addr> Talk<A> {
    /// `source`: the one that the backend sees, if it is not the client's.
    fn new(asked: PacketSpec<A>, backend: A, source: Option<(A, u16)>) -> Self {
        let client = (asked.ends.src, asked.sport);
        let seen = renamed(&asked, client, (backend, BACKEND_PORT));
        let left = renamed(
            &forwarded_by_stack(&seen),
            source.unwrap_or(client),
            (backend, BACKEND_PORT),
        );
        Self { asked, seen, left }
    }

    /// The next packet of the client.
    fn with(self, transport: Transport) -> Self {
        let change = |packet| PacketSpec {
            transport,
            ..packet
        };
        Self {
            asked: change(self.asked),
            seen: change(self.seen),
            left: change(self.left),
        }
    }

    fn is_masqueraded(&self) -> bool {
        self.left.ends.src != self.seen.ends.src || self.left.sport != self.seen.sport
    }

    /// The request comes in by one program and leaves by another.
    #[track_caller]
    fn goes(
        &self,
        world: &World<A>,
        [by, out]: [Program<'_, A>; 2],
        counts: [&[lb_common::abi::Reason]; 2],
    ) {
        let [first, second] = counts;
        hands_over(&world.node, by, &self.asked, &self.seen, Stack, first);
        let passed = forwarded_by_stack(&self.seen);
        if self.is_masqueraded() {
            hands_over(&world.node, out, &passed, &self.left, Stack, second);
        } else {
            leaves(&world.node, out, &passed.packet(), Verdict::Pass, second);
        }
    }

    /// The answer comes in where the request has left, and the other way round.
    #[track_caller]
    fn returns(&self, world: &World<A>, [by, out]: [Program<'_, A>; 2], transport: Transport) {
        let came = answer(&self.left, transport);
        let seen = answer(&self.seen, transport);
        if self.is_masqueraded() {
            hands_over(&world.node, by, &came, &seen, Stack, &[HitReply]);
        } else {
            leaves(
                &world.node,
                by,
                &came.packet(),
                Verdict::Pass,
                &[PassNoService],
            );
        }
        let home = delivered(&self.asked, transport);
        let passed = forwarded_by_stack(&seen);
        hands_over(&world.node, out, &passed, &home, Stack, &[HitReply]);
    }
}

fn without_masquerade_a_request_is_done_where_it_comes_in_and_an_answer_where_it_leaves<A: Addr>() {
    type Ways<'a, A> = [[Program<'a, A>; 2]; 2];
    let ways = |world: &'static World<A>| -> [(A, A, Ways<'static, A>); 3] {
        let pods = || [world.pod(), world.to_pod()];
        [
            (local_pod(9), local_pod(1), [pods(), pods()]),
            (
                local_pod(9),
                remote_pod(1),
                [
                    [world.pod(), world.egress()],
                    [world.uplink(), world.to_pod()],
                ],
            ),
            (
                outsider(1),
                local_pod(1),
                [
                    [world.uplink(), world.to_pod()],
                    [world.pod(), world.egress()],
                ],
            ),
        ]
    };
    for n in 0..3 {
        for (transport, reply) in EXCHANGES {
            let flags = |at: A| u32::from(at == local_pod(1)) * backend_flags::LOCAL;
            let world: &World<A> = Box::leak(Box::new(world()));
            let [(client, at, [there, back]), ..] = {
                let mut ways = ways(world);
                ways.rotate_left(n);
                ways
            };
            world.node.set_backend(1, Some(backend(at, flags(at))));
            world.serve(&[1]);
            let talk = Talk::new(request(client, transport), at, None);
            talk.goes(world, there, [&[Open], &[PassNoService]]);
            talk.returns(world, back, reply);
            talk.goes(world, there, [&[HitOriginal], &[PassNoService]]);
            talk.returns(world, back, reply);
        }
    }
}

fn a_source_that_must_give_way_does_so_on_the_way_out<A: Addr>() {
    for (transport, reply) in EXCHANGES {
        let world = served::<A>(remote_pod);
        let client = request(outsider(1), transport);
        let talk = Talk::new(client, remote_pod(1), Some((node_addr(), CLIENT_PORT)));
        let there = [world.uplink(), world.egress()];
        talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
        for _ in 0..2 {
            talk.returns(&world, there, reply);
            talk.goes(&world, there, [&[HitOriginal], &[HitOriginal]]);
        }
    }
}

fn the_source_is_the_one_that_the_way_prefers<A: Addr>() {
    let world = served::<A>(remote_pod);
    world.node.set_preferred_source(preferred());
    let client = request(outsider(1), SYN);
    let talk = Talk::new(client, remote_pod(1), Some((preferred(), CLIENT_PORT)));
    let there = [world.uplink(), world.egress()];
    talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
    talk.returns(&world, there, SYN_ACK);
}

fn a_pod_reaches_itself<A: Addr>() {
    for (transport, reply) in EXCHANGES {
        let world = world().and_backends(1, local_pod::<A>, backend_flags::LOCAL);
        let client = request(local_pod(1), transport);
        let talk = Talk::new(client, local_pod(1), Some((hairpin(), CLIENT_PORT)));
        let there = [world.pod(), world.to_pod()];
        talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
        talk.returns(&world, there, reply);
        talk.goes(&world, there, [&[HitOriginal], &[HitOriginal]]);
    }
}

fn somebody_elsewhere_reaches_itself<A: Addr>() {
    let world = served::<A>(outsider);
    let client = request(outsider(1), SYN);
    let talk = Talk::new(client, outsider(1), Some((node_addr(), CLIENT_PORT)));
    let there = [world.uplink(), world.egress()];
    talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
    talk.returns(&world, there, SYN_ACK);
}

/// In between they must differ: who tracks connections there knows the backend's address alone.
fn two_services_of_one_backend_have_ports_of_their_own<A: Addr>() {
    let world = served::<A>(remote_pod);
    world.serve_at(vip(2), &[1]);
    let there = [world.uplink(), world.egress()];
    let first = request(outsider(1), SYN);
    let client = (outsider(1), CLIENT_PORT);
    let second = renamed(&first, client, (vip(2), SERVICE_PORT));
    let one = Talk::new(first, remote_pod(1), Some((node_addr(), CLIENT_PORT)));
    one.goes(&world, there, [&[Open], &[Resolved, Open]]);
    let mut packet = second.packet();
    let _ = world.uplink().run(&mut packet);
    assert_counts(&world.node, &[Open, PortRemapped]);
    let at = packet.bytes().len() - second.packet().bytes().len() + crate::icmp_made::header::<A>();
    let port = u16::from_be_bytes([packet.bytes()[at], packet.bytes()[at + 1]]);
    assert!((SNAT_PORT..SNAT_PORT + 1_000).contains(&port));
    let seen = renamed(&second, (outsider(1), port), (remote_pod(1), BACKEND_PORT));
    let left = renamed(
        &forwarded_by_stack(&seen),
        (node_addr(), port),
        (remote_pod(1), BACKEND_PORT),
    );
    let two = Talk {
        asked: second,
        seen,
        left,
    };
    let passed = forwarded_by_stack(&two.seen);
    hands_over(
        &world.node,
        world.egress(),
        &passed,
        &two.left,
        Stack,
        &[Resolved, Open],
    );
    for talk in [one, two] {
        talk.returns(&world, there, SYN_ACK);
        talk.with(ACK)
            .goes(&world, there, [&[HitOriginal], &[HitOriginal]]);
    }
}

/// Two clients with one port each keep it in between, and before the backend the second has another.
fn a_port_that_is_taken_on_the_way_out_is_another_there<A: Addr>() {
    let world = World::<A>::with_config(NodeConfig {
        snat_port_count: 1,
        ..config::<A>(BOTH)
    })
    .and_backends(1, remote_pod, 0);
    let there = [world.uplink(), world.egress()];
    let talk = |n, port| {
        Talk::new(
            request(outsider(n), SYN),
            remote_pod(1),
            Some((node_addr(), port)),
        )
    };
    let (one, two) = (talk(1, CLIENT_PORT), talk(2, SNAT_PORT));
    one.goes(&world, there, [&[Open], &[Resolved, Open]]);
    two.goes(&world, there, [&[Open], &[Resolved, Open, PortRemapped]]);
    let three = talk(3, 0);
    hands_over(
        &world.node,
        there[0],
        &three.asked,
        &three.seen,
        Stack,
        &[Open],
    );
    let none = forwarded_by_stack(&three.seen).packet();
    leaves(
        &world.node,
        there[1],
        &none,
        Verdict::Drop,
        &[Resolved, DropPortInUse],
    );
    for talk in [one, two] {
        talk.returns(&world, there, SYN_ACK);
    }
}

fn a_connection_is_opened_anew_in_both_flows<A: Addr>() {
    for end in [RST, FIN] {
        let world = served::<A>(remote_pod);
        let there = [world.uplink(), world.egress()];
        let talk = |transport| {
            let asked = request(outsider(1), transport);
            Talk::new(asked, remote_pod(1), Some((node_addr(), CLIENT_PORT)))
        };
        talk(SYN).goes(&world, there, [&[Open], &[Resolved, Open]]);
        talk(SYN).returns(&world, there, SYN_ACK);
        let hit: [&[_]; 2] = [&[HitOriginal], &[HitOriginal]];
        talk(ACK).goes(&world, there, hit);
        talk(end).goes(&world, there, hit);
        if end == FIN {
            talk(SYN).returns(&world, there, FIN);
        }
        let anew: [&[_]; 2] = [&[Reopened, Open], &[Resolved, Reopened, Open]];
        talk(SYN).goes(&world, there, anew);
        talk(SYN).returns(&world, there, SYN_ACK);
        talk(ACK).goes(&world, there, hit);
    }
}

fn a_datagram_moves_on_with_both_flows<A: Addr>() {
    let world = served::<A>(remote_pod);
    let there = [world.uplink(), world.egress()];
    let talk = |n| {
        let asked = request(outsider(1), UDP);
        Talk::new(asked, remote_pod(n), Some((node_addr(), CLIENT_PORT)))
    };
    talk(1).goes(&world, there, [&[Open], &[Resolved, Open]]);
    talk(1).returns(&world, there, UDP);
    world.node.set_backend(2, Some(backend(remote_pod(2), 0)));
    world.leave(1, &[2]);
    talk(2).goes(&world, there, [&[Reopened, Open], &[Resolved, Open]]);
    talk(2).returns(&world, there, UDP);
    // A late answer of the one that has left still comes home.
    talk(1).returns(&world, there, UDP);
}

fn a_masqueraded_datagram_stays_when_nobody_else_serves<A: Addr>() {
    let world = served::<A>(remote_pod);
    let there = [world.uplink(), world.egress()];
    let asked = request(outsider(1), UDP);
    let talk = Talk::new(asked, remote_pod(1), Some((node_addr(), CLIENT_PORT)));
    talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
    world.leave(1, &[]);
    talk.goes(&world, there, [&[HitOriginal], &[HitOriginal]]);
    talk.returns(&world, there, UDP);
}

fn a_process_of_the_node_is_reached_as_ever<A: Addr>() {
    let world = served::<A>(|_| node_addr());
    for (transport, reply) in EXCHANGES {
        let asked = request(outsider(1), transport);
        let seen = renamed(
            &asked,
            (outsider(1), CLIENT_PORT),
            (node_addr(), BACKEND_PORT),
        );
        hands_over(&world.node, world.uplink(), &asked, &seen, Stack, &[Open]);
        let (back, home) = (answer(&seen, reply), answer(&asked, reply));
        hands_over(
            &world.node,
            world.egress(),
            &back,
            &home,
            Stack,
            &[HitReply],
        );
    }
}

fn the_node_itself_dials_past_the_stack<A: Addr>() {
    let world = served::<A>(remote_pod);
    let asked = request(node_addr(), SYN);
    let mut there = forwarded(&asked, remote_pod(1));
    there.ttl = asked.ttl;
    let way = (Kernel, to_gateway());
    sends(
        &world.node,
        world.host(),
        &asked,
        &there,
        way,
        &[Resolved, Open],
    );
    // On its way out nothing more is done to it.
    leaves(
        &world.node,
        world.egress(),
        &there.packet(),
        Verdict::Pass,
        &[PassNoService],
    );
}

/// What was opened through the stack goes on there when the setting has changed, and new connections do not.
fn connections_outlive_the_setting<A: Addr>() {
    let mut world = World::<A>::with_config(NodeConfig {
        snat_port_count: 1,
        ..config::<A>(BOTH)
    })
    .and_backends(1, remote_pod, 0);
    let source = Some((node_addr(), CLIENT_PORT));
    let talk = Talk::new(request(outsider(1), SYN), remote_pod(1), source);
    let opened: [&[_]; 2] = [&[Open], &[Resolved, Open]];
    talk.goes(&world, [world.uplink(), world.egress()], opened);
    world.node.set_features(features::LEAVING);
    let there = [world.uplink(), world.egress()];
    talk.returns(&world, there, SYN_ACK);
    let talk = talk.with(ACK);
    talk.goes(&world, there, [&[HitOriginal], &[HitOriginal]]);

    let direct = request(outsider(2), SYN);
    let mut left = forwarded(&direct, remote_pod(1));
    (left.ends.src, left.sport) = (node_addr(), SNAT_PORT);
    let counts = [Resolved, Open, PortRemapped];
    let way = (Kernel, to_gateway());
    sends(&world.node, world.uplink(), &direct, &left, way, &counts);
    leaves(
        &world.node,
        world.egress(),
        &left.packet(),
        Verdict::Pass,
        &[PassNoService],
    );
}

fn what_others_forward_is_not_touched<A: Addr>() {
    let world = served::<A>(remote_pod);
    let packet: PacketSpec<A> =
        PacketSpec::new((outsider(1), 7), (remote_pod(1), BACKEND_PORT), SYN);
    for program in [world.uplink(), world.egress(), world.pod(), world.to_pod()] {
        for spec in [packet.clone(), answer(&packet, SYN_ACK)] {
            leaves(
                &world.node,
                program,
                &spec.packet(),
                Verdict::Pass,
                &[PassNoService],
            );
        }
    }
}

/// What an error quotes, and what it quotes after its translation, which takes no hop off that.
fn quoted<A: Addr>(packet: &PacketSpec<A>, origin: &PacketSpec<A>) -> (Vec<u8>, Vec<u8>) {
    let origin = PacketSpec {
        ttl: packet.ttl,
        ..origin.clone()
    };
    quotes(packet, &origin, 64)
}

/// Runs an ICMP error and asserts what it becomes; `None`: nothing.
#[track_caller]
fn becomes<A: Addr>(
    world: &World<A>,
    program: Program<'_, A>,
    error: &FakePacket,
    expected: Option<&FakePacket>,
) {
    let mut packet = error.clone();
    let outcome = program.run(&mut packet);
    let verdict = expected.map_or(Verdict::Pass, |_| Verdict::Send(Stack));
    assert_eq!(outcome.verdict, verdict, "{:?}", world.node.take_counts());
    let count = expected.map_or(PassNoService, |_| HitError);
    assert_counts(&world.node, &[count]);
    assert_eq!(packet.bytes(), expected.unwrap_or(error).bytes());
}

/// By a router behind either end, about a packet as it has left; and by the stack, about one that it could not send on.
fn an_error_is_translated_where_the_packet_it_is_about_would_be<A: Addr>() {
    let router = crate::icmp_errors::a_router::<A>;
    for (transport, reply) in EXCHANGES {
        let world = served::<A>(remote_pod);
        let there = [world.uplink(), world.egress()];
        let source = Some((node_addr(), CLIENT_PORT));
        let talk = Talk::new(request(outsider(1), transport), remote_pod(1), source);
        talk.goes(&world, there, [&[Open], &[Resolved, Open]]);
        talk.returns(&world, there, reply);
        let Talk { asked, seen, left } = talk;
        let kind = unreachable::<A>();

        // About the request: N -> B outside, C -> B in between, C -> S at home.
        let (outside, between) = quoted(&left, &seen);
        let (inside, home) = quoted(&seen, &asked);
        let came = message(router(), node_addr(), kind, &outside);
        let passed = message(remote_pod::<A>(1), outsider(1), kind, &between);
        becomes(&world, world.uplink(), &came, Some(&passed));
        let known = message(vip::<A>(1), outsider(1), kind, &home);
        becomes(
            &world,
            world.egress(),
            &message(router(), outsider(1), kind, &inside),
            Some(&known),
        );

        // About the answer: S -> C outside, B -> C in between, B -> N before the backend.
        let (came_back, answered) = (answer(&left, reply), answer(&asked, reply));
        let between = answer(&seen, reply);
        let (outside, inside) = quoted(&answered, &between);
        let came = message(router(), vip(1), kind, &outside);
        let passed = message(outsider::<A>(1), remote_pod(1), kind, &inside);
        becomes(&world, world.uplink(), &came, Some(&passed));
        let (inside, home) = quoted(&between, &came_back);
        let known = message(node_addr::<A>(), remote_pod(1), kind, &home);
        becomes(
            &world,
            world.egress(),
            &message(router(), remote_pod(1), kind, &inside),
            Some(&known),
        );

        // A trace names its routers.
        let kind = time_exceeded::<A>();
        let (inside, home) = quoted(&seen, &asked);
        let own = message(node_addr::<A>(), outsider(1), kind, &inside);
        let known = message(node_addr::<A>(), outsider(1), kind, &home);
        becomes(&world, world.egress(), &own, Some(&known));
        // Somebody else's.
        let foreign = message(router(), outsider(7), kind, &inside);
        becomes(&world, world.egress(), &foreign, None);
    }
}

fn a_node_without_address_exchanges_none<A: Addr>() {
    let world = World::<A>::with_config(NodeConfig {
        addr4: Addr4::default(),
        addr6: Addr6::default(),
        ..config::<A>(BOTH)
    })
    .and_backends(1, remote_pod, 0);
    let talk = Talk::new(request(outsider(1), UDP), remote_pod(1), None);
    let there = [world.uplink(), world.egress()];
    talk.goes(&world, there, [&[Open], &[Resolved, PassNoService]]);
    let back = [world.uplink(), world.egress()];
    talk.returns(&world, back, UDP);
}

/// The stack forwards answers too, by the very devices.
fn nothing_is_opened_on_the_way_out_for_a_flow_that_is_not_masqueraded<A: Addr>() {
    let world = world().and_backends(1, local_pod, backend_flags::LOCAL);
    let talk = Talk::new(request(outsider(1), SYN), local_pod::<A>(1), None);
    let there = [world.uplink(), world.to_pod()];
    talk.goes(&world, there, [&[Open], &[PassNoService]]);
    let flows = world.node.flows();
    let words = (0..flows.positions()).map(|position| flows.slot(position).state());
    assert_eq!(words.filter(|word| word.published()).count(), 2);
}
