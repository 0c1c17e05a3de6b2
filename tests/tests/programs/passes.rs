//! What is not ours goes on as it came: not one byte is changed, and the reason is counted.

use lb_common::{
    abi::Reason,
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        ip::IpHeader,
    },
};
use lb_tests::{
    lone_node::{Device, NODE},
    packet::{Frame, Macs},
    progrun::Action,
};

use crate::fixture::{ACK, Case, Fixture, SYN, Vip, arriving, pod};

/// The programs for Ethernet, each with a device that it may be attached to.
const PROGRAMS: [(&str, Device); 3] = [
    ("pod", Device::Pod(2)),
    ("uplink", Device::Uplink),
    ("xdp_uplink", Device::Uplink),
];

/// A packet that would be passed, and why.
#[derive(Clone)]
struct Stranger {
    name: String,
    ether_type: u16,
    packet: Vec<u8>,
    reason: Reason,
}

#[test]
fn what_is_not_ours_goes_on_untouched() {
    let Some(fixture) = Fixture::new(&["pod", "uplink", "xdp_uplink"]) else {
        return;
    };
    for (program, device) in PROGRAMS {
        let mut strangers = [
            edited::<Addr4>(EDITED_V4),
            edited::<Addr6>(EDITED_V6),
            foreign(),
        ]
        .concat();
        // `BPF_PROG_TEST_RUN` itself refuses to make such packets for TC.
        if program == "xdp_uplink" {
            strangers.extend(edited::<Addr4>(CUT_V4));
            strangers.extend(edited::<Addr6>(CUT_V6));
        }
        for Stranger {
            name,
            ether_type,
            packet,
            reason,
        } in strangers
        {
            let frame = Frame::new(arriving(device), ether_type, &packet);
            fixture.check(Case {
                name: format!("{program}: {name}"),
                program,
                device,
                input: frame.clone(),
                action: Action::Pass,
                output: frame,
                counts: &[(reason, 1)],
            });
        }
    }
}

#[test]
fn a_frame_for_another_station_goes_on_untouched() {
    let Some(fixture) = Fixture::new(&["pod", "uplink", "xdp_uplink"]) else {
        return;
    };
    let src = [2, 0, 0, 0, 9, 9];
    for (program, device) in PROGRAMS {
        // XDP sees what the driver lets through: only group addresses are never the node's own.
        // A pod's device may be a bridge's port, whose frames go to other stations of it.
        let others: &[_] = match program {
            "uplink" => &[[0xff; 6], [2, 0, 0, 0, 9, 8]],
            _ => &[[0xff; 6], [0x33, 0x33, 0, 0, 0, 1]],
        };
        for dst in others {
            let frame = Frame::of(Macs { dst: *dst, src }, &dialling::<Addr4>(SYN));
            fixture.check(Case {
                name: format!("{program}: a frame for {dst:02x?}"),
                program,
                device,
                input: frame.clone(),
                action: Action::Pass,
                output: frame,
                counts: &[(Reason::PassNotForUs, 1)],
            });
        }
    }
}

/// A packet to a service that this node has; only what a case does to it keeps it from being sent on.
fn dialling<A: Addr>(transport: Transport) -> PacketSpec<A> {
    PacketSpec::new((pod(NODE, 2), 40_000), Vip::Remote.frontend(), transport)
}

/// What is done to a packet's bytes, counted from its IP header.
#[derive(Clone, Copy)]
enum Edit {
    /// This byte gets this value.
    Set(usize, u8),
    /// The frame ends after so many bytes, but the headers do not say so.
    Truncate(usize),
    /// The packet ends after so many bytes, as its IP header says.
    Shorten(u8),
}

