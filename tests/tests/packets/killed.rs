//! A backend that dies and comes again at its address while clients ask: a process that is killed and started anew, of
//! which the service hears nothing.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    thread,
    time::Instant,
};

use lb_tests::{
    client::{self, Exchange, UdpMode},
    netns::{Namespace, require_root},
    poll,
};

use crate::scene::{ECHO_PORT, LIMIT, PORT, SILENCE, Scene, bound, connected};

/// One at a time: pods, and processes of both nodes.
const BACKENDS: [&str; 4] = ["pod-1-1", "pod-2-1", "node-1", "node-2"];
/// How often each is killed.
const DEATHS: usize = 2;
/// First of the ports that UDP clients keep.
const FIXED: u16 = 7_000;

/// Whether the backend serves, as everybody can see.
#[derive(Default)]
struct Life {
    /// One more with each death and each start: even while it serves.
    turns: AtomicUsize,
    is_over: AtomicBool,
}

impl Life {
    fn turn(&self) {
        self.turns.fetch_add(1, SeqCst);
    }

    fn now(&self) -> usize {
        self.turns.load(SeqCst)
    }
}

/// Ends the clients also when the test fails.
struct EndOnDrop<'a>(&'a Life);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

/// Somebody who asks the same address again and again.
struct Client<'a> {
    name: String,
    namespace: &'a Namespace,
    front: SocketAddr,
    fixed: u16,
    rounds: AtomicUsize,
}

impl Client<'_> {
    /// Asks by a connection, by a datagram from another port and by one from always the same, until it is over; returns
    /// what was not answered although the backend served all the time, and what took forever.
    fn ask(&self, life: &Life, backend: &str) -> Vec<String> {
        let fixed = bound(self.namespace, self.front, self.fixed);
        self.namespace.run(|| {
            let mut failures = Vec::new();
            while !life.is_over.load(SeqCst) && failures.len() < 5 {
                let other = client::udp_socket(UdpMode::Unconnected, self.front).unwrap();
                failures.extend(self.connection(life, backend));
                failures.extend(self.datagram(life, backend, &other, "another port"));
                failures.extend(self.datagram(life, backend, &fixed, "its own port"));
                self.rounds.fetch_add(1, SeqCst);
            }
            failures
        })
    }

    fn connection(&self, life: &Life, backend: &str) -> Option<String> {
        let (before, began) = (life.now(), Instant::now());
        let answer = client::hit(Exchange::Tcp, self.front);
        let hangs = began.elapsed() >= LIMIT / 5;
        let is_excused = (before % 2 == 1 || life.now() != before) && !hangs;
        match answer {
            Ok(answer) if answer == backend => None,
            Err(_) if is_excused => None,
            other => Some(format!("{}, a connection: {other:?}", self.name)),
        }
    }

    fn datagram(
        &self,
        life: &Life,
        backend: &str,
        socket: &UdpSocket,
        from: &str,
    ) -> Option<String> {
        let (before, began) = (life.now(), Instant::now());
        let limit = if before % 2 == 0 { LIMIT } else { SILENCE };
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        let mut answer = [0; 64];
        socket.send_to(b"hello\n", self.front).unwrap();
        while life.now() == before && began.elapsed() < limit {
            if let Ok((len, server)) = socket.recv_from(&mut answer) {
                let wanted = format!("You've hit {backend}\n");
                let is_right = server == self.front && answer[..len] == *wanted.as_bytes();
                return (!is_right).then(|| format!("{} by {server} from {from}", self.name));
            }
        }
        let is_excused = before % 2 == 1 || life.now() != before;
        (!is_excused).then(|| format!("{}, a datagram from {from}: no answer", self.name))
    }
}

/// Everybody has asked anew since.
fn settle(clients: &[Client<'_>]) {
    let rounds = |client: &Client<'_>| client.rounds.load(SeqCst);
    let since: Vec<usize> = clients.iter().map(rounds).collect();
    poll::until(LIMIT, "every client to go on", || {
        let mut on = clients.iter().zip(&since);
        Ok(on
            .all(|(client, since)| rounds(client) > since + 1)
            .then_some(()))
    })
    .unwrap();
}

/// The other side says that a connection is over.
fn is_ended(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn a_backend_that_is_killed_and_started_again_at_its_address_serves_at_once_again() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS[..1], &[]);
    let mut servers = std::mem::take(&mut scene.servers);
    for backend in BACKENDS {
        scene.serve(&[backend]);
        let clients: Vec<Client<'_>> = (FIXED..)
            .zip(scene.ways(PORT))
            .map(|(fixed, (name, namespace, front))| Client {
                name: format!("{name}, {backend}"),
                namespace,
                front,
                fixed,
                rounds: AtomicUsize::new(0),
            })
            .collect();
        let life = Life::default();
        let failures = thread::scope(|scope| {
            let over = EndOnDrop(&life);
            let asking: Vec<_> = clients
                .iter()
                .map(|client| scope.spawn(|| client.ask(&life, backend)))
                .collect();
            for _ in 0..DEATHS {
                settle(&clients);
                let idle: Vec<_> = scene
                    .ways(ECHO_PORT)
                    .into_iter()
                    .map(|(name, namespace, front)| (name, connected(namespace, front)))
                    .collect();
                life.turn();
                servers.remove(backend);
                for (name, mut stream) in idle {
                    assert!(is_ended(&mut stream), "{name} is not told of {backend}");
                }
                settle(&clients);
                servers.insert(backend.to_owned(), scene.start_servers(backend));
                life.turn();
            }
            settle(&clients);
            drop(over);
            asking
                .into_iter()
                .flat_map(|client| client.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(failures, Vec::<String>::new());
    }
    scene.deployment.expect_no_drops().unwrap();
}
