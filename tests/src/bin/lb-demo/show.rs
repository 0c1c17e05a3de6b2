//! What the readers of the manifests expect, shown and checked.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use lb_tests::{
    balancer::{self, Balancer},
    client::{self, Exchange},
    deployment::ready_endpoints,
    netns::Namespace,
    signals::Signals,
};

use crate::{
    NAME_PREFIX,
    scene::Demo,
    served::{NODE_PORT_ALL, SERVED, url},
};

/// Requests of each kind: four servers are all hit, but for one run in 10^24.
const N_REQUESTS: usize = 200;
/// Requests that are shown one by one.
const N_SHOWN: usize = 4;
/// How long agents may take to serve what the manifests say.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The service that is described: of two named ports.
const DESCRIBED: &str = "kubia";

impl Demo {
    /// Prints what a reader of the manifests expects, and fails where it is not so.
    pub(crate) fn show(&self, signals: &Signals) -> Result<()> {
        self.show_all(signals)
            .with_context(|| format!("what the nodes dropped: {}", self.drops()))
    }

    /// The counters of all nodes that say why a packet got nowhere.
    fn drops(&self) -> String {
        let of_node = |balancer: &Balancer| {
            let mut counters = balancer.counters().unwrap_or_default();
            counters.retain(|reason, n| {
                *n > 0 && (reason.starts_with("drop_") || reason.starts_with("reject_"))
            });
            format!("{} {counters:?}", balancer.node_name())
        };
        let nodes: Vec<String> = self.balancers().iter().map(of_node).collect();
        nodes.join(", ")
    }

    fn show_all(&self, signals: &Signals) -> Result<()> {
        self.show_tables()?;
        self.show_services(signals)?;
        self.show_node_ports(signals)?;
        self.show_affinity(signals)?;
        self.show_policies(signals)
    }

    fn show_services(&self, signals: &Signals) -> Result<()> {
        let sources = [
            ("In a pod on node-1", self.pod()?),
            ("On node-1 itself", self.node()),
        ];
        for (source, namespace) in sources {
            println!("{source}:\n");
            for served in &SERVED {
                signals.check()?;
                show_requests(source, namespace, served.frontend)?;
            }
            println!();
        }
        println!("And many, each on a connection or port of its own:\n");
        for source in self.sources()? {
            for served in &SERVED {
                for exchange in served.exchanges {
                    signals.check()?;
                    let address = socket_address(served.frontend)?;
                    show_spread(source, *exchange, address, served.servers)?;
                }
            }
        }
        Ok(())
    }

    /// Who asks, and what he is called.
    pub(crate) fn sources(&self) -> Result<[(&'static str, &Namespace); 3]> {
        Ok([
            ("node-1 itself", self.node()),
            ("a pod on node-1", self.pod()?),
            ("outside", self.outside()),
        ])
    }

    fn show_tables(&self) -> Result<()> {
        let first = self.first()?;
        println!("\nOn {}:\n", first.node_name());
        let wanted = endpoints_by_service();
        for balancer in self.balancers() {
            let node = balancer.node_name();
            let what = format!("the endpoints of the manifests on {node}: {wanted:?}");
            // The table leaves out endpoints beyond the third, as kubectl's does.
            let arguments = ["get", "endpointslices", "--output", "json"];
            let has_all = |text: &str| {
                let mut services = wanted.iter();
                services.all(|(service, all)| ready_endpoints(text, service).as_ref() == Some(all))
            };
            balancer.fulcrum_until(&arguments, LIMIT, &what, has_all)?;
        }
        for kind in ["services", "endpoints"] {
            println!("$ fulcrum get {kind}");
            println!("{}", first.fulcrum(&["get", kind])?);
        }
        println!("$ fulcrum describe service {DESCRIBED}");
        println!("{}", first.fulcrum(&["describe", "service", DESCRIBED])?);
        Ok(())
    }

    /// Prints how to look around in a demo that is left up.
    pub(crate) fn print_hints(&self) -> Result<()> {
        let flags = self.first()?.flags().join(" ");
        let fulcrum = format!("{} {flags}", balancer::binary()?.display());
        let enter = |namespace: &Namespace| format!("nsenter --net={}", namespace.path().display());
        println!("\nEverything as expected, and left up. To look at the agent of node-1:\n");
        for verb in [
            "get services",
            "get endpoints",
            "describe service kubia",
            "describe service hostname-svc-lb-local",
            "status",
            "maps",
            "counters",
        ] {
            println!("  {fulcrum} {verb}");
        }
        println!(
            "\nTo send requests from a pod, from node-1 itself, or from outside; to look at node-1:\n"
        );
        let url = url(SERVED[0].frontend);
        for namespace in [self.pod()?, self.node(), self.outside()] {
            println!("  {} curl {url}", enter(namespace));
        }
        for node in self.nodes() {
            let (ip, (_, port)) = (node.addresses.v4, NODE_PORT_ALL);
            println!("  {} curl http://{ip}:{port}/", enter(self.outside()));
        }
        println!("  {} ip route", enter(self.node()));
        println!(
            "\nThe agents follow the files of this directory:\n\n  {}",
            self.manifests().display()
        );
        println!(
            "\nTo take it down:\n\n  cargo xtask demo --down {NAME_PREFIX}{}",
            std::process::id()
        );
        Ok(())
    }
}

/// The endpoints of every service, of both families, sorted.
fn endpoints_by_service() -> BTreeMap<&'static str, Vec<String>> {
    let mut services = BTreeMap::<_, Vec<String>>::new();
    for served in &SERVED {
        let endpoints = served.endpoints.iter().map(|text| (*text).to_owned());
        services
            .entry(served.service)
            .or_default()
            .extend(endpoints);
    }
    for endpoints in services.values_mut() {
        endpoints.sort_unstable();
    }
    services
}

/// A few requests as a person sends them.
fn show_requests(source: &str, namespace: &Namespace, frontend: &str) -> Result<()> {
    let url = url(frontend);
    let address = socket_address(frontend)?;
    println!("$ curl -s {url}   # {N_SHOWN} times");
    for _ in 0..N_SHOWN {
        let server = namespace.run(|| client::tcp_hit(address));
        let server = server.with_context(|| format!("GET {url}: {source}"))?;
        println!("You've hit {server}");
    }
    Ok(())
}

/// Sends many requests of one kind, prints who answered, and fails unless all did and nobody else.
pub(crate) fn show_spread(
    (source, namespace): (&str, &Namespace),
    exchange: Exchange,
    address: SocketAddr,
    servers: &[&str],
) -> Result<()> {
    let tally = client::many(namespace, exchange, address, N_REQUESTS);
    tally
        .complete()
        .and_then(|tally| tally.spread_over(servers))
        .with_context(|| format!("from {source}"))?;
    let protocol = if exchange == Exchange::Tcp {
        "TCP"
    } else {
        "UDP"
    };
    print!("  from {source:15}  {protocol} {:25}", address.to_string());
    for (server, n) in tally.hits() {
        print!("  {server} {n:3}");
    }
    println!();
    Ok(())
}

pub(crate) fn socket_address(frontend: &str) -> Result<SocketAddr> {
    frontend
        .parse()
        .with_context(|| format!("{frontend}: not an address and port"))
}
