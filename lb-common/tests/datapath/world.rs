//! One node, one service, its backends and clients: what every test here begins with.

use std::{cell::Cell, collections::BTreeMap};

use lb_common::{
    abi::{
        Backend, NextHop, NodeConfig, Reason, Service, ServiceKey, SlotRange, backend_flags, place,
        service_flags,
    },
    datapath::{Role, Route, Verdict, Via, remember},
    fake::{FakeNode, FakePacket, FakeTables, Outcome, PacketSpec, Transport},
    flow::{clock::NEXT_HOP_VALID, slot::State},
    net::{
        addr::{Addr, Addr4, Addr6, Family},
        ip::{Ends, proto},
    },
};

pub(crate) const POD_DEVICE: u32 = 10;
pub(crate) const UPLINK: u32 = 2;
/// The end of the host's own pair where the stack receives.
pub(crate) const HOST_DEVICE: u32 = 20;
/// The other end, where what it sends comes out.
pub(crate) const HOST_PEER: u32 = 21;
pub(crate) const LOOPBACK: u32 = 1;
pub(crate) const MTU: u32 = 1_500;
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8_080;
pub(crate) const CLIENT_PORT: u16 = 40_000;
pub(crate) const SNAT_PORT: u16 = 61_000;
pub(crate) const SNAT_PORTS: u32 = 1_000;
/// The moment at which tests begin.
pub(crate) const NOW: u32 = 1_000;

pub(crate) const SYN: Transport = Transport::Tcp(0x02);
pub(crate) const SYN_ACK: Transport = Transport::Tcp(0x12);
pub(crate) const ACK: Transport = Transport::Tcp(0x10);
pub(crate) const FIN: Transport = Transport::Tcp(0x11);
pub(crate) const RST: Transport = Transport::Tcp(0x04);
pub(crate) const UDP: Transport = Transport::Udp;

/// Runs a test that is generic over the family for both.
macro_rules! for_both_families {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[test]
            fn v4() {
                super::$name::<lb_common::net::addr::Addr4>();
            }
            #[test]
            fn v6() {
                super::$name::<lb_common::net::addr::Addr6>();
            }
        })+
    };
}
pub(crate) use for_both_families;

/// Address `host` of network `net`: `10.net.0.host` or `fd00:net::host`.
pub(crate) fn addr<A: Addr>(net: u8, host: u8) -> A {
    let words = match A::FAMILY {
        Family::V4 => [u32::from_ne_bytes([10, net, 0, host]), 0, 0, 0],
        Family::V6 => [
            u32::from_ne_bytes([0xfd, 0, 0, net]),
            0,
            0,
            u32::from(host).to_be(),
        ],
    };
    A::from_words(words)
}

/// A service address.
pub(crate) fn vip<A: Addr>(n: u8) -> A {
    addr(96, n)
}

/// A pod on this node.
pub(crate) fn local_pod<A: Addr>(n: u8) -> A {
    addr(1, n)
}

/// A pod on another node.
pub(crate) fn remote_pod<A: Addr>(n: u8) -> A {
    addr(2, n)
}

/// A machine outside of the cluster.
pub(crate) fn outsider<A: Addr>(n: u8) -> A {
    addr(200, n)
}

/// This node's own address.
pub(crate) fn node_addr<A: Addr>() -> A {
    addr(100, 1)
}

/// The source that the FIB prefers, where a test makes it say so: another address of this node.
pub(crate) fn preferred<A: Addr>() -> A {
    addr(100, 2)
}

/// What a pod sees that dialled itself.
pub(crate) fn hairpin<A: Addr>() -> A {
    addr(254, 1)
}

/// The way to a local pod.
pub(crate) fn to_pod() -> NextHop {
    NextHop {
        ifindex: POD_DEVICE,
        mtu: MTU,
        macs: NextHop::join_macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
        ..NextHop::default()
    }
}

/// The way out of the node.
pub(crate) fn to_gateway() -> NextHop {
    NextHop {
        ifindex: UPLINK,
        mtu: MTU,
        macs: NextHop::join_macs([2, 0, 0, 0, 0, 3], [2, 0, 0, 0, 0, 4]),
        ..NextHop::default()
    }
}

