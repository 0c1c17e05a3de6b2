//! Targets that come, go and change, while they are asked again and again.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU16, AtomicUsize, Ordering},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    super::{url::Url, *},
    servers, target,
};
use crate::model::{object::ObjectName, probe::Scheme};

const LIMIT: Duration = Duration::from_secs(20);

/// A server whose answer can be changed, and that counts its requests.
struct Flipping {
    address: SocketAddr,
    code: Arc<AtomicU16>,
    n_requests: Arc<AtomicUsize>,
}

impl Flipping {
    async fn start() -> Self {
        let code = Arc::new(AtomicU16::new(200));
        let n_requests = Arc::new(AtomicUsize::new(0));
        let (answer, counted) = (Arc::clone(&code), Arc::clone(&n_requests));
        let address = servers::http(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            servers::status(answer.load(Ordering::SeqCst))
        })
        .await;
        Self {
            address,
            code,
            n_requests,
        }
    }

    fn target(&self, path: &str) -> Arc<Target> {
        let url = Url::new(Scheme::Http, "127.0.0.1", self.address.port(), path);
        let headers = Vec::new();
        Arc::new(target(Question::Http { url, headers }, LIMIT))
    }
}

fn key(container: &str) -> Key {
    Key {
        pod: ObjectName::new("default", "web"),
        container: container.into(),
    }
}

struct Stage {
    targets: watch::Sender<Targets>,
    readiness: watch::Receiver<Readiness>,
}

impl Stage {
    fn new(targets: Targets) -> Self {
        Self::within(targets, MAX_IN_FLIGHT)
    }

    fn within(targets: Targets, max_in_flight: usize) -> Self {
        let (targets, wanted) = watch::channel(targets);
        let (told, readiness) = watch::channel(Readiness::new());
        tokio::spawn(follow_within(wanted, told, max_in_flight));
        Self { targets, readiness }
    }

    /// Waits until this is known, and told.
    async fn until(&mut self, what: impl Fn(&Readiness) -> bool) {
        let known = self.readiness.wait_for(|known| what(known));
        let known = time::timeout(LIMIT, known).await.expect("in time");
        known.expect("somebody tells");
    }

    async fn until_ready(&mut self, container: &str, ready: bool) {
        let key = key(container);
        self.until(|known| known.get(&key).is_some_and(|it| it.probed.ready == ready))
            .await;
    }
}

#[tokio::test]
async fn readiness_follows_the_answers() {
    let server = Flipping::start().await;
    let mut stage = Stage::new(Targets::from([(key("a"), server.target("/"))]));
    stage.until_ready("a", true).await;
    server.code.store(503, Ordering::SeqCst);
    stage.until_ready("a", false).await;
    let known = stage.readiness.borrow().clone();
    let cause = known[&key("a")].probed.failure.clone().expect("a cause");
    assert!(cause.contains("was answered by 503"), "{cause}");
    server.code.store(200, Ordering::SeqCst);
    stage.until_ready("a", true).await;
}

#[tokio::test]
async fn a_probe_goes_on_whatever_becomes_of_others() {
    let (kept, other) = (Flipping::start().await, Flipping::start().await);
    let stays = Arc::new(Target {
        period: Duration::from_hours(1),
        ..(*kept.target("/")).clone()
    });
    let with = |other: Option<Arc<Target>>| {
        let others = other.into_iter().map(|target| (key("b"), target));
        let mut targets: Targets = others.collect();
        // Equal, not the same.
        targets.insert(key("a"), Arc::new((*stays).clone()));
        targets
    };
    let mut stage = Stage::new(with(None));
    stage.until_ready("a", true).await;
    stage.targets.send_replace(with(Some(other.target("/"))));
    stage.until_ready("b", true).await;
    // Another target, which knows nothing of the first one's successes.
    other.code.store(503, Ordering::SeqCst);
    stage
        .targets
        .send_replace(with(Some(other.target("/changed"))));
    stage
        .until(|known| {
            let verdict = known.get(&key("b"));
            verdict.is_some_and(|it| {
                !it.probed.ready
                    && it
                        .probed
                        .failure
                        .as_deref()
                        .is_some_and(|it| it.contains("/changed"))
            })
        })
        .await;
    assert!(stage.readiness.borrow()[&key("a")].probed.ready);
    assert_eq!(
        kept.n_requests.load(Ordering::SeqCst),
        1,
        "asked once an hour, whatever happens"
    );
}

#[tokio::test]
async fn what_is_no_longer_asked_is_forgotten() {
    let (gone, stays) = (Flipping::start().await, Flipping::start().await);
    let both = [("a", &gone), ("b", &stays)].map(|(name, it)| (key(name), it.target("/")));
    let mut stage = Stage::new(Targets::from(both));
    stage.until_ready("a", true).await;
    stage.until_ready("b", true).await;
    stage
        .targets
        .send_replace(Targets::from([(key("b"), stays.target("/"))]));
    stays.code.store(500, Ordering::SeqCst);
    stage.until_ready("b", false).await;
    assert_eq!(stage.readiness.borrow().get(&key("a")), None);
}

#[tokio::test]
async fn a_slow_target_holds_nobody_up() {
    let (silent, server) = (servers::silent().await, Flipping::start().await);
    let url = Url::new(Scheme::Http, "127.0.0.1", silent.port(), "/");
    let headers = Vec::new();
    let hangs = Arc::new(target(Question::Http { url, headers }, LIMIT));
    let slow = (0..100).map(|number| (key(&format!("slow-{number}")), Arc::clone(&hangs)));
    let mut targets: Targets = slow.collect();
    targets.insert(key("a"), server.target("/"));
    let mut stage = Stage::new(targets);
    stage.until_ready("a", true).await;
}

#[tokio::test]
async fn no_more_than_so_many_are_asked_at_a_time() {
    const MAX: usize = 4;
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (full, is_full) = watch::channel(false);
    let server = {
        let (open, most) = (Arc::clone(&open), Arc::clone(&most));
        servers::connections(move |mut stream: TcpStream| {
            let (open, most, full) = (Arc::clone(&open), Arc::clone(&most), full.clone());
            let mut is_full = is_full.clone();
            async move {
                let n_open = open.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(n_open, Ordering::SeqCst);
                full.send_if_modified(|full| !std::mem::replace(full, *full || n_open >= MAX));
                // Nobody is answered before as many ask as may.
                is_full.wait_for(|full| *full).await.expect("a sender");
                open.fetch_sub(1, Ordering::SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("a client");
            }
        })
        .await
    };
    let target = Arc::new(Target {
        period: Duration::from_hours(1),
        ..target(
            Question::Http {
                url: Url::new(Scheme::Http, "127.0.0.1", server.port(), "/"),
                headers: Vec::new(),
            },
            LIMIT,
        )
    });
    let targets = (0..3 * MAX).map(|number| (key(&number.to_string()), Arc::clone(&target)));
    let mut stage = Stage::within(targets.collect(), MAX);
    let all_are_ready = |known: &Readiness| known.values().all(|it| it.probed.ready);
    stage
        .until(|known| known.len() == 3 * MAX && all_are_ready(known))
        .await;
    assert_eq!(most.load(Ordering::SeqCst), MAX);
}
