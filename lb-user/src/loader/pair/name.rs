//! What the pair is called, how its devices are told from others', and the addresses that belong to it.
//!
//! Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// The longest name of a device is 15 bytes; one of them is the end's number.
const MAX_NAME_BYTES: usize = 14;
/// Begins the alias of both ends; the run directory of the agent that made them follows.
const ALIAS: &str = "fulcrum:";
/// The longest alias that the kernel takes, less one.
const MAX_ALIAS_BYTES: usize = 254;

/// A hardware address.
pub type Mac = [u8; 6];

/// Of the node's end. Locally administered; it never leaves the node, so all nodes have the same.
pub const NEAR_MAC: Mac = [0x02, b'f', b'u', b'l', b'c', 0];
/// Of the end where programs meet what the node sends.
pub const FAR_MAC: Mac = [0x02, b'f', b'u', b'l', b'c', 1];

/// The next hop of IPv6 routes: nobody's address, behind [`FAR_MAC`] by a permanent neighbour.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xf0, 0x1c);

/// The name that both ends share; `0` and `1` are added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairName(String);

/// Why a text is no name of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairNameError {
    /// Nothing.
    #[error("a device has a name")]
    Empty,
    /// More than the kernel takes.
    #[error("a device name has at most 15 bytes, and 0 or 1 is added to this one")]
    TooLong,
    /// A character that the kernel does not take, or that other tools stumble over.
    #[error("a device name has letters, digits, '-', '_' and '.' only")]
    Character,
}

impl PairName {
    /// The node's end.
    pub fn near(&self) -> String {
        format!("{}0", self.0)
    }

    /// The end where programs meet what the node sends.
    pub fn far(&self) -> String {
        format!("{}1", self.0)
    }
}

impl Default for PairName {
    fn default() -> Self {
        Self("fulcrum".to_owned())
    }
}

impl FromStr for PairName {
    type Err = PairNameError;

    fn from_str(text: &str) -> Result<Self, PairNameError> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() {
            return Err(PairNameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(PairNameError::TooLong);
        }
        if !text.bytes().all(is_fit) {
            return Err(PairNameError::Character);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PairName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The alias of the pair of the agent that runs in this directory.
pub fn alias(run_dir: &str) -> String {
    let alias = format!("{ALIAS}{run_dir}");
    // The end of a path says more than its beginning.
    let excess = alias.len().saturating_sub(MAX_ALIAS_BYTES);
    let from = run_dir.ceil_char_boundary(excess);
    format!("{ALIAS}{}", &run_dir[from..])
}

/// The run directory that an alias of ours names.
pub fn owner(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS)
}

/// The addresses that stand for the pods' own node where a pod reaches itself through its service.
///
/// Nobody has them. The IPv4 one is the next hop of the IPv4 routes as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hairpin {
    /// Any address that is not routed elsewhere.
    pub v4: Ipv4Addr,
    /// Not link-local: pods would ask their own link for it.
    pub v6: Ipv6Addr,
}

impl Default for Hairpin {
    /// 169.254.90.1 and a ULA that spells the product's name.
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::new(169, 254, 90, 1),
            v6: Ipv6Addr::new(0xfd66, 0x756c, 0x6372, 0x756d, 0, 0, 0, 1),
        }
    }
}

impl Hairpin {
    /// The next hop of the routes that lead to the pair, of the same family as `of`.
    pub fn gateway(self, of: IpAddr) -> IpAddr {
        match of {
            IpAddr::V4(_) => self.v4.into(),
            IpAddr::V6(_) => GATEWAY6.into(),
        }
    }

    /// The node's own address on the pair: the one after the IPv4 one, or before it at the end of a /24.
    ///
    /// A device without any address accepts no source under a loose reverse path filter.
    pub fn near_address(self) -> Ipv4Addr {
        let [a, b, c, d] = self.v4.octets();
        let last = if d >= 254 { d - 1 } else { d + 1 };
        Ipv4Addr::new(a, b, c, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_leave_room_for_the_number() {
        let name: PairName = "abcdefghijklmn".parse().expect("14 bytes");
        assert_eq!((name.near().len(), name.far().len()), (15, 15));
        for (text, error) in [
            ("", PairNameError::Empty),
            ("abcdefghijklmno", PairNameError::TooLong),
            ("a/b", PairNameError::Character),
            ("a b", PairNameError::Character),
            ("a:b", PairNameError::Character),
            ("a%d", PairNameError::Character),
        ] {
            assert_eq!(text.parse::<PairName>(), Err(error), "{text}");
        }
    }

    #[test]
    fn an_alias_names_its_run_directory_and_is_never_too_long() {
        assert_eq!(owner(&alias("/run/fulcrum")), Some("/run/fulcrum"));
        assert_eq!(owner("uplink to rack 4"), None);
        let long = alias(&"é".repeat(200));
        assert!(long.len() <= MAX_ALIAS_BYTES, "{}", long.len());
        assert!(
            long.starts_with("fulcrum:é") && long.ends_with('é'),
            "{long}"
        );
    }

    #[test]
    fn the_nodes_end_has_an_address_beside_the_hairpins() {
        let near = |text: &str| {
            let v4 = text.parse().expect("literal");
            Hairpin {
                v4,
                ..Hairpin::default()
            }
            .near_address()
            .to_string()
        };
        assert_eq!(near("169.254.90.1"), "169.254.90.2");
        assert_eq!(near("169.254.90.254"), "169.254.90.253");
        assert_eq!(near("169.254.90.255"), "169.254.90.254");
    }

    #[test]
    fn macs_are_local_and_of_one_station() {
        for mac in [NEAR_MAC, FAR_MAC] {
            assert_eq!(mac[0] & 0b11, 0b10, "locally administered, unicast");
        }
        assert_ne!(NEAR_MAC, FAR_MAC);
    }
}
