//! What the stack did before, and redirecting would lose: too large packets are answered or cut, hops are counted, and
//! neighbours are followed also while the agent is dead.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod errors;
mod hops;
mod mtu;
mod neighbours;

use std::time::Duration;

use lb_tests::{
    stage::{Backend, Client, Family, Frontend, Stage, frontend},
    topology::Config,
};

/// How long a packet may take that is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// Two pods on the first node, one of which dials, and one on the second.
fn two_nodes() -> Config {
    Config {
        pods: vec![2, 1],
        ..Config::default()
    }
}

/// Fails with the names of those cases that failed, and why.
fn expect_all(cases: impl IntoIterator<Item = (String, anyhow::Result<()>)>) {
    let failures: Vec<String> = cases
        .into_iter()
        .filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?)))
        .collect();
    assert!(failures.is_empty(), "\n  {}", failures.join("\n  "));
}

/// All clients in both families, each with its name.
fn clients() -> impl Iterator<Item = (String, Client, Family)> {
    let both = |client| Family::ALL.map(|family| (format!("{client}/{family}"), client, family));
    Client::ALL.into_iter().flat_map(both)
}

/// What a client dials for this backend's port.
fn cluster_ip(
    stage: &Stage,
    backend: Backend,
    family: Family,
    port: lb_tests::stage::ServicePort,
) -> std::net::SocketAddr {
    frontend(stage.cluster(), Frontend::ClusterIp, backend, family, port)
}
