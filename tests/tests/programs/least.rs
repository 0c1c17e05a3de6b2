//! Services whose backends are chosen by how many connections they have.

use std::net::SocketAddr;

use lb_common::{
    abi::{Reason, backend_flags::COUNTED, service_flags::LEAST_CONNECTIONS},
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use lb_tests::{
    lone_node::{Device, NEIGHBOUR, NODE},
    packet::Frame,
    progrun::{ServicePort, backend, frontend},
};
use lb_user::plan::BackendId;

use crate::fixture::{ACK, Fixture, SYN, SYN_ACK, TARGET_PORT, Vip, arriving, pod};

const DIALS: u16 = 100;
const BUSY: u32 = 1_000;
/// Two backends, no other service's.
const FIRST: u32 = 100;
const RST: Transport = Transport::Tcp(0x04);

#[test]
fn who_has_fewer_connections_is_preferred_and_an_ended_one_is_none() {
    let Some(mut fixture) = Fixture::new(&["pod", "uplink"]) else {
        return;
    };
    prefers::<Addr4>(&mut fixture);
    prefers::<Addr6>(&mut fixture);
}

fn prefers<A: Addr>(fixture: &mut Fixture) {
    let (addr, number) = Vip::Remote.frontend::<A>();
    let row = |number| {
        let addr = pod::<A>(NEIGHBOUR, number).to_ip();
        backend(SocketAddr::new(addr, TARGET_PORT), COUNTED)
    };
    let port = ServicePort {
        id: FIRST,
        frontends: vec![frontend(SocketAddr::new(addr.to_ip(), number), proto::TCP)],
        base: FIRST,
        backends: vec![(FIRST, row(1)), (FIRST + 1, row(2))],
        algorithm: LEAST_CONNECTIONS,
    };
    fixture.datapath.install(&port).unwrap();
    let [busy, idle] = [FIRST, FIRST + 1].map(|id| BackendId {
        family: A::FAMILY,
        id,
    });
    fixture
        .datapath
        .programs
        .set_connections(busy, BUSY)
        .unwrap();
    for sport in (40_000..).take(DIALS.into()) {
        sends::<A>(fixture, sport, SYN, Reason::Open);
    }
    let mut count = |id| fixture.datapath.programs.connections(id).unwrap();
    let (at_busy, at_idle) = (count(busy), count(idle));
    assert_eq!(at_busy + at_idle, BUSY + u32::from(DIALS));
    // Chance names the busy one twice once in four times; fewer than half of a hundred is one case of 10^7.
    assert!(at_idle > u32::from(DIALS) / 2, "{at_idle}");
    // One of them ends.
    answers::<A>(fixture, 40_000);
    sends::<A>(fixture, 40_000, ACK, Reason::HitOriginal);
    sends::<A>(fixture, 40_000, RST, Reason::HitOriginal);
    sends::<A>(fixture, 40_000, RST, Reason::HitOriginal);
    let mut count = |id| fixture.datapath.programs.connections(id).unwrap();
    assert_eq!(count(busy) + count(idle), at_busy + at_idle - 1);
}

fn sends<A: Addr>(fixture: &Fixture, sport: u16, transport: Transport, outcome: Reason) {
    let client = (pod::<A>(NODE, 2), sport);
    let spec = PacketSpec::new(client, Vip::Remote.frontend(), transport);
    let device = Device::Pod(2);
    let (_, counts) = fixture.run("pod", &Frame::of(arriving(device), &spec), device);
    assert_eq!(counts.0.get(&outcome), Some(&1), "{counts:?}");
}

/// The backend accepts the connection, whichever of the two it is.
fn answers<A: Addr>(fixture: &Fixture, dport: u16) {
    let hits: u64 = [1, 2]
        .map(|number| {
            let backend = (pod::<A>(NEIGHBOUR, number), TARGET_PORT);
            let spec = PacketSpec::new(backend, (pod::<A>(NODE, 2), dport), SYN_ACK);
            let device = Device::Uplink;
            let (_, counts) = fixture.run("uplink", &Frame::of(arriving(device), &spec), device);
            counts.0.get(&Reason::HitReply).copied().unwrap_or(0)
        })
        .iter()
        .sum();
    assert_eq!(hits, 1);
}
