//! Frames with tags (IEEE 802.1Q) as the kernel hands them to a program of TC: the first tag beside the frame. One that
//! names no VLAN is taken off; what belongs to a VLAN is left to its device.
//!
//! The frames come by a device: `BPF_PROG_TEST_RUN` takes no packet with a tag beside it.

use std::time::Duration;

use lb_common::{
    abi::Reason::{self, Open, PassNotForUs, PassNotIp, Resolved},
    fake::{PacketSpec, Transport},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::IpHeader,
    },
};
use lb_tests::{
    addressing,
    lone_node::{Device, address},
    packet::{Frame, Macs},
    poll,
    progrun::Counts,
    sniffer::{Direction, Sniffer},
    tap::{Offload, Tap},
};

use crate::fixture::{Fixture, Vip, sent_on};

const MACS: Macs = Macs {
    dst: [2, 0, 0, 0, 7, 1],
    src: [2, 0, 0, 0, 7, 2],
};
const LIMIT: Duration = Duration::from_secs(10);
/// `EtherType` of a tag, and of an outer one (802.1ad).
const TAG: u16 = 0x8100;
const OUTER: u16 = 0x88a8;
/// A priority, "drop eligible" and no VLAN.
const PRIORITY: u16 = 0xb000;
/// The same priority in VLAN 42.
const VLAN: u16 = PRIORITY + 42;

/// Tags from the outermost on, and what is counted.
type Case = (
    &'static str,
    &'static [(u16, u16)],
    &'static [(Reason, u64)],
);

const OPENED: &[(Reason, u64)] = &[(Open, 1), (Resolved, 1)];
const CASES: [Case; 9] = [
    ("no tag", &[], OPENED),
    ("a priority", &[(TAG, PRIORITY)], OPENED),
    ("no priority either", &[(TAG, 0)], OPENED),
    ("an outer priority", &[(OUTER, PRIORITY)], OPENED),
    ("a VLAN", &[(TAG, VLAN)], &[(PassNotForUs, 1)]),
    ("an outer VLAN", &[(OUTER, VLAN)], &[(PassNotForUs, 1)]),
    (
        "a VLAN in a VLAN",
        &[(OUTER, VLAN), (TAG, 7)],
        &[(PassNotForUs, 1)],
    ),
    (
        "a VLAN behind a priority",
        &[(OUTER, PRIORITY), (TAG, VLAN)],
        &[(PassNotIp, 1)],
    ),
    (
        "a priority behind a VLAN",
        &[(TAG, VLAN), (TAG, PRIORITY)],
        &[(PassNotForUs, 1)],
    ),
];

#[test]
fn a_tag_that_names_no_vlan_is_as_none_and_others_belong_to_another_device() {
    let Some(mut fixture) = Fixture::new(&["uplink"]) else {
        return;
    };
    let tap = Tap::new(fixture.node.namespace(), "tap0").unwrap();
    let up = [
        "link set dev tap0 address 02:00:00:00:07:01 addrgenmode none".to_owned(),
        "link set dev tap0 up".to_owned(),
    ];
    fixture.node.namespace().ip(&up).unwrap();
    let programs = &mut fixture.datapath.programs;
    let attached = fixture
        .node
        .namespace()
        .run(|| programs.attach("uplink", "tap0"));
    attached.unwrap();
    // What is sent to the pod comes out at the other end of its device.
    let backend = format!("{}-peer", Device::Pod(1).name());
    let backend = Sniffer::open(fixture.node.namespace(), &backend).unwrap();
    for (case, port) in CASES.into_iter().zip(40_000..) {
        goes::<Addr4>(&fixture, &tap, &backend, case, port);
        goes::<Addr6>(&fixture, &tap, &backend, case, port);
    }
}

fn goes<A: Addr>(fixture: &Fixture, tap: &Tap, backend: &Sniffer, case: Case, port: u16) {
    let (name, tags, counts) = case;
    let client = (address::<A>(addressing::client()), port);
    let spec = PacketSpec::new(client, Vip::Local.frontend(), Transport::Udp);
    let mut frame = Frame::of(MACS, &spec);
    if let Some((ether_type, _)) = tags.first() {
        // Each tag is followed by the type of what comes behind it.
        let types = tags.iter().map(|(ether_type, _)| *ether_type).skip(1);
        let behind = types.chain([A::Header::ETHER_TYPE]);
        let tags = tags.iter().zip(behind);
        let tags = tags.flat_map(|((_, control), next)| [*control, next].map(u16::to_be_bytes));
        let payload = [
            &tags.collect::<Vec<_>>().concat()[..],
            spec.packet().bytes(),
        ]
        .concat();
        frame = Frame::new(MACS, *ether_type, &payload);
    }
    let programs = &fixture.datapath.programs;
    let before = programs.counters().unwrap();
    tap.send(Offload::default(), &frame).unwrap();
    let counted = poll::until(LIMIT, "the frame to be counted", || {
        let counted = programs.counters()?.since(&before);
        Ok((counted != Counts::default()).then_some(counted))
    });
    assert_eq!(counted.unwrap(), Counts::of(counts), "{} {name}", A::FAMILY);
    if counts == OPENED {
        let sent = sent_on(&spec, client, Vip::Local.backend()).packet();
        let what = format!("{} {name}", A::FAMILY);
        let is_sent = |packet: &[u8]| packet == sent.bytes();
        backend.next(Direction::In, LIMIT, &what, is_sent).unwrap();
    }
}
