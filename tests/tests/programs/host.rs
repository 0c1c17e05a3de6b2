//! The node's own processes: as clients by the pair and by loopback, as backends on the way out; a pod with itself.

use lb_common::{
    abi::Reason::{
        self, DropNotService, HitOriginal, HitReply, Open, PassForwarded, PassNoService, PassNotIp,
        Resolved,
    },
    fake::PacketSpec,
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::{IpHeader, proto},
    },
};
use lb_tests::{
    addressing,
    lone_node::{CLIENT_MAC, Device, NODE, address},
    packet::{Frame, Mac, Macs},
    progrun::{Action, Arrival, Counts, Outcome},
};

use crate::fixture::{
    ACK, Case, Fixture, SYN, SYN_ACK, TARGET_PORT, Vip, arriving, hairpin, label, leaving, opening,
    pod, sent_on,
};

const PROGRAMS: [&str; 6] = ["pod", "uplink", "host", "lo", "egress", "xdp_uplink"];
const CLIENT: u16 = 40_000;

/// A packet with other ends and all its hops.
fn renamed<A: Addr>(spec: &PacketSpec<A>, src: (A, u16), dst: (A, u16)) -> PacketSpec<A> {
    PacketSpec {
        ttl: spec.ttl,
        ..sent_on(spec, src, dst)
    }
}

fn node<A: Addr>() -> A {
    address(addressing::node(NODE))
}

/// One step of a story.
struct Step<'a, A> {
    program: &'a str,
    device: Device,
    input: PacketSpec<A>,
    output: PacketSpec<A>,
    macs: Macs,
    action: Action,
    counts: &'a [(Reason, u64)],
}

impl<A: Addr> Step<'_, A> {
    fn check(self, fixture: &Fixture, protocol: u8) {
        fixture.check(Case {
            name: label::<A>(protocol, self.program),
            program: self.program,
            device: self.device,
            input: Frame::of(arriving(self.device), &self.input),
            action: self.action,
            output: Frame::of(self.macs, &self.output),
            counts: self.counts,
        });
    }
}

fn in_both_families(story: [fn(&Fixture, u8); 2]) {
    let Some(fixture) = Fixture::new(&PROGRAMS) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        for tell in story {
            tell(&fixture, protocol);
        }
    }
}

fn answering(protocol: u8) -> lb_common::fake::Transport {
    if protocol == proto::TCP {
        SYN_ACK
    } else {
        opening(protocol)
    }
}

#[test]
fn a_process_of_the_node_reaches_backends_and_is_answered_by_the_pair() {
    in_both_families([dials::<Addr4>, dials::<Addr6>]);
}

fn dials<A: Addr>(fixture: &Fixture, protocol: u8) {
    let client = (node::<A>(), CLIENT);
    for (vip, program, device) in [
        (Vip::Local, "pod", Device::Pod(1)),
        (Vip::Remote, "uplink", Device::Uplink),
    ] {
        let (service, backend) = (vip.frontend(), vip.backend());
        let open = PacketSpec::new(client, service, opening(protocol));
        let there = renamed(&open, client, backend);
        let opened: &[_] = &[(Open, 1), (Resolved, 1)];
        let hit: &[_] = &[(HitOriginal, 1)];
        for (macs, counts) in [(arriving(Device::Host), opened), (leaving(device), hit)] {
            Step {
                program: "host",
                device: Device::Host,
                input: open.clone(),
                output: there.clone(),
                macs,
                action: Action::Redirect,
                counts,
            }
            .check(fixture, protocol);
        }
        let back = PacketSpec::new(backend, client, answering(protocol));
        Step {
            program,
            device,
            output: renamed(&back, service, client),
            input: back,
            macs: leaving(Device::Host),
            action: Action::Redirect,
            counts: &[(HitReply, 1)],
        }
        .check(fixture, protocol);
    }
}

#[test]
fn a_process_of_the_node_reaches_one_of_its_own_and_is_answered_over_loopback() {
    in_both_families([meets::<Addr4>, meets::<Addr6>]);
}

