//! `httpGet`.

use std::{future::Future, io};

use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    AGENT_NAME, Outcome, connect,
    url::{BadLocation, Url},
};
use crate::{causes::with_causes, model::probe::Scheme};

/// Bytes of an answer that are read.
const MAX_BODY: usize = 10 * 1024;
/// Requests of one probe: the first, and those that answers send it on to.
const MAX_REQUESTS: usize = 10;

/// Why there is no answer. All messages stay the same from try to try.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody accepts, or the connection broke.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No TLS.
    #[error("no TLS with {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// What went wrong.
        source: io::Error,
    },
    /// No HTTP.
    #[error("no answer by HTTP from {authority}")]
    Exchange {
        /// Host and port.
        authority: String,
        /// What went wrong.
        source: hyper::Error,
    },
    /// A header with what none can hold.
    #[error("the header `{name}` has a value that no request can hold")]
    Header {
        /// `name` of the header.
        name: String,
    },
    /// The manifest asks for what no request can hold.
    #[error("no request can be made")]
    Request(#[from] hyper::http::Error),
}

/// Asks for `url`, and whatever the same host sends on to. A probe's `headers` win over its own; an empty one of
/// those leaves its own out.
pub(super) async fn get(url: &Url, headers: &[(String, String)]) -> Outcome {
    let mut at = url.clone();
    let mut host_header = None;
    let headers = match all_headers(headers) {
        Ok(headers) => headers,
        Err(error) => return Outcome::failure(&error),
    };
    if let Some(host) = headers.get(header::HOST) {
        host_header = Some(host.clone());
    }
    for _ in 0..MAX_REQUESTS {
        let response = match exchange(&at, &headers, host_header.as_ref()).await {
            Ok(response) => response,
            Err(error) => return Outcome::failure(&error),
        };
        let there = match (location(&response), response.status().as_u16()) {
            (Some(location), _) => at.join(location),
            (None, 200..=399) => return Outcome::success(),
            (None, _) => {
                let status = response.status();
                return Outcome::Failure(format!("GET {at} was answered by {status}"));
            }
        };
        match there {
            Ok(there) if there.host == url.host => {
                // A name that was asked for stays asked for while the answers say nothing of names.
                host_header = host_header.filter(|_| there.authority() == at.authority());
                at = there;
            }
            Ok(_) => {
                let note = format!("GET {at} leads to another host, where nobody asks");
                return Outcome::Success { note: Some(note) };
            }
            Err(BadLocation) => {
                return Outcome::Failure(format!("GET {at} leads to no place that there is"));
            }
        }
    }
    Outcome::Failure(format!("GET {url} leads on and on, {MAX_REQUESTS} times"))
}

fn all_headers(given: &[(String, String)]) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let header = HeaderName::from_bytes(name.as_bytes()).ok();
        let pair = header.zip(HeaderValue::from_str(value).ok());
        let (header, value) = pair.ok_or_else(|| HttpError::Header { name: name.clone() })?;
        headers.append(header, value);
    }
    for (name, own) in [(header::USER_AGENT, AGENT_NAME), (header::ACCEPT, "*/*")] {
        if headers.get(&name).is_some_and(HeaderValue::is_empty) {
            headers.remove(&name);
        } else {
            headers.entry(name).or_insert(HeaderValue::from_static(own));
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(headers)
}

/// Where an answer sends on to.
fn location<T>(response: &Response<T>) -> Option<&str> {
    let sends_on = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location = response.headers().get(header::LOCATION)?;
    let location = location.to_str().ok().filter(|text| !text.is_empty());
    location.filter(|_| sends_on.contains(&response.status()))
}

/// One request and the begin of its answer.
async fn exchange(
    url: &Url,
    headers: &HeaderMap,
    host: Option<&HeaderValue>,
) -> Result<Response<()>, HttpError> {
    let authority = url.authority();
    let mut request = Request::get(&url.path)
        .version(Version::HTTP_11)
        .body(Empty::new())?;
    *request.headers_mut() = headers.clone();
    let own = HeaderValue::from_str(&authority).map_err(hyper::http::Error::from)?;
    let host = host.filter(|host| !host.is_empty()).cloned();
    request
        .headers_mut()
        .insert(header::HOST, host.unwrap_or(own));
    let stream = connect::tcp(&url.host, url.port())
        .await
        .map_err(|source| HttpError::Connect {
            authority: authority.clone(),
            source,
        })?;
    let response = match url.scheme {
        Scheme::Http => send(stream, request).await,
        Scheme::Https => match connect::tls(&url.host, stream).await {
            Ok(stream) => send(stream, request).await,
            Err(source) => return Err(HttpError::Tls { authority, source }),
        },
    };
    response.map_err(|source| HttpError::Exchange { authority, source })
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
) -> hyper::Result<Response<()>> {
    // Readiness is not a matter of tidy headers.
    let (mut sender, connection) = http1::Builder::new()
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await?;
    beside(connection, async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        read(body).await?;
        Ok(Response::from_parts(head, ()))
    })
    .await
}

/// Reads a body, or as much of it as anybody cares for.
async fn read(mut body: Incoming) -> hyper::Result<()> {
    let mut n_bytes = 0;
    while n_bytes <= MAX_BODY {
        let Some(frame) = body.frame().await else {
            break;
        };
        n_bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}

/// The outcome of `exchange`, while the connection that it needs is driven. What the connection ends with, the exchange
/// ends with, too.
pub(super) async fn beside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let driven = async {
        connection.await;
        std::future::pending().await
    };
    tokio::select! {
        outcome = exchange => outcome,
        never = driven => never,
    }
}

impl Outcome {
    pub(super) fn failure(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failure(with_causes(error))
    }
}
