//! XDP at the uplink: connections from outside to backends on other nodes are forwarded there, all else is left to TC.

use lb_common::{
    abi::{FlowSlot, Plain, Reason},
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
    let Some(mut fixture) = Fixture::new(&["uplink", PROGRAM]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        forwards::<Addr4>(&mut fixture, protocol);
        forwards::<Addr6>(&mut fixture, protocol);
    }
}

/// A client's packets to a backend elsewhere, and what comes back.
struct Exchange<A: Addr> {
    open: PacketSpec<A>,
    next: PacketSpec<A>,
    reply: PacketSpec<A>,
    client: (A, u16),
}

impl<A: Addr> Exchange<A> {
    fn new(protocol: u8, port: u16) -> Self {
        let client = (address::<A>(addressing::client()), port);
        let (next, reply) = match protocol {
            proto::TCP => (ACK, SYN_ACK),
            _ => (opening(protocol), opening(protocol)),
        };
        let open = PacketSpec::new(client, Vip::Remote.frontend(), opening(protocol));
        Self {
            next: PacketSpec {
                transport: next,
                ..open.clone()
            },
            open,
            reply: PacketSpec::new(Vip::Remote.backend(), (Self::node(), port), reply),
            client,
        }
    }

    fn node() -> A {
        address(addressing::node(NODE))
    }

    fn there(&self, spec: &PacketSpec<A>) -> PacketSpec<A> {
        sent_on(spec, (Self::node(), self.client.1), Vip::Remote.backend())
    }

    fn back(&self) -> PacketSpec<A> {
        sent_on(&self.reply, Vip::Remote.frontend(), self.client)
    }
}

fn forwards<A: Addr>(fixture: &mut Fixture, protocol: u8)
where
    FlowSlot<A>: Plain + Default,
{
    let label = |what| label::<A>(protocol, what);
    // Nobody has sent anything to these neighbours yet: TC does, which has the kernel confirm them.
    fixture.datapath.programs.forget::<A>().unwrap();
    let first = Exchange::<A>::new(protocol, 40_000);
    let opened = [(Reason::PassToTc, 1), (Reason::OpenedForTc, 1)];
    passed::<A>(fixture, &label("open"), &first.open, FROM_CLIENT, &opened);
    let (from, sent) = ((FROM_CLIENT, &first.open), first.there(&first.open));
    by_tc(fixture, label("hit"), from, &sent, Reason::HitOriginal);
    let (from, left) = (arriving(UPLINK), [(Reason::PassToTc, 1)]);
    passed::<A>(fixture, &label("reply"), &first.reply, from, &left);
    let (from, sent) = ((from, &first.reply), first.back());
    by_tc(fixture, label("reply"), from, &sent, Reason::HitReply);
    // From then on others' packets need not wait for it.
    fixture.datapath.programs.believe().unwrap();
    let second = Exchange::<A>::new(protocol, 40_001);
    let asks = |what, spec: &PacketSpec<A>, reason| {
        let input = Frame::of(FROM_CLIENT, spec);
        let output = Frame::of(leaving(UPLINK), &second.there(spec));
        transmits(fixture, label(what), input, output, reason);
    };
    asks("open", &second.open, Reason::Open);
    let input = Frame::of(arriving(UPLINK), &second.reply);
    let output = Frame::of(TO_CLIENT, &second.back());
    transmits(fixture, label("reply"), input, output, Reason::HitReply);
    asks("hit", &second.next, Reason::HitOriginal);
}

/// TC sends a packet of a known flow, for the first time to its neighbour.
fn by_tc<A: Addr>(
    fixture: &Fixture,
    name: String,
    (macs, spec): (Macs, &PacketSpec<A>),
    sent: &PacketSpec<A>,
    reason: Reason,
) {
    fixture.check(Case {
        name,
        program: "uplink",
        device: UPLINK,
        input: Frame::of(macs, spec),
        action: Action::Redirect,
        output: Frame::of(macs, sent),
        counts: &[(reason, 1), (Reason::Resolved, 1)],
    });
}

/// The answer to a pod leaves by the pod's device, which is not the one that it comes by.
#[test]
fn what_leaves_by_another_device_is_redirected_if_that_one_takes_it() {
    for redirects in [redirects::<Addr4>, redirects::<Addr6>] {
        let Some(mut fixture) = Fixture::new(&["pod", "uplink", PROGRAM]) else {
            return;
        };
        redirects(&mut fixture);
    }
}

fn redirects<A: Addr>(fixture: &mut Fixture) {
    let (device, client) = (Device::Pod(2), (pod::<A>(NODE, 2), 40_000));
    let udp = opening(proto::UDP);
    let open = PacketSpec::new(client, Vip::Remote.frontend(), udp);
    let (outcome, counts) = fixture.run("pod", &Frame::of(arriving(device), &open), device);
    assert_eq!(outcome.action, Action::Redirect, "{counts:?}");
    let reply = PacketSpec::new(Vip::Remote.backend(), client, udp);
    let home = sent_on(&reply, Vip::Remote.frontend(), client);
    let name = |what| label::<A>(proto::UDP, what);
    let from = (arriving(UPLINK), &reply);
    by_tc(fixture, name("reply"), from, &home, Reason::HitReply);
    fixture.datapath.programs.believe().unwrap();
    let left = [(Reason::PassToTc, 1)];
    let what = name("to a device that takes nothing");
    passed::<A>(fixture, &what, &reply, arriving(UPLINK), &left);
    let ifindex = fixture.node.ifindex(device).unwrap();
    let programs = &mut fixture.datapath.programs;
    let noted = fixture
        .node
        .namespace()
        .run(|| programs.redirect_by(ifindex));
    noted.unwrap();
    fixture.check(Case {
        name: name("to one that does"),
        program: PROGRAM,
        device: UPLINK,
        input: Frame::of(arriving(UPLINK), &reply),
        action: Action::Redirect,
        output: Frame::of(leaving(device), &home),
        counts: &[(Reason::HitReply, 1), (Reason::XdpForward, 1)],
    });
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
