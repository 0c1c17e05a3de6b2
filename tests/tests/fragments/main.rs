//! Datagrams in fragments, end to end: through every kind of address, in order and out of order, both ways.
//!
//! Reordering is done by a sender of our own, since not every kernel has a queueing discipline for it.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod large;
mod reordered;
mod sender;

use lb_tests::{
    stage::{Backend, Client, Family, Frontend, Stage},
    topology::Config,
};

/// Ways to a backend that differ in what is rewritten: addresses by whom it comes, sources by where it goes.
const WAYS: [(Client, Frontend, Backend); 7] = [
    (Client::Pod, Frontend::ClusterIp, Backend::LocalPod),
    (Client::Pod, Frontend::ClusterIp, Backend::RemotePod),
    (Client::Host, Frontend::ClusterIp, Backend::RemotePod),
    (Client::Host, Frontend::ClusterIp, Backend::LocalPod),
    (Client::Outside, Frontend::OwnNodePort, Backend::LocalPod),
    (Client::Outside, Frontend::OwnNodePort, Backend::RemotePod),
    (Client::Outside, Frontend::OwnNodePort, Backend::HostHere),
];

fn stage() -> Stage {
    let config = Config {
        pods: vec![2, 1],
        ..Config::default()
    };
    Stage::new(&config, &[]).unwrap()
}

/// Fails with the names of those cases that failed, and why.
fn expect_all(cases: impl IntoIterator<Item = (String, anyhow::Result<()>)>) {
    let failures: Vec<String> = cases
        .into_iter()
        .filter_map(|(name, result)| Some(format!("{name}: {:#}", result.err()?)))
        .collect();
    assert!(failures.is_empty(), "\n  {}", failures.join("\n  "));
}

/// All ways in both families, each with its name.
fn ways() -> impl Iterator<Item = (String, (Client, Frontend, Backend), Family)> {
    WAYS.into_iter().flat_map(|way| {
        Family::ALL.map(|family| {
            let (client, frontend, backend) = way;
            let name = format!("{client} to {backend} by {frontend:?}, {family}");
            (name, way, family)
        })
    })
}
