//! What is served, as a person would write it, and who answers.

use lb_tests::client::{Exchange, UdpMode};

/// The files of the directory `examples`, by name.
pub(crate) const FILES: [(&str, &str); 4] = [
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
];

/// A pod of the manifests.
pub(crate) struct Pod {
    /// Its name.
    pub(crate) name: &'static str,
    /// The ports that it listens on, and what it adds to its name there.
    pub(crate) listens: &'static [(u16, &'static str)],
}

/// The pods of the manifests, in the order of the topology's, on each node.
pub(crate) const PODS: [[Pod; 3]; 2] = [
    [
        Pod {
            name: "hostname-4xq7k",
            listens: &[(8080, "")],
        },
        Pod {
            name: "hostname-9qhbv",
            listens: &[(8080, "")],
        },
        Pod {
            name: "kubia-7nog1",
            listens: &[(8080, ""), (8443, ":https")],
        },
    ],
    [
        Pod {
            name: "hostname-qsth7",
            listens: &[(8080, "")],
        },
        Pod {
            name: "hostname-tz5mc",
            listens: &[(8080, "")],
        },
        Pod {
            name: "kubia-3inly",
            listens: &[(8000, ""), (8400, ":https")],
        },
    ],
];
/// Where a process on each node listens; it calls itself as its node.
pub(crate) const NODE_PORT: u16 = 9376;
/// Where somebody outside listens, and what he calls himself.
pub(crate) const OUTSIDE: (u16, &str) = (80, "outside");
/// A second address of who is outside, whose first one the topology gives.
pub(crate) const SECOND_OUTSIDE: &str = "198.19.0.201";

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
const TCP_AND_UDP: &[Exchange] = &[Exchange::Tcp, Exchange::Udp(UdpMode::Connected)];
const HOSTNAMES: &[&str] = &[
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
            for (pod, Pod { name, listens }) in (1..).zip(pods) {
                let object = object("Pod", name);
                let node = format!("nodeName: node-{number}\n");
                assert!(object.contains(&node), "{name}");
                for address in addressing::pod(number, pod).both() {
                    let line = format!("- ip: {address}\n");
                    assert!(object.contains(&line), "{name}: {address}");
                }
                for (port, _) in listens {
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
