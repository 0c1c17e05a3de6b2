//! Every kind of flow that a node has: who dials by which program, who answers by which.

use lb_common::{
    abi::{Backend, Service, ServiceKey, SlotRange, backend_flags, service_flags},
    datapath::{Packet, Role, Via},
    fake::Outcome,
    net::{addr::Addr, ip::proto},
};

use crate::{
    wire::End,
    world::{
        BACKEND_PORT, HOST_PEER, LOOPBACK, POD_DEVICE, SERVICE_PORT, UPLINK, World, backend,
        hairpin, local_pod, node_addr, outsider, remote_pod, to_gateway, vip,
    },
};

/// A port of the node's own addresses that leads to the service.
const NODE_PORT: u16 = 30_080;

/// A kind of flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    PodToLocal,
    PodToRemote,
    PodToItself,
    PodToHere,
    ExternalToLocal,
    /// The source gives way, the port stays.
    Masqueraded,
    /// The same before the stack.
    MasqueradedAtXdp,
    /// The same, and another client has the port already.
    Remapped,
    NodePort,
    ExternalToHere,
    /// A pod of another node by this one.
    RemotePod,
    HostToLocal,
    HostToRemote,
    HostToHere,
}

/// Every one of them.
pub(crate) const KINDS: [Kind; 14] = [
    Kind::PodToLocal,
    Kind::PodToRemote,
    Kind::PodToItself,
    Kind::PodToHere,
    Kind::ExternalToLocal,
    Kind::Masqueraded,
    Kind::MasqueradedAtXdp,
    Kind::Remapped,
    Kind::NodePort,
    Kind::ExternalToHere,
    Kind::RemotePod,
    Kind::HostToLocal,
    Kind::HostToRemote,
    Kind::HostToHere,
];

/// A program on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Tc(Role),
    Xdp,
}

impl Program {
    /// Runs it.
    pub(crate) fn run<A: Addr, P: Packet>(self, world: &World<A>, packet: &mut P) -> Outcome {
        match self {
            Self::Xdp => world.xdp().run(packet),
            Self::Tc(role) => {
                let device = match role {
                    Role::Pod => POD_DEVICE,
                    Role::Host => HOST_PEER,
                    Role::Loopback => LOOPBACK,
                    Role::Uplink | Role::Egress => UPLINK,
                };
                world.node.tc(role, device).run(packet)
            }
        }
    }

    /// Hops that a packet loses that it sends this way.
    pub(crate) fn hops(self, via: Via) -> u8 {
        let is_routed = matches!(via, Via::Neighbour | Via::Kernel);
        let is_own = matches!(self, Self::Tc(Role::Host | Role::Loopback | Role::Egress));
        u8::from(is_routed && !is_own)
    }
}

impl Kind {
    /// Who dials; `n` tells several apart.
    pub(crate) fn client<A: Addr>(self, n: u8) -> A {
        match self {
            Self::PodToItself => local_pod(1),
            Self::PodToLocal | Self::PodToRemote | Self::PodToHere => local_pod(n),
            Self::RemotePod => remote_pod(n),
            Self::HostToLocal | Self::HostToRemote | Self::HostToHere => node_addr(),
            Self::ExternalToLocal
            | Self::Masqueraded
            | Self::MasqueradedAtXdp
            | Self::Remapped
            | Self::NodePort
            | Self::ExternalToHere => outsider(n),
        }
    }

    /// What it dials.
    pub(crate) fn frontend<A: Addr>(self) -> End<A> {
        match self {
            Self::NodePort => (node_addr(), NODE_PORT),
            _ => (vip(1), SERVICE_PORT),
        }
    }

    /// Who answers.
    pub(crate) fn server<A: Addr>(self) -> A {
        match self {
            Self::PodToLocal | Self::PodToItself | Self::ExternalToLocal | Self::HostToLocal => {
                local_pod(1)
            }
            Self::PodToHere | Self::ExternalToHere | Self::HostToHere => node_addr(),
            Self::PodToRemote
            | Self::Masqueraded
            | Self::MasqueradedAtXdp
            | Self::Remapped
            | Self::NodePort
            | Self::RemotePod
            | Self::HostToRemote => remote_pod(1),
        }
    }

    fn is_local(self) -> bool {
        self.server::<lb_common::net::addr::Addr4>() != remote_pod(1)
    }

    /// The program that the client's packets meet.
    pub(crate) fn asks_by(self) -> Program {
        match self {
            Self::PodToLocal | Self::PodToRemote | Self::PodToItself | Self::PodToHere => {
                Program::Tc(Role::Pod)
            }
            Self::HostToLocal | Self::HostToRemote | Self::HostToHere => Program::Tc(Role::Host),
            Self::MasqueradedAtXdp => Program::Xdp,
            Self::ExternalToLocal
            | Self::Masqueraded
            | Self::Remapped
            | Self::NodePort
            | Self::ExternalToHere
            | Self::RemotePod => Program::Tc(Role::Uplink),
        }
    }

    /// The program that the server's packets meet.
    pub(crate) fn answers_by(self) -> Program {
        match self {
            Self::PodToLocal | Self::PodToItself | Self::ExternalToLocal | Self::HostToLocal => {
                Program::Tc(Role::Pod)
            }
            Self::PodToHere | Self::ExternalToHere => Program::Tc(Role::Egress),
            Self::HostToHere => Program::Tc(Role::Loopback),
            Self::MasqueradedAtXdp => Program::Xdp,
            Self::PodToRemote
            | Self::Masqueraded
            | Self::Remapped
            | Self::NodePort
            | Self::RemotePod
            | Self::HostToRemote => Program::Tc(Role::Uplink),
        }
    }

    /// The address that the server sees.
    pub(crate) fn source<A: Addr>(self, client: A) -> A {
        match self {
            Self::PodToItself => hairpin(),
            Self::Masqueraded
            | Self::MasqueradedAtXdp
            | Self::Remapped
            | Self::NodePort
            | Self::RemotePod => node_addr(),
            _ => client,
        }
    }

    /// A node that serves it, over all protocols, by two service addresses and by a node port.
    pub(crate) fn world<A: Addr>(self) -> World<A> {
        let local = if self.is_local() {
            backend_flags::LOCAL
        } else {
            0
        };
        let world = World::<A>::new();
        world
            .node
            .set_backend(1, Some(backend(self.server(), local)));
        serve(&world, &[1]);
        if self == Self::MasqueradedAtXdp {
            world.note_way(to_gateway());
        }
        world
    }
}

/// Publishes these backends, over all protocols, at two service addresses and at a node port.
pub(crate) fn serve<A: Addr>(world: &World<A>, ids: &[u32]) {
    world.serve(ids);
    let fronts = [
        (vip(1), SERVICE_PORT, service_flags::CLUSTER_IP),
        (vip(2), SERVICE_PORT, service_flags::CLUSTER_IP),
        (node_addr(), NODE_PORT, 0),
    ];
    for (addr, port, flags) in fronts {
        for protocol in [proto::TCP, proto::UDP, proto::SCTP] {
            let service = Service {
                id: World::<A>::SERVICE,
                version: 1,
                cluster: SlotRange {
                    base: 1,
                    count: u32::try_from(ids.len()).expect("few"),
                },
                flags,
                ..Service::default()
            };
            world
                .node
                .set_service(ServiceKey::new(addr, port, protocol), Some(service));
        }
    }
}

/// Where a server listens.
pub(crate) fn listens<A: Addr>(addr: A) -> End<A> {
    let Backend { addr, port, .. } = backend(addr, 0);
    assert_eq!(port, BACKEND_PORT);
    (addr, port)
}
