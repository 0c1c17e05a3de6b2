//! A backend that restarts while clients ask without a pause.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use lb_tests::{
    client::{self, Exchange, UdpMode},
    netns::{Namespace, require_root},
    poll,
    tally::Tally,
};

use crate::scene::{LIMIT, PORT, Scene, ask, bound};

const RESTARTS: usize = 5;

pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who asks without a pause, each time from another port, needs as many of them towards each backend as the machine is fast:
/// tens of thousands while a datagram's flow lives for half a minute, and then connections are refused. A connection's port is
/// free sooner, since an ended one may give way.
const SOURCE_PORTS: [&str; 2] = ["--snat-ports=1024-29999", "--timeout-udp=2s"];

/// Asks again and again, with `pause` in between: by a connection each time, by a datagram from another port, by one from
/// always the same.
pub(crate) fn ask_until(
    is_over: &AtomicBool,
    asked: &AtomicUsize,
    namespace: &Namespace,
    front: SocketAddr,
    fixed: u16,
    pause: fn(),
) -> Tally {
    let socket = bound(namespace, front, fixed);
    namespace.run(|| {
        let title = format!("exchanges of {} with {front}", namespace.label());
        let mut tally = Tally::new(title, usize::MAX);
        while !is_over.load(Ordering::Relaxed) {
            tally.count(client::hit(Exchange::Tcp, front));
            tally.count(client::hit(Exchange::Udp(UdpMode::Unconnected), front));
            let answer = ask(&socket, front, LIMIT);
            tally.count(answer.ok_or_else(|| anyhow::anyhow!("no answer to port {fixed}")));
            asked.fetch_add(1, Ordering::Relaxed);
            pause();
        }
        tally
    })
}

#[test]
fn a_backend_that_restarts_under_load_fails_nobody() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &SOURCE_PORTS);
    let is_over = AtomicBool::new(false);
    let mut servers = std::mem::take(&mut scene.servers);
    let ways: Vec<_> = (0..)
        .zip(scene.ways(PORT))
        .map(|(n, (_, namespace, front))| (7_000 + n, namespace, front, AtomicUsize::new(0)))
        .collect();
    let tallies = thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        let clients: Vec<_> = ways
            .iter()
            .map(|(fixed, namespace, front, asked)| {
                let is_over = &is_over;
                scope.spawn(move || ask_until(is_over, asked, namespace, *front, *fixed, || {}))
            })
            .collect();
        // Everybody has asked anew since: nobody is with a server that has just left any more.
        let settle = || {
            let since: Vec<_> = ways
                .iter()
                .map(|way| way.3.load(Ordering::Relaxed))
                .collect();
            poll::until(LIMIT, "every client to go on", || {
                let mut on = ways.iter().zip(&since);
                let is_on = on.all(|(way, since)| way.3.load(Ordering::Relaxed) > since + 1);
                Ok(is_on.then_some(()))
            })
            .unwrap();
        };
        for restart in 0..RESTARTS {
            let (name, other) = [("pod-1-1", "pod-2-1"), ("pod-2-1", "pod-1-1")][restart % 2];
            settle();
            scene.serve(&[other]);
            settle();
            servers.remove(name);
            settle();
            servers.insert(name.to_owned(), scene.start_servers(name));
            scene.serve(&[name, other]);
        }
        settle();
        drop(over);
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    for tally in tallies {
        assert!(tally.failures().is_empty(), "{tally}");
        let n_hits: usize = tally.hits().values().sum();
        assert!(n_hits > RESTARTS, "{tally}");
    }
    scene.deployment.expect_no_drops().unwrap();
}
