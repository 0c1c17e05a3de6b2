//! Any packets, one after the other, at any of a node's programs: each is decided, counted once, and touched only if sent.
//!
//! The first byte chooses the family and what the node serves. Then, for each packet: its program, the packet that it
//! is made of, which variant of it, how far the clock goes on before it, its length, and as many bytes, which are laid
//! over the packet by exclusive or, so that zeros leave a packet that gets far. All packets meet the same flow table.

use lb_common::{
    abi::{Reason, Service, ServiceKey, SlotRange, backend_flags, counter::Kind, service_flags},
    datapath::{Role, Verdict},
    fake::{FakePacket, PacketSpec, Transport, error_about},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        icmp::IcmpError,
        ip::proto,
    },
};

#[allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the world of the datapath's own tests, of which they use the rest"
)]
#[path = "../../../../lb-common/tests/datapath/world.rs"]
mod world;

use world::{
    ACK, FIN, MTU, RST, SERVICE_PORT, SYN, SYN_ACK, UDP, World, answer, forwarded, local_pod,
    node_addr, outsider, remote_pod, request, vip,
};

/// Longest packet that is made.
const MAX_LEN: usize = 2_000;

/// Runs one input.
pub fn run(input: &[u8]) {
    if let Some((first, script)) = input.split_first() {
        if first & 1 == 0 {
            play::<Addr4>(first >> 1, script);
        } else {
            play::<Addr6>(first >> 1, script);
        }
    }
}

fn play<A: Addr>(choice: u8, mut script: &[u8]) {
    let world = world::<A>(choice);
    while let Some(([program, template, variant, ticks, len], rest)) = script.split_first_chunk() {
        let (laid, rest) = rest.split_at(rest.len().min((*len).into()));
        script = rest;
        // An hour at once, now and then: connections end.
        let ticks = u32::from(*ticks);
        world.wait(if ticks < 250 { ticks } else { ticks * 1_000 });
        let mut bytes = base::<A>(*template, *variant);
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
    let (world, ids) = match choice % 6 {
        0 => (World::with_local_backends(1), 1),
        1 => (World::with_local_backends(3), 3),
        2 => (World::with_remote_backends(2), 2),
        3 => (World::with_backend_here(), 1),
        4 => {
            let world = World::with_snat_ports(1);
            (world.and_backends(1, remote_pod, 0), 1)
        }
        _ => {
            let world = World::new();
            (world.and_backends(1, local_pod, backend_flags::LOCAL), 0)
        }
    };
    let service = Service {
        id: World::<A>::SERVICE,
        version: 1,
        cluster: SlotRange {
            base: 1,
            count: ids,
        },
        flags: service_flags::CLUSTER_IP,
        ..Service::default()
    };
    let key = ServiceKey::new(vip(1), SERVICE_PORT, proto::SCTP);
    world.node.set_service(key, Some(service));
    world
}

/// Packets of a client, of a backend and of a router; whole, too large for the way, or in fragments.
fn base<A: Addr>(template: u8, variant: u8) -> Vec<u8> {
    let clients = [local_pod, remote_pod, outsider].map(|net: fn(u8) -> A| net(9));
    let client = match template >> 5 & 3 {
        3 => node_addr(),
        net => clients[usize::from(net)],
    };
    let transport = [SYN, SYN_ACK, ACK, FIN, RST, UDP][usize::from(variant & 7) % 6];
    let asked = request::<A>(client, transport);
    let backends = [local_pod(1), remote_pod(1), node_addr()];
    let sent = forwarded(&asked, backends[usize::from(variant >> 3 & 3) % 3]);
    let answered = answer(&sent, transport);
    let quote = usize::from(variant >> 5) * 8 + 20;
    match template & 0x0f {
        0 => bytes(&asked),
        1 => bytes(&answered),
        2 => error(&sent, client, quote),
        3 => error(&answered, outsider(1), quote),
        4 => echo(client),
        5 => Vec::new(),
        6 => bytes(&PacketSpec {
            payload: vec![0; MTU as usize],
            may_fragment: variant & 0x80 != 0,
            ..asked
        }),
        7 => fragment::<A>(bytes(&asked), u16::from(variant >> 3), 0, true),
        8 => fragment::<A>(bytes(&asked), u16::from(variant >> 3), 2, variant & 1 == 0),
        9 => fragment::<A>(bytes(&answered), 7, u16::from(variant & 1) * 2, true),
        10 => with_extension::<A>(bytes(&PacketSpec {
            options: vec![1; 8],
            ..asked
        })),
        11 => with_extension::<A>(bytes(&answered)),
        12 => sctp(request(client, UDP), variant),
        13 => sctp(
            answer(&forwarded(&request(client, UDP), sent.ends.dst), UDP),
            variant,
        ),
        14 => bytes(&PacketSpec { ttl: 1, ..asked }),
        _ => bytes(&PacketSpec { dport: 81, ..asked }),
    }
}

fn bytes<A: Addr>(spec: &PacketSpec<A>) -> Vec<u8> {
    spec.packet().bytes().to_vec()
}

/// About a packet, to its sender, and of what it quotes only so much.
fn error<A: Addr>(about: &PacketSpec<A>, to: A, quote: usize) -> Vec<u8> {
    let kind = match quote % 3 {
        0 => IcmpError::TimeExceeded,
        1 => IcmpError::TooBig(1_280),
        _ => IcmpError::PortUnreachable,
    };
    let mut error = error_about(&about.packet(), kind, (outsider(1), to));
    let header = if A::FAMILY == Family::V4 { 28 } else { 68 };
    error.truncate(header + quote);
    with_length::<A>(error)
}

/// An echo request (RFC 792, RFC 4443); nobody looks at its checksum.
fn echo<A: Addr>(client: A) -> Vec<u8> {
    let mut packet = bytes(&request::<A>(client, UDP));
    let (next, l4, kind) = match A::FAMILY {
        Family::V4 => (9, 20, 8),
        Family::V6 => (6, 40, 128),
    };
    packet[next] = if A::FAMILY == Family::V4 { 1 } else { 58 };
    packet[l4..l4 + 4].copy_from_slice(&[kind, 0, 0, 0]);
    packet
}

/// An SCTP packet in the place of a datagram, without a checksum.
fn sctp<A: Addr>(spec: PacketSpec<A>, chunk: u8) -> Vec<u8> {
    let spec = PacketSpec {
        payload: [0, 0, 0, 0, chunk & 15, 0, 0, 8, 1, 2, 3, 4].to_vec(),
        transport: Transport::UdpUnchecked,
        ..spec
    };
    let mut packet = bytes(&spec);
    let (next, l4) = match A::FAMILY {
        Family::V4 => (9, 20),
        Family::V6 => (6, 40),
    };
    packet[next] = proto::SCTP;
    packet[l4 + 4..l4 + 8].copy_from_slice(&[0, 0, 0, 7]);
    packet
}

/// Makes a packet a fragment of datagram `id`, at `offset` units of eight bytes.
fn fragment<A: Addr>(mut packet: Vec<u8>, id: u16, offset: u16, more: bool) -> Vec<u8> {
    if A::FAMILY == Family::V4 {
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        let field = offset | u16::from(more) << 13;
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        return packet;
    }
    let next = std::mem::replace(&mut packet[6], 44);
    let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
    let [c, d] = id.to_be_bytes();
    packet.splice(40..40, [next, 0, a, b, 0, 0, c, d]);
    with_length::<A>(packet)
}

/// An IPv6 packet with eight bytes of hop-by-hop options and as many for its destination.
fn with_extension<A: Addr>(mut packet: Vec<u8>) -> Vec<u8> {
    if A::FAMILY == Family::V6 {
        let next = std::mem::replace(&mut packet[6], 0);
        packet.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, next, 0, 1, 4, 0, 0, 0, 0]);
    }
    with_length::<A>(packet)
}

