//! Servers in a namespace: one thread that serves TCP and UDP, IPv4 and IPv6, on one port.
//!
//! Bounded: a fixed number of connections and of bytes per request. A server stops when it is
//! dropped; open connections end with it.
//!
//! The server closes a connection first. So `TIME_WAIT` lies with the server, and the client's port is free at once: ten
//! thousand connections in a row neither run out of ports nor need to reset anything, and the datapath sees both FINs as
//! it does with real clients.

use std::{
    borrow::Cow,
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{datagram::DatagramSocket, netns::Namespace};

/// More connections wait in the listener's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Longest datagram of either family.
const MAX_DATAGRAM: usize = 65_536;
/// Longest request head; a longer one is answered as it stands.
const MAX_REQUEST: usize = 8192;

/// A server; stops when it is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    port: u16,
    worker: Option<JoinHandle<()>>,
    /// The worker ends when this is closed.
    stop: Option<PipeWriter>,
}

impl Server {
    /// A server that answers every HTTP request and every datagram with `You've hit <name>`.
    pub fn hostname(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let answer = format!("You've hit {name}\n");
        Self::start(namespace, name, port, Service::Hostname(answer))
    }

    /// As [`Self::hostname`], but names the client's address, too, as the server sees it: `You've hit <name> from <ip>`.
    pub fn witness(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let greeting = format!("You've hit {name} from ");
        Self::start(namespace, name, port, Service::Witness(greeting))
    }

    /// As [`Self::hostname`], but says how much it got: `You've hit <name> with <n> bytes, checksum <c>`, as
    /// [`measure`] has it.
    pub fn measuring(namespace: &Namespace, name: &str, port: u16) -> Result<Self> {
        let greeting = format!("You've hit {name} with ");
        Self::start(namespace, name, port, Service::Measuring(greeting))
    }

    /// A server that sends back whatever it receives.
    pub fn echo(namespace: &Namespace, port: u16) -> Result<Self> {
        Self::start(namespace, "echo", port, Service::Echo)
    }

    /// The name in its answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, of TCP and UDP.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn start(namespace: &Namespace, name: &str, port: u16, service: Service) -> Result<Self> {
        let context = || format!("serve {name} on port {port} in {}", namespace.label());
        // A socket stays in the namespace that it was made in, whatever thread uses it.
        let sockets = namespace
            .run(|| Sockets::bind(port))
            .with_context(context)?;
        let (stopped, stop) = std::io::pipe().with_context(context)?;
        let worker = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                Worker {
                    sockets,
                    service,
                    connections: Vec::new(),
                    datagram: vec![0; MAX_DATAGRAM],
                }
                .serve(&stopped);
            })
            .with_context(context)?;
        Ok(Self {
            name: name.to_owned(),
            port,
            worker: Some(worker),
            stop: Some(stop),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(worker) = self.worker.take() {
            // It has nothing to tell: what it did not answer shows in the test that asked.
            let _ = worker.join();
        }
    }
}

/// How a measuring server speaks of these bytes.
pub fn measure(bytes: &[u8]) -> String {
    // FNV-1a, 64 bits: a byte that is missing, wrong or elsewhere shows.
    let checksum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{} bytes, checksum {checksum:016x}", bytes.len())
}

/// What is answered.
#[derive(Debug)]
enum Service {
    Hostname(String),
    /// What comes before the client's address.
    Witness(String),
    /// What comes before the measure.
    Measuring(String),
    Echo,
}

impl Service {
    /// What is said to a client whose request is complete; nothing by a server that sends back what it receives.
    fn greeting(&self, client: SocketAddr, request: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Self::Hostname(answer) => Some(answer.into()),
            // IPv4 arrives at a socket of both families, in IPv6's clothes.
            Self::Witness(greeting) => {
                Some(format!("{greeting}{}\n", client.ip().to_canonical()).into())
            }
            Self::Measuring(greeting) => Some(format!("{greeting}{}\n", measure(request)).into()),
            Self::Echo => None,
        }
    }
}

/// The sockets of both protocols, each for both families.
struct Sockets {
    tcp: TcpListener,
    udp: DatagramSocket,
}

impl Sockets {
    fn bind(port: u16) -> std::io::Result<Self> {
        let any = (Ipv6Addr::UNSPECIFIED, port);
        let sockets = Self {
            tcp: TcpListener::bind(any)?,
            udp: DatagramSocket::bind(port)?,
        };
        sockets.tcp.set_nonblocking(true)?;
        Ok(sockets)
    }
}

struct Worker {
    sockets: Sockets,
    service: Service,
    connections: Vec<Connection>,
    /// Where datagrams are received.
    datagram: Vec<u8>,
}

