//! Flags that say what services are given and where they answer: for `run`, and for what answers without a node.

use std::str::FromStr;

use clap::Args;
use ipnet::IpNet;
use lb_common::select::MAGLEV_SEED;

use super::{ConfigError, Masquerade};
use crate::{
    alloc::PortRange,
    compile::{NodeFacts, NodePortAddresses},
    desired::Algorithm,
};

/// What stands for the node's own address among prefixes.
const PRIMARY: &str = "primary";

/// What services are given, and where they answer on this node.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Clone, Debug, Default)]
pub struct ServiceFlags {
    #[command(flatten)]
    /// What services are given.
    pub pools: PoolFlags,

    /// Which of this node's addresses answer on node ports: those inside prefixes, may be repeated, or primary for
    /// the one per family by which the cluster knows the node [default: all]
    ///
    /// A family without any prefix is not limited. 127.0.0.1 answers by default too, ::1 never does.
    #[arg(long, value_name = "CIDR|primary", num_args = 1.., value_delimiter = ',')]
    pub nodeport_addresses: Vec<NodePortAddress>,

    /// When a client's source address gives way to one of this node's
    #[arg(long, value_enum, default_value_t)]
    pub masquerade: Masquerade,

    /// How a new connection's endpoint is chosen where a Service does not say so by the annotation fulcrum.dev/algorithm
    #[arg(long, value_enum, default_value_t)]
    pub algorithm: Algorithm,

    /// What the algorithm maglev hashes packets with: a number, the same on all nodes
    #[arg(long, value_name = "NUMBER", default_value_t = MAGLEV_SEED)]
    pub maglev_seed: u64,

    /// This node's zone, for which endpoints may be meant [default: the label topology.kubernetes.io/zone of this
    /// node's Node object]
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub zone: Option<String>,
}

/// The same, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// What services are given.
    pub pools: PoolFlags,
    /// Which of the node's addresses answer on node ports.
    pub node_port_addresses: NodePortAddresses,
    /// The node's zone, where it is given.
    pub zone: Option<String>,
    /// When a client's source address gives way.
    pub masquerade: Masquerade,
    /// How endpoints are chosen where a service does not say.
    pub algorithm: Algorithm,
    /// What Maglev services hash packets with.
    pub maglev_seed: u64,
}

/// What services are given.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFlags {
    /// Numbers that node ports are allocated from
    #[arg(long, value_name = "FROM-TO", default_value_t)]
    pub service_node_port_range: PortRange,

    /// Refuse services that ask for a node port or an address outside of the ranges, instead of warning of them
    #[arg(long)]
    pub strict: bool,
}

impl PoolFlags {
    /// Writes down what the flags say.
    pub fn tell(&self, facts: &mut NodeFacts) {
        facts.node_port_range = self.service_node_port_range;
        facts.is_strict = self.strict;
    }
}

impl ServiceFlags {
    /// The settings, or what is wrong with the flags.
    pub fn check(self) -> Result<ServiceSettings, ConfigError> {
        let mut prefixes = Vec::new();
        for address in &self.nodeport_addresses {
            match address {
                NodePortAddress::Inside(prefix) => prefixes.push(*prefix),
                NodePortAddress::Primary => {}
            }
        }
        let has_primary = self.nodeport_addresses.contains(&NodePortAddress::Primary);
        let node_port_addresses = match (has_primary, prefixes.first()) {
            (true, Some(prefix)) => return Err(ConfigError::NodePortAddresses { prefix: *prefix }),
            (true, None) => NodePortAddresses::Primary,
            (false, Some(_)) => NodePortAddresses::Inside(prefixes),
            (false, None) => NodePortAddresses::All,
        };
        Ok(ServiceSettings {
            pools: self.pools,
            node_port_addresses,
            masquerade: self.masquerade,
            algorithm: self.algorithm,
            maglev_seed: self.maglev_seed,
            zone: self.zone,
        })
    }
}

