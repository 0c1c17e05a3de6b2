//! A node with two pods, of which the second one answers, and a directory of manifests that say so: what tests of one agent
//! begin with.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    manifest::{Manifest, Pod},
    server::Server,
    topology::{Cluster, Config, Node},
};

/// See the module; the pod has the label `app: web` and the name `pod-1-2`.
#[derive(Debug)]
pub struct LoneBackend {
    _server: Server,
    cluster: Cluster,
    manifests: TempDir,
}

impl LoneBackend {
    /// With a server of host names at this port of the pod.
    ///
    /// # Errors
    /// The cluster cannot be made, or the manifest not be written.
    pub fn new(port: u16) -> Result<Self> {
        let config = Config {
            pods: vec![2],
            ..Config::default()
        };
        let cluster = Cluster::new(&config)?;
        let server = &cluster.nodes[0].pods[1];
        let scene = Self {
            _server: Server::hostname(&server.namespace, &server.name, port)?,
            manifests: tempfile::tempdir()?,
            cluster,
        };
        scene.pods().write(&scene.path().join("pods.yaml"))?;
        Ok(scene)
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The directory of manifests.
    pub fn path(&self) -> &Path {
        self.manifests.path()
    }

    /// The node and the pod that answers.
    pub fn pods(&self) -> Manifest {
        let node = self.node();
        Manifest::nodes_of(&self.cluster).with(&Pod::of(node, &node.pods[1], "web"))
    }
}