/// A node with a service at `vip(1)`, over TCP and UDP, that nobody serves yet.
pub(crate) struct World<A: Addr> {
    pub(crate) node: FakeNode<A>,
    version: Cell<u32>,
    /// How backends are chosen: one of [`service_flags`], or 0.
    algorithm: Cell<u32>,
}

impl<A: Addr> World<A> {
    pub(crate) const SERVICE: u32 = 7;

    pub(crate) fn new() -> Self {
        Self::with_snat_ports(SNAT_PORTS)
    }

    pub(crate) fn with_snat_ports(snat_port_count: u32) -> Self {
        Self::with_config(NodeConfig {
            snat_port_count,
            ..Self::config()
        })
    }

    pub(crate) fn config() -> NodeConfig {
        NodeConfig {
            hash_key: [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
                .map(|n: u32| n.wrapping_mul(0x9e37_79b1)),
            addr4: node_addr::<Addr4>(),
            addr6: node_addr::<Addr6>(),
            snat_port_base: u32::from(SNAT_PORT),
            snat_port_count: SNAT_PORTS,
            host_ifindex: HOST_DEVICE,
            hairpin4: hairpin::<Addr4>(),
            hairpin6: hairpin::<Addr6>(),
            ..NodeConfig::default()
        }
    }

    pub(crate) fn with_config(config: NodeConfig) -> Self {
        Self::with_room(1_024, config)
    }

    /// With so many positions for flows.
    pub(crate) fn with_room(flows: u32, config: NodeConfig) -> Self {
        let world = Self {
            node: FakeNode::new(flows, config),
            version: Cell::new(0),
            algorithm: Cell::new(0),
        };
        world.node.set_now(NOW);
        world
            .node
            .set_place(addr(1, 0), Self::net_bits(), place::PODS);
        world
            .node
            .set_place(addr(2, 0), Self::net_bits(), place::PODS);
        for own in [node_addr(), preferred()] {
            world.node.set_place(own, Self::addr_bits(), place::NODE);
        }
        for n in 0..=255 {
            world
                .node
                .set_route(local_pod(n), Route::Neighbour, to_pod());
            world
                .node
                .set_route(remote_pod(n), Route::Neighbour, to_gateway());
            world
                .node
                .set_route(outsider(n), Route::Neighbour, to_gateway());
        }
        world.serve(&[]);
        world
    }

    /// Bits that the addresses of one network have in common.
    pub(crate) fn net_bits() -> u32 {
        match A::FAMILY {
            Family::V4 => 16,
            Family::V6 => 32,
        }
    }

    /// Bits of a whole address.
    pub(crate) fn addr_bits() -> u32 {
        match A::FAMILY {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The same with one backend that is a process of this node.
    pub(crate) fn with_backend_here() -> Self {
        Self::new().and_backends(1, |_| node_addr(), backend_flags::LOCAL)
    }

    /// The same with backends 1 to `n`, each a local pod of that number.
    pub(crate) fn with_local_backends(n: u8) -> Self {
        Self::new().and_backends(n, local_pod, backend_flags::LOCAL)
    }

    /// The same with backends 1 to `n`, each a remote pod of that number.
    pub(crate) fn with_remote_backends(n: u8) -> Self {
        Self::new().and_backends(n, remote_pod, 0)
    }

    pub(crate) fn and_backends(self, n: u8, at: impl Fn(u8) -> A, flags: u32) -> Self {
        for id in 1..=n {
            self.node
                .set_backend(u32::from(id), Some(backend(at(id), flags)));
        }
        self.serve(&(1..=n.into()).collect::<Vec<_>>());
        self
    }

    /// Makes these backends the ones that new connections get.
    pub(crate) fn serve(&self, ids: &[u32]) {
        self.serve_at(vip(1), ids);
    }

    /// The same at another service address.
    pub(crate) fn serve_at(&self, at: A, ids: &[u32]) {
        for (slot, id) in (1_u32..).zip(ids) {
            self.node.set_slot(slot, *id);
        }
        self.version.set(self.version.get() + 1);
        let service = Service {
            id: Self::SERVICE,
            version: self.version.get(),
            cluster: SlotRange {
                base: 1,
                count: u32::try_from(ids.len()).expect("few"),
            },
            flags: service_flags::CLUSTER_IP | self.algorithm.get(),
            ..Service::default()
        };
        for protocol in [proto::TCP, proto::UDP] {
            self.node
                .set_service(ServiceKey::new(at, SERVICE_PORT, protocol), Some(service));
        }
    }

    /// Chooses backends by this algorithm, one of [`service_flags`], from the next [`World::serve`] on.
    pub(crate) fn choose_by(&self, algorithm: u32) {
        self.algorithm.set(algorithm);
    }

    /// Backend `id` leaves: no new connections, and none that may be moved stays.
    pub(crate) fn leave(&self, id: u32, others: &[u32]) {
        self.serve(others);
        self.node.set_backend(id, None);
    }

    /// States of all flows of a protocol, both directions of each.
    pub(crate) fn states(&self, protocol: u8) -> Vec<State> {
        let slots = self.node.flows();
        let slots = (0..slots.positions()).map(|position| slots.slot(position));
        slots
            .filter(|slot| slot.state().published() && slot.protocol() == protocol)
            .map(|slot| slot.state().state())
            .collect()
    }

    /// The program on the host side of a pod's device.
    pub(crate) fn pod(&self) -> FakeTables<'_, A, false, false> {
        self.node.tc(Role::Pod, POD_DEVICE)
    }

    /// The program on the uplink.
    pub(crate) fn uplink(&self) -> FakeTables<'_, A, false, false> {
        self.node.tc(Role::Uplink, UPLINK)
    }

    /// The program before the stack on the uplink.
    pub(crate) fn xdp(&self) -> FakeTables<'_, A, true, false> {
        self.node.xdp(UPLINK)
    }

