//! ICMP errors about translated packets: whole messages in, whole messages out, every byte made a second time.

use lb_common::{
    abi::{
        NextHop,
        Reason::{self, HitError, PassNoService, Resolved},
    },
    datapath::{Role, Verdict, Via},
    fake::{FakePacket, FakeTables, PacketSpec, Transport},
    net::addr::{Addr, Family},
};

use crate::{
    icmp_made::{
        Kind, fragment, header, kinds, less, message, quotes, resign, time_exceeded, unreachable,
        with_options,
    },
    made::sctp,
    world::{
        BACKEND_PORT, CLIENT_PORT, HOST_PEER, LOOPBACK, POD_DEVICE, SERVICE_PORT, SYN, UDP, UPLINK,
        World, addr, answer, assert_counts, for_both_families, forwarded, hairpin, leaves,
        local_pod, node_addr, outsider, remote_pod, renamed, request, to_gateway, to_pod, vip,
    },
};

for_both_families!(
    errors_about_requests_reach_the_client,
    errors_about_answers_reach_the_backend,
    a_known_next_hop_is_used_and_a_stale_one_asked_for,
    headers_inside_and_outside_may_have_options,
    a_datagram_without_checksum_stays_without,
    what_pads_a_quote_is_no_checksum,
    a_first_fragment_is_quoted_and_a_later_one_is_nobodys,
    the_ports_of_an_association_are_enough,
    an_orphaned_flow_still_gets_its_errors,
    errors_neither_prolong_nor_end_a_flow,
    an_error_is_never_answered_by_another,
    errors_of_the_nodes_own_server_are_believed_on_the_way_out_only,
    what_the_host_device_gets_and_is_no_flows_is_dropped,
    before_the_stack_errors_are_left_to_it,
);

/// Where the error goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Hop(NextHop),
    Host,
    Stack,
}

/// A connection; by which devices errors about it come, and where they go.
pub(crate) struct Case<A: Addr> {
    name: &'static str,
    world: World<A>,
    /// By which device the client dials.
    dials: (Role, u32),
    pub(crate) client: A,
    /// What the backend takes for its client.
    pub(crate) seen: A,
    backend: A,
    /// Where errors about what the client sends come by, and go.
    far: ((Role, u32), Way),
    /// The same for errors about the answers.
    near: ((Role, u32), Way),
}

const POD: (Role, u32) = (Role::Pod, POD_DEVICE);
pub(crate) const OUT: (Role, u32) = (Role::Uplink, UPLINK);
const HOST: (Role, u32) = (Role::Host, HOST_PEER);
const LO: (Role, u32) = (Role::Loopback, LOOPBACK);
const EGRESS: (Role, u32) = (Role::Egress, UPLINK);

fn case<A: Addr>(
    name: &'static str,
    world: World<A>,
    (dials, far, near): ((Role, u32), (Role, u32), (Role, u32)),
    [client, seen, backend]: [A; 3],
    (to_client, to_backend): (Way, Way),
) -> Case<A> {
    Case {
        name,
        world,
        dials,
        client,
        seen,
        backend,
        far: (far, to_client),
        near: (near, to_backend),
    }
}

fn cases<A: Addr>() -> Vec<Case<A>> {
    let mut cases = without_the_node();
    cases.extend(with_the_node());
    cases
}

fn without_the_node<A: Addr>() -> Vec<Case<A>> {
    let (pod, out) = (Way::Hop(to_pod()), Way::Hop(to_gateway()));
    let (client, local, remote) = (local_pod(9), local_pod(1), remote_pod(1));
    let (outside, node) = (outsider(9), node_addr());
    let with_local = || World::with_local_backends(1);
    let with_remote = || World::with_remote_backends(1);
    let ends = [client, client, local];
    let to_local = case(
        "pod to local pod",
        with_local(),
        (POD, POD, POD),
        ends,
        (pod, pod),
    );
    let ends = [client, client, remote];
    let to_remote = case(
        "pod to remote pod",
        with_remote(),
        (POD, OUT, POD),
        ends,
        (pod, out),
    );
    let ends = [outside, outside, local];
    let from_outside = case(
        "outsider to local pod",
        with_local(),
        (OUT, POD, OUT),
        ends,
        (out, pod),
    );
    let ends = [outside, node, remote];
    let by_nat = case(
        "outsider with source NAT",
        with_remote(),
        (OUT, OUT, OUT),
        ends,
        (out, out),
    );
    let ends = [local, hairpin(), local];
    let itself = case(
        "a pod to itself",
        with_local(),
        (POD, POD, POD),
        ends,
        (pod, pod),
    );
    vec![to_local, to_remote, from_outside, by_nat, itself]
}

