//! Whether sockets of the node's own are given backends when they dial.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// The flags about sockets.
#[derive(Args, Clone, Debug, Default)]
pub struct SocketFlags {
    /// Whose sockets are given an endpoint when they dial a service, instead of their packets on the way
    ///
    /// TCP, and UDP that is not connected. Whatever cannot be decided there is left to the packets: affinity, source ranges,
    /// least connections, nobody who serves, sockets that are bound to an address or a device.
    #[arg(long, value_enum, default_value_t)]
    pub socket_lb: SocketLb,

    /// The control group (cgroup2) whose sockets --socket-lb means, with those below it [default: all]
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
}

/// Whose sockets are given backends when they dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SocketLb {
    /// Nobody's
    #[default]
    Off,
    /// Those of the node's own network namespace: its processes and its host-network pods
    Host,
}

/// Which sockets are given backends when they dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// None.
    #[default]
    None,
    /// Those of the node's own network namespace that are in this control group; `None`: in any.
    OfNode(Option<PathBuf>),
}

impl From<SocketFlags> for Sockets {
    fn from(flags: SocketFlags) -> Self {
        match flags.socket_lb {
            SocketLb::Off => Self::None,
            SocketLb::Host => Self::OfNode(flags.cgroup),
        }
    }
}
