//! How packets are handed to the pods of this node.

use clap::ValueEnum;

/// How packets of services are handed to a pod of this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LocalDelivery {
    /// Straight into the pod's network namespace, past the host side of its device, where nothing there is to see them
    #[default]
    Auto,
    /// By the host side of its device, whatever is there
    Device,
}
