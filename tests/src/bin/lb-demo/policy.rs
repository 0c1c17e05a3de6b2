//! What `externalTrafficPolicy` is for: whom a pod takes for its client, how a balancer's traffic is shared, and what
//! becomes of a node without a pod.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    balancer::Balancer,
    client::{self, Exchange},
    deployment::ready_endpoints,
    manifest,
    signals::Signals,
    tally::Tally,
    topology::Node,
};

use crate::{
    scene::Demo,
    served::{CLUSTER, LOCAL, POLICY, POLICY_FILE, WEB_SERVERS, scaled_down},
    show::LIMIT,
};

/// Requests that the balancer sends to each node.
const N_REQUESTS: usize = 500;
/// Requests where one answer says it all.
const N_FEW: usize = 20;
/// How long a connection is tried that nobody shall answer, and how often.
const SILENCE: Duration = Duration::from_millis(500);
const N_SILENT: usize = 3;
/// What a packet is counted as that finds no endpoint on its node.
const DROPPED: &str = "drop_no_local_backend";
/// The endpoints of the web servers, IPv4, with and without those of node 2.
const ALL: &[&str] = &["10.244.1.14:80", "10.244.2.14:80", "10.244.2.15:80"];
const LEFT: &[&str] = &["10.244.1.14:80"];

/// What came of the requests by way of each node.
type Shares = [Tally; 2];

impl Demo {
    /// Shows both policies with the same pods, then the same with the pods of node 2 gone.
    pub(crate) fn show_policies(&self, signals: &Signals) -> Result<()> {
        let client = self.client();
        println!(
            "\nTwo Services for one web server on node-1 and two on node-2. A client outside, {client}, asks both nodes in turn, as a\n\
             balancer before them does, and each pod names the client that it sees:\n"
        );
        println!(
            "  {:9} {:9} {:14} {:14} {:5}",
            "POLICY", "NODE", "POD", "SEES", "SHARE"
        );
        self.show_cluster()?;
        signals.check()?;
        self.show_local()?;
        println!(
            "  With Cluster a pod of another node sees the node that was asked; with Local every pod sees the client, and the\n  \
             one that is alone on its node gets half of all."
        );
        signals.check()?;
        self.show_node_without_pod(signals)
    }

    /// Every node uses all pods: a pod of its own sees the client, one of another node sees the node.
    fn show_cluster(&self) -> Result<()> {
        let client = self.client();
        let shares = self.ask(CLUSTER);
        for (via, (node, tally)) in self.nodes().iter().zip(&shares).enumerate() {
            let of_node = |(number, names): (usize, &&[&str])| {
                let seen = if number == via {
                    client
                } else {
                    node.addresses.v4.into()
                };
                names
                    .iter()
                    .map(move |name| answer(name, seen))
                    .collect::<Vec<_>>()
            };
            let expected: Vec<String> = WEB_SERVERS.iter().enumerate().flat_map(of_node).collect();
            expect(tally, &expected, "Cluster")?;
        }
        print_shares("Cluster", self.nodes(), &shares);
        Ok(())
    }

    /// Every node uses its own pods, and all see the client: half of all requests for the pod that is alone on its node.
    fn show_local(&self) -> Result<()> {
        let client = self.client();
        let shares = self.ask(LOCAL);
        for (tally, names) in shares.iter().zip(WEB_SERVERS) {
            let expected: Vec<String> = names.iter().map(|name| answer(name, client)).collect();
            expect(tally, &expected, "Local")?;
        }
        print_shares("Local", self.nodes(), &shares);
        self.show_health([(200, 1), (200, 2)])
    }

    /// Without its pods, node 2 drops what comes from outside; Cluster goes on, and so do pods of the cluster.
    fn show_node_without_pod(&self, signals: &Signals) -> Result<()> {
        println!("\nScaled down to one web server, on node-1:\n");
        self.scale(&scaled_down(), LEFT)?;
        let shown = self
            .show_health([(200, 1), (503, 0)])
            .and_then(|()| self.show_silence(signals));
        // Whatever came of it, a demo that is left up is as its files say.
        let restored = self.scale(POLICY, ALL);
        shown.and(restored)
    }

    fn show_silence(&self, signals: &Signals) -> Result<()> {
        let [first, second] = self.nodes() else {
            anyhow::bail!("there are two nodes");
        };
        let [_, agent] = self.balancers() else {
            anyhow::bail!("an agent runs on each node");
        };
        let (client, [pod, ..]) = (self.client(), WEB_SERVERS[0]) else {
            anyhow::bail!("node 1 has a web server");
        };
        let from_node: IpAddr = second.addresses.v4.into();
        let few =
            |source, policy, node, seen| self.show_few(source, policy, node, &answer(pod, seen));
        few("outside", ("Cluster", CLUSTER), second, from_node)?;
        few("outside", ("Local", LOCAL), first, client)?;
        signals.check()?;
        self.show_nobody(agent, second)?;
        // To pods the address is one of the cluster's like any other.
        self.show_inside(second, pod)?;
        println!(
            "\n$ fulcrum describe service {}   # on {}, the end",
            LOCAL.0, second.name
        );
        let text = agent.fulcrum(&["describe", "service", LOCAL.0])?;
        let own = text.find("On this node").and_then(|at| text.get(at..));
        println!("{}", own.context("describe says what this node does")?);
        Ok(())
    }

