//! Devices that come and go, by thousands if need be, and devices that refuse: what the agent makes of them, and that nothing
//! of it stays.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    collections::BTreeSet,
    fs, mem,
    path::PathBuf,
    time::{Duration, Instant},
};

use lb_tests::{
    balancer::{Balancer, Manifests},
    client, hooks, link,
    lone_backend::LoneBackend,
    manifest::{Manifest, Port, Service},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    topology::{Cluster, Config, Interconnect, Node, UPLINK, VXLAN},
    xdp_pass::XdpPass,
};
use serde_json::Value;

const WEB: &str = "10.96.0.10";
const LIMIT: Duration = Duration::from_secs(30);
/// Half of the time between two looks at all devices: who is faster was told. On an idle machine it is a few milliseconds.
const TOLD_WITHIN_MS: u128 = 1000;

/// With a service before the pod that answers.
struct Scene(LoneBackend);

impl Scene {
    fn new() -> Self {
        let scene = Self(LoneBackend::new(8080).unwrap());
        let web = Service {
            name: "web".to_owned(),
            cluster_ips: vec![WEB.parse().unwrap()],
            ports: vec![Port::new("TCP", 80, 8080)],
            selector: Some("web".to_owned()),
        };
        let manifest = Manifest::default().with(&web);
        manifest.write(&scene.0.path().join("web.yaml")).unwrap();
        scene
    }

    fn node(&self) -> &Node {
        self.0.node()
    }

    fn start(&self, place: &Place, flags: &[&str]) -> Balancer {
        let manifests = Manifests::Path(self.0.path());
        Balancer::start_at(place, self.node(), manifests, flags).unwrap()
    }

    fn expect_answer(asking: &Namespace) {
        let answer = asking.run(|| client::tcp_hit(format!("{WEB}:80").parse().unwrap()));
        assert_eq!(answer.unwrap(), "pod-1-2");
    }

    /// Makes devices of pods, all at once; the pods' ends are in a namespace that nobody else has.
    fn add_pods(&self, names: &[String], pods: &Namespace) {
        let commands = names.iter().enumerate().flat_map(|(number, name)| {
            let mac = format!("02:fc:09:00:{:02x}:{:02x}", number >> 8, number & 0xff);
            let peer = format!("eth{name}");
            let make = link::veth(name, &mac, &peer, pods, 1500);
            [make, format!("link set dev {name} up")]
        });
        self.node()
            .namespace
            .ip(&commands.collect::<Vec<_>>())
            .unwrap();
    }

    fn remove(&self, names: &[String]) {
        let commands = names.iter().map(|name| format!("link del {name}"));
        self.node()
            .namespace
            .ip(&commands.collect::<Vec<_>>())
            .unwrap();
    }

    /// Whether each of these devices has a program on its ingress.
    fn are_hooked(&self, names: &[String]) -> bool {
        let namespace = &self.node().namespace;
        let is_hooked = |name: &String| {
            hooks::at_ingress(namespace, name).is_ok_and(|programs| !programs.is_empty())
        };
        names.iter().all(is_hooked)
    }
}

/// What an agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    pins: BTreeSet<PathBuf>,
    n_files: usize,
    n_links: usize,
    n_programs: usize,
    n_maps: usize,
}

impl Held {
    /// The numbers of the whole kernel are of no use where others work at the same time, so they count by what the agent's files
    /// say.
    fn by(balancer: &Balancer) -> Self {
        let files = files(balancer);
        let of_kind = |kind: &str| files.iter().filter(|file| file.as_str() == kind).count();
        Self {
            pins: pins(balancer.place()),
            n_files: files.len(),
            n_links: of_kind("anon_inode:bpf_link"),
            n_programs: of_kind("anon_inode:bpf-prog"),
            n_maps: of_kind("anon_inode:bpf-map"),
        }
    }

    /// What is in both.
    fn less(&self, other: &Self) -> Self {
        Self {
            pins: self.pins.intersection(&other.pins).cloned().collect(),
            n_files: self.n_files.min(other.n_files),
            n_links: self.n_links.min(other.n_links),
            n_programs: self.n_programs.min(other.n_programs),
            n_maps: self.n_maps.min(other.n_maps),
        }
    }
}

/// What the agent's file descriptors lead to, without their numbers.
fn files(balancer: &Balancer) -> Vec<String> {
    let dir = fs::read_dir(format!("/proc/{}/fd", balancer.pid())).unwrap();
    // One may be closed while they are listed.
    let targets = dir.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let mut kinds: Vec<String> = targets
        .map(|target| {
            let target = target.display().to_string();
            target.split(":[").next().unwrap_or_default().to_owned()
        })
        .collect();
    kinds.sort();
    kinds
}

