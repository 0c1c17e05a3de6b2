//! Source ports in depth: whose they are, how long they rest, and what happens when there are none.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    abi::{
        NodeConfig, Reason,
        Reason::{DropPortInUse, FlowDisplaced, Open, PortRemapped, PortUnrested, Reopened},
        Service, ServiceKey, service_flags,
    },
    datapath::Verdict,
    fake::{FakeNode, PacketSpec, Transport},
    flow::{
        clock::{REUSE_AFTER, seconds},
        slot::State,
    },
    net::addr::Addr,
};

use crate::{
    truth::ends_of,
    world::{
        ACK, BACKEND_PORT, CLIENT_PORT, FIN, SERVICE_PORT, SNAT_PORT, SNAT_PORTS, SYN, SYN_ACK,
        UDP, World, addr, answer, for_both_families, node_addr, outsider, remote_pod, vip,
    },
};

for_both_families!(
    a_port_rests_until_the_backend_has_forgotten_it,
    its_own_client_need_not_wait,
    an_abandoned_backend_lets_the_port_rest_too,
    when_no_other_is_free_a_resting_port_is_taken,
    a_node_port_is_never_taken,
    a_socket_of_the_nodes_own_keeps_its_port,
    further_addresses_stand_in,
    one_port_serves_many_backends,
    ports_are_used_in_turn,
    what_another_cpu_has_taken_is_passed_over,
    what_is_exhausted_is_counted_and_recovers,
    with_enough_addresses_one_backend_has_200_000_flows,
    a_clients_own_address_has_no_further_ones,
);

const UPLINK: u32 = 2;

fn dial<A: Addr>(client: A, sport: u16, transport: Transport) -> PacketSpec<A> {
    PacketSpec::new((client, sport), (vip(1), SERVICE_PORT), transport)
}

/// Who a packet comes from after the datapath; `None`: it was dropped.
fn source<A: Addr>(world: &World<A>, packet: &PacketSpec<A>) -> Option<(A, u16)> {
    let mut sent = packet.packet();
    match world.uplink().run(&mut sent).verdict {
        Verdict::Send(_) => {}
        Verdict::Drop => return None,
        verdict => panic!("{verdict:?}"),
    }
    let l4 = if size_of::<A>() == 4 { 20 } else { 40 };
    let port = u16::from_be_bytes([sent.bytes()[l4], sent.bytes()[l4 + 1]]);
    Some((ends_of::<A>(sent.bytes()).src, port))
}

/// A whole connection of a client's, closed by both sides; the source that its backend has seen.
fn connection<A: Addr>(world: &World<A>, client: A, sport: u16) -> (A, u16) {
    let seen = source(world, &dial(client, sport, SYN)).expect("opened");
    let there = PacketSpec::new(seen, (remote_pod(1), BACKEND_PORT), SYN);
    for (is_clients, transport) in [(false, SYN_ACK), (true, ACK), (true, FIN), (false, FIN)] {
        if is_clients {
            assert_eq!(source(world, &dial(client, sport, transport)), Some(seen));
        } else {
            let mut back = answer(&there, transport).packet();
            assert!(matches!(
                world.uplink().run(&mut back).verdict,
                Verdict::Send(_)
            ));
        }
    }
    seen
}

fn counts<A: Addr>(node: &FakeNode<A>, reason: Reason) -> u64 {
    node.take_counts().get(&reason).copied().unwrap_or_default()
}

/// A segment from the same port would look like an old one of the connection that the backend still remembers.
fn a_port_rests_until_the_backend_has_forgotten_it<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let first = connection(&world, outsider(1), CLIENT_PORT);
    assert_eq!(first, (node_addr(), CLIENT_PORT));
    world.wait(seconds(60) + 1);
    let (at, port) = source(&world, &dial(outsider(2), CLIENT_PORT, SYN)).expect("opened");
    assert_eq!(at, node_addr());
    assert_ne!(port, CLIENT_PORT, "it had to rest");
    world.wait(REUSE_AFTER);
    let third = source(&world, &dial(outsider(3), CLIENT_PORT, SYN));
    assert_eq!(third, Some((node_addr(), CLIENT_PORT)));
}

/// Whose connection it was: the client itself sees to it that its segments are told apart.
fn its_own_client_need_not_wait<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    for _ in 0..3 {
        let seen = connection(&world, outsider(1), CLIENT_PORT);
        assert_eq!(seen, (node_addr(), CLIENT_PORT));
    }
}

