//! ICMP about flows, through the real programs: errors translated, inside and outside, and pings answered.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::Reason::{self, EchoAnswered, HitError, PassNoService, PassToTc, Resolved},
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        csum,
        icmp::IcmpError,
        ip::IpHeader,
    },
};
use lb_tests::{
    addressing,
    lone_node::{Device, NODE, address},
    packet::{Frame, Macs},
    progrun::{Action, Arrival, Counts, Outcome, ServicePort, frontend},
    tap::{Offload, Tap},
};

use crate::fixture::{Case, Fixture, PORT, SYN, TARGET_PORT, Vip, arriving, leaving, pod, sent_on};

const POD: Device = Device::Pod(2);
const PROGRAMS: [&str; 5] = ["pod", "uplink", "host", "egress", "xdp_uplink"];
const TRANSPORTS: [Transport; 3] = [SYN, Transport::Udp, Transport::UdpUnchecked];

/// Source port of the clients: another for each kind of packet, so that each has a flow of its own.
fn client_port(transport: Transport) -> u16 {
    match transport {
        Transport::Tcp(_) => 40_000,
        Transport::Udp => 40_001,
        Transport::UdpUnchecked => 40_002,
    }
}

/// The type, code and word of an error.
fn header<A: Addr>(error: IcmpError) -> [u8; 8] {
    let [kind, word] = A::Header::error(error).map(u32::to_ne_bytes);
    [kind, word].concat().try_into().unwrap()
}

/// An ICMP message with so many hops left.
fn message<A: Addr>((src, dst): (A, A), hops: u8, header: [u8; 8], body: &[u8]) -> Vec<u8> {
    let octets = |addr: A| match addr.to_ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ends = [octets(src), octets(dst)].concat();
    let mut icmp = [&header[..], body].concat();
    let payload = u16::try_from(icmp.len()).unwrap();
    let [high, low] = payload.to_be_bytes();
    let (mut ip, seed) = match A::FAMILY {
        Family::V4 => {
            let [high, low] = (payload + 20).to_be_bytes();
            let fixed = [0x45, 0xc0, high, low, 0, 7, 0, 0, hops, 1, 0, 0];
            (fixed.to_vec(), 0)
        }
        Family::V6 => {
            let pseudo = [&ends[..], &[0, 0, high, low, 0, 0, 0, 58]].concat();
            let fixed = [0x60, 0, 0, 0, high, low, 58, hops];
            (fixed.to_vec(), csum::sum(&pseudo, 0))
        }
    };
    ip.extend(ends);
    if A::FAMILY == Family::V4 {
        let check = csum::checksum(&ip, 0);
        ip[10..12].copy_from_slice(&check.to_ne_bytes());
    }
    let check = csum::checksum(&icmp, seed);
    icmp[2..4].copy_from_slice(&check.to_ne_bytes());
    [ip, icmp].concat()
}

fn frame<A: Addr>(macs: Macs, packet: &[u8]) -> Frame {
    Frame::new(macs, A::Header::ETHER_TYPE, packet)
}

/// A router that knows nothing of services.
fn router<A: Addr>() -> A {
    address(addressing::client())
}

/// From the client to a service, and the same as the backend sees it, some hops further.
fn dialled<A: Addr>(
    client: A,
    vip: Vip,
    transport: Transport,
    options: usize,
) -> [PacketSpec<A>; 2] {
    let client = (client, client_port(transport));
    let request = PacketSpec::new(client, vip.frontend(), transport);
    let arrived = sent_on(&request, client, vip.backend());
    [request, arrived].map(|spec| PacketSpec {
        ttl: 9,
        options: vec![1; options],
        ..spec
    })
}

#[test]
fn errors_about_flows_are_translated_by_every_program() {
    let Some(fixture) = Fixture::new(&PROGRAMS) else {
        return;
    };
    for transport in TRANSPORTS {
        from_outside::<Addr4>(&fixture, transport);
        from_outside::<Addr6>(&fixture, transport);
        from_the_nodes_own_server::<Addr4>(&fixture, transport);
        from_the_nodes_own_server::<Addr6>(&fixture, transport);
    }
}

