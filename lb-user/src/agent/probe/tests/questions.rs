//! One question, one answer.

use std::{net::SocketAddr, sync::Mutex};

use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    super::{url::Url, *},
    servers::{self, body, status, with_header},
    target,
};
use crate::model::probe::Scheme;

/// More than any of these servers takes that answers at all.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

async fn http(scheme: Scheme, address: SocketAddr, path: &str, timeout: Duration) -> Outcome {
    let question = Question::Http {
        url: Url::new(scheme, &address.ip().to_string(), address.port(), path),
        headers: Vec::new(),
    };
    ask(&target(question, timeout)).await
}

async fn get(address: SocketAddr, path: &str) -> Outcome {
    http(Scheme::Http, address, path, LONG).await
}

fn failure(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failure(cause) => cause,
        Outcome::Success { .. } => panic!("a success"),
    }
}

#[tokio::test]
async fn statuses_from_200_to_399_are_successes() {
    let server =
        servers::http(|request| status(request.uri().path()[1..].parse().expect("a status"))).await;
    for code in [200, 204, 299, 300, 301, 304, 399] {
        assert_eq!(get(server, &format!("/{code}")).await, Outcome::success());
    }
    for code in [400, 404, 500, 503, 599] {
        let cause = failure(get(server, &format!("/{code}")).await);
        let expected = format!("GET http://{server}/{code} was answered by {code}");
        assert!(cause.starts_with(&expected), "{cause}");
    }
}

#[tokio::test]
async fn a_request_says_what_the_manifest_says_and_who_asks() {
    type Seen = Vec<(String, String)>;
    type Pairs<'a> = &'a [(&'a str, &'a str)];
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let noted = Arc::clone(&seen);
    let server = servers::http(move |request| {
        let headers = request.headers().iter();
        let text = |value: &hyper::header::HeaderValue| value.to_str().expect("text").to_owned();
        let mut all: Seen = headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        all.push(("path".to_owned(), request.uri().to_string()));
        all.sort();
        *noted.lock().expect("no panic") = all;
        status(200)
    })
    .await;
    let own_host = server.to_string();
    let cases: [(Pairs<'_>, Pairs<'_>); 3] = [
        (
            &[],
            &[
                ("accept", "*/*"),
                ("connection", "close"),
                ("host", &own_host),
                ("path", "/a%20b?c"),
                ("user-agent", AGENT_NAME),
            ],
        ),
        (
            &[
                ("Host", "web.example"),
                ("User-Agent", "me"),
                ("X-A", "1"),
                ("X-A", "2"),
            ],
            &[
                ("accept", "*/*"),
                ("connection", "close"),
                ("host", "web.example"),
                ("path", "/a%20b?c"),
                ("user-agent", "me"),
                ("x-a", "1"),
                ("x-a", "2"),
            ],
        ),
        (
            &[("Accept", ""), ("User-Agent", ""), ("Host", "")],
            &[
                ("connection", "close"),
                ("host", &own_host),
                ("path", "/a%20b?c"),
            ],
        ),
    ];
    for (given, expected) in cases {
        let pairs = |list: &[(&str, &str)]| -> Seen {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            list.iter().map(pair).collect()
        };
        let question = Question::Http {
            url: Url::new(Scheme::Http, "127.0.0.1", server.port(), "/a b?c"),
            headers: pairs(given),
        };
        assert_eq!(ask(&target(question, LONG)).await, Outcome::success());
        assert_eq!(*seen.lock().expect("no panic"), pairs(expected));
    }
}

#[tokio::test]
async fn headers_that_no_request_can_hold_fail_the_probe() {
    let server = servers::http(|_| status(200)).await;
    let question = Question::Http {
        url: Url::new(Scheme::Http, "127.0.0.1", server.port(), "/"),
        headers: vec![("X-A".to_owned(), "a\nb".to_owned())],
    };
    let cause = failure(ask(&target(question, LONG)).await);
    assert_eq!(
        cause,
        "the header `X-A` has a value that no request can hold"
    );
}

