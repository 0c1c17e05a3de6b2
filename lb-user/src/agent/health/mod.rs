//! The servers of `healthCheckNodePort`: one per service with a policy of its own for clients outside.
//!
//! A port is opened as soon as its service asks for it and closed as soon as it does not, together with its connections.
//! A port that cannot be had is told and tried again; the others are served all the same.

pub mod answer;
mod listener;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::{JoinHandle, JoinSet},
    time,
};

use self::answer::answer;
use crate::{compile::health::HealthCheck, model::object::ObjectName};

/// Connections that one port serves at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take from its connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Time until a port that could not be had is tried again, and a listener that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What all health check ports say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether the agent carries out what the manifests say.
    pub is_healthy: bool,
    /// By service.
    pub checks: BTreeMap<ObjectName, HealthCheck>,
}

/// Ports that cannot be served, each with its service and the cause.
pub type Troubles = BTreeMap<ObjectName, String>;

/// Serves the ports of `health`, and follows their changes for ever. Dropping the future closes all of them.
pub async fn follow(
    health: watch::Receiver<Health>,
    troubles: watch::Sender<Troubles>,
) -> Infallible {
    let mut news = health.clone();
    let mut running: BTreeMap<ObjectName, Running> = BTreeMap::new();
    loop {
        let wanted = ports(&news.borrow_and_update());
        let gone = running.extract_if(.., |name, server| wanted.get(name) != Some(&server.port));
        for (name, server) in gone.collect::<Vec<_>>() {
            // A port may go from one service to another, and is free only when the task has ended.
            server.end().await;
            settle(&troubles, &name);
        }
        for (name, port) in wanted {
            running.entry(name.clone()).or_insert_with(|| {
                let server = Server {
                    name,
                    port,
                    health: health.clone(),
                    troubles: troubles.clone(),
                };
                Running {
                    port,
                    task: tokio::spawn(server.run()),
                }
            });
        }
        if news.changed().await.is_err() {
            // Nobody is left who would want something else.
            return std::future::pending().await;
        }
    }
}

fn ports(health: &Health) -> BTreeMap<ObjectName, u16> {
    let checks = health.checks.iter();
    checks
        .map(|(name, check)| (name.clone(), check.port))
        .collect()
}

/// A task that ends, with its listener and connections, when this is dropped.
struct Running {
    port: u16,
    task: JoinHandle<Infallible>,
}

impl Running {
    async fn end(mut self) {
        self.task.abort();
        // It was told to end, and says so.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One service's port.
struct Server {
    name: ObjectName,
    port: u16,
    health: watch::Receiver<Health>,
    troubles: watch::Sender<Troubles>,
}

impl Server {
    async fn run(self) -> Infallible {
        let listener = self.listen().await;
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
                return std::future::pending().await;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let served = serve(self.name.clone(), self.health.clone(), stream);
                    tasks.spawn(async move {
                        // A client that is too slow has had its chance.
                        let _ = time::timeout(LIMIT, served).await;
                        drop(permit);
                    });
                }
                // The client has given up, or there are no more files: in a while there may be.
                Err(error) => {
                    tracing::debug!(service = %self.name, %error, "cannot accept");
                    time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn listen(&self) -> TcpListener {
        loop {
            match listener::open(self.port) {
                Ok(listener) => {
                    settle(&self.troubles, &self.name);
                    return listener;
                }
                Err(error) => self.complain(&error),
            }
            time::sleep(RETRY).await;
        }
    }

    fn complain(&self, error: &std::io::Error) {
        let Self { name, port, .. } = self;
        let text = format!(
            "Service {name}: its health check port {port} cannot be served: {error}; end what listens there, or \
             choose another `healthCheckNodePort`"
        );
        self.troubles.send_if_modified(|known| {
            let before = known.insert(name.clone(), text.clone());
            before.as_ref() != Some(&text)
        });
    }
}

fn settle(troubles: &watch::Sender<Troubles>, name: &ObjectName) {
    troubles.send_if_modified(|known| known.remove(name).is_some());
}

/// Answers one request, whatever it asks for.
async fn serve(name: ObjectName, health: watch::Receiver<Health>, stream: TcpStream) {
    let service = service_fn(|_| {
        let answer = answer(&name, &health.borrow());
        std::future::ready(answer)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(service = %name, %error, "a health check came to nothing");
    }
}

/// The troubles in words.
pub fn texts(troubles: &Troubles) -> BTreeSet<String> {
    troubles.values().cloned().collect()
}

#[cfg(test)]
mod tests;
