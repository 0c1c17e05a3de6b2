//! The agent as a program: several side by side, what the command line says about them, where manifests come from, and
//! what is left when an agent ends.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Output,
    time::Duration,
};

use aya::programs::loaded_programs;
use lb_common::abi::map;
use lb_tests::{
    balancer::{self, Balancer, Manifests},
    client::{self, Exchange, UdpMode},
    hooks,
    lone_backend::LoneBackend,
    manifest::{self, Manifest, Port, Service},
    netns::require_root,
    place::Place,
    poll,
    topology::{Node, UPLINK},
};
use serde_json::Value;

const PORT: u16 = 80;
const TARGET: u16 = 8080;
const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const OTHER: [&str; 2] = ["10.96.0.20", "fd00:10:96::14"];
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn two_agents_on_one_node_serve_each_their_own_services() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let start = |place: &Place, name, ips: [&str; 2], cidrs| {
        let text = scene.manifest(name, &ips);
        // One pair of devices each; a second agent that asks for the first one's is refused. And prefixes of its own:
        // whose prefix an address is in drops what is sent there and nobody has.
        let flags = ["--host-device", name, "--service-cidr", cidrs];
        Balancer::start_at(place, scene.node(), Manifests::Stdin(text.text()), &flags).unwrap()
    };
    let first = start(&place, "web", WEB, "10.96.0.0/28,fd00:10:96::/124");
    let second = start(
        &place.sibling("second"),
        "other",
        OTHER,
        "10.96.0.16/28,fd00:10:96::10/124",
    );
    for ips in [WEB, OTHER] {
        scene.expect_answers(ips);
    }
    for (balancer, own, others) in [(&first, "web", "other"), (&second, "other", "web")] {
        let services = balancer.fulcrum(&["get", "services"]).unwrap();
        assert!(
            services.contains(own) && !services.contains(others),
            "{services}"
        );
        assert_eq!(balancer.counters().unwrap()["open"], 4);
    }
    let place = first.place().clone();
    assert!(first.stop().unwrap().success());
    scene.expect_answers(OTHER);
    scene.expect_answers(WEB);
    // What one leaves is the other's no more than it was before.
    assert!(scene.cleanup(&place).status.success());
    scene.expect_answers(OTHER);
    scene.expect_nobody(WEB);
}

#[test]
fn a_second_agent_in_one_run_directory_is_refused_and_the_first_goes_on() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let first = scene.start(&Place::new().unwrap());
    let second = Balancer::start_at(
        first.place(),
        scene.node(),
        Manifests::Path(scene.path()),
        &[],
    );
    let error = format!("{:#}", second.unwrap_err());
    let expected = format!("an agent with process id {} runs in ", first.pid());
    assert!(
        error.contains(&expected) && error.contains("--run-dir"),
        "{error}"
    );
    scene.expect_answers(WEB);
}

#[test]
fn services_and_endpoints_are_shown_in_kubectls_columns_and_as_json() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&Place::new().unwrap());
    let shown = |arguments: &[&str]| without_age(&balancer.fulcrum(arguments).unwrap());
    assert_eq!(
        shown(&["get", "services"]),
        "\
NAME   TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)         AGE
web    ClusterIP   10.96.0.10   <none>        80/TCP,80/UDP   <age>
"
    );
    assert_eq!(
        shown(&["get", "endpoints", "web"]),
        "\
NAME   ENDPOINTS                           AGE
web    10.244.1.12:8080,10.244.1.12:8080   <age>
"
    );
    let named = |resource| {
        let list = json(&balancer, &["get", resource]);
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        list["items"][0]["metadata"]["name"].clone()
    };
    assert_eq!(named("services"), "web");
    assert_eq!(named("endpoints"), "web");
    let error = balancer
        .fulcrum(&["get", "services", "nosuch"])
        .unwrap_err();
    let expected = "services \"nosuch\" not found in namespace default";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn maps_and_counters_show_the_tables_in_the_kernel() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&Place::new().unwrap());
    scene.expect_answers(WEB);
    let text = balancer.fulcrum(&["maps"]).unwrap();
    let listed: Vec<&str> = text.lines().skip(1).filter_map(first_word).collect();
    assert_eq!(listed, map::ALL);
    let listed = json(&balancer, &["maps"]);
    assert_eq!(listed.as_array().unwrap().len(), map::ALL.len());
    for name in map::ALL {
        balancer.fulcrum(&["maps", name]).unwrap();
        assert!(json(&balancer, &["maps", name]).is_array(), "{name}");
    }
    for (name, address) in [("services4", WEB[0]), ("services6", WEB[1])] {
        let text = balancer.fulcrum(&["maps", name]).unwrap();
        let rows: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(rows.len(), 3, "TCP, UDP and all other ports:\n{text}");
        assert!(
            rows.iter()
                .all(|row| row.contains(address) && row.contains("default/web")),
            "{text}"
        );
    }
    let error = balancer
        .fulcrum(&["maps", "nosuch"])
        .unwrap_err()
        .to_string();
    assert!(error.contains("nosuch"), "{error}");
    let text = balancer.fulcrum(&["counters"]).unwrap();
    let open = text.lines().find(|line| line.starts_with("open "));
    assert!(
        open.is_some_and(|line| line.split_whitespace().nth(2) == Some("4")),
        "{text}"
    );
    assert!(!text.contains("drop_"), "what never happened: {text}");
}

