//! The BPF object that this binary carries, and the facts it is loaded with.
//!
//! Loading is all or nothing: on an error nothing of it stays in the kernel.

use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use lb_common::abi::{NodeConfig, map};

use super::uplink::NodeAddresses;
use crate::apply::Raw;

/// Compiled from the crate `lb-ebpf`.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("FULCRUM_BPF_OBJECT"));

/// Name of the global that holds the [`NodeConfig`].
const NODE: &str = "NODE";
/// First port for masquerading: beyond the default range of the kernel's own connections (32768 to
/// 60999) and of `NodePorts` (30000 to 32767).
const SNAT_PORT_BASE: u32 = 61_000;
/// All ports from there on.
const SNAT_PORT_COUNT: u32 = 65_536 - SNAT_PORT_BASE;

/// The facts that are fixed when the programs are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Flow positions per family, a power of two.
    pub flow_table_size: u32,
    /// The node's own addresses.
    pub addresses: NodeAddresses,
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

/// Creates the maps and makes the programs ready for the verifier.
pub fn load(facts: Facts) -> Result<Ebpf, ObjectError> {
    let node = Raw(node_config(facts).map_err(ObjectError::Random)?);
    EbpfLoader::new()
        .map_max_entries(map::FLOWS4, facts.flow_table_size)
        .map_max_entries(map::FLOWS6, facts.flow_table_size)
        .override_global(NODE, &node, true)
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(OBJECT)
        .map_err(ObjectError::Load)
}

fn node_config(facts: Facts) -> Result<NodeConfig, getrandom::Error> {
    let mut hash_key = [0; 12];
    for word in &mut hash_key {
        *word = getrandom::u32()?;
    }
    Ok(NodeConfig {
        hash_key,
        flow_mask4: facts.flow_table_size - 1,
        flow_mask6: facts.flow_table_size - 1,
        addr4: facts.addresses.v4.map(Into::into).unwrap_or_default(),
        addr6: facts.addresses.v6.map(Into::into).unwrap_or_default(),
        snat_port_base: SNAT_PORT_BASE,
        snat_port_count: SNAT_PORT_COUNT,
        ..NodeConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use lb_common::net::addr::Addr6;

    use super::*;

    #[test]
    fn the_node_is_described_as_the_programs_expect_it() {
        let facts = Facts {
            flow_table_size: 1024,
            addresses: NodeAddresses {
                v4: Some(Ipv4Addr::new(192, 0, 2, 1)),
                v6: None,
            },
        };
        let node = node_config(facts).expect("random numbers");
        assert_eq!((node.flow_mask4, node.flow_mask6), (1023, 1023));
        assert_eq!(Ipv4Addr::from(node.addr4), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(node.addr6, Addr6::default());
        assert_eq!(node.snat_port_base + node.snat_port_count, 1 << 16);
    }

    #[test]
    fn every_agent_has_a_secret_of_its_own() {
        let facts = Facts {
            flow_table_size: 64,
            addresses: NodeAddresses::default(),
        };
        let [a, b] = [(); 2].map(|()| node_config(facts).expect("random numbers").hash_key);
        assert_ne!(a, b);
    }
}
