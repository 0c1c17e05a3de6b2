//! The command line's end of the socket: one request, one reply, no runtime.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::{Ask, Outcome, Reply, Request, VERSION, socket};

/// Longest wait for the agent. Shorter than the life that the server gives a connection.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error(
        "no agent answers on {socket} ({reason}); start one by \
         `fulcrum run --run-dir {run_dir} --manifests DIR`, or name the one that runs by --run-dir"
    )]
    NoAgent {
        /// Where it should listen.
        socket: PathBuf,
        /// Its run directory.
        run_dir: PathBuf,
        /// The system's answer.
        reason: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent on {socket} does not answer")]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// The agent answered something else.
    #[error(
        "the agent on {socket} answers what this command does not understand; use the binary that it was started from"
    )]
    NotUnderstood {
        /// Where it listens.
        socket: PathBuf,
        /// Where reading stopped.
        #[source]
        source: serde_json::Error,
    },
    /// The agent said why not.
    #[error("the agent on {socket}: {message}")]
    Refused {
        /// Where it listens.
        socket: PathBuf,
        /// Its words.
        message: String,
    },
}

/// Asks the agent of `run_dir`.
pub fn ask<T: DeserializeOwned>(run_dir: &Path, request: Request) -> Result<T, AskError> {
    let socket = socket(run_dir);
    let stream = UnixStream::connect(&socket).map_err(|reason| AskError::NoAgent {
        socket: socket.clone(),
        run_dir: run_dir.to_owned(),
        reason,
    })?;
    let line = converse(stream, request).map_err(|source| AskError::Broken {
        socket: socket.clone(),
        source,
    })?;
    let not_understood = |source| AskError::NotUnderstood {
        socket: socket.clone(),
        source,
    };
    let reply: Reply = serde_json::from_str(&line).map_err(not_understood)?;
    match reply.outcome {
        Outcome::Answer(value) => serde_json::from_value(value).map_err(not_understood),
        Outcome::Error(message) => Err(AskError::Refused { socket, message }),
    }
}

fn converse(mut stream: UnixStream, request: Request) -> io::Result<String> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(&Ask {
        version: VERSION,
        request,
    })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    if reply.ends_with('\n') {
        Ok(reply)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use serde_json::Value;

    use super::*;

    /// What the client makes of an agent that says `reply` and closes.
    fn answered(reply: &'static str) -> Result<Value, AskError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(socket(dir.path())).expect("a free path");
        let agent = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a client");
            let mut asked = String::new();
            BufReader::new(&stream)
                .read_line(&mut asked)
                .expect("a request");
            (&stream)
                .write_all(reply.as_bytes())
                .expect("a client that reads");
            asked
        });
        let answer = ask(dir.path(), Request::Status);
        let asked = agent.join().expect("the agent's thread");
        assert_eq!(asked, "{\"version\":1,\"get\":\"status\"}\n");
        answer
    }

    #[test]
    fn an_answer_comes_back() {
        let answer = answered("{\"version\":1,\"answer\":[1]}\n").expect("an answer");
        assert_eq!(answer, serde_json::json!([1]));
    }

    #[test]
    fn whatever_else_comes_back_is_an_error_that_says_so() {
        for (reply, message) in [
            ("{\"version\":1,\"error\":\"no\"}\n", ": no"),
            ("", "does not answer"),
            ("{\"version\":1,\"answer\":[", "does not answer"),
            ("nonsense\n", "does not understand"),
            ("{\"version\":1}\n", "does not understand"),
        ] {
            let error = answered(reply).expect_err(reply).to_string();
            assert!(error.contains(message), "{reply:?}: {error}");
        }
    }

    #[test]
    fn when_no_agent_runs_the_error_names_the_socket_and_the_command() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let error = ask::<Value>(dir.path(), Request::Status)
            .expect_err("no agent")
            .to_string();
        let path = dir.path().display();
        assert!(error.contains(&format!("{path}/fulcrum.sock")), "{error}");
        assert!(
            error.contains(&format!("`fulcrum run --run-dir {path} --manifests")),
            "{error}"
        );
    }
}
