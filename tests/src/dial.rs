//! One dial from a chosen source: answered, refused at once, or met with silence; and how long that took.
//!
//! The servers are witnesses ([`crate::server::Server::witness`]): they say who they are and whom they see. Uses the
//! network namespace of the calling thread.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
};

/// How long an answer may take once somebody listens.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What is dialled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A connection and one request on it.
    Tcp,
    /// A connected socket and one datagram.
    Udp,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By an answer.
    Answered {
        /// The server's name.
        server: String,
        /// The client's address as the server sees it.
        client: IpAddr,
    },
    /// With "connection refused".
    Refused,
    /// Nothing came back.
    Silent,
}

/// One dial.
#[derive(Clone, Debug)]
pub struct Dial {
    /// How it ended.
    pub ended: Ended,
    /// How long until then, the answer of a server aside.
    pub took: Duration,
}

/// Dials from this address, port 0 for any; what is silent for `limit` is silent.
pub fn dial(protocol: Protocol, from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<Dial> {
    let dial = match protocol {
        Protocol::Tcp => tcp(from, to, limit),
        Protocol::Udp => udp(from, to, limit),
    };
    dial.with_context(|| format!("dial {to} from {from} by {protocol}"))
}

fn tcp(from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<Dial> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from)).context("bind")?;
    // What limits a send limits a connect, too (socket(7)).
    let limit = TimeVal::new(limit.as_secs().try_into()?, limit.subsec_micros().into());
    setsockopt(&socket, sockopt::SendTimeout, &limit).context("set a time limit")?;
    let start = Instant::now();
    let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    let took = start.elapsed();
    let ended = match connected {
        Ok(()) => ask(TcpStream::from(socket), to)?,
        Err(Errno::ECONNREFUSED) => Ended::Refused,
        Err(Errno::EINPROGRESS | Errno::EAGAIN | Errno::ETIMEDOUT) => Ended::Silent,
        Err(error) => bail!("connect: {error}"),
    };
    Ok(Dial { ended, took })
}

/// A request on a connection that stands.
fn ask(mut stream: TcpStream, to: SocketAddr) -> Result<Ended> {
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).context("send")?;
    let mut response = String::new();
    stream.read_to_string(&mut response).context("receive")?;
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    witnessed(body)
}

fn udp(from: SocketAddr, to: SocketAddr, limit: Duration) -> Result<Dial> {
    let socket = UdpSocket::bind(from).context("bind")?;
    socket.connect(to).context("connect")?;
    socket.set_read_timeout(Some(limit))?;
    let mut answer = [0; 512];
    let start = Instant::now();
    socket.send(b"hello\n").context("send")?;
    let received = socket.recv(&mut answer);
    let took = start.elapsed();
    let ended = match received {
        Ok(len) => witnessed(&String::from_utf8_lossy(&answer[..len]))?,
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => Ended::Refused,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Ended::Silent,
            _ => bail!("receive: {error}"),
        },
    };
    Ok(Dial { ended, took })
}

/// What a witness said.
fn witnessed(answer: &str) -> Result<Ended> {
    let said = answer
        .strip_prefix("You've hit ")
        .and_then(|rest| rest.trim_end().split_once(" from "));
    let Some((server, client)) = said else {
        bail!("the answer is {answer:?}");
    };
    Ok(Ended::Answered {
        server: server.to_owned(),
        client: client.parse().with_context(|| answer.to_owned())?,
    })
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link,
        netns::{Namespace, require_root},
        server::Server,
    };

    #[test]
    fn an_answer_names_server_and_client() {
        let ended = witnessed("You've hit pod from 10.0.0.1\n").unwrap();
        let expected = Ended::Answered {
            server: "pod".to_owned(),
            client: "10.0.0.1".parse().unwrap(),
        };
        assert_eq!(ended, expected);
        witnessed("You've hit pod\n").unwrap_err();
    }

    #[test]
    fn a_dial_is_answered_refused_or_met_with_silence() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::anonymous("dial").unwrap();
        // Whoever is at the other end of the link has no such address.
        let nobody = Namespace::anonymous("nobody").unwrap();
        let link = link::veth("lost", "02:fc:05:00:00:01", "lost", &nobody, 1500);
        namespace.ip(&[link]).unwrap();
        nobody.ip(&link::up("lost")).unwrap();
        let mut commands = link::up("lost");
        commands.push("addr add 192.0.2.1/24 dev lost".to_owned());
        commands
            .push("neigh add 192.0.2.2 lladdr 02:fc:05:00:00:02 dev lost nud permanent".to_owned());
        namespace.ip(&commands).unwrap();
        let _server = Server::witness(&namespace, "witness", 8080).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let ended = |from: &str, to: &str| {
                let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
                let limit = Duration::from_millis(200);
                let dial = namespace.run(|| dial(protocol, from, to, limit).unwrap());
                dial.ended
            };
            let client = "127.0.0.9".parse().unwrap();
            let answered = Ended::Answered {
                server: "witness".to_owned(),
                client,
            };
            assert_eq!(
                ended("127.0.0.9:0", "127.0.0.1:8080"),
                answered,
                "{protocol}"
            );
            assert_eq!(
                ended("127.0.0.1:0", "127.0.0.1:8081"),
                Ended::Refused,
                "{protocol}"
            );
            assert_eq!(
                ended("192.0.2.1:0", "192.0.2.2:8080"),
                Ended::Silent,
                "{protocol}"
            );
        }
    }
}
