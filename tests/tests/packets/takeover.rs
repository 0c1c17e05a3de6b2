//! Connections change hands with kube-proxy, and back, while clients go on asking.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::SystemTime,
};

use humantime::format_rfc3339_millis;
use lb_tests::{
    addressing::Dual,
    backlog,
    balancer::{Balancer, Manifests},
    client,
    kube_proxy::{KubeProxy, Mode, ServicePort},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    tally::Tally,
};

use serde_json::Value;

use crate::{
    handover::{ENDS, end},
    restart::{SetOnDrop, ask_until},
    scene::{ECHO_PORT, ECHO_TARGET, LIMIT, NODE_PORT, PORT, Scene, TARGET, WEB, connected},
    unbroken::stream_until,
};

/// One on the node, one elsewhere.
const BACKENDS: [&str; 2] = ["pod-1-1", "pod-2-1"];

/// Those of the first node that programs come on.
const DEVICES: [&str; 5] = ["lo", "uplink0", "lxc1", "lxc2", "lxc3"];

/// The same services as the manifests have, as kube-proxy would have them.
fn service_ports(scene: &Scene) -> Vec<ServicePort> {
    let dual = |[v4, v6]: [IpAddr; 2]| match (v4, v6) {
        (IpAddr::V4(v4), IpAddr::V6(v6)) => Dual { v4, v6 },
        other => panic!("{other:?}"),
    };
    let backends: Vec<Dual> = BACKENDS
        .iter()
        .map(|name| dual([0, 1].map(|family| scene.pod_addr(name, family))))
        .collect();
    let mut ports = Vec::new();
    for protocol in ["tcp", "udp"] {
        for (port, target) in [(PORT, TARGET), (ECHO_PORT, ECHO_TARGET)] {
            ports.push(ServicePort {
                protocol,
                cluster_ips: dual(WEB.map(|ip| ip.parse().unwrap())),
                port,
                node_port: NODE_PORT + port - PORT,
                backends: backends.clone(),
                target,
            });
        }
    }
    ports
}

