//! Services whose backends are chosen by the packet: on nodes that have nothing else in common, and in the middle of a
//! connection.

use std::net::SocketAddr;

use lb_common::{
    abi::{
        Reason::{Answered, Open, RejectNoFlow, Resolved, Resumed},
        service_flags::MAGLEV,
    },
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use lb_tests::{
    lone_node::{Device, NEIGHBOUR, NODE},
    packet::Frame,
    progrun::{Action, Counts, ServicePort, backend, frontend},
};

use crate::fixture::{ACK, Fixture, TARGET_PORT, Vip, arriving, opening, pod, sent_on};

const BACKENDS: u8 = 8;
const PORTS: std::ops::Range<u16> = 40_000..40_100;
/// Of the second node, no other service's.
const OTHER: u32 = 1_000;

/// A node that gives its backends the ids from `first` on.
fn node(hash_key: [u32; 12], first: u32) -> Option<Fixture> {
    let mut fixture = Fixture::with_secret(&["pod"], hash_key)?;
    for protocol in [proto::TCP, proto::UDP] {
        for port in [
            port::<Addr4>(protocol, first),
            port::<Addr6>(protocol, first),
        ] {
            fixture.datapath.install(&port).unwrap();
        }
    }
    Some(fixture)
}

/// Instead of [`Vip::Remote`]'s one backend several.
fn port<A: Addr>(protocol: u8, first: u32) -> ServicePort {
    let (addr, number) = Vip::Remote.frontend::<A>();
    let first = first + if protocol == proto::UDP { 100 } else { 0 };
    let backends = (first..).zip(1..=BACKENDS).map(|(id, number)| {
        let addr = pod::<A>(NEIGHBOUR, number).to_ip();
        (id, backend(SocketAddr::new(addr, TARGET_PORT), 0))
    });
    ServicePort {
        id: first,
        frontends: vec![frontend(SocketAddr::new(addr.to_ip(), number), protocol)],
        base: first,
        backends: backends.collect(),
        algorithm: MAGLEV,
    }
}

/// The number of the pod that a client's packet is sent to.
fn pod_of<A: Addr>(fixture: &Fixture, sport: u16, transport: Transport) -> (u8, Counts) {
    let client = (pod::<A>(NODE, 2), sport);
    let spec = PacketSpec::new(client, Vip::Remote.frontend(), transport);
    let device = Device::Pod(2);
    let (outcome, counts) = fixture.run("pod", &Frame::of(arriving(device), &spec), device);
    let backend = (1..=BACKENDS).find(|number| {
        let sent = sent_on(&spec, client, (pod(NEIGHBOUR, *number), TARGET_PORT));
        // Its MACs are the kernel's to write, if it has to look for the neighbour.
        outcome.frame.packet() == sent.packet().bytes()
    });
    let backend = backend.unwrap_or_else(|| panic!("{outcome:?}, {counts:?}"));
    (backend, counts)
}

#[test]
fn a_packet_finds_the_same_backend_on_every_node() {
    let (Some(here), Some(there)) = (node([7; 12], 100), node([9; 12], OTHER)) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        same::<Addr4>([&here, &there], protocol);
        same::<Addr6>([&here, &there], protocol);
    }
}

fn same<A: Addr>(nodes: [&Fixture; 2], protocol: u8) {
    let mut used = [false; BACKENDS as usize];
    for port in PORTS {
        let found = nodes.map(|node| pod_of::<A>(node, port, opening(protocol)).0);
        assert_eq!(found[0], found[1], "{} port {port}", A::FAMILY);
        used[usize::from(found[0]) - 1] = true;
    }
    assert_eq!(used, [true; BACKENDS as usize]);
}

#[test]
fn the_middle_of_a_connection_finds_its_backend_where_the_packet_tells_it() {
    let (Some(here), Some(there)) = (node([7; 12], 100), node([9; 12], OTHER)) else {
        return;
    };
    resumes::<Addr4>([&here, &there]);
    resumes::<Addr6>([&here, &there]);
}

fn resumes<A: Addr>([here, there]: [&Fixture; 2]) {
    let first = pod_of::<A>(here, 40_000, opening(proto::TCP)).0;
    let (second, counts) = pod_of::<A>(there, 40_000, ACK);
    assert_eq!(second, first);
    assert_eq!(counts.0.get(&Resumed), Some(&1), "{counts:?}");
    assert_eq!(counts.0.get(&Open), Some(&1), "{counts:?}");
    assert!(
        counts
            .0
            .keys()
            .all(|it| [Open, Resumed, Resolved].contains(it))
    );
    // Any other service's is reset.
    let spec = PacketSpec::new((pod::<A>(NODE, 2), 40_000), Vip::Local.frontend(), ACK);
    let device = Device::Pod(2);
    let (outcome, counts) = there.run("pod", &Frame::of(arriving(device), &spec), device);
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(counts, Counts::of(&[(RejectNoFlow, 1), (Answered, 1)]));
}
