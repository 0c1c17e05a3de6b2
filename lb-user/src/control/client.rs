//! The command line's end of the socket: one request, one reply, no runtime.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::{self, DeserializeOwned};
use serde_json::Value;

use super::{Ask, AskedVersion, Name, Outcome, Query, Reply, Request, VERSION, socket};

/// Longest wait for the agent's next line.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest line that is taken from an agent.
const MAX_LINE_BYTES: u64 = 1 << 30;

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
    /// Command and agent are of different versions.
    #[error(
        "the agent on {socket} speaks version {theirs} of the protocol, this command version {VERSION}; \
         use the binary that the agent was started from"
    )]
    Version {
        /// Where it listens.
        socket: PathBuf,
        /// Its version.
        theirs: u32,
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

/// Asks the agent of `run_dir` what has one answer.
pub fn ask<T: DeserializeOwned>(run_dir: &Path, request: Request) -> Result<T, AskError> {
    let mut conversation = Conversation::begin(run_dir, request)?;
    match conversation.next()? {
        Outcome::Answer(value) => {
            serde_json::from_value(value).map_err(|source| conversation.not_understood(source))
        }
        _ => Err(conversation.unexpected()),
    }
}

/// What an agent tells about objects.
#[derive(Debug)]
pub struct Objects(Conversation);

/// One piece of it.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// An object that is there, or is there now, or has changed.
    Object(Value),
    /// One that is gone.
    Deleted(Name),
    /// Everything that was there has been told.
    Listed,
}

/// Asks the agent of `run_dir` for objects.
pub fn objects(run_dir: &Path, query: Query) -> Result<Objects, AskError> {
    Conversation::begin(run_dir, Request::Objects(query)).map(Objects)
}

/// Asks the agent of `run_dir` what its node makes of services; an agent that does not know the question refuses.
pub fn choices(run_dir: &Path, query: Query) -> Result<Objects, AskError> {
    Conversation::begin(run_dir, Request::Choices(query)).map(Objects)
}

impl Objects {
    /// What the agent tells next; waits as long as it takes once everything has been listed.
    pub fn event(&mut self) -> Result<Event, AskError> {
        match self.0.next()? {
            Outcome::Object(object) => Ok(Event::Object(object)),
            Outcome::Deleted(name) => Ok(Event::Deleted(name)),
            Outcome::Listed(_) => {
                self.0.wait_for_ever()?;
                Ok(Event::Listed)
            }
            Outcome::Answer(_) | Outcome::Error(_) => Err(self.0.unexpected()),
        }
    }
}

/// A connection on which something was asked.
#[derive(Debug)]
struct Conversation {
    socket: PathBuf,
    read: BufReader<UnixStream>,
}

impl Conversation {
    fn begin(run_dir: &Path, request: Request) -> Result<Self, AskError> {
        let socket = socket(run_dir);
        let stream = UnixStream::connect(&socket).map_err(|reason| AskError::NoAgent {
            socket: socket.clone(),
            run_dir: run_dir.to_owned(),
            reason,
        })?;
        match send(&stream, request) {
            Ok(()) => Ok(Self {
                socket,
                read: BufReader::new(stream),
            }),
            Err(source) => Err(AskError::Broken { socket, source }),
        }
    }

