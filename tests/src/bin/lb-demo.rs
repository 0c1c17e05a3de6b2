//! The demo: two nodes made of network namespaces, `fulcrum run` on each, and the requests of a first look at Services.
//!
//! Serves `examples/hostname.yaml` and shows what its reader expects: the table of services, and answers of every pod, for
//! TCP and UDP, IPv4 and IPv6, from a pod and from outside. Whatever is not as it should be ends the demo with a message
//! and exit code 1. It removes everything that it made, also when it fails or is interrupted.
//!
//! With `--keep` a background process holds it all until `--down NAME` asks it to end; there is one way of taking down.

use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    balancer::{self, Balancer},
    client::{self, Exchange, UdpMode},
    manifest,
    netns::Namespace,
    poll,
    server::Server,
    topology::{Cluster, Config, Naming, Pod},
};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::{Pid, dup2_stderr, dup2_stdout, geteuid, setsid},
};
use tempfile::TempDir;

/// What is served, as a person would write it.
const MANIFEST: &str = include_str!("../../../examples/hostname.yaml");
/// The pods of the manifest, in the order of the topology's: two on each node.
const PODS: [[&str; 2]; 2] = [
    ["hostname-4xq7k", "hostname-9qhbv"],
    ["hostname-qsth7", "hostname-tz5mc"],
];
/// The service's addresses in the manifest.
const FRONTENDS: [&str; 2] = ["10.108.167.231:80", "[fd00:10:96::a7e7]:80"];
/// The port that the pods listen on.
const TARGET_PORT: u16 = 8080;
/// Requests of each kind: four servers are all hit, but for one run in 10^24.
const N_REQUESTS: usize = 200;
/// Requests that are shown one by one.
const N_SHOWN: usize = 6;
/// How long agents may take to serve what the manifest says, and a kept demo to end.
const LIMIT: Duration = Duration::from_secs(30);
/// What this program is called in `/proc/<pid>/comm`.
const PROGRAM: &str = "lb-demo";
/// Names of kept demos begin as those of their namespaces.
const NAME_PREFIX: &str = "fc-";

const USAGE: &str = "\
Usage: cargo xtask demo [--keep | --down NAME]

Makes two nodes and a client out of network namespaces, runs fulcrum on both nodes, and sends requests.

  --keep        leave it up, and print the commands to explore it and to take it down
  --down NAME   take down what --keep left up
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        [] => show_and_remove(),
        ["--keep"] => start_keeper(),
        ["--down", name] => take_down(name),
        // What --keep runs in the background.
        ["--hold"] => hold(),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show_and_remove() -> Result<()> {
    let signals = Signals::catch()?;
    let demo = Demo::new(Naming::Anonymous)?;
    demo.show(&signals)?;
    drop(demo);
    println!("\nEverything as expected. All of it is removed again.");
    Ok(())
}

/// Starts the background process of `--keep` and hands on what it says until it is up, or has failed.
fn start_keeper() -> Result<()> {
    let own = std::env::current_exe().context("find the program of the demo")?;
    let mut command = Command::new(own);
    command
        .arg0(PROGRAM)
        .arg("--hold")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut keeper = command
        .spawn()
        .context("start the background process of the demo")?;
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| println!("{line}"));
    }
    // It closes its output when it is up; what has ended by then has failed and said why.
    match keeper
        .try_wait()
        .context("ask for the state of the background process")?
    {
        None => Ok(()),
        Some(status) => bail!("the demo did not come up ({status})"),
    }
}

/// The background process: holds everything until it is told to end.
fn hold() -> Result<()> {
    setsid().context("leave the terminal")?;
    let signals = Signals::catch()?;
    let demo = Demo::new(Naming::Named)?;
    demo.show(&signals)?;
    demo.print_hints()?;
    detach_output()?;
    signals.wait()
}

/// Lets whoever reads our output see its end.
fn detach_output() -> Result<()> {
    let null = std::fs::File::options()
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    dup2_stdout(&null).context("close standard output")?;
    dup2_stderr(&null).context("close standard error")?;
    Ok(())
}

/// Asks a kept demo to end, and waits until it has.
fn take_down(name: &str) -> Result<()> {
    let id = name
        .strip_prefix(NAME_PREFIX)
        .and_then(|id| id.parse::<i32>().ok());
    let Some(id) = id.filter(|id| is_keeper(*id)) else {
        bail!(
            "no demo {name:?} is up; `cargo xtask demo --keep` prints the name of the one it leaves"
        );
    };
    kill(Pid::from_raw(id), Signal::SIGTERM)
        .with_context(|| format!("tell process {id} to end"))?;
    poll::until(LIMIT, &format!("process {id} to end"), || {
        Ok((!is_keeper(id)).then_some(()))
    })?;
    println!("{name} is down.");
    Ok(())
}

