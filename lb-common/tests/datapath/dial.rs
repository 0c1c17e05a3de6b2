//! What sockets of the node's own are given when they dial a service, and what they are told of the other end.

use std::collections::BTreeSet;

use lb_common::{
    abi::{
        Backend, Reason, Service, ServiceKey, SlotRange, backend_flags,
        dialled::{BACKEND_OF, SERVICE_OF},
        place, service_flags, takeover,
    },
    datapath::dial::{Dialling, Socket, dial, dialled_as},
    fake::FakeSockets,
    net::{addr::Addr, ip::proto},
};

use crate::{
    truth::{Cell, Fate, From, Front, endpoint, publish},
    world::{
        BACKEND_PORT, SERVICE_PORT, World, addr, backend, for_both_families, local_pod, node_addr,
        outsider, remote_pod, vip,
    },
};

for_both_families!(
    a_connection_gets_a_backend_and_knows_it_by_its_service,
    the_rules_are_those_of_the_nodes_packets,
    a_socket_keeps_its_backend_as_long_as_that_serves,
    a_backend_that_leaves_is_replaced_with_the_next_datagram,
    an_id_that_is_another_endpoints_now_is_no_backend,
    sockets_are_told_apart,
    what_only_packets_can_decide_is_left_to_them,
    a_socket_that_is_not_free_is_left_to_its_packets,
    a_datagram_to_the_nodes_own_addresses_is_left_to_the_packets,
    two_services_with_one_endpoint_are_not_mixed_up,
    what_cannot_be_remembered_is_left_to_the_packets,
    a_forgotten_answer_is_noted_again,
    an_endpoint_that_is_a_frontend_is_left_to_the_packets,
    a_maglev_table_is_drawn_from,
    nobody_is_mistaken_for_a_service,
    a_change_in_the_midst_gives_no_other_services_backend,
);

/// Enough draws to see all of a few backends.
const DRAWS: u64 = 64;

fn free(cookie: u64) -> Socket {
    Socket {
        cookie,
        is_free: true,
    }
}

fn service<A: Addr>(protocol: u8) -> ServiceKey<A> {
    ServiceKey::new(vip(1), SERVICE_PORT, protocol)
}

/// What becomes of a dial, and where it goes.
fn dials<A: Addr>(
    world: &World<A>,
    sockets: &FakeSockets<A>,
    cookie: u64,
    to: ServiceKey<A>,
) -> (Dialling, A) {
    let mut end = to;
    let became = dial(&world.host(), sockets, free(cookie), &mut end);
    if became.is_direct() {
        assert_eq!((end.port, end.proto), (BACKEND_PORT, to.proto));
    } else {
        assert_eq!(end, to, "untouched");
    }
    (became, end.addr)
}

/// What a socket is told of an end that is a backend.
fn told<A: Addr>(sockets: &FakeSockets<A>, cookie: u64, of: A, protocol: u8) -> Option<(A, u16)> {
    let mut end = ServiceKey::new(of, BACKEND_PORT, protocol);
    dialled_as(sockets, cookie, &mut end).then_some((end.addr, end.port))
}

fn a_connection_gets_a_backend_and_knows_it_by_its_service<A: Addr>() {
    let world = World::<A>::with_local_backends(3);
    let sockets = FakeSockets::default();
    let mut seen = BTreeSet::new();
    for cookie in 0..DRAWS {
        let (became, to) = dials(&world, &sockets, cookie, service(proto::TCP));
        assert_eq!(became, Dialling::Given);
        assert_eq!(became.reason(), Some(Reason::DialGiven));
        let told = told(&sockets, cookie, to, proto::TCP);
        assert_eq!(told, Some((vip(1), SERVICE_PORT)));
        seen.insert(to);
    }
    assert_eq!(seen, [1, 2, 3].map(local_pod).into());
    let n_known = usize::try_from(DRAWS).expect("few");
    assert_eq!(sockets.known().len(), n_known, "one for each");
}

