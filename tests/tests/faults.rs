//! What the machine refuses an agent, at the start and while it runs: each is said, what worked goes on, and when the machine
//! gives in so does everything else.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use lb_common::abi::{Service as Entry, map};
use lb_tests::{
    balancer::{Balancer, Launch, Manifests},
    client, hooks, link,
    lone_backend::LoneBackend,
    manifest::{Manifest, Port, Service},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    topology::Node,
};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

const WEB: &str = "10.96.0.10";
const LATER: &str = "10.96.0.20";
const LIMIT: Duration = Duration::from_secs(30);
/// Makes `/proc/sys` read-only for the program that follows, in a mount namespace of its own.
const READ_ONLY_SYSCTLS: &str =
    "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";

/// With services before the pod that answers.
struct Scene(LoneBackend);

impl Scene {
    fn new() -> Self {
        let scene = Self(LoneBackend::new(8080).unwrap());
        scene.add_service("web", WEB);
        scene
    }

    fn node(&self) -> &Node {
        self.0.node()
    }

    fn add_service(&self, name: &str, ip: &str) {
        let service = Service {
            name: name.to_owned(),
            cluster_ips: vec![ip.parse().unwrap()],
            ports: vec![Port::new("TCP", 80, 8080)],
            selector: Some("web".to_owned()),
        };
        let path = self.0.path().join(format!("{name}.yaml"));
        Manifest::default().with(&service).write(&path).unwrap();
    }

    fn launch(&self, place: &Place, wrapper: &[&str]) -> anyhow::Result<Balancer> {
        self.launch_with(place, wrapper, &[])
    }

    fn launch_with(
        &self,
        place: &Place,
        wrapper: &[&str],
        flags: &[&str],
    ) -> anyhow::Result<Balancer> {
        let launch = Launch {
            place,
            manifests: Manifests::Path(self.0.path()),
            flags,
            environment: &[],
            wrapper,
        };
        Balancer::launch(self.node(), launch)
    }

    fn start(&self, place: &Place) -> Balancer {
        self.launch(place, &[]).unwrap()
    }

    fn ask(asking: &Namespace, ip: &str) -> anyhow::Result<String> {
        asking.run(|| client::tcp_hit(format!("{ip}:80").parse().unwrap()))
    }

    /// The first pod is answered by the second one.
    fn expect_answer(&self, ip: &str) {
        let answer = Self::ask(&self.node().pods[0].namespace, ip);
        assert_eq!(answer.unwrap(), "pod-1-2");
    }

    /// Whoever asks is answered by the second pod, sooner or later.
    fn expect_answer_soon(asking: &Namespace, ip: &str) {
        let what = format!("an answer at {ip}");
        let answer = || Ok(Self::ask(asking, ip).ok());
        assert_eq!(poll::until(LIMIT, &what, answer).unwrap(), "pod-1-2");
    }
}

fn wait_for_log(balancer: &Balancer, text: &str) {
    let is_said = || Ok(balancer.log().contains(text).then_some(()));
    let said = poll::until(LIMIT, text, is_said);
    said.unwrap_or_else(|error| panic!("{error:#}; the log:\n{}", balancer.log()));
}

/// The pins of links.
fn links(place: &Place) -> Vec<PathBuf> {
    let run_dirs = fs::read_dir(place.bpffs().join("fulcrum")).unwrap();
    let dirs = run_dirs.map(|dir| dir.unwrap().path().join("links"));
    let links = dirs.flat_map(|dir| fs::read_dir(dir).unwrap());
    links.map(|link| link.unwrap().path()).collect()
}

fn remount(place: &Place, flags: MsFlags) {
    let none = None::<&str>;
    mount(
        none,
        &place.bpffs(),
        none,
        MsFlags::MS_REMOUNT | flags,
        none,
    )
    .unwrap();
}

/// The pin of a table.
fn table(place: &Place, name: &str) -> PathBuf {
    let mut dirs = vec![place.bpffs().join("fulcrum")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.ends_with(Path::new("maps").join(name)) {
                return path;
            }
        }
    }
    panic!("{name} is not pinned");
}

/// The entries of IPv4 services, as bytes.
type Services = HashMap<MapData, [u8; 8], [u8; size_of::<Entry>()]>;

fn services(place: &Place) -> Services {
    let map = MapData::from_pin(table(place, map::SERVICES4)).unwrap();
    Map::HashMap(map).try_into().unwrap()
}

