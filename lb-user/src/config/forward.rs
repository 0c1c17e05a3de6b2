//! Who forwards the packets of services.

use clap::ValueEnum;

/// Who forwards the packets of services between pods, other nodes and the outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Forward {
    /// The programs, past the stack: fastest; rules for forwarded packets (netfilter FORWARD) do not see them
    #[default]
    Direct,
    /// The stack: firewalls and network policies of netfilter see client and backend, in both directions
    Stack,
    /// `stack` if there are such rules when the agent starts, else `direct`
    Auto,
}