fn pins(place: &Place) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![place.bpffs()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path.clone());
            }
            found.insert(path);
        }
    }
    found
}

/// The memory of the agent that is no file's, kB.
fn memory(balancer: &Balancer) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", balancer.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

/// Milliseconds from a device's appearance to its programs, as the log says.
fn delays(log: &str) -> Vec<u128> {
    let lines = log.lines().filter(|line| line.contains("device attached"));
    let delays = lines.filter_map(|line| {
        let (_, rest) = line.split_once("after_ms=")?;
        rest.split_whitespace().next()?.parse().ok()
    });
    let mut delays: Vec<u128> = delays.collect();
    delays.sort_unstable();
    delays
}

fn percentile(sorted: &[u128], percent: usize) -> u128 {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn a_thousand_devices_that_come_and_go_leave_nothing() {
    const AT_ONCE: usize = 10;
    const ROUNDS: usize = 100;
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let pods = Namespace::anonymous("churn").unwrap();
    let balancer = scene.start(&Place::new().unwrap(), &["--log-level", "info"]);
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("lxcx{number}")).collect();
    let churn = || {
        scene.add_pods(&names, &pods);
        poll::until(LIMIT, "the programs on new devices", || {
            Ok(scene.are_hooked(&names).then_some(()))
        })
        .unwrap();
        scene.remove(&names);
    };
    let pins_before = pins(balancer.place());
    // What is made once and kept is made now.
    churn();
    poll::until(LIMIT, "the pins of devices that are gone to go", || {
        Ok((pins(balancer.place()) == pins_before).then_some(()))
    })
    .unwrap();
    let before = settled(&balancer);
    let mut memories = Vec::new();
    for round in 0..ROUNDS {
        churn();
        if round % (ROUNDS / 4) == 0 {
            memories.push(memory(&balancer));
            Scene::expect_answer(&scene.node().pods[0].namespace);
        }
    }
    poll::until(LIMIT, "everything to be given back", || {
        Ok((Held::by(&balancer) == before).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {before:?} became {:?}", Held::by(&balancer)));
    memories.push(memory(&balancer));
    // An allocator takes memory in steps, now and then; a leak would show in every part of the time.
    let steps = memories.windows(2);
    let grown = steps.map(|step| step[1].saturating_sub(step[0])).min();
    let grown = grown.unwrap();
    assert!(grown < 512, "it grows all the time, kB: {memories:?}");
    let delays = delays(&balancer.log());
    println!(
        "{} devices: programs after p50 {} ms, p99 {} ms, at most {} ms; memory {memories:?} kB",
        delays.len(),
        percentile(&delays, 50),
        percentile(&delays, 99),
        percentile(&delays, 100),
    );
    assert!(delays.len() >= ROUNDS * AT_ONCE, "{}", delays.len());
    assert!(percentile(&delays, 50) <= TOLD_WITHIN_MS, "{delays:?}");
}

/// What an agent holds when nothing is in flight: what it holds all the time, as long as that stays the same. Each of its looks
/// opens something for a moment.
fn settled(balancer: &Balancer) -> Held {
    /// Longer than the time between two looks at all devices.
    const WINDOW: Duration = Duration::from_secs(3);
    let mut before = None;
    let mut least = Held::by(balancer);
    let mut since = Instant::now();
    poll::until(LIMIT, "the agent to come to rest", || {
        least = least.less(&Held::by(balancer));
        if since.elapsed() < WINDOW {
            return Ok(None);
        }
        since = Instant::now();
        let held = mem::replace(&mut least, Held::by(balancer));
        let is_same = before.replace(held.clone()).as_ref() == Some(&held);
        Ok(is_same.then_some(held))
    })
    .unwrap()
}

#[test]
fn an_uplink_whose_xdp_slot_is_taken_is_served_by_tc_until_the_slot_is_free() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let node = &scene.node().namespace;
    let place = Place::new().unwrap();
    let taken = XdpPass::attach(node, UPLINK).unwrap();
    let balancer = scene.start(&place, &["--mode", "xdp"]);
    let reason = "another program has the device's XDP slot";
    let told = format!("tc (no native XDP: {reason}");
    let expect = |hooks: &str| {
        let is_wanted = |status: &str| {
            let mut lines = status.lines().filter(|line| line.starts_with(UPLINK));
            lines.any(|line| line.contains(hooks))
        };
        balancer
            .fulcrum_until(&["status"], LIMIT, hooks, is_wanted)
            .unwrap();
        Scene::expect_answer(&scene.node().pods[0].namespace);
    };
    expect(&told);
    let log = balancer.log();
    assert!(
        log.contains("no native XDP; TC alone serves the uplink"),
        "{log}"
    );
    assert_eq!(log.matches(reason).count(), 1, "said once: {log}");
    drop(taken);
    expect("tc+xdp");
    // Somebody takes it away while the agent runs.
    let pin = pins(&place).into_iter().find(|pin| {
        let name = pin.file_name().unwrap().to_string_lossy();
        name.starts_with("xdp_uplink-")
    });
    let detached = std::process::Command::new("bpftool")
        .args(["link", "detach", "pinned"])
        .arg(pin.unwrap())
        .output()
        .unwrap();
    assert!(detached.status.success(), "{detached:?}");
    let taken = XdpPass::attach(node, UPLINK).unwrap();
    expect(&told);
    drop(taken);
    expect("tc+xdp");
    assert!(balancer.stop().unwrap().success());
}

#[test]
fn an_uplink_that_refuses_native_xdp_is_served_by_tc() {
    if !require_root() {
        return;
    }
    let config = Config {
        pods: vec![1, 1],
        interconnect: Interconnect::Vxlan,
        ..Config::default()
    };
    let cluster = Cluster::new(&config).unwrap();
    let manifests = tempfile::tempdir().unwrap();
    let balancer =
        Balancer::start(&cluster.nodes[0], manifests.path(), &["--mode", "xdp"]).unwrap();
    let status = balancer.fulcrum(&["status"]).unwrap();
    let hooks = |device: &str| {
        let mut lines = status.lines().filter(|line| line.starts_with(device));
        lines.next().unwrap_or_default().to_owned()
    };
    assert!(hooks(UPLINK).contains("tc+xdp"), "{status}");
    assert!(hooks(VXLAN).contains("tc (no native XDP: "), "{status}");
    assert!(hooks(VXLAN).contains("Operation not supported"), "{status}");
    let json: Value =
        serde_json::from_str(&balancer.fulcrum(&["status", "-o", "json"]).unwrap()).unwrap();
    let devices = json["devices"].as_array().unwrap().iter();
    let refusing: Vec<_> = devices
        .filter(|device| device["no_xdp"].is_string())
        .map(|device| device["name"].as_str().unwrap())
        .collect();
    assert_eq!(refusing, [VXLAN]);
}

#[test]
fn events_that_are_lost_lead_to_a_look_at_everything() {
    /// Each event takes hundreds of bytes of a socket's buffer of 208 kB (`net.core.rmem_default`), which only a test of its own
    /// machine may change.
    const ADDRESSES: usize = 2000;
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let node = &scene.node().namespace;
    let pods = Namespace::anonymous("late").unwrap();
    let mut balancer = scene.start(&Place::new().unwrap(), &[]);
    let names: Vec<String> = (0..20).map(|number| format!("lxcy{number}")).collect();
    let gone: Vec<String> = (0..3).map(|number| format!("lxcz{number}")).collect();
    scene.add_pods(&gone, &pods);
    poll::until(LIMIT, "the programs on new devices", || {
        Ok(scene.are_hooked(&gone).then_some(()))
    })
    .unwrap();
    let address = |number: usize| format!("198.18.{}.{}", 100 + number / 250, 1 + number % 250);
    let commands = |verb: &str, numbers: std::ops::Range<usize>| -> Vec<String> {
        let addresses = numbers.map(address);
        addresses
            .map(|address| format!("addr {verb} {address}/32 dev lo"))
            .collect()
    };
    let frozen = balancer.freeze();
    node.ip(&commands("add", 0..ADDRESSES)).unwrap();
    node.ip(&["route del 10.96.0.0/12".to_owned()]).unwrap();
    scene.add_pods(&names, &pods);
    scene.remove(&gone);
    node.ip(&commands("del", 1..ADDRESSES)).unwrap();
    drop(frozen);
    poll::until(LIMIT, "the programs on devices that nobody told of", || {
        Ok(scene.are_hooked(&names).then_some(()))
    })
    .unwrap();
    let places = balancer
        .fulcrum_until(
            &["maps", "places4"],
            LIMIT,
            "the one address left",
            |text| text.contains(&address(0)) && !text.contains(&address(ADDRESSES - 1)),
        )
        .unwrap();
    let n_left = places
        .lines()
        .filter(|line| line.contains("198.18.1"))
        .count();
    assert!(n_left <= 1, "{places}");
    let status = balancer
        .fulcrum_until(&["status"], LIMIT, "devices to go", |status| {
            !status.contains("lxcz")
        })
        .unwrap();
    assert!(names.iter().all(|name| status.contains(name)), "{status}");
    // The route was put back, as the node's own processes see.
    Scene::expect_answer(node);
    let log = balancer.log();
    assert!(log.contains("were lost; all are listed anew"), "{log}");
}
