//! The agent's own pair of devices, by which a node's processes reach services: all that is made of it, and that nothing
//! of it stays.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use lb_tests::{
    balancer::{Balancer, Manifests},
    manifest::{self, Manifest},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    topology::{Cluster, Config, Node},
};
use lb_user::{
    loader::{
        netlink::Netlink,
        pair::{
            HostPair, PairError,
            name::{Hairpin, PairName},
            routes::Wanted,
        },
        sysctl,
        uplink::{NodeAddresses, Survey},
    },
    mended,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

const LIMIT: Duration = Duration::from_secs(20);
/// How long the agent may take to load its programs.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Where an agent that is made up runs.
const RUN_DIR: &str = "/nonexistent/fulcrum";

/// Devices, addresses, neighbours and routes of a node that has nothing else, whatever it says of reverse paths.
const WHOLE: &str = "\
fulcrum0 link up mtu 65535 address 02:66:75:6c:63:00 peer fulcrum1 alias fulcrum:/nonexistent/fulcrum
fulcrum1 link up mtu 65535 address 02:66:75:6c:63:01 peer fulcrum0 alias fulcrum:/nonexistent/fulcrum
fulcrum0 inet 169.254.90.2/32 scope host
fulcrum0 neigh 169.254.90.1 lladdr 02:66:75:6c:63:01 PERMANENT
fulcrum0 neigh fe80::f0:1c lladdr 02:66:75:6c:63:01 PERMANENT
route 10.96.0.0/12 via 169.254.90.1 dev fulcrum0 proto 102 onlink advmss 1410
route 203.0.113.9 via 169.254.90.1 dev fulcrum0 proto 102 onlink advmss 1410
route fd00:10:96::/112 via fe80::f0:1c dev fulcrum0 proto 102 metric 1024 onlink advmss 1390 pref medium
";

/// The settings of both devices that differ from those of a veth pair that nobody has touched.
const SETTINGS: [(&str, &str); 13] = [
    ("ipv4/conf/fulcrum0/accept_local", "1"),
    ("ipv4/conf/fulcrum0/route_localnet", "1"),
    ("ipv4/conf/fulcrum*/accept_redirects", "0"),
    ("ipv4/conf/fulcrum*/forwarding", "1"),
    ("ipv4/conf/fulcrum*/rp_filter", "RP"),
    ("ipv4/conf/fulcrum*/send_redirects", "0"),
    ("ipv6/conf/fulcrum*/accept_dad", "0"),
    ("ipv6/conf/fulcrum*/accept_ra", "0"),
    ("ipv6/conf/fulcrum*/accept_redirects", "0"),
    ("ipv6/conf/fulcrum*/addr_gen_mode", "1"),
    ("ipv6/conf/fulcrum*/disable_ipv6", "0"),
    ("ipv6/conf/fulcrum*/forwarding", "1"),
    // Follows from the devices' own.
    ("ipv6/conf/fulcrum*/mtu", "65535"),
];

/// Those of [`SETTINGS`], and `autoconf`, that differ from what the kernel gives.
fn settings_that_differ(
    rp_filter: &str,
    given: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let autoconf = ("ipv6/conf/fulcrum*/autoconf", "0");
    let settings = SETTINGS.into_iter().chain([autoconf]);
    let settings = settings.flat_map(|(path, value)| {
        let value = value.replace("RP", rp_filter);
        ["fulcrum0", "fulcrum1"].map(|device| (path.replace("fulcrum*", device), value.clone()))
    });
    let settings: BTreeMap<String, String> = settings.collect();
    difference(given, &given.clone().into_iter().chain(settings).collect())
}

#[test]
fn the_pair_is_made_as_a_whole_and_goes_as_a_whole() {
    if !require_root() {
        return;
    }
    for (all, rp_filter) in [("0", "0"), ("1", "2"), ("2", "2")] {
        let node = bare_node(all);
        let before = (everything(&node), all_settings(&node));
        let mut pair = make(&node).unwrap();
        lead(&mut pair, &node, &["10.96.0.10", "203.0.113.9"]);
        assert_eq!(everything(&node), WHOLE, "all.rp_filter={all}");
        let after = all_settings(&node);
        let mut expected = before.1.clone();
        expected.extend(of_a_plain_pair(&node, &before.1));
        let changed = difference(&expected, &after);
        assert_eq!(
            changed,
            settings_that_differ(rp_filter, &expected),
            "all.rp_filter={all}"
        );
        drop(pair);
        assert_eq!((everything(&node), all_settings(&node)), before);
    }
}

#[test]
fn routes_come_and_go_with_services_and_with_the_nodes_address() {
    if !require_root() {
        return;
    }
    let node = bare_node("1");
    node.ip(&["addr add 192.0.2.1/32 dev lo".to_owned()])
        .unwrap();
    let mut pair = make(&node).unwrap();
    let routes = |services: &[&str], pair: &mut HostPair| {
        lead(pair, &node, services);
        let all = everything(&node);
        let routes = all.lines().filter(|line| line.starts_with("route "));
        routes.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = routes(&["203.0.113.9", "2001:db8::9"], &mut pair);
    let expected = [
        "route 10.96.0.0/12 via 169.254.90.1 dev fulcrum0 proto 102 src 192.0.2.1 onlink advmss 1410",
        "route 203.0.113.9 via 169.254.90.1 dev fulcrum0 proto 102 src 192.0.2.1 onlink advmss 1410",
        "route 2001:db8::9 via fe80::f0:1c dev fulcrum0 proto 102 metric 1024 onlink advmss 1390 pref medium",
        "route fd00:10:96::/112 via fe80::f0:1c dev fulcrum0 proto 102 metric 1024 onlink advmss 1390 pref medium",
    ];
    assert_eq!(first, expected);
    assert_eq!(routes(&[], &mut pair), [expected[0], expected[3]]);
    // The kernel takes the routes with the address that they prefer; those that are made again have none.
    node.ip(&["addr del 192.0.2.1/32 dev lo".to_owned()])
        .unwrap();
    let without = expected[0].replace(" src 192.0.2.1", "");
    assert_eq!(routes(&[], &mut pair), [&without, expected[3]]);
    node.ip(&["addr add 192.0.2.1/32 dev lo".to_owned()])
        .unwrap();
    assert_eq!(routes(&[], &mut pair), [expected[0], expected[3]]);
}

#[test]
fn what_a_killed_agent_left_is_taken_over_and_mended() {
    if !require_root() {
        return;
    }
    let node = bare_node("1");
    // Forgotten, not dropped: nobody had the chance to tidy up.
    std::mem::forget(make(&node).unwrap());
    let indexes = indexes(&node);
    node.ip(&[
        "addr add 169.254.7.7/32 dev fulcrum0".to_owned(),
        "addr flush dev fulcrum0 to 169.254.90.2/32".to_owned(),
        "neigh flush dev fulcrum0 nud permanent".to_owned(),
        "link set fulcrum1 mtu 1500 address 02:00:00:00:00:99 down".to_owned(),
    ])
    .unwrap();
    node.sysctl("net/ipv4/conf/fulcrum0/accept_local", "0")
        .unwrap();
    let mut pair = make(&node).unwrap();
    lead(&mut pair, &node, &["203.0.113.9"]);
    assert_eq!(everything(&node), WHOLE);
    assert_eq!(self::indexes(&node), indexes, "the same devices");
    let accept_local = node.run(|| sysctl::number("net/ipv4/conf/fulcrum0/accept_local"));
    assert_eq!(accept_local, Some(1));
}

#[test]
fn a_pair_without_an_alias_that_has_our_macs_is_replaced() {
    if !require_root() {
        return;
    }
    let node = bare_node("0");
    node.ip(&[
        "link add fulcrum0 address 02:66:75:6c:63:00 type veth peer name fulcrum1 address 02:66:75:6c:63:01".to_owned(),
    ])
    .unwrap();
    let before = indexes(&node);
    let mut pair = make(&node).unwrap();
    lead(&mut pair, &node, &["203.0.113.9"]);
    assert_eq!(everything(&node), WHOLE);
    assert_ne!(indexes(&node), before);
}

#[test]
fn another_agents_pair_is_never_taken_as_it_may_serve_on() {
    if !require_root() {
        return;
    }
    let node = bare_node("0");
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path();
    let theirs = node.run(|| HostPair::make(PairName::default(), other, Hairpin::default()));
    std::mem::forget(theirs.unwrap());
    let whole = everything(&node);
    let refused = |why: &str| {
        let error = make(&node).unwrap_err().to_string();
        let parts = [
            other.to_str().unwrap(),
            why,
            "--host-device",
            &format!("fulcrum --run-dir {} cleanup", other.display()),
        ];
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert_eq!(everything(&node), whole);
    };
    refused("may run: its lock is not there");
    let lock = File::create(other.join("lock")).unwrap();
    lock.lock().unwrap();
    refused("runs;");
    drop(lock);
    refused("has ended, but what it left in the kernel serves on");
}

#[test]
fn devices_of_strangers_are_left_alone() {
    if !require_root() {
        return;
    }
    for command in [
        "link add fulcrum0 type bridge",
        "link add fulcrum1 type bridge",
        "link add fulcrum0 type veth peer name fulcrum1",
    ] {
        let node = bare_node("0");
        node.ip(&[command.to_owned()]).unwrap();
        let before = (everything(&node), all_settings(&node));
        let error = make(&node).unwrap_err();
        assert!(
            matches!(error, PairError::Stranger { .. }),
            "{command}: {error}"
        );
        assert_eq!(
            (everything(&node), all_settings(&node)),
            before,
            "{command}"
        );
    }
}

#[test]
fn settings_that_cannot_be_made_are_said_and_made_when_they_can_be() {
    if !require_root() {
        return;
    }
    let node = bare_node("1");
    let before = everything(&node);
    let mut pair = node.run(|| {
        read_only_sysctls();
        HostPair::make(PairName::default(), Path::new(RUN_DIR), Hairpin::default()).unwrap()
    });
    let (device, text) = pair.trouble().unwrap();
    assert!(
        device == "fulcrum0"
            && text.contains("cannot set /proc/sys/net/ipv4/conf/fulcrum0/")
            && text.contains("mounted writable"),
        "{text}"
    );
    node.run(|| pair.mend());
    assert_eq!(pair.trouble(), None);
    lead(&mut pair, &node, &["203.0.113.9"]);
    assert_eq!(everything(&node), WHOLE);
    // Nothing stays of a pair that was never finished.
    drop(pair);
    assert_eq!(everything(&node), before);
}

#[test]
fn what_others_change_about_the_pair_is_put_back_and_counted() {
    if !require_root() {
        return;
    }
    let node = bare_node("1");
    let mut pair = make(&node).unwrap();
    pair.keep();
    lead(&mut pair, &node, &["203.0.113.9"]);
    let indexes = indexes(&node);
    let count = |thing: &str| mended::counts().get(thing).copied().unwrap_or(0);
    for (thing, change) in [
        ("address", "addr flush dev fulcrum0 to 169.254.90.2/32"),
        ("neighbour", "neigh flush dev fulcrum0 nud permanent"),
        (
            "neighbour",
            "neigh replace fe80::f0:1c lladdr 02:00:00:00:00:99 dev fulcrum0 nud permanent",
        ),
        ("route", "route del 10.96.0.0/12"),
        (
            "route",
            "route replace 203.0.113.9 via 169.254.90.7 dev fulcrum0 proto 102 onlink advmss 1410",
        ),
        ("device", "link set fulcrum1 address 02:00:00:00:00:99"),
        ("device", "link set fulcrum0 mtu 1500"),
        ("device", "link set fulcrum0 down"),
        ("device", "link del fulcrum0"),
    ] {
        let before = count(thing);
        node.ip(&[change.to_owned()]).unwrap();
        node.run(|| pair.mend());
        lead(&mut pair, &node, &["203.0.113.9"]);
        assert_eq!(everything(&node), WHOLE, "{change}");
        assert_eq!(self::indexes(&node), indexes, "{change}");
        assert!(count(thing) > before, "{change}");
    }
    let before = mended::counts();
    node.run(|| pair.mend());
    lead(&mut pair, &node, &["203.0.113.9"]);
    assert_eq!(mended::counts(), before, "nothing was changed");
}

#[test]
fn the_pair_outlives_its_agent_and_goes_by_a_cleanup() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let node = &scene.node().namespace;
    let place = Place::new().unwrap();
    let before = (everything(node), all_settings(node));
    let first = scene.start(&place);
    let during = everything(node);
    let status = first.fulcrum(&["status"]).unwrap();
    for device in ["fulcrum1   host ", "lo         lo "] {
        assert!(status.contains(device), "{status}");
    }
    assert!(!status.contains("fulcrum0"), "{status}");
    first.kill().unwrap();
    assert_eq!(everything(node), during);
    let second = scene.start(&place);
    assert_eq!(everything(node), during);
    assert!(second.stop().unwrap().success());
    assert_eq!(everything(node), during);
    assert!(place.cleanup(node, &[]).unwrap().status.success());
    assert_eq!((everything(node), all_settings(node)), before);
}

#[test]
fn services_and_addresses_are_followed_live() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let node = &scene.node().namespace;
    let balancer = scene.start(&Place::new().unwrap());
    let route = "route 203.0.113.9 via 169.254.90.1 dev fulcrum0 ";
    let has_route = || everything(node).contains(route);
    let expect = |what: &str, wanted: bool| {
        poll::until(LIMIT, what, || Ok((has_route() == wanted).then_some(()))).unwrap();
    };
    assert!(!has_route());
    let service = "{apiVersion: v1, kind: Service, metadata: {name: far}, \
                    spec: {clusterIP: 203.0.113.9, ports: [{port: 80}]}}";
    let path = scene.manifests.path().join("far.yaml");
    manifest::replace(&path, service).unwrap();
    expect("the route to a new service", true);
    node.ip(&["route del 203.0.113.9".to_owned()]).unwrap();
    expect("the route that somebody removed", true);
    fs::remove_file(&path).unwrap();
    expect("the route to go with its service", false);
    let place = |wanted: bool| {
        let what = "the node's address among the places";
        let is_there = |text: &str| text.contains("198.51.100.7/32") == wanted;
        balancer
            .fulcrum_until(&["maps", "places4"], LIMIT, what, is_there)
            .unwrap();
    };
    node.ip(&["addr add 198.51.100.7/32 dev lo".to_owned()])
        .unwrap();
    place(true);
    node.ip(&["addr del 198.51.100.7/32 dev lo".to_owned()])
        .unwrap();
    place(false);
}

