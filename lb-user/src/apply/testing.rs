//! What the tests of plan and apply speak: desired states in a few words.

use std::collections::BTreeMap;

use lb_common::net::addr::Family;

use crate::{
    desired::{Desired, DesiredPort, Endpoint, Frontend, FrontendKind, PortName, Protocol},
    small_set::SmallSet,
};

/// Port `http` over TCP of a service in namespace `default`; its family is that of its frontends.
pub(crate) fn port(
    service: &str,
    frontends: &[&str],
    backends: &[(&str, Endpoint)],
) -> (PortName, DesiredPort) {
    let frontends: SmallSet<_> = frontends
        .iter()
        .map(|frontend| cluster_ip(frontend))
        .collect();
    let is_v6 = frontends.iter().any(|frontend| frontend.addr.is_ipv6());
    let name = PortName {
        namespace: "default".into(),
        service: service.into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: if is_v6 { Family::V6 } else { Family::V4 },
    };
    let backends = backends
        .iter()
        .map(|(endpoint, facts)| (endpoint.parse().expect("address and port"), *facts))
        .collect();
    (
        name,
        DesiredPort {
            frontends,
            backends,
            affinity_timeout_s: 0,
            ..DesiredPort::default()
        },
    )
}

/// An address that pods dial, and a port.
pub(crate) fn cluster_ip(frontend: &str) -> Frontend {
    let frontend: std::net::SocketAddr = frontend.parse().expect("address and port");
    Frontend {
        addr: frontend.ip(),
        port: frontend.port(),
        kind: FrontendKind::ClusterIp,
    }
}

/// An endpoint with the facts that are named as in dumps: `serving,cluster,local,weight=2`.
pub(crate) fn endpoint(facts: &str) -> Endpoint {
    let weight = facts
        .split(',')
        .find_map(|named| named.strip_prefix("weight="));
    let is = |fact| facts.split(',').any(|named| named == fact);
    Endpoint {
        serving: is("serving"),
        in_cluster: is("cluster"),
        in_external_local: is("external_local"),
        in_internal_local: is("internal_local"),
        local: is("local"),
        weight: weight.map_or(1, |text| text.parse().expect("literal")),
    }
}

/// These service ports and nothing else.
pub(crate) fn desired(ports: impl IntoIterator<Item = (PortName, DesiredPort)>) -> Desired {
    Desired {
        ports: ports.into_iter().collect(),
        places: BTreeMap::new(),
        sources: BTreeMap::new(),
    }
}
