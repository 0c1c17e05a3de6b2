//! The BPF object that this binary carries, and the facts it is loaded with.
//!
//! Loading is all or nothing: on an error nothing of it stays in the kernel.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned, util::KernelVersion,
};
use lb_common::{
    abi::{NextHop, NodeConfig, capacity, former, map, node::features},
    hash::{self, HashKey},
    net::addr::Family,
};

use super::{pair::HostFacts, uplink::NodeAddresses};
use crate::{
    apply::Raw,
    config::{FlowSettings, FlowTableSizes, Masquerade},
    plan::Capacity,
};

/// Compiled from the crate `lb-ebpf`.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("FULCRUM_BPF_OBJECT"));

/// Name of the global that holds the [`NodeConfig`].
const NODE: &str = "NODE";
/// Name of the one that holds the key of Maglev services.
const MAGLEV: &str = "MAGLEV";
/// Name of the one that holds [`Facts::netns`].
const NETNS: &str = "NETNS";
/// Name of the one that holds [`former::Layouts`]; in releases that need it.
const LAYOUTS: &str = "LAYOUTS";
/// `BPF_FIB_LOOKUP_SRC` of `linux/bpf.h`: the FIB names the preferred source as well.
const BPF_FIB_LOOKUP_SRC: u32 = 1 << 4;
/// The first kernel that knows it; older ones refuse a flag that they do not know.
const FIB_SRC_KERNEL: KernelVersion = KernelVersion::new(6, 7, 0);

/// The facts that are fixed when the programs are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How large the flow tables are.
    pub flow_table: FlowTableSizes,
    /// The node's own addresses.
    pub addresses: NodeAddresses,
    /// The agent's own pair of devices.
    pub host: HostFacts,
    /// When a client's source address gives way.
    pub masquerade: Masquerade,
    /// The stack forwards.
    pub by_stack: bool,
    /// How connections are kept.
    pub flows: FlowSettings,
    /// What Maglev services hash packets with.
    pub maglev_seed: u64,
    /// The cookie of the network namespace whose sockets are given backends when they dial; 0: none are.
    pub netns: u64,
    /// How large tables of services are that are made.
    pub tables: Capacity,
}

/// What the object is loaded with beside the facts.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Clients per family that affinity is remembered of.
    pub affinity_size: u32,
    /// The key under which Maglev services look packets up.
    pub maglev_key: HashKey,
    /// [`Facts::netns`].
    pub netns: u64,
    /// How large tables of services are that are made.
    pub tables: Capacity,
}

impl Terms {
    pub(super) fn of(facts: &Facts) -> Self {
        Self {
            affinity_size: facts.flows.affinity_size,
            maglev_key: hash::expand(facts.maglev_seed),
            netns: facts.netns,
            tables: facts.tables,
        }
    }

    /// Entries of the tables of what sockets have dialled, per family.
    pub(super) fn dialled_size(&self) -> u32 {
        if self.netns == 0 {
            1
        } else {
            capacity::DIALLED
        }
    }
}