/// What is to be found on a node of an agent's.
fn traces(node: &Namespace, place: &Place) -> Vec<String> {
    let output = place.cleanup(node, &["--dry-run"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    let listed = |command: &[&str]| {
        let output = node.run(|| {
            Command::new(command[0])
                .args(&command[1..])
                .output()
                .unwrap()
        });
        String::from_utf8(output.stdout).unwrap()
    };
    let tables = listed(&["nft", "list", "tables"]);
    let devices = listed(&["ip", "-o", "link"]);
    let others = tables.lines().chain(devices.lines());
    let others = others.filter(|line| line.contains("fulcrum"));
    told.lines().chain(others).map(str::to_owned).collect()
}

/// Somebody who has a connection that must go on.
struct Streamer {
    stream: TcpStream,
    done: AtomicUsize,
}

/// One of each way to the service, begun now.
fn streamers(scene: &Scene) -> Vec<Arc<Streamer>> {
    let ways = scene.ways(ECHO_PORT).into_iter();
    ways.map(|(_, namespace, front)| {
        Arc::new(Streamer {
            stream: connected(namespace, front),
            done: AtomicUsize::new(0),
        })
    })
    .collect()
}

/// The node on which proxies change.
struct Stage<'a> {
    scene: &'a Scene,
    place: Place,
    rules: KubeProxy<'a>,
    agent: Option<Balancer>,
}

type Change = fn(&mut Stage<'_>);

/// What happens, in this order; in between everybody goes on.
const PHASES: [(&str, Change); 5] = [
    ("with an agent beside kube-proxy", |stage| stage.start()),
    ("with the agent alone", |stage| {
        stage.rules.stop().unwrap();
        stage.wait_for("another proxy's rules have gone");
    }),
    ("with kube-proxy back", |stage| {
        stage.rules.start().unwrap();
        stage.wait_for("another proxy's rules have come");
    }),
    ("after a cleanup", |stage| stage.clean_up()),
    ("at the end", |_| {}),
];

impl Stage<'_> {
    fn start(&mut self) {
        let node = &self.scene.deployment.cluster.nodes[0];
        let manifests = self.scene.deployment.path("");
        let manifests = Manifests::Path(&manifests);
        let agent = Balancer::start_at(&self.place, node, manifests, &[]).unwrap();
        self.agent = Some(agent);
    }

    /// The agent has seen it.
    fn wait_for(&self, line: &str) {
        let agent = self.agent.as_ref().unwrap();
        let is_there = || Ok(agent.log().contains(line).then_some(()));
        poll::until(LIMIT, line, is_there).unwrap();
    }

    /// As long as an agent runs, what begins is its own.
    fn expect_to_have(&self, streamers: &[Arc<Streamer>]) {
        let Some(agent) = &self.agent else { return };
        let flows = agent.fulcrum(&["flows", "-o", "json"]).unwrap();
        let flows: Vec<Value> = serde_json::from_str(&flows).unwrap();
        let clients: Vec<_> = flows
            .iter()
            .filter_map(|it| it["client"].as_str())
            .collect();
        for streamer in streamers {
            let client = streamer.stream.local_addr().unwrap().to_string();
            assert!(
                clients.contains(&client.as_str()),
                "{client} in {clients:?}"
            );
        }
    }

    fn clean_up(&mut self) {
        let agent = self.agent.take().unwrap();
        println!("{}", agent.log());
        assert!(agent.stop().unwrap().success());
        let node = &self.scene.deployment.cluster.nodes[0].namespace;
        let output = self.place.cleanup(node, &[]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        assert!(output.status.success(), "{said}");
        assert!(said.contains("connections over to kube-proxy"), "{said}");
    }
}

/// The first node with kube-proxy's rules alone.
fn stage(scene: &Scene, place: Place, mode: Mode) -> Stage<'_> {
    let node = &scene.deployment.cluster.nodes[0];
    let cleaned = place.cleanup(&node.namespace, &[]).unwrap();
    assert!(cleaned.status.success());
    // What a process dials has a route before kube-proxy's rules look at it, as on any node.
    let [v4, v6] = scene.deployment.cluster.nodes[1].addresses.both();
    let routes = [
        format!("route add default via {v4}"),
        format!("route add ::/0 via {v6}"),
    ];
    node.namespace.ip(&routes).unwrap();
    // While one is added or removed, Linux before 6.6 drops what the device is sending: who can spare nothing has it already.
    for device in DEVICES {
        tc(&node.namespace, &["qdisc", "add", "dev", device, "clsact"]);
    }
    let ports = service_ports(scene);
    let rules = KubeProxy::new(&node.namespace, mode, node.addresses, ports);
    rules.start().unwrap();
    Stage {
        scene,
        place,
        rules,
        agent: None,
    }
}

/// Returns when every count has risen.
fn settle<'a>(when: &str, counts: impl Iterator<Item = &'a AtomicUsize>) {
    let counts: Vec<_> = counts.collect();
    let read = || -> Vec<usize> {
        let values = counts.iter().map(|count| count.load(Ordering::Relaxed));
        values.collect()
    };
    let since = read();
    poll::until(LIMIT, &format!("every client to go on {when}"), || {
        let now = read();
        let is_on = now.iter().zip(&since).all(|(now, since)| *now > since + 1);
        Ok(is_on.then_some(()))
    })
    .unwrap();
}

/// `dropped`: by the kernel's backlogs, until then.
fn expect_no_failures(tallies: &[Tally], dropped: u64) {
    let dropped = backlog::dropped().unwrap() - dropped;
    for tally in tallies {
        assert!(
            tally.failures().is_empty(),
            "{tally}\n  {dropped} packets were dropped for want of time meanwhile"
        );
    }
}

/// Who asks, whom, and how often it was answered; the port is the one that some of its datagrams always come from.
fn askers(scene: &Scene) -> Vec<(u16, &Namespace, SocketAddr, AtomicUsize)> {
    let ways = (7_000..).zip(scene.ways(PORT));
    ways.map(|(port, (_, namespace, front))| (port, namespace, front, AtomicUsize::new(0)))
        .collect()
}