#[tokio::test]
async fn answers_send_on_within_their_host_alone() {
    fn answer(request: &Request<Incoming>) -> Response<servers::Body> {
        let host = request.headers()["host"].to_str().expect("text");
        match request.uri().path() {
            "/there" if host == "web.example" => status(200),
            "/here" => with_header(302, "location", "there"),
            "/down" => with_header(307, "location", "/broken"),
            "/round" => with_header(301, "location", "/round"),
            "/away" => with_header(302, "location", "http://192.0.2.1/"),
            "/nowhere" => with_header(302, "location", "http://"),
            _ => status(503),
        }
    }
    let server = servers::http(|request| answer(&request)).await;
    let go = async |path: &str| {
        let question = Question::Http {
            url: Url::new(Scheme::Http, "127.0.0.1", server.port(), path),
            headers: vec![("Host".to_owned(), "web.example".to_owned())],
        };
        ask(&target(question, LONG)).await
    };
    assert_eq!(go("/here").await, Outcome::success());
    let cause = failure(go("/down").await);
    assert!(cause.contains("/broken was answered by 503"), "{cause}");
    let cause = failure(go("/round").await);
    assert!(cause.ends_with("leads on and on, 10 times"), "{cause}");
    let cause = failure(go("/nowhere").await);
    assert!(
        cause.ends_with("leads to no place that there is"),
        "{cause}"
    );
    let Outcome::Success { note: Some(note) } = go("/away").await else {
        panic!("no success with a note");
    };
    assert!(note.ends_with("leads to another host, where nobody asks"));
}

#[tokio::test]
async fn only_the_begin_of_a_long_answer_is_read() {
    let endless = || {
        let frame = || Ok(Frame::data(Bytes::from_static(&[b'x'; 4096])));
        StreamBody::new(futures_util::stream::repeat_with(frame))
    };
    let server = servers::http(move |request| match request.uri().path() {
        "/large" => Response::new(body(vec![b'x'; 1 << 20])),
        _ => Response::new(endless().boxed()),
    })
    .await;
    assert_eq!(get(server, "/large").await, Outcome::success());
    assert_eq!(get(server, "/endless").await, Outcome::success());
}

#[tokio::test]
async fn who_does_not_answer_in_time_fails() {
    let silent = servers::silent().await;
    let stuck = servers::connections(async |mut stream: tokio::net::TcpStream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx";
        // The other end may be gone.
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(head.as_bytes()).await;
        std::future::pending::<()>().await;
    })
    .await;
    for (scheme, server) in [
        (Scheme::Http, silent),
        (Scheme::Http, stuck),
        (Scheme::Https, silent),
    ] {
        let cause = failure(http(scheme, server, "/", SHORT).await);
        assert_eq!(cause, "no answer within 50ms");
    }
    let question = Question::Grpc {
        address: silent,
        service: String::new(),
    };
    let cause = failure(ask(&target(question, SHORT)).await);
    assert_eq!(cause, "no answer within 50ms");
}

