//! Connections at TC: opened, followed, answered.

use lb_common::{
    abi::{Reason, backend_flags},
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use lb_tests::{
    addressing,
    lone_node::{CLIENT_MAC, Device, NEIGHBOUR, NODE, address},
    packet::{Frame, Macs},
    poll,
    progrun::Action,
};
use lb_user::{apply::LbMaps, desired::Place, plan::Area};

use crate::fixture::{
    ACK, Case, Fixture, SNAT_PORT, SYN_ACK, Vip, arriving, label, leaving, opening, pod, sent_on,
};

const OPENED: &[(Reason, u64)] = &[(Reason::Open, 1), (Reason::Resolved, 1)];

/// The client's port.
const CLIENT: u16 = 40_000;

#[test]
fn a_pod_reaches_a_backend_and_is_answered_by_the_service_address() {
    let Some(fixture) = Fixture::new(&["pod", "uplink"]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        for (vip, program, device) in [
            (Vip::Local, "pod", Device::Pod(1)),
            (Vip::Remote, "uplink", Device::Uplink),
        ] {
            exchange::<Addr4>(&fixture, protocol, vip, program, device);
            exchange::<Addr6>(&fixture, protocol, vip, program, device);
        }
    }
}

/// Two packets of the client, pod 2, and two of the backend, whose packets come by `device`.
///
/// The first each way goes through the kernel's neighbour table, so its MACs stay; the second carries the next hop's.
fn exchange<A: Addr>(fixture: &Fixture, protocol: u8, vip: Vip, program: &str, device: Device) {
    let (client, service, backend) = ((pod::<A>(NODE, 2), CLIENT), vip.frontend(), vip.backend());
    let home = Device::Pod(2);
    let check = |what: &str, program, from, spec: &PacketSpec<A>, (src, dst), macs, counts| {
        fixture.check(Case {
            name: label::<A>(protocol, &format!("{what} for {vip:?}")),
            program,
            device: from,
            input: Frame::of(arriving(from), spec),
            action: Action::Redirect,
            output: Frame::of(macs, &sent_on(spec, src, dst)),
            counts,
        });
    };
    let first = PacketSpec::new(client, service, opening(protocol));
    check(
        "open",
        "pod",
        home,
        &first,
        (client, backend),
        arriving(home),
        OPENED,
    );
    let next = PacketSpec {
        transport: following(protocol),
        ..first
    };
    check(
        "hit",
        "pod",
        home,
        &next,
        (client, backend),
        leaving(device),
        &[(Reason::HitOriginal, 1)],
    );

    let reply = PacketSpec::new(backend, client, answering(protocol));
    let counts = &[(Reason::HitReply, 1), (Reason::Resolved, 1)];
    check(
        "first reply",
        program,
        device,
        &reply,
        (service, client),
        arriving(device),
        counts,
    );
    check(
        "reply",
        program,
        device,
        &reply,
        (service, client),
        leaving(home),
        &[(Reason::HitReply, 1)],
    );
}

#[test]
fn a_client_outside_is_masqueraded_and_keeps_its_port_while_it_is_free() {
    let Some(fixture) = Fixture::new(&["uplink"]) else {
        return;
    };
    for protocol in [proto::TCP, proto::UDP] {
        masquerade::<Addr4>(&fixture, protocol);
        masquerade::<Addr6>(&fixture, protocol);
    }
}

/// Two services with one backend, dialled from one port: the second connection takes the only spare port, a third finds
/// none.
fn masquerade<A: Addr>(fixture: &Fixture, protocol: u8) {
    let client = (address::<A>(addressing::client()), CLIENT);
    let node = address::<A>(addressing::node(NODE));
    let macs = Macs {
        dst: Device::Uplink.mac(),
        src: CLIENT_MAC,
    };
    let check = |what: &str, spec: &PacketSpec<A>, action, output: &PacketSpec<A>, counts| {
        fixture.check(Case {
            name: label::<A>(protocol, what),
            program: "uplink",
            device: Device::Uplink,
            input: Frame::of(macs, spec),
            action,
            output: Frame::of(macs, output),
            counts,
        });
    };
    let remap = &[
        (Reason::Open, 1),
        (Reason::Resolved, 1),
        (Reason::PortRemapped, 1),
    ];
    for (vip, port, counts) in [(Vip::Remote, CLIENT, OPENED), (Vip::Twin, SNAT_PORT, remap)] {
        let (service, backend) = (vip.frontend(), vip.backend());
        let open = PacketSpec::new(client, service, opening(protocol));
        check(
            "open",
            &open,
            Action::Redirect,
            &sent_on(&open, (node, port), backend),
            counts,
        );
        let reply = PacketSpec::new(backend, (node, port), answering(protocol));
        let counts = &[(Reason::HitReply, 1), (Reason::Resolved, 1)];
        check(
            "reply",
            &reply,
            Action::Redirect,
            &sent_on(&reply, service, client),
            counts,
        );
    }
    let neighbour = (address::<A>(addressing::node(NEIGHBOUR)), CLIENT);
    let third = PacketSpec::new(neighbour, Vip::Remote.frontend(), opening(protocol));
    check(
        "no port left",
        &third,
        Action::Drop,
        &third,
        &[(Reason::DropPortInUse, 1), (Reason::Resolved, 1)],
    );
}

#[test]
fn a_pod_of_another_node_keeps_its_address_where_its_backend_answers_by_this_node() {
    let Some(mut fixture) = Fixture::new(&["uplink"]) else {
        return;
    };
    for cidr in addressing::pod_cidrs(NEIGHBOUR) {
        fixture
            .datapath
            .tables
            .put_place(Area::of_node(cidr.parse().unwrap()), Place::Pods)
            .unwrap();
    }
    seen_by_backends::<Addr4>(&fixture);
    seen_by_backends::<Addr6>(&fixture);
}

/// A backend elsewhere would answer the pod past this node, and from an address that the pod never dialled.
fn seen_by_backends<A: Addr>(fixture: &Fixture) {
    let client = (pod::<A>(NEIGHBOUR, 2), CLIENT);
    let node = (address::<A>(addressing::node(NODE)), CLIENT);
    let macs = arriving(Device::Uplink);
    for (name, vip, seen) in [
        ("its backend is here", Vip::Local, client),
        ("its backend is elsewhere", Vip::Remote, node),
    ] {
        let open = PacketSpec::new(client, vip.frontend(), Transport::Udp);
        fixture.check(Case {
            name: label::<A>(proto::UDP, name),
            program: "uplink",
            device: Device::Uplink,
            input: Frame::of(macs, &open),
            action: Action::Redirect,
            output: Frame::of(macs, &sent_on(&open, seen, vip.backend())),
            counts: OPENED,
        });
    }
}

#[test]
fn a_datagram_moves_on_when_its_backend_no_longer_serves_and_a_connection_stays() {
    let Some(mut fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    moves_on::<Addr4>(&mut fixture);
    moves_on::<Addr6>(&mut fixture);
}

fn moves_on<A: Addr>(fixture: &mut Fixture) {
    let (client, service) = ((pod::<A>(NODE, 2), CLIENT), Vip::Local.frontend());
    let reopened = &[
        (Reason::Open, 1),
        (Reason::Resolved, 1),
        (Reason::Reopened, 1),
    ];
    let (old, new) = (Vip::Local.backend(), Vip::Remote.backend());
    for (protocol, backend, macs, counts) in [
        (
            proto::TCP,
            old,
            leaving(Device::Pod(1)),
            &[(Reason::HitOriginal, 1)][..],
        ),
        (proto::UDP, new, arriving(Device::Pod(2)), reopened),
    ] {
        let open = PacketSpec::new(client, service, opening(protocol));
        let input = Frame::of(arriving(Device::Pod(2)), &open);
        let (_, counted) = fixture.run("pod", &input, Device::Pod(2));
        assert_eq!(counted.get(Reason::Open), 1, "{counted:?}");

        // The same service, with another backend in other slots; the old one is retired.
        let mut retired = Vip::Local.port::<A>(protocol);
        let mut moved = Vip::Remote.port::<A>(protocol);
        (moved.base, moved.id, moved.frontends) =
            (100 + moved.id, retired.id, retired.frontends.clone());
        moved.backends.iter_mut().for_each(|(id, _)| *id += 100);
        fixture.datapath.install(&moved).unwrap();
        retired.frontends.clear();
        retired
            .backends
            .iter_mut()
            .for_each(|(_, row)| row.flags &= !backend_flags::SERVING);
        fixture.datapath.install(&retired).unwrap();

        let next = PacketSpec {
            transport: following(protocol),
            ..open
        };
        fixture.check(Case {
            name: label::<A>(protocol, "after the backend was retired"),
            program: "pod",
            device: Device::Pod(2),
            input: Frame::of(arriving(Device::Pod(2)), &next),
            action: Action::Redirect,
            output: Frame::of(macs, &sent_on(&next, client, backend)),
            counts,
        });
    }
}

#[test]
fn a_next_hop_is_asked_for_again_when_its_time_is_up() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    let open = PacketSpec::new(
        (pod::<Addr4>(NODE, 2), CLIENT),
        Vip::Local.frontend(),
        Transport::Udp,
    );
    let input = Frame::of(arriving(Device::Pod(2)), &open);
    let (_, opened) = fixture.run("pod", &input, Device::Pod(2));
    assert_eq!(opened.get(Reason::Resolved), 1, "{opened:?}");
    let (_, hit) = fixture.run("pod", &input, Device::Pod(2));
    assert_eq!(hit.get(Reason::Resolved), 0, "{hit:?}");
    // Two seconds of the kernel's clock.
    let again = poll::until(
        std::time::Duration::from_secs(20),
        "the next hop to expire",
        || {
            let (outcome, counts) = fixture.run("pod", &input, Device::Pod(2));
            Ok((counts.get(Reason::Resolved) == 1).then_some(outcome))
        },
    );
    let sent = sent_on(&open, (open.ends.src, CLIENT), Vip::Local.backend());
    assert_eq!(
        again.unwrap().frame,
        Frame::of(arriving(Device::Pod(2)), &sent)
    );
}

#[test]
fn a_datagram_without_checksum_stays_without() {
    let Some(fixture) = Fixture::new(&["pod"]) else {
        return;
    };
    let client = (pod::<Addr4>(NODE, 2), CLIENT);
    let open = PacketSpec::new(client, Vip::Local.frontend(), Transport::UdpUnchecked);
    fixture.check(Case {
        name: label::<Addr4>(proto::UDP, "no checksum"),
        program: "pod",
        device: Device::Pod(2),
        input: Frame::of(arriving(Device::Pod(2)), &open),
        action: Action::Redirect,
        output: Frame::of(
            arriving(Device::Pod(2)),
            &sent_on(&open, client, Vip::Local.backend()),
        ),
        counts: OPENED,
    });
}

fn following(protocol: u8) -> Transport {
    if protocol == proto::TCP {
        ACK
    } else {
        Transport::Udp
    }
}

fn answering(protocol: u8) -> Transport {
    if protocol == proto::TCP {
        SYN_ACK
    } else {
        Transport::Udp
    }
}
