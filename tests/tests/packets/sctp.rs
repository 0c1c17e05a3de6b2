//! Associations of SCTP from end to end. Not every kernel has such sockets, the one that these suites are developed on has
//! none, so both ends are made here: the packets that a client and a server would send, with their checksums.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    fake::{PacketSpec, Transport},
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

use crate::scene::{LIMIT, PORT, Scene, TARGET};

/// IANA's number of the protocol.
const SCTP: u8 = 132;
/// Bytes of the common header.
const HEADER: usize = 12;
/// Tags that client and server choose.
const CLIENTS: u32 = 0x1111_2222;
const SERVERS: u32 = 0xfedc_ba98;
/// Types of chunks (RFC 9260 section 3.2).
const ABORT: u8 = 6;

/// Who sends a packet of an association, its tag and its chunk.
type Step = (Sender, u32, Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
}

/// A chunk: type, flags and value.
fn chunk(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap().to_be_bytes();
    let mut chunk = [&[kind, 0, len[0], len[1]], value].concat();
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// INIT or INIT ACK: a tag, a window, streams and a first number.
fn init(kind: u8, tag: u32, cookie: &[u8]) -> Vec<u8> {
    let value = [
        &tag.to_be_bytes()[..],
        &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9],
        cookie,
    ];
    chunk(kind, &value.concat())
}

/// An association from its beginning to its end.
fn association() -> [Step; 8] {
    use Sender::{Client, Server};
    let data = [&[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], b"fulcrum"].concat();
    let sack = [0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0];
    [
        (Client, 0, init(1, CLIENTS, &[])),
        (Server, CLIENTS, init(2, SERVERS, &[0, 7, 0, 8, 1, 2, 3, 4])),
        (Client, SERVERS, chunk(10, &[1, 2, 3, 4])),
        (Server, CLIENTS, chunk(11, &[])),
        (Client, SERVERS, chunk(0, &data)),
        (Server, CLIENTS, chunk(3, &sack)),
        (Server, CLIENTS, chunk(0, &data)),
        (Client, SERVERS, chunk(ABORT, &[])),
    ]
}

/// `CRC32c` (RFC 9260 appendix A), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let polynomial = if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            crc = (crc >> 1) ^ polynomial;
        }
    }
    !crc
}

/// A packet from its IP header on.
fn packet(from: SocketAddr, to: SocketAddr, tag: u32, chunk: &[u8], hops: u8) -> Vec<u8> {
    fn made<A: Addr>(from: (A, u16), to: (A, u16), sctp: &[u8], hops: u8) -> Vec<u8> {
        let spec = PacketSpec {
            ttl: hops,
            payload: vec![0; sctp.len() - 8],
            ..PacketSpec::new(from, to, Transport::Udp)
        };
        let mut packet = spec.packet().bytes().to_vec();
        let at = packet.len() - sctp.len();
        packet[at..].copy_from_slice(sctp);
        if packet[0] >> 4 == 6 {
            packet[6] = SCTP;
            return packet;
        }
        packet[9] = SCTP;
        packet[10..12].fill(0);
        let check = csum::checksum(&packet[..at], 0);
        packet[10..12].copy_from_slice(&check.to_ne_bytes());
        packet
    }
    let ports = [from.port(), to.port()].map(u16::to_be_bytes).concat();
    let mut sctp = [&ports, &tag.to_be_bytes()[..], &[0; 4], chunk].concat();
    let check = crc(&sctp);
    sctp[8..HEADER].copy_from_slice(&check.to_le_bytes());
    let ports = (from.port(), to.port());
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ends = (Addr4::from(from), Addr4::from(to));
            made((ends.0, ports.0), (ends.1, ports.1), &sctp, hops)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ends = (Addr6::from(from), Addr6::from(to));
            made((ends.0, ports.0), (ends.1, ports.1), &sctp, hops)
        }
        ends => panic!("addresses of two families: {ends:?}"),
    }
}

/// Where a packet of SCTP comes from, how many hops it has left, and what it carries; nothing of others.
fn read(packet: &[u8]) -> Option<(SocketAddr, u8, &[u8])> {
    let (ip, protocol, hops, at) = match packet.first()? >> 4 {
        4 => {
            let ip = IpAddr::from(*packet.get(12..)?.first_chunk::<4>()?);
            (ip, *packet.get(9)?, packet[8], 20)
        }
        6 => {
            let ip = IpAddr::from(*packet.get(8..)?.first_chunk::<16>()?);
            (ip, packet[6], packet[7], 40)
        }
        _ => return None,
    };
    let sctp = packet.get(at..)?;
    let port = u16::from_be_bytes(*sctp.first_chunk::<2>()?);
    (protocol == SCTP).then_some((SocketAddr::new(ip, port), hops, sctp))
}

/// One end: where it sends, and what arrives there.
struct End {
    sender: RawSender,
    sniffer: Sniffer,
}

