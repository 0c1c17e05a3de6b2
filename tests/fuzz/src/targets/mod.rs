//! Each target is a function of any bytes that panics where a promise is broken.

pub mod manifest;
pub mod packet;
pub mod roundtrip;

use ipnet::IpNet;

/// Prefixes of both families that services get their addresses from.
pub(crate) fn cidrs() -> Vec<IpNet> {
    ["10.96.0.0/12", "fd00:10:96::/112"]
        .map(|cidr| cidr.parse().expect("literal"))
        .to_vec()
}
