//! What a rewrite changes, and what it does not, for every kind of flow and any packet.

use lb_common::{
    datapath::{Role, Verdict},
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::proto,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::{
    kinds::{KINDS, Kind, Program, listens},
    wire::{End, L4, Seen, Shape, packet, seen, shape},
    world::{SERVICE_PORT, World, vip},
};

/// Runs a packet that must be sent, and returns what it says then; everything but its ends, its TTL and what follows
/// from them is as before.
fn sent<A: Addr>(
    world: &World<A>,
    program: Program,
    shape: &Shape,
    (src, dst): (End<A>, End<A>),
) -> Result<(End<A>, End<A>), TestCaseError> {
    let before = packet(shape, src, dst);
    let mut after = before.clone();
    let mut outcome = program.run(world, &mut after);
    if program == Program::Xdp && outcome.verdict == Verdict::Pass {
        // Left to TC, as it came.
        prop_assert_eq!(after.bytes(), before.bytes());
        outcome = Program::Tc(Role::Uplink).run(world, &mut after);
    }
    let counts = world.node.take_counts();
    let Verdict::Send(via) = outcome.verdict else {
        return Err(TestCaseError::fail(format!(
            "{program:?}: {outcome:?}, {counts:?}"
        )));
    };
    prop_assert!(after.device_sum_valid(), "{:?}", counts);
    let (before, after): (Seen<A>, Seen<A>) = (seen(&before), seen(&after));
    prop_assert_eq!(before.ttl - program.hops(via), after.ttl, "{:?}", via);
    prop_assert_eq!(before.errors, after.errors, "{:?}", counts);
    prop_assert_eq!(before.rest, after.rest);
    if shape.damage == (0, 0) {
        prop_assert!(matches!(after.errors, (0, None | Some(0))));
    }
    Ok((after.src, after.dst))
}

/// A whole connection: every packet of the client reaches the server under one name, and every packet of the server
/// reaches the client as if it came from what the client dialled.
fn talk<A: Addr>(
    kind: Kind,
    sport: u16,
    first: &Shape,
    then: &[(bool, Shape)],
) -> Result<(), TestCaseError> {
    let world = kind.world::<A>();
    if kind == Kind::Remapped {
        let other = (kind.client(201), sport);
        sent(
            &world,
            kind.asks_by(),
            first,
            (other, (vip(2), SERVICE_PORT)),
        )?;
    }
    let (client, front) = ((kind.client::<A>(200), sport), kind.frontend::<A>());
    let server = listens(kind.server::<A>());
    let (source, dst) = sent(&world, kind.asks_by(), first, (client, front))?;
    prop_assert_eq!(dst, server);
    prop_assert_eq!(source.0, kind.source(client.0));
    if kind == Kind::Remapped {
        prop_assert_ne!(source.1, sport);
    } else {
        prop_assert_eq!(source.1, sport);
    }
    for (is_answer, shape) in then {
        let (program, there, becomes) = if *is_answer {
            (kind.answers_by(), (server, source), (front, client))
        } else {
            (kind.asks_by(), (client, front), (source, server))
        };
        prop_assert_eq!(sent(&world, program, shape, there)?, becomes);
    }
    Ok(())
}

/// A kind, a port of the client's, the first packet and those that follow, each with its direction.
fn conversation() -> impl Strategy<Value = (Kind, u16, Shape, Vec<(bool, Shape)>)> {
    let protocol = prop::sample::select(vec![proto::TCP, proto::UDP, proto::SCTP]);
    let kind = prop::sample::select(KINDS.to_vec());
    protocol.prop_flat_map(move |protocol| {
        (
            kind.clone(),
            // Above the ports that a node keeps for itself.
            1_024..61_000_u16,
            shape(protocol, true),
            vec((any::<bool>(), shape(protocol, false)), 1..6),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn an_answer_restores_what_the_client_sees_and_nothing_else_changes_v4(
        (kind, sport, first, then) in conversation(),
    ) {
        talk::<Addr4>(kind, sport, &first, &then)?;
    }

    #[test]
    fn an_answer_restores_what_the_client_sees_and_nothing_else_changes_v6(
        (kind, sport, first, then) in conversation(),
    ) {
        talk::<Addr6>(kind, sport, &first, &then)?;
    }
}

/// The properties above say nothing if no packet gets there: each kind and protocol, once, with a plain packet.
#[test]
fn every_kind_of_flow_is_served_over_every_protocol() {
    let tcp = |flags| L4::Tcp {
        flags,
        numbers: [1, 2],
        window: [3, 0],
        options: Vec::new(),
    };
    let udp = L4::Udp { has_checksum: true };
    let sctp = |tag, chunk| L4::Sctp { tag, chunk };
    for (first, next) in [
        (tcp(0x02), tcp(0x10)),
        (udp.clone(), udp),
        (sctp(0, 1), sctp(7, 0)),
    ] {
        let (first, next) = (Shape::plain(first), Shape::plain(next));
        let then = [(true, next.clone()), (false, next.clone()), (true, next)];
        for kind in KINDS {
            for outcome in [
                talk::<Addr4>(kind, 40_000, &first, &then),
                talk::<Addr6>(kind, 40_000, &first, &then),
            ] {
                outcome.unwrap_or_else(|error| panic!("{kind:?}, {:?}: {error}", first.l4));
            }
        }
    }
}
