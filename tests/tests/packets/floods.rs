//! Beginnings without end from random sources, ten times what the table holds, while established connections live.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use lb_common::{
    fake::{PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6},
};
use lb_tests::{client, limits, netns::require_root, raw_sender::RawSender};

use crate::scene::{ECHO_PORT, PORT, Scene, connected, is_echoed};

/// Places of the flow table of each family.
const PLACES: u32 = 8_192;
const FLAGS: [&str; 2] = ["--flow-table-size=8192", "--flow-table-max=8192"];
/// Idle connections of each family.
const LIVING: usize = 500;
/// What the flooded pod never answers.
const STRANGERS: [&str; 2] = ["172.16.0.0/12", "fd99::/16"];

/// Packet `n` of a flood.
fn packet(n: u32, to: SocketAddr, transport: Transport) -> Vec<u8> {
    fn made<A: Addr>(from: A, port: u16, to: (A, u16), transport: Transport) -> Vec<u8> {
        let spec = PacketSpec::new((from, port), to, transport);
        spec.packet().bytes().to_vec()
    }
    // Any order will do, so long as no two are alike.
    let n = n.wrapping_mul(0x9e37_79b1);
    let [high, net, host, low] = n.to_be_bytes();
    let port = 1_024 + u16::from_be_bytes([high, net]) % 60_000;
    match to.ip() {
        IpAddr::V4(ip) => {
            let from = Addr4::from(Ipv4Addr::new(172, 16 + (net & 15), host, low.max(1)));
            made(from, port, (Addr4::from(ip), to.port()), transport)
        }
        IpAddr::V6(ip) => {
            let last = u16::from_be_bytes([host, low]);
            let from = Addr6::from(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, net.into(), last));
            made(from, port, (Addr6::from(ip), to.port()), transport)
        }
    }
}

/// Established connections live through a flood to the same service from outside.
fn withstands(transport: Transport, port: u16, is_answered: bool) {
    if !require_root() {
        return;
    }
    // Both ends of a connection are files of this process.
    limits::allow_files(4 * 2 * LIVING as u64).unwrap();
    let scene = Scene::new(&["pod-1-1"], &FLAGS);
    let client = &scene.deployment.cluster.client.namespace;
    if !is_answered {
        let routes: Vec<String> = STRANGERS
            .iter()
            .map(|net| format!("route add blackhole {net}"))
            .collect();
        scene.pod("pod-1-1").ip(&routes).unwrap();
    }
    let mut streams: Vec<TcpStream> = Vec::new();
    for family in 0..2 {
        for n in 0..LIVING {
            let front = scene.fronts(family, ECHO_PORT)[n % 2];
            // Some have been used; the others have done no more than begin.
            streams.push(match n % 4 {
                0 => connected(client, front),
                _ => client.run(|| client::connect(front).unwrap()),
            });
        }
    }
    let sender = RawSender::new(client).unwrap();
    for family in 0..2 {
        let [front, _] = scene.fronts(family, port);
        for n in 0..10 * PLACES {
            sender.send(&packet(n, front, transport)).unwrap();
        }
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        assert!(is_echoed(stream), "connection {n} of {}", 2 * LIVING);
    }
    let counters = scene.agent().counters().unwrap();
    // Twice what fits came in, and whoever gave way is counted.
    assert!(counters["open"] > u64::from(2 * PLACES), "{counters:?}");
    let told = counters["flow_displaced"] + counters["drop_flow_table_full"];
    assert!(told > u64::from(PLACES), "{counters:?}");
    // New clients are served in the midst of it.
    drop(connected(client, scene.fronts(0, ECHO_PORT)[0]));
}

#[test]
fn a_flood_of_syns_that_nobody_answers_ends_no_connection() {
    withstands(Transport::Tcp(0x02), PORT, false);
}

#[test]
fn a_flood_of_syns_that_are_answered_ends_no_connection() {
    withstands(Transport::Tcp(0x02), PORT, true);
}

#[test]
fn datagrams_of_random_sources_end_no_connection() {
    withstands(Transport::Udp, PORT, false);
}