#[test]
fn a_read_only_bpf_filesystem_keeps_nothing_from_being_served_and_is_mended() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let balancer = scene.start(&place);
    let before = links(&place).len();
    remount(&place, MsFlags::MS_RDONLY);
    let pods = Namespace::anonymous("late").unwrap();
    let late = link::veth("lxcx1", "02:fc:09:00:00:01", "eth0", &pods, 1500);
    scene.node().namespace.ip(&[late]).unwrap();
    wait_for_log(&balancer, "device attached device=\"lxcx1\"");
    scene.add_service("later", LATER);
    Scene::expect_answer_soon(&scene.node().pods[0].namespace, LATER);
    let said = "cannot pin programs; those put on devices meanwhile go with the agent";
    assert_eq!(links(&place).len(), before);
    // Another agent cannot take its place, says why, and leaves all as it is.
    balancer.kill().unwrap();
    let error = scene.launch(&place, &[]).unwrap_err();
    assert!(
        format!("{error:#}").contains("Read-only file system"),
        "{error:#}"
    );
    scene.expect_answer(LATER);
    remount(&place, MsFlags::empty());
    let balancer = scene.start(&place);
    if !hooks::are_links() {
        // Programs are filters, which no pin holds.
        return;
    }
    remount(&place, MsFlags::MS_RDONLY);
    let late = link::veth("lxcx2", "02:fc:09:00:00:02", "eth1", &pods, 1500);
    scene.node().namespace.ip(&[late]).unwrap();
    wait_for_log(&balancer, said);
    assert_eq!(
        balancer.log().matches(said).count(),
        1,
        "{}",
        balancer.log()
    );
    remount(&place, MsFlags::empty());
    wait_for_log(&balancer, "programs can be pinned again");
    poll::until(LIMIT, "the programs to be pinned", || {
        Ok((links(&place).len() == before + 4).then_some(()))
    })
    .unwrap();
}

#[test]
fn without_the_right_to_raise_limits_the_agent_serves_under_small_ones() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let wrapper = [
        "prlimit",
        "--memlock=4096:4096",
        "setpriv",
        "--bounding-set=-sys_resource",
    ];
    let balancer = scene.launch(&place, &wrapper).unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", balancer.pid())).unwrap();
    let locked = limits
        .lines()
        .find(|line| line.starts_with("Max locked memory"));
    assert!(locked.unwrap().contains(" 4096 "), "{limits}");
    scene.expect_answer(WEB);
}

#[test]
fn read_only_sysctls_keep_pods_from_nothing_and_are_made_when_they_can_be() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let node = &scene.node().namespace;
    let wrapper = ["unshare", "--mount", "sh", "-c", READ_ONLY_SYSCTLS, "sh"];
    // The pair would be as it shall be where the system's defaults are what it needs.
    node.sysctl("net/ipv4/conf/default/rp_filter", "1").unwrap();
    let balancer = scene.launch(&Place::new().unwrap(), &wrapper).unwrap();
    scene.expect_answer(WEB);
    let complaint = "cannot set /proc/sys/net/ipv4/conf/fulcrum0/";
    let status = balancer.fulcrum(&["status"]).unwrap();
    assert!(status.contains(complaint), "{status}");
    let log = balancer.log();
    assert!(
        log.contains(complaint) && log.contains("mounted writable"),
        "{log}"
    );
    let remounted = Command::new("nsenter")
        .args(["--mount", "--target", &balancer.pid().to_string()])
        .args(["mount", "-o", "remount,bind,rw", "/proc/sys"])
        .output()
        .unwrap();
    assert!(remounted.status.success(), "{remounted:?}");
    balancer
        .fulcrum_until(&["status"], LIMIT, "the settings to be made", |status| {
            !status.contains(complaint)
        })
        .unwrap();
    assert!(balancer.log().contains("the pair is as it shall be again"));
    Scene::expect_answer_soon(node, WEB);
}

#[test]
fn entries_of_the_tables_that_others_remove_change_or_make_are_mended() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let balancer = scene.start(&place);
    scene.expect_answer(WEB);
    let mut entries = services(&place);
    let keys: Vec<[u8; 8]> = entries.keys().map(Result::unwrap).collect();
    for key in &keys {
        entries.remove(key).unwrap();
    }
    // Nobody who is not told of it would find it.
    Scene::expect_answer_soon(&scene.node().pods[0].namespace, WEB);
    wait_for_log(
        &balancer,
        "something had changed an entry of the tables; put back",
    );
    let log = balancer.log();
    assert!(log.contains("10.96.0.10:80/TCP of default/web"), "{log}");
    let is_counted = |status: &str| {
        let count = format!("service {}", keys.len());
        status.contains("put back what something else had removed or changed: ")
            && status.contains(&count)
    };
    balancer
        .fulcrum_until(&["status"], LIMIT, "what was put back", is_counted)
        .unwrap();
}

