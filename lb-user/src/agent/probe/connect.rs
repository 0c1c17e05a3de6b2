//! Connections to what is probed: TCP, and TLS without a look at the certificate.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Arc, LazyLock},
    thread,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Names that are looked up at one time: each takes a thread for as long as the resolver likes.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

static TLS: LazyLock<Result<Arc<ClientConfig>, Error>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let verifier = AnyCertificate(Arc::clone(&provider));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
});

/// A connection to a name or an address.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    match host.parse::<IpAddr>() {
        Ok(ip) => TcpStream::connect((ip, port)).await,
        Err(_) => TcpStream::connect(&*look_up(host, port).await?).await,
    }
}

/// TLS over a connection to `host`, whatever the certificate.
pub(super) async fn tls(host: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let config = TLS.as_ref().map_err(io::Error::other)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(config))
        .connect(name, stream)
        .await
}

/// Asks the system's resolver, on a thread that nobody waits for when the agent ends.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let (answer, found) = oneshot::channel();
    thread::Builder::new().spawn(move || {
        // Refused when nobody waits any more.
        let _ = answer.send((&*host, port).to_socket_addrs().map(Vec::from_iter));
        drop(permit);
    })?;
    found.await.map_err(io::Error::other)?
}

/// Takes every certificate, as kubelets do: a probe asks whether somebody answers, not who.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