fn with_the_node<A: Addr>() -> Vec<Case<A>> {
    let (here, out) = (World::with_backend_here, Way::Hop(to_gateway()));
    let (outside, node) = (outsider(9), node_addr());
    let (host, stack) = (Way::Host, Way::Stack);
    let there = World::with_remote_backends(1);
    let ends = [node, node, remote_pod(1)];
    let from_node = case("the node", there, (HOST, OUT, HOST), ends, (host, out));
    let ends = [node, node, node];
    let itself = case(
        "the node to itself",
        here(),
        (HOST, LO, HOST),
        ends,
        (host, host),
    );
    let ends = [outside, outside, node];
    let served = case(
        "outsider to the node",
        here(),
        (OUT, EGRESS, OUT),
        ends,
        (stack, stack),
    );
    vec![from_node, itself, served]
}

impl<A: Addr> Case<A> {
    fn program(&self, (role, device): (Role, u32)) -> FakeTables<'_, A, false, false> {
        self.world.node.tc(role, device)
    }

    /// The first packet of the connection.
    pub(crate) fn request(&self, transport: Transport) -> PacketSpec<A> {
        request(self.client, transport)
    }

    /// The same as the backend sees it.
    pub(crate) fn arrived(&self, transport: Transport) -> PacketSpec<A> {
        renamed(
            &self.request(transport),
            (self.seen, CLIENT_PORT),
            (self.backend, BACKEND_PORT),
        )
    }

    /// Opens the connection, and makes sure that the backend sees what this says.
    #[track_caller]
    fn open(&self, transport: Transport) {
        let mut packet = self.request(transport).packet();
        let verdict = self.program(self.dials).run(&mut packet).verdict;
        assert!(
            matches!(verdict, Verdict::Send(_)),
            "{}: {verdict:?}",
            self.name
        );
        let left = PacketSpec {
            ttl: packet.bytes()[if header::<A>() == 20 { 8 } else { 7 }],
            ..self.arrived(transport)
        };
        assert_eq!(packet.bytes(), left.packet().bytes(), "{}", self.name);
        self.world.node.take_counts();
    }

    /// Runs an error and asserts what becomes of it, and everything that was counted, but for the search for a way.
    #[track_caller]
    fn becomes(
        &self,
        (program, way): ((Role, u32), Way),
        error: &FakePacket,
        expected: &FakePacket,
        what: &str,
    ) {
        let (name, mut packet) = (self.name, error.clone());
        let outcome = self.program(program).run(&mut packet);
        let mut counts = self.world.node.take_counts();
        counts.remove(&Resolved);
        assert_eq!(counts, [(HitError, 1)].into(), "{name}: {what}");
        match way {
            Way::Hop(hop) => {
                let is_sent =
                    matches!(outcome.verdict, Verdict::Send(Via::Neighbour | Via::Kernel));
                assert!(is_sent, "{name}: {what}: {:?}", outcome.verdict);
                assert_eq!(outcome.hop.ifindex, hop.ifindex, "{name}: {what}");
                assert_eq!(outcome.hop.macs, hop.macs, "{name}: {what}");
            }
            Way::Host => assert_eq!(outcome.verdict, Verdict::Send(Via::Host), "{name}: {what}"),
            Way::Stack => assert_eq!(outcome.verdict, Verdict::Send(Via::Stack), "{name}: {what}"),
        }
        // What the node itself sends, and what its stack gets, loses no hop.
        let is_host = matches!(program.0, Role::Host | Role::Loopback);
        let hops = u8::from(matches!(way, Way::Hop(_)) && !is_host);
        let expected = less(expected, hops);
        assert_eq!(packet.bytes(), expected.bytes(), "{name}: {what}");
        assert!(packet.device_sum_valid(), "{name}: {what}");
    }
}

const LENGTHS: [usize; 9] = [8, 9, 12, 16, 17, 18, 19, 20, 1_000];
const TRANSPORTS: [Transport; 3] = [SYN, UDP, Transport::UdpUnchecked];

pub(crate) fn a_router<A: Addr>() -> A {
    addr(77, 7)
}

