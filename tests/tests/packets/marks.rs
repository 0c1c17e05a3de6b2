//! What a header says besides addresses and ports goes from end to end as it was sent: DSCP, ECN, the flow label, IPv4
//! options and IPv6 extension headers, of whole datagrams and of fragments.

use std::{
    cell::RefCell,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    fake::{FakePacket, PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        csum,
    },
};
use lb_tests::{
    netns::{Namespace, require_root},
    raw_sender::RawSender,
    sniffer::{Direction, Sniffer},
    topology::{POD_DEVICE, UPLINK},
};

use crate::scene::{LIMIT, PORT, Scene, TARGET, bound};

/// Bytes of a datagram that is sent in pieces, and of each piece.
const LARGE: usize = 3_000;
const PIECE: usize = 1_024;
/// Expedited forwarding with ECT(1); the lowest class with "congestion experienced".
const CLASSES: [u8; 2] = [0xb9, 0x23];
/// Any that is not zero.
const FLOW_LABEL: [u8; 3] = [0x05, 0x43, 0x21];
/// Router alert and four times nothing: whole words, as options must be.
const OPTIONS_V4: [u8; 8] = [0x94, 4, 0, 0, 1, 1, 1, 1];
/// The body of an extension header: an option that whoever does not know it skips.
const OPTION_V6: [u8; 6] = [0x1e, 4, 1, 2, 3, 4];
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

/// What is marked, and how.
#[derive(Clone, Copy, Debug)]
struct Marks {
    class: u8,
    /// Options or extension headers.
    has_options: bool,
    is_cut: bool,
}

impl Marks {
    const ALL: [Self; 5] = [
        Self::of(CLASSES[0], false, false),
        Self::of(CLASSES[1], false, true),
        Self::of(0, true, false),
        Self::of(CLASSES[1], true, false),
        Self::of(CLASSES[0], true, true),
    ];

    const fn of(class: u8, has_options: bool, is_cut: bool) -> Self {
        Self {
            class,
            has_options,
            is_cut,
        }
    }

    /// A datagram so marked, in one piece or several, with so many hops left.
    fn packets(self, from: SocketAddr, to: SocketAddr, id: u32, hops: u8) -> Vec<Vec<u8>> {
        match (from.ip(), to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let ends = [
                    (Addr4::from(src), from.port()),
                    (Addr4::from(dst), to.port()),
                ];
                self.packets_of(ends, id, hops)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ends = [
                    (Addr6::from(src), from.port()),
                    (Addr6::from(dst), to.port()),
                ];
                self.packets_of(ends, id, hops)
            }
            ends => panic!("addresses of two families: {ends:?}"),
        }
    }

    fn packets_of<A: Addr>(self, [from, to]: [(A, u16); 2], id: u32, hops: u8) -> Vec<Vec<u8>> {
        let len = if self.is_cut { LARGE } else { 100 };
        let filler = (0..251_u8).cycle().skip(id as usize % 251);
        let spec = PacketSpec {
            may_fragment: true,
            ttl: hops,
            options: if self.has_options {
                OPTIONS_V4.into()
            } else {
                Vec::new()
            },
            payload: filler.take(len).collect(),
            ..PacketSpec::new(from, to, Transport::Udp)
        };
        let mut whole = spec.packet();
        if self.has_options && is_v6(whole.bytes()) {
            whole = FakePacket::new(with_extension(whole.bytes(), DESTINATION));
        }
        let pieces = if self.is_cut {
            whole.cut(PIECE, id)
        } else {
            vec![whole]
        };
        pieces
            .iter()
            .map(|piece| self.mark(piece.bytes()))
            .collect()
    }

    /// What every piece has of its own.
    fn mark(self, packet: &[u8]) -> Vec<u8> {
        if is_v6(packet) {
            let mut packet = packet.to_vec();
            packet[0] |= self.class >> 4;
            packet[1..4].copy_from_slice(&FLOW_LABEL);
            packet[1] |= self.class << 4;
            if self.has_options {
                return with_extension(&packet, HOP_BY_HOP);
            }
            return packet;
        }
        let mut packet = packet.to_vec();
        packet[1] = self.class;
        let header = usize::from(packet[0] & 0xf) * 4;
        packet[10..12].fill(0);
        let check = csum::checksum(&packet[..header], 0);
        packet[10..12].copy_from_slice(&check.to_ne_bytes());
        packet
    }
}

