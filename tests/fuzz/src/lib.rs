//! What the targets share.

use ipnet::IpNet;

/// Prefixes of both families that services get their addresses from.
pub fn cidrs() -> Vec<IpNet> {
    ["10.96.0.0/12", "fd00:10:96::/112"]
        .map(|cidr| cidr.parse().expect("literal"))
        .to_vec()
}