/// Packets that are edited before they come.
type Edited = [(&'static str, Reason, Transport, Edit)];

const BAD: Reason = Reason::PassMalformed;
const UDP: Transport = Transport::Udp;

const EDITED_V4: &Edited = &[
    ("version 5", BAD, SYN, Edit::Set(0, 0x55)),
    ("a header of four words", BAD, SYN, Edit::Set(0, 0x44)),
    (
        "longer than the frame",
        BAD,
        SYN,
        Edit::Set(3, 20 + 20 + 7 + 1),
    ),
    ("shorter than its header", BAD, SYN, Edit::Set(3, 19)),
    (
        "cut inside the TCP header",
        BAD,
        SYN,
        Edit::Shorten(20 + 19),
    ),
    (
        "a TCP header beyond the end",
        BAD,
        SYN,
        Edit::Set(20 + 12, 15 << 4),
    ),
    ("cut inside the UDP header", BAD, UDP, Edit::Shorten(20 + 7)),
    ("ICMP", Reason::PassProtocol, SYN, Edit::Set(9, 1)),
    ("GRE", Reason::PassProtocol, SYN, Edit::Set(9, 47)),
    (
        "SCTP, which nobody serves on this port",
        Reason::PassNoService,
        SYN,
        Edit::Set(9, 132),
    ),
];

const EDITED_V6: &Edited = &[
    ("version 4", BAD, SYN, Edit::Set(0, 0x40)),
    ("longer than the frame", BAD, SYN, Edit::Set(5, 20 + 7 + 1)),
    (
        "cut inside the TCP header",
        BAD,
        SYN,
        Edit::Shorten(40 + 19),
    ),
    (
        "a TCP header beyond the end",
        BAD,
        SYN,
        Edit::Set(40 + 12, 15 << 4),
    ),
    ("cut inside the UDP header", BAD, UDP, Edit::Shorten(40 + 7)),
    ("ICMPv6", Reason::PassProtocol, SYN, Edit::Set(6, 58)),
    (
        "hop-by-hop options",
        Reason::PassProtocol,
        SYN,
        Edit::Set(6, 0),
    ),
];

/// Frames that end before their IP header does.
const CUT_V4: &Edited = &[("inside the IP header", BAD, SYN, Edit::Truncate(19))];
const CUT_V6: &Edited = &[("inside the IP header", BAD, SYN, Edit::Truncate(39))];

fn edited<A: Addr>(table: &Edited) -> Vec<Stranger> {
    let stranger = |(name, reason, transport, edit): &(_, _, _, _)| {
        let mut packet = dialling::<A>(*transport).packet().bytes().to_vec();
        match *edit {
            Edit::Set(at, value) => packet[at] = value,
            Edit::Truncate(len) => packet.truncate(len),
            Edit::Shorten(len) => shorten::<A>(&mut packet, len),
        }
        Stranger {
            name: format!("{} {name}", A::FAMILY),
            ether_type: A::Header::ETHER_TYPE,
            packet,
            reason: *reason,
        }
    };
    table.iter().map(stranger).collect()
}

fn shorten<A: Addr>(packet: &mut Vec<u8>, len: u8) {
    packet.truncate(len.into());
    match A::FAMILY {
        Family::V4 => packet[3] = len,
        Family::V6 => packet[5] = len - 40,
    }
}

/// Whole packets that have nothing to do with a service.
fn foreign() -> Vec<Stranger> {
    // XDP sees every tag there; TC those behind the first, which the kernel has laid beside the frame.
    let tagged = |tag: [u8; 4]| [&tag, dialling::<Addr4>(SYN).packet().bytes()].concat();
    let twice = [&[0, 42, 0x81, 0], &tagged([0, 7, 8, 0])[..]].concat();
    let other = |name: &str, ether_type, packet| Stranger {
        name: name.to_owned(),
        ether_type,
        packet,
        reason: Reason::PassNotIp,
    };
    vec![
        other("ARP", 0x0806, vec![0; 28]),
        other("a VLAN tag", 0x8100, tagged([0, 42, 8, 0])),
        other("a priority tag", 0x8100, tagged([0xb0, 0, 8, 0])),
        other("a tag in a tag", 0x88a8, twice),
        elsewhere::<Addr4>("a connection to a port without service", SYN),
        elsewhere::<Addr6>("a connection to a port without service", SYN),
        elsewhere::<Addr4>("the middle of an unknown connection", ACK),
        elsewhere::<Addr6>("a datagram to a port without service", UDP),
    ]
}

fn elsewhere<A: Addr>(name: &str, transport: Transport) -> Stranger {
    let spec = PacketSpec {
        dport: 81,
        ..dialling::<A>(transport)
    };
    Stranger {
        name: format!("{} {name}", A::FAMILY),
        ether_type: A::Header::ETHER_TYPE,
        packet: spec.packet().bytes().to_vec(),
        reason: Reason::PassNoService,
    }
}