#[test]
fn check_says_what_a_node_lacks_and_fails_only_then() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let check = || {
        let mut command = scene.node().namespace.command(balancer::binary().unwrap());
        command
            .args(place.flags())
            .args(["check", "--uplink", UPLINK]);
        command.output().unwrap()
    };
    let forward = |value| {
        let namespace = &scene.node().namespace;
        namespace.sysctl("net/ipv4/ip_forward", value).unwrap();
    };
    let output = check();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    forward("0");
    let output = check();
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output);
    let failed: Vec<&str> = text.lines().filter(|l| l.starts_with("fail")).collect();
    assert_eq!(failed.len(), 1, "{text}");
    assert!(
        failed[0].contains("IPv4 forwarding: off")
            && failed[0].ends_with("sysctl -w net.ipv4.ip_forward=1"),
        "{text}"
    );
    forward("1");
    assert_eq!(check().status.code(), Some(0));
}

#[test]
fn what_an_agent_has_made_goes_on_when_it_is_told_to_end_until_a_cleanup() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&Place::new().unwrap());
    let place = balancer.place().clone();
    scene.expect_answers(WEB);
    let programs = scene.programs();
    assert_eq!(programs.len(), 3, "the uplink's and one for each pod");
    let pins = place.bpffs().join("fulcrum");
    assert!(pins.is_dir() && place.run_dir().join("fulcrum.sock").exists());
    assert!(balancer.stop().unwrap().success());
    assert_eq!(scene.programs(), programs);
    scene.expect_answers(WEB);
    let tables = place.fulcrum(&["maps"]).unwrap();
    assert!(tables.status.success(), "{}", said(&tables));
    let output = place.fulcrum(&["get", "services"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("no agent answers on "),
        "{}",
        said(&output)
    );
    let cleanup = scene.cleanup(&place);
    assert!(cleanup.status.success(), "{}", said(&cleanup));
    assert!(!pins.exists(), "pins are left in {}", pins.display());
    assert!(!place.run_dir().join("fulcrum.sock").exists());
    assert_eq!(scene.programs(), [0; 0]);
    // The kernel frees programs when nobody can be running them any more.
    poll::until(LIMIT, "the programs to go", || {
        let loaded: Vec<u32> = loaded_programs()
            .map(|program| Ok(program?.id()))
            .collect::<anyhow::Result<_>>()?;
        let is_gone = programs.iter().all(|id| !loaded.contains(id));
        Ok(is_gone.then_some(()))
    })
    .unwrap();
    scene.expect_nobody(WEB);
}

#[test]
fn an_agent_takes_the_place_of_one_that_was_killed_with_programs_of_its_own() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let mut earlier = Vec::new();
    for _ in 0..3 {
        let balancer = scene.start(&place);
        scene.expect_answers(WEB);
        let programs = scene.programs();
        assert_eq!(programs.len(), 3, "those of the living agent alone");
        let is_new = programs.iter().all(|id| !earlier.contains(id));
        assert!(is_new, "{earlier:?} became {programs:?}");
        earlier = programs;
        balancer.kill().unwrap();
        scene.expect_answers(WEB);
    }
}

