//! One port that is asked by HTTP: opened, answered on, and told of where it cannot be had.

use std::{collections::BTreeMap, convert::Infallible, future, io, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{Request, Response, body::Bytes, http, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time,
};

use crate::model::object::ObjectName;

/// Connections that one port serves at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take from its connection to the end of the answer.
const LIMIT: Duration = Duration::from_secs(10);
/// How long it may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// Time until a port that could not be had is tried again, and a listener that failed is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// What a port answers.
pub(super) type Answer = Result<Response<Full<Bytes>>, http::Error>;

/// Whose port it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// The agent's own.
    Agent,
    /// A service's.
    Service(ObjectName),
}

/// Ports that cannot be served, each with its owner and the cause.
pub type Troubles = BTreeMap<Owner, String>;

/// What is asked on a port.
pub(super) trait Asked: Clone + Send + Sync + 'static {
    /// Whose port it is.
    fn owner(&self) -> Owner;
    /// Listens, inside of a runtime.
    fn open(&self) -> io::Result<TcpListener>;
    /// What is said of a port that cannot be had.
    fn complaint(&self, error: &io::Error) -> String;
    /// The answer to a request for this path.
    fn answer(&self, path: &str) -> Answer;
}

/// Serves a port for ever, as soon as it can be had. Dropping the future closes it, with its connections.
pub(super) async fn serve(asked: impl Asked, troubles: watch::Sender<Troubles>) -> Infallible {
    let listener = listen(&asked, &troubles).await;
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = exchange(asked.clone(), stream);
                tasks.spawn(async move {
                    // A client that is too slow has had its chance.
                    let _ = time::timeout(LIMIT, served).await;
                    drop(permit);
                });
            }
            // The client has given up, or there are no more files: in a while there may be.
            Err(error) => {
                tracing::debug!(port = ?asked.owner(), %error, "cannot accept");
                time::sleep(RETRY).await;
            }
        }
    }
}

async fn listen(asked: &impl Asked, troubles: &watch::Sender<Troubles>) -> TcpListener {
    loop {
        match asked.open() {
            Ok(listener) => {
                settle(troubles, &asked.owner());
                return listener;
            }
            Err(error) => {
                let text = asked.complaint(&error);
                troubles.send_if_modified(|known| {
                    let before = known.insert(asked.owner(), text.clone());
                    before.as_ref() != Some(&text)
                });
            }
        }
        time::sleep(RETRY).await;
    }
}

/// Forgets the trouble with a port.
pub(super) fn settle(troubles: &watch::Sender<Troubles>, owner: &Owner) {
    troubles.send_if_modified(|known| known.remove(owner).is_some());
}

/// Answers one request.
async fn exchange(asked: impl Asked, stream: TcpStream) {
    let service = service_fn(|request: Request<_>| {
        let answer = asked.answer(request.uri().path());
        future::ready(answer)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(port = ?asked.owner(), %error, "a health check came to nothing");
    }
}
