//! What cannot be sent on is dropped with its reason, and was not changed.

use lb_common::{
    abi::Reason,
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        icmp::IcmpError,
        ip::proto,
    },
};
use lb_tests::{
    lone_node::{Device, NARROW_MTU, NODE},
    packet::Frame,
    progrun::{Action, Arrival},
};

use crate::fixture::{
    ACK, Case, Fixture, SNAT_PORT, SYN, SYN_ACK, Vip, answered, arriving, label, opening, pod,
    sent_on,
};

const POD: Device = Device::Pod(2);

#[test]
fn what_cannot_be_sent_on_is_dropped_with_its_reason() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        drops::<Addr4>(&fixture, protocol);
        drops::<Addr6>(&fixture, protocol);
    }
}

fn drops<A: Addr>(fixture: &Fixture, protocol: u8) {
    let dialling =
        |vip: Vip| PacketSpec::<A>::new((pod(NODE, 2), 40_000), vip.frontend(), opening(protocol));
    let name = label::<A>(protocol, "no route");
    let counts = [(Reason::DropNoRoute, 1)];
    dropped(fixture, &name, &dialling(Vip::Unrouted), &counts);
    if protocol == proto::TCP {
        let late = |transport| PacketSpec {
            transport,
            ..dialling(Vip::Remote)
        };
        for (transport, name) in [(ACK, "no SYN"), (SYN_ACK, "SYN and ACK")] {
            let frame = Frame::of(arriving(POD), &late(transport));
            let (outcome, counts) = fixture.run("pod", &frame, POD);
            assert_eq!(outcome.action, Action::Redirect, "{name}: {counts:?}");
            assert_eq!(counts.get(Reason::RejectNoFlow), 1, "{name}: {counts:?}");
            assert_eq!(counts.get(Reason::Answered), 1, "{name}: {counts:?}");
        }
        let reset = late(Transport::Tcp(0x06));
        let name = label::<A>(protocol, "SYN and RST");
        dropped(fixture, &name, &reset, &[(Reason::RejectNoFlow, 1)]);
    }
}

fn dropped<A: Addr>(fixture: &Fixture, name: &str, spec: &PacketSpec<A>, counts: &[(Reason, u64)]) {
    let frame = Frame::of(arriving(POD), spec);
    fixture.check(Case {
        name: name.to_owned(),
        program: "pod",
        device: POD,
        input: frame.clone(),
        action: Action::Drop,
        output: frame,
        counts,
    });
}

#[test]
fn two_services_with_one_backend_do_not_share_a_pods_port() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    share_port::<Addr4>(&fixture);
    share_port::<Addr6>(&fixture);
}

/// The second connection takes the only spare port, a third finds none.
fn share_port<A: Addr>(fixture: &Fixture) {
    let client = (pod::<A>(NODE, 2), 40_000);
    let first = PacketSpec::new(client, Vip::Remote.frontend(), SYN);
    let (outcome, counts) = fixture.run("pod", &Frame::of(arriving(POD), &first), POD);
    assert_eq!(outcome.action, Action::Redirect, "{counts:?}");
    let second = PacketSpec::new(client, Vip::Twin.frontend(), SYN);
    let spare = (client.0, SNAT_PORT);
    fixture.check(Case {
        name: label::<A>(proto::TCP, "the same backend twice"),
        program: "pod",
        device: POD,
        input: Frame::of(arriving(POD), &second),
        action: Action::Redirect,
        output: Frame::of(
            arriving(POD),
            &sent_on(&second, spare, Vip::Remote.backend()),
        ),
        counts: &[
            (Reason::Open, 1),
            (Reason::Resolved, 1),
            (Reason::PortRemapped, 1),
        ],
    });
    let third = PacketSpec::new(spare, Vip::Remote.frontend(), SYN);
    let counts = &[(Reason::DropPortInUse, 1), (Reason::Resolved, 1)];
    let name = label::<A>(proto::TCP, "no port left");
    dropped(fixture, &name, &third, counts);
}

#[test]
fn a_segmented_packet_is_as_large_as_its_segments() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    segmented::<Addr4>(&fixture, 20 + 20);
    segmented::<Addr6>(&fixture, 40 + 20);
}

fn segmented<A: Addr>(fixture: &Fixture, headers: u32) {
    let ifindex = fixture.node.ifindex(POD).unwrap();
    let client = (pod::<A>(NODE, 2), 40_001);
    let payload = vec![7; NARROW_MTU.into()];
    let spec = PacketSpec {
        payload,
        ..PacketSpec::new(client, Vip::Narrow.frontend(), SYN)
    };
    let input = Frame::of(arriving(POD), &spec);
    let fits = u32::from(NARROW_MTU) - headers;
    let (outcome, _) = fixture.run_arriving(
        "pod",
        &input,
        Arrival {
            gso_size: fits + 1,
            ..Arrival::by(ifindex)
        },
    );
    assert_eq!(outcome.action, Action::Redirect, "{}", A::FAMILY);
    assert_eq!(
        outcome.frame,
        answered(
            &input,
            IcmpError::TooBig(NARROW_MTU.into()),
            (Vip::Narrow.frontend().0, client.0)
        )
    );
    let (outcome, counts) = fixture.run_arriving(
        "pod",
        &input,
        Arrival {
            gso_size: fits,
            ..Arrival::by(ifindex)
        },
    );
    assert_eq!(
        outcome.action,
        Action::Redirect,
        "{}: {counts:?}",
        A::FAMILY
    );
    assert_eq!(
        outcome.frame,
        Frame::of(
            arriving(POD),
            &sent_on(&spec, client, Vip::Narrow.backend())
        )
    );
}

#[test]
fn answered_connections_are_not_pushed_out_of_a_full_table() {
    // Four connections take eight slots; each key's bucket is the whole table.
    let Some(fixture) = Fixture::with_flow_table(&["pod", "uplink"], 8) else {
        return;
    };
    fills_up::<Addr4>(&fixture);
    fills_up::<Addr6>(&fixture);
}

fn fills_up<A: Addr>(fixture: &Fixture) {
    let dialling = |port| PacketSpec::<A>::new((pod(NODE, 2), port), Vip::Remote.frontend(), SYN);
    for port in 1..=4 {
        let (outcome, counts) = fixture.run("pod", &Frame::of(arriving(POD), &dialling(port)), POD);
        assert_eq!(
            outcome.action,
            Action::Redirect,
            "connection {port}: {counts:?}"
        );
        let reply = PacketSpec::<A>::new(Vip::Remote.backend(), (pod(NODE, 2), port), SYN_ACK);
        let (_, counts) = fixture.run(
            "uplink",
            &Frame::of(arriving(Device::Uplink), &reply),
            Device::Uplink,
        );
        assert_eq!(counts.get(Reason::HitReply), 1, "reply {port}: {counts:?}");
        goes_on(fixture, &dialling(port));
    }
    let counts = &[(Reason::DropFlowTableFull, 1), (Reason::Resolved, 1)];
    dropped(
        fixture,
        &label::<A>(proto::TCP, "the fifth connection"),
        &dialling(5),
        counts,
    );
    for port in 1..=4 {
        goes_on(fixture, &dialling(port));
    }
}

fn goes_on<A: Addr>(fixture: &Fixture, syn: &PacketSpec<A>) {
    let next = PacketSpec {
        transport: ACK,
        ..syn.clone()
    };
    let (_, counts) = fixture.run("pod", &Frame::of(arriving(POD), &next), POD);
    let port = syn.sport;
    assert_eq!(
        counts.get(Reason::HitOriginal),
        1,
        "connection {port}: {counts:?}"
    );
}
