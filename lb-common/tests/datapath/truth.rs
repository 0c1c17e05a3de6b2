//! Every kind of frontend, client, policy and endpoints: the cells of the tables that kube-proxy's rules make, and a
//! second formulation of those rules: as the chains that its nftables mode writes, one rule after the other.

use std::collections::BTreeSet;

use lb_common::{
    abi::{
        Backend, NodeConfig, Service, ServiceKey, SlotRange, backend_flags, node::masquerade,
        place, service_flags,
    },
    datapath::Role,
    fake::{FakeTables, PacketSpec, Transport},
    net::{
        addr::{Addr, Family},
        ip::{Ends, proto},
    },
};

use crate::world::{
    HOST_PEER, LOOPBACK, POD_DEVICE, SERVICE_PORT, UPLINK, World, addr, backend, local_pod,
    node_addr, outsider, preferred, remote_pod, vip,
};

/// What is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalIp,
}

/// Who dials, and by which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    PodDevice,
    PodPrefix,
    Host,
    Loopback,
    Outside,
}

/// Where the endpoints are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoints {
    HereAndThere,
    There,
    Nowhere,
}

/// One connection under one set of rules.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a cell of a truth table: each is one of its columns"
)]
pub(crate) struct Cell {
    pub(crate) front: Front,
    pub(crate) from: From,
    pub(crate) endpoints: Endpoints,
    pub(crate) external_local: bool,
    pub(crate) internal_local: bool,
    /// Somebody says which addresses are pods'.
    pub(crate) knows_pods: bool,
    pub(crate) mode: u32,
    /// The FIB names the source that it prefers.
    pub(crate) prefers: bool,
}

/// The endpoint on this node, and the one elsewhere.
pub(crate) const HERE: u8 = 1;
pub(crate) const THERE: u8 = 2;

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    To { endpoints: Vec<u8>, is_marked: bool },
    Drop,
    Reject,
}

impl Front {
    pub(crate) const ALL: [Self; 4] = [
        Self::ClusterIp,
        Self::NodePort,
        Self::LoadBalancer,
        Self::ExternalIp,
    ];

    pub(crate) fn addr<A: Addr>(self) -> A {
        match self {
            Self::ClusterIp => vip(1),
            Self::NodePort => node_addr(),
            Self::LoadBalancer => addr(150, 1),
            Self::ExternalIp => addr(151, 1),
        }
    }

    pub(crate) fn flags(self) -> u32 {
        match self {
            Self::ClusterIp => service_flags::CLUSTER_IP,
            Self::NodePort => service_flags::NODE_PORT,
            Self::LoadBalancer => service_flags::LOAD_BALANCER,
            Self::ExternalIp => service_flags::EXTERNAL_IP,
        }
    }
}

impl From {
    pub(crate) const ALL: [Self; 5] = [
        Self::PodDevice,
        Self::PodPrefix,
        Self::Host,
        Self::Loopback,
        Self::Outside,
    ];

    pub(crate) fn addr<A: Addr>(self) -> A {
        let loopback = match A::FAMILY {
            Family::V4 => "127.0.0.1",
            Family::V6 => "::1",
        };
        match self {
            Self::PodDevice => local_pod(9),
            Self::PodPrefix => remote_pod(9),
            Self::Host => preferred(),
            Self::Loopback => A::from_ip(loopback.parse().expect("literal")).expect("its family"),
            Self::Outside => outsider(1),
        }
    }

    pub(crate) fn program<A: Addr>(self, world: &World<A>) -> FakeTables<'_, A, false, false> {
        let (role, device) = self.device();
        world.node.tc(role, device)
    }

    pub(crate) fn device(self) -> (Role, u32) {
        match self {
            Self::PodDevice => (Role::Pod, POD_DEVICE),
            Self::PodPrefix | Self::Outside => (Role::Uplink, UPLINK),
            Self::Host => (Role::Host, HOST_PEER),
            Self::Loopback => (Role::Loopback, LOOPBACK),
        }
    }

    pub(crate) fn is_pod(self) -> bool {
        matches!(self, Self::PodDevice | Self::PodPrefix)
    }

    pub(crate) fn is_node(self) -> bool {
        matches!(self, Self::Host | Self::Loopback)
    }
}