#[test]
fn what_others_take_off_a_device_is_put_back() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let balancer = scene.start(&Place::new().unwrap());
    let programs = scene.programs();
    let links = hooks::pins(balancer.place()).unwrap();
    let expected = if hooks::are_links() { 8 } else { 0 };
    assert_eq!(
        links.len(),
        expected,
        "two of each device, one of the pair and of lo: {links:?}"
    );
    let namespace = &scene.node().namespace;
    hooks::take_off(namespace, balancer.place(), &scene.devices()).unwrap();
    // They may be there again before anybody looks; so the agent must say that they were not.
    poll::until(LIMIT, "the programs to be put back", || {
        let is_said = balancer
            .log()
            .contains("the program was taken off the device; put back");
        Ok((is_said && scene.programs() == programs).then_some(()))
    })
    .unwrap();
    scene.expect_answers(WEB);
    poll::until(LIMIT, "the pins to be put back", || {
        Ok((hooks::pins(balancer.place())? == links).then_some(()))
    })
    .unwrap();
    // Pins that somebody removes take nothing off while the agent runs, and are there again when it ends.
    for link in &links {
        std::fs::remove_file(link).unwrap();
    }
    let place = balancer.place().clone();
    poll::until(LIMIT, "the pins to be put back", || {
        assert_eq!(scene.programs(), programs);
        Ok((hooks::pins(&place)? == links).then_some(()))
    })
    .unwrap();
    balancer.kill().unwrap();
    scene.expect_answers(WEB);
}

#[test]
fn manifests_may_be_json_or_lists_and_come_by_standard_input() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let object = |name: &str, ip: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}"}},
                "spec": {{"clusterIP": "{ip}", "ports": [{{"port": 80, "targetPort": 8080}}],
                          "selector": {{"app": "web"}}}}}}"#
        )
    };
    let pods = scene.0.pods();
    let one = object("one", "10.96.0.31");
    let list = format!(
        r#"{{"apiVersion": "v1", "kind": "List", "items": [{one}, {}]}}"#,
        object("two", "10.96.0.32")
    );
    manifest::replace(&scene.path().join("list.json"), &list).unwrap();
    let balancer = scene.start(&Place::new().unwrap());
    for ip in ["10.96.0.31", "10.96.0.32"] {
        scene.expect_answer(Exchange::Tcp, ip);
    }
    let place = balancer.place().clone();
    assert!(balancer.stop().unwrap().success());
    assert!(scene.cleanup(&place).status.success());
    let text = format!("{list}\n{}", pods.text());
    let place = Place::new().unwrap();
    let stdin = Manifests::Stdin(&text);
    let _balancer = Balancer::start_at(&place, scene.node(), stdin, &[]).unwrap();
    for ip in ["10.96.0.31", "10.96.0.32"] {
        scene.expect_answer(Exchange::Tcp, ip);
    }
}

#[test]
fn without_a_bpf_filesystem_the_agent_says_how_to_mount_one() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    let flags = ["--bpffs", path.as_str()];
    let output = {
        let mut command = scene.node().namespace.command(balancer::binary().unwrap());
        command.args(["run", "--uplink", UPLINK, "--run-dir"]);
        command.arg(dir.path().join("run"));
        command.arg("--manifests").arg(scene.path()).args(flags);
        command.output().unwrap()
    };
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("mount one by `mount -t bpf bpf {path}`");
    assert!(said(&output).contains(&expected), "{}", said(&output));
    assert_eq!(scene.programs(), [0; 0]);
}