fn everybody_goes_on(mode: Mode) {
    let mut scene = Scene::new(&BACKENDS, &[]);
    let place = end(&mut scene, ENDS[0].1);
    let scene = &scene;
    let mut stage = stage(scene, place, mode);
    let is_over = AtomicBool::new(false);
    let dropped = backlog::dropped().unwrap();
    let askers = askers(scene);
    let tallies = thread::scope(|scope| {
        let over = SetOnDrop(&is_over);
        let is_over = &is_over;
        let clients: Vec<_> = askers
            .iter()
            .map(|(fixed, namespace, front, asked)| {
                scope.spawn(move || {
                    ask_until(is_over, asked, namespace, *front, *fixed, client::pace)
                })
            })
            .collect();
        let mut all = Vec::new();
        let mut transfers = Vec::new();
        let mut dial = || {
            let newest = streamers(scene);
            for streamer in newest.clone() {
                let seed = transfers.len() as u64 + 1;
                all.push(Arc::clone(&streamer));
                transfers.push(scope.spawn(move || {
                    let stream = streamer.stream.try_clone().unwrap();
                    stream_until(is_over, &streamer.done, stream, seed)
                }));
            }
            (all.clone(), newest)
        };
        let go_on = |streamers: &[Arc<Streamer>], when: &str| {
            let asked = askers.iter().map(|way| &way.3);
            let all = asked.chain(streamers.iter().map(|streamer| &streamer.done));
            settle(when, all);
        };
        go_on(&dial().0, "with kube-proxy alone");
        for (when, change) in PHASES {
            println!("{} {when}", format_rfc3339_millis(SystemTime::now()));
            change(&mut stage);
            let (streamers, newest) = dial();
            stage.expect_to_have(&newest);
            go_on(&streamers, when);
        }
        drop(over);
        for transfer in transfers {
            transfer.join().unwrap();
        }
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    expect_no_failures(&tallies, dropped);
    let node = &scene.deployment.cluster.nodes[0].namespace;
    assert_eq!(traces(node, &stage.place), [""; 0]);
    expect_qdiscs(node);
    stage.rules.stop().unwrap();
}

#[test]
fn nothing_is_lost_between_the_nftables_mode_and_us() {
    if require_root() {
        everybody_goes_on(Mode::Nftables);
    }
}

#[test]
fn nothing_is_lost_between_the_iptables_mode_and_us() {
    if require_root() {
        everybody_goes_on(Mode::Iptables);
    }
}

#[test]
fn nothing_is_lost_between_the_old_iptables_and_us() {
    if require_root() {
        everybody_goes_on(Mode::OldIptables);
    }
}

/// What `tc` says.
fn tc(node: &Namespace, arguments: &[&str]) -> String {
    let output = node.run(|| Command::new("tc").args(arguments).output().unwrap());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What was there before us is there.
fn expect_qdiscs(node: &Namespace) {
    for device in DEVICES {
        let qdiscs = tc(node, &["qdisc", "show", "dev", device]);
        assert!(qdiscs.contains("clsact"), "{device}: {qdiscs}");
    }
}

/// Tables of nftables in the node's namespace, and what is in one of them.
fn nft(node: &Namespace, arguments: &[&str]) -> String {
    let output = node.run(|| Command::new("nft").args(arguments).output().unwrap());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The first node's table of ours.
fn own_table(node: &Namespace) -> Option<String> {
    let tables = nft(node, &["list", "tables", "ip"]);
    let names = tables.lines().filter_map(|it| it.strip_prefix("table ip "));
    let mut own = names.filter(|name| name.starts_with("fulcrum"));
    own.next().map(str::to_owned)
}

/// Each connection goes on, after having been silent.
fn expect_echoes(streamers: &[Arc<Streamer>], word: [u8; 5]) {
    for streamer in streamers {
        let mut stream = &streamer.stream;
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&word).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, word);
    }
}

#[test]
fn a_table_that_is_not_what_it_shall_be_is_made_anew() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&BACKENDS, &[]);
    let place = end(&mut scene, ENDS[0].1);
    let scene = &scene;
    let node = &scene.deployment.cluster.nodes[0].namespace;
    let mut stage = stage(scene, place, Mode::Nftables);
    let all = streamers(scene);
    expect_echoes(&all, *b"first");
    stage.start();
    // As a cleanup leaves it that is killed.
    stage.agent.take().unwrap().kill().unwrap();
    let name = own_table(node).unwrap();
    let left = "{ type filter hook prerouting priority raw; }";
    nft(node, &["add", "chain", "ip", &name, "left", left]);
    stage.start();
    poll::until(LIMIT, "the table to be made anew", || {
        let table = nft(node, &["list", "table", "ip", &name]);
        Ok((!table.contains("left")).then_some(()))
    })
    .unwrap();
    expect_echoes(&all, *b"again");
    stage.rules.stop().unwrap();
    stage.wait_for("another proxy's rules have gone");
    // Without ours nothing translates any more what is there of kube-proxy's.
    nft(node, &["flush", "ruleset"]);
    let is_back = || Ok((own_table(node).as_ref() == Some(&name)).then_some(()));
    poll::until(LIMIT, "the table to be made anew", is_back).unwrap();
    expect_echoes(&all, *b"third");
}
