//! Servers that are probed: on ports of 127.0.0.1 that the kernel chooses, for as long as the test's runtime lasts.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc};

use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

pub(super) type Body = BoxBody<Bytes, Infallible>;

pub(super) fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

pub(super) fn status(code: u16) -> Response<Body> {
    with_header(code, "x-nothing", "")
}

pub(super) fn with_header(code: u16, name: &str, value: &str) -> Response<Body> {
    let response = Response::builder().status(code).header(name, value);
    response.body(body("")).expect("a response")
}

/// Hands each connection to `serve`.
pub(super) async fn connections<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Answers by HTTP/1.1.
pub(super) async fn http(
    answer: impl Fn(Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
) -> SocketAddr {
    let answer = Arc::new(answer);
    connections(move |stream| http1_over(TokioIo::new(stream), Arc::clone(&answer))).await
}

async fn http1_over<I, A>(io: I, answer: Arc<A>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    A: Fn(Request<Incoming>) -> Response<Body>,
{
    let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(request))));
    // A client that goes when it has what it wants is no fault.
    let _ = http1::Builder::new().serve_connection(io, service).await;
}

/// Answers by HTTP/1.1 over TLS, with a certificate that nobody has signed.
pub(super) async fn https(
    answer: impl Fn(Request<Incoming>) -> Response<Body> + Send + Sync + 'static,
) -> SocketAddr {
    let own = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).expect("a key");
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let answer = Arc::new(answer);
    connections(move |stream| {
        let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                http1_over(TokioIo::new(stream), answer).await;
            }
        }
    })
    .await
}

/// Answers each call with this message, in its frame, and this `grpc-status` behind it.
pub(super) async fn grpc(
    message: &'static [u8],
    code: &'static str,
    seen: impl Fn(&Request<Incoming>, &[u8]) + Clone + Send + Sync + 'static,
) -> SocketAddr {
    connections(move |stream| {
        let seen = seen.clone();
        async move {
            let service = service_fn(move |mut request: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let question = request.body_mut().collect().await?.to_bytes();
                    seen(&request, &question);
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", code.parse().expect("a code"));
                    let body = Full::new(Bytes::from_static(message));
                    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
                    Ok::<_, hyper::Error>(Response::new(body))
                }
            });
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await
}

/// Takes connections and says nothing.
pub(super) async fn silent() -> SocketAddr {
    connections(async |stream: TcpStream| {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await
}

/// A port that nobody listens on.
pub(super) async fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("bound")
}
