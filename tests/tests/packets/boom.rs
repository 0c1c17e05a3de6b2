//! A backend that sends what does not belong into its connections: no client ever sees the backend's own address.
//!
//! After `[sig-network] Conntrack should drop INVALID conntrack entries` of Kubernetes.

use std::{cell::Cell, net::IpAddr};

use lb_common::{
    fake::{PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6},
};
use lb_tests::{
    addressing::Dual,
    netns::require_root,
    raw_sender::RawSender,
    sniffer::{Direction, Sniffer},
    topology::UPLINK,
};

use crate::scene::{ECHO_PORT, ECHO_TARGET, LIMIT, Scene, connected, is_echoed};

/// A segment that no window takes, as the backend would send it.
fn boom(server: IpAddr, client: (IpAddr, u16), flags: u8) -> Vec<u8> {
    fn made<A: Addr>(from: A, (to, port): (A, u16), flags: u8) -> Vec<u8> {
        let spec = PacketSpec::new((from, ECHO_TARGET), (to, port), Transport::Tcp(flags));
        spec.packet().bytes().to_vec()
    }
    match (server, client.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            made(Addr4::from(from), (Addr4::from(to), client.1), flags)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            made(Addr6::from(from), (Addr6::from(to), client.1), flags)
        }
        pair => panic!("addresses of two families: {pair:?}"),
    }
}

fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

#[test]
fn a_segment_out_of_the_window_never_shows_the_backends_address() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    // A backend of the node by which the client comes sees the client, another one sees that node.
    goes_unseen(&scene, "pod-1-1", None);
    scene.serve(&["pod-2-1"]);
    goes_unseen(
        &scene,
        "pod-2-1",
        Some(scene.deployment.cluster.nodes[0].addresses),
    );
}

/// Of the backend of this name, which sees the client under its own address or under one of `masked`.
fn goes_unseen(scene: &Scene, backend: &str, masked: Option<Dual>) {
    let client = &scene.deployment.cluster.client.namespace;
    let bad = RawSender::new(scene.pod(backend)).unwrap();
    let sniffer = Sniffer::open(client, UPLINK).unwrap();
    for family in 0..2 {
        let server = scene.pod_addr(backend, family);
        for front in scene.fronts(family, ECHO_PORT) {
            let mut stream = connected(client, front);
            let own = stream.local_addr().unwrap();
            let seen = masked.map_or(own.ip(), |masked| masked.both()[family]);
            // ACK, SYN-ACK, data, and a FIN.
            for flags in [0x10, 0x12, 0x18, 0x11] {
                bad.send(&boom(server, (seen, own.port()), flags)).unwrap();
                assert!(is_echoed(&mut stream), "{front} after {flags:#x}");
            }
            let leaks = Cell::new(0);
            let booms = Cell::new(0);
            let is_last = |packet: &[u8]| {
                leaks.set(leaks.get() + u32::from(source(packet) == Some(server)));
                // What the forged ones carry, under the service's address.
                let is_boom = source(packet) == Some(front.ip()) && packet.ends_with(b"fulcrum");
                booms.set(booms.get() + u32::from(is_boom));
                booms.get() == 4 && packet.ends_with(b"word")
            };
            let what = format!("all four of {backend} and the echo after them");
            sniffer.next(Direction::In, LIMIT, &what, is_last).unwrap();
            assert_eq!(leaks.get(), 0, "packets from {server} instead of {front}");
        }
    }
}
