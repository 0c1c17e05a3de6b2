//! The addresses of the test clusters: fixed, so that manifests can be written down.
//!
//! | prefix | of |
//! | --- | --- |
//! | `198.18.0.0/24`, `fd00:198:18::/64` | the segment that nodes and external client share (RFC 2544's test range) |
//! | `198.19.0.0/24`, `fd00:198:19::/64` | the network behind the gateway, where the external client may be instead |
//! | `198.19.100.0/24`, `fd00:198:19:100::/64` | load balancers |
//! | `10.244.N.0/24`, `fd00:10:244:N::/64` | the pods of node N; pod P has host number 10 + P |
//! | `10.96.0.0/12`, `fd00:10:96::/112` | services |
//!
//! Nodes are counted from one; their pods, too. Clusters are apart only because their namespaces are: every cluster has
//! the same addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Every prefix that a test sends to, IPv4 and IPv6.
pub const PREFIXES: [&str; 10] = [
    "198.18.0.0/24",
    "198.19.0.0/24",
    LOAD_BALANCERS_V4,
    "10.244.0.0/16",
    "10.96.0.0/12",
    "fd00:198:18::/64",
    "fd00:198:19::/64",
    LOAD_BALANCERS_V6,
    "fd00:10:244::/48",
    "fd00:10:96::/112",
];

/// The services' prefix, IPv4.
pub const SERVICES_V4: &str = "10.96.0.0/12";
/// The services' prefix, IPv6.
pub const SERVICES_V6: &str = "fd00:10:96::/112";
/// The load balancers' prefix, IPv4.
pub const LOAD_BALANCERS_V4: &str = "198.19.100.0/24";
/// The load balancers' prefix, IPv6.
pub const LOAD_BALANCERS_V6: &str = "fd00:198:19:100::/64";
/// Prefix length of the segment, of the network behind the gateway, and of a node's pods, IPv4.
pub(crate) const LEN_V4: u8 = 24;
/// Prefix length of the segment, of the network behind the gateway, and of a node's pods, IPv6.
pub(crate) const LEN_V6: u8 = 64;

/// The routed pods' gateway: an address that no device has; the pod holds a static neighbour for it.
pub(crate) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' gateway, IPv6: the node side of every pod's device has this link-local address.
pub(crate) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Host number of the external client; nodes have theirs from one.
const CLIENT: u8 = 200;
/// Host number of the gateway on the segment.
const GATEWAY: u8 = 254;
/// Host number of the gateway in the network behind it.
const INNER_GATEWAY: u8 = 1;
/// Host number of the node itself in its pod prefix, for the bridge of its pods.
const BRIDGE: u8 = 1;
/// Host number of the node itself in its pod prefix, for its end of a tunnel.
const TUNNEL_END: u8 = 2;
/// Host number before that of the first pod.
const BEFORE_PODS: u8 = 10;

/// An address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// Node `node` on the segment.
pub fn node(node: u8) -> Dual {
    on_segment(node)
}

/// The external client on the segment.
pub fn client() -> Dual {
    on_segment(CLIENT)
}

/// The external client in the network behind the gateway.
pub fn client_behind_gateway() -> Dual {
    behind_gateway(CLIENT)
}

/// The gateway on the segment.
pub(crate) fn gateway() -> Dual {
    on_segment(GATEWAY)
}

/// The gateway in the network behind it.
pub(crate) fn inner_gateway() -> Dual {
    behind_gateway(INNER_GATEWAY)
}

/// Pod `pod` of node `node`.
pub fn pod(node: u8, pod: u8) -> Dual {
    in_pod_cidr(node, BEFORE_PODS + pod)
}

/// The bridge of node `node`, which its pods have as their gateway.
pub(crate) fn bridge(node: u8) -> Dual {
    in_pod_cidr(node, BRIDGE)
}

/// The tunnel device of node `node`.
pub(crate) fn tunnel(node: u8) -> Dual {
    in_pod_cidr(node, TUNNEL_END)
}

/// The prefixes of the network behind the gateway, IPv4 first.
pub(crate) fn outside_cidrs() -> [String; 2] {
    let Dual { v4, v6 } = behind_gateway(0);
    [format!("{v4}/{LEN_V4}"), format!("{v6}/{LEN_V6}")]
}

/// The prefixes of node `node`'s pods, IPv4 first.
pub fn pod_cidrs(node: u8) -> [String; 2] {
    let Dual { v4, v6 } = in_pod_cidr(node, 0);
    [format!("{v4}/{LEN_V4}"), format!("{v6}/{LEN_V6}")]
}

fn on_segment(host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(198, 18, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x198, 0x18, 0, 0, 0, 0, u16::from(host)),
    }
}

fn behind_gateway(host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(198, 19, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x198, 0x19, 0, 0, 0, 0, u16::from(host)),
    }
}

fn in_pod_cidr(node: u8, host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(10, 244, node, host),
        v6: Ipv6Addr::new(
            0xfd00,
            0x10,
            0x244,
            u16::from(node),
            0,
            0,
            0,
            u16::from(host),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_documented() {
        let pod = pod(2, 1);
        assert_eq!(pod.v4.to_string(), "10.244.2.11");
        assert_eq!(pod.v6.to_string(), "fd00:10:244:2::b");
        assert_eq!(client().v6.to_string(), "fd00:198:18::c8");
        assert_eq!(pod_cidrs(2), ["10.244.2.0/24", "fd00:10:244:2::/64"]);
        assert_eq!(outside_cidrs(), ["198.19.0.0/24", "fd00:198:19::/64"]);
    }
}
