//! Source ports for masquerading against those that the kernel gives to the node's own connections.
//!
//! Only reads: what is wrong is said, with the setting that would put it right.

use std::ops::RangeInclusive;

use super::FlowSettings;
use crate::{alloc::PortRange, loader::sysctl};

/// Out of these the kernel takes ports for connections that ask for none.
const EPHEMERAL: &str = "net/ipv4/ip_local_port_range";
/// But for these.
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// The node's own connections may take source ports that masqueraded ones take too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--snat-ports {snat_ports} overlaps net.ipv4.ip_local_port_range {}-{}, out of which the node's own connections get \
     their ports; give others, narrow that range, or keep them out of it: sysctl -w \
     net.ipv4.ip_local_reserved_ports={reserve}",
    range.start(),
    range.end()
)]
pub struct EphemeralOverlap {
    snat_ports: PortRange,
    range: RangeInclusive<u16>,
    /// What the setting should be.
    reserve: String,
}

impl FlowSettings {
    /// Whether masqueraded connections and those of this node's own have ports apart, as far as the kernel says.
    pub fn check_ephemeral(&self) -> Result<(), EphemeralOverlap> {
        let range = sysctl::read(EPHEMERAL).unwrap_or_default();
        let reserved = sysctl::read(RESERVED).unwrap_or_default();
        match overlap(self.snat_ports, &range, &reserved) {
            Some(overlap) => Err(overlap),
            None => Ok(()),
        }
    }
}

fn overlap(snat_ports: PortRange, range: &str, reserved: &str) -> Option<EphemeralOverlap> {
    let mut bounds = range.split_ascii_whitespace().map(str::parse::<u16>);
    let range = bounds.next()?.ok()?..=bounds.next()?.ok()?;
    let kept_out: Vec<_> = reserved.trim().split(',').filter_map(ports).collect();
    let mut shared = range.clone().filter(|port| snat_ports.contains(*port));
    shared.find(|port| !kept_out.iter().any(|ports| ports.contains(port)))?;
    let reserve = match reserved.trim() {
        "" => snat_ports.to_string(),
        others => format!("{others},{snat_ports}"),
    };
    Some(EphemeralOverlap {
        snat_ports,
        range,
        reserve,
    })
}

/// `1` or `10-20`, as the kernel writes it.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_kernels_own_are_refused_unless_they_are_reserved() {
        let of = |range: &str, reserved: &str| {
            let told = overlap(PortRange::SNAT, range, reserved);
            told.map(|overlap| overlap.to_string())
        };
        assert_eq!(of("32768\t60999\n", "\n"), None);
        assert_eq!(of("1024\t65535\n", "61000-65535\n"), None);
        assert_eq!(of("1024\t65535\n", "61000-63000,63001,63002-65535\n"), None);
        assert_eq!(of("", ""), None, "the kernel does not say");
        let told = of("32768\t61000\n", "\n").expect("one port is shared");
        assert!(
            told.starts_with(
                "--snat-ports 61000-65535 overlaps net.ipv4.ip_local_port_range 32768-61000,"
            ),
            "{told}"
        );
        let told = of("1024\t65535\n", "8080,61000-65534\n").expect("one is not reserved");
        assert!(
            told.ends_with("ip_local_reserved_ports=8080,61000-65534,61000-65535"),
            "{told}"
        );
    }
}