#[tokio::test]
async fn untidy_headers_are_no_fault() {
    let server = servers::connections(async |mut stream: tokio::net::TcpStream| {
        let answer = "HTTP/1.0 200 Ok\nContent-Length : 0\r\nX-Long: a\r\n b\r\nA b: c\r\n\r\n";
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    assert_eq!(get(server, "/").await, Outcome::success());
}

#[tokio::test]
async fn a_connection_ends_with_its_question() {
    let (ended, mut ends) = tokio::sync::mpsc::channel(1);
    let silent = servers::connections(move |mut stream: tokio::net::TcpStream| {
        let ended = ended.clone();
        async move {
            // Until the other end is gone, by whatever way.
            while let Ok(1..) = stream.read(&mut [0; 1024]).await {}
            ended.send(()).await.expect("somebody waits");
        }
    })
    .await;
    let url = |scheme| Question::Http {
        url: Url::new(scheme, "127.0.0.1", silent.port(), "/"),
        headers: Vec::new(),
    };
    let call = Question::Grpc {
        address: silent,
        service: String::new(),
    };
    for question in [url(Scheme::Http), url(Scheme::Https), call] {
        let cause = failure(ask(&target(question, SHORT)).await);
        assert_eq!(cause, "no answer within 50ms");
        let ended = time::timeout(LONG, ends.recv()).await;
        ended.expect("in time").expect("a connection");
    }
}

#[tokio::test]
async fn who_speaks_something_else_fails() {
    let babbling = servers::connections(async |mut stream: tokio::net::TcpStream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
    })
    .await;
    let cause = failure(get(babbling, "/").await);
    let expected = format!("no answer by HTTP from {babbling}: ");
    assert!(cause.starts_with(&expected), "{cause}");
    let plain = servers::http(|_| status(200)).await;
    let cause = failure(http(Scheme::Https, plain, "/", LONG).await);
    let expected = format!("no TLS with {plain}: ");
    assert!(cause.starts_with(&expected), "{cause}");
}

#[tokio::test]
async fn certificates_are_not_looked_at() {
    let server = servers::https(|request| match request.uri().path() {
        "/ok" => status(200),
        _ => status(500),
    })
    .await;
    let ok = http(Scheme::Https, server, "/ok", LONG).await;
    assert_eq!(ok, Outcome::success());
    let cause = failure(http(Scheme::Https, server, "/", LONG).await);
    assert!(cause.contains("was answered by 500"), "{cause}");
}

#[tokio::test]
async fn an_open_port_is_enough_for_a_socket_probe() {
    let (open, closed) = (servers::silent().await, servers::closed().await);
    let socket = |host: &str, address: SocketAddr| Question::Tcp {
        host: host.to_owned(),
        port: address.port(),
    };
    for host in ["127.0.0.1", "localhost"] {
        let outcome = ask(&target(socket(host, open), LONG)).await;
        assert_eq!(outcome, Outcome::success(), "{host}");
    }
    let cause = failure(ask(&target(socket("127.0.0.1", closed), LONG)).await);
    let expected = format!("cannot connect to 127.0.0.1 port {}: ", closed.port());
    assert!(cause.starts_with(&expected), "{cause}");
    let cause = failure(get(closed, "/").await);
    let expected = format!("cannot connect to {closed}: ");
    assert!(cause.starts_with(&expected), "{cause}");
}

#[tokio::test]
async fn grpc_servers_are_asked_for_a_service_and_say_whether_they_serve() {
    type Seen = Arc<Mutex<(String, Vec<u8>)>>;
    let seen = Seen::default();
    let cases: [(&[u8], _, _); 6] = [
        (&[0, 0, 0, 0, 2, 8, 1], "0", ""),
        (&[0, 0, 0, 0, 2, 8, 2], "0", "ADDRESS says NOT_SERVING"),
        (&[0, 0, 0, 0, 0], "0", "ADDRESS says UNKNOWN"),
        (
            &[],
            "5",
            "ADDRESS answered by the gRPC status 5 (it does not know the service)",
        ),
        (
            &[],
            "12",
            "ADDRESS answered by the gRPC status 12 (it does not implement grpc.health.v1)",
        ),
        (
            b"<html>",
            "0",
            "ADDRESS answered what is no answer to a health check",
        ),
    ];
    for (message, code, expected) in cases {
        let noted = Arc::clone(&seen);
        let address = servers::grpc(message, code, move |request, question| {
            *noted.lock().expect("no panic") = (request.uri().path().to_owned(), question.to_vec());
        })
        .await;
        let question = Question::Grpc {
            address,
            service: "web".to_owned(),
        };
        let outcome = ask(&target(question, LONG)).await;
        let expected = match expected {
            "" => Outcome::success(),
            text => Outcome::Failure(text.replace("ADDRESS", &address.to_string())),
        };
        assert_eq!(outcome, expected);
        let (path, question) = seen.lock().expect("no panic").clone();
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        assert_eq!(question, [0, 0, 0, 0, 5, 0x0a, 3, b'w', b'e', b'b']);
    }
}

#[tokio::test]
async fn a_server_without_http2_serves_no_grpc() {
    let address = servers::http(|_| status(200)).await;
    let question = Question::Grpc {
        address,
        service: String::new(),
    };
    let cause = failure(ask(&target(question, LONG)).await);
    let expected = format!("no answer by HTTP/2 from {address}: ");
    assert!(cause.starts_with(&expected), "{cause}");
}
