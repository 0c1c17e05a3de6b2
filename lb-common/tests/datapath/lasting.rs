//! What a flow outlives, and what it does not.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{HitOriginal, HitReply, PassNoService, Reopened},
        backend_flags,
        node::features,
    },
    datapath::Verdict,
    fake::{FakePacket, Transport},
    flow::clock::seconds,
    net::addr::{Addr, Addr4, Addr6},
};

use crate::{
    fragments::{ID, SIZE, cut, held, long},
    made::sctp,
    world::{
        ACK, BACKEND_PORT, CLIENT_PORT, FIN, SERVICE_PORT, SYN, SYN_ACK, UDP, World, answer,
        backend, for_both_families, forwarded, local_pod, request, vip,
    },
};

for_both_families!(
    an_open_connection_is_not_opened_anew,
    a_backend_that_no_longer_serves_is_left_though_it_is_there,
    a_datagram_is_no_connection_that_could_be_reset,
    what_was_opened_anew_hears_its_old_backend_to_the_end,
    an_orphan_ends_whatever_its_backend_still_sends,
);

/// A packet of the client's; the verdict, and what it has become.
fn there<A: Addr>(world: &World<A>, transport: Transport) -> (Verdict, FakePacket) {
    let mut packet = request::<A>(local_pod(9), transport).packet();
    (world.pod().run(&mut packet).verdict, packet)
}

/// A packet of backend 1's.
fn back<A: Addr>(world: &World<A>, transport: Transport) -> Verdict {
    let syn = request::<A>(local_pod(9), transport);
    let mut packet = answer(&forwarded(&syn, local_pod(1)), transport).packet();
    world.pod().run(&mut packet).verdict
}

fn to<A: Addr>(n: u8, transport: Transport) -> FakePacket {
    forwarded(&request::<A>(local_pod(9), transport), local_pod(n)).packet()
}

fn world<A: Addr>(features: u32) -> World<A> {
    let config = NodeConfig {
        features,
        ..World::<A>::config()
    };
    let world = World::<A>::with_config(config).and_backends(2, local_pod, 0);
    world.serve(&[1]);
    world
}

/// A SYN in the middle of a connection is an old one, or forged (RFC 9293 section 3.10.7.4): the backend says which.
fn an_open_connection_is_not_opened_anew<A: Addr>() {
    let world = world::<A>(0);
    there(&world, SYN);
    back(&world, SYN_ACK);
    there(&world, ACK);
    world.leave(1, &[2]);
    world.node.take_counts();
    assert_eq!(there(&world, SYN).1, to::<A>(1, SYN));
    let counts = world.node.take_counts();
    assert!(counts.contains_key(&HitOriginal) && !counts.contains_key(&Reopened));
}

/// Its row is emptied only when nobody can look at it any more; until then its flags say that it has gone.
fn a_backend_that_no_longer_serves_is_left_though_it_is_there<A: Addr>() {
    let world = world::<A>(0);
    there(&world, UDP);
    world.serve(&[2]);
    assert_eq!(
        there(&world, UDP).1,
        to::<A>(1, UDP),
        "it serves other lists"
    );
    let mut gone = backend(local_pod::<A>(1), 0);
    gone.flags &= !backend_flags::SERVING;
    world.node.set_backend(1, Some(gone));
    assert_eq!(there(&world, UDP).1, to::<A>(2, UDP));
}

fn a_datagram_is_no_connection_that_could_be_reset<A: Addr>() {
    let world = world::<A>(features::RESET_GONE);
    there(&world, UDP);
    world.leave(1, &[]);
    assert_eq!(there(&world, UDP).1, to::<A>(1, UDP), "nobody else serves");
    assert!(matches!(back(&world, UDP), Verdict::Send(_)));
}

/// Its client has begun anew elsewhere: it is not to be told to end what it has forgotten.
fn what_was_opened_anew_hears_its_old_backend_to_the_end<A: Addr>() {
    let world = world::<A>(features::RESET_GONE);
    there(&world, SYN);
    back(&world, SYN_ACK);
    for transport in [ACK, FIN] {
        there(&world, transport);
    }
    world.leave(1, &[2]);
    assert_eq!(there(&world, SYN).1, to::<A>(2, SYN));
    world.node.take_counts();
    assert!(matches!(back(&world, FIN), Verdict::Send(_)));
    assert!(world.node.take_counts().contains_key(&HitReply));
}

fn an_orphan_ends_whatever_its_backend_still_sends<A: Addr>() {
    let world = world::<A>(0);
    there(&world, UDP);
    world.leave(1, &[2]);
    there(&world, UDP);
    for wait in [seconds(5), seconds(10) - seconds(5)] {
        world.wait(wait);
        assert!(matches!(back(&world, UDP), Verdict::Send(_)));
    }
    world.wait(1);
    world.node.take_counts();
    assert_eq!(back(&world, UDP), Verdict::Pass);
    assert!(world.node.take_counts().contains_key(&PassNoService));
}

/// What pads a short frame is not the packet's, and not in its checksum.
#[test]
fn padding_is_not_part_of_an_sctp_checksum() {
    let world = World::<Addr4>::with_local_backends(1);
    let service = lb_common::abi::Service {
        id: World::<Addr4>::SERVICE,
        version: 9,
        cluster: lb_common::abi::SlotRange { base: 1, count: 1 },
        flags: lb_common::abi::service_flags::CLUSTER_IP,
        ..Default::default()
    };
    let at = lb_common::abi::ServiceKey::new(vip::<Addr4>(1), SERVICE_PORT, 132);
    world.node.set_service(at, Some(service));
    let chunk = [&[1, 0, 0, 20][..], &[7; 16]].concat();
    let client = (local_pod::<Addr4>(9), CLIENT_PORT);
    let whole = sctp(client, (vip(1), SERVICE_PORT), 0, &chunk);
    let mut packet = FakePacket::new([&whole[..], &[0; 10]].concat());
    assert!(matches!(
        world.pod().run(&mut packet).verdict,
        Verdict::Send(_)
    ));
    let expected = sctp(client, (local_pod(1), BACKEND_PORT), 0, &chunk);
    assert_eq!(packet.bytes()[20..whole.len()], expected[20..]);
}

/// Each bit of the offset counts: a piece from far inside of a datagram has no ports.
#[test]
fn a_piece_from_far_inside_is_a_later_one() {
    let world = World::<Addr4>::with_local_backends(1);
    let mut piece = cut(&long(request::<Addr4>(local_pod(9), UDP))).remove(1);
    piece.bytes_mut()[6..8].copy_from_slice(&0x3000_u16.to_be_bytes());
    held(&world, &piece);
    let world = World::<Addr6>::with_local_backends(1);
    let mut piece = long(request::<Addr6>(local_pod(9), UDP))
        .packet()
        .cut(SIZE, ID)
        .remove(1);
    piece.bytes_mut()[42..44].copy_from_slice(&0x8001_u16.to_be_bytes());
    held(&world, &piece);
}
