//! The configuration file: what changes in it takes effect without a restart, and no connection notices.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Manifests},
    client,
    manifest::{self, Exposed, Manifest, Port, Service},
    netns::require_root,
    place::Place,
    poll,
    server::Server,
    topology::{Cluster, Config, Node, POD_DEVICES, UPLINK},
};
use tempfile::TempDir;

const TARGET: u16 = 8080;
const NODE_PORT: u16 = 30123;
const LIMIT: Duration = Duration::from_secs(20);
/// How long nobody may answer to be taken for nobody.
const SILENCE: Duration = Duration::from_millis(300);
/// A device that nothing needs.
const SPARE: &str = "spare0";

#[test]
fn a_changed_file_takes_effect_on_sighup_and_connections_go_on() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let [first, second] = scene.addresses();
    scene.write(first, UPLINK, "");
    let mut balancer = scene.start();
    let mut streams = first.map(|ip| scene.connect(ip));
    for stream in &mut streams {
        echo(stream);
    }
    for ip in second {
        scene.expect_nobody(ip);
    }

    scene.write(second, &format!("{UPLINK}, {SPARE}"), "timeout-udp: 7s\n");
    balancer.hang_up();
    for ip in second {
        echo(&mut scene.connect(ip));
    }
    for ip in first {
        scene.expect_nobody(ip);
    }
    for stream in &mut streams {
        echo(stream);
    }
    let status = wait_for_status(&balancer, SPARE);
    assert!(status.contains("timeout-udp   30s     7s"), "{status}");
    let log = balancer.log();
    for told in [
        &format!("takes effect key=\"uplink\" old=\"{UPLINK}\" new=\"{UPLINK},{SPARE}\""),
        "takes effect at the next start key=\"timeout-udp\" old=\"30s\" new=\"7s\"",
    ] {
        assert!(log.contains(told), "{told}:\n{log}");
    }

    scene.write(first, SPARE, "uplnk: eth0\n");
    balancer.hang_up();
    let status = wait_for_status(&balancer, "unknown key");
    assert!(status.contains("did you mean `uplink`?"), "{status}");
    assert!(status.contains(UPLINK), "{status}");
    for stream in &mut streams {
        echo(stream);
    }
    for ip in second {
        echo(&mut scene.connect(ip));
    }
    assert!(balancer.stop().unwrap().success());
}

#[test]
fn a_change_is_noticed_without_a_signal() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let [first, second] = scene.addresses();
    scene.write(first, UPLINK, "");
    let _balancer = scene.start();
    for ip in first {
        echo(&mut scene.connect(ip));
    }
    scene.write(second, UPLINK, "");
    for ip in second {
        echo(&mut scene.connect(ip));
    }
}

#[test]
fn without_a_file_a_hangup_ends_nobody() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let [first, _] = scene.addresses();
    let manifests = Manifests::Path(scene.manifests.path());
    let place = Place::new().unwrap();
    let mut balancer = Balancer::start_at(&place, scene.node(), manifests, &[]).unwrap();
    balancer.hang_up();
    poll::until(LIMIT, "the signal to be told", || {
        let is_told = balancer.log().contains("there is no configuration file");
        Ok(is_told.then_some(()))
    })
    .unwrap();
    for ip in first {
        echo(&mut scene.connect(ip));
    }
}

fn wait_for_status(balancer: &Balancer, text: &str) -> String {
    let what = format!("{text} in the status");
    let has_text = |status: &str| status.contains(text);
    balancer
        .fulcrum_until(&["status"], LIMIT, &what, has_text)
        .unwrap()
}

/// A byte there and back.
fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
}

/// A node with two addresses of each family, a service with a node port, and a file that configures its agent.
struct Scene {
    _server: Server,
    cluster: Cluster,
    manifests: TempDir,
    config: TempDir,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![1],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let node = &cluster.nodes[0];
        let server = Server::echo(&node.pods[0].namespace, TARGET).unwrap();
        let scene = Self {
            _server: server,
            manifests: tempfile::tempdir().unwrap(),
            config: tempfile::tempdir().unwrap(),
            cluster,
        };
        let [_, [v4, v6]] = scene.addresses();
        let commands = [
            format!("address add {v4}/24 dev {UPLINK}"),
            format!("address add {v6}/64 dev {UPLINK} nodad"),
            format!("link add {SPARE} type veth peer name {SPARE}-peer"),
            format!("link set {SPARE} up"),
        ];
        scene.node().namespace.ip(&commands).unwrap();
        let web = Exposed {
            service: Service {
                name: "web".to_owned(),
                cluster_ips: Vec::new(),
                ports: vec![Port::new("TCP", 80, TARGET)],
                selector: Some("web".to_owned()),
            },
            node_ports: vec![NODE_PORT],
            ips: Vec::new(),
        };
        let pods = ["pod-1-1"];
        let manifest =
            Manifest::nodes_of(&scene.cluster).with_pods_of(&scene.cluster, &pods, "web");
        let path = scene.manifests.path().join("web.yaml");
        manifest.with(&web).write(&path).unwrap();
        scene
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// The node's first address of each family, and its second.
    fn addresses(&self) -> [[IpAddr; 2]; 2] {
        let first = self.node().addresses.both();
        let second = first.map(|ip| match ip {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 100).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + 0x1000).into()),
        });
        [first, second]
    }

    /// Writes the file: node ports at these addresses, these uplinks, and further lines.
    fn write(&self, [v4, v6]: [IpAddr; 2], uplinks: &str, more: &str) {
        let manifests = self.manifests.path().display();
        let text = format!(
            "manifests: {manifests}\nnodeport-addresses: [{v4}/32, '{v6}/128']\nuplink: [{uplinks}]\n\
             pod-device: {POD_DEVICES}\n{more}"
        );
        manifest::replace(&self.file(), &text).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.config.path().join("fulcrum.yaml")
    }

    fn start(&self) -> Balancer {
        let flag = format!("--config={}", self.file().display());
        let place = Place::new().unwrap();
        Balancer::start_at(&place, self.node(), Manifests::Configured, &[&flag]).unwrap()
    }

    /// A connection of the client outside with the node port at an address, as soon as there is one.
    fn connect(&self, ip: IpAddr) -> TcpStream {
        let address = SocketAddr::new(ip, NODE_PORT);
        let namespace = &self.cluster.client.namespace;
        poll::until(LIMIT, &format!("{address} to answer"), || {
            Ok(namespace.run(|| client::connect(address)).ok())
        })
        .unwrap()
    }

    /// Waits until connections with the node port at an address fail.
    fn expect_nobody(&self, ip: IpAddr) {
        let address = SocketAddr::new(ip, NODE_PORT);
        let namespace = &self.cluster.client.namespace;
        poll::until(LIMIT, &format!("{address} to be nobody's"), || {
            let connected = namespace.run(|| client::try_connect(address, SILENCE));
            Ok((!matches!(connected, Ok(Some(_)))).then_some(()))
        })
        .unwrap();
    }
}