fn errors_about_requests_reach_the_client<A: Addr>() {
    for transport in TRANSPORTS {
        for case in cases::<A>() {
            case.open(transport);
            let arrived = PacketSpec {
                ttl: 3,
                ..case.arrived(transport)
            };
            let sent = PacketSpec {
                ttl: 3,
                ..case.request(transport)
            };
            let others = (case.backend, vip(1));
            for_all_kinds::<A>(others, |kind, from, told, len| {
                let (quoted, known) = quotes(&arrived, &sent, len);
                let error = message(from, case.seen, kind, &quoted);
                let expected = message(told, case.client, kind, &known);
                let what = format!("{transport:?} {kind:?} from {from}, {len} bytes");
                case.becomes(case.far, &error, &expected, &what);
            });
        }
    }
}

fn errors_about_answers_reach_the_backend<A: Addr>() {
    for transport in TRANSPORTS {
        for case in cases::<A>() {
            case.open(transport);
            let answered = PacketSpec {
                ttl: 5,
                ..answer(&case.request(transport), transport)
            };
            let sent = PacketSpec {
                ttl: 5,
                ..answer(&case.arrived(transport), transport)
            };
            let others = (case.client, case.seen);
            for_all_kinds::<A>(others, |kind, from, told, len| {
                let (quoted, known) = quotes(&answered, &sent, len);
                let error = message(from, vip(1), kind, &quoted);
                let expected = message(told, case.backend, kind, &known);
                let what = format!("{transport:?} {kind:?} from {from}, {len} bytes");
                case.becomes(case.near, &error, &expected, &what);
            });
        }
    }
}

/// All kinds, from the other end and from a router, who is told of, and how much they quote.
fn for_all_kinds<A: Addr>((other, known_as): (A, A), check: impl Fn(Kind, A, A, usize)) {
    let (plain, traced) = kinds::<A>();
    for len in LENGTHS {
        for kind in plain.iter().chain(&traced) {
            check(*kind, other, known_as, len);
        }
        for kind in &plain {
            check(*kind, a_router(), known_as, len);
        }
        for kind in &traced {
            check(*kind, a_router(), a_router(), len);
        }
    }
}

/// A pod's connection to a remote pod, with an error about what the pod has sent and what becomes of it.
pub(crate) fn one<A: Addr>(transport: Transport) -> (Case<A>, FakePacket, FakePacket) {
    let case = cases::<A>().remove(1);
    case.open(transport);
    let (quoted, known) = quotes(&case.arrived(transport), &case.request(transport), 1_000);
    let kind = unreachable::<A>();
    let error = message(a_router(), case.seen, kind, &quoted);
    let expected = message(vip(1), case.client, kind, &known);
    (case, error, expected)
}

fn a_known_next_hop_is_used_and_a_stale_one_asked_for<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let run = || {
        let outcome = case.world.uplink().run(&mut error.clone());
        assert_eq!(outcome.hop.ifindex, POD_DEVICE);
        outcome.verdict
    };
    let node = &case.world.node;
    for _ in 0..2 {
        assert_eq!(run(), Verdict::Send(Via::Kernel));
        assert_counts(node, &[HitError, Resolved]);
        assert_eq!(run(), Verdict::Send(Via::Neighbour));
        assert_counts(node, &[HitError]);
        case.world.wait(1_000);
    }
}

fn headers_inside_and_outside_may_have_options<A: Addr>() {
    let (case, ..) = one::<A>(SYN);
    let [arrived, sent] = [case.arrived(SYN), case.request(SYN)].map(|spec| spec.packet());
    let inner: &[usize] = match A::FAMILY {
        Family::V4 => &[0, 4, 20, 40],
        Family::V6 => &[0, 16, 24, 48, 64],
    };
    let outer: &[usize] = match A::FAMILY {
        Family::V4 => &[0, 4, 40],
        Family::V6 => &[0],
    };
    let kind = time_exceeded::<A>();
    for inside in inner {
        for outside in outer {
            let wrapped = |packet: &FakePacket, len| match len {
                0 => packet.clone(),
                _ => with_options(packet, len),
            };
            let [quoted, known] = [&arrived, &sent].map(|packet| wrapped(packet, *inside));
            let error = message(a_router(), case.seen, kind, quoted.bytes());
            let expected = message(a_router(), case.client, kind, known.bytes());
            let [error, expected] = [&error, &expected].map(|packet| wrapped(packet, *outside));
            let what = format!("{inside} bytes of options inside, {outside} outside");
            case.becomes(case.far, &error, &expected, &what);
        }
    }
}