impl ServiceSettings {
    /// Writes down what is set.
    pub fn tell(&self, facts: &mut NodeFacts) {
        self.pools.tell(facts);
        facts.zone.clone_from(&self.zone);
        facts.algorithm = self.algorithm;
        facts.prefixes_tell_pods = self.masquerade != Masquerade::AsNeeded;
        let addresses = &self.node_port_addresses;
        facts.node_port_addresses.clone_from(addresses);
    }
}

/// One value of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The addresses inside of a prefix.
    Inside(IpNet),
    /// The one of each family by which the cluster knows the node.
    Primary,
}

/// Why a text does not say which addresses answer on node ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a prefix as in 192.0.2.0/24, nor `{PRIMARY}`")]
pub struct NodePortAddressError;

impl FromStr for NodePortAddress {
    type Err = NodePortAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == PRIMARY {
            return Ok(Self::Primary);
        }
        let prefix = text.parse::<IpNet>().map_err(|_| NodePortAddressError)?;
        // As people copy it from a device: the address and its prefix.
        Ok(Self::Inside(prefix.trunc()))
    }
}

/// A zone is the value of a label.
fn zone(text: &str) -> Result<String, String> {
    let is_alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let is_valid = (1..=63).contains(&text.len())
        && text
            .chars()
            .all(|c| is_alphanumeric(c) || matches!(c, '-' | '_' | '.'))
        && text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric);
    if is_valid {
        Ok(text.to_owned())
    } else {
        let message = "not the value of a label: 1 to 63 letters, digits, dashes, underscores and dots, the first \
                       and last a letter or digit";
        Err(message.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServiceFlags,
    }

    fn facts(line: &str) -> Result<NodeFacts, String> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let mut facts = NodeFacts::default();
        let settings = line.flags.check().map_err(|error| error.to_string())?;
        settings.tell(&mut facts);
        Ok(facts)
    }

    #[test]
    fn nothing_given_is_what_clusters_do() {
        assert_eq!(facts(""), Ok(NodeFacts::default()));
    }

    #[test]
    fn what_is_given_becomes_facts() {
        let given = facts(
            "--service-node-port-range 20000-20100 --strict --zone eu-1a --algorithm maglev \
             --nodeport-addresses 192.0.2.0/24,198.51.100.7/24 --nodeport-addresses 2001:db8::/32",
        );
        let parse = |text: &str| text.parse::<IpNet>().expect("literal");
        let expected = NodeFacts {
            node_port_range: "20000-20100".parse().expect("literal"),
            is_strict: true,
            algorithm: Algorithm::Maglev,
            zone: Some("eu-1a".to_owned()),
            node_port_addresses: NodePortAddresses::Inside(vec![
                parse("192.0.2.0/24"),
                parse("198.51.100.0/24"),
                parse("2001:db8::/32"),
            ]),
            ..NodeFacts::default()
        };
        assert_eq!(given, Ok(expected));
        let primary = facts("--nodeport-addresses primary").expect("valid");
        assert_eq!(primary.node_port_addresses, NodePortAddresses::Primary);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_flag_and_value() {
        for (line, message) in [
            (
                "--service-node-port-range 30000",
                "not of the form FROM-TO, as in 30000-32767",
            ),
            (
                "--service-node-port-range 2-1",
                "begins at 2 and ends at 1, which comes before it",
            ),
            (
                "--nodeport-addresses 192.0.2.1",
                "not a prefix as in 192.0.2.0/24, nor `primary`",
            ),
            (
                "--nodeport-addresses primary,192.0.2.0/24",
                "192.0.2.0/24 stands beside `primary`; give either",
            ),
            ("--zone=a/b", "not the value of a label"),
        ] {
            let error = facts(line).expect_err(line);
            let flag = line.split([' ', '=']).next().unwrap_or_default();
            let is_told = error.contains(message) && error.contains(flag);
            assert!(is_told, "{line}: {error}");
        }
    }
}
