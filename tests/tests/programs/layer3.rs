//! The program for devices whose packets begin with their IP header.
//!
//! `BPF_PROG_TEST_RUN` takes frames only: it reads a MAC and an `EtherType` off the first fourteen bytes, whatever they
//! are, and shows the program the packet from its first byte. So these packets are chosen to pass for frames: the
//! device's MAC is what an IP header begins with, and the source address has an `EtherType` where a frame has its own.

use lb_common::{
    abi::Reason,
    fake::PacketSpec,
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::IpHeader,
    },
};
use lb_tests::{
    addressing,
    lone_node::{Device, NODE, address},
    packet::{Frame, Mac, Macs},
    progrun::{Action, Counts, Outcome},
};

use crate::fixture::{ACK, Fixture, SYN, Vip, sent_on};

const UPLINK: Device = Device::Uplink;

#[test]
fn a_packet_without_ethernet_header_gets_one_on_its_way() {
    let Some(fixture) = Fixture::new(&["uplink_l3"]) else {
        return;
    };
    // 8.0 is the EtherType of IPv4. Without an option the first byte would be that of a group address.
    let client4 = Addr4::from_ip([8, 0, 0, 7].into()).unwrap();
    let options = vec![1; 4];
    gets_header(
        &fixture,
        &PacketSpec {
            options,
            ..PacketSpec::new((client4, 40_000), Vip::Remote.frontend(), SYN)
        },
    );
    // 86dd is that of IPv6, where a frame has it: in the fifth and sixth byte of the source address.
    let client6 = Addr6::from_ip([0xfd00, 0x10, 0x86dd, 0, 0, 0, 0, 7].into()).unwrap();
    gets_header(
        &fixture,
        &PacketSpec::new((client6, 40_000), Vip::Remote.frontend(), SYN),
    );
}

fn gets_header<A: Addr>(fixture: &Fixture, open: &PacketSpec<A>) {
    let node = (address::<A>(addressing::node(NODE)), open.sport);
    let mac = first_six(open.packet().bytes());
    fixture.node.set_mac(UPLINK, mac).unwrap();

    let sent = sent_on(open, node, Vip::Remote.backend());
    let known = Macs {
        dst: UPLINK.neighbour(),
        src: mac,
    };
    let frame = Frame::new(known, A::Header::ETHER_TYPE, sent.packet().bytes());
    check(
        fixture,
        open,
        frame,
        &[(Reason::Open, 1), (Reason::Resolved, 1)],
    );

    let next = PacketSpec {
        transport: ACK,
        ..open.clone()
    };
    let sent = sent_on(&next, node, Vip::Remote.backend());
    let frame = Frame::new(known, A::Header::ETHER_TYPE, sent.packet().bytes());
    check(fixture, &next, frame, &[(Reason::HitOriginal, 1)]);
}

fn check<A: Addr>(fixture: &Fixture, spec: &PacketSpec<A>, frame: Frame, counts: &[(Reason, u64)]) {
    let input = Frame(spec.packet().bytes().to_vec());
    let outcome = fixture.run("uplink_l3", &input, UPLINK);
    assert_eq!(
        outcome,
        (
            Outcome {
                action: Action::Redirect,
                frame
            },
            Counts::of(counts)
        ),
        "{}",
        A::FAMILY
    );
}

fn first_six(bytes: &[u8]) -> Mac {
    *bytes.first_chunk().unwrap()
}

#[test]
fn a_packet_without_ethernet_header_that_is_not_ours_gets_none() {
    let Some(fixture) = Fixture::new(&["uplink_l3"]) else {
        return;
    };
    let client = Addr6::from_ip([0xfd00, 0x10, 0x86dd, 0, 0, 0, 0, 7].into()).unwrap();
    let spec = PacketSpec {
        dport: 81,
        ..PacketSpec::new((client, 40_000), Vip::Remote.frontend(), SYN)
    };
    let frame = Frame(spec.packet().bytes().to_vec());
    fixture
        .node
        .set_mac(UPLINK, first_six(frame.bytes()))
        .unwrap();
    let outcome = fixture.run("uplink_l3", &frame, UPLINK);
    let expected = (
        Outcome {
            action: Action::Pass,
            frame,
        },
        Counts::of(&[(Reason::PassNoService, 1)]),
    );
    assert_eq!(outcome, expected);
}
