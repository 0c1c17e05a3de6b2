//! What the command line says about a live agent: `get`, `describe` and `get --watch`, and who may ask.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use lb_tests::{
    balancer::{self, Balancer, Manifests},
    manifest,
    netns::require_root,
    place::Place,
    topology::{Cluster, Config},
};
use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(20);

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {team: a}, creationTimestamp: 2024-01-01T00:00:00Z}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: old, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {clusterIP: 10.96.0.50, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: legacy, namespace: old, creationTimestamp: 2024-01-01T00:00:00Z}
subsets: [{addresses: [{ip: 192.0.2.10}], ports: [{port: 8000}]}]
";

fn pod(number: u8, ready: bool) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: web-{number}, labels: {{app: web}}, creationTimestamp: 2024-01-01T00:00:00Z}}
spec: {{nodeName: node-1, containers: [{{name: c, image: nginx, ports: [{{name: http, containerPort: 8080}}]}}]}}
status: {{phase: Running, podIP: 10.244.1.{number}, conditions: [{{type: Ready, status: '{}'}}]}}
",
        if ready { "True" } else { "False" }
    )
}

/// An agent on a node, and its directory of manifests.
struct Scene {
    balancer: Balancer,
    place: Place,
    manifests: TempDir,
    _cluster: Cluster,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::new(&Config {
            pods: vec![1],
            ..Config::default()
        })
        .unwrap();
        let manifests = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            manifest::replace(&manifests.path().join(file), text).unwrap();
        };
        write("web.yaml", WEB);
        write("pods.yaml", &[pod(1, true), pod(2, true)].concat());
        let place = Place::new().unwrap();
        let path = Manifests::Path(manifests.path());
        let cidrs = ["--service-cidr", "10.96.0.0/16,fd00:10:96::/112"];
        let balancer = Balancer::start_at(&place, &cluster.nodes[0], path, &cidrs).unwrap();
        Self {
            balancer,
            place,
            manifests,
            _cluster: cluster,
        }
    }

    fn write(&self, file: &str, text: &str) {
        manifest::replace(&self.manifests.path().join(file), text).unwrap();
    }

    fn said(&self, arguments: &[&str]) -> String {
        self.balancer.fulcrum(arguments).unwrap()
    }

    /// What fails.
    fn refused(&self, arguments: &[&str]) -> String {
        let Output { status, stderr, .. } = self.place.fulcrum(arguments).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
        String::from_utf8(stderr).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.said(&[arguments, &["-o", "json"]].concat())).unwrap()
    }
}

#[test]
fn a_service_without_an_address_is_shown_with_the_one_it_was_given() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let service = scene.json(&["get", "svc", "web"]);
    assert_eq!(service["kind"], "Service");
    let ips: Vec<&str> = service["spec"]["clusterIPs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|ip| ip.as_str().unwrap())
        .collect();
    assert!(
        ips[0].starts_with("10.96.") && ips[1].starts_with("fd00:10:96::"),
        "{ips:?}"
    );
    let table = scene.said(&["get", "services"]);
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    let columns: Vec<&str> = header.split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "NAME",
            "TYPE",
            "CLUSTER-IP",
            "EXTERNAL-IP",
            "PORT(S)",
            "AGE"
        ]
    );
    let row: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        row[..5],
        ["web", "ClusterIP", ips[0], "<none>", "80/TCP,53/UDP"]
    );
    assert_eq!(lines.next(), None, "the other one is in another namespace");
    let description = scene.said(&["describe", "service", "web"]);
    for line in [
        "Name:                     web".to_owned(),
        "Selector:                 app=web".to_owned(),
        format!("IP:                       {}", ips[0]),
        format!("IPs:                      {}", ips.join(",")),
        "Port:                     http  80/TCP".to_owned(),
        "TargetPort:               http/TCP".to_owned(),
        "Endpoints:                10.244.1.1:8080,10.244.1.2:8080".to_owned(),
        "Session Affinity:         None".to_owned(),
        "Events:                   <none>".to_owned(),
    ] {
        assert!(
            description.lines().any(|it| it == line),
            "{line}\n\n{description}"
        );
    }
}

/// A service with the policy Local, an endpoint on this node, and one on `node-2`.
fn local(node: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: local}}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  clusterIP: 10.96.0.77
  ports: [{{port: 80, nodePort: 30077}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: local-1, labels: {{kubernetes.io/service-name: local}}}}
addressType: IPv4
ports: [{{port: 8080}}]
endpoints:
- {{addresses: [10.244.1.1], nodeName: {node}}}
- {{addresses: [10.244.2.1], nodeName: node-2}}
"
    )
}

#[test]
fn describe_says_which_endpoints_each_address_uses_on_this_node_and_why() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    // All of them: by its name it would be missing at first.
    let arguments = ["describe", "svc"];
    for (node, wanted) in [
        (
            "node-1",
            [
                "10.96.0.77:80 cluster-ip cluster (2 of 2) cluster (2 of 2)",
                "198.18.0.1:30077 node-port cluster (2 of 2) external-local (1 of 2)",
                "10.244.1.1:8080 <none> node-1 cluster, external-local <none>",
                "10.244.2.1:8080 <none> node-2 cluster external-local: on node node-2; the policy Local keeps to node-1",
            ],
        ),
        (
            "node-2",
            [
                "10.96.0.77:80 cluster-ip cluster (2 of 2) cluster (2 of 2)",
                "198.18.0.1:30077 node-port cluster (2 of 2) external-local: dropped, all are elsewhere",
                "10.244.1.1:8080 <none> node-2 cluster external-local: on node node-2; the policy Local keeps to node-1",
                "10.244.2.1:8080 <none> node-2 cluster external-local: on node node-2; the policy Local keeps to node-1",
            ],
        ),
    ] {
        scene.write("local.yaml", &local(node));
        let has_all = |text: &str| {
            let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            let lines: Vec<String> = text.lines().map(words).collect();
            text.contains("\nOn this node (node-1):\n  Port 80/TCP, IPv4:\n")
                && wanted.iter().all(|it| lines.iter().any(|line| line == it))
        };
        let what = format!("the choice with an endpoint on {node}: {wanted:#?}");
        scene
            .balancer
            .fulcrum_until(&arguments, LIMIT, &what, has_all)
            .unwrap();
    }
}

