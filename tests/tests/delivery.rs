//! How a node's pods are handed packets: past the host sides of their devices, unless something there is to see them or a flag
//! says otherwise. That what arrives is what was sent is shown by all other suites, which run with the default.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use lb_tests::{
    asm::{self, Assembler, Context, If},
    balancer::{Balancer, Manifests},
    client::{self, Exchange, UdpMode},
    hooks,
    manifest::{self, Manifest, Port, Service},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    rawbpf::{self, Hook, Kind},
    server::Server,
    topology::{Cluster, Config, Node, POD_DEVICE},
};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{setsockopt, sockopt},
};
use tempfile::TempDir;

const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const TARGET: u16 = 8080;
/// The host side of the device of the pod that answers.
const DEVICE: &str = "lxc2";
const LIMIT: Duration = Duration::from_secs(20);
/// Exchanges of each kind, of which each has one packet to the pod at least.
const N: usize = 50;
/// More packets than neighbours need to find each other, and fewer than the exchanges have.
const FEW: u64 = 25;
const EXCHANGES: [Exchange; 2] = [Exchange::Tcp, Exchange::Udp(UdpMode::Connected)];
/// `TCX_NEXT` and `TC_ACT_SHOT` of `linux/bpf.h`.
const NEXT: i32 = -1;
const SHOT: i32 = 2;

/// A node with two pods, of which the second one answers, and a client outside.
struct Scene {
    _server: Server,
    cluster: Cluster,
    manifests: TempDir,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![2],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let pod = &cluster.nodes[0].pods[1];
        let web = Service {
            name: "web".to_owned(),
            cluster_ips: WEB.map(|ip| ip.parse().unwrap()).into(),
            ports: ["TCP", "UDP"]
                .map(|name| Port::new(name, 80, TARGET))
                .into(),
            selector: Some("web".to_owned()),
        };
        let manifests = tempfile::tempdir().unwrap();
        let manifest = Manifest::nodes_of(&cluster).with_pods_of(&cluster, &["pod-1-2"], "web");
        let path = manifests.path().join("web.yaml");
        manifest.with(&web).write(&path).unwrap();
        Self {
            _server: Server::hostname(&pod.namespace, &pod.name, TARGET).unwrap(),
            manifests,
            cluster,
        }
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn start(&self, flags: &[&str]) -> Balancer {
        Balancer::start(self.node(), self.manifests.path(), flags).unwrap()
    }

    /// Whoever dials: a pod beside, the node itself, and somebody outside.
    fn clients(&self) -> [(&'static str, &Namespace); 3] {
        [
            ("a pod", &self.node().pods[0].namespace),
            ("the node", &self.node().namespace),
            ("the client", &self.cluster.client.namespace),
        ]
    }

    /// Packets that have left by the host side of the pod's device.
    fn n_sent(&self) -> u64 {
        const TX_PACKETS: usize = 9;
        let read = || fs::read_to_string("/proc/thread-self/net/dev");
        let table = self.node().namespace.run(read).unwrap();
        let mut lines = table.lines().filter_map(|line| line.split_once(':'));
        let (_, counts) = lines.find(|(name, _)| name.trim() == DEVICE).unwrap();
        let mut counts = counts.split_whitespace();
        counts.nth(TX_PACKETS).unwrap().parse().unwrap()
    }

    /// How many packets leave there while a client has its exchanges with the pod.
    fn n_sent_for(&self, client: &Namespace, exchange: Exchange, address: SocketAddr) -> u64 {
        let before = self.n_sent();
        let tally = client::many(client, exchange, address, N);
        tally.complete().unwrap();
        self.n_sent() - before
    }

    /// Waits until status says so of the pod's device, and packets are handed over accordingly.
    fn wait_for(&self, balancer: &Balancer, delivery: &str, reason: Option<&str>) {
        let what = format!("delivery by {delivery} because of {reason:?}");
        balancer
            .fulcrum_until(&["status", "-o", "json"], LIMIT, &what, |text| {
                let status: serde_json::Value = serde_json::from_str(text).unwrap();
                let devices = status["devices"].as_array().unwrap();
                let mut ours = devices.iter().filter(|device| device["name"] == DEVICE);
                let ours = ours.next().unwrap();
                ours["delivery"] == delivery && ours["no_peer"].as_str() == reason
            })
            .unwrap();
        let (_, pod) = self.clients()[0];
        poll::until(LIMIT, &what, || {
            let n = self.n_sent_for(pod, Exchange::Tcp, addresses()[0]);
            Ok(((n < FEW) == (delivery == "peer")).then_some(()))
        })
        .unwrap();
    }

    fn tc(&self, command: &str) {
        let mut tc = self.node().namespace.command("tc");
        let output = tc.args(command.split_whitespace()).output().unwrap();
        assert!(output.status.success(), "tc {command}: {output:?}");
    }

    /// Links a program to the egress of the pod's device, or to the ingress of the pod's own.
    fn link(&self, insns: &[asm::Insn], hook: Hook) -> OwnedFd {
        let (namespace, device) = match hook {
            Hook::TcEgress => (&self.node().namespace, DEVICE),
            _ => (&self.node().pods[1].namespace, POD_DEVICE),
        };
        let program = rawbpf::load(Kind::TC, insns).unwrap();
        let link = || rawbpf::link(&program, if_nametoindex(device)?, hook);
        namespace.run(link).unwrap()
    }
}

fn addresses() -> [SocketAddr; 2] {
    WEB.map(|ip| SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 80))
}

