//! Socket options that neither the standard library nor nix knows: whether a packet may be fragmented, and how many hops
//! it may take.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
};

use anyhow::{Context, Result};
use nix::{
    setsockopt_impl, sockopt_impl,
    sys::socket::{setsockopt, sockopt},
};

sockopt_impl!(
    /// `IP_MTU_DISCOVER`.
    MtuDiscover4,
    SetOnly,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int
);
sockopt_impl!(
    /// `IPV6_MTU_DISCOVER`.
    MtuDiscover6,
    SetOnly,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int
);

/// What the stack does with a datagram that may be too large for its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// Anybody on the way may fragment it: no DF (IPv4).
    Allowed,
    /// Nobody may, and the sender's stack sends it whatever it has learnt of the way.
    Probe,
}

/// Says what may be done with datagrams that are too large for the way to `address`.
pub fn set_fragmentation(
    socket: &UdpSocket,
    address: SocketAddr,
    fragmentation: Fragmentation,
) -> Result<()> {
    // The values of IPv6 are the same.
    let value = match fragmentation {
        Fragmentation::Allowed => libc::IP_PMTUDISC_DONT,
        Fragmentation::Probe => libc::IP_PMTUDISC_PROBE,
    };
    let fd = socket.as_fd();
    match address {
        SocketAddr::V4(_) => setsockopt(&fd, MtuDiscover4, &value),
        SocketAddr::V6(_) => setsockopt(&fd, MtuDiscover6, &value),
    }
    .with_context(|| format!("set {fragmentation:?} for datagrams to {address}"))
}

/// Says how many hops datagrams to `address` may take.
pub fn set_hops(socket: &UdpSocket, address: SocketAddr, hops: u8) -> Result<()> {
    let (fd, value) = (socket.as_fd(), i32::from(hops));
    match address {
        SocketAddr::V4(_) => setsockopt(&fd, sockopt::Ipv4Ttl, &value),
        SocketAddr::V6(_) => setsockopt(&fd, sockopt::Ipv6Ttl, &value),
    }
    .with_context(|| format!("let datagrams to {address} take {hops} hops"))
}
