//! A sender of whole IP packets, whatever their source: for floods and forged segments inside a test's own namespaces.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
    },
};

use crate::netns::Namespace;

/// Sends by the routes of the namespace that it was made in.
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    v6: OwnedFd,
    label: String,
}

impl RawSender {
    /// A sender in this namespace.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        let open = |family| {
            // A socket of this protocol takes the IP header from its user.
            let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
            namespace.run(|| socket(family, kind, flags, SockProtocol::Raw))
        };
        let context = || format!("make a raw socket in {}", namespace.label());
        Ok(Self {
            v4: open(AddressFamily::Inet).with_context(context)?,
            v6: open(AddressFamily::Inet6).with_context(context)?,
            label: namespace.label().to_owned(),
        })
    }

    /// Sends a packet, from its IP header on.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        let (socket, to) = match packet.first().map(|byte| byte >> 4) {
            Some(4) => (&self.v4, address::<4>(packet, 16)?.into()),
            Some(6) => (
                &self.v6,
                IpAddr::from(Ipv6Addr::from(address::<16>(packet, 24)?)),
            ),
            _ => bail!("not an IP packet: {packet:02x?}"),
        };
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        loop {
            match sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                // The device's queue is full: it empties by itself.
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(error) => bail!("send from {}: {error}", self.label),
            }
        }
    }
}

fn address<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N]> {
    let bytes = packet.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().context("a packet without its addresses")
}
