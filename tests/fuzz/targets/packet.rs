//! Any packets, one after the other, at any of a node's programs: each is decided, counted once, and touched only if sent.
//!
//! The first byte chooses the family and what the node serves. Then, for each packet: its program, the packet that it
//! is made of, how far the clock goes on before it, its length, and as many bytes, which are laid over the packet by
//! exclusive or, so that zeros leave a packet that gets far; no packet at all is the one of no bytes, made by them.
//! All packets meet the same flow table.

#![no_main]

use lb_common::{
    abi::{Reason, backend_flags, counter::Kind},
    datapath::{Role, Verdict},
    fake::{FakePacket, PacketSpec, error_about},
    net::{
        addr::{Addr, Addr4, Addr6},
        icmp::IcmpError,
    },
};
use libfuzzer_sys::fuzz_target;

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the world of the datapath's own tests, of which they use the rest"
)]
#[path = "../../../lb-common/tests/datapath/world.rs"]
mod world;

use world::{
    FIN, MTU, RST, SYN, SYN_ACK, UDP, World, answer, forwarded, local_pod, node_addr, outsider,
    remote_pod, request,
};

/// Longest packet that is made.
const MAX_LEN: usize = 2_000;

fuzz_target!(|input: &[u8]| {
    if let Some((first, script)) = input.split_first() {
        if first & 1 == 0 {
            run::<Addr4>(first >> 1, script);
        } else {
            run::<Addr6>(first >> 1, script);
        }
    }
});

fn run<A: Addr>(choice: u8, mut script: &[u8]) {
    let world = world::<A>(choice);
    while let Some(([program, template, ticks, len], rest)) = script.split_first_chunk() {
        let (laid, rest) = rest.split_at(rest.len().min((*len).into()));
        script = rest;
        world.wait((*ticks).into());
        let mut bytes = base::<A>(*template);
        bytes.resize(bytes.len().max(laid.len()).min(MAX_LEN), 0);
        for (byte, over) in bytes.iter_mut().zip(laid) {
            *byte ^= over;
        }
        if template & 0x80 != 0 {
            bytes.truncate(laid.len());
        }
        decide(&world, *program, &bytes);
    }
}

/// What the node serves.
fn world<A: Addr>(choice: u8) -> World<A> {
    match choice % 6 {
        0 => World::with_local_backends(1),
        1 => World::with_local_backends(3),
        2 => World::with_remote_backends(2),
        3 => World::with_backend_here(),
        4 => World::with_snat_ports(1).and_backends(1, remote_pod, 0),
        _ => World::new().and_backends(1, local_pod, backend_flags::LOCAL),
    }
}

/// Packets of a client, of a backend and of a router, some of them too large for the way.
fn base<A: Addr>(template: u8) -> Vec<u8> {
    let clients = [local_pod, remote_pod, outsider].map(|net: fn(u8) -> A| net(9));
    let client = match template >> 4 & 3 {
        3 => node_addr(),
        net => clients[usize::from(net)],
    };
    let transport = [SYN, SYN_ACK, FIN, RST, UDP][usize::from(template & 7) % 5];
    let asked = request::<A>(client, transport);
    let backends = [local_pod(1), remote_pod(1)];
    let sent = forwarded(&asked, backends[usize::from(template >> 3 & 1)]);
    let spec: PacketSpec<A> = match template & 7 {
        5 => return Vec::new(),
        6 => {
            return error_about(
                &sent.packet(),
                IcmpError::TimeExceeded,
                (outsider(1), client),
            );
        }
        7 => PacketSpec {
            payload: vec![0; MTU as usize],
            ..asked
        },
        _ if template & 8 != 0 => answer(&sent, transport),
        _ => asked,
    };
    spec.packet().bytes().to_vec()
}

fn decide<A: Addr>(world: &World<A>, program: u8, bytes: &[u8]) {
    const ROLES: [Role; 5] = [
        Role::Pod,
        Role::Uplink,
        Role::Host,
        Role::Loopback,
        Role::Egress,
    ];
    let mut packet = FakePacket::new(bytes.to_vec());
    let role = ROLES.get(usize::from(program % 6)).copied();
    let outcome = match role {
        Some(role) => world.node.tc(role, world::UPLINK).run(&mut packet),
        None => world.xdp().run(&mut packet),
    };
    let counts = world.node.take_counts();
    let mut own = counts
        .iter()
        .filter(|(reason, _)| reason.kind() != Kind::Note);
    let (Some((reason, 1)), None) = (own.next(), own.next()) else {
        panic!("{role:?}: {counts:?}");
    };
    let is_answered = counts.contains_key(&Reason::Answered);
    let expected = match outcome.verdict {
        Verdict::Pass => Kind::Pass,
        Verdict::Send(_) if !is_answered => Kind::Forward,
        Verdict::Drop | Verdict::Send(_) | Verdict::Back => Kind::Drop,
    };
    assert_eq!(reason.kind(), expected, "{role:?}: {outcome:?}, {counts:?}");
    assert!(
        role != Some(Role::Host) || expected != Kind::Pass,
        "what is passed there comes back"
    );
    touched(outcome.verdict, is_answered, bytes, &packet);
}

/// Only what is sent was changed, and all of the change was told to the device.
fn touched(verdict: Verdict, is_answered: bool, before: &[u8], after: &FakePacket) {
    match verdict {
        Verdict::Pass | Verdict::Drop => assert_eq!(after.bytes(), before),
        Verdict::Back => assert!(is_answered && after.bytes() != before),
        Verdict::Send(_) if is_answered => assert_ne!(after.bytes(), before),
        Verdict::Send(_) => {
            assert_ne!(after.bytes(), before);
            assert_eq!(after.bytes().len(), before.len());
            assert!(after.device_sum_valid(), "{before:02x?}");
        }
    }
}