    /// A few requests from outside, all with this answer.
    fn show_few(
        &self,
        source: &str,
        (policy, (_, port)): (&str, (&str, u16)),
        node: &Node,
        answer: &str,
    ) -> Result<()> {
        let address = SocketAddr::new(node.addresses.v4.into(), port);
        let tally = client::many(self.outside(), Exchange::Tcp, address, N_FEW);
        tally.complete()?.spread_over(&[answer])?;
        println!(
            "  {policy:8} from {source:16} by {}: {answer}, {N_FEW} of {N_FEW}",
            node.name
        );
        Ok(())
    }

    /// Connections that get no answer at all, and the counter that says why.
    fn show_nobody(&self, agent: &Balancer, node: &Node) -> Result<()> {
        let address = SocketAddr::new(node.addresses.v4.into(), LOCAL.1);
        let dropped = || Ok::<_, anyhow::Error>(agent.counters()?.get(DROPPED).copied());
        let before = dropped()?.unwrap_or_default();
        for _ in 0..N_SILENT {
            let connected = self
                .outside()
                .run(|| client::try_connect(address, SILENCE))
                .with_context(|| format!("{address} shall drop, not refuse"))?;
            ensure!(connected.is_none(), "{address} has no pod and is answered");
        }
        let n_dropped = dropped()?.unwrap_or_default() - before;
        ensure!(
            n_dropped >= N_SILENT as u64,
            "{} counted {n_dropped} of {N_SILENT} connections as {DROPPED}",
            node.name
        );
        println!(
            "  {:8} from {:16} by {}: no answer in {SILENCE:?}, {N_SILENT} of {N_SILENT} ({DROPPED} +{n_dropped})",
            "Local", "outside", node.name
        );
        Ok(())
    }

    /// A pod dials the same address, and is let through to the other node.
    fn show_inside(&self, node: &Node, server: &str) -> Result<()> {
        let address = SocketAddr::new(node.addresses.v4.into(), LOCAL.1);
        let tally = client::many(self.pod()?, Exchange::Tcp, address, N_FEW);
        let mut servers = tally.complete()?.hits().keys();
        ensure!(
            servers.all(|answer| answer.starts_with(&format!("{server} from "))),
            "only {server} is left; {tally}"
        );
        let answers: Vec<&str> = tally.hits().keys().map(String::as_str).collect();
        println!(
            "  {:8} from {:16} by {}: {}, {N_FEW} of {N_FEW}",
            "Local",
            "a pod on node-1",
            node.name,
            answers.join(", ")
        );
        Ok(())
    }

    /// As many requests to this node port of each node.
    fn ask(&self, (_, port): (&str, u16)) -> Shares {
        let [first, second] = [0, 1].map(|node: usize| {
            let address = self.nodes()[node].addresses.v4;
            let address = SocketAddr::new(address.into(), port);
            client::many(self.outside(), Exchange::Tcp, address, N_REQUESTS)
        });
        [first, second]
    }

    /// Replaces the manifest, and waits until all agents have these endpoints.
    fn scale(&self, text: &str, endpoints: &[&str]) -> Result<()> {
        manifest::replace(&self.manifests().join(POLICY_FILE), text)?;
        let (service, _) = LOCAL;
        let wanted: Vec<String> = endpoints.iter().map(|it| (*it).to_owned()).collect();
        let what = format!("{service} to have the endpoints {}", endpoints.join(", "));
        let arguments = ["get", "endpointslices", "--output", "json"];
        for balancer in self.balancers() {
            let has = |text: &str| ready_endpoints(text, service).as_ref() == Some(&wanted);
            balancer.fulcrum_until(&arguments, LIMIT, &what, has)?;
        }
        Ok(())
    }

    /// The address of who is outside.
    fn client(&self) -> IpAddr {
        self.outside_address().into()
    }
}

/// What a witness says.
fn answer(server: &str, client: IpAddr) -> String {
    format!("{server} from {client}")
}

/// Fails unless the requests of a node are spread evenly over exactly these answers.
fn expect(tally: &Tally, answers: &[String], policy: &str) -> Result<()> {
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let as_expected = tally
        .complete()
        .and_then(|tally| tally.uniform_over(&answers));
    as_expected
        .map(drop)
        .with_context(|| format!("policy {policy}"))
}

/// One line for each pod and client that it saw; shares are of all requests.
fn print_shares(policy: &str, nodes: &[Node], shares: &Shares) {
    let mut pods = BTreeMap::<&str, usize>::new();
    for (node, tally) in nodes.iter().zip(shares) {
        for (answer, n) in tally.hits() {
            let (pod, client) = answer.split_once(" from ").unwrap_or((answer, ""));
            println!(
                "  {policy:9} {:9} {pod:14} {client:14} {:>5}",
                node.name,
                percent(*n)
            );
            *pods.entry(pod).or_default() += n;
        }
    }
    let pods: Vec<String> = pods
        .iter()
        .map(|(pod, n)| format!("{pod} {}", percent(*n)))
        .collect();
    println!("  {policy:9} together: {}\n", pods.join(", "));
}

/// A share of all requests of one policy.
fn percent(n: usize) -> String {
    const N_ALL: usize = 2 * N_REQUESTS;
    format!("{} %", (100 * n + N_ALL / 2) / N_ALL)
}