/// About what a pod has sent to a remote backend; and about the answers, by the pod itself.
fn from_outside<A: Addr>(fixture: &Fixture, transport: Transport) {
    let client = pod::<A>(NODE, 2);
    let [request, arrived] = dialled(client, Vip::Remote, transport, 0);
    fixture.run("pod", &Frame::of(arriving(POD), &request), POD);
    let vip = Vip::Remote.frontend::<A>().0;
    let mut is_known = false;
    for (error, told) in [
        (IcmpError::TimeExceeded, router()),
        (IcmpError::TooBig(1_280), vip),
        (IcmpError::PortUnreachable, vip),
    ] {
        for (options, len) in [(0, 8), (0, 17), (0, 18), (40, 8), (40, 28)] {
            let [request, arrived] = dialled(client, Vip::Remote, transport, options);
            let (quoted, known) = quotes(&arrived, &request, len);
            let header = header::<A>(error);
            let input = message((router(), client), 60, header, &quoted);
            let output = message((told, client), 59, header, &known);
            let came = arriving(Device::Uplink);
            // The kernel writes the MACs of a neighbour that it resolves itself.
            let (macs, counts) = if is_known {
                (leaving(POD), &[(HitError, 1)][..])
            } else {
                (came, &[(HitError, 1), (Resolved, 1)][..])
            };
            is_known = true;
            fixture.check(Case {
                name: format!("{error:?} about {len} bytes of {transport:?}"),
                program: "uplink",
                device: Device::Uplink,
                input: frame::<A>(came, &input),
                action: Action::Redirect,
                output: frame::<A>(macs, &output),
                counts,
            });
        }
    }
    // Before the stack it is left alone; so is one about nobody's packet.
    let header = header::<A>(IcmpError::PortUnreachable);
    let about = message((router(), client), 60, header, arrived.packet().bytes());
    left(
        fixture,
        "xdp_uplink",
        &frame::<A>(arriving(Device::Uplink), &about),
        PassToTc,
    );
    let other = PacketSpec {
        sport: 9,
        ..arrived
    };
    let about = message((router(), client), 60, header, other.packet().bytes());
    left(
        fixture,
        "uplink",
        &frame::<A>(arriving(Device::Uplink), &about),
        PassNoService,
    );
    from_the_client::<A>(fixture, transport);
}

/// The pod has no such port, or so it says of the answer.
fn from_the_client<A: Addr>(fixture: &Fixture, transport: Transport) {
    let client = pod::<A>(NODE, 2);
    let vip = Vip::Remote.frontend::<A>().0;
    let backend = Vip::Remote.backend::<A>().0;
    let header = header::<A>(IcmpError::PortUnreachable);
    let answers = [
        ((vip, PORT), (client, client_port(transport))),
        ((backend, TARGET_PORT), (client, client_port(transport))),
    ];
    let [answer, sent] = answers.map(|(src, dst)| PacketSpec::new(src, dst, transport));
    let (quoted, known) = quotes(&answer, &sent, 1_000);
    let input = message((client, vip), 64, header, &quoted);
    let output = message((client, backend), 63, header, &known);
    let (outcome, counts) = fixture.run("pod", &frame::<A>(arriving(POD), &input), POD);
    assert_eq!(outcome.action, Action::Redirect);
    assert_eq!(outcome.frame.packet(), output);
    assert_eq!(counts.0.get(&HitError), Some(&1), "{counts:?}");
}

fn left(fixture: &Fixture, program: &str, input: &Frame, reason: Reason) {
    fixture.check(Case {
        name: format!("passed by {program}"),
        program,
        device: Device::Uplink,
        input: input.clone(),
        action: Action::Pass,
        output: input.clone(),
        counts: &[(reason, 1)],
    });
}

/// The node's own stack refuses what came for a host-network backend.
fn from_the_nodes_own_server<A: Addr>(fixture: &Fixture, transport: Transport) {
    let client = address::<A>(addressing::client());
    let [request, arrived] = dialled(client, Vip::Here, transport, 0);
    fixture.run(
        "uplink",
        &Frame::of(arriving(Device::Uplink), &request),
        Device::Uplink,
    );
    let (quoted, known) = quotes(&arrived, &request, 1_000);
    let (node, vip) = (Vip::Here.backend::<A>().0, Vip::Here.frontend::<A>().0);
    let header = header::<A>(IcmpError::PortUnreachable);
    let macs = leaving(Device::Uplink);
    let [input, output] = [(node, &quoted), (vip, &known)]
        .map(|(src, quote)| frame::<A>(macs, &message((src, client), 64, header, quote)));
    let by = fixture.node.ifindex(Device::Uplink).unwrap();
    let outcome = fixture.run_arriving("egress", &input, Arrival::leaving(by));
    let expected = Outcome {
        action: Action::Stack,
        frame: output,
    };
    assert_eq!(outcome, (expected, Counts::of(&[(HitError, 1)])));
}

/// So much of a packet's transport header, and what it was before it was translated.
fn quotes<A: Addr>(
    quoted: &PacketSpec<A>,
    origin: &PacketSpec<A>,
    len: usize,
) -> (Vec<u8>, Vec<u8>) {
    let l4 = match A::FAMILY {
        Family::V4 => 20 + quoted.options.len(),
        Family::V6 => 40,
    };
    let [before, mut after] = [quoted, origin].map(|spec| spec.packet().bytes().to_vec());
    let end = (l4 + len).min(before.len());
    // Half a checksum is none.
    if len == 17 && matches!(quoted.transport, Transport::Tcp(_)) {
        after[l4 + 16] = before[l4 + 16];
    }
    (before[..end].to_vec(), after[..end].to_vec())
}

