//! `--socket-lb host`: processes of the node get their endpoints when they dial, by an agent that keeps the programs where they
//! are. What the programs themselves do is tested in `programs`.
//!
//! The control group is this process's own.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Manifests},
    cgroup::ControlGroup,
    client::{self, Exchange, UdpMode},
    deployment::Deployment,
    hooks,
    manifest::{Exposed, Governed, Manifest, Pod, Port, Service},
    netns::require_root,
    place::Place,
    poll,
    server::Server,
    topology::{Cluster, Config, Node},
};

const TARGET: u16 = 8080;
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const BALANCER_IPS: [&str; 2] = ["198.19.100.10", "fd00:198:19:100::a"];
const UNCONNECTED: Exchange = Exchange::Udp(UdpMode::Unconnected);
const BACKENDS: [&str; 3] = ["pod-1-1", "pod-1-2", "pod-2-1"];
const LIMIT: Duration = Duration::from_secs(20);

/// Two nodes with agents, and servers in their pods.
struct Scene {
    deployment: Deployment,
    _servers: Vec<Server>,
    group: ControlGroup,
}

impl Scene {
    /// `spec`: lines of the service's.
    fn new(spec: &[&'static str]) -> Option<Self> {
        require_root().then(|| {
            let group = ControlGroup::enter().unwrap();
            let cluster = cluster();
            let servers = servers(&cluster);
            let manifest = manifest(&cluster, spec, &BACKENDS);
            let flags = group.flags();
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            Self {
                deployment: Deployment::start(cluster, &manifest, &flags).unwrap(),
                _servers: servers,
                group,
            }
        })
    }

    fn node(&self) -> &Node {
        &self.deployment.cluster.nodes[0]
    }

    fn agent(&self) -> &Balancer {
        &self.deployment.balancers[0]
    }

    /// Counts of these names, while a process of the first node does something.
    fn counted<const N: usize>(&self, names: [&str; N], body: impl FnOnce() + Send) -> [u64; N] {
        let before = self.agent().counters().unwrap();
        self.node().namespace.run(body);
        let after = self.agent().counters().unwrap();
        names.map(|name| after[name] - before[name])
    }

    /// Starts the first node's agent where the one before was, with these flags.
    fn start_again(&mut self, place: &Place, flags: &[String]) {
        let manifests = self.deployment.path("");
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let agent = Balancer::start_at(place, self.node(), Manifests::Path(&manifests), &flags);
        self.deployment.balancers.insert(0, agent.unwrap());
    }

    /// Makes these pods the ones that serve, and waits until the agents have them.
    fn serve(&self, serving: &[&str]) {
        let cluster = &self.deployment.cluster;
        let manifest = manifest(cluster, &[], serving);
        self.deployment.write(&manifest).unwrap();
        self.deployment
            .wait_for_pods("web", serving, TARGET)
            .unwrap();
    }
}

fn cluster() -> Cluster {
    let config = Config {
        pods: vec![2, 1],
        ..Config::default()
    };
    Cluster::new(&config).unwrap()
}

fn servers(cluster: &Cluster) -> Vec<Server> {
    let servers = cluster.pods();
    servers
        .map(|(_, pod)| Server::hostname(&pod.namespace, &pod.name, TARGET).unwrap())
        .collect()
}

fn manifest(cluster: &Cluster, spec: &[&'static str], serving: &[&str]) -> Manifest {
    let ports = ["TCP", "UDP"].map(|protocol| Port::new(protocol, PORT, TARGET));
    let service = Governed {
        exposed: Exposed {
            service: Service {
                name: "web".to_owned(),
                cluster_ips: CLUSTER_IPS.map(|ip| ip.parse().unwrap()).into(),
                ports: ports.into(),
                selector: Some("web".to_owned()),
            },
            node_ports: vec![NODE_PORT; 2],
            ips: BALANCER_IPS.map(|ip| ip.parse().unwrap()).into(),
        },
        spec: spec.to_vec(),
    };
    let manifest = Manifest::default().with(&service);
    manifest.with_pods_of(cluster, serving, "web")
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn cluster_ips() -> [SocketAddr; 3] {
    let [v4, v6] = CLUSTER_IPS;
    [v4, v6, "::ffff:10.96.0.10"].map(|ip| at(ip, PORT))
}

/// A datagram and its answer, which must come from the service; the server's name.
fn asked(socket: &UdpSocket, to: SocketAddr) -> String {
    socket.send_to(b"hello", to).unwrap();
    let mut answer = [0; 128];
    let (len, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!(from, to);
    String::from_utf8_lossy(&answer[..len]).trim().to_owned()
}

fn datagrams(like: SocketAddr) -> UdpSocket {
    let any = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind(at(any, 0)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// The pins of programs that meet sockets.
fn pins(place: &Place) -> Vec<PathBuf> {
    let pins = hooks::pins(place).unwrap();
    let is_ours = |pin: &PathBuf| pin.to_string_lossy().contains("-cgroup");
    pins.into_iter().filter(is_ours).collect()
}

/// The ids of their links.
fn links(place: &Place) -> Vec<String> {
    let id = |pin: PathBuf| {
        let pin = pin.display().to_string();
        let shown = bpftool(&["-j", "link", "show", "pinned", &pin]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown["id"].to_string()
    };
    pins(place).into_iter().map(id).collect()
}

fn bpftool(arguments: &[&str]) -> String {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn processes_of_the_node_reach_all_endpoints_without_a_flow() {
    let Some(scene) = Scene::new(&[]) else { return };
    let n = 300;
    for to in cluster_ips() {
        for exchange in [Exchange::Tcp, UNCONNECTED] {
            let node = &scene.node().namespace;
            let names = ["dial_given", "dial_left", "open"];
            let counts = scene.counted(names, || {
                client::many(node, exchange, to, n)
                    .complete()
                    .and_then(|tally| tally.uniform_over(&BACKENDS))
                    .unwrap();
            });
            assert_eq!(counts, [n as u64, 0, 0], "{exchange} to {to}");
        }
    }
    let names = ["dial_left", "open"];
    let counts = scene.counted(names, || {
        // Datagram sockets that are connected, and every pod's, are met as packets.
        let connected = Exchange::Udp(UdpMode::Connected);
        client::hit(connected, cluster_ips()[0]).unwrap();
    });
    assert_eq!(counts, [1, 1]);
    let pod = &scene.node().pods[0].namespace;
    let before = scene.agent().counters().unwrap();
    for exchange in [Exchange::Tcp, UNCONNECTED] {
        client::many(pod, exchange, cluster_ips()[0], 5)
            .complete()
            .unwrap();
    }
    let after = scene.agent().counters().unwrap();
    let grown = ["dial_given", "dial_left", "open"].map(|name| after[name] - before[name]);
    assert_eq!(grown, [0, 0, 10]);
    scene.deployment.expect_no_drops().unwrap();
}

#[test]
fn node_ports_and_load_balancers_are_dialled_by_the_rules_for_the_node_itself() {
    // The node is exempt from the external policy, and the one from the internal one keeps to its own pods.
    let spec = [
        "externalTrafficPolicy: Local",
        "internalTrafficPolicy: Local",
    ];
    let Some(scene) = Scene::new(&spec) else {
        return;
    };
    let own = scene.node().addresses.both();
    let node_ports = own.map(|ip| SocketAddr::new(ip, NODE_PORT));
    let loopback = [at("127.0.0.1", NODE_PORT)];
    let balancers = BALANCER_IPS.map(|ip| at(ip, PORT));
    let cluster_ips = cluster_ips();
    let node = &scene.node().namespace;
    let all = BACKENDS.as_slice();
    for (addresses, expected) in [
        (node_ports.as_slice(), all),
        (&loopback, all),
        (&balancers, all),
        (&cluster_ips, &BACKENDS[..2]),
    ] {
        for to in addresses {
            let counts = scene.counted(["dial_given", "open"], || {
                client::many(node, Exchange::Tcp, *to, 100)
                    .complete()
                    .and_then(|tally| tally.uniform_over(expected))
                    .unwrap();
            });
            assert_eq!(counts, [100, 0], "{to}");
        }
    }
    let stream = node.run(|| TcpStream::connect(loopback[0]).unwrap());
    assert_eq!(stream.peer_addr().unwrap(), loopback[0]);
    // A datagram to the node's own address may be for a socket of its own.
    let counts = scene.counted(["dial_given", "dial_left", "open"], || {
        client::hit(UNCONNECTED, node_ports[0]).unwrap();
    });
    assert_eq!(counts, [0, 1, 1]);
}

#[test]
fn a_process_of_the_node_reaches_a_server_of_the_node_itself() {
    let Some(scene) = Scene::new(&[]) else { return };
    let node = scene.node();
    let _server = Server::hostname(&node.namespace, "own", TARGET).unwrap();
    let own = ["10.96.0.20", "fd00:10:96::14"];
    let service = Service {
        name: "own".to_owned(),
        cluster_ips: own.map(|ip| ip.parse().unwrap()).into(),
        ports: ["TCP", "UDP"]
            .map(|protocol| Port::new(protocol, PORT, TARGET))
            .into(),
        selector: Some("own".to_owned()),
    };
    let manifest = Manifest::default()
        .with(&service)
        .with(&Pod::on(node, "own"));
    scene
        .deployment
        .write_file("own.yaml", manifest.text())
        .unwrap();
    let ends = node.addresses.both();
    let ends = ends.map(|ip| SocketAddr::new(ip, TARGET).to_string());
    scene.deployment.wait_for_endpoints("own", &ends).unwrap();
    for to in own.map(|ip| at(ip, PORT)) {
        for exchange in [Exchange::Tcp, UNCONNECTED] {
            let counts = scene.counted(["dial_given", "open"], || {
                assert_eq!(client::hit(exchange, to).unwrap(), "own");
            });
            assert_eq!(counts, [1, 0], "{exchange} to {to}");
        }
    }
}

#[test]
fn what_asks_for_the_clients_address_is_left_to_packets_and_works_as_ever() {
    for spec in [
        &["sessionAffinity: ClientIP"][..],
        &["loadBalancerSourceRanges: [198.18.0.0/24, 'fd00:198:18::/64']"],
    ] {
        let Some(scene) = Scene::new(spec) else {
            return;
        };
        let [to, _] = BALANCER_IPS.map(|ip| at(ip, PORT));
        for exchange in [Exchange::Tcp, UNCONNECTED] {
            let node = &scene.node().namespace;
            let counts = scene.counted(["dial_given", "dial_left", "open"], || {
                client::many(node, exchange, to, 10).complete().unwrap();
            });
            assert_eq!(counts, [0, 10, 10], "{spec:?} {exchange}");
        }
    }
}

#[test]
fn a_socket_moves_on_with_the_next_datagram_and_only_when_its_backend_is_gone() {
    let Some(scene) = Scene::new(&[]) else { return };
    let node = &scene.node().namespace;
    for to in cluster_ips() {
        scene.serve(&BACKENDS);
        let socket = node.run(|| datagrams(to));
        let first = asked(&socket, to);
        assert_eq!(asked(&socket, to), first);
        let left: Vec<&str> = BACKENDS
            .into_iter()
            .filter(|name| !first.ends_with(name))
            .collect();
        scene.serve(&left);
        let counts = scene.counted(["dial_moved", "dial_given", "open"], || {
            let second = asked(&socket, to);
            assert_ne!(second, first);
            assert_eq!(asked(&socket, to), second);
        });
        assert_eq!(counts, [1, 0, 0]);
        scene.serve(&BACKENDS);
        let counts = scene.counted(["dial_moved", "dial_kept"], || {
            assert_ne!(asked(&socket, to), first);
        });
        assert_eq!(counts, [0, 1]);
    }
    // Nobody serves: that is for packets to say.
    scene.serve(&[]);
    let counts = scene.counted(["dial_left", "reject_no_backend"], || {
        let error = TcpStream::connect(cluster_ips()[0]).expect_err("nobody");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    assert_eq!(counts, [1, 1]);
}

#[test]
fn sockets_are_met_while_no_agent_runs_and_the_next_one_takes_over() {
    let Some(mut scene) = Scene::new(&[]) else {
        return;
    };
    let place = scene.agent().place().clone();
    let before = links(&place);
    assert_eq!(before.len(), 8);
    let to = cluster_ips()[0];
    let dial = || (TcpStream::connect(to).unwrap(), datagrams(to));
    let (stream, socket) = scene.node().namespace.run(dial);
    let first = asked(&socket, to);
    let goes_on = |scene: &Scene| {
        assert_eq!(asked(&socket, to), first);
        assert_eq!(stream.peer_addr().unwrap(), to);
        let tally = client::many(&scene.node().namespace, Exchange::Tcp, to, 60);
        tally
            .complete()
            .and_then(|tally| tally.uniform_over(&BACKENDS))
            .unwrap();
    };
    let killed = scene.deployment.balancers.remove(0).kill().unwrap();
    assert!(!killed.success());
    goes_on(&scene);
    let flags = scene.group.flags();
    scene.start_again(&place, &flags);
    goes_on(&scene);
    assert_eq!(
        links(&place),
        before,
        "the programs took each other's place"
    );
    assert_eq!(scene.agent().counters().unwrap()["open"], 0);
}

#[test]
fn without_the_flag_the_programs_go_and_packets_do_it_all() {
    let Some(mut scene) = Scene::new(&[]) else {
        return;
    };
    let place = scene.agent().place().clone();
    let stopped = scene.deployment.balancers.remove(0).stop().unwrap();
    assert!(stopped.success());
    assert_eq!(pins(&place).len(), 8);
    scene.start_again(&place, &[]);
    assert_eq!(pins(&place), [""; 0].map(PathBuf::from));
    let counts = scene.counted(["dial_given", "open"], || {
        client::hit(Exchange::Tcp, cluster_ips()[0]).unwrap();
    });
    assert_eq!(counts, [0, 1]);
    let status = scene.agent().fulcrum(&["status"]).unwrap();
    assert!(!status.contains("sockets"), "{status}");
}

#[test]
fn what_somebody_takes_off_is_put_back_and_cleanup_takes_off_everything() {
    let Some(mut scene) = Scene::new(&[]) else {
        return;
    };
    let place = scene.agent().place().clone();
    let dir = scene.group.dir().display().to_string();
    let status = scene.agent().fulcrum(&["status"]).unwrap();
    let line = format!("{dir}   sockets   connect-time");
    assert!(status.contains(&line), "{status}");
    let connect = pins(&place)
        .into_iter()
        .find(|pin| pin.to_string_lossy().contains("connect4-"))
        .unwrap();
    bpftool(&["link", "detach", "pinned", &connect.display().to_string()]);
    let to = cluster_ips()[0];
    let node = &scene.node().namespace;
    poll::until(LIMIT, "sockets to be met again", || {
        let before = scene.agent().counters()?["dial_given"];
        node.run(|| client::hit(Exchange::Tcp, to))?;
        let after = scene.agent().counters()?["dial_given"];
        Ok((after > before).then_some(()))
    })
    .unwrap();
    let status = scene.agent().fulcrum(&["status"]).unwrap();
    assert!(status.contains("changed: program 1"), "{status}");
    let programs = || bpftool(&["-j", "cgroup", "show", &dir]);
    let n_programs = |shown: &str| {
        let shown: serde_json::Value = serde_json::from_str(shown).unwrap();
        shown.as_array().map_or(0, Vec::len)
    };
    let n_before = n_programs(&programs());
    assert!(
        scene
            .deployment
            .balancers
            .remove(0)
            .stop()
            .unwrap()
            .success()
    );
    let cleaned = place.cleanup(&scene.node().namespace, &[]).unwrap();
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert_eq!(n_programs(&programs()), n_before - 8);
    assert!(!connect.exists());
}

#[test]
fn where_there_is_no_control_group_the_agent_says_so_and_packets_are_served() {
    if !require_root() {
        return;
    }
    let group = ControlGroup::enter().unwrap();
    let cluster = cluster();
    let _servers = servers(&cluster);
    let absent = group.dir().join("absent");
    let flag = format!("--cgroup={}", absent.display());
    let manifest = manifest(&cluster, &[], &BACKENDS);
    let scene = Scene {
        deployment: Deployment::start(cluster, &manifest, &["--socket-lb=host", &flag]).unwrap(),
        _servers: Vec::new(),
        group,
    };
    let log = scene.agent().log();
    let said = "sockets are not met when they dial; their packets are served as ever";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    let status = scene.agent().fulcrum(&["status"]).unwrap();
    let line = format!(
        "{}   sockets   cannot open the control group",
        absent.display()
    );
    assert!(status.contains(&line), "{status}");
    let to = cluster_ips()[0];
    let counts = scene.counted(["dial_given", "open"], || {
        client::hit(Exchange::Tcp, to).unwrap();
    });
    assert_eq!(counts, [0, 1]);
    // It is looked for again. This process is not in it, so its sockets are not met, but the programs are there.
    fs::create_dir(&absent).unwrap();
    let is_there = |text: &str| text.contains("sockets   connect-time");
    scene
        .agent()
        .fulcrum_until(&["status"], LIMIT, "the programs", is_there)
        .unwrap();
    drop(scene);
    fs::remove_dir(&absent).unwrap();
}
