//! The addresses of one service CIDR.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use lb_common::net::addr::Family;

use crate::model::object::family_of;

/// A prefix that is too small for a static band, in addresses; also the band's smallest size.
const MIN_BAND: u128 = 16;
/// The band's largest size.
const MAX_BAND: u128 = 256;
/// One of so many addresses is in the band.
const BAND_SHARE: u128 = 16;

/// Addresses of a prefix that may be given out, by offset: without the network's own address, and
/// for IPv4 without the broadcast address.
pub(super) struct Range {
    cidr: IpNet,
    /// How many there are.
    pub(super) size: u128,
    /// How many of the first ones stay free for addresses chosen by hand, while others are left
    /// (KEP-3070).
    pub(super) static_band: u128,
}

impl Range {
    pub(super) fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let all = 1_u128.checked_shl(host_bits.min(127)).unwrap_or(u128::MAX);
        let reserved = if family_of(cidr.addr()) == Family::V4 {
            2
        } else {
            1
        };
        Self {
            cidr,
            size: all.saturating_sub(reserved),
            static_band: if all <= MIN_BAND {
                0
            } else {
                (all / BAND_SHARE).clamp(MIN_BAND, MAX_BAND)
            },
        }
    }

    pub(super) fn family(&self) -> Family {
        family_of(self.cidr.addr())
    }

    /// Whether the address is one that may be given out.
    pub(super) fn gives(&self, ip: IpAddr) -> bool {
        let is_broadcast = ip.is_ipv4() && ip == self.cidr.broadcast();
        self.cidr.contains(&ip) && ip != self.cidr.network() && !is_broadcast
    }

    /// The address at an offset below [`Self::size`].
    pub(super) fn address(&self, offset: u128) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(first) => {
                // An offset into an IPv4 prefix has at most 32 bits.
                let offset = u32::try_from(offset + 1).unwrap_or(u32::MAX);
                Ipv4Addr::from(u32::from(first).wrapping_add(offset)).into()
            }
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset + 1)).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bands_are_those_of_a_cluster() {
        let cases = [
            ("10.0.0.0/8", (1 << 24) - 2, 256),
            ("10.0.0.0/20", 4094, 256),
            ("10.0.0.0/22", 1022, 64),
            ("10.0.0.0/24", 254, 16),
            ("10.0.0.0/27", 30, 16),
            ("10.0.0.0/28", 14, 0),
            ("10.0.0.0/32", 0, 0),
            ("fd00::/112", 65_535, 256),
            ("fd00::/120", 255, 16),
            ("fd00::/128", 0, 0),
        ];
        for (text, size, band) in cases {
            let range = Range::new(text.parse().expect("a prefix"));
            assert_eq!((range.size, range.static_band), (size, band), "{text}");
        }
    }

    #[test]
    fn every_offset_gives_an_address_of_the_range() {
        for text in ["10.1.2.0/29", "fd00::40/125"] {
            let range = Range::new(text.parse().expect("a prefix"));
            let given = (0..range.size).map(|offset| range.address(offset));
            assert!(given.into_iter().all(|ip| range.gives(ip)), "{text}");
        }
        let range = Range::new("10.1.2.0/29".parse().expect("a prefix"));
        for outside in ["10.1.2.0", "10.1.2.7", "10.1.2.8", "fd00::1"] {
            assert!(
                !range.gives(outside.parse().expect("an address")),
                "{outside}"
            );
        }
    }
}
