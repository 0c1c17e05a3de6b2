//! IPv6 extension headers: a bounded walk to the ports, and all that is beyond it passed untouched.

use lb_common::{
    abi::Reason::{HitOriginal, Open, PassProtocol, Resolved},
    datapath::{Verdict, Via},
    fake::FakePacket,
    net::addr::Addr6,
};

use crate::world::{ACK, SYN, UDP, World, assert_counts, forwarded, leaves, local_pod, request};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const OPTIONS: u8 = 60;

/// A header of `8 + 8 * eights` bytes, after its first byte: padding (RFC 8200 section 4.2), or nothing left to visit.
fn header(eights: u8) -> Vec<u8> {
    let pad = 8 * eights + 4;
    let mut bytes = vec![eights, 1, pad];
    bytes.resize(usize::from(pad) + 3, 0);
    bytes
}

/// A routing header that has been done with, or a fragment that is a whole datagram.
fn plain() -> Vec<u8> {
    vec![0; 7]
}

/// The packet with these headers before what it carries.
fn with(packet: &FakePacket, headers: &[(u8, Vec<u8>)]) -> FakePacket {
    let mut bytes = packet.bytes().to_vec();
    let mut next = bytes[6];
    for (kind, body) in headers.iter().rev() {
        bytes.splice(40..40, [&[next][..], body].concat());
        next = *kind;
    }
    bytes[6] = next;
    let len = u16::try_from(bytes.len() - 40).expect("short");
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    FakePacket::new(bytes)
}

#[test]
fn headers_in_their_order_are_walked_over() {
    let options = |kind, eights| (kind, header(eights));
    let chains: [&[(u8, Vec<u8>)]; 8] = [
        &[options(HOP_BY_HOP, 0)],
        &[options(HOP_BY_HOP, 14)],
        &[options(OPTIONS, 0)],
        &[options(OPTIONS, 15)],
        &[(ROUTING, plain())],
        &[(FRAGMENT, plain())],
        &[
            options(HOP_BY_HOP, 0),
            options(OPTIONS, 1),
            (ROUTING, plain()),
            (FRAGMENT, plain()),
            options(OPTIONS, 2),
        ],
        &[(); 6].map(|()| (OPTIONS, header(0))),
    ];
    for chain in chains {
        let world = World::<Addr6>::with_local_backends(1);
        for (transport, counts) in [
            (SYN, &[Resolved, Open][..]),
            (ACK, &[HitOriginal]),
            (UDP, &[Resolved, Open]),
        ] {
            let spec = request::<Addr6>(local_pod(9), transport);
            let mut packet = with(&spec.packet(), chain);
            let verdict = world.pod().run(&mut packet).verdict;
            assert!(
                matches!(verdict, Verdict::Send(Via::Neighbour | Via::Kernel)),
                "{chain:?} {:?}",
                world.node.take_counts()
            );
            assert!(packet.device_sum_valid());
            let there = forwarded(&spec, local_pod(1)).packet();
            assert_eq!(packet.bytes(), with(&there, chain).bytes(), "{chain:?}");
            if transport == UDP {
                // The flow of the TCP connection has found the neighbour already.
                world.node.take_counts();
            } else {
                assert_counts(&world.node, counts);
            }
        }
    }
}

#[test]
fn what_is_beyond_the_walk_passes() {
    let world = World::<Addr6>::with_local_backends(1);
    let mut unfinished = plain();
    unfinished[2] = 1;
    let chains: [&[(u8, Vec<u8>)]; 9] = [
        // Too many, too long.
        &[(); 7].map(|()| (OPTIONS, header(0))),
        &[(OPTIONS, header(16))],
        &[(OPTIONS, header(8)), (OPTIONS, header(7))],
        // Another node is to have it first.
        &[(ROUTING, unfinished)],
        // Not where it belongs.
        &[(OPTIONS, header(0)), (HOP_BY_HOP, header(0))],
        // A fragment of a fragment.
        &[(FRAGMENT, plain()), (FRAGMENT, plain())],
        &[(AUTHENTICATION, header(1))],
        &[(OPTIONS, header(0)), (59, plain())],
        &[(OPTIONS, header(0)), (58, plain())],
    ];
    for chain in chains {
        let packet = with(&request::<Addr6>(local_pod(9), UDP).packet(), chain);
        let counts = &[PassProtocol];
        leaves(&world.node, world.pod(), &packet, Verdict::Pass, counts);
    }
}

#[test]
fn headers_that_end_nowhere_are_not_touched() {
    let chain = [
        (HOP_BY_HOP, header(0)),
        (OPTIONS, header(2)),
        (FRAGMENT, plain()),
    ];
    let whole = with(&request::<Addr6>(local_pod(9), SYN).packet(), &chain);
    let world = World::<Addr6>::with_local_backends(1);
    let transport = whole.bytes().len() - 27;
    for len in 40..transport + 20 {
        let mut bytes = whole.bytes()[..len].to_vec();
        let payload = u16::try_from(len - 40).expect("short").to_be_bytes();
        bytes[4..6].copy_from_slice(&payload);
        let packet = FakePacket::new(bytes);
        let mut after = packet.clone();
        assert_eq!(world.pod().run(&mut after).verdict, Verdict::Pass, "{len}");
        assert_eq!(after.bytes(), packet.bytes());
    }
}
