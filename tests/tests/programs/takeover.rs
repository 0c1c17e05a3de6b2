//! Connections change hands with another proxy.

use lb_common::{
    abi::{
        Reason::{HitReply, Open, Resolved},
        takeover::{APART, APART_PORTS},
    },
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use lb_tests::{
    addressing,
    lone_node::{Device, NODE, address},
    packet::Frame,
    progrun::{Action, Counts, Outcome},
};

use crate::fixture::{Fixture, SYN_ACK, Vip, arriving, label, leaving, opening, pod, sent_on};

/// The client's port.
const CLIENT: u16 = 40_000;

/// Who dials, and what becomes of its port.
struct Dial<A> {
    program: &'static str,
    device: Device,
    client: A,
    /// Hops that it has less when it is sent on.
    hops: u8,
    is_apart: bool,
    vip: Vip,
    /// Where answers come.
    back: (&'static str, Device),
}

#[test]
fn while_connections_are_handed_over_ports_of_the_node_lie_apart() {
    let Some(mut fixture) = Fixture::new(&["pod", "uplink", "host"]) else {
        return;
    };
    fixture.datapath.programs.set_takeover(APART).unwrap();
    for protocol in [proto::TCP, proto::UDP] {
        dial::<Addr4>(&fixture, protocol);
        dial::<Addr6>(&fixture, protocol);
    }
}

/// Services with backends of their own, so that nobody has a port that another draws.
fn dial<A: Addr>(fixture: &Fixture, protocol: u8) {
    let node = address::<A>(addressing::node(NODE));
    let [local, remote] = [("pod", Device::Pod(1)), ("uplink", Device::Uplink)];
    let outside = address::<A>(addressing::client());
    let dials = [
        ("host", Device::Host, node, 0, true, Vip::Remote, remote),
        (
            "uplink",
            Device::Uplink,
            outside,
            1,
            true,
            Vip::Narrow,
            remote,
        ),
        (
            "pod",
            Device::Pod(2),
            pod(NODE, 2),
            1,
            false,
            Vip::Local,
            local,
        ),
    ];
    for (program, device, client, hops, is_apart, vip, back) in dials {
        Dial {
            program,
            device,
            client,
            hops,
            is_apart,
            vip,
            back,
        }
        .check(fixture, protocol);
    }
}

impl<A: Addr> Dial<A> {
    fn check(&self, fixture: &Fixture, protocol: u8) {
        let name = label::<A>(protocol, self.program);
        let (client, service) = ((self.client, CLIENT), self.vip.frontend());
        let backend = self.vip.backend::<A>();
        let open = PacketSpec::new(client, service, opening(protocol));
        let macs = arriving(self.device);
        let (outcome, counts) = fixture.run(self.program, &Frame::of(macs, &open), self.device);
        let port = source_port::<A>(&outcome.frame);
        let (first, number) = APART_PORTS;
        let is_apart = (first..first + number).contains(&u32::from(port));
        assert_eq!(is_apart, self.is_apart, "{name}: {port}");
        let source = if self.is_apart {
            (address(addressing::node(NODE)), port)
        } else {
            client
        };
        let there = PacketSpec {
            ttl: open.ttl - self.hops,
            ..sent_on(&open, source, backend)
        };
        let expected = Outcome {
            action: Action::Redirect,
            frame: Frame::of(macs, &there),
        };
        let opened = Counts::of(&[(Open, 1), (Resolved, 1)]);
        assert_eq!((outcome, counts), (expected, opened), "{name}");
        let (program, device) = self.back;
        let answer = if protocol == proto::TCP {
            SYN_ACK
        } else {
            Transport::Udp
        };
        let back = PacketSpec::new(backend, source, answer);
        let (outcome, counts) = fixture.run(program, &Frame::of(arriving(device), &back), device);
        assert_eq!(outcome.action, Action::Redirect, "{name}");
        let home = PacketSpec {
            ttl: back.ttl - self.hops,
            ..sent_on(&back, service, client)
        };
        assert_eq!(
            outcome.frame.packet(),
            Frame::of(leaving(device), &home).packet(),
            "{name}"
        );
        assert_eq!(counts.get(HitReply), 1, "{name}");
    }
}

fn source_port<A: Addr>(frame: &Frame) -> u16 {
    let header = if A::FAMILY == lb_common::net::addr::Family::V4 {
        20
    } else {
        40
    };
    let packet = frame.packet();
    u16::from_be_bytes([packet[header], packet[header + 1]])
}
