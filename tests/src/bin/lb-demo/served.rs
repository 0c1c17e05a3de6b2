//! What is served, as a person would write it, and who answers.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use lb_tests::{
    addressing,
    client::{Exchange, UdpMode},
};

/// The files of the directory `examples`, by name.
pub(crate) const FILES: [(&str, &str); 7] = [
    (
        "hostname.yaml",
        include_str!("../../../../examples/hostname.yaml"),
    ),
    (
        "kubia.yaml",
        include_str!("../../../../examples/kubia.yaml"),
    ),
    (
        "external-service.yaml",
        include_str!("../../../../examples/external-service.yaml"),
    ),
    (
        "my-service.yaml",
        include_str!("../../../../examples/my-service.yaml"),
    ),
    (
        "node-port.yaml",
        include_str!("../../../../examples/node-port.yaml"),
    ),
    (
        "session-affinity.yaml",
        include_str!("../../../../examples/session-affinity.yaml"),
    ),
    (POLICY_FILE, POLICY),
];
/// The file of the two services that differ in their policy, and of their pods.
pub(crate) const POLICY_FILE: &str = "traffic-policy.yaml";
/// What it says.
pub(crate) const POLICY: &str = include_str!("../../../../examples/traffic-policy.yaml");

/// A pod of the manifests.
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: &'static str,
    /// The ports that it listens on, and what it adds to its name there.
    pub(crate) listens: &'static [(u16, &'static str)],
    /// Whether it names the client's address, as it sees it, beside itself.
    pub(crate) is_witness: bool,
}

impl Pod {
    const fn new(name: &'static str, listens: &'static [(u16, &'static str)]) -> Self {
        Self {
            name,
            listens,
            is_witness: false,
        }
    }

    const fn witness(name: &'static str) -> Self {
        Self {
            name,
            listens: &[(80, "")],
            is_witness: true,
        }
    }
}

/// The pods of the manifests, in the order of the topology's, on each node.
pub(crate) const PODS: [&[Pod]; 2] = [
    &[
        Pod::new("hostname-4xq7k", &[(8080, "")]),
        Pod::new("hostname-9qhbv", &[(8080, "")]),
        Pod::new("kubia-7nog1", &[(8080, ""), (8443, ":https")]),
        Pod::witness("webserver-a1"),
    ],
    &[
        Pod::new("hostname-qsth7", &[(8080, "")]),
        Pod::new("hostname-tz5mc", &[(8080, "")]),
        Pod::new("kubia-3inly", &[(8000, ""), (8400, ":https")]),
        Pod::witness("webserver-b1"),
        Pod::witness("webserver-b2"),
    ],
];
/// Where a process on each node listens; it calls itself as its node.
pub(crate) const NODE_PORT: u16 = 9376;
/// Where somebody outside listens, and what he calls himself.
pub(crate) const OUTSIDE: (u16, &str) = (80, "outside");
/// A second address of who is outside, whose first one the topology gives.
pub(crate) const SECOND_OUTSIDE: &str = "198.19.0.201";
/// The last bytes of his further addresses in the same network.
pub(crate) const FURTHER_OUTSIDE: RangeInclusive<u8> = 202..=233;

/// A port of a service.
pub(crate) struct Served {
    /// The service.
    pub(crate) service: &'static str,
    /// The address that clients dial.
    pub(crate) frontend: &'static str,
    /// In which ways.
    pub(crate) exchanges: &'static [Exchange],
    /// Who answers, by name.
    pub(crate) servers: &'static [&'static str],
    /// How `get endpoints` names them.
    pub(crate) endpoints: &'static [&'static str],
}

const TCP: &[Exchange] = &[Exchange::Tcp];
pub(crate) const TCP_AND_UDP: &[Exchange] = &[Exchange::Tcp, Exchange::Udp(UdpMode::Connected)];
/// The pods of `hostname` and `hostname-nodeport`.
pub(crate) const HOSTNAMES: &[&str] = &[
    "hostname-4xq7k",
    "hostname-9qhbv",
    "hostname-qsth7",
    "hostname-tz5mc",
];

/// All of them.
pub(crate) const SERVED: [Served; 6] = [
    Served {
        service: "hostname",
        frontend: "10.108.167.231:80",
        exchanges: TCP_AND_UDP,
        servers: HOSTNAMES,
        endpoints: &[
            "10.244.1.11:8080",
            "10.244.1.12:8080",
            "10.244.2.11:8080",
            "10.244.2.12:8080",
        ],
    },
    Served {
        service: "hostname",
        frontend: "[fd00:10:96::a7e7]:80",
        exchanges: TCP_AND_UDP,
        servers: HOSTNAMES,
        endpoints: &[
            "[fd00:10:244:1::b]:8080",
            "[fd00:10:244:1::c]:8080",
            "[fd00:10:244:2::b]:8080",
            "[fd00:10:244:2::c]:8080",
        ],
    },
    Served {
        service: "kubia",
        frontend: "10.111.249.153:80",
        exchanges: TCP,
        servers: &["kubia-3inly", "kubia-7nog1"],
        endpoints: &["10.244.1.13:8080", "10.244.2.13:8000"],
    },
    Served {
        service: "kubia",
        frontend: "10.111.249.153:443",
        exchanges: TCP,
        servers: &["kubia-3inly:https", "kubia-7nog1:https"],
        endpoints: &["10.244.1.13:8443", "10.244.2.13:8400"],
    },
    Served {
        service: "external-service",
        frontend: "10.101.11.22:80",
        exchanges: TCP,
        servers: &["outside"],
        endpoints: &["198.19.0.200:80", "198.19.0.201:80"],
    },
    Served {
        service: "my-service",
        frontend: "10.103.93.76:80",
        exchanges: TCP,
        servers: &["node-1", "node-2"],
        endpoints: &["198.18.0.1:9376", "198.18.0.2:9376"],
    },
];