impl Worker {
    /// Serves until the other end of `stopped` is closed.
    fn serve(mut self, stopped: &PipeReader) {
        loop {
            let Some(ready) = self.wait(stopped) else {
                return;
            };
            let [is_stopped, tcp, udp, connections @ ..] = ready.as_slice() else {
                return;
            };
            if *is_stopped {
                return;
            }
            let mut is_ready = connections.iter();
            let service = &self.service;
            self.connections.retain_mut(|connection| {
                let is_ready = is_ready.next().is_some_and(|ready| *ready);
                !is_ready || connection.proceed(service) == Progress::Waits
            });
            if *udp {
                self.answer_datagrams();
            }
            if *tcp {
                self.accept();
            }
        }
    }

    /// Which of stop, listener, datagrams and connections, in this order, are ready; `None` if they cannot be watched.
    fn wait(&self, stopped: &PipeReader) -> Option<Vec<bool>> {
        let accepts = self.connections.len() < MAX_CONNECTIONS;
        let listen = if accepts {
            PollFlags::POLLIN
        } else {
            PollFlags::empty()
        };
        let mut fds = vec![
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.sockets.tcp.as_fd(), listen),
            PollFd::new(self.sockets.udp.as_fd(), PollFlags::POLLIN),
        ];
        let connections = self.connections.iter();
        fds.extend(
            connections
                .map(|connection| PollFd::new(connection.stream.as_fd(), connection.awaits())),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {
                Some(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
            }
            Err(_) => None,
        }
    }

    fn accept(&mut self) {
        while self.connections.len() < MAX_CONNECTIONS {
            match self.sockets.tcp.accept() {
                Ok((stream, client)) if stream.set_nonblocking(true).is_ok() => {
                    self.connections.push(Connection {
                        stream,
                        client,
                        request: Vec::new(),
                        answer: Vec::new(),
                        is_last: false,
                    });
                }
                Ok(_) => {}
                // Nobody left; or the client gave up, and the next poll shows the others.
                Err(_) => return,
            }
        }
    }

    fn answer_datagrams(&mut self) {
        while let Ok((len, question)) = self.sockets.udp.receive(&mut self.datagram) {
            let datagram = &self.datagram[..len];
            let greeting = self.service.greeting(question.from.into(), datagram);
            let answer = greeting
                .as_ref()
                .map_or(datagram, |greeting| greeting.as_bytes());
            // A client that is gone needs no answer.
            let _ = self.sockets.udp.answer(&question, answer);
        }
    }
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    request: Vec<u8>,
    /// What is still to be sent; nothing is read before it is.
    answer: Vec<u8>,
    /// Whether the connection ends when the answer is sent.
    is_last: bool,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Waits,
    Ended,
}

impl Connection {
    fn awaits(&self) -> PollFlags {
        if self.answer.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        }
    }

    fn proceed(&mut self, service: &Service) -> Progress {
        let result = if self.answer.is_empty() {
            self.read(service)
        } else {
            Ok(())
        };
        match result.and_then(|()| self.write()) {
            Ok(()) if self.is_last && self.answer.is_empty() => Progress::Ended,
            Ok(()) => Progress::Waits,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Progress::Waits
            }
            Err(_) => Progress::Ended,
        }
    }

    fn read(&mut self, service: &Service) -> std::io::Result<()> {
        let mut bytes = [0; 4096];
        let len = self.stream.read(&mut bytes)?;
        let is_end = len == 0;
        if matches!(service, Service::Echo) {
            self.answer.extend(&bytes[..len]);
            self.is_last = is_end;
            return Ok(());
        }
        self.request.extend(&bytes[..len]);
        if (is_end || is_complete(&self.request))
            && let Some(greeting) = service.greeting(self.client, &self.request)
        {
            self.answer = http_response(&greeting);
            self.is_last = true;
        }
        Ok(())
    }

    fn write(&mut self) -> std::io::Result<()> {
        while !self.answer.is_empty() {
            let len = self.stream.write(&self.answer)?;
            self.answer.drain(..len);
        }
        Ok(())
    }
}

/// Whether a request head ends with an empty line, or is longer than we care to read.
fn is_complete(request: &[u8]) -> bool {
    request.len() > MAX_REQUEST || request.ends_with(b"\r\n\r\n") || request.ends_with(b"\n\n")
}

fn http_response(body: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_complete_with_its_empty_line() {
        assert!(is_complete(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(is_complete(b"GET /\n\n"));
        assert!(!is_complete(b"GET / HTTP/1.1\r\nHost: a\r\n"));
        assert!(is_complete(&[b'a'; MAX_REQUEST + 1]));
    }

    #[test]
    fn a_measure_tells_length_order_and_content_apart() {
        assert_eq!(measure(b""), "0 bytes, checksum cbf29ce484222325");
        let measures = ["ab", "ba", "abc", "ac"].map(|text| measure(text.as_bytes()));
        let distinct: std::collections::BTreeSet<_> = measures.iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn a_response_says_how_long_it_is() {
        let response = String::from_utf8(http_response("You've hit a\n")).unwrap();
        assert!(response.contains("Content-Length: 13\r\n"), "{response}");
        assert!(response.ends_with("\r\n\r\nYou've hit a\n"), "{response}");
    }
}
