//! Clients: one exchange with a hostname server, or many, and where each of them ended.
//!
//! Single exchanges use the network namespace of the calling thread ([`Namespace::run`]); the runs of many enter it
//! themselves. Every reply must come from the address that was dialled: a connected socket gets no other, and an
//! unconnected one checks what `recv_from` says.
//!
//! *Ports.* TCP takes the kernel's: the server closes first ([`crate::server`]), so none is left in `TIME_WAIT` here. UDP
//! takes the next of a range below the ephemeral ports for each exchange, so that no two of a run share a flow, which
//! would spoil the independence that a test of the spread needs.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    panic::resume_unwind,
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use crate::{netns::Namespace, poll::patiently, tally::Tally};

/// How long one step of an exchange may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Longest datagram of either family.
const MAX_DATAGRAM: usize = 65_536;
/// A run that fails this often has failed.
const MAX_FAILURES: usize = 20;
/// First port that UDP exchanges take.
const FIRST_PORT: u16 = 10_000;
/// How many they take in turn; the last is below Linux's ephemeral ports.
const N_PORTS: u16 = 22_000;

/// How a UDP client uses its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpMode {
    /// `connect`, `send`, `recv`: the kernel drops what comes from elsewhere.
    Connected,
    /// `send_to`, `recv_from`: what comes from elsewhere is received, and a failure.
    Unconnected,
}

/// Protocol and manner of the exchanges of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// A connection each.
    Tcp,
    /// A socket and port each.
    Udp(UdpMode),
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp(UdpMode::Connected) => "UDP (connected)",
            Self::Udp(UdpMode::Unconnected) => "UDP (unconnected)",
        })
    }
}

/// `n` exchanges in a row from a namespace; ends early after many failures.
pub fn many(namespace: &Namespace, exchange: Exchange, address: SocketAddr, n: usize) -> Tally {
    namespace.run(|| {
        let mut tally = Tally::new(format!("{n} {exchange} exchanges with {address}"), n);
        while !tally.is_done() && tally.failures().len() < MAX_FAILURES {
            tally.count(hit(exchange, address));
        }
        tally
    })
}

/// One exchange; returns the name of the server that answered.
pub fn hit(exchange: Exchange, address: SocketAddr) -> Result<String> {
    match exchange {
        Exchange::Tcp => tcp_hit(address),
        Exchange::Udp(mode) => udp_hit(&udp_socket(mode, address)?, address),
    }
}

/// One HTTP request on a connection of its own; returns the name of the server that answered.
pub fn tcp_hit(address: SocketAddr) -> Result<String> {
    server_of(&request(connect(address)?, address)?)
}

/// As [`tcp_hit`], with one of this namespace's addresses as the client's.
pub fn tcp_hit_from(source: IpAddr, address: SocketAddr) -> Result<String> {
    server_of(&request(connect_from(source, address)?, address)?)
}

/// One HTTP request on a connection of its own; returns the whole response.
pub fn http(address: SocketAddr) -> Result<String> {
    request(connect(address)?, address)
}

/// Who sent a whole response.
fn server_of(response: &str) -> Result<String> {
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((response, ""));
    ensure!(
        head.starts_with("HTTP/1.1 200 "),
        "the response is {response:?}"
    );
    server_name(body)
}

fn request(mut stream: TcpStream, address: SocketAddr) -> Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .context("send the request")?;
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .context("receive the response")?;
    Ok(response)
}

/// Sends all of it to an echo server on a connection of its own, and returns what comes back until the server ends.
pub fn echoed(address: SocketAddr, sent: &[u8]) -> Result<Vec<u8>> {
    let mut stream = connect(address)?;
    let mut writer = stream.try_clone().context("use the connection twice")?;
    let mut received = Vec::with_capacity(sent.len());
    thread::scope(|scope| {
        let write = || {
            writer.write_all(sent)?;
            writer.shutdown(Shutdown::Write)
        };
        let writer = scope.spawn(write);
        stream
            .read_to_end(&mut received)
            .with_context(|| format!("receive, after {} bytes", received.len()))?;
        match writer.join() {
            Ok(written) => written.context("send"),
            Err(panic) => resume_unwind(panic),
        }
    })?;
    Ok(received)
}

/// Sends a datagram on a connected socket, and returns the answer.
pub fn echoed_datagram(socket: &UdpSocket, sent: &[u8]) -> Result<Vec<u8>> {
    let mut answer = vec![0; MAX_DATAGRAM];
    socket
        .set_read_timeout(Some(patiently(LIMIT)))
        .context("set a time limit")?;
    socket.send(sent).context("send")?;
    let len = socket.recv(&mut answer).context("receive")?;
    answer.truncate(len);
    Ok(answer)
}