fn meets<A: Addr>(fixture: &Fixture, protocol: u8) {
    let (client, service) = ((node::<A>(), CLIENT), Vip::Here.frontend());
    let backend = (node::<A>(), TARGET_PORT);
    let open = PacketSpec::new(client, service, opening(protocol));
    Step {
        program: "host",
        device: Device::Host,
        output: renamed(&open, client, backend),
        input: open,
        macs: leaving(Device::Host),
        action: Action::Redirect,
        counts: &[(Open, 1)],
    }
    .check(fixture, protocol);
    let back = PacketSpec::new(backend, client, answering(protocol));
    let outcome = over_loopback(fixture, &back);
    let home = renamed(&back, service, client);
    let expected = (Action::Redirect, Frame::of(leaving(Device::Host), &home));
    assert_eq!(outcome, (expected, Counts::of(&[(HitReply, 1)])));
    // A socket of the node's own, in the middle of a connection.
    let own = PacketSpec::new(client, service, ACK);
    let own = PacketSpec { sport: 7, ..own };
    if protocol == proto::TCP {
        let expected = (Action::Pass, Frame::of(NONE, &own));
        let counts = Counts::of(&[(PassNoService, 1)]);
        assert_eq!(over_loopback(fixture, &own), (expected, counts));
    }
}

const NONE: Macs = Macs {
    dst: [0; 6],
    src: [0; 6],
};

fn over_loopback<A: Addr>(fixture: &Fixture, spec: &PacketSpec<A>) -> ((Action, Frame), Counts) {
    let input = Frame::of(NONE, spec);
    let (Outcome { action, frame }, counts) =
        fixture.run_arriving("lo", &input, Arrival::leaving(1));
    ((action, frame), counts)
}

#[test]
fn what_is_no_service_goes_no_further_than_the_pair() {
    in_both_families([lost::<Addr4>, lost::<Addr6>]);
}

fn lost<A: Addr>(fixture: &Fixture, protocol: u8) {
    let macs = arriving(Device::Host);
    let client = (node::<A>(), CLIENT);
    let service: (A, u16) = (Vip::Remote.frontend().0, 81);
    let spec = PacketSpec::new(client, service, opening(protocol));
    let mut other = spec.packet().bytes().to_vec();
    other[if size_of::<A>() == 4 { 9 } else { 6 }] = 132;
    // What is not IP cannot be routed in circles.
    for (frame, action, counted) in [
        (Frame::of(macs, &spec), Action::Drop, DropNotService),
        (
            Frame::new(macs, A::Header::ETHER_TYPE, &other),
            Action::Drop,
            DropNotService,
        ),
        (Frame::new(macs, 0x0806, &[0; 28]), Action::Pass, PassNotIp),
    ] {
        fixture.check(Case {
            name: label::<A>(protocol, "no service"),
            program: "host",
            device: Device::Host,
            input: frame.clone(),
            action,
            output: frame,
            counts: &[(counted, 1)],
        });
    }
}

#[test]
fn a_process_of_the_node_answers_pods_and_outside_clients_on_the_way_out() {
    in_both_families([serves::<Addr4>, serves::<Addr6>]);
}

fn serves<A: Addr>(fixture: &Fixture, protocol: u8) {
    let (service, backend) = (Vip::Here.frontend(), (node::<A>(), TARGET_PORT));
    let outside = address(addressing::client());
    for (program, device, client) in [
        ("pod", Device::Pod(2), pod::<A>(NODE, 2)),
        ("uplink", Device::Uplink, outside),
    ] {
        let client = (client, CLIENT);
        let open = PacketSpec::new(client, service, opening(protocol));
        for counts in [&[(Open, 1)], &[(HitOriginal, 1)]] {
            Step {
                program,
                device,
                output: renamed(&open, client, backend),
                input: open.clone(),
                macs: arriving(device),
                action: Action::Stack,
                counts,
            }
            .check(fixture, protocol);
        }
        let back = PacketSpec::new(backend, client, answering(protocol));
        let home = renamed(&back, service, client);
        leaves(fixture, device, &back, (Action::Stack, &home), HitReply);
        let other = PacketSpec {
            dport: 9,
            ..back.clone()
        };
        leaves(
            fixture,
            device,
            &other,
            (Action::Pass, &other),
            PassNoService,
        );
        leaves(fixture, device, &open, (Action::Pass, &open), PassNoService);
        // The same packet, if it came into the node: then all was done there.
        fixture.check(Case {
            name: label::<A>(protocol, "forwarded"),
            program: "egress",
            device,
            input: Frame::of(leaving(device), &back),
            action: Action::Pass,
            output: Frame::of(leaving(device), &back),
            counts: &[(PassForwarded, 1)],
        });
        // And it is forged if it comes by the device.
        Step {
            program,
            device,
            input: back.clone(),
            output: back,
            macs: arriving(device),
            action: Action::Pass,
            counts: &[(PassNoService, 1)],
        }
        .check(fixture, protocol);
    }
}