#[test]
fn whoever_dials_a_pod_of_the_node_is_brought_past_its_device() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let modes = [
        (&[][..], "peer"),
        (&["--local-delivery", "device"], "device"),
    ];
    for (flags, delivery) in modes {
        let manifests = Manifests::Path(scene.manifests.path());
        let balancer = Balancer::start_at(&place, scene.node(), manifests, flags).unwrap();
        // The next hops of the agent before are believed for a second.
        scene.wait_for(&balancer, delivery, None);
        for (name, client) in scene.clients() {
            for address in addresses() {
                for exchange in EXCHANGES {
                    let n = scene.n_sent_for(client, exchange, address);
                    let is_past = n < FEW;
                    assert_eq!(
                        is_past,
                        delivery == "peer",
                        "{name}, {exchange} {address}: {n}"
                    );
                }
            }
        }
        balancer.stop().unwrap();
    }
}

#[test]
fn what_is_to_see_packets_to_a_pod_sees_them() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&["--log-level", "info"]);
    scene.wait_for(&balancer, "peer", None);
    scene.tc(&format!("qdisc add dev {DEVICE} root pfifo"));
    scene.wait_for(&balancer, "device", Some("it has a queue of kind pfifo"));
    scene.tc(&format!("qdisc del dev {DEVICE} root"));
    scene.wait_for(&balancer, "peer", None);
    let filter = format!("dev {DEVICE} egress protocol all prio 7 u32");
    if hooks::are_links() {
        scene.tc(&format!("qdisc add dev {DEVICE} clsact"));
    }
    scene.tc(&format!("filter add {filter} match u32 0 0 classid 1:1"));
    scene.wait_for(
        &balancer,
        "device",
        Some("a filter of kind u32 is at its egress"),
    );
    scene.tc(&format!("filter del {filter}"));
    scene.wait_for(&balancer, "peer", None);
    if hooks::are_links() {
        let link = scene.link(&asm::trivial(NEXT), Hook::TcEgress);
        scene.wait_for(
            &balancer,
            "device",
            Some("the program \"\" is at its egress"),
        );
        drop(link);
        scene.wait_for(&balancer, "peer", None);
    }
    let log = balancer.log();
    for told in [
        "packets to this pod go by the host side of its device device=\"lxc2\"",
        "packets go straight to this pod now device=\"lxc2\"",
    ] {
        assert!(log.contains(told), "{told}:\n{log}");
    }
}

#[test]
fn the_configuration_file_changes_it_at_once() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let file = scene.manifests.path().join("fulcrum.conf");
    let write = |how: &str| {
        let manifests = scene.manifests.path().join("web.yaml");
        let text = format!(
            "manifests: {}\nlocal-delivery: {how}\n",
            manifests.display()
        );
        manifest::replace(&file, &text).unwrap();
    };
    write("device");
    let flag = format!("--config={}", file.display());
    let place = Place::new().unwrap();
    let started = Balancer::start_at(&place, scene.node(), Manifests::Configured, &[&flag]);
    let balancer = started.unwrap();
    for _ in 0..2 {
        scene.wait_for(&balancer, "device", None);
        write("auto");
        scene.wait_for(&balancer, "peer", None);
        write("device");
    }
}

/// As a pair of devices between network namespaces takes it off; and the pod's own programs see what comes in.
#[test]
fn a_mark_stays_on_the_node() {
    if !require_root() {
        return;
    }
    if !hooks::are_links() {
        println!("skipped: this kernel has no links for TC");
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&[]);
    scene.wait_for(&balancer, "peer", None);
    let dial = |mark: u32, address| {
        scene.node().namespace.run(|| {
            let socket = client::udp_socket(UdpMode::Connected, address)?;
            setsockopt(&socket, sockopt::Mark, &mark)?;
            client::udp_hit(&socket, address)
        })
    };
    for (condition, name) in [(If::Different, "marked"), (If::Equal, "unmarked")] {
        let _filter = scene.link(&drops_if_mark(condition), Hook::Tc);
        for address in addresses() {
            let answer = dial(7, address);
            assert_eq!(
                answer.is_ok(),
                name == "marked",
                "{name} dropped: {answer:?}"
            );
        }
    }
}

/// A program that drops packets whose mark is, or is not, 0.
fn drops_if_mark(condition: If) -> Vec<asm::Insn> {
    let mut code = Assembler::default();
    let drops = code.label();
    let mark = Context::of(Kind::TC).mark.unwrap();
    code.add([asm::load(asm::Size::Word, asm::R2, asm::R1, mark)]);
    code.jump_if_imm(condition, asm::R2, 0, drops);
    code.add(asm::trivial(NEXT));
    code.place(drops);
    code.add(asm::trivial(SHOT));
    code.finish().unwrap()
}
