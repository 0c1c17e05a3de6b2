//! The agent's end of the socket.
//!
//! Bounded in every direction: the length of a request, the time of a connection, their number. A
//! client that is slow, silent or talks nonsense costs one connection and disturbs nobody.

use std::{
    convert::Infallible,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time,
};

use super::{Ask, AskedVersion, MAX_REQUEST_BYTES, Outcome, Reply, Request, VERSION};

/// Connections at a time; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 32;
/// Longest life of a connection.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, as it does when it has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

    /// Answers for ever. An `Err` of `answer` is told to the client.
    pub async fn serve<F>(&self, answer: F) -> Infallible
    where
        F: Fn(&Request) -> Result<Value, String> + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
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
            let answer = Arc::clone(&answer);
            connections.spawn(async move {
                match time::timeout(CONNECTION_TIME, converse(stream, &*answer)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a control connection broke"),
                    Err(_) => tracing::debug!("a control connection took too long"),
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

/// Answers line by line until the client leaves, or says what is no request.
async fn converse<F>(stream: UnixStream, answer: &F) -> io::Result<()>
where
    F: Fn(&Request) -> Result<Value, String>,
{
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        (&mut read)
            .take(MAX_REQUEST_BYTES)
            .read_until(b'\n', &mut line)
            .await?;
        if line.is_empty() {
            return Ok(());
        }
        let request = parse(&line);
        let is_request = request.is_ok();
        let outcome = match request.and_then(|request| answer(&request)) {
            Ok(value) => Outcome::Answer(value),
            Err(error) => Outcome::Error(error),
        };
        let mut reply = serde_json::to_vec(&Reply {
            version: VERSION,
            outcome,
        })?;
        reply.push(b'\n');
        write.write_all(&reply).await?;
        if !is_request {
            return Ok(());
        }
    }
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
            "this agent speaks version {VERSION} of the protocol, not {version}; \
             use the fulcrum binary that the agent was started from"
        ));
    }
    let ask: Ask =
        serde_json::from_slice(line).map_err(|error| format!("cannot be answered: {error}"))?;
    Ok(ask.request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::control::Filter;

    /// Runs `client` against a server that answers with the request's `Debug` text.
    async fn with_server<T>(client: impl AsyncFnOnce(&Path) -> T) -> (T, TempDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("s.sock");
        let server = Server::bind(&path).expect("a free path");
        let answer = |request: &Request| match request {
            Request::Names => Err("no names today".to_owned()),
            other => Ok(json!(format!("{other:?}"))),
        };
        let result = tokio::select! {
            never = server.serve(answer) => match never {},
            result = time::timeout(CONNECTION_TIME, client(&path)) => result,
        };
        (result.expect("the server answers in time"), dir)
    }

    /// Sends bytes and reads until the server closes or `replies` lines have come.
    async fn talk(path: &Path, bytes: &[u8], replies: usize) -> Vec<String> {
        let stream = UnixStream::connect(path).await.expect("a listening server");
        let (read, mut write) = stream.into_split();
        // The server may close before it has read everything.
        let _ = write.write_all(bytes).await;
        let mut lines = BufReader::new(read).lines();
        let mut found = Vec::new();
        while found.len() < replies {
            let Ok(Some(line)) = lines.next_line().await else {
                break;
            };
            found.push(line);
        }
        found
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_carries_several_requests() {
        let asked = b"{\"version\":1,\"get\":\"status\"}\n{\"version\":1,\"get\":\"services\"}\n";
        let (replies, _dir) = with_server(async |path| talk(path, asked, 2).await).await;
        let services = format!("{:?}", Request::Services(Filter::default()));
        let replies: Vec<Value> = replies
            .iter()
            .map(|line| serde_json::from_str(line).expect("a reply"))
            .collect();
        let reply = |answer: &str| json!({"version": 1, "answer": answer});
        assert_eq!(replies, [reply("Status"), reply(&services)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_cannot_be_answered_is_told_and_the_connection_goes_on() {
        let asked = b"{\"version\":1,\"get\":\"names\"}\n{\"version\":1,\"get\":\"status\"}\n";
        let (replies, _dir) = with_server(async |path| talk(path, asked, 2).await).await;
        assert!(replies[0].contains("no names today"), "{replies:?}");
        assert!(replies[1].contains("Status"), "{replies:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nonsense_is_told_so_and_the_server_answers_the_next() {
        let long = vec![b'x'; 2 * usize::try_from(MAX_REQUEST_BYTES).expect("small")];
        for (bytes, message) in [
            (
                b"GET / HTTP/1.1\r\n\r\n".as_slice(),
                "not a request of this protocol",
            ),
            (
                b"{\"version\":1,\"get\":\"secrets\"}\n",
                "unknown variant `secrets`",
            ),
            (
                b"{\"version\":2,\"get\":\"status\"}\n",
                "speaks version 1 of the protocol, not 2",
            ),
            (b"\xff\xfe\n", "not a request of this protocol"),
            (&long, "a request is one line of at most 4096 bytes"),
        ] {
            let (replies, _dir) = with_server(async |path| {
                let first = talk(path, bytes, usize::MAX).await;
                let next = talk(path, b"{\"version\":1,\"get\":\"status\"}\n", 1).await;
                [first, next].concat()
            })
            .await;
            assert_eq!(replies.len(), 2, "{message}: {replies:?}");
            assert!(replies[0].contains(message), "{message}: {replies:?}");
            assert!(replies[1].contains("Status"), "{message}: {replies:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_owner_may_connect_and_the_file_goes_with_the_server() {
        let (mode, dir) = with_server(async |path| {
            fs::metadata(path).expect("the socket").permissions().mode() & 0o777
        })
        .await;
        assert_eq!(mode, 0o600);
        assert!(!dir.path().join("s.sock").exists());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_socket_that_a_dead_agent_left_is_replaced() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("s.sock");
        let left = UnixListener::bind(&path).expect("a free path");
        drop(left);
        assert!(path.exists());
        Server::bind(&path).expect("the place of the dead agent");
    }
}
