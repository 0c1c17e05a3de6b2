//! The harness itself, without any agent: packets get where the topology says, servers and clients agree, and nothing is
//! left behind.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use lb_tests::{
    addressing,
    client::{self, Exchange, UdpMode},
    link,
    netns::{Namespace, require_root},
    poll,
    server::Server,
    topology::{Cluster, Config, Interconnect, Naming, ReversePath, UPLINK},
};
use nix::sys::signal::SigSet;

const PORT: u16 = 8080;
const EXCHANGES: [Exchange; 3] = [
    Exchange::Tcp,
    Exchange::Udp(UdpMode::Connected),
    Exchange::Udp(UdpMode::Unconnected),
];
const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn every_pod_reaches_every_pod_over_ethernet() {
    every_pod_reaches_every_pod(&Config {
        pods: vec![2, 1, 1],
        ..Config::default()
    });
}

#[test]
fn every_pod_reaches_every_pod_over_tunnels_without_ethernet() {
    every_pod_reaches_every_pod(&Config {
        pods: vec![1, 1, 1],
        interconnect: Interconnect::Tun,
        reverse_path: ReversePath::Strict,
        ..Config::default()
    });
}

fn every_pod_reaches_every_pod(config: &Config) {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(config).unwrap();
    let _servers = cluster.serve_hostnames(PORT).unwrap();
    for (_, from) in cluster.pods() {
        for (_, to) in cluster.pods() {
            for address in to.addresses.both() {
                for exchange in EXCHANGES {
                    let address = SocketAddr::new(address, PORT);
                    let tally = client::many(&from.namespace, exchange, address, 2);
                    tally
                        .complete()
                        .and_then(|tally| tally.spread_over(&[&to.name]))
                        .unwrap();
                }
            }
        }
    }
}

#[test]
fn tunnels_carry_what_pods_of_different_nodes_say() {
    if !require_root() {
        return;
    }
    let config = Config {
        interconnect: Interconnect::Tun,
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let [node_1, node_2] = cluster.nodes.as_slice() else {
        panic!("two nodes")
    };
    assert_eq!(node_1.uplinks, [UPLINK, "tun2"]);
    let pod = &node_2.pods[0];
    let _server = Server::hostname(&pod.namespace, &pod.name, PORT).unwrap();
    let before = n_received(&node_2.namespace, "tun1");
    for address in pod.addresses.both() {
        let address = SocketAddr::new(address, PORT);
        client::many(&node_1.pods[0].namespace, Exchange::Tcp, address, 1)
            .complete()
            .unwrap();
    }
    assert!(
        n_received(&node_2.namespace, "tun1") >= before + 2 * 4,
        "SYN, ACK, request, FIN per connection"
    );
}

#[test]
fn the_client_outside_reaches_nodes_and_has_no_route_to_pods() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config::default()).unwrap();
    let node = &cluster.nodes[1];
    let _server = Server::hostname(&node.namespace, &node.name, PORT).unwrap();
    let from = &cluster.client.namespace;
    for address in node.addresses.both() {
        for exchange in EXCHANGES {
            client::many(from, exchange, SocketAddr::new(address, PORT), 1)
                .complete()
                .unwrap();
        }
    }
    for address in node.pods[0].addresses.both() {
        let tally = client::many(
            from,
            Exchange::Udp(UdpMode::Connected),
            SocketAddr::new(address, PORT),
            1,
        );
        assert!(
            tally.failures()[0].contains("Network is unreachable"),
            "{tally}"
        );
    }
}

#[test]
fn the_client_outside_sends_for_services_to_the_node_of_its_route() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config::default()).unwrap();
    let routed_to = |service: &str| {
        let namespace = &cluster.client.namespace;
        let output = namespace
            .command("ip")
            .args(["route", "get", service])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(routed_to("10.96.0.10").contains("via 198.18.0.1 "));
    assert!(routed_to("fd00:10:96::a").contains("via fd00:198:18::1 "));
    cluster.route_client_via(&cluster.nodes[1]).unwrap();
    assert!(routed_to("10.96.0.10").contains("via 198.18.0.2 "));
    assert!(routed_to("fd00:10:96::a").contains("via fd00:198:18::2 "));
}

#[test]
fn ten_thousand_connections_and_datagrams_in_a_row_find_a_port() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config {
        pods: vec![1, 1],
        ..Config::default()
    })
    .unwrap();
    let _servers = cluster.serve_hostnames(PORT).unwrap();
    let [node_1, node_2] = cluster.nodes.as_slice() else {
        panic!("two nodes")
    };
    let address = SocketAddr::new(node_2.pods[0].addresses.v6.into(), PORT);
    for exchange in EXCHANGES {
        client::many(&node_1.pods[0].namespace, exchange, address, 10_000)
            .complete()
            .unwrap();
    }
}