fn a_datagram_without_checksum_stays_without<A: Addr>() {
    let (case, error, expected) = one::<A>(Transport::UdpUnchecked);
    let at = header::<A>() * 2 + 8 + 6;
    assert_eq!(expected.bytes()[at..at + 2], [0, 0]);
    case.becomes(case.far, &error, &expected, "no checksum");
}

/// RFC 4884: a quote is filled up with zeros, and more may follow.
fn what_pads_a_quote_is_no_checksum<A: Addr>() {
    let case = cases::<A>().remove(1);
    let short = |spec: PacketSpec<A>| PacketSpec {
        payload: Vec::new(),
        ..spec
    };
    let [arrived, sent] = [case.arrived(UDP), case.request(UDP)].map(short);
    case.open(UDP);
    let pad = |packet: FakePacket, len| {
        // Told to be shorter than a header with a checksum is.
        let mut bytes = packet.bytes()[..header::<A>() + 8].to_vec();
        bytes.resize(128, 0);
        bytes.extend(len);
        bytes
    };
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 2, 3, 4, 5];
    let kind = unreachable::<A>();
    let error = message(
        a_router(),
        case.seen,
        kind,
        &pad(arrived.packet(), extension),
    );
    let expected = message(vip(1), case.client, kind, &pad(sent.packet(), extension));
    case.becomes(case.far, &error, &expected, "filled up");
    // A segment of which the quote says that it ends before its checksum.
    case.open(SYN);
    let [mut quoted, mut known] = [case.arrived(SYN), case.request(SYN)].map(|spec| {
        let mut bytes = spec.packet().bytes()[..header::<A>() + 16].to_vec();
        let total = if header::<A>() == 20 {
            (2, 36)
        } else {
            (4, 16)
        };
        bytes[total.0..total.0 + 2].copy_from_slice(&[0, total.1]);
        bytes
    });
    for quote in [&mut quoted, &mut known] {
        if header::<A>() == 20 {
            resign(quote);
        }
        quote.resize(128, 0);
    }
    let error = message(a_router(), case.seen, kind, &quoted);
    let expected = message(vip(1), case.client, kind, &known);
    case.becomes(case.far, &error, &expected, "cut and filled up");
}

fn a_first_fragment_is_quoted_and_a_later_one_is_nobodys<A: Addr>() {
    let (case, ..) = one::<A>(UDP);
    let kind = unreachable::<A>();
    for offset in [0, 1, 0x1fff] {
        let [quoted, known] = [case.arrived(UDP), case.request(UDP)]
            .map(|spec| fragment::<A>(&spec.packet(), offset));
        let error = message(a_router(), case.seen, kind, &quoted);
        if offset == 0 {
            let expected = message(vip(1), case.client, kind, &known);
            case.becomes(case.far, &error, &expected, "the first fragment");
        } else {
            is_left(&case, OUT, &error, PassNoService);
        }
    }
}

fn the_ports_of_an_association_are_enough<A: Addr>() {
    let case = cases::<A>().remove(1);
    let service = lb_common::abi::Service {
        id: World::<A>::SERVICE,
        version: 99,
        cluster: lb_common::abi::SlotRange { base: 1, count: 1 },
        flags: lb_common::abi::service_flags::CLUSTER_IP,
        ..Default::default()
    };
    let key = lb_common::abi::ServiceKey::new(vip(1), SERVICE_PORT, 132);
    case.world.node.set_service(key, Some(service));
    let init = [
        1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1,
    ];
    let sent = sctp(
        (case.client, CLIENT_PORT),
        (vip::<A>(1), SERVICE_PORT),
        0,
        &init,
    );
    let arrived = sctp(
        (case.seen, CLIENT_PORT),
        (case.backend, BACKEND_PORT),
        0,
        &init,
    );
    case.program(case.dials)
        .run(&mut FakePacket::new(sent.clone()));
    case.world.node.take_counts();
    let l4 = header::<A>();
    for len in [8, 11, 12, 28] {
        let mut known = sent[..l4 + len].to_vec();
        // Its checksum covers what is not quoted.
        known[l4 + 8..].copy_from_slice(&arrived[l4 + 8..l4 + len]);
        let kind = unreachable::<A>();
        let error = message(a_router(), case.seen, kind, &arrived[..l4 + len]);
        let expected = message(vip(1), case.client, kind, &known);
        case.becomes(case.far, &error, &expected, "SCTP");
    }
}

