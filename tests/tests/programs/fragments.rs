//! Fragments at TC: what follows the first, what waits for it, and what it looks like after letting others in.

use lb_common::{
    abi::Reason,
    fake::{FakePacket, PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::IpHeader,
    },
};
use lb_tests::{
    lone_node::{Device, NODE},
    packet::Frame,
    progrun::Action,
};

use crate::fixture::{Case, Fixture, Vip, arriving, leaving, pod, sent_on};

const CLIENT: u16 = 40_000;
/// Bytes of payload of each piece but the last.
const SIZE: usize = 512;
/// As [`PacketSpec`] numbers its packets.
const ID: u32 = 0x1234;
const HOME: Device = Device::Pod(2);

#[test]
fn later_fragments_follow_the_first() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    follow::<Addr4>(&fixture);
    follow::<Addr6>(&fixture);
}

/// What is sent and what it becomes, in pieces.
fn datagram<A: Addr>(port: u16) -> (Vec<FakePacket>, Vec<FakePacket>) {
    let client = (pod::<A>(NODE, 2), port);
    let spec = PacketSpec {
        payload: (0..2000_u16).map(|n| n.to_be_bytes()[1]).collect(),
        may_fragment: true,
        ..PacketSpec::new(client, Vip::Remote.frontend(), Transport::Udp)
    };
    let there = sent_on(&spec, client, Vip::Remote.backend());
    (spec.packet().cut(SIZE, ID), there.packet().cut(SIZE, ID))
}

fn frame<A: Addr>(macs: lb_tests::packet::Macs, piece: &FakePacket) -> Frame {
    Frame::new(macs, A::Header::ETHER_TYPE, piece.bytes())
}

fn follow<A: Addr>(fixture: &Fixture) {
    let (sent, received) = datagram::<A>(CLIENT);
    assert_eq!(sent.len(), 4);
    for (at, (piece, becomes)) in sent.iter().zip(&received).enumerate() {
        let opened = [(Reason::Open, 1), (Reason::Resolved, 1)];
        let hit = [(Reason::HitOriginal, 1)];
        let (macs, counts) = if at == 0 {
            (arriving(HOME), &opened[..])
        } else {
            (leaving(Device::Uplink), &hit[..])
        };
        fixture.check(Case {
            name: format!("{} piece {at}", A::FAMILY),
            program: "pod",
            device: HOME,
            input: frame::<A>(arriving(HOME), piece),
            action: Action::Redirect,
            output: frame::<A>(macs, becomes),
            counts,
        });
    }
}

#[test]
fn early_fragments_wait_for_the_first_which_stays_as_it_is() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    wait::<Addr4>(&fixture);
    wait::<Addr6>(&fixture);
}

fn wait<A: Addr>(fixture: &Fixture) {
    let (sent, received) = datagram::<A>(CLIENT + 1);
    for (at, piece) in sent.iter().enumerate().skip(1) {
        let input = frame::<A>(arriving(HOME), piece);
        fixture.check(Case {
            name: format!("{} piece {at}", A::FAMILY),
            program: "pod",
            device: HOME,
            input: input.clone(),
            action: Action::Drop,
            output: input,
            counts: &[(Reason::FragmentHeld, 1)],
        });
    }
    let (outcome, counts) = fixture.run("pod", &frame::<A>(arriving(HOME), &sent[0]), HOME);
    assert_eq!(outcome.action, Action::Redirect, "{counts:?}");
    assert_eq!(outcome.frame.packet(), received[0].bytes(), "{counts:?}");
    assert_eq!(counts.get(Reason::FragmentsReleased), 1, "{counts:?}");
    // They are kept no more.
    let (_, counts) = fixture.run("pod", &frame::<A>(arriving(HOME), &sent[0]), HOME);
    assert_eq!(counts.get(Reason::FragmentsReleased), 0, "{counts:?}");
}
