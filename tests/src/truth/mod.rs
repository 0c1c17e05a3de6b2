//! Fact tables: Services in one static state, flows of packets, and what must become of each.
//!
//! `testdata/packetflow.yaml` has the flows of kube-proxy's own tests, `testdata/truthtable.yaml` those of ours; both have
//! the same form. A flow is the first packet of a new connection, with no affinity record. What a runner makes of a flow is
//! an [`Answer`]; [`Case::judge`] compares it with the table under a [`Masquerade`] mode:
//!
//! | mode | source NAT |
//! | --- | --- |
//! | `kube-proxy` | exactly as the table says |
//! | `all` | the same, for cases whose table says that everything to `ClusterIP`s is masqueraded |
//! | `as-needed` | where the answer would not come back otherwise; elsewhere only where kube-proxy does it too |
//!
//! A pod whose connection ends at itself is masqueraded in every mode, whatever the other candidates ask for.

use std::{collections::BTreeSet, fmt, fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result, ensure};

mod case;
mod raw;
pub mod traced;

pub use case::{Case, Flags, Node};

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What it is called in its case.
    pub name: String,
    /// Who sends it.
    pub class: SourceClass,
    /// The protocol.
    pub protocol: Protocol,
    /// From where; a table that gives no port leaves [`DEFAULT_PORT`].
    pub from: SocketAddr,
    /// To where.
    pub to: SocketAddr,
    /// What must become of it.
    pub expect: Expect,
    /// Whether kube-proxy gives it another source.
    pub masquerade: bool,
    /// The list that its client may use, where the table says so: `cluster`, `external-local`, `internal-local`.
    pub list: Option<String>,
    /// The kind of address that it dials, where the table says so.
    pub frontend: Option<String>,
    /// `ns/name:port` of the service, where the table says so.
    pub service: Option<String>,
}

/// The source port of flows that name none.
pub const DEFAULT_PORT: u16 = 40_000;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceClass {
    /// A pod of this node.
    Pod,
    /// A process of the node, from one of its addresses.
    Node,
    /// A process of the node, from 127.0.0.1 or `::1`.
    Localhost,
    /// A client outside of the cluster, or whoever else comes by the uplink.
    External,
}

impl SourceClass {
    /// The way by which its packets enter the node, as `fulcrum trace --in` spells it.
    pub fn way_in(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::External => "uplink",
            Self::Node | Self::Localhost => "host",
        }
    }

    /// True for processes of the node.
    pub fn is_host(self) -> bool {
        matches!(self, Self::Node | Self::Localhost)
    }
}

/// Layer-4 protocols of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
    /// RFC 9260.
    Sctp,
}

impl fmt::Display for Protocol {
    /// As `fulcrum trace --protocol` spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Sent to one of these, each of them in its turn.
    Forward(BTreeSet<SocketAddr>),
    /// The client is told at once that nobody serves there.
    Reject,
    /// Silently dropped.
    Drop,
    /// Left to the node's own stack: it is no traffic of services.
    Local,
    /// Left alone: it is neither ours nor this node's.
    Pass,
}

impl fmt::Display for Expect {
    /// As the verdicts of `fulcrum trace`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward(_) => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
            Self::Local => "local",
            Self::Pass => "pass",
        })
    }
}

/// Values of `--masquerade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Where the answer would not come back otherwise.
    AsNeeded,
    /// As kube-proxy does.
    KubeProxy,
    /// As kube-proxy does with `--masquerade-all`.
    All,
}

impl fmt::Display for Masquerade {
    /// As the flag's value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AsNeeded => "as-needed",
            Self::KubeProxy => "kube-proxy",
            Self::All => "all",
        })
    }
}

/// What a runner found for a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What became of it, with the candidates.
    pub outcome: Expect,
    /// Of a forwarded packet: the backends that were seen, and whether its source was replaced on the way to each.
    pub sources: Vec<(SocketAddr, bool)>,
}

/// The cases of a file in `testdata`.
pub fn load(file: &str) -> Result<Vec<Case>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let cases = raw::parse(&text).with_context(|| format!("read {}", path.display()))?;
    let ids: BTreeSet<&str> = cases.iter().map(|case| case.id.as_str()).collect();
    ensure!(
        ids.len() == cases.len(),
        "{}: two cases have one id",
        path.display()
    );
    Ok(cases)
}

#[cfg(test)]
mod tests;
