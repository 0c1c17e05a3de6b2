//! The server against clients that are right, wrong, slow or many.

use std::ops::ControlFlow;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    control::{Query, Reply},
    model::object::Kind,
};

/// What the server of these tests is told to list.
type Numbers = Vec<u32>;

/// Runs `client` against a server that lists an object per number, for which it says the number; questions with one
/// answer are answered with their `Debug` text.
async fn with_server<T>(
    client: impl AsyncFnOnce(&Path, watch::Sender<Numbers>) -> T,
) -> (T, TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("s.sock");
    let server = Server::bind(&path).expect("a free path");
    let (numbers_in, numbers) = watch::channel(vec![1, 2]);
    let changes = numbers.clone();
    let answer = move |request: &Request| match request {
        Request::Names => Err("no names today".to_owned()),
        Request::Status => Ok(Answer::Value(json!("fine"))),
        Request::Objects(_) | Request::Choices(_) | Request::Trace(_) => {
            let numbers = numbers.borrow().clone();
            Ok(Answer::Objects(Box::new(move |emit| {
                let object = |number: u32| json!({"metadata": {"name": number.to_string()}});
                let _ = numbers.into_iter().map(object).try_for_each(emit);
            })))
        }
    };
    let result = tokio::select! {
        never = server.serve(answer, changes) => match never {},
        result = time::timeout(ASK_TIME, client(&path, numbers_in)) => result,
    };
    (result.expect("the server answers in time"), dir)
}

/// A client that says `bytes` first.
struct Client {
    lines: tokio::io::Lines<BufReader<OwnedReadHalf>>,
    _write: OwnedWriteHalf,
}

impl Client {
    async fn new(path: &Path, bytes: &[u8]) -> Self {
        let stream = UnixStream::connect(path).await.expect("a listening server");
        let (read, mut write) = stream.into_split();
        // The server may close before it has read everything.
        let _ = write.write_all(bytes).await;
        Self {
            lines: BufReader::new(read).lines(),
            _write: write,
        }
    }

    /// The next line; none when the server has closed.
    async fn line(&mut self) -> Option<String> {
        self.lines.next_line().await.ok().flatten()
    }

    async fn outcome(&mut self) -> Outcome {
        let line = self.line().await.expect("a reply");
        let reply: Reply = serde_json::from_str(&line).expect("a reply");
        assert_eq!(reply.version, VERSION);
        reply.outcome
    }

    /// What objects a client is told of, in short, until `Listed` or so many.
    async fn told(&mut self, n: usize) -> Vec<String> {
        let mut told = Vec::new();
        while told.len() < n {
            told.push(match self.outcome().await {
                Outcome::Object(object) => format!("+{}", crate::control::Name::of(&object).name),
                Outcome::Deleted(name) => format!("-{}", name.name),
                Outcome::Listed(n) => format!("={n}"),
                other => panic!("{other:?}"),
            });
        }
        told
    }
}

const STATUS: &[u8] = b"{\"version\":2,\"get\":\"status\"}\n";
const NAMES: &[u8] = b"{\"version\":2,\"get\":\"names\"}\n";