impl Endpoints {
    pub(crate) const ALL: [Self; 3] = [Self::HereAndThere, Self::There, Self::Nowhere];

    fn everywhere(self) -> &'static [u8] {
        match self {
            Self::HereAndThere => &[HERE, THERE],
            Self::There => &[THERE],
            Self::Nowhere => &[],
        }
    }

    fn here(self) -> &'static [u8] {
        match self {
            Self::HereAndThere => &[HERE],
            _ => &[],
        }
    }
}

/// The source that the FIB prefers, where it says so.
pub(crate) fn fib_source<A: Addr>() -> A {
    addr(100, 3)
}

/// Where an endpoint is.
pub(crate) fn endpoint<A: Addr>(id: u8) -> A {
    if id == HERE {
        local_pod(HERE)
    } else {
        remote_pod(THERE)
    }
}

impl Cell {
    /// All cells of one mode.
    pub(crate) fn all(mode: u32) -> Vec<Self> {
        let mut cells = Vec::new();
        for (front, from) in Front::ALL
            .iter()
            .flat_map(|front| From::ALL.map(|from| (*front, from)))
        {
            for endpoints in Endpoints::ALL {
                for bits in 0..16_u8 {
                    let is = |bit: u8| bits >> bit & 1 == 1;
                    cells.push(Self {
                        front,
                        from,
                        endpoints,
                        external_local: is(0),
                        internal_local: is(1),
                        knows_pods: is(2),
                        mode,
                        prefers: is(3),
                    });
                }
            }
        }
        cells
    }

    /// The frontend as the agent writes it.
    pub(crate) fn service<A: Addr>(&self) -> Service {
        let mut flags = self.front.flags();
        for (is_local, flag) in [
            (self.external_local, service_flags::EXTERNAL_LOCAL),
            (self.internal_local, service_flags::INTERNAL_LOCAL),
        ] {
            flags |= if is_local { flag } else { 0 };
        }
        let range = |base, ids: &[u8]| SlotRange {
            base,
            count: u32::try_from(ids.len()).expect("few"),
        };
        Service {
            id: World::<A>::SERVICE,
            version: 1,
            cluster: range(1, self.endpoints.everywhere()),
            external_local: range(11, self.endpoints.here()),
            internal_local: range(21, self.endpoints.here()),
            flags,
            ..Service::default()
        }
    }

    pub(crate) fn world<A: Addr>(&self) -> World<A> {
        self.world_of(NodeConfig {
            masquerade: self.mode,
            ..World::<A>::config()
        })
    }

    pub(crate) fn world_of<A: Addr>(&self, config: NodeConfig) -> World<A> {
        let world = World::<A>::with_config(config);
        if !self.knows_pods {
            world.node.set_place(A::default(), 0, place::UNKNOWN);
            for net in [addr(1, 0), addr(2, 0)] {
                world
                    .node
                    .set_place(net, World::<A>::net_bits(), place::UNKNOWN);
            }
        }
        if self.prefers {
            world.node.set_preferred_source(fib_source());
        }
        set_backends(&world);
        set_slots(&world, 1, self.endpoints.everywhere());
        set_slots(&world, 11, self.endpoints.here());
        set_slots(&world, 21, self.endpoints.here());
        publish(&world, self.front.addr(), self.service::<A>());
        world
    }

    pub(crate) fn dials<A: Addr>(&self, sport: u16, transport: Transport) -> PacketSpec<A> {
        let to = (self.front.addr(), SERVICE_PORT);
        PacketSpec::new((self.from.addr(), sport), to, transport)
    }