/// Whether this process is the background process of a demo.
fn is_keeper(id: i32) -> bool {
    // A process that has ended, and that nobody has waited for yet, has no command line.
    let command_line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    matches!(words.as_slice(), [program, b"--hold", ..] if *program == PROGRAM.as_bytes())
}

/// All that is up. Agents go before servers, and those before the namespaces that they are in.
struct Demo {
    balancers: Vec<Balancer>,
    _servers: Vec<Server>,
    cluster: Cluster,
    manifests: TempDir,
}

impl Demo {
    fn new(naming: Naming) -> Result<Self> {
        ensure!(
            geteuid().is_root(),
            "network namespaces need root; run the same command as root"
        );
        balancer::binary()?;
        println!(
            "Two nodes and a client outside, made of network namespaces; `fulcrum run` on both nodes."
        );
        // Node 1 has a third pod, which asks.
        let cluster = Cluster::new(&Config {
            pods: vec![3, 2],
            naming,
            ..Config::default()
        })?;
        let mut servers = Vec::new();
        for (node, names) in cluster.nodes.iter().zip(PODS) {
            for (pod, name) in node.pods.iter().zip(names) {
                servers.push(Server::hostname(&pod.namespace, name, TARGET_PORT)?);
            }
        }
        let prefix = format!("{NAME_PREFIX}{}-", std::process::id());
        let manifests = tempfile::Builder::new().prefix(&prefix).tempdir();
        let manifests = manifests.context("make a directory for manifests")?;
        manifest::replace(&manifest_path(&manifests), MANIFEST)?;
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

    /// The pod that asks.
    fn asking_pod(&self) -> Result<&Pod> {
        self.cluster.nodes[0]
            .pods
            .last()
            .context("node 1 has a pod that asks")
    }

    /// Prints what a reader of the manifest expects, and fails where it is not so.
    fn show(&self, signals: &Signals) -> Result<()> {
        self.show_tables()?;
        self.show_requests()?;
        println!("\nAnd many, each on a connection or port of its own:\n");
        let sources = [
            ("a pod on node-1", &self.asking_pod()?.namespace),
            ("outside", &self.cluster.client.namespace),
        ];
        for (name, namespace) in sources {
            for exchange in [Exchange::Tcp, Exchange::Udp(UdpMode::Connected)] {
                for frontend in FRONTENDS {
                    signals.check()?;
                    show_spread(name, namespace, exchange, frontend)?;
                }
            }
        }
        Ok(())
    }

    fn show_tables(&self) -> Result<()> {
        let [first, ..] = self.balancers.as_slice() else {
            bail!("no agent runs");
        };
        println!("\nOn {}:\n", first.node_name());
        for (kind, wanted) in [("services", services()), ("endpoints", endpoints())] {
            for balancer in &self.balancers {
                let what = format!("the {kind} of the manifest on {}", balancer.node_name());
                // The table leaves out endpoints beyond the third, as kubectl's does, and the second family.
                let kinds = ["services", "endpointslices"].join(",");
                let arguments = ["get", &kinds, "--output", "json"];
                let has_all = |output: &str| wanted.iter().all(|text| output.contains(text));
                balancer.fulcrum_until(&arguments, LIMIT, &what, has_all)?;
            }
            println!("$ fulcrum get {kind}");
            println!("{}", first.fulcrum(&["get", kind])?);
        }
        Ok(())
    }

    /// A few requests as a person sends them.
    fn show_requests(&self) -> Result<()> {
        println!("In a pod on node-1:\n");
        let pod = self.asking_pod()?;
        for frontend in FRONTENDS {
            println!(
                "$ curl -s http://{}/   # {N_SHOWN} times",
                frontend.trim_end_matches(":80")
            );
            for _ in 0..N_SHOWN {
                let address = socket_address(frontend)?;
                let server = pod.namespace.run(|| client::tcp_hit(address));
                println!(
                    "You've hit {}",
                    server.with_context(|| format!("GET http://{frontend}/ in a pod"))?
                );
            }
        }
        Ok(())
    }

    fn print_hints(&self) -> Result<()> {
        let first = self.balancers.first().context("an agent runs")?;
        let fulcrum = format!(
            "{} {}",
            balancer::binary()?.display(),
            first.flags().join(" ")
        );
        let in_pod = format!(
            "nsenter --net={}",
            self.asking_pod()?.namespace.path().display()
        );
        let in_node = format!(
            "nsenter --net={}",
            self.cluster.nodes[0].namespace.path().display()
        );
        let in_client = format!(
            "nsenter --net={}",
            self.cluster.client.namespace.path().display()
        );
        let manifest = manifest_path(&self.manifests);
        let host = FRONTENDS[0].trim_end_matches(":80");
        println!("\nEverything as expected, and left up. To look at the agent of node-1:\n");
        for verb in [
            "get services",
            "get endpoints",
            "status",
            "maps",
            "counters",
        ] {
            println!("  {fulcrum} {verb}");
        }
        println!("\nTo send requests from a pod, or from outside; to look at node-1:\n");
        println!("  {in_pod} curl http://{host}/");
        println!("  {in_client} curl http://{host}/");
        println!("  {in_node} ip route");
        println!("\nThe agents follow this file:\n\n  {}", manifest.display());
        println!(
            "\nTo take it down:\n\n  cargo xtask demo --down {NAME_PREFIX}{}",
            std::process::id()
        );
        Ok(())
    }
}

/// Sends many requests of one kind, prints who answered, and fails unless all did and nobody else.
fn show_spread(
    source: &str,
    namespace: &Namespace,
    exchange: Exchange,
    frontend: &str,
) -> Result<()> {
    let tally = client::many(namespace, exchange, socket_address(frontend)?, N_REQUESTS);
    let servers = PODS.concat();
    tally
        .complete()
        .and_then(|tally| tally.spread_over(&servers))
        .with_context(|| format!("from {source}"))?;
    let protocol = if exchange == Exchange::Tcp {
        "TCP"
    } else {
        "UDP"
    };
    print!("  from {source:15}  {protocol} {frontend:22}");
    for (server, n) in tally.hits() {
        print!("  {server} {n:3}");
    }
    println!();
    Ok(())
}

/// What `get services` must know.
fn services() -> Vec<String> {
    let addresses =
        FRONTENDS.map(|frontend| frontend.trim_end_matches(":80").replace(['[', ']'], ""));
    addresses
        .into_iter()
        .chain(["hostname".to_owned()])
        .collect()
}

/// What the endpoint slices must have: addresses of pods.
fn endpoints() -> Vec<String> {
    let pods = [(1, 1), (1, 2), (2, 1), (2, 2)];
    let addresses = pods.map(|(node, pod)| lb_tests::addressing::pod(node, pod).both());
    let endpoints = addresses.concat().into_iter();
    endpoints.map(|address| address.to_string()).collect()
}

fn socket_address(frontend: &str) -> Result<SocketAddr> {
    frontend
        .parse()
        .with_context(|| format!("{frontend}: not an address and port"))
}

fn manifest_path(dir: &TempDir) -> PathBuf {
    dir.path().join(Path::new("hostname.yaml"))
}

/// Signals that ask to end, taken one by one instead of ending the process with everything left behind.
struct Signals(Receiver<Signal>);

impl Signals {
    /// To be called before any thread is started: threads inherit what is blocked. Children do not.
    fn catch() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals.thread_block().context("block signals")?;
        let (caught, signals_caught) = mpsc::channel();
        let wait = move || {
            while let Ok(signal) = signals.wait() {
                if caught.send(signal).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)
            .context("wait for signals")?;
        Ok(Self(signals_caught))
    }

