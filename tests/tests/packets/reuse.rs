//! Client ports that come again at once, while the servers behind source NAT still remember them.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, ensure};
use lb_tests::{
    netns::{Namespace, require_root},
    poll,
};
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use crate::scene::{LIMIT, PORT, Scene};

/// Ports that the client dials from.
const PORTS: u16 = 8;
/// Connections of each family to each address.
const CONNECTIONS: u16 = 1_500;
const FIRST: u16 = 20_000;

/// One request from a given port; the server closes first, so that the client's port is free once the server has
/// acknowledged that the client closes as well, which is waited for.
fn request(port: u16, to: SocketAddr) -> Result<()> {
    let (family, any) = match to {
        SocketAddr::V4(_) => (AddressFamily::Inet, (Ipv4Addr::UNSPECIFIED, port).into()),
        SocketAddr::V6(_) => (
            AddressFamily::Inet6,
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        ),
    };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    socket::bind(stream.as_raw_fd(), &SockaddrStorage::from(any)).context("bind")?;
    socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to)).context("connect")?;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("read")?;
    ensure!(answer.contains("You've hit"), "{answer:?}");
    stream.shutdown(Shutdown::Write)?;
    poll::until(LIMIT, "the end of the connection", || {
        Ok(stream.peer_addr().is_err().then_some(()))
    })
}

/// How many SYNs this namespace's kernel has sent again: each is a connection that took a second.
fn syns_again(namespace: &Namespace) -> u64 {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let [names, values] = [lines.next().unwrap(), lines.next().unwrap()];
    let mut counts = names.split(' ').zip(values.split(' '));
    let (_, count) = counts.find(|(name, _)| *name == "TCPSynRetrans").unwrap();
    count.parse().unwrap()
}

#[test]
fn short_connections_over_few_ports_by_source_nat_are_neither_refused_nor_delayed() {
    if !require_root() {
        return;
    }
    let scene = Scene::new(&["pod-2-1"], &[]);
    let client = &scene.deployment.cluster.client.namespace;
    for family in 0..2 {
        for front in scene.fronts(family, PORT) {
            let before = syns_again(client);
            client.run(|| {
                for n in 0..CONNECTIONS {
                    let port = FIRST + n % PORTS;
                    let made = request(port, front);
                    made.with_context(|| format!("connection {n} from port {port} to {front}"))
                        .unwrap();
                }
            });
            let again = syns_again(client) - before;
            assert_eq!(again, 0, "SYNs to {front} that had to be sent again");
        }
    }
    scene.deployment.expect_no_drops().unwrap();
}