#[test]
fn every_kind_is_shown_by_any_of_its_names_and_in_every_form() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let names = |arguments: &[&str]| scene.said(&[arguments, &["-o", "name"]].concat());
    assert_eq!(names(&["get", "po"]), "pod/web-1\npod/web-2\n");
    assert_eq!(
        names(&["get", "ep", "-A"]),
        "endpoints/web\nendpoints/legacy\n"
    );
    assert_eq!(
        names(&["get", "svc,endpoints", "-n", "old"]),
        "service/legacy\nendpoints/legacy\n"
    );
    assert_eq!(
        names(&["get", "pod/web-2", "svc/web"]),
        "pod/web-2\nservice/web\n"
    );
    assert_eq!(
        names(&["get", "svc", "-A", "-l", "team in (a, b)"]),
        "service/web\n"
    );
    let slices = scene.json(&["get", "endpointslices"]);
    assert_eq!(
        slices["items"][0]["endpoints"][0]["addresses"][0],
        "10.244.1.1"
    );
    let table = scene.said(&["get", "ep", "-A", "--no-headers"]);
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows[1][..3],
        ["old", "legacy", "192.0.2.10:8000"],
        "{table}"
    );
    let text = scene.said(&["get", "svc", "-A", "-o", "yaml"]);
    assert!(
        text.starts_with("apiVersion: v1\nitems:\n- apiVersion: v1\n"),
        "{text}"
    );
    let described = scene.said(&["describe", "po", "web"]);
    let names: Vec<&str> = described
        .split("\n\n\n")
        .filter_map(|text| text.lines().next()?.split_whitespace().last())
        .collect();
    assert_eq!(names, ["web-1", "web-2"], "{described}");
}

#[test]
fn what_is_not_there_is_an_error_that_says_where_it_was_looked_for() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    for (arguments, message) in [
        (
            &["get", "svc", "web", "nosuch"][..],
            "error: services \"nosuch\" not found in namespace default\n",
        ),
        (
            &["get", "svc/legacy", "-n", "new"],
            "error: services \"legacy\" not found in namespace new\n",
        ),
        (&["get", "node", "n9"], "error: nodes \"n9\" not found\n"),
        (
            &["describe", "pod", "nosuch"],
            "error: pods \"nosuch\" not found in namespace default\n",
        ),
        (
            &["get", "servics"],
            "error: there are no objects of type \"servics\" (did you mean `service`?); there are ",
        ),
        (
            &["get", "svc,ep", "-w"],
            "error: only objects of one type can be watched",
        ),
    ] {
        let said = scene.refused(arguments);
        assert!(said.starts_with(message), "{arguments:?}: {said}");
    }
    let Output {
        stdout,
        stderr,
        status,
    } = scene.place.fulcrum(&["get", "svc", "-n", "new"]).unwrap();
    assert!(status.success() && stdout.is_empty());
    assert_eq!(
        String::from_utf8(stderr).unwrap(),
        "No resources found in new namespace.\n"
    );
}

#[test]
fn a_watch_shows_what_changes_until_it_is_interrupted() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let mut watch = Watch::new(&scene, &["get", "endpoints", "web", "-w"]);
    assert_eq!(watch.words()[..2], ["NAME", "ENDPOINTS"]);
    let both = "10.244.1.1:8080,10.244.1.2:8080,10.244.1.1:53 + 1 more...";
    assert!(watch.line().contains(both));
    scene.write("pods.yaml", &[pod(1, true), pod(2, false)].concat());
    assert_eq!(watch.words()[1], "10.244.1.1:8080,10.244.1.1:53");
    // Another service is not what is watched.
    scene.write(
        "other.yaml",
        &WEB.replace("name: web", "name: other")
            .replace("legacy", "l2")
            .replace("10.96.0.50", "10.96.0.51"),
    );
    scene.write("pods.yaml", &pod(2, true));
    assert_eq!(watch.words()[1], "10.244.1.2:8080,10.244.1.2:53");
    scene.write("web.yaml", "# nothing\n");
    assert_eq!(
        watch.words()[..2],
        ["web", "10.244.1.2:8080,10.244.1.2:53"],
        "as it was when it went"
    );
    drop(scene.balancer);
    let status = watch.child.wait().unwrap();
    assert_eq!(status.code(), Some(1), "no agent tells any more");
}

#[test]
fn only_root_may_ask_and_another_version_is_told_both() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let path = scene.place.run_dir().join("fulcrum.sock");
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
        .write_all(b"{\"version\":1,\"get\":\"services\"}\n")
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let reply: Value = serde_json::from_str(&said).unwrap();
    let error = reply["error"].as_str().unwrap();
    assert!(
        error.contains("speaks version 2 of the protocol, not 1"),
        "{error}"
    );
}

/// A command that goes on, and its lines.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watch {
    fn new(scene: &Scene, arguments: &[&str]) -> Self {
        let mut child = Command::new(balancer::binary().unwrap())
            .args(scene.place.flags())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (lines_in, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if lines_in.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).unwrap()
    }

    fn words(&self) -> Vec<String> {
        let line = self.line();
        line.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
