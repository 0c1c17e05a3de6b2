//! What this node makes of a service: its addresses, the list of endpoints that each of them has for whom, and of each
//! endpoint why it is not in a list.
//!
//! Pure: from what was compiled to JSON, for `describe`.

use std::{
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    sync::Arc,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::view::View;
use crate::{
    compile::explain::{Explainer, List, PortChoice},
    control::Query,
    desired::{Algorithm, DesiredPort, Frontend, FrontendKind, PortName},
    model::object::ObjectName,
    shared_map::SharedMap,
};

/// Every service port that has a place in the tables.
pub type Served = SharedMap<PortName, DesiredPort>;

/// A port of a service in one family.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(flatten)]
    choice: &'a PortChoice,
    frontends: Vec<Front>,
    /// How one of a list is chosen.
    algorithm: Algorithm,
    /// Places of its Maglev tables, if the service says.
    maglev_size: Option<u32>,
    /// Seconds; 0: none.
    affinity_timeout: u32,
    /// Who may dial the addresses of load balancers; empty: everybody.
    source_ranges: Vec<String>,
}

/// An address of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Front {
    /// Without a port where it stands for all others.
    address: String,
    kind: &'static str,
    /// For pods and nodes.
    inside: Answer,
    /// For all others.
    outside: Answer,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    /// The list that it may use; none where it has nobody to go to by definition.
    list: Option<List>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// To one of the list.
    Forward,
    /// The list is empty, and other nodes have endpoints.
    Drop,
    /// There is no endpoint at all.
    Reject,
}

/// Gives out what there is to say about the services that a query means, in objects with their names.
pub fn each(view: &View, query: &Query, emit: &mut dyn FnMut(Value) -> ControlFlow<()>) {
    let explainer = Explainer::new(&view.snapshot, &view.facts);
    for (name, located) in &view.snapshot.services {
        if !query.matches(name, &located.object.meta.labels) {
            continue;
        }
        let addresses = view.addresses.get(name);
        let choices = addresses.map(|addresses| explainer.explain(name, addresses));
        let choices = choices.unwrap_or_default();
        let ports = choices
            .iter()
            .map(|choice| port(name, choice, &view.served));
        let object = json!({
            "metadata": {"namespace": &*name.namespace, "name": &*name.name},
            "node": view.facts.name,
            "ports": ports.collect::<Vec<_>>(),
        });
        if emit(object).is_break() {
            return;
        }
    }
}

fn port<'a>(service: &ObjectName, choice: &'a PortChoice, served: &Served) -> Port<'a> {
    let name = PortName {
        namespace: Arc::clone(&service.namespace),
        service: Arc::clone(&service.name),
        port: choice.name.as_str().into(),
        protocol: choice.protocol,
        family: choice.family,
    };
    let none = DesiredPort::default();
    let served = served.get(&name).unwrap_or(&none);
    let front = |frontend: &Frontend| Front {
        address: address(frontend),
        kind: kind(frontend.kind),
        inside: inside(frontend.kind, served, choice),
        outside: outside(frontend.kind, served, choice),
    };
    let is_other = |frontend: &&Frontend| frontend.kind == FrontendKind::AnyPort;
    let frontends = served.frontends.iter();
    // What answers pings alone leads to nobody, and is not rejected either.
    let frontends = frontends.filter(|frontend| frontend.kind != FrontendKind::Address);
    let (others, own): (Vec<_>, Vec<_>) = frontends.partition(is_other);
    Port {
        choice,
        frontends: own.into_iter().chain(others).map(front).collect(),
        algorithm: served.algorithm,
        maglev_size: served.maglev_size,
        affinity_timeout: served.affinity_timeout_s,
        source_ranges: served
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

fn address(frontend: &Frontend) -> String {
    match (frontend.kind, frontend.addr) {
        (FrontendKind::AnyPort, IpAddr::V4(addr)) => format!("{addr}:*"),
        (FrontendKind::AnyPort, IpAddr::V6(addr)) => format!("[{addr}]:*"),
        (_, addr) => SocketAddr::new(addr, frontend.port).to_string(),
    }
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster-ip",
        FrontendKind::NodePort => "node-port",
        FrontendKind::LoadBalancer => "load-balancer",
        FrontendKind::ExternalIp => "external-ip",
        FrontendKind::AnyPort => "any-other-port",
        FrontendKind::Address => "address",
    }
}

/// Pods and nodes reach all endpoints by the addresses for clients outside, whatever the external policy.
fn inside(kind: FrontendKind, port: &DesiredPort, choice: &PortChoice) -> Answer {
    match kind {
        FrontendKind::AnyPort | FrontendKind::Address => Answer::NOBODY,
        FrontendKind::ClusterIp if port.internal_local => Answer::of(List::InternalLocal, choice),
        FrontendKind::ClusterIp
        | FrontendKind::NodePort
        | FrontendKind::LoadBalancer
        | FrontendKind::ExternalIp => Answer::of(List::Cluster, choice),
    }
}

fn outside(kind: FrontendKind, port: &DesiredPort, choice: &PortChoice) -> Answer {
    match kind {
        // The internal policy is one for the address, whoever dials it.
        FrontendKind::ClusterIp | FrontendKind::AnyPort | FrontendKind::Address => {
            inside(kind, port, choice)
        }
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp
            if port.external_local =>
        {
            Answer::of(List::ExternalLocal, choice)
        }
        FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp => {
            Answer::of(List::Cluster, choice)
        }
    }
}

impl Answer {
    const NOBODY: Self = Self {
        list: None,
        verdict: Verdict::Reject,
    };

    fn of(list: List, choice: &PortChoice) -> Self {
        let has = |list: List| {
            let mut endpoints = choice.endpoints.iter();
            endpoints.any(|endpoint| endpoint.lists.contains(&list))
        };
        let verdict = if has(list) {
            Verdict::Forward
        } else if has(List::Cluster) {
            Verdict::Drop
        } else {
            Verdict::Reject
        };
        Self {
            list: Some(list),
            verdict,
        }
    }
}

#[cfg(test)]
mod tests;