    /// True if the client counts as a pod. kube-proxy asks the address alone; we know a pod by its device too, but
    /// for exactly its answers.
    fn is_known_pod(&self) -> bool {
        let by_device = self.from == From::PodDevice && self.mode == masquerade::AS_NEEDED;
        by_device || self.knows_pods && self.from.is_pod()
    }

    /// What the chains of kube-proxy make of it. What none of the translating ones has touched meets the filter.
    pub(crate) fn fate(&self) -> Fate {
        let translated = match self.front {
            Front::ClusterIp => self.internal_chain(),
            _ => self.external_chain(),
        };
        match translated {
            Some((endpoints, is_marked)) => Fate::To {
                endpoints: endpoints.to_vec(),
                is_marked,
            },
            None if self.endpoints.everywhere().is_empty() => Fate::Reject,
            None => Fate::Drop,
        }
    }

    fn internal_chain(&self) -> Option<(&'static [u8], bool)> {
        let endpoints = if self.internal_local {
            self.endpoints.here()
        } else {
            self.endpoints.everywhere()
        };
        let is_marked = if self.mode == masquerade::ALL {
            true
        } else {
            // Without a detector of local traffic the rule is not written.
            self.knows_pods && !self.from.is_pod()
        };
        (!endpoints.is_empty()).then_some((endpoints, is_marked))
    }

    fn external_chain(&self) -> Option<(&'static [u8], bool)> {
        let everywhere = self.endpoints.everywhere();
        if everywhere.is_empty() {
            return None;
        }
        if !self.external_local {
            return Some((everywhere, true));
        }
        // Pods first, then the node: both as if they had gone out and come back.
        if self.is_known_pod() {
            return Some((everywhere, false));
        }
        if self.from.is_node() {
            return Some((everywhere, true));
        }
        let here = self.endpoints.here();
        (!here.is_empty()).then_some((here, false))
    }

    /// True if the answer of an endpoint would not come back to this node if the client's source stayed: a pod of
    /// another node, that dialled this one, would be answered past it.
    pub(crate) fn strays(&self, id: u8) -> bool {
        self.from.is_node() || id == THERE && self.from != From::PodDevice
    }
}

/// Puts the endpoints into their table, in the lists that they belong to.
pub(crate) fn set_backends<A: Addr>(world: &World<A>) {
    let lists = backend_flags::IN_EXTERNAL_LOCAL | backend_flags::IN_INTERNAL_LOCAL;
    let here: Backend<A> = backend(endpoint(HERE), backend_flags::LOCAL | lists);
    world.node.set_backend(HERE.into(), Some(here));
    let there = backend(endpoint(THERE), 0);
    world.node.set_backend(THERE.into(), Some(there));
}

pub(crate) fn set_slots<A: Addr>(world: &World<A>, base: u32, ids: &[u8]) {
    for (slot, id) in (base..).zip(ids) {
        world.node.set_slot(slot, (*id).into());
    }
}

/// Writes a frontend for all protocols.
pub(crate) fn publish<A: Addr>(world: &World<A>, at: A, service: Service) {
    for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
        let key = ServiceKey::new(at, SERVICE_PORT, protocol);
        world.node.set_service(key, Some(service));
    }
}

/// The addresses of a packet.
pub(crate) fn ends_of<A: Addr>(packet: &[u8]) -> Ends<A> {
    let at = |first: usize| {
        let mut words = [0; 4];
        for (word, bytes) in words
            .iter_mut()
            .zip(packet[first..first + size_of::<A>()].chunks(4))
        {
            *word = u32::from_ne_bytes(bytes.try_into().expect("four bytes"));
        }
        A::from_words(words)
    };
    let first = if A::FAMILY == Family::V4 { 12 } else { 8 };
    Ends {
        src: at(first),
        dst: at(first + size_of::<A>()),
    }
}

/// Where these endpoints are.
pub(crate) fn addrs<A: Addr>(ids: &[u8]) -> BTreeSet<A> {
    ids.iter().map(|id| endpoint(*id)).collect()
}
