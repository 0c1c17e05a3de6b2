//! What holds for any packet, any addresses, any ports.

use lb_common::{
    abi::{Backend, NextHop, Reason, backend_flags},
    datapath::{Role, Route, Verdict},
    fake::{FakePacket, PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6},
};
use proptest::prelude::*;

use crate::world::{
    SERVICE_PORT, World, answer, backend, forwarded, local_pod, request, to_pod, vip,
};

fn address<A: Addr>() -> impl Strategy<Value = A> {
    any::<[u32; 4]>().prop_map(A::from_words)
}

fn transport() -> impl Strategy<Value = Transport> {
    let flags = any::<u8>().prop_map(|flags| flags & !0b1_0100 | 0b0_0010);
    prop_oneof![
        flags.prop_map(Transport::Tcp),
        Just(Transport::Udp),
        Just(Transport::UdpUnchecked)
    ]
}

/// A client's first packet and where its backend is.
fn connection<A: Addr>() -> impl Strategy<Value = (PacketSpec<A>, A, u16)> {
    let payload = prop::collection::vec(any::<u8>(), 0..300);
    let options = prop::collection::vec(any::<u8>(), 0..=40).prop_map(|mut options| {
        options.truncate(options.len() / 4 * 4);
        options
    });
    let ends = (address::<A>(), any::<u16>(), address::<A>(), any::<u16>());
    (ends, transport(), 2_u8.., options, payload).prop_map(
        |((client, sport, to, port), transport, ttl, options, payload)| {
            let spec = PacketSpec::new((client, sport), (vip(1), SERVICE_PORT), transport);
            (
                PacketSpec {
                    ttl,
                    options,
                    payload,
                    ..spec
                },
                to,
                port,
            )
        },
    )
}

/// A node that forwards the service's packets to one endpoint, whatever its address.
fn node_with_backend<A: Addr>(client: A, at: A, port: u16) -> World<A> {
    let world = World::<A>::with_local_backends(1);
    let local = backend(at, backend_flags::LOCAL);
    world.node.set_backend(1, Some(Backend { port, ..local }));
    for addr in [client, at] {
        world
            .node
            .set_route(addr, Route::Neighbour, NextHop { mtu: 0, ..to_pod() });
    }
    world
}

/// What a rewrite makes is right to the last bit, and the answer's makes it undone.
fn there_and_back<A: Addr>(request: &PacketSpec<A>, to: A, port: u16) -> Result<(), TestCaseError> {
    let world = node_with_backend(request.ends.src, to, port);
    let mut there = request.packet();
    let outcome = world.pod().run(&mut there);
    prop_assert!(
        matches!(outcome.verdict, Verdict::Send(_)),
        "{:?}",
        world.node.take_counts()
    );
    prop_assert!(there.checksums_valid() && there.device_sum_valid());
    let mut expected = request.clone();
    (expected.ends.dst, expected.dport) = (to, port);
    expected.ttl -= 1;
    prop_assert_eq!(
        without_checksums(&there),
        without_checksums(&expected.packet())
    );

    let sent = PacketSpec {
        payload: request.payload.clone(),
        ..answer(&expected, request.transport)
    };
    let mut back = sent.packet();
    let outcome = world.pod().run(&mut back);
    prop_assert!(
        matches!(outcome.verdict, Verdict::Send(_)),
        "{:?}",
        world.node.take_counts()
    );
    prop_assert!(back.checksums_valid() && back.device_sum_valid());
    let mut expected = PacketSpec {
        ttl: sent.ttl - 1,
        ..answer(request, request.transport)
    };
    expected.payload.clone_from(&request.payload);
    prop_assert_eq!(
        without_checksums(&back),
        without_checksums(&expected.packet())
    );
    Ok(())
}

/// The packet but for its checksums, of which some have two right values; whether there is one is kept.
fn without_checksums(packet: &FakePacket) -> Vec<u8> {
    let mut bytes = packet.bytes().to_vec();
    let (l4, protocol) = match bytes[0] >> 4 {
        4 => {
            bytes[10..12].fill(0);
            (usize::from(bytes[0] & 0x0f) * 4, bytes[9])
        }
        _ => (40, bytes[6]),
    };
    let check = &mut bytes[if protocol == 6 {
        l4 + 16..l4 + 18
    } else {
        l4 + 6..l4 + 8
    }];
    let there = u8::from(protocol == 6 || check.iter().any(|byte| *byte != 0));
    check.fill(there);
    bytes
}