    /// Fails if a signal has come.
    fn check(&self) -> Result<()> {
        match self.0.try_recv() {
            Ok(signal) => bail!("ended by {signal}"),
            Err(_) => Ok(()),
        }
    }

    /// Waits for a signal.
    fn wait(&self) -> Result<()> {
        self.0
            .recv()
            .map(drop)
            .map_err(io::Error::other)
            .context("wait for a signal")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_has_the_addresses_and_names_of_the_topology() {
        for (number, names) in (1..).zip(PODS) {
            for (pod, name) in (1..).zip(names) {
                let address = lb_tests::addressing::pod(number, pod);
                let (_, object) = MANIFEST.split_once(&format!("\n  name: {name}\n")).unwrap();
                let (object, _) = object.split_once("---").unwrap();
                assert!(
                    object.contains(&format!("nodeName: node-{number}\n")),
                    "{name}"
                );
                for address in address.both() {
                    assert!(
                        object.contains(&format!("- ip: {address}\n")),
                        "{name}: {address}"
                    );
                }
            }
            for address in lb_tests::addressing::node(number).both() {
                assert!(
                    MANIFEST.contains(&format!("address: {address}\n")),
                    "{address}"
                );
            }
            for cidr in lb_tests::addressing::pod_cidrs(number) {
                assert!(MANIFEST.contains(&format!("- {cidr}\n")), "{cidr}");
            }
        }
        for frontend in FRONTENDS {
            let address = socket_address(frontend).unwrap().ip();
            assert!(MANIFEST.contains(&format!("  - {address}\n")), "{address}");
        }
    }

    #[test]
    fn nothing_but_a_kept_demo_is_taken_down() {
        for name in [
            "",
            "fc-",
            "fc-1",
            "1",
            &format!("fc-{}", std::process::id()),
        ] {
            let error = take_down(name).unwrap_err().to_string();
            assert!(
                error.contains("is up; `cargo xtask demo --keep`"),
                "{error}"
            );
        }
    }
}
