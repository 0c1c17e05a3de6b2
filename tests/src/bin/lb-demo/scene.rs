//! All that is up while a demo is: nodes, pods, servers and agents.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    balancer::{self, Balancer},
    manifest,
    netns::Namespace,
    server::Server,
    topology::{Cluster, Config, Naming, Node, Outside, UPLINK},
};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::{
    NAME_PREFIX,
    served::{FILES, NODE_PORT, OUTSIDE, PODS, SECOND_OUTSIDE, further_outside},
};

/// Agents go before servers, and those before the namespaces that they are in.
pub(crate) struct Demo {
    balancers: Vec<Balancer>,
    _servers: Vec<Server>,
    cluster: Cluster,
    manifests: TempDir,
}

impl Demo {
    /// Brings everything up.
    pub(crate) fn new(naming: Naming) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "network namespaces need root; run the same command as root"
        );
        balancer::binary()?;
        println!(
            "Two nodes and a client outside, made of network namespaces; `fulcrum run` on both nodes."
        );
        // Node 1 has one more pod, which asks.
        let cluster = Cluster::new(&Config {
            pods: vec![5, 5],
            outside: Outside::BehindGateway,
            naming,
            ..Config::default()
        })?;
        let servers = serve(&cluster)?;
        let prefix = format!("{NAME_PREFIX}{}-", std::process::id());
        let manifests = tempfile::Builder::new().prefix(&prefix).tempdir();
        let manifests = manifests.context("make a directory for manifests")?;
        for (file, text) in FILES {
            manifest::replace(&manifests.path().join(file), text)?;
        }
        let balancers = cluster
            .nodes
            .iter()
            .map(|node| Balancer::start(node, manifests.path(), &[]));
        let balancers = balancers.collect::<Result<_>>()?;
        Ok(Self {
            balancers,
            _servers: servers,
            cluster,
            manifests,
        })
    }

    /// The agents, that of node 1 first.
    pub(crate) fn balancers(&self) -> &[Balancer] {
        &self.balancers
    }

    /// The agent of node 1.
    pub(crate) fn first(&self) -> Result<&Balancer> {
        self.balancers.first().context("an agent runs")
    }

    /// The pod that asks, on node 1.
    pub(crate) fn pod(&self) -> Result<&Namespace> {
        let pod = self.cluster.nodes[0].pods.last();
        Ok(&pod.context("node 1 has a pod that asks")?.namespace)
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.cluster.nodes
    }

    /// Node 1 itself.
    pub(crate) fn node(&self) -> &Namespace {
        &self.cluster.nodes[0].namespace
    }

    /// Who is outside.
    pub(crate) fn outside(&self) -> &Namespace {
        &self.cluster.client.namespace
    }

    /// His address that the topology gives.
    pub(crate) fn outside_address(&self) -> Ipv4Addr {
        self.cluster.client.addresses.v4
    }

    /// The directory that the agents follow.
    pub(crate) fn manifests(&self) -> &Path {
        self.manifests.path()
    }
}

/// Starts everybody who answers: in pods, on nodes, and outside.
fn serve(cluster: &Cluster) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for (node, pods) in cluster.nodes.iter().zip(PODS) {
        for (pod, served) in node.pods.iter().zip(pods) {
            for (port, suffix) in served.listens {
                let name = format!("{}{suffix}", served.name);
                servers.push(if served.is_witness {
                    Server::witness(&pod.namespace, &name, *port)?
                } else {
                    Server::hostname(&pod.namespace, &name, *port)?
                });
            }
        }
        servers.push(Server::hostname(&node.namespace, &node.name, NODE_PORT)?);
    }
    let outside = &cluster.client.namespace;
    let further = further_outside().map(|address| address.to_string());
    let more = std::iter::once(SECOND_OUTSIDE.to_owned()).chain(further);
    let more = more.map(|address| format!("addr add {address}/24 dev {UPLINK}"));
    outside.ip(&more.collect::<Vec<_>>())?;
    let (port, name) = OUTSIDE;
    servers.push(Server::hostname(outside, name, port)?);
    Ok(servers)
}