/// Why the object cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The kernel refused it, or it does not parse.
    #[error("cannot load the BPF object; `fulcrum check` tells what the kernel lacks")]
    Load(#[source] EbpfError),
    /// No secret for the flow hash.
    #[error("the kernel gives no random numbers")]
    Random(#[source] getrandom::Error),
}

/// Loads the object on maps of its own; the facts are told as the programs have them.
pub fn load(facts: Facts) -> Result<(Ebpf, NodeConfig), ObjectError> {
    let node = node_config(facts, [facts.flow_table.size; 2], None)?;
    Ok((load_on(node, &Terms::of(&facts), &[])?, node))
}

/// Creates the maps, or takes those that are pinned whatever they are like, and makes the programs ready for the verifier.
/// `pins`: where maps are pinned or shall be, a name in the object and a path each; others are its own.
pub(super) fn load_on(
    node: NodeConfig,
    terms: &Terms,
    pins: &[(&'static str, PathBuf)],
) -> Result<Ebpf, ObjectError> {
    let flow_tables = [
        (map::FLOWS4, node.flow_mask4),
        (map::FLOWS6, node.flow_mask6),
        (map::FLOWS4_OTHER, node.other_mask4),
        (map::FLOWS6_OTHER, node.other_mask6),
    ];
    let replaced = if node.other_mask6 == 0 {
        Family::V4
    } else {
        Family::V6
    };
    let layouts = former::layouts(node.features, replaced).concat();
    let node = Raw(node);
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries(map::AFFINITY4, terms.affinity_size)
        .map_max_entries(map::AFFINITY6, terms.affinity_size)
        .map_max_entries(map::DIALLED4, terms.dialled_size())
        .map_max_entries(map::DIALLED6, terms.dialled_size())
        .override_global(NODE, &node, true)
        .override_global(MAGLEV, terms.maglev_key.as_slice(), true)
        .override_global(NETNS, &terms.netns, true)
        .override_global(LAYOUTS, layouts.as_slice(), false)
        .verifier_log_level(VerifierLogLevel::STATS);
    for name in map::ALL {
        if let Some(entries) = terms.tables.entries(name) {
            loader.map_max_entries(name, entries);
        }
    }
    for (name, mask) in flow_tables.into_iter().filter(|(_, mask)| *mask != 0) {
        loader.map_max_entries(name, mask + 1);
    }
    for (name, path) in pins {
        loader.map_pin_path(name, path.as_path());
    }
    loader.load(OBJECT).map_err(ObjectError::Load)
}

/// The facts as the programs have them. `hash_key`: the secret by which flows lie in the tables, if there are any.
pub(super) fn node_config(
    facts: Facts,
    [v4, v6]: [u32; 2],
    hash_key: Option<[u32; 12]>,
) -> Result<NodeConfig, ObjectError> {
    let hash_key = match hash_key {
        Some(known) => known,
        None => random().map_err(ObjectError::Random)?,
    };
    let snat_ports = facts.flows.snat_ports;
    Ok(NodeConfig {
        hash_key,
        flow_mask4: v4 - 1,
        flow_mask6: v6 - 1,
        addr4: facts.addresses.v4.map(Into::into).unwrap_or_default(),
        addr6: facts.addresses.v6.map(Into::into).unwrap_or_default(),
        snat_port_base: snat_ports.first().into(),
        snat_port_count: u32::from(snat_ports.last() - snat_ports.first()) + 1,
        host_ifindex: facts.host.near,
        // As the frame arrives at the node's end: sent to it, from the other.
        host_macs: NextHop::join_macs(facts.host.near_mac, facts.host.far_mac),
        fib_flags: fib_flags(KernelVersion::current().ok()),
        hairpin4: facts.host.hairpin.v4.into(),
        hairpin6: facts.host.hairpin.v6.into(),
        masquerade: facts.masquerade.code(),
        features: facts.flows.features() | forwarding(facts.by_stack),
        lifetimes: facts.flows.timeouts.lifetimes(),
        ..NodeConfig::DEFAULT
    })
}

/// The bits of [`features`] that say who forwards.
fn forwarding(by_stack: bool) -> u32 {
    if by_stack {
        features::FORWARD_STACK | features::LEAVING
    } else {
        0
    }
}

fn random() -> Result<[u32; 12], getrandom::Error> {
    let mut key = [0; 12];
    for word in &mut key {
        *word = getrandom::u32()?;
    }
    Ok(key)
}

fn fib_flags(kernel: Option<KernelVersion>) -> u32 {
    if kernel.is_some_and(|kernel| kernel >= FIB_SRC_KERNEL) {
        BPF_FIB_LOOKUP_SRC
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lb_common::{
        abi::node::features,
        flow::{
            clock::{Timeouts, row},
            slot::{SlotFlags, State, StateWord},
        },
        net::addr::Addr6,
    };

    use super::*;
    use crate::loader::pair::name::Hairpin;

    const HOST: HostFacts = HostFacts {
        near: 7,
        near_mac: [2, 0, 0, 0, 0, 1],
        far_mac: [2, 0, 0, 0, 0, 2],
        hairpin: Hairpin {
            v4: Ipv4Addr::new(169, 254, 90, 1),
            v6: std::net::Ipv6Addr::LOCALHOST,
        },
    };

    fn sizes(size: u32) -> FlowTableSizes {
        FlowTableSizes {
            size,
            max: size,
            is_given: false,
        }
    }

    #[test]
    fn the_preferred_source_is_asked_for_where_the_kernel_knows_the_question() {
        let of = |major, minor| fib_flags(Some(KernelVersion::new(major, minor, 0)));
        assert_eq!((of(6, 1), of(6, 6), fib_flags(None)), (0, 0, 0));
        assert_eq!((of(6, 7), of(7, 0)), (0x10, 0x10));
    }

    #[test]
    fn the_node_is_described_as_the_programs_expect_it() {
        let facts = Facts {
            flow_table: sizes(1024),
            addresses: NodeAddresses {
                v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
                v6: None,
            },
            host: HOST,
            masquerade: Masquerade::KubeProxy,
            by_stack: false,
            flows: FlowSettings {
                snat_ports: "50000-50009".parse().expect("literal"),
                timeouts: Timeouts {
                    udp: 1,
                    ..Timeouts::DEFAULT
                },
                ..FlowSettings::default()
            },
            maglev_seed: 0,
            netns: 0,
            tables: Capacity::default(),
        };
        let node = node_config(facts, [1024, 2048], None).expect("random numbers");
        let half_open = StateWord::default().with(State::HalfOpen);
        assert_eq!(node.masquerade, 1);
        assert_eq!((node.flow_mask4, node.flow_mask6), (1023, 2047));
        assert_eq!(Ipv4Addr::from(node.addr4), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(node.addr6, Addr6::default());
        let macs = NextHop {
            macs: node.host_macs,
            ..NextHop::default()
        };
        assert_eq!(node.host_ifindex, 7);
        assert_eq!(macs.split_macs(), (HOST.near_mac, HOST.far_mac));
        assert_eq!(Ipv4Addr::from(node.hairpin4), HOST.hairpin.v4);
        assert_eq!((node.snat_port_base, node.snat_port_count), (50_000, 10));
        assert_eq!(node.features, features::ECHO);
        assert_eq!(node.lifetimes[row(17, half_open, SlotFlags::default())], 60);
    }

    #[test]
    fn every_agent_has_a_secret_of_its_own_or_that_of_the_flows_that_are_there() {
        let facts = Facts {
            flow_table: sizes(64),
            addresses: NodeAddresses::default(),
            host: HOST,
            masquerade: Masquerade::KubeProxy,
            by_stack: false,
            flows: FlowSettings::default(),
            maglev_seed: 0,
            netns: 0,
            tables: Capacity::default(),
        };
        let key = |known| {
            let node = node_config(facts, [64; 2], known).expect("random numbers");
            node.hash_key
        };
        let [a, b] = [(); 2].map(|()| key(None));
        assert_ne!(a, b);
        assert_eq!(key(Some(a)), a, "where flows lie, they stay");
    }
}
