//! Dropped packets that their senders are told of: the whole frame that goes back.

use lb_common::{
    abi::Reason::{
        self, Answered, DropTooBig, DropTtl, Fragmented, Open, RejectNoBackend, Resolved,
    },
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        icmp::IcmpError,
        ip::proto,
    },
};
use lb_tests::{
    addressing,
    lone_node::{Device, NARROW_MTU, NODE, address},
    packet::Frame,
    progrun::Action,
};

use crate::fixture::{
    Case, Fixture, Vip, answered, arriving, label, leaving, opening, pod, sent_on,
};

const POD: Device = Device::Pod(2);
const NARROW: IcmpError = IcmpError::TooBig(NARROW_MTU as u32);

#[test]
fn the_sender_of_a_dropped_packet_is_told() {
    let Some(fixture) = Fixture::new(&["pod", "uplink", "host", "lo"]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        told::<Addr4>(&fixture, protocol);
        told::<Addr6>(&fixture, protocol);
    }
}

fn told<A: Addr>(fixture: &Fixture, protocol: u8) {
    let node = address::<A>(addressing::node(NODE));
    let outside = address::<A>(addressing::client());
    for (program, device, client) in [
        ("pod", POD, pod(NODE, 2)),
        ("uplink", Device::Uplink, outside),
        ("host", Device::Host, node),
    ] {
        let dialling =
            |vip: Vip| PacketSpec::<A>::new((client, 40_000), vip.frontend(), opening(protocol));
        let check = |name: &str, spec: &PacketSpec<A>, error, src, reason: Reason| {
            let input = Frame::of(arriving(device), spec);
            let mut output = answered(&input, error, (src, client));
            if program == "host" {
                let macs = leaving(Device::Host);
                output = Frame([&macs.dst[..], &macs.src, &output.bytes()[12..]].concat());
            }
            fixture.check(Case {
                name: label::<A>(protocol, &format!("{program}: {name}")),
                program,
                device,
                input,
                action: Action::Redirect,
                output,
                counts: &[(reason, 1), (Answered, 1)],
            });
        };
        for payload in [1_280, 1_281, 1_399] {
            let big = PacketSpec {
                payload: vec![0xa5; payload],
                ..dialling(Vip::Narrow)
            };
            let vip = Vip::Narrow.frontend().0;
            check("larger than the route takes", &big, NARROW, vip, DropTooBig);
        }
        if protocol == proto::UDP {
            let (vip, error) = (Vip::Empty.frontend().0, IcmpError::PortUnreachable);
            let spec = dialling(Vip::Empty);
            check("nobody serves", &spec, error, vip, RejectNoBackend);
        }
        // The node's own packets lose no hop here.
        if program == "host" {
            continue;
        }
        for (ttl, payload) in [(1, 7), (0, 0), (1, 1), (1, 2), (1, 3), (1, 600), (1, 1_200)] {
            let last = PacketSpec {
                ttl,
                payload: vec![0x5a; payload],
                ..dialling(Vip::Remote)
            };
            check(
                "the last hop",
                &last,
                IcmpError::TimeExceeded,
                node,
                DropTtl,
            );
        }
    }
}

/// The stack gets it as the backend shall see it, with all its hops, from the other end of the pair.
#[test]
fn what_may_be_cut_is_left_to_the_stack() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    let client = (pod::<Addr4>(NODE, 2), 40_000);
    let spec = PacketSpec {
        may_fragment: true,
        payload: vec![0xa5; 1_300],
        ..PacketSpec::new(client, Vip::Narrow.frontend(), Transport::Udp)
    };
    let sent = sent_on(&spec, client, Vip::Narrow.backend());
    fixture.check(Case {
        name: "may be cut".to_owned(),
        program: "pod",
        device: POD,
        input: Frame::of(arriving(POD), &spec),
        action: Action::Redirect,
        output: Frame::of(
            leaving(Device::Host),
            &PacketSpec {
                ttl: spec.ttl,
                ..sent
            },
        ),
        counts: &[(Open, 1), (Resolved, 1), (Fragmented, 1)],
    });
}