/// A connection that is opened anew with another backend leaves its answers to what is under way from the first.
fn an_abandoned_backend_lets_the_port_rest_too<A: Addr>() {
    let world = World::<A>::with_remote_backends(2);
    world.serve(&[1]);
    let seen = source(&world, &dial(outsider(1), CLIENT_PORT, UDP));
    world.leave(1, &[2]);
    assert_eq!(source(&world, &dial(outsider(1), CLIENT_PORT, UDP)), seen);
    assert_eq!(counts(&world.node, Reopened), 1);
    world.serve_at(vip(2), &[1]);
    let to_first = |client| PacketSpec::new((client, CLIENT_PORT), (vip(2), SERVICE_PORT), UDP);
    let other = source(&world, &to_first(outsider(2)));
    assert_ne!(other, seen, "an answer to the first would go to the second");
}

fn when_no_other_is_free_a_resting_port_is_taken<A: Addr>() {
    let world = World::<A>::with_snat_ports(0).and_backends(1, remote_pod, 0);
    world.serve(&[1]);
    connection(&world, outsider(1), CLIENT_PORT);
    world.node.take_counts();
    let seen = source(&world, &dial(outsider(2), CLIENT_PORT, SYN));
    assert_eq!(seen, Some((node_addr(), CLIENT_PORT)));
    assert_eq!(counts(&world.node, PortUnrested), 1);
    // But never one that is in use.
    let seen = source(&world, &dial(outsider(3), CLIENT_PORT, SYN));
    assert_eq!(seen, None);
}

fn a_node_port_is_never_taken<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    let service = Service {
        id: 99,
        version: 1,
        flags: service_flags::NODE_PORT,
        ..Service::default()
    };
    let at = ServiceKey::new(node_addr(), 30_080, 6);
    world.node.set_service(at, Some(service));
    let (at, port) = source(&world, &dial(outsider(1), 30_080, SYN)).expect("opened");
    assert_eq!(at, node_addr());
    assert_ne!(port, 30_080);
    // The number alone does not matter: of another protocol it is nobody's.
    let other = source(&world, &dial(outsider(1), 30_080, UDP));
    assert_eq!(other, Some((node_addr(), 30_080)));
    // What was reserved for the port that could not be had is free again.
    let flows = world.node.flows();
    let words = (0..flows.positions()).map(|position| flows.slot(position).state());
    assert!(
        words
            .into_iter()
            .all(|word| word.published() || word.state() == State::Empty)
    );
}

fn a_socket_of_the_nodes_own_keeps_its_port<A: Addr>() {
    let world = World::<A>::with_remote_backends(2);
    world.serve(&[1]);
    let there = PacketSpec::new(
        (node_addr(), CLIENT_PORT),
        (remote_pod(1), BACKEND_PORT),
        SYN,
    );
    world.node.add_socket(answer(&there, SYN_ACK).key());
    let (at, port) = source(&world, &dial(outsider(1), CLIENT_PORT, SYN)).expect("opened");
    assert_eq!(at, node_addr());
    assert_ne!(port, CLIENT_PORT);
    // Towards another backend it is free.
    world.serve_at(vip(1), &[2]);
    let other = source(&world, &dial(outsider(2), CLIENT_PORT, SYN));
    assert_eq!(other, Some((node_addr(), CLIENT_PORT)));
}

fn further_addresses_stand_in<A: Addr>() {
    let world = World::<A>::with_snat_ports(2).and_backends(1, remote_pod, 0);
    world.serve(&[1]);
    let further: [A; 3] = [node_addr(), addr(5, 1), addr(5, 2)];
    world.node.set_sources(UPLINK, &further);
    let mut seen = BTreeMap::new();
    // Each address has the client's own port and two of the range.
    for client in 1..=40 {
        if let Some(source) = source(&world, &dial(outsider(client), CLIENT_PORT, SYN)) {
            assert_eq!(seen.insert(source, client), None, "{source:?} twice");
        }
    }
    assert_eq!(seen.len(), 9, "{seen:?}");
    let addresses: BTreeSet<A> = seen.keys().map(|(addr, _)| *addr).collect();
    assert_eq!(addresses, further.into());
}

fn one_port_serves_many_backends<A: Addr>() {
    let world = World::<A>::with_remote_backends(8);
    for n in 1..=8 {
        world.serve_at(vip(n), &[u32::from(n)]);
        let spec = PacketSpec::new((outsider(n), CLIENT_PORT), (vip(n), SERVICE_PORT), SYN);
        assert_eq!(source(&world, &spec), Some((node_addr(), CLIENT_PORT)));
    }
}

