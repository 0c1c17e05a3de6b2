//! Nodes with other ways out than one device: a bridge, a bond, and two uplinks of which each must carry the answers to
//! what it has brought.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_tests::{
    balancer::Balancer,
    client, link,
    manifest::{Exposed, Manifest, Port, Service},
    netns::{Namespace, require_root},
    poll,
    server::Server,
    topology::{Cluster, Config, POD_DEVICE, UPLINK},
    xdp_pass::XdpPass,
};
use tempfile::TempDir;

const NEAR: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const FAR: [&str; 2] = ["10.96.0.20", "fd00:10:96::14"];
const LIMIT: Duration = Duration::from_secs(30);
const NEAR_PORT: u16 = 30080;
const FAR_PORT: u16 = 30081;
/// The second uplink, at both of its ends.
const SECOND: &str = "uplink1";
/// The node's addresses on it, and those of who is at its other end.
const SECOND_NODE: [&str; 2] = ["203.0.113.1", "fd00:203::1"];
const SECOND_CLIENT: [&str; 2] = ["203.0.113.2", "fd00:203::2"];
/// A client that both uplinks lead to.
const ROAMER: [&str; 2] = ["192.0.2.77", "fd00:192::77"];

/// Two nodes with a pod each, both of which serve; the pod of the second node is far from the first one.
struct Scene {
    _servers: Vec<Server>,
    cluster: Cluster,
    manifests: TempDir,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![1, 1],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let service = |name: &str, ips: [&str; 2], node_port| Exposed {
            service: Service {
                name: name.to_owned(),
                cluster_ips: ips.map(addr).into(),
                ports: vec![Port::new("TCP", 80, 8080)],
                selector: Some(name.to_owned()),
            },
            node_ports: vec![node_port],
            ips: Vec::new(),
        };
        let manifests = tempfile::tempdir().unwrap();
        Manifest::nodes_of(&cluster)
            .with_pods_of(&cluster, &["pod-1-1"], "near")
            .with_pods_of(&cluster, &["pod-2-1"], "far")
            .with(&service("near", NEAR, NEAR_PORT))
            .with(&service("far", FAR, FAR_PORT))
            .write(&manifests.path().join("all.yaml"))
            .unwrap();
        Self {
            _servers: cluster.serve_hostnames(8080).unwrap(),
            cluster,
            manifests,
        }
    }

    fn node(&self) -> &Namespace {
        &self.cluster.nodes[0].namespace
    }

    /// Gives another device the addresses and the ways of the node's uplink, which `join` makes a part of it.
    fn move_uplink(&mut self, device: &str, join: &[String]) {
        let node = &self.cluster.nodes[0];
        let mut commands = link::up(device);
        // Before the other device loses them, and with them goes whatever route prefers them.
        commands.extend(link::addresses(device, node.addresses, 24, 64));
        commands.push(format!("addr flush dev {UPLINK}"));
        commands.extend_from_slice(join);
        commands.extend(link::link_local(device, 1));
        let cidrs = lb_tests::addressing::pod_cidrs(2);
        let ways = cidrs.iter().zip(self.cluster.nodes[1].addresses.both());
        commands
            .extend(ways.map(|(cidr, via)| format!("route replace {cidr} via {via} dev {device}")));
        node.namespace.ip(&commands).unwrap();
        self.cluster.nodes[0].uplinks = vec![device.to_owned()];
    }

    /// Gives the node a second uplink, which leads to the client outside as well, by addresses of its own.
    fn add_uplink(&mut self) {
        let (node, outside) = (self.node(), &self.cluster.client.namespace);
        let beyond = self.cluster.client.addresses.both();
        let mut commands = vec![link::veth(
            SECOND,
            "02:fc:08:00:00:01",
            SECOND,
            outside,
            1500,
        )];
        commands.extend(link::up(SECOND));
        commands.extend(link::link_local(SECOND, 0x81));
        let mut others = link::up(SECOND);
        others.extend(link::link_local(SECOND, 0x82));
        for family in 0..2 {
            let len = [24, 64][family];
            let nodad = ["", " nodad"][family];
            let (own, peer, roamer) = (SECOND_NODE[family], SECOND_CLIENT[family], ROAMER[family]);
            commands.extend([
                format!("addr add {own}/{len} dev {SECOND}{nodad}"),
                format!("route add {roamer} via {} dev {UPLINK}", beyond[family]),
                format!("route add {roamer} via {peer} dev {SECOND} table 100"),
            ]);
            others.extend([
                format!("addr add {peer}/{len} dev {SECOND}{nodad}"),
                format!("addr add {roamer} dev lo{nodad}"),
            ]);
        }
        node.ip(&commands).unwrap();
        outside.ip(&others).unwrap();
        for (flag, own) in ["-4", "-6"].into_iter().zip(SECOND_NODE) {
            let rule = ["rule", "add", "from", own, "lookup", "100"];
            let output = node.command("ip").arg(flag).args(rule).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        // What comes back by the other uplink than it was sent by is refused.
        for device in ["all", SECOND, UPLINK] {
            let name = format!("net/ipv4/conf/{device}/rp_filter");
            let strict = if device == "all" { "0" } else { "1" };
            outside.sysctl(&name, strict).unwrap();
        }
        self.cluster.nodes[0].uplinks.push(SECOND.to_owned());
    }

    fn start(&self) -> Balancer {
        self.start_with(&[])
    }

    fn start_with(&self, flags: &[&str]) -> Balancer {
        Balancer::start(&self.cluster.nodes[0], self.manifests.path(), flags).unwrap()
    }

    /// The pod and the node reach the far pod by its service.
    fn expect_cluster_ips(&self) {
        for ip in FAR {
            for asking in [&self.cluster.nodes[0].pods[0].namespace, self.node()] {
                assert_eq!(ask(asking, None, ip, 80), "pod-2-1", "{ip}");
            }
        }
    }

    /// The client outside reaches both pods by the node ports at these addresses.
    fn expect_node_ports(&self, source: Option<[&str; 2]>, addresses: [IpAddr; 2]) {
        for (family, address) in addresses.into_iter().enumerate() {
            for (port, pod) in [(NEAR_PORT, "pod-1-1"), (FAR_PORT, "pod-2-1")] {
                let source = source.map(|source| addr(source[family]));
                let asking = &self.cluster.client.namespace;
                let answer = ask(asking, source, &address.to_string(), port);
                assert_eq!(answer, pod, "{address} {port}");
            }
        }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ask(asking: &Namespace, source: Option<IpAddr>, ip: &str, port: u16) -> String {
    let to = SocketAddr::new(addr(ip), port);
    let answer = asking.run(|| match source {
        Some(source) => client::tcp_hit_from(source, to),
        None => client::tcp_hit(to),
    });
    answer.unwrap_or_else(|error| panic!("{ip} {port}: {error:#}"))
}

#[test]
fn a_bridge_is_an_uplink_like_any_other() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new();
    let make = "link add br7 type bridge stp_state 0 mcast_snooping 0";
    scene.node().ip(&[make.to_owned()]).unwrap();
    scene.move_uplink("br7", &[format!("link set dev {UPLINK} master br7")]);
    let balancer = scene.start();
    let status = balancer.fulcrum(&["status"]).unwrap();
    assert!(status.contains("br7        uplink"), "{status}");
    let addresses = scene.cluster.nodes[0].addresses.both();
    scene.expect_cluster_ips();
    scene.expect_node_ports(None, addresses);
}

/// Whether this kernel has made the bond.
fn is_bond_made(node: &Namespace, device: &str) -> bool {
    let make = format!("link add {device} type bond mode active-backup miimon 20");
    match node.ip(&[make]) {
        Ok(()) => true,
        Err(error) if format!("{error:#}").contains("Unknown device type") => false,
        Err(error) => panic!("{error:#}"),
    }
}

#[test]
fn a_bond_is_an_uplink_and_its_ports_take_turns() {
    /// The other end of the second port.
    const STANDBY: &str = "node-1b";
    if !require_root() {
        return;
    }
    let mut scene = Scene::new();
    if !is_bond_made(scene.node(), "bond7") {
        println!("not tested: this kernel has no bonds");
        return;
    }
    let segment = &scene.cluster.segment;
    let second = link::veth(STANDBY, "02:fc:08:00:00:02", SECOND, scene.node(), 1500);
    segment
        .ip(&[second, format!("link set dev {STANDBY} master br0 up")])
        .unwrap();
    let mut ports = Vec::new();
    for port in [UPLINK, SECOND] {
        ports.extend([
            // A port is down when it joins.
            format!("link set dev {port} down"),
            format!("link set dev {port} master bond7"),
            format!("link set dev {port} up"),
        ]);
    }
    scene.move_uplink("bond7", &ports);
    link::wait_for_carriers(scene.node()).unwrap();
    let balancer = scene.start();
    let status = balancer.fulcrum(&["status"]).unwrap();
    assert!(status.contains("bond7      uplink"), "{status}");
    for port in [UPLINK, SECOND] {
        assert!(!status.contains(port), "a port takes no programs: {status}");
    }
    let addresses = scene.cluster.nodes[0].addresses.both();
    let expect_all = || {
        scene.expect_cluster_ips();
        scene.expect_node_ports(None, addresses);
    };
    expect_all();
    let turns = [["node-1 down", "node-1b up"], ["node-1 up", "node-1b down"]];
    for turn in turns {
        let commands = turn.map(|end| format!("link set dev {end}"));
        scene.cluster.segment.ip(&commands).unwrap();
        poll::until(LIMIT, "the other port to be the active one", || {
            let port = if turn[0] == "node-1 down" {
                SECOND
            } else {
                UPLINK
            };
            let show = ["-d", "link", "show", "dev", "bond7"];
            let output = scene.node().command("ip").args(show).output()?;
            let shown = String::from_utf8(output.stdout)?;
            Ok(shown
                .contains(&format!("active_slave {port} "))
                .then_some(()))
        })
        .unwrap();
        expect_all();
    }
}

#[test]
fn of_two_uplinks_each_carries_the_answers_to_what_it_has_brought() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new();
    scene.add_uplink();
    let first = scene.cluster.nodes[0].addresses.both();
    let balancer = scene.start();
    scene.expect_cluster_ips();
    scene.expect_node_ports(Some(ROAMER), first);
    scene.expect_node_ports(Some(ROAMER), SECOND_NODE.map(addr));
    let counters = balancer.counters().unwrap();
    assert!(counters["open"] >= 8, "{counters:?}");
}

