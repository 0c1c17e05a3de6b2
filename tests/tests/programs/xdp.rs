//! XDP at the uplink: connections from outside to backends on other nodes are forwarded there, all else is left to TC.

use lb_common::{
    abi::Reason,
    fake::PacketSpec,
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use lb_tests::{
    addressing,
    lone_node::{CLIENT_MAC, Device, NARROW_MTU, NODE, address},
    packet::{Frame, Macs},
    progrun::Action,
};

use crate::fixture::{
    ACK, Case, Fixture, SYN_ACK, Vip, arriving, label, leaving, opening, pod, sent_on,
};

const UPLINK: Device = Device::Uplink;
const PROGRAM: &str = "xdp_uplink";
/// From the external client, and back to it.
const FROM_CLIENT: Macs = Macs {
    dst: [2, 0, 0, 0, 0, NODE],
    src: CLIENT_MAC,
};
const TO_CLIENT: Macs = Macs {
    dst: CLIENT_MAC,
    src: [2, 0, 0, 0, 0, NODE],
};

#[test]
fn a_client_outside_reaches_a_remote_backend_without_the_stack() {
    let Some(fixture) = Fixture::new(&["uplink", PROGRAM]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        forwards::<Addr4>(&fixture, protocol);
        forwards::<Addr6>(&fixture, protocol);
    }
}

fn forwards<A: Addr>(fixture: &Fixture, protocol: u8) {
    let client = (address::<A>(addressing::client()), 40_000);
    let node = (address::<A>(addressing::node(NODE)), 40_000);
    let (service, backend) = (Vip::Remote.frontend(), Vip::Remote.backend());
    let open = PacketSpec::new(client, service, opening(protocol));
    let (next, reply) = if protocol == proto::TCP {
        (
            PacketSpec {
                transport: ACK,
                ..open.clone()
            },
            PacketSpec::new(backend, node, SYN_ACK),
        )
    } else {
        (
            open.clone(),
            PacketSpec::new(backend, node, opening(protocol)),
        )
    };
    let there = |spec| sent_on(spec, node, backend);
    let label = |what| label::<A>(protocol, what);
    transmits(
        fixture,
        label("open"),
        Frame::of(FROM_CLIENT, &open),
        Frame::of(leaving(UPLINK), &there(&open)),
        Reason::Open,
    );
    for (what, macs, spec, sent, out, reason) in [
        (
            "hit",
            FROM_CLIENT,
            &next,
            there(&next),
            leaving(UPLINK),
            Reason::HitOriginal,
        ),
        (
            "reply",
            arriving(UPLINK),
            &reply,
            sent_on(&reply, service, client),
            TO_CLIENT,
            Reason::HitReply,
        ),
    ] {
        // The first of each direction asks TC, which lets the kernel confirm the neighbour and notes it.
        passed::<A>(fixture, &label(what), spec, macs, &[(Reason::PassToTc, 1)]);
        fixture.check(Case {
            name: label(what),
            program: "uplink",
            device: UPLINK,
            input: Frame::of(macs, spec),
            action: Action::Redirect,
            output: Frame::of(macs, &sent),
            counts: &[(reason, 1), (Reason::Resolved, 1)],
        });
        let input = Frame::of(macs, spec);
        transmits(fixture, label(what), input, Frame::of(out, &sent), reason);
    }
}

fn transmits(fixture: &Fixture, name: String, input: Frame, output: Frame, reason: Reason) {
    fixture.check(Case {
        name,
        program: PROGRAM,
        device: UPLINK,
        input,
        action: Action::Transmit,
        output,
        counts: &[(reason, 1), (Reason::XdpForward, 1)],
    });
}

#[test]
fn what_needs_the_stack_or_another_device_is_left_to_tc() {
    let Some(fixture) = Fixture::new(&["pod", PROGRAM]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        left_to_tc::<Addr4>(&fixture, protocol);
        left_to_tc::<Addr6>(&fixture, protocol);
    }
}

fn left_to_tc<A: Addr>(fixture: &Fixture, protocol: u8) {
    let client = (address::<A>(addressing::client()), 40_000);
    let dialling = |vip: Vip| PacketSpec::<A>::new(client, vip.frontend(), opening(protocol));
    let big = PacketSpec {
        payload: vec![0; NARROW_MTU.into()],
        ..dialling(Vip::Narrow)
    };
    for (name, spec) in [
        ("a local backend", dialling(Vip::Local)),
        ("no route", dialling(Vip::Unrouted)),
        ("no MAC", dialling(Vip::Unresolved)),
        (
            "the last hop",
            PacketSpec {
                ttl: 1,
                ..dialling(Vip::Remote)
            },
        ),
        ("larger than the route takes", big),
    ] {
        // TC finds the flow: it does not choose again.
        let counts = [(Reason::PassToTc, 1), (Reason::OpenedForTc, 1)];
        let name = label::<A>(protocol, name);
        passed::<A>(fixture, &name, &spec, FROM_CLIENT, &counts);
    }
    // A pod's connection, opened at its device: its replies leave by another device than they come.
    let client = (pod::<A>(NODE, 2), 40_000);
    let open = PacketSpec::new(client, Vip::Remote.frontend(), opening(protocol));
    let device = Device::Pod(2);
    let (outcome, counts) = fixture.run("pod", &Frame::of(arriving(device), &open), device);
    assert_eq!(outcome.action, Action::Redirect, "{counts:?}");
    let transport = if protocol == proto::TCP {
        SYN_ACK
    } else {
        opening(protocol)
    };
    let reply = PacketSpec::new(Vip::Remote.backend(), client, transport);
    passed::<A>(
        fixture,
        &label::<A>(protocol, "a reply to a pod"),
        &reply,
        arriving(UPLINK),
        &[(Reason::PassToTc, 1)],
    );
}

fn passed<A: Addr>(
    fixture: &Fixture,
    name: &str,
    spec: &PacketSpec<A>,
    macs: Macs,
    counts: &[(Reason, u64)],
) {
    let frame = Frame::of(macs, spec);
    fixture.check(Case {
        name: name.to_owned(),
        program: PROGRAM,
        device: UPLINK,
        input: frame.clone(),
        action: Action::Pass,
        output: frame,
        counts,
    });
}

#[test]
fn what_only_tc_can_answer_is_left_to_it() {
    let Some(fixture) = Fixture::new(&[PROGRAM]) else {
        return;
    };
    left::<Addr4>(&fixture);
    left::<Addr6>(&fixture);
}

fn left<A: Addr>(fixture: &Fixture) {
    let client = (address::<A>(addressing::client()), 40_000);
    let reason = Reason::PassToTc;
    let frame = Frame::of(
        FROM_CLIENT,
        &PacketSpec::<A>::new(client, Vip::Remote.frontend(), ACK),
    );
    fixture.check(Case {
        name: label::<A>(proto::TCP, reason.name()),
        program: PROGRAM,
        device: UPLINK,
        input: frame.clone(),
        action: Action::Pass,
        output: frame,
        counts: &[(reason, 1)],
    });
}