    /// The next line. What the agent refuses is an error.
    fn next(&mut self) -> Result<Outcome, AskError> {
        let line = self.line().map_err(|source| self.broken(source))?;
        let AskedVersion { version } =
            serde_json::from_slice(&line).map_err(|source| self.not_understood(source))?;
        // An error has the same form in all versions, and says more.
        let reply: Result<Reply, _> = serde_json::from_slice(&line);
        let socket = self.socket.clone();
        match reply {
            Ok(Reply {
                outcome: Outcome::Error(message),
                ..
            }) => Err(AskError::Refused { socket, message }),
            _ if version != VERSION => Err(AskError::Version {
                socket,
                theirs: version,
            }),
            Ok(reply) => Ok(reply.outcome),
            Err(source) => Err(self.not_understood(source)),
        }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        let mut read = (&mut self.read).take(MAX_LINE_BYTES);
        read.read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            Ok(line)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn wait_for_ever(&self) -> Result<(), AskError> {
        let forever = self.read.get_ref().set_read_timeout(None);
        forever.map_err(|source| self.broken(source))
    }

    fn broken(&self, source: io::Error) -> AskError {
        AskError::Broken {
            socket: self.socket.clone(),
            source,
        }
    }

    fn not_understood(&self, source: serde_json::Error) -> AskError {
        AskError::NotUnderstood {
            socket: self.socket.clone(),
            source,
        }
    }

    fn unexpected(&self) -> AskError {
        self.not_understood(de::Error::custom(
            "another reply than the question asks for",
        ))
    }
}

fn send(mut stream: &UnixStream, request: Request) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(&Ask {
        version: VERSION,
        request,
    })?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;
    use crate::model::object::Kind;

    /// What `client` makes of an agent that says `reply` and closes; and what the agent was asked.
    fn told<T>(reply: &'static str, client: impl FnOnce(&Path) -> T) -> (T, String) {
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
        let answer = client(dir.path());
        (answer, agent.join().expect("the agent's thread"))
    }

    fn answered(reply: &'static str) -> Result<Value, AskError> {
        let (answer, asked) = told(reply, |dir| ask(dir, Request::Status));
        assert_eq!(asked, "{\"version\":2,\"get\":\"status\"}\n");
        answer
    }

    #[test]
    fn an_answer_comes_back() {
        let answer = answered("{\"version\":2,\"answer\":[1]}\n").expect("an answer");
        assert_eq!(answer, serde_json::json!([1]));
    }

    #[test]
    fn whatever_else_comes_back_is_an_error_that_says_so() {
        for (reply, message) in [
            ("{\"version\":2,\"error\":\"no\"}\n", ": no"),
            ("", "does not answer"),
            ("{\"version\":2,\"answer\":[", "does not answer"),
            ("nonsense\n", "does not understand"),
            ("{\"version\":2,\"listed\":0}\n", "does not understand"),
            (
                "{\"version\":7,\"answer\":1}\n",
                "speaks version 7 of the protocol, this command version 2",
            ),
            (
                "{\"version\":7,\"new\":1}\n",
                "speaks version 7 of the protocol, this command version 2",
            ),
            ("{\"version\":7,\"error\":\"it is 7\"}\n", "it is 7"),
            ("{\"version\":2}\n", "does not understand"),
        ] {
            let error = answered(reply).expect_err(reply).to_string();
            assert!(error.contains(message), "{reply:?}: {error}");
        }
    }

    #[test]
    fn objects_come_one_by_one() {
        let lines = "{\"version\":2,\"object\":{\"a\":1}}\n{\"version\":2,\"listed\":1}\n\
                     {\"version\":2,\"deleted\":{\"namespace\":\"n\",\"name\":\"x\"}}\n";
        let (events, asked) = told(lines, |dir| {
            let mut told = objects(dir, Query::all(Kind::Pod)).expect("an agent");
            [told.event(), told.event(), told.event(), told.event()]
        });
        assert_eq!(
            asked,
            "{\"version\":2,\"get\":\"objects\",\"kind\":\"Pod\"}\n"
        );
        let [object, listed, deleted, end] = events;
        assert_eq!(
            object.expect("an object"),
            Event::Object(serde_json::json!({"a": 1}))
        );
        assert_eq!(listed.expect("the end of the listing"), Event::Listed);
        let name = Name {
            namespace: "n".to_owned(),
            name: "x".to_owned(),
        };
        assert_eq!(deleted.expect("a name"), Event::Deleted(name));
        let error = end.expect_err("the agent has gone").to_string();
        assert!(error.contains("does not answer"), "{error}");
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
