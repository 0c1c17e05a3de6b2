//! What is to be asked of whom: pods as the sources have them, judged for the probes that can be run.
//!
//! Pure. Two equal targets are one: what else changes in a pod does not start its probes anew.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use super::{tally::Thresholds, url::Url};
use crate::{
    model::{
        finding::{Finding, Severity},
        object::{Kind, Located, ObjectName, ObjectRef},
        pod::{Container, Pod},
        probe::ProbeAction,
        service::TargetPort,
    },
    source::spelling,
};

/// Whose probe it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The pod.
    pub pod: ObjectName,
    /// The container.
    pub container: Arc<str>,
}

/// All that is asked.
pub type Targets = BTreeMap<Key, Arc<Target>>;

/// One container that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `metadata.uid`: another pod of the same name is another target.
    pub uid: Option<Box<str>>,
    /// `status.startTime` in seconds since 1970, from which the delay counts.
    pub started_s: Option<i64>,
    /// What is asked.
    pub question: Question,
    /// How long after its start it is first asked.
    pub initial_delay: Duration,
    /// From one time to the next.
    pub period: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// How many answers decide.
    pub thresholds: Thresholds,
}

/// What is asked, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `httpGet`.
    Http {
        /// Where.
        url: Url,
        /// `httpHeaders`.
        headers: Vec<(String, String)>,
    },
    /// `tcpSocket`.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
    },
    /// `grpc`.
    Grpc {
        /// Where.
        address: SocketAddr,
        /// The service; empty: the server as a whole.
        service: String,
    },
}

/// Who says whether a container is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Its probe.
    Probe(Arc<Target>),
    /// Its probe, which cannot succeed.
    Nobody,
    /// The pod's status, as there is no probe that can be run.
    Status,
}

/// Who judges each container of a pod, in their order.
pub(super) fn judges(pod: &Pod) -> Vec<Judge> {
    pod.containers.iter().map(|it| judge(pod, it)).collect()
}

fn judge(pod: &Pod, container: &Container) -> Judge {
    let Some(probe) = &container.readiness_probe else {
        return Judge::Status;
    };
    let Some(ip) = address(pod) else {
        return match probe.action {
            ProbeAction::Exec => Judge::Status,
            _ => Judge::Nobody,
        };
    };
    let host = |given: &Option<String>| given.clone().unwrap_or_else(|| ip.to_string());
    let question = match &probe.action {
        ProbeAction::Exec => return Judge::Status,
        ProbeAction::HttpGet(get) => number(container, &get.port).map(|port| Question::Http {
            url: Url::new(get.scheme, &host(&get.host), port, &get.path),
            headers: get.headers.clone(),
        }),
        ProbeAction::TcpSocket(socket) => {
            number(container, &socket.port).map(|port| Question::Tcp {
                host: host(&socket.host),
                port,
            })
        }
        ProbeAction::Grpc(grpc) => Some(Question::Grpc {
            address: SocketAddr::new(ip, grpc.port),
            service: grpc.service.clone(),
        }),
    };
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    match question {
        None => Judge::Nobody,
        Some(question) => Judge::Probe(Arc::new(Target {
            uid: pod.meta.uid.clone(),
            started_s: pod.started_s,
            question,
            initial_delay: seconds(probe.initial_delay_s),
            period: seconds(probe.period_s),
            timeout: seconds(probe.timeout_s),
            thresholds: Thresholds {
                success: probe.success_threshold,
                failure: probe.failure_threshold,
            },
        })),
    }
}

/// The pod's primary address; with the node's network it may have none but the node's.
fn address(pod: &Pod) -> Option<IpAddr> {
    let of_host = pod.host_ips.first().filter(|_| pod.host_network);
    pod.ips.first().or(of_host).copied()
}

/// Names are those of the container's own ports.
fn number(container: &Container, port: &TargetPort) -> Option<u16> {
    match port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => container
            .ports
            .iter()
            .find(|port| port.name.as_deref() == Some(&**name))
            .map(|port| port.port),
    }
}

/// Probes that are not run, or can never succeed.
pub(super) fn findings(pod: &Located<Pod>, findings: &mut Vec<Finding>) {
    let reference = ObjectRef {
        kind: Kind::Pod,
        name: pod.object.meta.name.clone(),
    };
    for container in &pod.object.containers {
        let Some(probe) = &container.readiness_probe else {
            continue;
        };
        let (field, port) = match &probe.action {
            ProbeAction::Exec => ("exec", None),
            ProbeAction::HttpGet(get) => ("httpGet.port", Some(&get.port)),
            ProbeAction::TcpSocket(socket) => ("tcpSocket.port", Some(&socket.port)),
            ProbeAction::Grpc(_) => continue,
        };
        let message = match port {
            None => format!(
                "the command of container `{}` is not run, since nothing here gets inside; the pod's status \
                 decides. Use httpGet, tcpSocket or grpc",
                container.name
            ),
            Some(TargetPort::Name(name))
                if number(container, &TargetPort::Name(name.clone())).is_none() =>
            {
                let names = container
                    .ports
                    .iter()
                    .filter_map(|port| port.name.as_deref());
                let hint = spelling::hint(name, names);
                format!(
                    "container `{}` has no port `{name}` and is never ready; name one so in its `ports`{hint}",
                    container.name
                )
            }
            Some(_) => continue,
        };
        let list = if container.is_sidecar {
            "initContainers"
        } else {
            "containers"
        };
        let field = format!("spec.{list}[].readinessProbe.{field}");
        findings.push(Finding::about(
            Severity::Warning,
            (&reference, pod),
            &field,
            message,
        ));
    }
}
