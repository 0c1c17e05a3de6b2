//! A service for each place that a connection may end at, and its addresses.
//!
//! | of backend number N | is |
//! | --- | --- |
//! | ClusterIPs | `10.96.0.(30 + N)` and the same of IPv6 |
//! | load balancer | `198.19.100.(30 + N)` and the same of IPv6 |
//! | node ports | `30000 + 10 N` and the next ones, in the order of [`PORTS`] |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cell::{Backend, Family, Frontend};
use crate::{
    manifest::{Endpoint, EndpointSlice, Exposed, Manifest, Port, Service},
    topology::Cluster,
};

/// A port of every service, of TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, without the protocol.
    name: &'static str,
    /// The service's port.
    pub port: u16,
    /// The backends' port.
    pub target: u16,
}

/// Answers with the server's name and the client's address as the server sees it.
pub const WITNESS: ServicePort = ServicePort {
    name: "witness",
    port: 80,
    target: 8080,
};
/// Sends back what it gets.
pub const ECHO: ServicePort = ServicePort {
    name: "echo",
    port: 81,
    target: 8081,
};
/// Says how much it got.
pub const MEASURE: ServicePort = ServicePort {
    name: "measure",
    port: 82,
    target: 8082,
};
/// Nobody listens at the backends' port.
pub const CLOSED: ServicePort = ServicePort {
    name: "closed",
    port: 83,
    target: 8083,
};
/// All of them.
const PORTS: [ServicePort; 4] = [WITNESS, ECHO, MEASURE, CLOSED];
/// The node port of the first backend's first port.
const FIRST_NODE_PORT: u16 = 30_000;

/// The kinds of addresses that agents serve; cells of others wait until they do.
pub const SERVED: &[Frontend] = &[
    Frontend::ClusterIp,
    Frontend::OwnNodePort,
    Frontend::OtherNodePort,
    Frontend::LoadBalancer,
];

/// What a client dials.
pub fn frontend(
    cluster: &Cluster,
    frontend: Frontend,
    backend: Backend,
    family: Family,
    port: ServicePort,
) -> SocketAddr {
    let of = |addresses| family.of(addresses);
    let of_node = |index: usize| of(cluster.nodes[index].addresses.both());
    match frontend {
        Frontend::Direct => SocketAddr::new(of(backend.addresses(cluster)), port.target),
        Frontend::ClusterIp => SocketAddr::new(of(cluster_ips(backend)), port.port),
        Frontend::LoadBalancer => SocketAddr::new(of(load_balancer_ips(backend)), port.port),
        Frontend::OwnNodePort => SocketAddr::new(of_node(0), node_port(backend, port)),
        Frontend::OtherNodePort => SocketAddr::new(of_node(1), node_port(backend, port)),
    }
}

/// A service for each backend that the cluster has.
pub(super) fn manifest(cluster: &Cluster) -> Manifest {
    let mut manifest = Manifest::default();
    for backend in Backend::ALL {
        let service = Service {
            name: backend.to_string(),
            cluster_ips: cluster_ips(backend).into(),
            ports: ports(),
            selector: None,
        };
        manifest = if SERVED == [Frontend::ClusterIp] {
            manifest.with(&service)
        } else {
            let node_ports = PORTS.map(|port| [node_port(backend, port); 2]);
            manifest.with(&Exposed {
                service,
                node_ports: node_ports.concat(),
                ips: load_balancer_ips(backend).into(),
            })
        };
        for (address, family) in backend.addresses(cluster).into_iter().zip(Family::ALL) {
            manifest = manifest.with(&EndpointSlice {
                name: format!("{backend}-{family}"),
                service: backend.to_string(),
                endpoints: vec![Endpoint {
                    address,
                    node_name: backend.node_name(cluster),
                    ready: true,
                }],
                ports: ports(),
            });
        }
    }
    manifest
}

fn ports() -> Vec<Port> {
    let of_both = |of: ServicePort| {
        ["TCP", "UDP"].map(|protocol| Port {
            name: format!("{}-{}", of.name, protocol.to_lowercase()),
            ..Port::new(protocol, of.port, of.target)
        })
    };
    PORTS.map(of_both).concat()
}

fn cluster_ips(backend: Backend) -> [IpAddr; 2] {
    let host = number(backend);
    [
        Ipv4Addr::new(10, 96, 0, host).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host.into()).into(),
    ]
}

fn load_balancer_ips(backend: Backend) -> [IpAddr; 2] {
    let host = number(backend);
    [
        Ipv4Addr::new(198, 19, 100, host).into(),
        Ipv6Addr::new(0xfd00, 0x198, 0x19, 0x100, 0, 0, 0, host.into()).into(),
    ]
}

/// The host number of a backend's service addresses.
fn number(backend: Backend) -> u8 {
    30 + backend as u8
}

fn node_port(backend: Backend, port: ServicePort) -> u16 {
    FIRST_NODE_PORT + 10 * backend as u16 + (port.port - WITNESS.port)
}