fn leaves<A: Addr>(
    fixture: &Fixture,
    device: Device,
    spec: &PacketSpec<A>,
    (action, output): (Action, &PacketSpec<A>),
    reason: Reason,
) {
    let macs = leaving(device);
    let arrival = Arrival::leaving(fixture.node.ifindex(device).unwrap());
    let outcome = fixture.run_arriving("egress", &Frame::of(macs, spec), arrival);
    let frame = Frame::of(macs, output);
    let expected = (Outcome { action, frame }, Counts::of(&[(reason, 1)]));
    assert_eq!(outcome, expected, "{}", A::FAMILY);
}

/// As in [`crate::layer3`], the source address has an `EtherType` where a frame has its own.
#[test]
fn an_answer_without_ethernet_header_is_translated_on_its_way_out() {
    let Some(fixture) = Fixture::new(&["uplink", "egress_l3"]) else {
        return;
    };
    let backend = Addr6::from_ip([0xfd00, 0x10, 0x86dd, 0, 0, 0, 0, 8].into()).unwrap();
    let client = address::<Addr6>(addressing::client());
    // No flow leads from there: untouched, whole.
    let back = PacketSpec::new((backend, TARGET_PORT), (client, CLIENT), SYN);
    let frame = Frame(back.packet().bytes().to_vec());
    let arrival = Arrival::leaving(fixture.node.ifindex(Device::Uplink).unwrap());
    let outcome = fixture.run_arriving("egress_l3", &frame, arrival);
    let expected = Outcome {
        action: Action::Pass,
        frame,
    };
    assert_eq!(outcome, (expected, Counts::of(&[(PassNoService, 1)])));
}

#[test]
fn a_pod_reaches_itself_and_sees_another_source() {
    in_both_families([itself::<Addr4>, itself::<Addr6>]);
}

fn itself<A: Addr>(fixture: &Fixture, protocol: u8) {
    let home = Device::Pod(1);
    let (own, service) = ((pod::<A>(NODE, 1), CLIENT), Vip::Local.frontend());
    let (seen, backend) = ((hairpin::<A>(), CLIENT), Vip::Local.backend());
    let open = PacketSpec::new(own, service, opening(protocol));
    let back = PacketSpec::new(backend, seen, answering(protocol));
    let turned: Macs = leaving(home);
    for (input, output, macs, counts) in [
        (
            &open,
            sent_on(&open, seen, backend),
            arriving(home),
            &[(Open, 1), (Resolved, 1)][..],
        ),
        (
            &open,
            sent_on(&open, seen, backend),
            turned,
            &[(HitOriginal, 1)],
        ),
        (
            &back,
            sent_on(&back, service, own),
            arriving(home),
            &[(HitReply, 1), (Resolved, 1)],
        ),
        (
            &back,
            sent_on(&back, service, own),
            turned,
            &[(HitReply, 1)],
        ),
    ] {
        Step {
            program: "pod",
            device: home,
            input: input.clone(),
            output,
            macs,
            action: Action::Redirect,
            counts,
        }
        .check(fixture, protocol);
    }
}

/// XDP chooses and leaves the packet to TC; from then on both know the flow.
#[test]
fn before_the_stack_a_flow_to_a_process_of_the_node_is_opened_and_left() {
    in_both_families([left::<Addr4>, left::<Addr6>]);
}

fn left<A: Addr>(fixture: &Fixture, protocol: u8) {
    const OTHER: u16 = 41_000;
    let client = (address::<A>(addressing::client()), OTHER);
    let (service, backend) = (Vip::Here.frontend(), (node::<A>(), TARGET_PORT));
    let open = PacketSpec::new(client, service, opening(protocol));
    let macs = Macs {
        dst: Device::Uplink.mac(),
        src: CLIENT_MAC as Mac,
    };
    let input = Frame::of(macs, &open);
    let passed = |counts| Case {
        name: label::<A>(protocol, "before the stack"),
        program: "xdp_uplink",
        device: Device::Uplink,
        input: input.clone(),
        action: Action::Pass,
        output: input.clone(),
        counts,
    };
    fixture.check(passed(&[(Reason::PassToTc, 1), (Reason::OpenedForTc, 1)]));
    fixture.check(Case {
        name: label::<A>(protocol, "at TC"),
        program: "uplink",
        device: Device::Uplink,
        input: input.clone(),
        action: Action::Stack,
        output: Frame::of(macs, &renamed(&open, client, backend)),
        counts: &[(HitOriginal, 1)],
    });
    fixture.check(passed(&[(Reason::PassToTc, 1)]));
    let back = PacketSpec::new(backend, client, answering(protocol));
    let home = renamed(&back, service, client);
    leaves(
        fixture,
        Device::Uplink,
        &back,
        (Action::Stack, &home),
        HitReply,
    );
}