fn the_rules_are_those_of_the_nodes_packets<A: Addr>() {
    let cells = Cell::all(0);
    let of_node = cells.iter().filter(|cell| cell.from == From::Host);
    for cell in of_node {
        let world = cell.world::<A>();
        let sockets = FakeSockets::default();
        let to = ServiceKey::new(cell.front.addr(), SERVICE_PORT, proto::TCP);
        let draws = (0..DRAWS).map(|cookie| dials(&world, &sockets, cookie, to));
        let found: BTreeSet<_> = draws
            .map(|(became, to)| (became == Dialling::Given).then_some(to))
            .collect();
        let expected: BTreeSet<_> = match cell.fate() {
            Fate::To { endpoints, .. } => endpoints.into_iter().map(endpoint).map(Some).collect(),
            Fate::Drop | Fate::Reject => [None].into(),
        };
        assert_eq!(found, expected, "{cell:?}");
    }
}

fn a_socket_keeps_its_backend_as_long_as_that_serves<A: Addr>() {
    let world = World::<A>::with_remote_backends(3);
    let sockets = FakeSockets::default();
    let to = service(proto::UDP);
    let (became, first) = dials(&world, &sockets, 1, to);
    assert_eq!(became, Dialling::Given);
    for _ in 0..DRAWS {
        assert_eq!(dials(&world, &sockets, 1, to), (Dialling::Kept, first));
    }
    // Out of the list, but still serving, as one that is terminating.
    world.serve(&[]);
    assert_eq!(dials(&world, &sockets, 1, to), (Dialling::Kept, first));
    assert_eq!(
        told(&sockets, 1, first, proto::UDP),
        Some((vip(1), SERVICE_PORT))
    );
    assert_eq!(sockets.known().len(), 2, "both directions");
}

fn a_backend_that_leaves_is_replaced_with_the_next_datagram<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    let sockets = FakeSockets::default();
    let to = service(proto::UDP);
    let (_, first) = dials(&world, &sockets, 1, to);
    let (gone, other) = if first == local_pod(1) {
        (1, 2)
    } else {
        (2, 1)
    };
    world.leave(gone, &[other]);
    let second = local_pod(u8::try_from(other).expect("few"));
    assert_eq!(dials(&world, &sockets, 1, to), (Dialling::Moved, second));
    assert_eq!(dials(&world, &sockets, 1, to), (Dialling::Kept, second));
    for backend in [first, second] {
        // Answers of the first one may still be under way.
        let told = told(&sockets, 1, backend, proto::UDP);
        assert_eq!(told, Some((vip(1), SERVICE_PORT)));
    }
    world.leave(other, &[]);
    assert_eq!(dials(&world, &sockets, 1, to).0, Dialling::Left);
}

fn an_id_that_is_another_endpoints_now_is_no_backend<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let to = service(proto::UDP);
    for other in [
        // The id's next endpoint, and the same one of another service.
        Backend {
            generation: 2,
            ..backend(local_pod(2), 0)
        },
        Backend {
            service: World::<A>::SERVICE + 1,
            ..backend(local_pod(1), 0)
        },
    ] {
        let sockets = FakeSockets::default();
        world.node.set_backend(1, Some(backend(local_pod(1), 0)));
        assert_eq!(dials(&world, &sockets, 1, to).0, Dialling::Given);
        world.node.set_backend(1, Some(other));
        let is_its_own = other.service == World::<A>::SERVICE;
        let expected = if is_its_own {
            (Dialling::Moved, local_pod(2))
        } else {
            (Dialling::Left, vip(1))
        };
        assert_eq!(dials(&world, &sockets, 1, to), expected);
    }
}

fn sockets_are_told_apart<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let sockets = FakeSockets::default();
    let one = 7;
    // Both halves of a cookie count.
    for other in [8, one | 1 << 32] {
        assert_eq!(
            dials(&world, &sockets, one, service(proto::TCP)).0,
            Dialling::Given
        );
        assert_eq!(told(&sockets, other, local_pod(1), proto::TCP), None);
        assert_eq!(told(&sockets, one, local_pod(1), proto::UDP), None);
        assert_eq!(told(&sockets, one, local_pod(2), proto::TCP), None);
    }
}