#[test]
fn a_way_out_that_appears_later_becomes_an_uplink() {
    if !require_root() {
        return;
    }
    let node = bare_node("1");
    node.sysctl("net/ipv4/ip_forward", "1").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let place = Place::new().unwrap();
    let mut command = node.daemon(lb_tests::balancer::binary().unwrap());
    command
        .args(place.flags())
        .args(["run", "--node-name", "n1", "--pod-cidr", "10.244.0.0/16"]);
    command.arg("--manifests").arg(dir.path());
    let mut agent = command.spawn().unwrap();
    let status = || {
        let output = place.fulcrum(&["status"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let expect = |limit, device: &str| {
        let has = || Ok(status().contains(device).then_some(()));
        poll::until(limit, device, has).unwrap();
    };
    expect(START_LIMIT, "fulcrum1");
    assert!(!status().contains("uplink"));
    node.ip(&[
        "link add nic0 type veth peer name nic1".to_owned(),
        "link set nic1 up".to_owned(),
        "link set nic0 up".to_owned(),
        "addr add 192.0.2.1/24 dev nic0".to_owned(),
        "route add default via 192.0.2.254".to_owned(),
        "link add vxlan7 type vxlan id 7 dstport 8472 dev nic0".to_owned(),
        "link set vxlan7 up".to_owned(),
        "route add 10.244.2.0/24 via 10.244.2.0 dev vxlan7 onlink".to_owned(),
    ])
    .unwrap();
    expect(LIMIT, "nic0       uplink");
    expect(LIMIT, "vxlan7     uplink");
    agent.kill().unwrap();
    agent.wait().unwrap();
}

/// A node, and a directory of manifests with nothing in it.
struct Scene {
    cluster: Cluster,
    manifests: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![1],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let manifests = tempfile::tempdir().unwrap();
        let nodes = Manifest::nodes_of(&cluster);
        nodes.write(&manifests.path().join("nodes.yaml")).unwrap();
        Self { cluster, manifests }
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn start(&self, place: &Place) -> Balancer {
        let manifests = Manifests::Path(self.manifests.path());
        Balancer::start_at(place, self.node(), manifests, &[]).unwrap()
    }
}

/// A namespace with nothing but loopback: no uplink, no route, and IPv6 off for what comes new.
fn bare_node(rp_filter: &str) -> Namespace {
    let node = Namespace::anonymous("bare-node").unwrap();
    node.sysctls(&[
        ("net/ipv4/conf/all/rp_filter", rp_filter),
        ("net/ipv4/conf/default/rp_filter", "1"),
        ("net/ipv6/conf/default/disable_ipv6", "1"),
        ("net/ipv6/conf/default/accept_ra", "1"),
        ("net/ipv6/conf/default/accept_dad", "1"),
    ])
    .unwrap();
    node
}

fn make(node: &Namespace) -> Result<HostPair, PairError> {
    node.run(|| HostPair::make(PairName::default(), Path::new(RUN_DIR), Hairpin::default()))
}

/// Makes the routes to these services; the node's address is 192.0.2.1 where it has one.
fn lead(pair: &mut HostPair, node: &Namespace, services: &[&str]) {
    let parse = |text: &&str| -> IpAddr { text.parse().unwrap() };
    let wanted = Wanted {
        service_cidrs: vec![
            "10.96.0.0/12".parse().unwrap(),
            "fd00:10:96::/112".parse().unwrap(),
        ],
        services: Arc::new(services.iter().map(parse).collect()),
        sources: NodeAddresses {
            v4: Some("192.0.2.1".parse().unwrap()),
            v6: None,
        },
        mtu: 1450,
        has_ipv6: true,
    };
    let survey = survey(node);
    assert!(!pair.lead(&wanted, &survey), "all of it works");
}

/// What the kernel says about devices, routes and addresses.
fn survey(node: &Namespace) -> Survey {
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime
            .unwrap()
            .block_on(async { Netlink::open().unwrap().survey().await.unwrap() })
    })
}

/// Devices beside loopback, permanent neighbours, addresses that are not loopback's, and routes of the main table.
fn everything(node: &Namespace) -> String {
    let mut lines = links(node);
    lines.extend(
        ip(node, &["-o", "addr", "show"])
            .iter()
            .filter_map(|line| address(line)),
    );
    for family in ["-4", "-6"] {
        let neighbours = ip(node, &[family, "neigh", "show", "nud", "permanent"]);
        lines.extend(neighbours.iter().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} neigh {} {}", words[2], words[0], words[3..].join(" "))
        }));
    }
    for family in ["-4", "-6"] {
        let routes = ip(node, &[family, "route", "show", "table", "main"]);
        lines.extend(routes.iter().map(|line| format!("route {}", line.trim())));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn links(node: &Namespace) -> Vec<String> {
    let text = ip(node, &["-j", "-d", "link", "show"]).concat();
    let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let links = links.iter().filter(|link| link["ifname"] != "lo");
    let mut described: Vec<String> = links
        .map(|link| {
            let text = |name: &str| link[name].as_str().unwrap_or("-");
            let is_up = link["flags"]
                .as_array()
                .unwrap()
                .iter()
                .any(|flag| flag == "UP");
            format!(
                "{} link {} mtu {} address {} peer {} alias {}",
                text("ifname"),
                if is_up { "up" } else { "down" },
                link["mtu"],
                text("address"),
                text("link"),
                text("ifalias")
            )
        })
        .collect();
    // Listed from the newest to the oldest, or as they were hashed.
    described.sort();
    described
}

fn address(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (device, family, addr) = (words[1], words[2], words[3]);
    let scope = words.iter().skip_while(|word| **word != "scope").nth(1)?;
    (device != "lo").then(|| format!("{device} {family} {addr} scope {scope}"))
}

fn ip(node: &Namespace, arguments: &[&str]) -> Vec<String> {
    let output = node.command("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn indexes(node: &Namespace) -> Vec<u32> {
    let pair = ["fulcrum0", "fulcrum1"];
    node.run(|| {
        pair.map(|name| nix::net::if_::if_nametoindex(name).unwrap())
            .into()
    })
}

/// Every setting below `net` of every device and of the namespace, by path.
fn all_settings(node: &Namespace) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    node.run(|| {
        for root in ["ipv4", "ipv6"] {
            read_below(&Path::new("/proc/sys/net").join(root), &mut found);
        }
    });
    found
}

fn read_below(path: &Path, found: &mut BTreeMap<String, String>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            read_below(&entry.unwrap().path(), found);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        let name = path.strip_prefix("/proc/sys/net").unwrap().display();
        found.insert(name.to_string(), text.trim().to_owned());
    }
}