impl End {
    fn new(namespace: &Namespace, device: &str) -> Self {
        Self {
            sender: RawSender::new(namespace).unwrap(),
            sniffer: Sniffer::open(namespace, device).unwrap(),
        }
    }

    /// Waits for this chunk, whole and right, to this address; returns where it seems to come from.
    fn receive(&self, to: SocketAddr, tag: u32, chunk: &[u8], what: &str) -> SocketAddr {
        let is_it = |arrived: &[u8]| {
            let read = read(arrived).filter(|(from, ..)| from.is_ipv4() == to.is_ipv4());
            read.is_some_and(|(from, hops, _)| arrived == packet(from, to, tag, chunk, hops))
        };
        let arrived = self.sniffer.next(Direction::In, LIMIT, what, is_it);
        read(&arrived.unwrap()).unwrap().0
    }
}

/// Whom the server sees.
#[derive(Clone, Copy, Debug)]
enum Seen {
    As(IpAddr),
    NotAs(IpAddr),
}

/// One association; both ends see packets as they were sent, from whom they know.
fn associate(
    client: &End,
    own: SocketAddr,
    front: SocketAddr,
    server: &End,
    target: SocketAddr,
    seen: Seen,
) {
    let mut masked = None;
    for (number, (sender, tag, chunk)) in association().into_iter().enumerate() {
        let what = format!("packet {number} of {own} to {front}");
        if sender == Sender::Client {
            let sent = packet(own, front, tag, &chunk, 64);
            client.sender.send(&sent).unwrap();
            let from = server.receive(target, tag, &chunk, &what);
            let is_right = match seen {
                Seen::As(ip) => from == SocketAddr::new(ip, own.port()),
                Seen::NotAs(ip) => from.ip() != ip,
            };
            assert!(is_right, "{what} comes from {from} instead of {seen:?}");
            assert_eq!(*masked.get_or_insert(from), from, "{what}");
        } else {
            let sent = packet(target, masked.unwrap(), tag, &chunk, 64);
            server.sender.send(&sent).unwrap();
            assert_eq!(client.receive(own, tag, &chunk, &what), front, "{what}");
        }
    }
}

#[test]
fn associations_get_through_with_right_checksums() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let mut port = 7_000;
    for backend in ["pod-1-1", "pod-2-1", "pod-1-3"] {
        scene.serve(&[backend]);
        let server = End::new(scene.pod(backend), POD_DEVICE);
        for (name, device) in [("pod", POD_DEVICE), ("outside", UPLINK)] {
            let mut clients = scene.clients().into_iter();
            let (_, namespace) = clients.find(|(client, _)| *client == name).unwrap();
            let client = End::new(namespace, device);
            for family in 0..2 {
                let target = SocketAddr::new(scene.pod_addr(backend, family), TARGET);
                let node = scene.deployment.cluster.nodes[0].addresses.both()[family];
                for front in scene.fronts(family, PORT) {
                    port += 1;
                    let own = SocketAddr::new(namespace.source_to(front.ip()).unwrap(), port);
                    let seen = match (name, backend) {
                        ("pod", "pod-1-3") => Seen::NotAs(own.ip()),
                        ("outside", "pod-2-1") => Seen::As(node),
                        _ => Seen::As(own.ip()),
                    };
                    associate(&client, own, front, &server, target, seen);
                }
            }
        }
    }
}

#[test]
fn what_nobody_serves_or_knows_is_aborted() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-1-1"], &[]);
    let namespace = &scene.deployment.cluster.client.namespace;
    let client = End::new(namespace, UPLINK);
    let cookie = chunk(10, &[1, 2, 3, 4]);
    // A known tag is sent back as if it were the sender's own, which the flag T says.
    let cases = [
        ("reject_no_flow", SERVERS, cookie, [ABORT, 1, 0, 4], SERVERS),
        (
            "reject_no_backend",
            0,
            init(1, CLIENTS, &[]),
            [ABORT, 0, 0, 4],
            CLIENTS,
        ),
    ];
    for (port, (reason, tag, chunk, answer, answers_tag)) in (7_000..).zip(cases) {
        if reason == "reject_no_backend" {
            scene.serve(&[]);
        }
        for family in 0..2 {
            for front in scene.fronts(family, PORT) {
                let own = SocketAddr::new(namespace.source_to(front.ip()).unwrap(), port);
                let before = scene.count(reason);
                let sent = packet(own, front, tag, &chunk, 64);
                client.sender.send(&sent).unwrap();
                let what = format!("{reason} by {front}");
                // Its IP header is the node's own.
                let wanted = packet(front, own, answers_tag, &answer, 64);
                let wanted = read(&wanted).unwrap().2;
                let is_it = |arrived: &[u8]| {
                    read(arrived).is_some_and(|(from, _, sctp)| from == front && sctp == wanted)
                };
                let arrived = client.sniffer.next(Direction::In, LIMIT, &what, is_it);
                arrived.unwrap();
                assert_eq!(scene.count(reason), before + 1, "{what}");
            }
        }
    }
}