/// Whatever the bytes, the datapath does not panic, counts one outcome, and changes what it sends alone.
fn any_bytes<A: Addr>(world: &World<A>, bytes: &[u8]) -> Result<(), TestCaseError> {
    let roles = [
        Role::Pod,
        Role::Uplink,
        Role::Host,
        Role::Loopback,
        Role::Egress,
    ];
    let programs = roles.map(Some).into_iter().chain([None]);
    for role in programs {
        let mut packet = FakePacket::new(bytes.to_vec());
        let outcome = match role {
            Some(role) => world.node.tc(role, 10).run(&mut packet),
            None => world.xdp().run(&mut packet),
        };
        let counts = world.node.take_counts();
        let notes = [
            Reason::Resolved,
            Reason::Reopened,
            Reason::XdpForward,
            Reason::PortRemapped,
            Reason::OpenedForTc,
            Reason::Fragmented,
            Reason::Answered,
            Reason::AnswerLimited,
        ];
        let outcomes: u64 = counts
            .iter()
            .filter(|(reason, _)| !notes.contains(reason))
            .map(|(_, n)| n)
            .sum();
        prop_assert_eq!(outcomes, 1, "{:?}: {:?}", role, counts);
        match outcome.verdict {
            Verdict::Send(_) | Verdict::Back => prop_assert_ne!(packet.bytes(), bytes),
            Verdict::Pass => {
                prop_assert_ne!(role, Some(Role::Host), "what is passed there comes back");
                prop_assert_eq!(packet.bytes(), bytes);
            }
            Verdict::Drop => prop_assert_eq!(packet.bytes(), bytes),
        }
    }
    Ok(())
}

/// A request to the service with a few bytes changed, cut or added: close enough to get far.
fn nearly_a_request<A: Addr>() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0_usize..80, any::<u8>()), 0..4);
    (transport(), changes, 0_usize..100).prop_map(|(transport, changes, len)| {
        let mut bytes = request::<A>(local_pod(9), transport)
            .packet()
            .bytes()
            .to_vec();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.resize(len.max(bytes.len() / 2), 0);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rewrite_is_right_and_the_answers_undoes_it_v4((request, to, port) in connection::<Addr4>()) {
        there_and_back(&request, to, port)?;
    }

    #[test]
    fn a_rewrite_is_right_and_the_answers_undoes_it_v6((request, to, port) in connection::<Addr6>()) {
        there_and_back(&request, to, port)?;
    }

    #[test]
    fn any_bytes_are_decided_v4(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        any_bytes(&World::<Addr4>::with_local_backends(1), &bytes)?;
        any_bytes(&World::<Addr4>::with_backend_here(), &bytes)?;
    }

    #[test]
    fn any_bytes_are_decided_v6(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        any_bytes(&World::<Addr6>::with_local_backends(1), &bytes)?;
        any_bytes(&World::<Addr6>::with_backend_here(), &bytes)?;
    }

    #[test]
    fn nearly_requests_are_decided_v4(bytes in nearly_a_request::<Addr4>()) {
        any_bytes(&World::<Addr4>::with_local_backends(1), &bytes)?;
        any_bytes(&World::<Addr4>::with_backend_here(), &bytes)?;
    }

    #[test]
    fn nearly_requests_are_decided_v6(bytes in nearly_a_request::<Addr6>()) {
        any_bytes(&World::<Addr6>::with_local_backends(1), &bytes)?;
        any_bytes(&World::<Addr6>::with_backend_here(), &bytes)?;
    }
}

/// A checksum that comes out as zero is sent as all ones (RFC 768): zero would say that there is none.
#[test]
fn a_udp_checksum_never_becomes_none() {
    let world = World::<Addr4>::with_local_backends(1);
    let mut all_ones = 0;
    for sport in 0..=u16::MAX {
        let request = PacketSpec {
            sport,
            ..request::<Addr4>(local_pod(9), Transport::Udp)
        };
        let expected = forwarded(&request, local_pod(1)).packet();
        let mut packet = request.packet();
        world.pod().run(&mut packet);
        assert_eq!(packet, expected, "port {sport}");
        all_ones += u32::from(expected.bytes()[26..28] == [0xff, 0xff]);
    }
    assert!(all_ones > 0, "no port makes the sum zero");
}