/// The service of all hostnames.
pub(crate) const NODE_PORT_ALL: (&str, u16) = ("hostname-nodeport", 30123);
/// The service whose clients keep their pods.
pub(crate) const NODE_PORT_AFFINITY: (&str, u16) = ("kubia-affinity", 30124);
/// Its `ClusterIP`.
pub(crate) const AFFINITY_IP: &str = "10.111.249.154";
/// The service of the web servers with the policy Cluster.
pub(crate) const CLUSTER: (&str, u16) = ("hostname-svc-lb", 31000);
/// The same with the policy Local.
pub(crate) const LOCAL: (&str, u16) = ("hostname-svc-lb-local", 31001);
/// Where nodes say whether they have endpoints of it.
pub(crate) const HEALTH_CHECK_PORT: u16 = 31002;
/// The web servers of node 1, then those of node 2.
pub(crate) const WEB_SERVERS: [&[&str]; 2] = [&["webserver-a1"], &["webserver-b1", "webserver-b2"]];

/// The file of the policies when the web servers of node 2 are gone.
pub(crate) fn scaled_down() -> String {
    let is_gone = |object: &&str| {
        let mut gone = WEB_SERVERS[1].iter();
        gone.any(|name| object.contains(&format!("\n  name: {name}\n")))
    };
    let objects: Vec<&str> = POLICY.split("---\n").filter(|it| !is_gone(it)).collect();
    objects.join("---\n")
}

/// The further addresses of who is outside.
pub(crate) fn further_outside() -> impl Iterator<Item = Ipv4Addr> {
    let [a, b, c, _] = addressing::client_behind_gateway().v4.octets();
    FURTHER_OUTSIDE.map(move |last| Ipv4Addr::new(a, b, c, last))
}

/// How a person writes the address in a URL.
pub(crate) fn url(frontend: &str) -> String {
    let host = frontend.strip_suffix(":80").unwrap_or(frontend);
    format!("http://{host}/")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use lb_tests::addressing;

    use super::*;

    fn all() -> String {
        FILES.map(|(_, text)| text).join("---\n")
    }

    fn object(kind: &str, name: &str) -> String {
        let wanted = [format!("\nkind: {kind}\n"), format!("\n  name: {name}")];
        let text = all();
        let mut objects = text.split("---\n").filter(|object| {
            let object = format!("\n{object}");
            wanted.iter().all(|line| object.contains(line))
        });
        objects.next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_pods_have_the_addresses_nodes_and_ports_of_the_topology() {
        for (number, pods) in (1..).zip(PODS) {
            for (pod, Pod { name, listens, .. }) in (1..).zip(pods) {
                let object = object("Pod", name);
                let node = format!("nodeName: node-{number}\n");
                assert!(object.contains(&node), "{name}");
                for address in addressing::pod(number, pod).both() {
                    let line = format!("- ip: {address}\n");
                    assert!(object.contains(&line), "{name}: {address}");
                }
                for (port, _) in *listens {
                    let line = format!("containerPort: {port}\n");
                    assert!(object.contains(&line), "{name}: {port}");
                }
            }
        }
    }

    #[test]
    fn the_nodes_have_the_addresses_of_the_topology() {
        for number in [1, 2] {
            let object = object("Node", &format!("node-{number}"));
            for address in addressing::node(number).both() {
                let line = format!("address: {address}\n");
                assert!(object.contains(&line), "{address}");
            }
            for cidr in addressing::pod_cidrs(number) {
                assert!(object.contains(&format!("- {cidr}\n")), "{cidr}");
            }
        }
    }

    #[test]
    fn services_have_the_addresses_that_are_dialled() {
        for Served {
            service, frontend, ..
        } in SERVED
        {
            let address: SocketAddr = frontend.parse().unwrap();
            let object = object("Service", service);
            assert!(object.contains(&address.ip().to_string()), "{frontend}");
            let port = format!("port: {}\n", address.port());
            assert!(object.replace(" #", "\n").contains(&port), "{frontend}");
        }
    }

    #[test]
    fn node_ports_are_those_that_are_dialled() {
        for (service, number) in [NODE_PORT_ALL, NODE_PORT_AFFINITY, CLUSTER, LOCAL] {
            let object = object("Service", service);
            assert!(
                object.contains(&format!("nodePort: {number}\n")),
                "{service}"
            );
        }
        let health = format!("healthCheckNodePort: {HEALTH_CHECK_PORT}\n");
        assert!(object("Service", LOCAL.0).contains(&health));
        let object = object("Service", NODE_PORT_AFFINITY.0);
        assert!(object.contains(&format!("clusterIP: {AFFINITY_IP}\n")));
    }

    #[test]
    fn scaled_down_the_web_servers_are_one() {
        let text = scaled_down();
        assert_eq!(text.matches("kind: Pod\n").count(), 1);
        assert_eq!(text.matches("kind: Service\n").count(), 2);
        assert!(text.contains("name: webserver-a1\n"));
    }

    #[test]
    fn what_is_outside_has_the_addresses_of_the_endpoints() {
        let first = IpAddr::from(addressing::client_behind_gateway().v4).to_string();
        let object = object("Endpoints", "external-service");
        for address in [first.as_str(), SECOND_OUTSIDE] {
            assert!(object.contains(&format!("- ip: {address}\n")), "{address}");
        }
    }

    #[test]
    fn a_url_leaves_the_port_out_that_goes_without_saying() {
        assert_eq!(url("10.0.0.1:80"), "http://10.0.0.1/");
        assert_eq!(url("[fd00::1]:443"), "http://[fd00::1]:443/");
    }
}
