//! The programs that meet sockets, where the kernel has them: no run of a program shows what it makes of an address, so real
//! sockets dial, in a control group of this process's own.
//!
//! Nothing leads to the services: what is left to packets is answered by the stack, that there is no way.

use std::{
    io::{ErrorKind, Read},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use lb_common::{
    abi::{
        Reason::{self, DialGiven, DialKept, DialLeft, DialMoved},
        service_flags,
    },
    net::{addr::Family, ip::proto},
};
use lb_tests::{
    cgroup::ControlGroup,
    client,
    netns::{Namespace, require_root},
    progrun::{Counts, Datapath, ServicePort, backend, frontend},
};
use lb_user::{apply::LbMaps as _, plan::BackendId};
use nix::sys::socket::{setsockopt, sockopt};

const PORT: u16 = 80;
const LIMIT: Duration = Duration::from_secs(5);
/// Addresses of the loopback device, by which the servers' ports are told apart.
const OWN: [&str; 2] = ["192.0.2.1", "fd00:192::1"];
const VIPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
/// The first of them as a socket of IPv6 has it.
const MAPPED: &str = "::ffff:10.96.0.10";
/// The service id of each family, and its backend's.
const IDS: [(Family, u32, u32); 2] = [(Family::V4, 1, 1), (Family::V6, 2, 2)];

/// A namespace whose sockets are met, with a service of one backend per family.
struct Scene {
    datapath: Datapath,
    namespace: Namespace,
    _group: ControlGroup,
    servers: Vec<(TcpListener, UdpSocket)>,
}

impl Scene {
    fn new() -> Option<Self> {
        require_root().then(Self::make)
    }

    fn make() -> Self {
        let group = ControlGroup::enter().unwrap();
        let namespace = Namespace::anonymous("dial").unwrap();
        // Else nobody can bind to the second one before the kernel has come round to finding that nobody else has it.
        let [v4, v6] = OWN;
        let addresses = [
            format!("addr add {v4} dev lo"),
            format!("addr add {v6} dev lo nodad"),
        ];
        namespace.ip(&addresses).unwrap();
        let servers: Vec<_> = OWN.iter().map(|own| server(&namespace, own)).collect();
        let mut scene = Self {
            datapath: Datapath::meeting_sockets(&namespace, &group).unwrap(),
            namespace,
            _group: group,
            servers,
        };
        for at in 0..2 {
            scene.serve(at, at, 0);
        }
        scene
    }

    /// Makes the sockets of one server the backend of a service of the same family.
    fn serve(&mut self, service: usize, server: usize, algorithm: u32) {
        let (_, id, backend_id) = IDS[service];
        let [tcp, udp] = self.ends(server);
        for (protocol, to, more) in [(proto::TCP, tcp, 0), (proto::UDP, udp, 10)] {
            let addr = SocketAddr::new(VIPS[service].parse().unwrap(), PORT);
            let port = ServicePort {
                id: id + more,
                frontends: vec![frontend(addr, protocol)],
                base: id + more,
                backends: vec![(backend_id + more, backend(to, 0))],
                algorithm,
            };
            self.datapath.install(&port).unwrap();
        }
    }

    /// Where a server listens: TCP and UDP.
    fn ends(&self, server: usize) -> [SocketAddr; 2] {
        let (tcp, udp) = &self.servers[server];
        [tcp.local_addr().unwrap(), udp.local_addr().unwrap()]
    }

    /// What `body` does in the namespace, and what is counted meanwhile.
    fn counted<T: Send>(&self, body: impl FnOnce() -> T + Send) -> (T, Counts) {
        let before = self.datapath.programs.counters().unwrap();
        let value = self.namespace.run(body);
        let after = self.datapath.programs.counters().unwrap();
        (value, after.since(&before))
    }

    #[track_caller]
    fn expect<T: Send>(&self, counts: &[(Reason, u64)], body: impl FnOnce() -> T + Send) -> T {
        let (value, found) = self.counted(body);
        assert_eq!(found, Counts::of(counts));
        value
    }
}

/// Sockets of a server; whoever sends a datagram gets it back.
fn server(namespace: &Namespace, own: &str) -> (TcpListener, UdpSocket) {
    let own: IpAddr = own.parse().unwrap();
    let at = SocketAddr::new(own, 0);
    let (tcp, udp) = namespace
        .run(|| TcpListener::bind(at).and_then(|tcp| Ok((tcp, UdpSocket::bind(at)?))))
        .unwrap();
    let echo = udp.try_clone().unwrap();
    // It has nothing to hold up: the process may end under it.
    thread::spawn(move || {
        let mut datagram = [0; 64];
        while let Ok((len, from)) = echo.recv_from(&mut datagram) {
            let _ = echo.send_to(&datagram[..len], from);
        }
    });
    (tcp, udp)
}

/// A service, as a socket of the family of the second one dials it, and whose server that is.
fn dialled() -> [(SocketAddr, usize); 3] {
    [(VIPS[0], 0), (VIPS[1], 1), (MAPPED, 0)]
        .map(|(ip, server)| (SocketAddr::new(ip.parse().unwrap(), PORT), server))
}

fn any(like: SocketAddr) -> SocketAddr {
    let ip = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    SocketAddr::new(ip.parse().unwrap(), 0)
}

fn datagrams(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(any(to)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// Sends a datagram and takes the answer; whom that is from.
fn exchange(socket: &UdpSocket, to: SocketAddr) -> SocketAddr {
    socket.send_to(b"hello", to).unwrap();
    let mut answer = [0; 64];
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(&answer[..len], b"hello");
    from
}

/// That there is no way is what the stack says.
#[track_caller]
fn is_left<T: std::fmt::Debug>(result: std::io::Result<T>) {
    let kind = result.expect_err("nothing leads there").kind();
    assert_eq!(kind, ErrorKind::NetworkUnreachable);
}

#[test]
fn a_connection_reaches_its_backend_and_sees_the_service() {
    let Some(scene) = Scene::new() else { return };
    for (to, server) in dialled() {
        let stream = scene.expect(&[(DialGiven, 1)], || TcpStream::connect(to).unwrap());
        assert_eq!(stream.peer_addr().unwrap(), to);
        let (accepted, client) = scene.servers[server].0.accept().unwrap();
        let own: IpAddr = OWN[server].parse().unwrap();
        assert_eq!(client.ip(), own, "as if the backend had been dialled");
        drop(accepted);
        let mut rest = Vec::new();
        assert_eq!((&stream).read_to_end(&mut rest).unwrap(), 0);
    }
}

#[test]
fn answers_to_datagrams_come_from_the_service() {
    let Some(scene) = Scene::new() else { return };
    for (to, _) in dialled() {
        scene.expect(&[(DialGiven, 1), (DialKept, 2)], || {
            let socket = datagrams(to);
            for _ in 0..3 {
                assert_eq!(exchange(&socket, to), to);
            }
        });
    }
    // One socket for both families, and for each service it has dialled.
    let [_, v6, mapped] = dialled().map(|(to, _)| to);
    scene.expect(&[(DialGiven, 2), (DialKept, 2)], || {
        let socket = datagrams(v6);
        for to in [v6, mapped, v6, mapped] {
            assert_eq!(exchange(&socket, to), to);
        }
    });
}

#[test]
fn the_next_datagram_goes_to_another_backend_when_the_first_serves_no_more() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    let other = server(&scene.namespace, OWN[0]);
    scene.servers.push(other);
    let to = dialled()[0].0;
    let socket = scene.expect(&[(DialGiven, 1)], || {
        let socket = datagrams(to);
        assert_eq!(exchange(&socket, to), to);
        socket
    });
    // The id is another endpoint's from now on.
    let [_, udp] = scene.ends(2);
    let row = lb_common::abi::Backend {
        service: IDS[0].1 + 10,
        generation: 1,
        ..backend(udp, 0)
    };
    let id = BackendId {
        family: Family::V4,
        id: IDS[0].2 + 10,
    };
    scene.datapath.tables.put_backend(id, &row).unwrap();
    scene.expect(&[(DialMoved, 1), (DialKept, 1)], || {
        for _ in 0..2 {
            assert_eq!(exchange(&socket, to), to);
        }
    });
}

#[test]
fn sockets_that_are_bound_or_connected_are_left_to_their_packets() {
    let Some(scene) = Scene::new() else { return };
    let own = OWN.map(|own| own.parse::<IpAddr>().unwrap());
    for (at, (to, _)) in dialled().into_iter().take(2).enumerate() {
        let bound = SocketAddr::new(own[at], 0);
        scene.expect(&[(DialLeft, 1)], || {
            client::connect_from(own[at], to).expect_err("nothing leads there")
        });
        scene.expect(&[(DialLeft, 1)], || {
            is_left(UdpSocket::bind(bound).unwrap().send_to(b"x", to));
        });
        scene.expect(&[(DialLeft, 1)], || {
            is_left(datagrams(to).connect(to));
        });
        // It would not hear a backend that it is not connected to.
        scene.expect(&[(DialLeft, 1)], || {
            let socket = datagrams(to);
            socket.connect(SocketAddr::new(own[at], 9)).unwrap();
            is_left(socket.send_to(b"x", to));
        });
        scene.expect(&[(DialLeft, 1)], || {
            let socket = datagrams(to);
            setsockopt(&socket.as_fd(), sockopt::BindToDevice, &"lo".into()).unwrap();
            // Or, by the loopback device, to nobody.
            let _ = socket.send_to(b"x", to);
        });
        // A port alone binds nobody.
        let port = if to.is_ipv4() { 40_000 } else { 40_001 };
        scene.expect(&[(DialGiven, 1)], || {
            drop(client::connect_from_port(port, to).unwrap());
        });
    }
}

#[test]
fn what_only_packets_can_decide_is_left_to_them() {
    let Some(mut scene) = Scene::new() else {
        return;
    };
    for at in 0..2 {
        scene.serve(at, at, service_flags::LEAST_CONNECTIONS);
    }
    for (to, _) in dialled() {
        scene.expect(&[(DialLeft, 2)], || {
            is_left(TcpStream::connect(to));
            is_left(datagrams(to).send_to(b"x", to));
        });
    }
}

#[test]
fn what_is_no_service_is_none_of_ours() {
    let Some(scene) = Scene::new() else { return };
    for server in 0..2 {
        let [tcp, udp] = scene.ends(server);
        scene.expect(&[], || {
            let stream = TcpStream::connect(tcp).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), tcp);
            let socket = datagrams(udp);
            assert_eq!(exchange(&socket, udp), udp);
            socket.connect(udp).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), udp);
        });
    }
    let (to, _) = dialled()[0];
    scene.expect(&[], || {
        is_left(TcpStream::connect(SocketAddr::new(to.ip(), PORT + 1)));
    });
}

#[test]
fn sockets_of_other_network_namespaces_are_not_met() {
    let Some(scene) = Scene::new() else { return };
    let other = Namespace::anonymous("pod").unwrap();
    let before = scene.datapath.programs.counters().unwrap();
    other.run(|| {
        for (to, _) in dialled() {
            is_left(TcpStream::connect(to));
            is_left(datagrams(to).send_to(b"x", to));
        }
    });
    let after = scene.datapath.programs.counters().unwrap();
    assert_eq!(after.since(&before), Counts::default());
}