/// What native XDP on veth needs: whole checksums from all who send, and far ends that take what XDP sends them.
fn prepare_for_native_xdp(scene: &Scene) -> Vec<XdpPass> {
    let cluster = &scene.cluster;
    let outside = &cluster.client.namespace;
    for device in [UPLINK, SECOND] {
        link::set_tx_offload(outside, device, false).unwrap();
    }
    for (_, pod) in cluster.pods() {
        link::set_tx_offload(&pod.namespace, POD_DEVICE, false).unwrap();
    }
    let far_ends = [(&cluster.segment, "node-1"), (outside, SECOND)];
    far_ends
        .map(|(namespace, device)| XdpPass::attach(namespace, device).unwrap())
        .into()
}

#[test]
fn what_comes_by_one_uplink_leaves_by_the_other_before_the_stack() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new();
    scene.add_uplink();
    let far_ends = prepare_for_native_xdp(&scene);
    let balancer = scene.start_with(&["--mode", "xdp"]);
    let listed = |what: &str, is_wanted: &dyn Fn(usize) -> bool| {
        balancer
            .fulcrum_until(
                &["maps", "xdp_devices", "-o", "json"],
                LIMIT,
                what,
                |text| {
                    let rows: serde_json::Value = serde_json::from_str(text).unwrap();
                    is_wanted(rows.as_array().map_or(0, Vec::len))
                },
            )
            .unwrap();
    };
    listed("both uplinks to be sent by", &|n| n == 2);
    // The first packets are TC's, by which the neighbours are found.
    let second = SECOND_NODE.map(addr);
    scene.expect_node_ports(Some(ROAMER), second);
    let forwarded = || balancer.counters().unwrap()["xdp_forward"];
    let before = forwarded();
    for _ in 0..10 {
        scene.expect_node_ports(Some(ROAMER), second);
    }
    // Of each connection to the far pod there are five packets of the client's and four answers, of which a few may be
    // TC's, to confirm the neighbours.
    let n = forwarded() - before;
    assert!(n > 100, "{n} of 180");
    // A far end that takes nothing any more is not sent to.
    drop(far_ends);
    listed("no uplink to be sent by", &|n| n == 0);
    scene.expect_node_ports(Some(ROAMER), second);
    let counters = balancer.counters().unwrap();
    let mut drops = counters
        .iter()
        .filter(|(reason, _)| reason.starts_with("drop_"));
    assert!(drops.all(|(_, count)| *count == 0), "{counters:?}");
}
