//! The sysctls of the pair's two devices, and of nothing else.
//!
//! Pure: from what the namespace has for all devices to the settings, in the order in which they are made.

use super::name::PairName;
use crate::loader::sysctl::Setting;

/// Modes of `rp_filter`.
mod reverse_path {
    pub(super) const OFF: u32 = 0;
    pub(super) const LOOSE: u32 = 2;
}

/// `IN6_ADDR_GEN_MODE_NONE` of `linux/if_link.h`.
const NO_AUTOMATIC_ADDRESS: u32 = 1;

/// What decides about the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// `net.ipv4.conf.all.rp_filter`: the kernel takes the larger one of this and the device's.
    pub all_rp_filter: u32,
    /// Whether the kernel has IPv6.
    pub has_ipv6: bool,
}

/// All settings; made before the devices come up.
pub fn settings(name: &PairName, surroundings: Surroundings) -> Vec<Setting> {
    let (near, far) = (name.near(), name.far());
    let mut settings = Vec::new();
    for device in [&near, &far] {
        settings.extend(ipv4(device, surroundings.all_rp_filter));
    }
    // Replies are injected here with a service's address as their source, and with the node's own where
    // both ends of a connection are on the node.
    settings.push(Setting::of_device("ipv4", &near, "accept_local", 1));
    // So are replies to a process that dialled a node port at 127.0.0.1. Nothing else comes in here.
    settings.push(Setting::of_device("ipv4", &near, "route_localnet", 1));
    if surroundings.has_ipv6 {
        for device in [&near, &far] {
            settings.extend(ipv6(device));
        }
    }
    settings
}

fn ipv4(device: &str, all_rp_filter: u32) -> impl Iterator<Item = Setting> {
    // Off where that counts. Where it does not, strict must not count: the way back to a source that
    // comes in here is another device.
    let rp_filter = if all_rp_filter == 0 {
        reverse_path::OFF
    } else {
        reverse_path::LOOSE
    };
    [
        // The FIB answers a program only for a device that forwards.
        ("forwarding", 1),
        ("rp_filter", rp_filter),
        ("send_redirects", 0),
        ("accept_redirects", 0),
    ]
    .map(|(name, value)| Setting::of_device("ipv4", device, name, value))
    .into_iter()
}

fn ipv6(device: &str) -> impl Iterator<Item = Setting> {
    [
        ("disable_ipv6", 0),
        // Neither addresses nor routes but those that are put there, and these at once.
        ("addr_gen_mode", NO_AUTOMATIC_ADDRESS),
        ("accept_dad", 0),
        ("accept_ra", 0),
        ("autoconf", 0),
        ("accept_redirects", 0),
        ("forwarding", 1),
    ]
    .map(|(name, value)| Setting::of_device("ipv6", device, name, value))
    .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(all_rp_filter: u32, has_ipv6: bool) -> Vec<String> {
        let surroundings = Surroundings {
            all_rp_filter,
            has_ipv6,
        };
        let settings = settings(&PairName::default(), surroundings);
        settings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn strict_reverse_path_filtering_never_counts_on_the_pair() {
        for (all, own) in [(0, 0), (1, 2), (2, 2)] {
            let expected = format!("net/ipv4/conf/fulcrum0/rp_filter={own}");
            assert!(of(all, true).contains(&expected), "all={all}");
            assert_ne!(all.max(own), 1, "the effective value");
        }
    }

    #[test]
    fn without_ipv6_nothing_of_it_is_touched() {
        let settings = of(0, false);
        assert!(
            settings
                .iter()
                .all(|it| it.starts_with("net/ipv4/conf/fulcrum"))
        );
        assert_eq!(of(0, true).len() - settings.len(), 14);
    }

    #[test]
    fn only_the_nodes_end_accepts_the_nodes_own_sources() {
        let local: Vec<String> = of(1, true)
            .into_iter()
            .filter(|it| it.contains("accept_local"))
            .collect();
        assert_eq!(local, ["net/ipv4/conf/fulcrum0/accept_local=1"]);
    }
}