#[test]
fn an_unconnected_client_refuses_an_answer_from_another_address() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("answers").unwrap();
    namespace.run(|| {
        let asked = UdpSocket::bind("127.0.0.1:7000").unwrap();
        let answers = UdpSocket::bind("127.0.0.1:7001").unwrap();
        asked.set_read_timeout(Some(LIMIT)).unwrap();
        let address = asked.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (_, from) = asked.recv_from(&mut [0; 64]).unwrap();
                answers.send_to(b"You've hit other\n", from).unwrap();
            });
            let socket = client::udp_socket(UdpMode::Unconnected, address).unwrap();
            let error = client::udp_hit(&socket, address).unwrap_err().to_string();
            assert_eq!(
                error,
                "the answer comes from 127.0.0.1:7001 instead of 127.0.0.1:7000"
            );
        });
    });
}

#[test]
fn an_echo_server_returns_what_it_got_until_the_client_ends() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("echo").unwrap();
    let _server = Server::echo(&namespace, PORT).unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let received = namespace.run(|| {
        let mut stream = TcpStream::connect(("::1", PORT)).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut writer = stream.try_clone().unwrap();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                writer.write_all(&sent).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            stream.read_to_end(&mut received).unwrap();
        });
        received
    });
    assert!(
        received == sent,
        "{} bytes of {} came back, or others",
        received.len(),
        sent.len()
    );
}

#[test]
fn settings_reach_the_devices_that_are_made_later() {
    if !require_root() {
        return;
    }
    let config = Config {
        reverse_path: ReversePath::Strict,
        mtu: 1400,
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let node = &cluster.nodes[0];
    let value = |name: &str| {
        node.namespace
            .run(|| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap())
    };
    for device in [UPLINK, "lxc1"] {
        assert_eq!(value(&format!("ipv4/conf/{device}/rp_filter")), "1\n");
        assert_eq!(value(&format!("ipv6/conf/{device}/mtu")), "1400\n");
    }
    link::set_mtu(&node.namespace, "lxc1", 1300).unwrap();
    assert_eq!(value("ipv6/conf/lxc1/mtu"), "1300\n");
}

#[test]
fn packets_pass_without_transmit_offload_too() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config {
        pods: vec![2],
        ..Config::default()
    })
    .unwrap();
    let _servers = cluster.serve_hostnames(PORT).unwrap();
    let [a, b] = cluster.nodes[0].pods.as_slice() else {
        panic!("two pods")
    };
    for pod in [a, b] {
        link::set_tx_offload(&pod.namespace, "eth0", false).unwrap();
    }
    for address in b.addresses.both() {
        for exchange in EXCHANGES {
            client::many(&a.namespace, exchange, SocketAddr::new(address, PORT), 1)
                .complete()
                .unwrap();
        }
    }
    let error = link::set_tx_offload(&a.namespace, "eth7", false).unwrap_err();
    assert!(
        format!("{error:#}").contains("set the tx offload of eth7 in pod-1-1"),
        "{error:#}"
    );
}

#[test]
fn the_machine_has_blackhole_routes_only_while_a_cluster_is_up() {
    if !require_root() {
        return;
    }
    // Other tests of this process hold routes, too: a process of its own shows when they come and go.
    if !is_child() {
        let output = child("the_machine_has_blackhole_routes_only_while_a_cluster_is_up")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        return;
    }
    let id = std::process::id();
    let n_prefixes = addressing::PREFIXES.len();
    let first = Cluster::new(&Config::default()).unwrap();
    assert_eq!(n_blackholes(id), n_prefixes);
    let second = Cluster::new(&Config::default()).unwrap();
    drop(first);
    assert_eq!(
        n_blackholes(id),
        n_prefixes,
        "the second cluster holds them too"
    );
    drop(second);
    assert_eq!(n_blackholes(id), 0);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next_one() {
    if !require_root() {
        return;
    }
    let named = Config {
        naming: Naming::Named,
        ..Config::default()
    };
    if is_child() {
        // The first child waits to be killed; the second, which gets no input, ends.
        let _cluster = Cluster::new(&named).unwrap();
        println!("up");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let mut command = child("what_a_killed_run_left_is_removed_by_the_next_one");
    let mut killed = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    assert!(
        lines.map_while(Result::ok).any(|line| line.ends_with("up")),
        "the child is up"
    );
    let left = format!("fc-{}-", killed.id());
    assert!(
        names_in("/run/netns")
            .iter()
            .any(|name| name.starts_with(&left))
    );
    assert_ne!(n_blackholes(killed.id()), 0);
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(
        command
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(
        !names_in("/run/netns")
            .iter()
            .any(|name| name.starts_with(&left))
    );
    assert_eq!(n_blackholes(killed.id()), 0);
}

#[test]
fn nothing_is_left_of_a_cluster_even_if_the_test_panics() {
    if !require_root() {
        return;
    }
    let (tell, told) = mpsc::channel();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let config = Config {
            naming: Naming::Named,
            interconnect: Interconnect::Tun,
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let _servers = cluster.serve_hostnames(PORT).unwrap();
        let paths = cluster.pods().map(|(_, pod)| pod.namespace.path());
        let paths = paths.chain(cluster.nodes.iter().map(|node| node.namespace.path()));
        let paths: Vec<_> = paths.chain([cluster.client.namespace.path()]).collect();
        assert!(
            paths.iter().all(|path| is_mounted(path)),
            "the names are there while the cluster is"
        );
        tell.send(paths).unwrap();
        panic!("on purpose");
    }));
    assert_eq!(
        *result.unwrap_err().downcast::<&str>().unwrap(),
        "on purpose"
    );
    for path in told.recv().unwrap() {
        assert!(
            !is_mounted(&path) && !path.exists(),
            "{} is left",
            path.display()
        );
    }
}

#[test]
fn a_panic_inside_a_namespace_is_the_panic_of_the_test() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("panics").unwrap();
    let result = catch_unwind(AssertUnwindSafe(|| namespace.run(|| panic!("inside"))));
    assert_eq!(*result.unwrap_err().downcast::<&str>().unwrap(), "inside");
}

