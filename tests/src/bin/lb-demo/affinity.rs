//! Session affinity: a client keeps its pod, whichever address it dials.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use lb_tests::{client, netns::Namespace, signals::Signals};

use crate::{
    scene::Demo,
    served::{AFFINITY_IP, NODE_PORT_AFFINITY, further_outside},
    show::socket_address,
};

/// Requests of a client to each address.
const N_REQUESTS: usize = 10;

impl Demo {
    /// Lets clients ask again and again, and fails unless each of them keeps its pod.
    pub(crate) fn show_affinity(&self, signals: &Signals) -> Result<()> {
        let (service, port) = NODE_PORT_AFFINITY;
        println!(
            "\nThe Service {service}, with sessionAffinity: ClientIP: a client keeps its pod, whichever address it dials:\n"
        );
        let node = SocketAddr::new(self.nodes()[0].addresses.v4.into(), port);
        let addresses = [socket_address(&format!("{AFFINITY_IP}:80"))?, node];
        for (source, namespace) in self.sources()? {
            signals.check()?;
            let server = kept(source, namespace, addresses)?;
            let [first, second] = addresses;
            println!(
                "  from {source:15}  {first} and {second}  {server} {}",
                2 * N_REQUESTS
            );
        }
        signals.check()?;
        self.show_many_clients(addresses)
    }

    /// Further addresses outside: each has a pod of its own choice, so that all pods have clients.
    fn show_many_clients(&self, addresses: [SocketAddr; 2]) -> Result<()> {
        let mut clients = BTreeMap::<String, usize>::new();
        for source in further_outside() {
            // There and back again: who asked first at one address keeps its pod at the other.
            let answers = self.outside().run(|| {
                [addresses[0], addresses[1], addresses[0]]
                    .map(|address| client::tcp_hit_from(source.into(), address))
            });
            let [first, second, third] = answers;
            let first = first.with_context(|| format!("from {source}"))?;
            for again in [second, third] {
                let again = again.with_context(|| format!("from {source}"))?;
                ensure!(
                    first == again,
                    "{source} was answered by {first}, and later by {again}"
                );
            }
            *clients.entry(first).or_default() += 1;
        }
        // All of them choose the same one in one run of 2^31.
        ensure!(
            clients.len() == 2,
            "not both pods have clients: {clients:?} of {} addresses",
            further_outside().count()
        );
        print!(
            "  from {:15}",
            format!("{} more outside", further_outside().count())
        );
        for (server, n) in clients {
            print!("  {server} is kept by {n}");
        }
        println!();
        Ok(())
    }
}

/// The one that answers all requests to these addresses.
fn kept(source: &str, namespace: &Namespace, addresses: [SocketAddr; 2]) -> Result<String> {
    let mut servers = BTreeMap::<String, usize>::new();
    for address in addresses {
        let tally = client::many(namespace, client::Exchange::Tcp, address, N_REQUESTS);
        tally.complete().with_context(|| format!("from {source}"))?;
        for (server, n) in tally.hits() {
            *servers.entry(server.clone()).or_default() += n;
        }
    }
    ensure!(
        servers.len() == 1,
        "one client is answered by several: from {source} {servers:?}"
    );
    let server = servers.into_keys().next();
    server.context("somebody answers")
}