fn what_only_packets_can_decide_is_left_to_them<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    let plain = Service {
        id: World::<A>::SERVICE,
        version: 9,
        cluster: SlotRange { base: 1, count: 2 },
        flags: service_flags::CLUSTER_IP,
        ..Service::default()
    };
    let with = |flags| Service {
        flags: plain.flags | flags,
        ..plain
    };
    let became = |service| {
        publish(&world, vip(1), service);
        [proto::TCP, proto::UDP].map(|protocol| {
            let sockets = FakeSockets::default();
            let to = ServiceKey::new(vip(1), SERVICE_PORT, protocol);
            let (became, _) = dials(&world, &sockets, 1, to);
            assert_eq!(sockets.known().is_empty(), became == Dialling::Left);
            became
        })
    };
    assert_eq!(became(plain), [Dialling::Given; 2]);
    for service in [
        Service {
            affinity_timeout_s: 1,
            ..plain
        },
        Service { guard: 5, ..plain },
        with(service_flags::LEAST_CONNECTIONS),
        // The policy leaves nobody, and there is nobody.
        with(service_flags::INTERNAL_LOCAL),
        Service {
            cluster: SlotRange { base: 1, count: 0 },
            ..plain
        },
    ] {
        assert_eq!(became(service), [Dialling::Left; 2], "{service:?}");
    }
    for word in [takeover::FROM, takeover::TO] {
        world.node.set_takeover(word);
        assert_eq!(became(plain), [Dialling::Left; 2]);
    }
    world.node.set_takeover(takeover::UP);
    assert_eq!(became(plain), [Dialling::Given; 2]);
}

fn a_socket_that_is_not_free_is_left_to_its_packets<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let sockets = FakeSockets::default();
    let socket = Socket {
        cookie: 1,
        is_free: false,
    };
    for protocol in [proto::TCP, proto::UDP] {
        let mut to = service(protocol);
        let became = dial(&world.host(), &sockets, socket, &mut to);
        assert_eq!(became, Dialling::Left);
        assert_eq!(became.reason(), Some(Reason::DialLeft));
        assert_eq!(to, service(protocol));
        to.port += 1;
        let became = dial(&world.host(), &sockets, socket, &mut to);
        assert_eq!(became, Dialling::Elsewhere, "whoever dials no service");
    }
}

fn a_datagram_to_the_nodes_own_addresses_is_left_to_the_packets<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    world
        .node
        .set_place(addr(151, 1), World::<A>::addr_bits(), place::NODE);
    for (front, is_left) in [
        (Front::NodePort, true),
        (Front::ExternalIp, true),
        (Front::LoadBalancer, false),
    ] {
        let service = Service {
            id: World::<A>::SERVICE,
            version: 1,
            cluster: SlotRange { base: 1, count: 1 },
            flags: front.flags(),
            ..Service::default()
        };
        publish(&world, front.addr(), service);
        let became = |protocol| {
            let to = ServiceKey::new(front.addr(), SERVICE_PORT, protocol);
            dials(&world, &FakeSockets::default(), 1, to).0
        };
        let of_datagram = if is_left {
            Dialling::Left
        } else {
            Dialling::Given
        };
        let found = [proto::TCP, proto::UDP].map(became);
        assert_eq!(found, [Dialling::Given, of_datagram], "{front:?}");
    }
}

fn two_services_with_one_endpoint_are_not_mixed_up<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    world.serve_at(vip(2), &[1]);
    let other = |protocol| ServiceKey::new(vip(2), SERVICE_PORT, protocol);
    let sockets = FakeSockets::default();
    assert_eq!(
        dials(&world, &sockets, 1, service(proto::UDP)).0,
        Dialling::Given
    );
    assert_eq!(
        dials(&world, &sockets, 1, other(proto::UDP)).0,
        Dialling::Left
    );
    assert_eq!(
        dials(&world, &sockets, 2, other(proto::UDP)).0,
        Dialling::Given
    );
    let told = |cookie| told(&sockets, cookie, local_pod(1), proto::UDP);
    assert_eq!(told(1), Some((vip(1), SERVICE_PORT)));
    assert_eq!(told(2), Some((vip(2), SERVICE_PORT)));
    // A connection is its socket's only one: one that failed is followed by another.
    for to in [service(proto::TCP), other(proto::TCP)] {
        assert_eq!(dials(&world, &sockets, 3, to).0, Dialling::Given);
        let mut end = ServiceKey::new(local_pod(1), BACKEND_PORT, proto::TCP);
        assert!(dialled_as(&sockets, 3, &mut end));
        assert_eq!(end, to);
    }
}