#[test]
fn commands_and_threads_enter_the_namespace_and_keep_the_mounts() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("entered").unwrap();
    let of_thread = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let inside = namespace.run(of_thread);
    assert_ne!(inside, of_thread(), "the calling thread stays where it is");
    let read = |link: &str| {
        let output = namespace.command("readlink").arg(link).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(Path::new(&read("/proc/self/ns/net")), inside);
    assert_eq!(
        Path::new(&read("/proc/self/ns/mnt")),
        std::fs::read_link("/proc/self/ns/mnt").unwrap()
    );
}

#[test]
fn children_do_not_inherit_blocked_signals() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("signals").unwrap();
    SigSet::all().thread_block().unwrap();
    let output = namespace
        .command("grep")
        .args(["SigBlk", "/proc/self/status"])
        .output();
    SigSet::all().thread_unblock().unwrap();
    assert_eq!(
        String::from_utf8(output.unwrap().stdout).unwrap(),
        "SigBlk:\t0000000000000000\n"
    );
}

#[test]
fn a_daemon_ends_with_the_thread_that_started_it() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("daemon").unwrap();
    let start = || namespace.daemon("sleep").arg("600").spawn().unwrap();
    let mut child = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    poll::until(LIMIT, "the daemon to end", || Ok(child.try_wait()?)).unwrap();
}

#[test]
fn a_batch_that_fails_says_where_and_why() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::anonymous("batch").unwrap();
    let error = namespace
        .ip(&["link set dev eth9 up".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("ip in batch: Cannot find device \"eth9\""),
        "{error}"
    );
}

#[test]
fn no_namespace_has_a_route_out() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config::default()).unwrap();
    // Of TEST-NET-3 and the documentation prefix; connecting a UDP socket asks the routes and sends nothing.
    let outside: [IpAddr; 2] = [
        "203.0.113.1".parse().unwrap(),
        "2001:db8::1".parse().unwrap(),
    ];
    let nodes = cluster.nodes.iter().map(|node| &node.namespace);
    for namespace in nodes.chain([&cluster.client.namespace]) {
        for address in outside {
            let socket = || client::udp_socket(UdpMode::Connected, SocketAddr::new(address, 9));
            let error = namespace.run(socket).unwrap_err();
            assert!(
                format!("{error:#}").contains("Network is unreachable"),
                "{error:#}"
            );
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Set for a test that runs in a process of its own.
const CHILD: &str = "FULCRUM_HARNESS_CHILD";

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// This test once more, alone in a process of its own.
fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1");
    command
}

fn names_in(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// How many blackhole routes of a process the machine has.
fn n_blackholes(id: u32) -> usize {
    let metric = format!("metric {id} ");
    let lines = ["-4", "-6"].map(|family| {
        let output = Command::new("ip")
            .args([family, "route", "show", "type", "blackhole"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .filter(|line| format!("{line} ").contains(&metric))
            .count()
    });
    lines.iter().sum()
}

/// Packets that a device has received.
fn n_received(namespace: &Namespace, device: &str) -> u64 {
    let counters = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = counters
        .lines()
        .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line
        .and_then(|line| line.split_whitespace().nth(1))
        .unwrap_or_else(|| panic!("{device} in {counters}"));
    packets.parse().unwrap()
}