/// A connection on which no step takes longer than an exchange may.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    limited(TcpStream::connect_timeout(&address, patiently(LIMIT)).context("connect")?)
}

/// As [`connect`], with one of this namespace's addresses as the client's.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None).context("make a socket")?;
    // The time limit of sending is that of connecting, too.
    let stream = limited(TcpStream::from(socket))?;
    let own = SockaddrStorage::from(SocketAddr::new(source, 0));
    socket::bind(stream.as_raw_fd(), &own).with_context(|| format!("take {source}"))?;
    socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(address)).context("connect")?;
    Ok(stream)
}

/// As [`connect`], from this port of the client's.
pub fn connect_from_port(port: u16, address: SocketAddr) -> Result<TcpStream> {
    let (family, any) = match address {
        SocketAddr::V4(_) => (AddressFamily::Inet, IpAddr::from([0; 4])),
        SocketAddr::V6(_) => (AddressFamily::Inet6, IpAddr::from([0; 16])),
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None).context("make a socket")?;
    let stream = limited(TcpStream::from(socket))?;
    let own = SockaddrStorage::from(SocketAddr::new(any, port));
    socket::bind(stream.as_raw_fd(), &own).with_context(|| format!("take port {port}"))?;
    socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(address)).context("connect")?;
    Ok(stream)
}

/// Ends a connection by a reset, so that its port is free at once.
pub fn reset(stream: TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    socket::setsockopt(&stream, socket::sockopt::Linger, &linger).context("choose to reset")?;
    drop(stream);
    Ok(())
}

/// A connection that is tried for so long; nothing if nobody answers in that time. A refusal is an error.
pub fn try_connect(address: SocketAddr, limit: Duration) -> Result<Option<TcpStream>> {
    match TcpStream::connect_timeout(&address, limit) {
        Ok(stream) => limited(stream).map(Some),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error).context("connect"),
    }
}

fn limited(stream: TcpStream) -> Result<TcpStream> {
    stream
        .set_read_timeout(Some(patiently(LIMIT)))
        .context("set a time limit")?;
    stream
        .set_write_timeout(Some(patiently(LIMIT)))
        .context("set a time limit")?;
    Ok(stream)
}

/// One datagram and its answer, on a socket that is connected to `address` or not at all.
pub fn udp_hit(socket: &UdpSocket, address: SocketAddr) -> Result<String> {
    let mut answer = [0; 512];
    let is_connected = socket.peer_addr().is_ok();
    socket
        .set_read_timeout(Some(patiently(LIMIT)))
        .context("set a time limit")?;
    let unanswered = || format!("receive at {:?}", socket.local_addr().ok());
    let len = if is_connected {
        socket.send(b"hello\n").context("send")?;
        socket.recv(&mut answer).with_context(unanswered)?
    } else {
        socket.send_to(b"hello\n", address).context("send")?;
        let received = socket.recv_from(&mut answer);
        let (len, from) = received.with_context(unanswered)?;
        ensure!(
            from == address,
            "the answer comes from {from} instead of {address}"
        );
        len
    };
    server_name(&String::from_utf8_lossy(&answer[..len]))
}

/// A socket whose port no other exchange of this process had lately.
pub fn udp_socket(mode: UdpMode, address: SocketAddr) -> Result<UdpSocket> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    for _ in 0..N_PORTS {
        // Wrapping at 65,536 is no multiple of the range: some ports come round a little sooner, never at once.
        let port = FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % N_PORTS;
        let socket = match UdpSocket::bind((any, port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
            result => result.with_context(|| format!("bind UDP port {port}"))?,
        };
        if mode == UdpMode::Connected {
            socket.connect(address).context("connect")?;
        }
        return Ok(socket);
    }
    bail!(
        "no free UDP port from {FIRST_PORT} to {}",
        FIRST_PORT + N_PORTS - 1
    )
}

fn server_name(answer: &str) -> Result<String> {
    let name = answer
        .strip_prefix("You've hit ")
        .and_then(|rest| rest.strip_suffix('\n'));
    match name {
        Some(name) => Ok(name.to_owned()),
        None => bail!("the answer is {answer:?}"),
    }
}

/// Lets a moment pass before the next question. Clients that never pause ask as often as the machine is able to: more
/// datagrams from new ports than there are source ports for, and no processor left for the agent. A machine that is slow
/// throughout is asked less often, in proportion.
pub fn pace() {
    thread::sleep(patiently(Duration::from_millis(20)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_whole_answer() {
        assert_eq!(server_name("You've hit pod-1-1\n").unwrap(), "pod-1-1");
        for answer in ["", "You've hit pod-1-1", "pod-1-1\n", "hit pod\n"] {
            assert!(server_name(answer).is_err(), "{answer:?}");
        }
    }
}