#[test]
fn allocated_cluster_ips_stay_over_a_restart() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let place = Place::new().unwrap();
    let write = |names: &[&str]| {
        let services = names.iter().map(|name| service(name, &[]));
        let manifest = services.fold(Manifest::default(), |manifest, service| {
            manifest.with(&service)
        });
        manifest.write(&scene.path().join("web.yaml")).unwrap();
    };
    let addresses = |balancer: &Balancer| -> Vec<(String, [String; 2])> {
        let services = json(balancer, &["get", "services"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let services = services["items"].as_array().unwrap().iter();
        services
            .map(|row| {
                let ips = [0, 1].map(|family| text(&row["spec"]["clusterIPs"][family]));
                (text(&row["metadata"]["name"]), ips)
            })
            .collect()
    };
    write(&["b", "d"]);
    let balancer = scene.start(&place);
    let before = addresses(&balancer);
    assert_eq!(before.len(), 2);
    for (_, ips) in &before {
        scene.expect_answers([&ips[0], &ips[1]]);
    }
    balancer.kill().unwrap();
    // Newcomers before and between them, by name and in the file.
    write(&["a", "b", "c", "d"]);
    let balancer = scene.start(&place);
    let after = addresses(&balancer);
    assert_eq!(after.len(), 4);
    for (service, ips) in &after {
        scene.expect_answers([&ips[0], &ips[1]]);
        let old = before.iter().find(|(name, _)| name == service);
        assert!(
            old.is_none_or(|(_, old)| old == ips),
            "{before:?} {after:?}"
        );
    }
}

/// A pod that asks, one that answers, and a service before that.
struct Scene(LoneBackend);

impl Scene {
    fn new() -> Self {
        let scene = Self(LoneBackend::new(TARGET).unwrap());
        let web = Manifest::default().with(&service("web", &WEB));
        web.write(&scene.path().join("web.yaml")).unwrap();
        scene
    }

    fn node(&self) -> &Node {
        self.0.node()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn start(&self, place: &Place) -> Balancer {
        Balancer::start_at(place, self.node(), Manifests::Path(self.path()), &[]).unwrap()
    }

    /// A service before the pod that answers, in one document.
    fn manifest(&self, name: &str, ips: &[&str]) -> Manifest {
        self.0.pods().with(&service(name, ips))
    }

    /// One exchange of each protocol with each address: the pod answers.
    fn expect_answers(&self, ips: [&str; 2]) {
        for ip in ips {
            for exchange in [Exchange::Tcp, Exchange::Udp(UdpMode::Unconnected)] {
                self.expect_answer(exchange, ip);
            }
        }
    }

    fn expect_answer(&self, exchange: Exchange, ip: &str) {
        let asking = &self.node().pods[0].namespace;
        let answer = asking.run(|| client::hit(exchange, frontend(ip)));
        assert_eq!(answer.unwrap(), "pod-1-2", "{exchange} {ip}");
    }

    fn expect_nobody(&self, ips: [&str; 2]) {
        let asking = &self.node().pods[0].namespace;
        for ip in ips {
            // The kernel takes a program off a moment after its link's pin is gone.
            poll::until(LIMIT, "nobody to answer", || {
                let answer = asking.run(|| client::hit(Exchange::Tcp, frontend(ip)));
                Ok(answer.is_err().then_some(()))
            })
            .unwrap();
        }
    }

    /// `fulcrum cleanup` where the agents of this place ran.
    fn cleanup(&self, place: &Place) -> Output {
        place.cleanup(&self.node().namespace, &[]).unwrap()
    }

    /// The devices of the node's pods, and its uplink.
    fn devices(&self) -> Vec<&str> {
        let devices = self.node().pods.iter().map(|pod| pod.device.as_str());
        devices.chain([UPLINK]).collect()
    }

    /// The ids of the programs on them.
    fn programs(&self) -> Vec<u32> {
        let namespace = &self.node().namespace;
        let devices = self.devices().into_iter();
        devices
            .flat_map(|device| hooks::at_ingress(namespace, device).unwrap())
            .collect()
    }
}

fn service(name: &str, ips: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ["TCP", "UDP"]
            .map(|protocol| Port::new(protocol, PORT, TARGET))
            .into(),
        selector: Some("web".to_owned()),
    }
}

fn frontend(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse::<IpAddr>().unwrap(), PORT)
}

/// What a verb prints as JSON.
fn json(balancer: &Balancer, arguments: &[&str]) -> Value {
    let text = balancer.fulcrum(&[arguments, &["--output", "json"]].concat());
    serde_json::from_str(&text.unwrap()).unwrap()
}

/// A table whose last column, which depends on the hour, reads `<age>`.
fn without_age(table: &str) -> String {
    let (head, rows) = table.split_once('\n').unwrap();
    let rows = rows.lines().map(|row| {
        let (rest, _) = row.rsplit_once(' ').unwrap();
        format!("{rest} <age>\n")
    });
    format!("{head}\n{}", rows.collect::<String>())
}

fn first_word(line: &str) -> Option<&str> {
    line.split_whitespace().next()
}

fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(text).unwrap()
}
