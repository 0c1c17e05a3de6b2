//! Packets to a pod of the node past the host side of its device: the programs write the frame themselves from the first one on.

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
    lone_node::{Device, NODE, address},
    packet::{Frame, Macs},
    progrun::Action,
};

use crate::fixture::{ACK, Case, Fixture, Vip, arriving, label, leaving, opening, pod, sent_on};

const BACKEND: Device = Device::Pod(1);
/// To another station of a bridge.
const FOR_ANOTHER: [u8; 6] = [2, 0, 0, 0, 9, 8];

#[test]
fn the_first_packet_and_those_after_it_have_the_pods_frame() {
    let Some(mut fixture) = Fixture::new(&["pod", "uplink"]) else {
        return;
    };
    let ifindex = fixture.node.ifindex(BACKEND).unwrap();
    fixture.datapath.programs.go_past(ifindex).unwrap();
    for protocol in [proto::TCP, proto::UDP] {
        straight::<Addr4>(&mut fixture, protocol);
        straight::<Addr6>(&mut fixture, protocol);
    }
}

fn straight<A: Addr>(fixture: &mut Fixture, protocol: u8)
where
    FlowSlot<A>: Plain + Default,
{
    fixture.datapath.programs.forget::<A>().unwrap();
    let outside = address::<A>(addressing::client());
    let for_another = Macs {
        dst: FOR_ANOTHER,
        ..arriving(Device::Pod(2))
    };
    for (program, device, client, macs) in [
        ("uplink", Device::Uplink, outside, arriving(Device::Uplink)),
        ("pod", Device::Pod(2), pod(NODE, 2), for_another),
    ] {
        let client = (client, 40_000);
        let open = PacketSpec::<A>::new(client, Vip::Local.frontend(), opening(protocol));
        let mut next = open.clone();
        if protocol == proto::TCP {
            next.transport = ACK;
        }
        for (what, spec, reasons) in [
            (
                "open",
                &open,
                &[(Reason::Open, 1), (Reason::Resolved, 1)][..],
            ),
            ("next", &next, &[(Reason::HitOriginal, 1)]),
        ] {
            fixture.check(Case {
                name: format!("{program}: {}", label::<A>(protocol, what)),
                program,
                device,
                input: Frame::of(macs, spec),
                action: Action::Redirect,
                output: Frame::of(
                    leaving(BACKEND),
                    &sent_on(spec, client, Vip::Local.backend()),
                ),
                counts: reasons,
            });
            fixture.datapath.programs.believe().unwrap();
        }
    }
}
