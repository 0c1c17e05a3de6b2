//! Services whose backends are chosen by the packet: the same on every node, also in the middle of a connection.

use lb_common::{
    abi::{
        NodeConfig,
        Reason::{DropNotSyn, Open, PassTakeover, Reopened, Resolved, Resumed},
        node::features,
        service_flags::MAGLEV,
        takeover,
    },
    datapath::{Verdict, Via::Kernel},
    fake::{PacketSpec, Transport},
    flow::slot::State::{Closed, Established, HalfOpen},
    net::addr::Addr,
};

use crate::world::{
    ACK, FIN, RST, SYN, SYN_ACK, UDP, World, answer, assert_counts, for_both_families, forwarded,
    is_reset, leaves, local_pod, request, sends, to_pod,
};

for_both_families!(
    a_packet_finds_the_same_backend_on_every_node,
    packets_spread_over_the_table,
    the_middle_of_a_connection_finds_its_backend,
    a_resumed_connection_ends_as_any_other,
    a_resumed_reset_makes_room_for_the_next_connection,
    the_middle_of_any_other_connection_is_reset,
    what_changes_hands_is_not_resumed,
);

const BACKENDS: u8 = 8;

/// A node that has another secret, other luck and other facts than the ones with other numbers.
fn node<A: Addr>(number: u32) -> World<A> {
    let config = NodeConfig {
        hash_key: [number; 12],
        ..World::<A>::config()
    };
    let world = World::with_config(config);
    world.choose_by(MAGLEV);
    world.node.seed(u64::from(number));
    world.and_backends(BACKENDS, local_pod, 0)
}

/// The backend that a packet is sent to.
#[track_caller]
fn backend_of<A: Addr>(world: &World<A>, packet: &PacketSpec<A>) -> u8 {
    let mut sent = packet.packet();
    let verdict = world.pod().run(&mut sent).verdict;
    assert_eq!(
        verdict,
        Verdict::Send(Kernel),
        "{:?}",
        world.node.take_counts()
    );
    let backend = (1..=BACKENDS).find(|id| sent == forwarded(packet, local_pod(*id)).packet());
    backend.expect("it goes to a backend")
}

fn from_port<A: Addr>(sport: u16, transport: Transport) -> PacketSpec<A> {
    PacketSpec {
        sport,
        ..request(local_pod(9), transport)
    }
}

fn a_packet_finds_the_same_backend_on_every_node<A: Addr>() {
    let nodes = [node::<A>(1), node(2)];
    for port in 1_000..1_200 {
        for transport in [SYN, UDP] {
            let packet = from_port(port, transport);
            let [here, there] = nodes.each_ref().map(|world| backend_of(world, &packet));
            assert_eq!(here, there, "port {port}");
        }
    }
}

fn packets_spread_over_the_table<A: Addr>() {
    let world = node::<A>(1);
    let mut shares = [0_u32; BACKENDS as usize];
    for port in 1_000..9_000 {
        let backend = backend_of(&world, &from_port(port, UDP));
        shares[usize::from(backend) - 1] += 1;
    }
    let chi: f64 = shares
        .iter()
        .map(|n| (f64::from(*n) - 1_000.0).powi(2) / 1_000.0)
        .sum();
    // Seven degrees of freedom: one in a thousand uniform hashes goes beyond 24.3.
    assert!(chi < 24.3, "{shares:?}: chi-square {chi}");
}

fn the_middle_of_a_connection_finds_its_backend<A: Addr>() {
    let [first, second] = [node::<A>(1), node(2)];
    let mut sent = Vec::new();
    for port in 1_000..1_100 {
        let backend = backend_of(&first, &from_port(port, SYN));
        let packet = from_port(port, ACK);
        assert_eq!(backend_of(&second, &packet), backend);
        assert_eq!(second.node.take_counts()[&Resumed], 1);
        sent.push((forwarded(&packet, local_pod(backend)), packet));
    }
    let third = node::<A>(3);
    let (sent, packet) = sent.swap_remove(0);
    let counts = [Open, Resumed, Resolved];
    sends(
        &third.node,
        third.pod(),
        &packet,
        &sent,
        (Kernel, to_pod()),
        &counts,
    );
}

/// A connection that its client ends: what has come before is not known here.
fn a_resumed_connection_ends_as_any_other<A: Addr>() {
    let world = node::<A>(1);
    let packet = |transport| from_port::<A>(1_000, transport);
    let backend = backend_of(&world, &packet(FIN));
    let sent = forwarded(&packet(FIN), local_pod(backend));
    assert_eq!(world.states(6), [HalfOpen; 2]);
    world.pod().run(&mut answer(&sent, ACK).packet());
    world.pod().run(&mut answer(&sent, FIN).packet());
    world.pod().run(&mut packet(ACK).packet());
    assert_eq!(world.states(6), [Closed; 2]);
    // One that goes on lives as any other does.
    let world = node::<A>(1);
    backend_of(&world, &packet(ACK));
    world.pod().run(&mut answer(&sent, ACK).packet());
    world.pod().run(&mut packet(ACK).packet());
    assert_eq!(world.states(6), [Established; 2]);
}

fn a_resumed_reset_makes_room_for_the_next_connection<A: Addr>() {
    let world = node::<A>(1);
    let packet = |transport| from_port::<A>(1_000, transport);
    let backend = backend_of(&world, &packet(RST));
    assert_eq!(world.states(6), [HalfOpen; 2]);
    world.node.take_counts();
    assert_eq!(backend_of(&world, &packet(SYN)), backend);
    assert_eq!(world.node.take_counts()[&Reopened], 1);
}

fn the_middle_of_any_other_connection_is_reset<A: Addr>() {
    let world = World::<A>::with_local_backends(1);
    is_reset(&world, world.pod(), &request(local_pod(9), ACK));
    // No client accepts what it has not been asked for.
    let world = node::<A>(1);
    is_reset(&world, world.pod(), &request(local_pod(9), SYN_ACK));
}

fn what_changes_hands_is_not_resumed<A: Addr>() {
    let ack = request::<A>(local_pod(9), ACK).packet();
    let world = node::<A>(1);
    for who in [takeover::FROM, takeover::TO] {
        world.node.set_takeover(who);
        leaves(
            &world.node,
            world.pod(),
            &ack,
            Verdict::Pass,
            &[PassTakeover],
        );
    }
    let mut world = node::<A>(1);
    world.node.set_features(features::SETTLING);
    leaves(&world.node, world.pod(), &ack, Verdict::Drop, &[DropNotSyn]);
    assert_counts(&world.node, &[]);
}
