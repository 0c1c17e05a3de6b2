//! What the agent tells who started it and who asks whether it lives: sd-notify, `/healthz` and `/livez`.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    iter,
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use lb_tests::{
    balancer::{Balancer, Launch, Manifests},
    cgroup::ControlGroup,
    client,
    netns::require_root,
    place::Place,
    poll,
    topology::{Cluster, Config, Node},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);
/// Time that the service manager gives the agent between two signs of life, in microseconds.
const WATCHDOG_USEC: &str = "200000";
/// Many times as long as that.
const SEVERAL_FEEDS: Duration = Duration::from_secs(1);
/// kube-proxy's port.
const PORT: u16 = 10256;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
";

/// A node and a directory of manifests.
struct Scene {
    cluster: Cluster,
    manifests: TempDir,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![1],
            ..Config::default()
        };
        let scene = Self {
            cluster: Cluster::new(&config).unwrap(),
            manifests: tempfile::tempdir().unwrap(),
        };
        scene.write("web.yaml", WEB);
        scene
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.manifests.path().join(name);
        fs::write(path, text).unwrap();
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    fn start(&self, place: &Place, flags: &[&str], environment: &[(&str, &str)]) -> Balancer {
        let launch = Launch {
            place,
            manifests: Manifests::Path(self.manifests.path()),
            flags,
            environment,
            wrapper: &[],
        };
        Balancer::launch(self.node(), launch).unwrap()
    }

    /// Starts an agent that is told where a service manager is, and what it expects.
    fn start_under(&self, manager: &Manager, watchdog: &[(&str, &str)]) -> Balancer {
        let path = Manager::path(&manager.directory);
        let mut environment = watchdog.to_vec();
        environment.push(("NOTIFY_SOCKET", path.to_str().unwrap()));
        self.start(&Place::new().unwrap(), &[], &environment)
    }

    /// The status that the node says for a path, by both families, to the client outside.
    fn status(&self, path: &str) -> Vec<String> {
        let ask = |ip| -> anyhow::Result<String> {
            let mut stream = client::connect(SocketAddr::new(ip, PORT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
        };
        let client = &self.cluster.client.namespace;
        let addresses = self.node().addresses.both();
        client.run(|| addresses.map(ask).map(Result::unwrap).into())
    }
}

/// The unit as it is installed.
fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-user/dist/fulcrum.service");
    fs::read_to_string(path).unwrap()
}

/// What the unit says of a key, which must stand in it once.
fn setting(key: &str) -> String {
    let unit = unit();
    let values = unit.lines().filter_map(|line| line.split_once('='));
    let values: Vec<_> = values.filter(|(found, _)| *found == key).collect();
    let [(_, value)] = values[..] else {
        panic!("{key} stands {} times in the unit", values.len());
    };
    value.to_owned()
}

/// The service manager's end.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(Self::path(&directory)).unwrap();
        Self { socket, directory }
    }

    fn path(directory: &TempDir) -> PathBuf {
        directory.path().join("notify")
    }

    /// Waits for a line that begins like this; what comes before it is passed over.
    fn next(&self, prefix: &str) {
        self.all(&[prefix]);
    }

    /// Waits for lines that begin like these, in whichever order; what else comes is passed over.
    fn all(&self, prefixes: &[&str]) {
        let end = Instant::now() + poll::patiently(LIMIT);
        let mut missing = prefixes.to_vec();
        while !missing.is_empty() {
            let line = self.line_before(end);
            let line = line.unwrap_or_else(|| panic!("waited for {missing:?}"));
            missing.retain(|prefix| !line.starts_with(prefix));
        }
    }

    /// The next line, if one comes until then. Signs of life never cease, so a limit for each alone would be none.
    fn line_before(&self, end: Instant) -> Option<String> {
        let left = end.checked_duration_since(Instant::now());
        let left = left.filter(|left| !left.is_zero())?;
        self.socket.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    /// How often the watchdog is fed within so much time from now on.
    fn feeds_within(&self, time: Duration) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut [0; 1024]).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        let end = Instant::now() + time;
        let lines = iter::from_fn(|| self.line_before(end));
        lines.filter(|line| line.starts_with("WATCHDOG=1")).count()
    }
}