fn pods(watch: bool) -> Vec<u8> {
    let ask = Ask {
        version: VERSION,
        request: Request::Objects(Query {
            watch,
            ..Query::all(Kind::Pod)
        }),
    };
    let mut line = serde_json::to_vec(&ask).expect("serializable");
    line.push(b'\n');
    line
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_carries_several_requests() {
    let asked = [NAMES, STATUS, &pods(false), STATUS].concat();
    let (outcomes, _dir) = with_server(async |path, _numbers| {
        let mut client = Client::new(path, &asked).await;
        let first = [client.outcome().await, client.outcome().await];
        let objects = client.told(3).await;
        (first, objects, client.outcome().await)
    })
    .await;
    let fine = || Outcome::Answer(json!("fine"));
    let (first, objects, last) = outcomes;
    assert_eq!(first, [Outcome::Error("no names today".to_owned()), fine()]);
    assert_eq!(objects, ["+1", "+2", "=2"]);
    assert_eq!(last, fine());
}

#[tokio::test(flavor = "current_thread")]
async fn a_watch_tells_what_changes() {
    let (told, _dir) = with_server(async |path, numbers| {
        let mut client = Client::new(path, &pods(true)).await;
        let mut told = client.told(3).await;
        numbers.send_replace(vec![2, 3]);
        told.extend(client.told(2).await);
        // Nothing differs: nothing is said.
        numbers.send_replace(vec![2, 3]);
        numbers.send_replace(vec![3]);
        told.extend(client.told(1).await);
        told
    })
    .await;
    assert_eq!(told, ["+1", "+2", "=2", "+3", "-1", "-2"]);
}

#[tokio::test(flavor = "current_thread")]
async fn watches_are_bounded_and_a_place_is_free_again_when_its_client_leaves() {
    let ((), _dir) = with_server(async |path, _numbers| {
        let mut watching = Vec::new();
        for _ in 0..MAX_WATCHES {
            let mut client = Client::new(path, &pods(true)).await;
            client.told(3).await;
            watching.push(client);
        }
        let mut refused = Client::new(path, &pods(true)).await;
        match refused.outcome().await {
            Outcome::Error(message) => assert!(message.contains("16 watches"), "{message}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(refused.line().await, None);
        let status = Client::new(path, STATUS).await.outcome().await;
        assert_eq!(status, Outcome::Answer(json!("fine")));
        watching.pop();
        loop {
            let mut next = Client::new(path, &pods(true)).await;
            if matches!(next.outcome().await, Outcome::Object(_)) {
                break;
            }
            task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_client_that_does_not_read_holds_up_nobody_and_has_little_made_for_it() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const N_OBJECTS: usize = 10_000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("s.sock");
    let server = Server::bind(&path).expect("a free path");
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let answer = move |request: &Request| match request {
        Request::Objects(_) | Request::Choices(_) | Request::Trace(_) => {
            let count = Arc::clone(&count);
            Ok(Answer::Objects(Box::new(move |emit| {
                for _ in 0..N_OBJECTS {
                    count.fetch_add(1, Ordering::Relaxed);
                    if emit(json!("x".repeat(10_000))) == ControlFlow::Break(()) {
                        return;
                    }
                }
            })))
        }
        _ => Ok(Answer::Value(json!("fine"))),
    };
    let (_changes_in, changes) = watch::channel(());
    let client = async {
        let mut slow = Vec::new();
        for _ in 0..4 {
            slow.push(Client::new(&path, &pods(false)).await);
        }
        for _ in 0..100 {
            let status = Client::new(&path, STATUS).await.outcome().await;
            assert_eq!(status, Outcome::Answer(json!("fine")));
        }
        assert!(made.load(Ordering::Relaxed) < N_OBJECTS);
    };
    tokio::select! {
        never = server.serve(answer, changes) => match never {},
        done = time::timeout(ASK_TIME, client) => done.expect("the server answers in time"),
    }
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
            b"{\"version\":2,\"get\":\"secrets\"}\n",
            "unknown variant `secrets`",
        ),
        (
            b"{\"version\":2,\"get\":\"objects\",\"kind\":\"Pod\",\"selector\":\"=\"}\n",
            "is no requirement of a label selector",
        ),
        (
            b"{\"version\":1,\"get\":\"status\"}\n",
            "speaks version 2 of the protocol, not 1",
        ),
        (b"\xff\xfe\n", "not a request of this protocol"),
        (&long, "a request is one line of at most 16384 bytes"),
    ] {
        let (said, _dir) = with_server(async |path, _numbers| {
            let mut first = Client::new(path, bytes).await;
            let said = first.line().await;
            assert_eq!(first.line().await, None, "the connection is closed");
            let next = Client::new(path, STATUS).await.outcome().await;
            assert_eq!(next, Outcome::Answer(json!("fine")));
            said
        })
        .await;
        assert!(
            said.as_ref().is_some_and(|it| it.contains(message)),
            "{message}: {said:?}"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn only_the_owner_may_connect_and_the_file_goes_with_the_server() {
    let (mode, dir) = with_server(async |path, _numbers| {
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
