//! An answer owes the device nothing: what was to be summed up or cut of the packet that it is about is over.
//!
//! The packet comes by a device with offloads, as TCP of a pod does: longer than the route takes, with a partial
//! checksum, to be cut into segments.

use lb_common::{
    fake::PacketSpec,
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        icmp::IcmpError,
    },
};
use lb_tests::{
    lone_node::{NARROW_MTU, NODE},
    packet::{Frame, Macs},
    tap::{Offload, Tap},
};

use crate::fixture::{Fixture, SYN, Vip, answered, pod};

const MACS: Macs = Macs {
    dst: [2, 0, 0, 0, 7, 1],
    src: [2, 0, 0, 0, 7, 2],
};

#[test]
fn an_answer_about_a_segmented_packet_is_whole_and_summed_up() {
    let Some(mut fixture) = Fixture::new(&["pod"]) else {
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
        .run(|| programs.attach("pod", "tap0"));
    attached.unwrap();
    owes_nothing::<Addr4>(&tap);
    owes_nothing::<Addr6>(&tap);
}

fn owes_nothing<A: Addr>(tap: &Tap) {
    let client = (pod::<A>(NODE, 2), 40_009);
    let dialled = Vip::Narrow.frontend();
    let (l4, gso_type): (u16, _) = match A::FAMILY {
        Family::V4 => (14 + 20, 1),
        Family::V6 => (14 + 40, 4),
    };
    // Long ones end in the fragments of the packet, not in its linear part.
    for (payload, gso_size) in [(1_400, 0), (1_400, 1_300), (30_000, 1_300), (60_000, 4_000)] {
        let spec = PacketSpec {
            payload: vec![3; payload],
            ..PacketSpec::new(client, dialled, SYN)
        };
        let input = Frame::of(MACS, &spec);
        let offload = Offload {
            flags: 1,
            gso_type: if gso_size == 0 { 0 } else { gso_type },
            header_len: l4 + 20,
            gso_size,
            sum_start: l4,
            sum_offset: 16,
        };
        tap.send(offload, &input).unwrap();
        // The kernel's own greetings aside.
        let (owed, frame) = loop {
            let (owed, frame) = tap.receive().unwrap();
            if frame.bytes().starts_with(&MACS.src) {
                break (owed, frame);
            }
        };
        let name = format!("{} {payload} by {gso_size}", A::FAMILY);
        let error = IcmpError::TooBig(NARROW_MTU.into());
        assert_eq!(
            frame,
            answered(&input, error, (dialled.0, client.0)),
            "{name}"
        );
        assert_eq!(owed, Offload::default(), "{name}");
    }
}
