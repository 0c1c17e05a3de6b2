//! A sender of fragments in any order: packets made here, sent by raw sockets, which leave them as they are.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context, Result};
use lb_common::{
    fake::{FakePacket, PacketSpec, Transport},
    net::addr::{Addr, Addr4, Addr6},
};
use lb_tests::netns::Namespace;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// Bytes of payload of a fragment that fills a packet of 1500 bytes of either family.
const SIZE: usize = 1448;

/// Sends from one namespace to one address.
pub(crate) struct Sender {
    socket: OwnedFd,
    from: IpAddr,
    to: SocketAddr,
}

impl Sender {
    /// A sender from the address that the namespace's own sockets would send from.
    pub(crate) fn new(namespace: &Namespace, to: SocketAddr) -> Result<Self> {
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let open = || {
            socket(
                family,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Raw,
            )
        };
        Ok(Self {
            socket: namespace.run(open).context("open a raw socket")?,
            from: namespace.source_to(to.ip())?,
            to,
        })
    }

    /// The fragments of a datagram from this port, in order.
    pub(crate) fn cut(&self, port: u16, id: u32, payload: &[u8]) -> Result<Vec<FakePacket>> {
        match self.to {
            SocketAddr::V4(_) => self.cut_of::<Addr4>(port, id, payload),
            SocketAddr::V6(_) => self.cut_of::<Addr6>(port, id, payload),
        }
    }

    fn cut_of<A: Addr>(&self, port: u16, id: u32, payload: &[u8]) -> Result<Vec<FakePacket>> {
        let addr = |ip| A::from_ip(ip).context("an address of the family");
        let (from, to) = (addr(self.from)?, addr(self.to.ip())?);
        let spec = PacketSpec {
            may_fragment: true,
            payload: payload.to_vec(),
            ..PacketSpec::new((from, port), (to, self.to.port()), Transport::Udp)
        };
        Ok(spec.packet().cut(SIZE, id))
    }

    /// Sends one packet.
    pub(crate) fn send(&self, packet: &FakePacket) -> Result<()> {
        let to = SockaddrStorage::from(SocketAddr::new(self.to.ip(), 0));
        let fd = self.socket.as_raw_fd();
        sendto(fd, packet.bytes(), &to, MsgFlags::empty())
            .with_context(|| format!("send a fragment to {}", self.to))?;
        Ok(())
    }
}