/// The settings that a veth pair of our names gets from the kernel.
fn of_a_plain_pair(
    node: &Namespace,
    before: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    node.ip(&["link add plain0 type veth peer name plain1".to_owned()])
        .unwrap();
    let all = all_settings(node);
    node.ip(&["link del plain0".to_owned()]).unwrap();
    let new = all
        .into_iter()
        .filter(|(path, _)| !before.contains_key(path));
    new.filter(|(path, _)| path.contains("/plain"))
        .map(|(path, value)| (path.replace("/plain", "/fulcrum"), value))
        .collect()
}

/// Settings that are not in both with the same value, with the value that they have now.
fn difference(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let is_new = |(path, value): &(&String, &String)| before.get(*path) != Some(*value);
    let mut changed: BTreeMap<String, String> = after
        .iter()
        .filter(is_new)
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect();
    let gone = before.keys().filter(|path| !after.contains_key(*path));
    changed.extend(gone.map(|path| (path.clone(), "gone".to_owned())));
    changed
}

/// From now on, this thread finds `/proc/sys` mounted read-only.
fn read_only_sysctls() {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let (none, path) = (None::<&str>, "/proc/sys");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(path), path, none, MsFlags::MS_BIND, none).unwrap();
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, path, none, read_only, none).unwrap();
}
