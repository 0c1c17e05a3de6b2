//! How long a client stays with its backend, and what ends it: on the host, where the clock can be set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::{fake::FakeNode, flow::clock::seconds, net::addr::Addr4};
use lb_tests::truth::{self, Case, Expect, Flow, Masquerade, Protocol, SourceClass};

use crate::{
    OWN,
    datapath::{Outcome, send},
    memory::{self, NOW},
};

/// `timeoutSeconds` of the case.
const TIMEOUT_S: u32 = 10_800;
/// Clients: all of them picking again what they had, by chance, happens once in 3^32 runs.
const N_CLIENTS: u8 = 32;
/// Flow positions for all their connections.
const FLOWS: u32 = 4_096;
const CLUSTER_IP: &str = "172.30.0.41:80";
const BALANCER: &str = "1.2.3.4:80";
/// The service of the other case, and its `timeoutSeconds`: less than a flow of datagrams lives.
const DNS: &str = "172.30.0.41:53";
const DNS_TIMEOUT_S: u32 = 20;
const NODE_PORT: &str = "192.168.0.2:3001";

/// A service of three endpoints, two of them here, with affinity and `externalTrafficPolicy: Local`.
struct World {
    case: Case,
    node: FakeNode<Addr4>,
}

impl World {
    fn new() -> Self {
        Self::of("ClusterIP/affinity")
    }

    fn of(id: &str) -> Self {
        let cases = truth::load(OWN).unwrap();
        let case = cases.into_iter().find(|case| case.id == id).unwrap();
        let maps = memory::tables(&case, Masquerade::KubeProxy).unwrap();
        let node = memory::node_of(FLOWS, &case, &maps, Masquerade::KubeProxy).unwrap();
        node.seed(7);
        Self { case, node }
    }

    /// The backend of a new connection.
    #[track_caller]
    fn dial(&self, class: SourceClass, from: SocketAddr, to: &str) -> IpAddr {
        self.dial_by(Protocol::Tcp, class, from, to)
    }

    #[track_caller]
    fn dial_by(
        &self,
        protocol: Protocol,
        class: SourceClass,
        from: SocketAddr,
        to: &str,
    ) -> IpAddr {
        let flow = Flow {
            name: String::new(),
            class,
            protocol,
            from,
            to: to.parse().unwrap(),
            expect: Expect::Pass,
            masquerade: false,
            list: None,
            frontend: None,
            service: None,
        };
        match send(&self.case, &self.node, &flow).unwrap() {
            Outcome::Forwarded { backend, .. } => backend.ip(),
            Outcome::Other(kind) => panic!("{kind} instead of forward"),
        }
    }

    /// The backend of every pod's new connection, each from this port.
    #[track_caller]
    fn dial_all(&self, port: u16) -> Vec<IpAddr> {
        let dial = |n| self.dial(SourceClass::Pod, pod(n, port), CLUSTER_IP);
        (1..=N_CLIENTS).map(dial).collect()
    }

    fn wait_s(&self, s: u32) {
        self.node.set_now(self.node.now() + seconds(s));
    }
}

/// A client that is a pod.
fn pod(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(10, 0, 0, number).into(), port)
}

/// A client outside.
fn outside(number: u8, port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(203, 0, 113, number).into(), port)
}

#[test]
fn each_new_connection_restarts_the_clients_time() {
    let world = World::new();
    let first = world.dial_all(40_000);
    for port in 40_001..40_010 {
        world.wait_s(TIMEOUT_S - 1);
        assert_eq!(
            world.dial_all(port),
            first,
            "the connection from port {port}"
        );
    }
    assert!(world.node.now() > NOW + 8 * seconds(TIMEOUT_S));
}

#[test]
fn after_its_time_a_client_picks_again() {
    let world = World::new();
    let first = world.dial_all(40_000);
    world.wait_s(TIMEOUT_S + 1);
    let again = world.dial_all(40_001);
    assert_ne!(again, first, "everybody is where he was");
    // That pick counts from now on.
    world.wait_s(TIMEOUT_S - 1);
    assert_eq!(world.dial_all(40_002), again);
}

#[test]
fn packets_of_a_connection_that_stands_do_not_restart_it() {
    let world = World::of("ClusterIP/affinity-of-datagrams");
    let datagrams = |port| -> Vec<IpAddr> {
        let dial = |n| world.dial_by(Protocol::Udp, SourceClass::Pod, pod(n, port), DNS);
        (1..=N_CLIENTS).map(dial).collect()
    };
    let first = datagrams(40_000);
    // From one port they are one connection, which lives as long as they come.
    for _ in 0..DNS_TIMEOUT_S {
        world.wait_s(2);
        assert_eq!(datagrams(40_000), first);
    }
    assert_ne!(datagrams(40_001), first, "everybody is where he was");
}

#[test]
fn a_client_is_one_whichever_address_it_dials() {
    let world = World::new();
    for number in 1..=N_CLIENTS {
        let first = world.dial(SourceClass::Pod, pod(number, 40_000), CLUSTER_IP);
        for (to, port) in [
            (NODE_PORT, 40_001),
            (BALANCER, 40_002),
            (CLUSTER_IP, 40_003),
        ] {
            let then = world.dial(SourceClass::Pod, pod(number, port), to);
            assert_eq!(then, first, "pod {number} dials {to}");
        }
    }
}

#[test]
fn an_endpoint_that_the_policy_excludes_is_not_used_on_account_of_affinity() {
    let world = World::new();
    let mut n_remote = 0;
    for number in 1..=N_CLIENTS {
        let before = world.dial(SourceClass::External, outside(number, 40_000), CLUSTER_IP);
        n_remote += usize::from(!world.case.is_local_endpoint(before));
        let local = world.dial(SourceClass::External, outside(number, 40_001), BALANCER);
        assert!(world.case.is_local_endpoint(local), "{local} is elsewhere");
        if world.case.is_local_endpoint(before) {
            assert_eq!(local, before, "nothing was against it");
        }
        // What it was given last is in the cluster's list, too.
        let after = world.dial(SourceClass::External, outside(number, 40_002), CLUSTER_IP);
        assert_eq!(after, local, "it has a backend that it may use");
    }
    assert!(
        n_remote > 0,
        "no client was at the endpoint elsewhere: nothing was tested"
    );
}
