//! Another proxy on this node, recognised by its tables.

use std::{fmt, io};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::attribute::{Message, text};
use crate::{check::legacy, loader::channel::Channel};

/// `NFNL_SUBSYS_NFTABLES` and messages of `linux/netfilter/nf_tables.h`.
const GET_TABLE: u16 = 10 << 8 | 1;
const GET_CHAIN: u16 = 10 << 8 | 4;
/// Attributes of them.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];

/// The table of kube-proxy's nftables mode (`pkg/proxy/nftables/proxier.go`).
const TABLE: &str = "kube-proxy";
/// The chain where services begin in its iptables mode (`pkg/proxy/iptables/proxier.go`).
const CHAIN: &str = "KUBE-SERVICES";

/// Whose rules are on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// kube-proxy in its nftables mode.
    Nftables,
    /// kube-proxy in its iptables mode, whichever iptables.
    Iptables,
}

impl Proxy {
    /// The one whose rules are in this network namespace, if any are.
    pub fn find() -> io::Result<Option<Self>> {
        let mut channel = Channel::open(NETLINK_NETFILTER)?;
        for family in FAMILIES {
            if has(&mut channel, GET_TABLE, family, &[text(TABLE_NAME, TABLE)])? {
                return Ok(Some(Self::Nftables));
            }
            let chain = [text(CHAIN_TABLE, "nat"), text(CHAIN_NAME, CHAIN)];
            if has(&mut channel, GET_CHAIN, family, &chain)? {
                return Ok(Some(Self::Iptables));
            }
        }
        let legacy = legacy::read().rules;
        let is_there = legacy.chains.keys().any(|name| name.chain == CHAIN);
        Ok(is_there.then_some(Self::Iptables))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "kube-proxy (nftables)",
            Self::Iptables => "kube-proxy (iptables)",
        })
    }
}

fn has(
    channel: &mut Channel<Message>,
    kind: u16,
    family: u8,
    name: &[Vec<u8>],
) -> io::Result<bool> {
    match channel.change(Message::new(kind, family, 0, name), 0) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// It is not there, or the kernel has no such tables at all.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EINVAL)
    )
}
