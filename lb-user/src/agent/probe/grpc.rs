//! `grpc`: one call of `grpc.health.v1.Health/Check`, in plain text.
//!
//! The two messages are so small that they are written and read here: a string in field 1 goes out, a number in
//! field 1 comes back (grpc/doc/health-checking.md, PROTOCOL-HTTP2.md).

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, StatusCode, Version, body::Bytes, client::conn::http2, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use super::{AGENT_NAME, Outcome, http::beside};

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// Bytes of an answer that are read.
const MAX_BODY: usize = 10 * 1024;
/// Before each message: whether it is compressed, and its length in four bytes, most significant first.
const FRAME: usize = 5;
/// Field 1 of type string, and of type number.
const TAG_SERVICE: u8 = 1 << 3 | 2;
const TAG_STATUS: u8 = 1 << 3;

/// Why there is no answer, or not the right one.
#[derive(Debug, thiserror::Error)]
enum GrpcError {
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("no request can be made")]
    Request(#[from] hyper::http::Error),
    #[error("no answer by HTTP/2 from {address}")]
    Exchange {
        address: SocketAddr,
        source: hyper::Error,
    },
    #[error("no whole answer from {address}: {source}")]
    Body {
        address: SocketAddr,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{address} answered by {status}, which is no gRPC")]
    Http {
        address: SocketAddr,
        status: StatusCode,
    },
    #[error("{address} answered by the gRPC status {code}{}", meaning(code))]
    Code { address: SocketAddr, code: String },
    #[error("{address} answered what is no answer to a health check")]
    Message { address: SocketAddr },
    #[error("{address} says {}", status_name(*.status))]
    NotServing { address: SocketAddr, status: u64 },
}

/// Asks whether a service is served; an empty name asks for the server as a whole.
pub(super) async fn check(address: SocketAddr, service: &str, timeout: Duration) -> Outcome {
    match ask(address, service, timeout).await {
        Ok(()) => Outcome::success(),
        Err(error) => Outcome::failure(&error),
    }
}

async fn ask(address: SocketAddr, service: &str, timeout: Duration) -> Result<(), GrpcError> {
    let request = Request::post(format!("http://{address}{METHOD}"))
        .version(Version::HTTP_2)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT_NAME)
        .header("grpc-timeout", format!("{}m", timeout.as_millis()))
        .body(Full::new(Bytes::from(frame(&question(service)))))?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| GrpcError::Connect { address, source })?;
    let failed = |source| GrpcError::Exchange { address, source };
    let tasks = Tasks::default();
    let _end = End(tasks.clone());
    let (mut sender, connection) = http2::handshake(tasks, TokioIo::new(stream))
        .await
        .map_err(failed)?;
    beside(connection, async {
        let (head, body) = sender
            .send_request(request)
            .await
            .map_err(failed)?
            .into_parts();
        if head.status != StatusCode::OK {
            let status = head.status;
            return Err(GrpcError::Http { address, status });
        }
        // An answer without message has its trailers at its head.
        want_ok(address, &head.headers, None)?;
        let body = Limited::new(body, MAX_BODY).collect().await;
        let body = body.map_err(|source| GrpcError::Body { address, source })?;
        want_ok(
            address,
            body.trailers().unwrap_or(&head.headers),
            Some("none"),
        )?;
        match answer(&body.to_bytes()) {
            Some(1) => Ok(()),
            Some(status) => Err(GrpcError::NotServing { address, status }),
            None => Err(GrpcError::Message { address }),
        }
    })
    .await
}

/// What a connection of HTTP/2 does beside its requests.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async {
            task.await;
        });
    }
}

/// Ends the tasks when it is dropped: a server that says nothing would keep them, and its connection, for ever.
struct End(Tasks);

impl Drop for End {
    fn drop(&mut self) {
        let Tasks(tasks) = &self.0;
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}

/// Wants `grpc-status` to be 0; what a missing one counts as is said.
fn want_ok(
    address: SocketAddr,
    headers: &HeaderMap,
    missing: Option<&str>,
) -> Result<(), GrpcError> {
    let code = match headers.get("grpc-status") {
        Some(code) => Some(String::from_utf8_lossy(code.as_bytes()).into_owned()),
        None => missing.map(str::to_owned),
    };
    match code {
        Some(code) if code != "0" => Err(GrpcError::Code { address, code }),
        _ => Ok(()),
    }
}

/// What a code tells about a health check.
fn meaning(code: &str) -> &'static str {
    match code {
        "5" => " (it does not know the service)",
        "12" => " (it does not implement grpc.health.v1)",
        _ => "",
    }
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".to_owned(),
        2 => "NOT_SERVING".to_owned(),
        3 => "SERVICE_UNKNOWN".to_owned(),
        other => format!("status {other}"),
    }
}

/// `HealthCheckRequest`.
fn question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(TAG_SERVICE);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(low_bits(length) | 0x80);
            length >>= 7;
        }
        message.push(low_bits(length));
        message.extend(service.as_bytes());
    }
    message
}

fn low_bits(number: usize) -> u8 {
    // Seven bits always fit.
    u8::try_from(number & 0x7f).unwrap_or_default()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.extend(message);
    framed
}

/// The status in a framed `HealthCheckResponse`; a message without it says 0. Nothing if it is something else.
fn answer(body: &[u8]) -> Option<u64> {
    let (head, message) = body.split_first_chunk::<FRAME>()?;
    let [compressed, length @ ..] = *head;
    if compressed != 0 || usize::try_from(u32::from_be_bytes(length)).ok()? != message.len() {
        return None;
    }
    let Some((&tag, number)) = message.split_first() else {
        return Some(0);
    };
    let mut value = 0;
    for (index, byte) in number.iter().take(9).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (tag == TAG_STATUS).then_some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_names_the_service() {
        assert_eq!(frame(&question("")), [0, 0, 0, 0, 0]);
        assert_eq!(frame(&question("ab")), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = question(&"x".repeat(300));
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(long.len(), 303);
    }

    #[test]
    fn the_answer_is_a_number() {
        let cases: [(&[u8], _); 8] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(1)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(2)),
            (&[0, 0, 0, 0, 3, 8, 0x80, 1], Some(128)),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[1, 0, 0, 0, 2, 8, 1], None),
            (&[0, 0, 0, 0, 2, 16, 1], None),
            (&[0, 0, 0, 0, 9, 8, 1], None),
            (&[0, 0, 0], None),
        ];
        for (body, expected) in cases {
            assert_eq!(answer(body), expected, "{body:?}");
        }
    }
}