#[test]
fn a_table_that_others_fill_up_has_room_again() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let mut balancer = scene.start(&place);
    let mut entries = services(&place);
    let frozen = balancer.freeze();
    let strange = (0_u32..).map(|number| {
        [[198, 18], [0; 2]]
            .concat()
            .into_iter()
            .chain(number.to_be_bytes())
    });
    let mut n_made = 0;
    for key in strange {
        let key: Vec<u8> = key.collect();
        let key: [u8; 8] = key.try_into().unwrap();
        if entries.insert(key, [1; size_of::<Entry>()], 0).is_err() {
            break;
        }
        n_made += 1;
    }
    assert!(n_made > 1000, "{n_made}");
    scene.add_service("later", LATER);
    drop(frozen);
    Scene::expect_answer_soon(&scene.node().pods[0].namespace, LATER);
    scene.expect_answer(WEB);
    wait_for_log(
        &balancer,
        "something had made an entry of the tables; removed",
    );
    poll::until(LIMIT, "the strange entries to go", || {
        let n_left = entries.keys().count();
        Ok((n_left < 20).then_some(()))
    })
    .unwrap();
}

/// From Linux 6.2 on beginning a program does.
fn leads_into_time_namespace(wrapper: &[&str]) -> bool {
    let namespace = Path::new("/proc/self/ns/time");
    let mut question = Command::new(wrapper[0]);
    let question = question.args(&wrapper[1..]).arg("readlink").arg(namespace);
    let output = question.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let theirs = String::from_utf8(output.stdout).unwrap();
    Path::new(theirs.trim()) != fs::read_link(namespace).unwrap()
}

#[test]
fn in_a_time_namespace_flows_are_as_old_as_they_are() {
    if !require_root() {
        return;
    }
    let wrapper = ["unshare", "--time", "--monotonic=1000000"];
    if !leads_into_time_namespace(&wrapper) {
        println!("not tested: on this kernel no program begins in a time namespace but a child's");
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let earlier = scene.start(&place);
    let _connected = scene.node().pods[0].namespace.run(|| {
        let web = SocketAddr::new(WEB.parse().unwrap(), 80);
        TcpStream::connect_timeout(&web, LIMIT).unwrap()
    });
    assert!(earlier.stop().unwrap().success());
    let balancer = scene.launch(&place, &wrapper).unwrap();
    let is_counted = |status: &str| {
        let status: Value = serde_json::from_str(status).unwrap();
        let tables = status["flows"]["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["family"] == "IPv4");
        table.is_some_and(|table| table["established"] == 2 && table["expired"] == 0)
    };
    let question = ["status", "-o", "json"];
    let what = "both directions of the connection to be counted as established";
    balancer
        .fulcrum_until(&question, LIMIT, what, is_counted)
        .unwrap();
}

/// A control group with a limit of memory, of either version; gone with its value.
struct Group(PathBuf);

impl Group {
    /// None where this machine has no controller for memory that a test can use.
    fn limited(bytes: u64) -> Option<Self> {
        let name = format!("fc-{}", std::process::id());
        let kinds = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        for (root, limit) in kinds {
            let group = Self(Path::new(root).join(&name));
            if fs::create_dir(&group.0).is_ok()
                && fs::write(group.0.join(limit), bytes.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        None
    }

    fn wrapper(&self) -> [String; 4] {
        let procs = self.0.join("cgroup.procs");
        let enter = format!("echo $$ > {} && exec \"$@\"", procs.display());
        ["sh", "-c", &enter, "sh"].map(str::to_owned)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_control_group_without_the_memory_for_tables_is_named_and_nothing_stays() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    // More than the agent takes, and less than its tables would.
    let Some(group) = Group::limited(400 << 20) else {
        println!("not tested: no control group can have a limit of memory here");
        return;
    };
    let wrapper = group.wrapper();
    let wrapper = wrapper.each_ref().map(String::as_str);
    let place = Place::new().unwrap();
    let flags = ["--flow-table-size=4194304"];
    let error = scene.launch_with(&place, &wrapper, &flags).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("Cannot allocate memory"), "{text}");
    println!("{}", text.lines().last().unwrap_or_default());
    let left = fs::read_dir(place.bpffs().join("fulcrum")).unwrap();
    assert_eq!(left.count(), 0);
    // By default its tables follow the limit.
    let balancer = scene.launch(&place, &wrapper).unwrap();
    scene.expect_answer(WEB);
    assert!(balancer.stop().unwrap().success());
    assert!(
        place
            .cleanup(&scene.node().namespace, &[])
            .unwrap()
            .status
            .success()
    );
}