fn is_v6(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6
}

/// An IPv6 packet with one more header, the first after the fixed one.
fn with_extension(packet: &[u8], kind: u8) -> Vec<u8> {
    let (header, rest) = packet.split_at(40);
    let mut header = header.to_vec();
    let extension = [&[header[6], 0], &OPTION_V6[..]].concat();
    let len = u16::from_be_bytes([header[4], header[5]]) + 8;
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6] = kind;
    [&header, &extension[..], rest].concat()
}

/// The hops that a packet has left.
fn hops(packet: &[u8]) -> u8 {
    packet[if is_v6(packet) { 7 } else { 8 }]
}

/// One side of an exchange: where it sends, and what arrives there.
struct Side {
    name: String,
    sender: RawSender,
    sniffer: Sniffer,
}

impl Side {
    fn new(name: &str, namespace: &Namespace, device: &str) -> Self {
        Self {
            name: name.to_owned(),
            sender: RawSender::new(namespace).unwrap(),
            sniffer: Sniffer::open(namespace, device).unwrap(),
        }
    }

    /// Sends these packets; others arrive, equal to those that `wanted` makes for as many hops as are left.
    fn sends(
        &self,
        packets: &[Vec<u8>],
        to: &Self,
        what: &str,
        wanted: impl Fn(u8) -> Vec<Vec<u8>>,
    ) {
        let sent = hops(&packets[0]);
        for packet in packets {
            self.sender.send(packet).unwrap();
        }
        let what = format!("{what}, from {} to {}", self.name, to.name);
        let missing = RefCell::new((0..packets.len()).collect::<Vec<_>>());
        let is_last = |packet: &[u8]| {
            let left = hops(packet);
            let mut missing = missing.borrow_mut();
            let all = wanted(left);
            missing.retain(|at| left >= sent || all[*at] != packet);
            missing.is_empty()
        };
        let arrived = to.sniffer.next(Direction::In, LIMIT, &what, is_last);
        arrived.unwrap();
    }
}

#[test]
fn marks_options_and_extension_headers_arrive_as_they_were_sent() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let nodes = &scene.deployment.cluster.nodes;
    let mut id = 1;
    for backend in ["pod-1-1", "pod-2-1"] {
        scene.serve(&[backend]);
        let server = Side::new(backend, scene.pod(backend), POD_DEVICE);
        for (name, namespace) in scene.clients() {
            let device = match name {
                "pod" => POD_DEVICE,
                "outside" => UPLINK,
                // What the node itself sends and gets passes devices of the agent's own besides.
                _ => continue,
            };
            let client = Side::new(name, namespace, device);
            for family in 0..2 {
                let target = SocketAddr::new(scene.pod_addr(backend, family), TARGET);
                for front in scene.fronts(family, PORT) {
                    for marks in Marks::ALL {
                        id += 1;
                        let port = 7_000 + u16::try_from(id).unwrap();
                        // So that nobody says that the port is closed.
                        let _socket = bound(namespace, front, port);
                        let own = SocketAddr::new(namespace.source_to(front.ip()).unwrap(), port);
                        let is_masked = name == "outside" && backend == "pod-2-1";
                        let masked = SocketAddr::new(nodes[0].addresses.both()[family], port);
                        let seen = if is_masked { masked } else { own };
                        let what = format!("{marks:?} by {front}");
                        let sent = marks.packets(own, front, id, 64);
                        client.sends(&sent, &server, &what, |hops| {
                            marks.packets(seen, target, id, hops)
                        });
                        let sent = marks.packets(target, seen, id, 64);
                        server.sends(&sent, &client, &what, |hops| {
                            marks.packets(front, own, id, hops)
                        });
                    }
                }
            }
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}
