//! Ten times more beginnings than the table has places, while established connections live: none of those is lost.

use std::collections::BTreeMap;

use lb_common::{
    abi::Reason,
    datapath::{Role, Verdict},
    fake::{FakePacket, PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6, Family},
};

use crate::{
    kinds::{Kind, Program, listens},
    wire::{End, seen},
    world::{ACK, SYN, SYN_ACK, UDP, World, addr, local_pod},
};

/// Places of the table that [`World`] has.
const POSITIONS: u32 = 1_024;
/// Connections that live all the time: half of the table.
const ESTABLISHED: u16 = 256;
/// Packets of strangers.
const FLOOD: u32 = 10 * POSITIONS;

/// Who floods with what.
#[derive(Clone, Copy, Debug)]
struct Flood {
    transport: Transport,
    /// What the backend answers to each of them.
    answer: Option<Transport>,
}

fn stranger<A: Addr>(n: u32) -> End<A> {
    let [_, _, high, low] = n.to_be_bytes();
    let port = 1_024 + u16::try_from(n % 50_000).expect("a port");
    let mut words = addr::<A>(210, low).words();
    let last = if A::FAMILY == Family::V4 { 0 } else { 3 };
    words[last] ^= u32::from_ne_bytes([0, 0, high, 0]);
    (A::from_words(words), port)
}

fn send<A: Addr>(
    world: &World<A>,
    program: Program,
    (src, dst, transport): (End<A>, End<A>, Transport),
) -> (Verdict, FakePacket) {
    let mut packet = PacketSpec::new(src, dst, transport).packet();
    let outcome = program.run(world, &mut packet);
    (outcome.verdict, packet)
}

/// All of a connection that is checked: what the server sees, and what the client gets back.
fn lives<A: Addr>(world: &World<A>, client: End<A>, transport: Transport) -> Option<End<A>> {
    let kind = Kind::ExternalToLocal;
    let (front, server) = (kind.frontend(), listens(local_pod(1)));
    let (verdict, there) = send(world, kind.asks_by(), (client, front, transport));
    let there = seen::<A>(&there);
    let (back_verdict, back) = send(world, kind.answers_by(), (server, there.src, transport));
    let back = seen::<A>(&back);
    let is_served = matches!(verdict, Verdict::Send(_)) && there.dst == server;
    let is_answered =
        matches!(back_verdict, Verdict::Send(_)) && (back.src, back.dst) == (front, client);
    (is_served && is_answered).then_some(there.src)
}

fn withstands<A: Addr>(flood: Flood) {
    let kind = Kind::ExternalToLocal;
    let world = kind.world::<A>();
    let (front, server) = (kind.frontend(), listens(local_pod(1)));
    let clients: Vec<End<A>> = (0..ESTABLISHED)
        .map(|n| (addr(200, 1), 20_000 + n))
        .collect();
    let follows = |transport| match transport {
        Transport::Tcp(_) => ACK,
        other => other,
    };
    let mut names = BTreeMap::new();
    for client in &clients {
        for (program, packet) in [
            (kind.asks_by(), (*client, front, flood.transport)),
            (
                kind.answers_by(),
                (server, *client, answered(flood.transport)),
            ),
        ] {
            let (verdict, _) = send(&world, program, packet);
            assert!(matches!(verdict, Verdict::Send(_)), "{client:?}");
        }
        let name = lives(&world, *client, follows(flood.transport));
        names.insert(*client, name.expect("it was answered"));
    }
    world.node.take_counts();
    world.wait(100);
    for n in 0..FLOOD {
        let (verdict, there) = send(
            &world,
            kind.asks_by(),
            (stranger(n), front, flood.transport),
        );
        if let (Verdict::Send(_), Some(transport)) = (verdict, flood.answer) {
            let there = seen::<A>(&there);
            send(
                &world,
                Program::Tc(Role::Pod),
                (server, there.src, transport),
            );
        }
        world.wait(u32::from(n % 64 == 0));
    }
    let counts = world.node.take_counts();
    let count = |reason: Reason| counts.get(&reason).copied().unwrap_or(0);
    let opened = count(Reason::Open);
    assert_eq!(
        opened + count(Reason::DropFlowTableFull) + count(Reason::HitOriginal),
        u64::from(FLOOD),
        "{counts:?}"
    );
    // More than ever fit were let in, each of them in the place of another, and that is told.
    assert!(opened > u64::from(POSITIONS), "{counts:?}");
    assert!(count(Reason::FlowDisplaced) > 0, "{counts:?}");
    for client in &clients {
        let name = lives(&world, *client, follows(flood.transport));
        assert_eq!(name, Some(names[client]), "{flood:?} {client:?} {counts:?}");
    }
}

fn answered(transport: Transport) -> Transport {
    match transport {
        Transport::Tcp(_) => SYN_ACK,
        other => other,
    }
}

fn in_both_families(flood: Flood) {
    withstands::<Addr4>(flood);
    withstands::<Addr6>(flood);
}

#[test]
fn a_flood_of_syns_displaces_no_established_connection() {
    in_both_families(Flood {
        transport: SYN,
        answer: None,
    });
}

#[test]
fn nor_does_one_whose_backend_answers_each_of_them() {
    in_both_families(Flood {
        transport: SYN,
        answer: Some(SYN_ACK),
    });
}

#[test]
fn nor_do_datagrams_of_random_sources() {
    in_both_families(Flood {
        transport: UDP,
        answer: None,
    });
}

#[test]
fn nor_do_datagrams_that_are_answered() {
    in_both_families(Flood {
        transport: UDP,
        answer: Some(UDP),
    });
}
