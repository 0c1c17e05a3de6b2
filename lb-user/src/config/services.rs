//! Flags that say what services are given and where they answer: for `run`, and for what answers without a node.

use std::str::FromStr;

use clap::Args;
use ipnet::IpNet;

use super::Masquerade;
use crate::{
    alloc::PortRange,
    compile::{NodeFacts, NodePortAddresses},
};

/// What stands for the node's own address among prefixes.
const PRIMARY: &str = "primary";

/// What services are given, and where they answer on this node.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFlags {
    #[command(flatten)]
    /// What services are given.
    pub pools: PoolFlags,

    /// Which of this node's addresses answer on node ports: those inside prefixes, or primary for the one per family
    /// by which the cluster knows the node [default: all]
    ///
    /// A family without any prefix is not limited. 127.0.0.1 answers by default too, ::1 never does.
    #[arg(long, value_name = "CIDR,...|primary")]
    pub nodeport_addresses: Option<NodePortAddressesFlag>,

    /// When a client's source address gives way to one of this node's
    #[arg(long, value_enum, default_value_t)]
    pub masquerade: Masquerade,

    /// This node's zone, for which endpoints may be meant [default: the label topology.kubernetes.io/zone of this
    /// node's Node object]
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    pub zone: Option<String>,
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
    /// Writes down what the flags say.
    pub fn tell(&self, facts: &mut NodeFacts) {
        self.pools.tell(facts);
        facts.zone.clone_from(&self.zone);
        facts.prefixes_tell_pods = self.masquerade != Masquerade::AsNeeded;
        if let Some(NodePortAddressesFlag(addresses)) = &self.nodeport_addresses {
            facts.node_port_addresses.clone_from(addresses);
        }
    }
}

/// The value of `--nodeport-addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePortAddressesFlag(pub NodePortAddresses);

/// Why a text does not say which addresses answer on node ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodePortAddressesError {
    /// A part is no prefix.
    #[error("{0:?} is no prefix; give prefixes as in 192.0.2.0/24, or `{PRIMARY}`")]
    Prefix(String),
    /// A prefix has host bits.
    #[error("{value} has host bits; did you mean {}?", value.trunc())]
    HostBits {
        /// The prefix.
        value: IpNet,
    },
    /// Both are given.
    #[error("`{PRIMARY}` stands alone; give either it or prefixes")]
    Both,
}

impl FromStr for NodePortAddressesFlag {
    type Err = NodePortAddressesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        if parts == [PRIMARY] {
            return Ok(Self(NodePortAddresses::Primary));
        }
        if parts.contains(&PRIMARY) {
            return Err(NodePortAddressesError::Both);
        }
        let prefix = |part: &&str| {
            let prefix = part.parse::<IpNet>();
            let prefix = prefix.map_err(|_| NodePortAddressesError::Prefix((*part).to_owned()))?;
            if prefix == prefix.trunc() {
                Ok(prefix)
            } else {
                Err(NodePortAddressesError::HostBits { value: prefix })
            }
        };
        let prefixes: Result<_, _> = parts.iter().map(prefix).collect();
        Ok(Self(NodePortAddresses::Inside(prefixes?)))
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
        line.flags.tell(&mut facts);
        Ok(facts)
    }

    #[test]
    fn nothing_given_is_what_clusters_do() {
        assert_eq!(facts(""), Ok(NodeFacts::default()));
    }

    #[test]
    fn what_is_given_becomes_facts() {
        let given = facts(
            "--service-node-port-range 20000-20100 --strict --zone eu-1a \
             --nodeport-addresses 192.0.2.0/24,2001:db8::/32",
        );
        let parse = |text: &str| text.parse::<IpNet>().expect("literal");
        let expected = NodeFacts {
            node_port_range: "20000-20100".parse().expect("literal"),
            is_strict: true,
            zone: Some("eu-1a".to_owned()),
            node_port_addresses: NodePortAddresses::Inside(vec![
                parse("192.0.2.0/24"),
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
                "\"192.0.2.1\" is no prefix",
            ),
            (
                "--nodeport-addresses 192.0.2.1/24",
                "192.0.2.1/24 has host bits; did you mean 192.0.2.0/24?",
            ),
            (
                "--nodeport-addresses primary,192.0.2.0/24",
                "`primary` stands alone",
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
