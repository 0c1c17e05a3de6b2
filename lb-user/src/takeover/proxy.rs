//! Another proxy on this node, recognised by its tables.

use std::{fmt, fs, io};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    loader::{
        attribute::{Message, text},
        channel::Channel,
    },
    sys::old_table,
};

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
/// The chain where services begin in its iptables mode (`pkg/proxy/iptables/proxier.go`), and its table.
const CHAIN: &str = "KUBE-SERVICES";
const CHAINS_TABLE: &str = "nat";
/// Where the kernel lists the tables of the old iptables that are there.
const OLD_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

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
        match Channel::open(NETLINK_NETFILTER) {
            Ok(mut channel) => {
                for family in FAMILIES {
                    if has(&mut channel, GET_TABLE, family, &[text(TABLE_NAME, TABLE)])? {
                        return Ok(Some(Self::Nftables));
                    }
                    let chain = [text(CHAIN_TABLE, CHAINS_TABLE), text(CHAIN_NAME, CHAIN)];
                    if has(&mut channel, GET_CHAIN, family, &chain)? {
                        return Ok(Some(Self::Iptables));
                    }
                }
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(is_in_old_tables()?.then_some(Self::Iptables))
    }
}

/// Asked of the kernel only if it has the table: else it would make one.
fn is_in_old_tables() -> io::Result<bool> {
    for (is_ipv6, names) in [false, true].into_iter().zip(OLD_TABLES) {
        let names = match fs::read_to_string(names) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if names.lines().any(|name| name == CHAINS_TABLE)
            && has_chain(&old_table(is_ipv6, CHAINS_TABLE)?, CHAIN)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a chain begins among these entries: there the kernel keeps its name, with a zero after it.
fn has_chain(entries: &[u8], name: &str) -> bool {
    let wanted: Vec<u8> = name.bytes().chain([0]).collect();
    let mut windows = entries.windows(wanted.len());
    windows.any(|window| window == wanted)
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

/// It is not there, or the kernel has no such tables, or no netfilter at all.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENOENT
                | libc::EOPNOTSUPP
                | libc::EPROTONOSUPPORT
                | libc::EAFNOSUPPORT
                | libc::EINVAL
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_the_old_iptables_are_found_by_their_whole_names() {
        let entries = |name: &[u8]| [&[0x40, 0][..], name, &[0; 7], b"ERROR\0"].concat();
        for (name, is_there) in [
            (&b"KUBE-SERVICES"[..], true),
            (b"KUBE-SERVICES-2", false),
            (b"KUBE-SVC", false),
            (b"", false),
        ] {
            assert_eq!(has_chain(&entries(name), CHAIN), is_there, "{name:?}");
        }
    }

    #[test]
    fn what_the_kernel_does_not_have_is_absent_and_what_it_refuses_is_not() {
        let is_absent = |code| is_absent(&io::Error::from_raw_os_error(code));
        assert!(
            [libc::ENOENT, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT].map(is_absent) == [true; 3]
        );
        assert!([libc::EPERM, libc::ENOMEM, libc::EBUSY].map(is_absent) == [false; 3]);
    }
}