#[test]
fn pings_to_service_addresses_are_answered() {
    let Some(mut fixture) = Fixture::new(&PROGRAMS) else {
        return;
    };
    pinged::<Addr4>(&mut fixture);
    pinged::<Addr6>(&mut fixture);
}

fn pinged<A: Addr>(fixture: &mut Fixture) {
    let vip = Vip::Local.frontend::<A>().0;
    let any = ServicePort {
        algorithm: 0,
        frontends: vec![frontend(SocketAddr::new(vip.to_ip(), 0), 0)],
        ..Vip::Empty.port::<A>(6)
    };
    fixture.datapath.install(&any).unwrap();
    let (ask, answer) = match A::FAMILY {
        Family::V4 => (8, 0),
        Family::V6 => (128, 129),
    };
    let node = address::<A>(addressing::node(NODE));
    for (program, device, client) in [
        ("pod", POD, pod(NODE, 2)),
        ("uplink", Device::Uplink, router()),
        ("host", Device::Host, node),
    ] {
        for len in [0, 1, 56, 1_400] {
            let body = vec![0x5a; len];
            let numbers = |kind| [kind, 0, 0, 0, 1, 2, 3, 4];
            let input = message((client, vip), 17, numbers(ask), &body);
            let output = message((vip, client), 64, numbers(answer), &body);
            let came = arriving(device);
            let macs = match program {
                "host" => leaving(device),
                _ => Macs {
                    dst: came.src,
                    src: came.dst,
                },
            };
            fixture.check(Case {
                name: format!("a ping of {len} bytes by {program}"),
                program,
                device,
                input: frame::<A>(came, &input),
                action: Action::Redirect,
                output: frame::<A>(macs, &output),
                counts: &[(EchoAnswered, 1)],
            });
        }
    }
}

/// A packet whose quote begins behind the linear part of the buffer that the kernel has it in.
#[test]
fn a_quote_in_a_fragment_of_the_buffer_is_translated() {
    let Some(mut fixture) = Fixture::new(&["uplink"]) else {
        return;
    };
    let tap = Tap::new(fixture.node.namespace(), "tap0").unwrap();
    let commands = [
        "link set dev tap0 address 02:00:00:00:07:01 addrgenmode none mtu 9000",
        "link set dev tap0 up",
        "route add 203.0.113.77/32 dev tap0",
        "neigh replace 203.0.113.77 lladdr 02:00:00:00:07:02 dev tap0 nud permanent",
        "route add 2001:db8:77::1/128 dev tap0",
        "neigh replace 2001:db8:77::1 lladdr 02:00:00:00:07:02 dev tap0 nud permanent",
    ];
    fixture
        .node
        .namespace()
        .ip(&commands.map(str::to_owned))
        .unwrap();
    let programs = &mut fixture.datapath.programs;
    let attached = fixture
        .node
        .namespace()
        .run(|| programs.attach("uplink", "tap0"));
    attached.unwrap();
    in_fragments::<Addr4>(&tap, "203.0.113.77");
    in_fragments::<Addr6>(&tap, "2001:db8:77::1");
}

fn in_fragments<A: Addr>(tap: &Tap, client: &str) {
    const CAME: Macs = Macs {
        dst: [2, 0, 0, 0, 7, 1],
        src: [2, 0, 0, 0, 7, 2],
    };
    const LEFT: Macs = Macs {
        dst: CAME.src,
        src: CAME.dst,
    };
    let client = A::from_ip(client.parse().unwrap()).unwrap();
    let [request, arrived] = dialled(client, Vip::Local, SYN, 0);
    tap.send(Offload::default(), &Frame::of(CAME, &request))
        .unwrap();
    let [mut request, mut arrived] = [request, arrived].map(|spec| PacketSpec {
        options: vec![1; 40],
        payload: vec![7; 5_000],
        ..spec
    });
    let vip = Vip::Local.frontend::<A>().0;
    // The first way asks the kernel, which finds the neighbour; the next one knows it.
    for hops in [9, 8] {
        (request.ttl, arrived.ttl) = (hops, hops);
        let header = header::<A>(IcmpError::PortUnreachable);
        let input = message((router(), client), 60, header, arrived.packet().bytes());
        let output = message((vip, client), 59, header, request.packet().bytes());
        // What is longer than a page begins with so many bytes that are linear, the rest lies elsewhere.
        let offload = Offload {
            header_len: 14 + 20,
            ..Offload::default()
        };
        tap.send(offload, &frame::<A>(CAME, &input)).unwrap();
        let came = loop {
            let (_, came) = tap.receive().unwrap();
            // The kernel's own greetings aside.
            if came.bytes().starts_with(&LEFT.dst) {
                break came;
            }
        };
        assert_eq!(came, frame::<A>(LEFT, &output), "{}", A::FAMILY);
    }
}