fn what_cannot_be_remembered_is_left_to_the_packets<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    for (room, tcp, udp) in [
        (0, Dialling::Left, Dialling::Left),
        (1, Dialling::Given, Dialling::Left),
        (2, Dialling::Given, Dialling::Given),
    ] {
        for (protocol, expected) in [(proto::TCP, tcp), (proto::UDP, udp)] {
            let sockets = FakeSockets::default();
            sockets.set_room(room);
            let became = dials(&world, &sockets, 1, service(protocol)).0;
            assert_eq!(became, expected, "room {room}, protocol {protocol}");
        }
    }
}

fn a_forgotten_answer_is_noted_again<A: Addr>() {
    let world = World::<A>::with_local_backends(2);
    let sockets = FakeSockets::default();
    let to = service(proto::UDP);
    let (_, first) = dials(&world, &sockets, 1, to);
    sockets.forget(SERVICE_OF);
    assert_eq!(told(&sockets, 1, first, proto::UDP), None);
    assert_eq!(dials(&world, &sockets, 1, to), (Dialling::Kept, first));
    let known = told(&sockets, 1, first, proto::UDP);
    assert_eq!(known, Some((vip(1), SERVICE_PORT)));
    sockets.forget(BACKEND_OF);
    assert_eq!(dials(&world, &sockets, 1, to).0, Dialling::Given, "anew");
}

fn an_endpoint_that_is_a_frontend_is_left_to_the_packets<A: Addr>() {
    // A process of the node that listens on a port that is a node port.
    let world = World::<A>::with_backend_here();
    assert_eq!(
        dials(&world, &FakeSockets::default(), 1, service(proto::TCP)).0,
        Dialling::Given
    );
    let other = Service {
        id: 77,
        version: 1,
        flags: service_flags::NODE_PORT,
        ..Service::default()
    };
    let at = ServiceKey::new(node_addr(), BACKEND_PORT, proto::TCP);
    world.node.set_service(at, Some(other));
    let became = |protocol| dials(&world, &FakeSockets::default(), 1, service(protocol)).0;
    assert_eq!(became(proto::TCP), Dialling::Left);
    assert_eq!(became(proto::UDP), Dialling::Given, "another protocol's");
}

fn a_maglev_table_is_drawn_from<A: Addr>() {
    let world = World::<A>::new();
    world.choose_by(service_flags::MAGLEV);
    let world = world.and_backends(3, remote_pod, 0);
    let sockets = FakeSockets::default();
    let draws = (0..DRAWS).map(|cookie| dials(&world, &sockets, cookie, service(proto::TCP)).1);
    let seen: BTreeSet<_> = draws.collect();
    assert_eq!(seen, [1, 2, 3].map(remote_pod).into());
}

fn nobody_is_mistaken_for_a_service<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    let sockets = FakeSockets::default();
    for to in [
        ServiceKey::new(vip(1), SERVICE_PORT + 1, proto::TCP),
        ServiceKey::new(vip(9), SERVICE_PORT, proto::TCP),
        ServiceKey::new(outsider(1), SERVICE_PORT, proto::UDP),
        ServiceKey::new(vip(1), SERVICE_PORT, proto::SCTP),
    ] {
        let (became, _) = dials(&world, &sockets, 1, to);
        assert_eq!(became, Dialling::Elsewhere, "{to:?}");
        assert_eq!(became.reason(), None);
    }
    assert!(sockets.known().is_empty());
}

fn a_change_in_the_midst_gives_no_other_services_backend<A: Addr>() {
    // The slots name what has become another service's, as a reader in flight may find them.
    let world = World::<A>::with_local_backends(2);
    for id in [1, 2] {
        let stolen = Backend {
            service: World::<A>::SERVICE + 1,
            ..backend(local_pod(9), backend_flags::LOCAL)
        };
        world.node.set_backend(id, Some(stolen));
    }
    for protocol in [proto::TCP, proto::UDP] {
        let became = dials(&world, &FakeSockets::default(), 1, service(protocol));
        assert_eq!(became, (Dialling::Left, vip(1)));
    }
}