    /// The program where the node's own processes dial.
    pub(crate) fn host(&self) -> FakeTables<'_, A, false, false> {
        self.node.tc(Role::Host, HOST_PEER)
    }

    /// The program on the loopback device.
    pub(crate) fn lo(&self) -> FakeTables<'_, A, false, false> {
        self.node.tc(Role::Loopback, LOOPBACK)
    }

    /// The program on the way out by the uplink.
    pub(crate) fn egress(&self) -> FakeTables<'_, A, false, false> {
        self.node.tc(Role::Egress, UPLINK)
    }

    /// Has a way noted and believed, as it is when TC has sent there.
    pub(crate) fn note_way(&self, hop: NextHop) {
        let hop = NextHop {
            valid_until: self.node.now() + NEXT_HOP_VALID,
            ..hop
        };
        let noted = remember(
            &self.uplink(),
            &hop,
            &mut NextHop::default(),
            self.node.now(),
        );
        assert!(noted.is_neighbour());
    }

    pub(crate) fn wait(&self, ticks: u32) {
        self.node.set_now(self.node.now() + ticks);
    }
}

/// Backend of the service, on duty.
pub(crate) fn backend<A: Addr>(at: A, flags: u32) -> Backend<A> {
    Backend {
        addr: at,
        service: World::<A>::SERVICE,
        port: BACKEND_PORT,
        generation: 1,
        flags: flags | backend_flags::SERVING | backend_flags::IN_CLUSTER,
    }
}

/// From a client to the service.
pub(crate) fn request<A: Addr>(client: A, transport: Transport) -> PacketSpec<A> {
    PacketSpec::new((client, CLIENT_PORT), (vip(1), SERVICE_PORT), transport)
}

/// What a request becomes on its way to a backend.
pub(crate) fn forwarded<A: Addr>(request: &PacketSpec<A>, backend: A) -> PacketSpec<A> {
    let mut forwarded = request.clone();
    forwarded.ends.dst = backend;
    forwarded.dport = BACKEND_PORT;
    forwarded.ttl -= 1;
    forwarded
}

/// The same packet from and to other ends, no hop less.
pub(crate) fn renamed<A: Addr>(
    packet: &PacketSpec<A>,
    (src, sport): (A, u16),
    (dst, dport): (A, u16),
) -> PacketSpec<A> {
    PacketSpec {
        ends: Ends { src, dst },
        sport,
        dport,
        ..packet.clone()
    }
}

