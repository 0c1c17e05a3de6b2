//! What is compared: one list. A further way to carry out Services is one more entry.

use lb_tests::rawbpf::Hook;

use crate::site::{FAR, Layout};

/// A way to carry out Services, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// As rows are called.
    pub(crate) name: &'static str,
    /// Who does the work.
    pub(crate) worker: Worker,
    /// The network that it does it in.
    pub(crate) layout: Layout,
    /// Where packets end; where the last hop is XDP's, that takes no buffer of the stack's either.
    pub(crate) receiver: Hook,
}

/// Who does the work on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worker {
    /// `fulcrum run` with these flags.
    Agent(&'static [&'static str]),
    /// The same on the client's own machine, whose sockets are given backends when they dial; the node forwards alone. This is the
    /// device that its programs for packets are on.
    Sockets(&'static str),
    /// The kernel's forwarding alone: clients dial a backend. No Service is carried out.
    Forwarding,
    /// The rules of kube-proxy's nftables mode.
    Nftables,
    /// The rules of its iptables mode, in the old tables, which are the faster ones.
    Iptables,
}

impl Worker {
    /// Whether there are services, of which the number matters.
    pub(crate) fn has_services(self) -> bool {
        self != Self::Forwarding
    }

    /// Whether packets are made past the sockets of a client.
    pub(crate) fn meets_packets(self) -> bool {
        !matches!(self, Self::Sockets(_))
    }
}

/// Pods alone are clients here, and those of kube-proxy's rules are never masqueraded either.
const PODS: &str = "--pod-cidr=10.244.0.0/16";

/// All that is compared. Two entries may be the same but for their names: the difference between them is noise.
pub(crate) const SETTINGS: [Setting; 8] = [
    Setting {
        name: "xdp",
        worker: Worker::Agent(&["--mode=xdp", "--masquerade=kube-proxy", PODS]),
        layout: Layout::OneUplink,
        receiver: Hook::Xdp,
    },
    Setting {
        name: "tc",
        worker: Worker::Agent(&["--mode=tc", PODS]),
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: "connect-time",
        worker: Worker::Sockets("none"),
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: "connect-time+tc",
        worker: Worker::Sockets(FAR),
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: FORWARDING,
        worker: Worker::Forwarding,
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: FORWARDING_AGAIN,
        worker: Worker::Forwarding,
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: "nftables",
        worker: Worker::Nftables,
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
    Setting {
        name: "iptables",
        worker: Worker::Iptables,
        layout: Layout::PodAndUplink,
        receiver: Hook::Tc,
    },
];

/// What everything is compared with.
pub(crate) const FORWARDING: &str = "forwarding";
/// The same once more, for the noise.
pub(crate) const FORWARDING_AGAIN: &str = "forwarding-again";
