//! A cluster that serves: `fulcrum run` on every node, all after the manifests of one directory.
//!
//! What most end-to-end tests begin with. The directory is the test's to change; every agent follows it.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    balancer::Balancer,
    manifest::{self, Manifest},
    topology::{Cluster, Pod},
};

/// How long agents may take to follow a change of the manifests.
const FOLLOW_LIMIT: Duration = Duration::from_secs(20);
/// The file of the manifest that a deployment starts with.
const FIRST_FILE: &str = "services.yaml";

/// A cluster, and an agent on each of its nodes; everything goes when it is dropped, the agents first.
#[derive(Debug)]
pub struct Deployment {
    /// The agents, in the order of the nodes.
    pub balancers: Vec<Balancer>,
    /// Nodes, pods and the client outside.
    pub cluster: Cluster,
    manifests: TempDir,
}

impl Deployment {
    /// Starts agents on all nodes of `cluster`; `flags` are further flags of `fulcrum run`.
    ///
    /// The Nodes of the cluster are told in a file of their own.
    pub fn start(cluster: Cluster, manifest: &Manifest, flags: &[&str]) -> Result<Self> {
        let manifests = tempfile::tempdir().context("make a directory for manifests")?;
        Manifest::nodes_of(&cluster).write(&manifests.path().join("nodes.yaml"))?;
        manifest.write(&manifests.path().join(FIRST_FILE))?;
        let balancers = cluster
            .nodes
            .iter()
            .map(|node| Balancer::start(node, manifests.path(), flags))
            .collect::<Result<_>>()?;
        Ok(Self {
            balancers,
            cluster,
            manifests,
        })
    }

    /// The path of a file of the manifests' directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.manifests.path().join(file)
    }

    /// Replaces the manifest that the deployment was started with; does not wait for the agents.
    pub fn write(&self, manifest: &Manifest) -> Result<()> {
        manifest.write(&self.path(FIRST_FILE))
    }

    /// Writes a file beside it, or replaces it, whatever its text; does not wait for the agents.
    pub fn write_file(&self, file: &str, text: &str) -> Result<()> {
        manifest::replace(&self.path(file), text)
    }

    /// Waits until the endpoint slices of `service` list on every agent exactly these ready endpoints, in any order, both
    /// families.
    pub fn wait_for_endpoints(&self, service: &str, endpoints: &[String]) -> Result<()> {
        let mut wanted = endpoints.to_vec();
        wanted.sort_unstable();
        let what = format!("{service} to have the endpoints {}", wanted.join(", "));
        let is_wanted = |text: &str| ready_endpoints(text, service) == Some(wanted.clone());
        for balancer in &self.balancers {
            let arguments = ["get", "endpointslices", "--output", "json"];
            balancer.fulcrum_until(&arguments, FOLLOW_LIMIT, &what, is_wanted)?;
        }
        Ok(())
    }

    /// The same for these pods, at this port.
    pub fn wait_for_pods(&self, service: &str, pods: &[&str], port: u16) -> Result<()> {
        let is_meant = |pod: &Pod| pods.contains(&pod.name.as_str());
        let meant = self.cluster.pods().filter(|(_, pod)| is_meant(pod));
        let endpoints: Vec<String> = meant
            .flat_map(|(_, pod)| pod.addresses.both())
            .map(|ip| SocketAddr::new(ip, port).to_string())
            .collect();
        self.wait_for_endpoints(service, &endpoints)
    }

    /// Fails if an agent has dropped a packet, for whatever reason.
    pub fn expect_no_drops(&self) -> Result<()> {
        for balancer in &self.balancers {
            let mut counters = balancer.counters()?;
            counters.retain(|reason, count| reason.starts_with("drop_") && *count > 0);
            let node = balancer.node_name();
            ensure!(counters.is_empty(), "{node} dropped packets: {counters:?}");
        }
        Ok(())
    }
}

/// The ready endpoints of a service in what `get endpointslices -o json` prints, sorted; none where it has no slice.
pub fn ready_endpoints(text: &str, service: &str) -> Option<Vec<String>> {
    let list: Value = serde_json::from_str(text).ok()?;
    let items = list["items"].as_array()?.iter();
    let slices: Vec<&Value> = items
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service)
        .collect();
    let mut ready: Vec<String> = slices.iter().copied().flat_map(ready_of_slice).collect();
    ready.sort_unstable();
    ready.dedup();
    (!slices.is_empty()).then_some(ready)
}

fn ready_of_slice(slice: &Value) -> Vec<String> {
    let list = |name: &str| slice[name].as_array().cloned().unwrap_or_default();
    let ports = list("ports");
    let ips = list("endpoints")
        .into_iter()
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok());
    ips.flat_map(|ip| {
        let numbers = ports.iter().filter_map(|port| port["port"].as_u64());
        let numbers = numbers.filter_map(|port| u16::try_from(port).ok());
        numbers
            .map(|port| SocketAddr::new(ip, port).to_string())
            .collect::<Vec<_>>()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_those_of_the_service_that_is_meant() {
        let slice = |service: &str, endpoints: &str| {
            format!(
                r#"{{"metadata": {{"labels": {{"kubernetes.io/service-name": "{service}"}}}},
                    "ports": [{{"port": 1}}], "endpoints": [{endpoints}]}}"#
            )
        };
        let endpoint = |ip: &str, ready: bool| {
            format!(r#"{{"addresses": ["{ip}"], "conditions": {{"ready": {ready}}}}}"#)
        };
        let two = [
            endpoint("10.0.0.2", true),
            endpoint("10.0.0.1", true),
            endpoint("10.0.0.3", false),
        ];
        let slices = [slice("a", &two.join(",")), slice("b", "")];
        let text = &format!(r#"{{"items": [{}]}}"#, slices.join(","));
        let sorted = ["10.0.0.1:1", "10.0.0.2:1"].map(str::to_owned).to_vec();
        assert_eq!(ready_endpoints(text, "a"), Some(sorted));
        assert_eq!(ready_endpoints(text, "b"), Some(Vec::new()));
        assert_eq!(ready_endpoints(text, "c"), None);
    }
}