/// Corrects the length in the IP header; nobody looks at its checksum.
fn with_length<A: Addr>(mut packet: Vec<u8>) -> Vec<u8> {
    let (at, less) = match A::FAMILY {
        Family::V4 => (2, 0),
        Family::V6 => (4, 40),
    };
    let len = u16::try_from(packet.len() - less).unwrap_or(0);
    packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
    packet
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
    // Fragments that were kept too long are given up when the next one comes: they are counted with it.
    let is_held = counts.contains_key(&Reason::FragmentHeld);
    let mut own = counts.iter().filter(|(reason, _)| {
        reason.kind() != Kind::Note && !(is_held && **reason == Reason::DropFragment)
    });
    let (Some((reason, 1)), None) = (own.next(), own.next()) else {
        panic!("{role:?}: {counts:?}");
    };
    let is_answered = [Reason::Answered, Reason::EchoAnswered]
        .iter()
        .any(|reason| counts.contains_key(reason));
    // A packet that is kept, or answered in its sender's sense, is no loss.
    let is_taken = matches!(reason, Reason::EchoAnswered | Reason::FragmentHeld);
    let is_right = match outcome.verdict {
        Verdict::Pass => reason.kind() == Kind::Pass,
        Verdict::Send(_) if !is_answered => reason.kind() == Kind::Forward,
        Verdict::Drop | Verdict::Send(_) | Verdict::Back => {
            is_taken || matches!(reason.kind(), Kind::Drop | Kind::Reject)
        }
    };
    assert!(is_right, "{role:?}: {outcome:?}, {counts:?}");
    assert!(
        role != Some(Role::Host) || outcome.verdict != Verdict::Pass,
        "what is passed there comes back"
    );
    // What cannot be finished is dropped, whatever was done to it already.
    if *reason != Reason::DropEdit {
        touched(outcome.verdict, is_answered, bytes, &packet);
    }
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