fn an_orphaned_flow_still_gets_its_errors<A: Addr>() {
    let (case, error, expected) = one::<A>(UDP);
    // The backend leaves, and the client's next datagram goes to another.
    let world = &case.world;
    world
        .node
        .set_backend(2, Some(crate::world::backend(remote_pod(2), 0)));
    world.leave(1, &[2]);
    let mut next = case.request(UDP).packet();
    world.pod().run(&mut next);
    let moved = forwarded(&case.request(UDP), remote_pod(2));
    assert_eq!(next.bytes(), moved.packet().bytes());
    world.node.take_counts();
    case.becomes(case.far, &error, &expected, "an orphan");
}

fn errors_neither_prolong_nor_end_a_flow<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let node = &case.world.node;
    // An unanswered datagram's flow lives for half a minute; an error every second does not prolong that.
    let mut n_hits = 0;
    for _ in 0..120 {
        case.world.wait(60);
        let mut packet = error.clone();
        let outcome = case.world.uplink().run(&mut packet);
        match outcome.verdict {
            Verdict::Send(_) => n_hits += 1,
            Verdict::Pass => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(
        (10..60).contains(&n_hits),
        "{n_hits} errors in as many seconds"
    );
    node.take_counts();
    is_left(&case, OUT, &error, PassNoService);
}

fn an_error_is_never_answered_by_another<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let dropped = |packet: &FakePacket, reason: Reason| {
        let verdict = case.world.uplink().run(&mut packet.clone()).verdict;
        assert_eq!(verdict, Verdict::Drop);
        let mut counts = case.world.node.take_counts();
        counts.remove(&Resolved);
        assert_eq!(counts, [(reason, 1)].into());
    };
    dropped(&less(&error, 63), Reason::DropTtl);
    let narrow = NextHop {
        mtu: 60,
        ..to_pod()
    };
    let node = &case.world.node;
    node.set_route(case.client, lb_common::datapath::Route::Neighbour, narrow);
    dropped(&error, Reason::DropTooBig);
    node.set_route(case.client, lb_common::datapath::Route::None, narrow);
    dropped(&error, Reason::DropNoRoute);
}

/// Asserts that an error is passed untouched.
#[track_caller]
pub(crate) fn is_left<A: Addr>(
    case: &Case<A>,
    (role, device): (Role, u32),
    error: &FakePacket,
    reason: Reason,
) {
    let program = case.world.node.tc(role, device);
    leaves(&case.world.node, program, error, Verdict::Pass, &[reason]);
}

fn errors_of_the_nodes_own_server_are_believed_on_the_way_out_only<A: Addr>() {
    let case = cases::<A>().pop().expect("some");
    case.open(UDP);
    let quoted = case.arrived(UDP).packet();
    let kind = unreachable::<A>();
    let error = message(case.backend, case.client, kind, quoted.bytes());
    for program in [POD, OUT] {
        is_left(&case, program, &error, PassNoService);
    }
    // On the way out it is not for a backend.
    let answered = answer(&case.request(UDP), UDP).packet();
    let about_answer = message(node_addr(), vip::<A>(1), kind, answered.bytes());
    is_left(&case, EGRESS, &about_answer, PassNoService);
    // What the node's stack could not send on to a pod or another node is told as well.
    let case = cases::<A>().remove(2);
    case.open(UDP);
    let (quoted, known) = quotes(&case.arrived(UDP), &case.request(UDP), 1_000);
    let error = message(node_addr(), case.client, kind, &quoted);
    let expected = message(vip(1), case.client, kind, &known);
    case.becomes((EGRESS, Way::Stack), &error, &expected, "undelivered");
}

fn what_the_host_device_gets_and_is_no_flows_is_dropped<A: Addr>() {
    let case = with_the_node::<A>().remove(0);
    let quoted = case.arrived(UDP).packet();
    let error = message(node_addr(), vip::<A>(1), unreachable::<A>(), quoted.bytes());
    let host = case.world.host();
    let reason = Reason::DropNotService;
    leaves(&case.world.node, host, &error, Verdict::Drop, &[reason]);
}

fn before_the_stack_errors_are_left_to_it<A: Addr>() {
    let (case, error, _) = one::<A>(UDP);
    let xdp = case.world.xdp();
    leaves(
        &case.world.node,
        xdp,
        &error,
        Verdict::Pass,
        &[Reason::PassToTc],
    );
}