/// What a backend answers to a packet that has come to it.
pub(crate) fn answer<A: Addr>(forwarded: &PacketSpec<A>, transport: Transport) -> PacketSpec<A> {
    PacketSpec::new(
        (forwarded.ends.dst, forwarded.dport),
        (forwarded.ends.src, forwarded.sport),
        transport,
    )
}

/// What the answer becomes on its way to the client that has sent `request`.
pub(crate) fn delivered<A: Addr>(request: &PacketSpec<A>, transport: Transport) -> PacketSpec<A> {
    let mut delivered = answer(request, transport);
    delivered.ttl -= 1;
    delivered
}

/// Runs a packet and asserts what is sent where, and everything that was counted.
#[track_caller]
pub(crate) fn sends<A: Addr, const XDP: bool>(
    node: &FakeNode<A>,
    program: FakeTables<'_, A, XDP, false>,
    input: &PacketSpec<A>,
    output: &PacketSpec<A>,
    way: (Via, NextHop),
    counts: &[Reason],
) {
    let mut packet = input.packet();
    let outcome = program.run(&mut packet);
    assert_eq!(
        outcome.verdict,
        Verdict::Send(way.0),
        "{:?}",
        node.take_counts()
    );
    assert_counts(node, counts);
    assert_eq!(packet.bytes(), output.packet().bytes());
    assert!(packet.checksums_valid() && packet.device_sum_valid());
    if matches!(way.0, Via::Neighbour | Via::Kernel) {
        let expected = Outcome {
            hop: way.1,
            ..outcome
        };
        assert_eq!(where_to(&outcome), where_to(&expected));
    }
}

/// The same for what the host's own stack gets, by whichever way.
#[track_caller]
pub(crate) fn hands_over<A: Addr, const XDP: bool>(
    node: &FakeNode<A>,
    program: FakeTables<'_, A, XDP, false>,
    input: &PacketSpec<A>,
    output: &PacketSpec<A>,
    via: Via,
    counts: &[Reason],
) {
    sends(
        node,
        program,
        input,
        output,
        (via, NextHop::default()),
        counts,
    );
}

/// Runs a packet and asserts that it is not touched, the verdict, and everything that was counted.
#[track_caller]
pub(crate) fn leaves<A: Addr, const XDP: bool>(
    node: &FakeNode<A>,
    program: FakeTables<'_, A, XDP, false>,
    packet: &FakePacket,
    verdict: Verdict,
    counts: &[Reason],
) {
    let mut after = packet.clone();
    let outcome = program.run(&mut after);
    assert_eq!(outcome.verdict, verdict, "{:?}", node.take_counts());
    assert_counts(node, counts);
    assert_eq!(after.bytes(), packet.bytes());
}

/// Runs a segment in the middle of a connection that is not known, and asserts that its sender is told to end it.
#[track_caller]
pub(crate) fn is_reset<A: Addr>(
    world: &World<A>,
    program: FakeTables<'_, A, false, false>,
    late: &PacketSpec<A>,
) {
    let mut packet = late.packet();
    let verdict = program.run(&mut packet).verdict;
    let back = [Verdict::Back, Verdict::Send(Via::Host)];
    assert!(back.contains(&verdict), "{verdict:?}");
    assert_counts(&world.node, &[Reason::RejectNoFlow, Reason::Answered]);
    let l4 = if size_of::<A>() == 4 { 20 } else { 40 };
    let answer = packet.bytes();
    let ports = [late.dport.to_be_bytes(), late.sport.to_be_bytes()].concat();
    assert_eq!(answer[l4..l4 + 4], ports);
    assert_eq!(answer.len(), l4 + 20);
    assert_eq!(answer[l4 + 13] & 0b111, 0b100, "not a RST");
    assert!(packet.device_sum_valid());
}

#[track_caller]
pub(crate) fn assert_counts<A: Addr>(node: &FakeNode<A>, expected: &[Reason]) {
    let mut counts = BTreeMap::new();
    for reason in expected {
        *counts.entry(*reason).or_insert(0) += 1;
    }
    assert_eq!(node.take_counts(), counts);
}

/// Device, MTU and MACs; stamp and validity are the table's.
fn where_to(outcome: &Outcome) -> (u32, u32, [u32; 3]) {
    (outcome.hop.ifindex, outcome.hop.mtu, outcome.hop.macs)
}
