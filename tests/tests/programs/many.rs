//! As many connections to one backend as nine addresses of the node have room for, and more than one of them has.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::{
    abi::{Reason, Source, SourceKey},
    fake::{PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6, Family},
};
use lb_tests::{
    addressing,
    lone_node::{CLIENT_MAC, Device, NODE, address},
    packet::{Frame, Macs},
    progrun::{Action, Arrival, Counts},
};
use lb_user::{apply::LbMaps, plan::SourceId};

use crate::fixture::{Fixture, Vip};

const CONNECTIONS: u32 = 200_000;
/// Places for both directions of all of them, and as many again.
const FLOW_TABLE_SIZE: u32 = 1 << 20;
/// Addresses of the uplink.
const ADDRESSES: u32 = 9;

#[test]
fn none_of_two_hundred_thousand_connections_to_one_backend_is_refused() {
    let programs = &["uplink"];
    let Some(mut fixture) = Fixture::with_ports(programs, FLOW_TABLE_SIZE, 61_000..=65_535) else {
        return;
    };
    all_leave::<Addr4>(&mut fixture);
    all_leave::<Addr6>(&mut fixture);
}

/// The node's address number `at`; the first is its own.
fn node<A: Addr>(at: u32) -> A {
    let own = address::<A>(addressing::node(NODE)).to_ip();
    let further = match (A::FAMILY, at) {
        (_, 0) => own,
        (Family::V4, _) => IpAddr::from(Ipv4Addr::from_bits(0xc612_0040 + at)),
        (Family::V6, _) => {
            let net = 0xfd00_0198_0018_0000_u128 << 64;
            IpAddr::from(Ipv6Addr::from_bits(net + 0x1_0000 + u128::from(at)))
        }
    };
    A::from_ip(further).unwrap()
}

/// Client number `n`: no two have one address, and their ports are any.
fn client<A: Addr>(n: u32) -> (A, u16) {
    let port = 1_024 + n.wrapping_mul(0x9e37_79b1) % 64_512;
    let ip = match A::FAMILY {
        Family::V4 => IpAddr::from(Ipv4Addr::from_bits(0xac10_0000 + n)),
        Family::V6 => IpAddr::from(Ipv6Addr::from_bits((0xfd99_u128 << 112) + u128::from(n))),
    };
    (A::from_ip(ip).unwrap(), u16::try_from(port).unwrap())
}

fn all_leave<A: Addr>(fixture: &mut Fixture) {
    let ifindex = fixture.node.ifindex(Device::Uplink).unwrap();
    for at in 0..ADDRESSES {
        let id = SourceId {
            family: A::FAMILY,
            key: SourceKey { ifindex, at },
        };
        let row = Source {
            addr: node::<A>(at).to_ip(),
            count: ADDRESSES,
        };
        fixture.datapath.tables.put_source(id, &row).unwrap();
    }
    let programs = &fixture.datapath.programs;
    let before = programs.counters().unwrap();
    let macs = Macs {
        dst: Device::Uplink.mac(),
        src: CLIENT_MAC,
    };
    let (src_at, sport_at) = match A::FAMILY {
        Family::V4 => (14 + 12..14 + 16, 14 + 20..14 + 22),
        Family::V6 => (14 + 8..14 + 24, 14 + 40..14 + 42),
    };
    let sources: HashSet<Vec<u8>> = fixture.node.namespace().run(|| {
        let leave = |n| {
            let spec = PacketSpec::new(client::<A>(n), Vip::Remote.frontend(), Transport::Udp);
            let frame = Frame::of(macs, &spec);
            let outcome = programs
                .run("uplink", &frame, Arrival::by(ifindex))
                .unwrap();
            assert_eq!(outcome.action, Action::Redirect, "{} client {n}", A::FAMILY);
            let left = outcome.frame.bytes();
            [&left[src_at.clone()], &left[sport_at.clone()]].concat()
        };
        (0..CONNECTIONS).map(leave).collect()
    });
    assert_eq!(sources.len(), CONNECTIONS as usize, "no two leave alike");
    let mut counts = programs.counters().unwrap().since(&before);
    let remapped = counts.0.remove(&Reason::PortRemapped);
    assert!(remapped > Some(u64::from(CONNECTIONS) / 2), "{remapped:?}");
    let all = u64::from(CONNECTIONS);
    assert_eq!(
        counts,
        Counts::of(&[(Reason::Open, all), (Reason::Resolved, all)])
    );
}
