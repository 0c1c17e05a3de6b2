//! The servers of `healthCheckNodePort`, one per service with a policy of its own for clients outside, and that of
//! `/healthz` and `/livez`.
//!
//! A service's port is opened as soon as it asks for it and closed as soon as it does not, together with its
//! connections. A port that cannot be had is told and tried again; the others are served all the same.

pub mod answer;
mod listener;
mod own;
mod port;
pub mod sync;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future, io,
    net::{Ipv6Addr, SocketAddr},
    time::Instant,
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::port::{Owner, Troubles};
use self::{
    answer::answer,
    own::OwnPort,
    port::{Answer, Asked, settle},
    sync::Sync,
};
use crate::{compile::health::HealthCheck, model::object::ObjectName, shared_map::SharedMap};

/// What all health check ports say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Whether this node is about to go, and should get no new connections.
    pub is_leaving: bool,
    /// By service.
    pub checks: SharedMap<ObjectName, HealthCheck>,
}

/// What the servers tell, as it is at the moment.
#[derive(Clone, Debug)]
pub struct State {
    /// What follows from the manifests.
    pub health: watch::Receiver<Health>,
    /// Whether the tables say it.
    pub sync: watch::Receiver<Sync>,
}

/// Serves the ports of the services, and the agent's own at this address, and follows changes for ever. Dropping the
/// future closes all of them.
pub async fn follow(
    state: State,
    own: Option<SocketAddr>,
    troubles: watch::Sender<Troubles>,
) -> Infallible {
    let own_port = async {
        let Some(address) = own else {
            return future::pending().await;
        };
        let state = state.clone();
        port::serve(OwnPort { address, state }, troubles.clone()).await
    };
    tokio::select! {
        never = own_port => never,
        never = follow_services(&state, &troubles) => never,
    }
}

async fn follow_services(state: &State, troubles: &watch::Sender<Troubles>) -> Infallible {
    let mut news = state.health.clone();
    let mut running: BTreeMap<ObjectName, Running> = BTreeMap::new();
    loop {
        let wanted = ports(&news.borrow_and_update());
        let gone = running.extract_if(.., |name, server| wanted.get(name) != Some(&server.port));
        for (name, server) in gone.collect::<Vec<_>>() {
            // A port may go from one service to another, and is free only when the task has ended.
            server.end().await;
            settle(troubles, &Owner::Service(name));
        }
        for (name, port) in wanted {
            running.entry(name.clone()).or_insert_with(|| {
                let state = state.clone();
                let asked = ServicePort { name, port, state };
                Running {
                    port,
                    task: tokio::spawn(port::serve(asked, troubles.clone())),
                }
            });
        }
        if news.changed().await.is_err() {
            // Nobody is left who would want something else.
            return future::pending().await;
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
#[derive(Clone, Debug)]
struct ServicePort {
    name: ObjectName,
    port: u16,
    state: State,
}

impl Asked for ServicePort {
    fn owner(&self) -> Owner {
        Owner::Service(self.name.clone())
    }

    fn open(&self) -> io::Result<TcpListener> {
        listener::open((Ipv6Addr::UNSPECIFIED, self.port).into())
    }

    fn complaint(&self, error: &io::Error) -> String {
        let Self { name, port, .. } = self;
        format!(
            "Service {name}: its health check port {port} cannot be served: {error}; end what listens there, or \
             choose another `healthCheckNodePort`"
        )
    }

    /// The same, whatever it is asked for.
    fn answer(&self, _path: &str) -> Answer {
        let is_healthy = self.state.sync.borrow().is_healthy(Instant::now());
        answer(&self.name, &self.state.health.borrow(), is_healthy)
    }
}

/// The troubles in words.
pub fn texts(troubles: &Troubles) -> BTreeSet<String> {
    troubles.values().cloned().collect()
}

#[cfg(test)]
mod tests;