#[test]
fn the_service_manager_is_told_how_the_agent_fares() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let manager = Manager::new();
    let balancer = scene.start_under(&manager, &[("WATCHDOG_USEC", WATCHDOG_USEC)]);
    manager.next("READY=1");
    // A service more, while signs of life go on.
    scene.write("more.yaml", &WEB.replace("name: web", "name: more"));
    manager.next("STATUS=2 services, ");
    for _ in 0..3 {
        manager.next("WATCHDOG=1");
    }
    assert!(balancer.stop().unwrap().success());
    manager.next("STOPPING=1");
}

/// A shell that has what the agent says on its standard error relayed by a process, whose number it writes to the first
/// argument.
const RELAYED: &str = r#"relay=$1; shift; exec "$@" 2> >(echo "$BASHPID" >"$relay"; exec cat >&2)"#;

/// A process that is stopped; goes on when it is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).unwrap();
    }
}

/// Fills the pipe that is a process's standard error, so that its next word there waits.
fn fill_stderr(pid: u32) {
    let pipe = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/{pid}/fd/2"));
    let mut pipe = pipe.unwrap();
    while pipe.write(b"\n").is_ok() {}
}

/// Whether a thread of a process waits for its standard error to take what it writes.
fn waits_for_stderr(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let calls = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("syscall")));
    let write = format!("{} 0x2 ", libc::SYS_write);
    calls.flatten().any(|call| call.starts_with(&write))
}

#[test]
fn a_control_loop_that_is_stuck_does_not_feed_the_watchdog() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let manager = Manager::new();
    let relay = manager.directory.path().join("relay");
    let path = Manager::path(&manager.directory);
    let launch = Launch {
        place: &Place::new().unwrap(),
        manifests: Manifests::Path(scene.manifests.path()),
        flags: &[],
        environment: &[
            ("WATCHDOG_USEC", WATCHDOG_USEC),
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ],
        wrapper: &["bash", "-c", RELAYED, "bash", relay.to_str().unwrap()],
    };
    let balancer = Balancer::launch(scene.node(), launch).unwrap();
    manager.next("READY=1");
    manager.next("WATCHDOG=1");

    // What it is told to do it does, but it cannot say so.
    let relay: i32 = fs::read_to_string(relay).unwrap().trim().parse().unwrap();
    let stopped = Stopped::new(Pid::from_raw(relay));
    fill_stderr(balancer.pid());
    scene.write("more.yaml", &WEB.replace("name: web", "name: more"));
    poll::until(LIMIT, "the control loop to be stuck", || {
        Ok(waits_for_stderr(balancer.pid()).then_some(()))
    })
    .unwrap();
    assert_eq!(manager.feeds_within(SEVERAL_FEEDS), 0);

    // Who feeds and who tells what is served do not wait for each other.
    drop(stopped);
    manager.all(&["WATCHDOG=1", "STATUS=2 services, "]);
    assert!(balancer.stop().unwrap().success());
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_not_fed() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let manager = Manager::new();
    let watchdog = [("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")];
    let balancer = scene.start_under(&manager, &watchdog);
    assert!(balancer.stop().unwrap().success());
    let end = Instant::now() + poll::patiently(LIMIT);
    let mut lines = iter::from_fn(|| manager.line_before(end));
    let last = lines.find(|line| {
        assert!(!line.contains("WATCHDOG"), "{line}");
        line.contains("STOPPING=1")
    });
    assert!(last.is_some(), "it did not say that it ends");
}

