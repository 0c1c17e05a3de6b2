//! The agent's end of the socket.
//!
//! Bounded in every direction: the length of a request, the time that a client may take, connections, watches,
//! and what is made ahead of a client that reads slowly. A client that is slow, silent or talks nonsense costs one
//! connection and disturbs nobody. Objects are made on threads of their own, one by one, as they are read.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    task::{self, JoinSet},
    time,
};

pub use super::follow::Listing;
use super::{
    Ask, AskedVersion, MAX_REQUEST_BYTES, Outcome, Request, VERSION,
    follow::{self, Told},
};

/// Connections at a time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 32;
/// How many of them may watch, so that there is always room for a question.
const MAX_WATCHES: usize = 16;
/// Longest wait for a client to ask.
const ASK_TIME: Duration = Duration::from_secs(10);
/// Longest wait for a client to read a line.
const LINE_TIME: Duration = Duration::from_secs(10);
/// Longest time that an answer may take a client, however steadily it reads.
const ANSWER_TIME: Duration = Duration::from_mins(1);
/// Lines that are made ahead of a client.
const LINES_AHEAD: usize = 4;
/// Shortest and longest pause of a watch between two looks at the objects.
const PAUSE: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(10)];
/// A watch rests so much longer than its look took: many watches of many objects leave the machine alone.
const REST: u32 = 4;
/// Pause after the system refused a connection, as it does when it has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the agent answers.
#[expect(missing_debug_implementations, reason = "a listing is a function")]
pub enum Answer {
    /// One value.
    Value(Value),
    /// Objects, made while they are sent.
    Objects(Listing),
}

/// A listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the agent cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}; a shorter --run-dir may help, or one on a local filesystem")]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

impl Server {
    /// Listens on `path`, in place of whatever an agent that died left there.
    ///
    /// Only the owner may connect: the file has mode 0600 and its directory 0700.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let listen = || {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener = listen().map_err(|source| ListenError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Answers for ever. An `Err` of `answer` is told to the client. `changes` is changed when `answer` may say
    /// something else.
    pub async fn serve<F, C>(&self, answer: F, changes: watch::Receiver<C>) -> Infallible
    where
        F: Fn(&Request) -> Result<Answer, String> + Send + Sync + 'static,
        C: Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let watches = Arc::new(Semaphore::new(MAX_WATCHES));
        let mut connections = JoinSet::new();
        loop {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("invariant: the semaphore is never closed");
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "the control socket refused a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let connection = Connection::new(stream, Arc::clone(&answer), changes.clone());
            let watches = Arc::clone(&watches);
            connections.spawn(async move {
                if let Err(error) = connection.converse(&watches).await {
                    tracing::debug!(%error, "a control connection broke");
                }
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}

/// One client.
struct Connection<F, C> {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
    answer: Arc<F>,
    changes: watch::Receiver<C>,
}

impl<F, C> Connection<F, C>
where
    F: Fn(&Request) -> Result<Answer, String> + Send + Sync + 'static,
    C: Send + Sync + 'static,
{
    fn new(stream: UnixStream, answer: Arc<F>, changes: watch::Receiver<C>) -> Self {
        let (read, write) = stream.into_split();
        Self {
            read: BufReader::new(read),
            write,
            answer,
            changes,
        }
    }

    /// Answers line by line until the client leaves, or says what is no request.
    async fn converse(mut self, watches: &Semaphore) -> io::Result<()> {
        loop {
            let mut line = Vec::new();
            let mut read = (&mut self.read).take(MAX_REQUEST_BYTES);
            within(ASK_TIME, read.read_until(b'\n', &mut line)).await?;
            if line.is_empty() {
                return Ok(());
            }
            let request = match parse(&line) {
                Ok(request) => request,
                Err(error) => return self.say(Outcome::Error(error)).await,
            };
            match &request {
                Request::Objects(query) if query.watch => {
                    let Ok(_place) = watches.try_acquire() else {
                        let message = format!("{MAX_WATCHES} watches are the most; end another");
                        return self.say(Outcome::Error(message)).await;
                    };
                    return self.follow(&request).await;
                }
                _ => within(ANSWER_TIME, self.reply(&request)).await?,
            }
        }
    }

    async fn reply(&mut self, request: &Request) -> io::Result<()> {
        let outcome = match (self.answer)(request) {
            Ok(Answer::Value(value)) => Outcome::Answer(value),
            Err(error) => Outcome::Error(error),
            Ok(Answer::Objects(listing)) => {
                let n_objects = self.send(move |out| follow::list(listing, out)).await?;
                Outcome::Listed(n_objects.ok_or(io::ErrorKind::BrokenPipe)?)
            }
        };
        self.say(outcome).await
    }

    /// Tells what there is and what changes, until the client leaves.
    async fn follow(&mut self, request: &Request) -> io::Result<()> {
        let mut told = Told::default();
        let mut is_first = true;
        loop {
            self.changes.mark_unchanged();
            let listing = match (self.answer)(request) {
                Ok(Answer::Objects(listing)) => listing,
                Ok(Answer::Value(value)) => return self.say(Outcome::Answer(value)).await,
                Err(error) => return self.say(Outcome::Error(error)).await,
            };
            let begun = Instant::now();
            let tell = move |out: &mpsc::Sender<Vec<u8>>| {
                let n_objects = told.tell(listing, out);
                (told, n_objects)
            };
            let n_objects;
            (told, n_objects) = self.send(tell).await?;
            let n_objects = n_objects.ok_or(io::ErrorKind::BrokenPipe)?;
            if is_first {
                self.say(Outcome::Listed(n_objects)).await?;
                is_first = false;
            }
            let pause = (begun.elapsed() * REST).clamp(PAUSE[0], PAUSE[1]);
            let changed = async {
                time::sleep(pause).await;
                self.changes.changed().await
            };
            tokio::select! {
                // Nothing more is expected of a client that watches: it leaves, or it is confused.
                _ = self.read.fill_buf() => return Ok(()),
                changed = changed => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    /// Sends the lines that `make` makes on a thread of its own, as fast as the client reads.
    async fn send<T: Send + 'static>(
        &mut self,
        make: impl FnOnce(&mpsc::Sender<Vec<u8>>) -> T + Send + 'static,
    ) -> io::Result<T> {
        let (out, mut lines) = mpsc::channel(LINES_AHEAD);
        let result = task::spawn_blocking(move || make(&out));
        while let Some(line) = lines.recv().await {
            within(LINE_TIME, self.write.write_all(&line)).await?;
        }
        result.await.map_err(io::Error::other)
    }

    async fn say(&mut self, outcome: Outcome) -> io::Result<()> {
        within(LINE_TIME, self.write.write_all(&follow::line(outcome))).await
    }
}

/// What becomes of `work` in so much time.
async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(limit, work)
        .await
        .unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

fn parse(line: &[u8]) -> Result<Request, String> {
    if line.last() != Some(&b'\n') {
        return Err(format!(
            "a request is one line of at most {MAX_REQUEST_BYTES} bytes that ends with a newline"
        ));
    }
    let AskedVersion { version } = serde_json::from_slice(line)
        .map_err(|error| format!("not a request of this protocol: {error}"))?;
    if version != VERSION {
        return Err(format!(
            "this agent (fulcrum {}) speaks version {VERSION} of the protocol, not {version}; \
             use the fulcrum binary that the agent was started from",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let ask: Ask =
        serde_json::from_slice(line).map_err(|error| format!("cannot be answered: {error}"))?;
    Ok(ask.request)
}

#[cfg(test)]
mod tests;
