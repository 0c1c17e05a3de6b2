//! A node port: the same number at every node, whoever asks, wherever the pods are.

use std::net::SocketAddr;

use anyhow::Result;

use lb_tests::signals::Signals;

use crate::{
    scene::Demo,
    served::{HOSTNAMES, NODE_PORT_ALL, TCP_AND_UDP},
    show::show_spread,
};

impl Demo {
    /// Asks at both nodes, and fails unless all pods of both answer.
    pub(crate) fn show_node_ports(&self, signals: &Signals) -> Result<()> {
        let (service, port) = NODE_PORT_ALL;
        println!(
            "\nThe Service {service}: port {port} of every node leads to the pods of all nodes:\n"
        );
        // Whom it is made for first.
        for source in self.sources()?.into_iter().rev() {
            for address in self.nodes().iter().flat_map(|node| node.addresses.both()) {
                for exchange in TCP_AND_UDP {
                    signals.check()?;
                    let address = SocketAddr::new(address, port);
                    show_spread(source, *exchange, address, HOSTNAMES)?;
                }
            }
        }
        Ok(())
    }
}
