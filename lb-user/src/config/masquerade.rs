//! Whose source address gives way to one of this node's.

use clap::ValueEnum;
use lb_common::abi::node::masquerade;

/// When a client's source address gives way to one of this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Masquerade {
    /// Where the answers would not come back through this node otherwise
    #[default]
    AsNeeded,
    /// Exactly where kube-proxy does it; prefixes alone tell pods from other clients
    KubeProxy,
    /// Exactly where kube-proxy does it with --masquerade-all: clients of ClusterIPs always
    All,
}

impl Masquerade {
    /// The value in the programs' load-time facts.
    pub fn code(self) -> u32 {
        match self {
            Self::AsNeeded => masquerade::AS_NEEDED,
            Self::KubeProxy => masquerade::KUBE_PROXY,
            Self::All => masquerade::ALL,
        }
    }
}
