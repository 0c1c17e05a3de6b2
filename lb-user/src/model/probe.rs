//! Readiness probes of containers: what is asked, how often, and how many answers decide.

use super::service::TargetPort;

/// `readinessProbe` of one container, defaults filled in. Times are whole seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub action: ProbeAction,
    /// `initialDelaySeconds`: how long after its start a container is first asked.
    pub initial_delay_s: u32,
    /// `periodSeconds`, at least 1.
    pub period_s: u32,
    /// `timeoutSeconds`, at least 1.
    pub timeout_s: u32,
    /// `successThreshold`, at least 1: so many successes in a row make the container ready.
    pub success_threshold: u32,
    /// `failureThreshold`, at least 1: so many failures in a row end that.
    pub failure_threshold: u32,
}

/// How a container is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeAction {
    /// `httpGet`.
    HttpGet(HttpGet),
    /// `tcpSocket`.
    TcpSocket(TcpSocket),
    /// `grpc`.
    Grpc(Grpc),
    /// `exec`: a command inside the container, where nothing here gets.
    Exec,
}

/// A GET request that is to be answered by 2xx or 3xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpGet {
    /// `scheme`.
    pub scheme: Scheme,
    /// `host`; none: the pod's address.
    pub host: Option<String>,
    /// `port`.
    pub port: TargetPort,
    /// `path`, as it is written.
    pub path: String,
    /// `httpHeaders` in their order; a name may occur more than once.
    pub headers: Vec<(String, String)>,
}

/// `scheme` of an HTTP request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain text.
    Http,
    /// TLS; nobody checks the certificate.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// A connection that is to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSocket {
    /// `host`; none: the pod's address.
    pub host: Option<String>,
    /// `port`.
    pub port: TargetPort,
}

/// A call of `grpc.health.v1.Health/Check` that is to be answered by `SERVING`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grpc {
    /// `port`.
    pub port: u16,
    /// `service`; empty: the server as a whole.
    pub service: String,
}
