//! Every place that a connection comes from, every address that it dials, and every place that it ends at, on one cluster.
//!
//! "Here" is the first node: its own processes and its last pod are clients, and so is whoever is outside, whose packets
//! come in through it. "There" is the second node. A [`Cell`] is one combination; it has a name, and running it is a test.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::{
    deployment::Deployment,
    server::Server,
    topology::{Cluster, Config},
};

mod cell;
mod services;

pub use cell::{Backend, Cell, Client, Family, Frontend};
pub use services::{CLOSED, ECHO, MEASURE, SERVED, ServicePort, WITNESS, frontend};

/// A cluster with servers at every place, an agent on each node, and a service for each place.
#[derive(Debug)]
pub struct Stage {
    /// The agents and the cluster.
    pub deployment: Deployment,
    _servers: Vec<Server>,
}

impl Stage {
    /// Sets the stage; the cluster has at least two pods on its first node and one on its second.
    pub fn new(config: &Config, flags: &[&str]) -> Result<Self> {
        let cluster = Cluster::new(config)?;
        let servers = serve(&cluster)?;
        let manifest = services::manifest(&cluster);
        let deployment = Deployment::start(cluster, &manifest, flags)?;
        Ok(Self {
            deployment,
            _servers: servers,
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.deployment.cluster
    }

    /// Runs these cells, all of them; fails with the name of each that failed, what happened there, and what the agents
    /// counted meanwhile.
    pub fn run(&self, cells: &[Cell]) -> Result<()> {
        let mut failures = Vec::new();
        for cell in cells {
            let before = self.counters()?;
            match cell.run(self.cluster()) {
                Ok(()) => println!("ok {cell}"),
                Err(error) => {
                    let counted = grown(&before, &self.counters()?);
                    failures.push(format!(
                        "{cell}: {error:#}\n    counted meanwhile: {counted}"
                    ));
                }
            }
        }
        if let Err(error) = self.deployment.expect_no_drops() {
            failures.push(format!("{error:#}"));
        }
        verdict(cells.len(), &failures)
    }

    /// The counters of every agent, by node and reason.
    pub fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for balancer in &self.deployment.balancers {
            let node = balancer.node_name();
            let counters = balancer.counters()?.into_iter();
            all.extend(counters.map(|(reason, count)| (format!("{node} {reason}"), count)));
        }
        Ok(all)
    }
}

/// Runs cells on a cluster without agents: those that need none.
pub fn run_directly(config: &Config, cells: &[Cell]) -> Result<()> {
    let cluster = Cluster::new(config)?;
    let _servers = serve(&cluster)?;
    let failures: Vec<String> = cells
        .iter()
        .filter_map(|cell| Some(format!("{cell}: {:#}", cell.run(&cluster).err()?)))
        .collect();
    verdict(cells.len(), &failures)
}

/// What has grown, and by how much.
pub fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let grown = after.iter().filter_map(|(reason, count)| {
        let by = count - before.get(reason).unwrap_or(&0);
        (by > 0).then(|| format!("{reason} +{by}"))
    });
    grown.collect::<Vec<_>>().join(", ")
}

fn verdict(n_cells: usize, failures: &[String]) -> Result<()> {
    if !failures.is_empty() {
        bail!(
            "{} failures in {n_cells} cells:\n  {}",
            failures.len(),
            failures.join("\n  ")
        );
    }
    Ok(())
}

/// Servers of each kind at every place.
fn serve(cluster: &Cluster) -> Result<Vec<Server>> {
    let pods = cluster.pods().map(|(_, pod)| (&pod.namespace, &pod.name));
    let nodes = cluster
        .nodes
        .iter()
        .map(|node| (&node.namespace, &node.name));
    let outside = (&cluster.client.namespace, &"client".to_owned());
    let mut servers = Vec::new();
    for (namespace, name) in pods.chain(nodes).chain([outside]) {
        servers.extend([
            Server::witness(namespace, name, WITNESS.target)?,
            Server::echo(namespace, ECHO.target)?,
            Server::measuring(namespace, name, MEASURE.target)?,
        ]);
    }
    Ok(servers)
}