#[test]
fn a_node_that_leaves_is_no_longer_eligible_though_the_agent_lives() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let balancer = scene.start(&place, &[], &[]);
    for (path, status) in [("/healthz", "200"), ("/livez", "200"), ("/other", "404")] {
        assert_eq!(scene.status(path), [status; 2], "{path}");
    }
    // Another agent of the node finds the port taken, says so, and serves all the same.
    let sibling = place.sibling("second");
    let flags = [
        "--host-device",
        "other",
        "--service-cidr",
        "10.97.0.0/24,fd00:10:97::/112",
    ];
    let second = scene.start(&sibling, &flags, &[]);
    let is_told = |status: &str| status.contains("cannot be served on 0.0.0.0:10256");
    let what = "the port that is taken";
    second
        .fulcrum_until(&["status"], LIMIT, what, is_told)
        .unwrap();
    assert!(!is_told(&balancer.fulcrum(&["status"]).unwrap()));

    let name = &scene.node().name;
    let leaving = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec:\n  taints:\n  - {{key: \
         ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}\n"
    );
    scene.write("node.yaml", &leaving);
    poll::until(LIMIT, "the node to say that it leaves", || {
        Ok((scene.status("/healthz") == ["503"; 2]).then_some(()))
    })
    .unwrap();
    assert_eq!(scene.status("/livez"), ["200"; 2]);
    // When the first one goes the other takes the port.
    assert!(balancer.stop().unwrap().success());
    second
        .fulcrum_until(&["status"], LIMIT, "the port that is free", |status| {
            !is_told(status)
        })
        .unwrap();
    assert_eq!(scene.status("/livez"), ["200"; 2]);
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    assert_eq!(setting("Type"), "notify");
    assert_eq!(setting("Restart"), "always");
    assert_eq!(setting("RuntimeDirectoryPreserve"), "yes");
    assert_eq!(setting("WatchdogSec"), "2min");
    assert_eq!(
        setting("ExecStart"),
        "/usr/bin/fulcrum run $FULCRUM_OPTIONS"
    );
    let directory = tempfile::tempdir().unwrap();
    // Whatever it starts must be there, and the manual is not installed here.
    let unit = unit().replace("/usr/bin/fulcrum", "/bin/true");
    let path = directory.path().join("fulcrum.service");
    fs::write(&path, unit).unwrap();
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(&path)
        .output();
    let Ok(verified) = verified else {
        eprintln!("not verified: there is no systemd-analyze");
        return;
    };
    // It says of what it does not know that it ignores it, and calls that a success.
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(
        verified.status.success() && !said.contains("fulcrum.service"),
        "{said}"
    );
}

#[test]
fn the_capabilities_of_the_unit_suffice() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let capabilities = setting("CapabilityBoundingSet").to_lowercase();
    let names = capabilities.split_whitespace();
    let names: Vec<_> = names.map(|name| name.trim_start_matches("cap_")).collect();
    let names = names.join(",+");
    let bounding = format!("--bounding-set=-all,+{names}");
    let inheritable = format!("--inh-caps=-all,+{names}");
    let wrapper = ["setpriv", "--no-new-privs", &bounding, &inheritable];
    let place = Place::new().unwrap();
    let group = ControlGroup::enter().unwrap();
    let [socket_lb, cgroup] = &group.flags();
    // The second one takes over what the first one has left.
    for _ in 0..2 {
        let launch = Launch {
            place: &place,
            manifests: Manifests::Path(scene.manifests.path()),
            flags: &["--mode", "xdp", socket_lb, cgroup],
            environment: &[],
            wrapper: &wrapper,
        };
        let balancer = Balancer::launch(scene.node(), launch).unwrap();
        let process = fs::read_to_string(format!("/proc/{}/status", balancer.pid())).unwrap();
        // CAP_NET_ADMIN is 12, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h).
        let effective = format!("CapEff:\t{:016x}\n", 1_u64 << 12 | 1 << 38 | 1 << 39);
        assert!(process.contains(&effective), "{process}");
        let log = balancer.log();
        for complaint in ["WARN", "ERROR", "not attached"] {
            assert!(!log.contains(complaint), "{log}");
        }
        assert!(log.contains("sockets of the node are met"), "{log}");
        assert_eq!(scene.status("/healthz"), ["200"; 2]);
        assert!(balancer.stop().unwrap().success());
    }
}
