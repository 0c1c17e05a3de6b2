//! A listening socket on one address or on all addresses of the node.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on one address; on all addresses of both families where it is that of none (`0.0.0.0`, `::`), or of IPv4
/// alone where the kernel has no IPv6. Called inside of a runtime.
pub(super) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return bind(address);
    }
    let port = address.port();
    let lacks_v6 = |error: &io::Error| {
        matches!(
            error.raw_os_error(),
            Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
        )
    };
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if lacks_v6(&error) => bind((Ipv4Addr::UNSPECIFIED, port).into()),
        done => done,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // Connections that have just ended do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