/// The port that was used last comes last again: so each has rested as long as can be.
fn ports_are_used_in_turn<A: Addr>() {
    let world = World::<A>::with_remote_backends(1);
    assert!(source(&world, &dial(outsider(1), CLIENT_PORT, UDP)).is_some());
    let mut last = None;
    for n in 0..u32::from(u8::MAX) * 8 {
        let client = addr(20 + u8::try_from(n >> 8).expect("few"), n.to_be_bytes()[3]);
        let (_, port) = source(&world, &dial(client, CLIENT_PORT, UDP)).expect("opened");
        let place = u32::from(port - SNAT_PORT);
        if let Some(last) = last {
            assert_eq!(place, (last + 1) % SNAT_PORTS, "after {n}");
        }
        last = Some(place);
        if n % 100 == 0 {
            world.wait(seconds(32));
            source(&world, &dial(outsider(1), CLIENT_PORT, UDP));
        }
    }
}

/// Each CPU takes ports in turn, from any on: where it comes to what another has taken, most of the range is free.
fn what_another_cpu_has_taken_is_passed_over<A: Addr>() {
    let config = NodeConfig {
        snat_port_count: 4_096,
        ..World::<A>::config()
    };
    let world = World::<A>::with_room(1 << 14, config).and_backends(1, remote_pod, 0);
    world.serve(&[1]);
    let mut clients = (0..=u8::MAX).flat_map(|net| (1..=200).map(move |host| (net, host)));
    let mut open = || {
        let (net, host) = clients.next().expect("enough");
        let client = addr(20 + net, host);
        source(&world, &dial(client, CLIENT_PORT, UDP)).expect("opened")
    };
    let mut seen = BTreeSet::new();
    for n_connections in [1_500].into_iter().chain([10; 50]) {
        world.node.change_cpu();
        for _ in 0..n_connections {
            assert!(seen.insert(open()));
        }
    }
    let counts = world.node.take_counts();
    assert_eq!(counts.get(&PortUnrested), None);
    assert_eq!(counts[&Open], 2_000);
}

fn what_is_exhausted_is_counted_and_recovers<A: Addr>() {
    let world = World::<A>::with_snat_ports(3).and_backends(1, remote_pod, 0);
    world.serve(&[1]);
    let dialled = |client| source(&world, &dial(outsider(client), CLIENT_PORT, UDP));
    let opened: Vec<_> = (1..=12).filter_map(dialled).collect();
    assert_eq!(opened.len(), 4, "{opened:?}");
    let seen = world.node.take_counts();
    assert_eq!(
        (seen[&Open], seen[&PortRemapped], seen[&DropPortInUse]),
        (4, 3, 8)
    );
    assert_eq!(seen.get(&FlowDisplaced), None);
    world.wait(seconds(30) + REUSE_AFTER + 1);
    assert!(source(&world, &dial(outsider(9), CLIENT_PORT, UDP)).is_some());
}

/// Four clients with all of their ports but the lowest ones, before one backend; the range alone has 4,536 ports.
fn with_enough_addresses_one_backend_has_200_000_flows<A: Addr>() {
    const PORTS: u16 = 50_000;
    let config = NodeConfig {
        snat_port_count: 4_536,
        ..World::<A>::config()
    };
    let world = World::<A>::with_room(1 << 19, config).and_backends(1, remote_pod, 0);
    world.serve(&[1]);
    let addresses: Vec<A> = (1..=8).map(|n| addr(5, n)).chain([node_addr()]).collect();
    world.node.set_sources(UPLINK, &addresses);
    let mut seen = BTreeSet::new();
    for client in 1..=4 {
        for port in 0..PORTS {
            let source = source(&world, &dial(outsider(client), 10_000 + port, UDP));
            let source = source.unwrap_or_else(|| panic!("{client}: {port}"));
            assert!(seen.insert(source), "{source:?} twice");
        }
    }
    assert_eq!(seen.len(), 200_000);
    let counts = world.node.take_counts();
    assert_eq!(counts.get(&FlowDisplaced), None);
    assert_eq!(counts[&Open], 200_000);
}

/// A pod's own address is not one of the node's: none of those may stand in for it.
fn a_clients_own_address_has_no_further_ones<A: Addr>() {
    let world = World::<A>::with_config(NodeConfig {
        snat_port_count: 0,
        ..World::<A>::config()
    })
    .and_backends(1, remote_pod, 0);
    world.serve_at(vip(1), &[1]);
    world.serve_at(vip(2), &[1]);
    world.node.set_sources(UPLINK, &[node_addr(), addr(5, 1)]);
    let pod = crate::world::local_pod::<A>(9);
    let verdict = |at| {
        let spec = PacketSpec::new((pod, CLIENT_PORT), (at, SERVICE_PORT), SYN);
        world.pod().run(&mut spec.packet()).verdict
    };
    assert!(matches!(verdict(vip(1)), Verdict::Send(_)));
    assert_eq!(verdict(vip(2)), Verdict::Drop);
    assert_eq!(counts(&world.node, DropPortInUse), 1);
}
