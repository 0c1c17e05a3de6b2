//! Readiness without a kubelet: the agents ask the pods themselves (`--probe`), endpoints come and go with the answers, and
//! health check ports tell load balancers outside which node has some.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use lb_tests::{
    client,
    deployment::Deployment,
    manifest::Manifest,
    netns::{Namespace, require_root},
    poll,
    server::Server,
    topology::{Cluster, Config, Node},
};

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// Where pods say whether they are ready.
const PROBED: u16 = 8090;
const HEALTH: u16 = 32_100;
const IPS: [&str; 2] = ["10.96.0.30", "fd00:10:96::30"];
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn pods_are_endpoints_while_they_say_that_they_are_ready() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config::default()).unwrap();
    let pods: Vec<_> = cluster.pods().collect();
    let signals: Vec<Signal> = pods
        .iter()
        .map(|(_, pod)| Signal::start(&pod.namespace))
        .collect();
    let _servers: Vec<Server> = pods
        .iter()
        .map(|(_, pod)| Server::hostname(&pod.namespace, &pod.name, TARGET).unwrap())
        .collect();
    let endpoints = |is_meant: &dyn Fn(usize) -> bool| {
        let meant = pods.iter().enumerate().filter(|(at, _)| is_meant(*at));
        let ips = meant.flat_map(|(_, (_, pod))| pod.addresses.both());
        let endpoint = |ip| SocketAddr::new(ip, TARGET).to_string();
        ips.map(endpoint).collect::<Vec<_>>()
    };
    let (all, but_first) = (endpoints(&|_| true), endpoints(&|at| at != 0));
    let none_of_first_node = endpoints(&|at| pods[at].0.number != pods[0].0.number);
    let first_node = pods[0].0.number;
    let local: Vec<usize> = (0..pods.len())
        .filter(|at| pods[*at].0.number == first_node)
        .collect();
    let n_local = local.len();
    let manifest = manifest(&cluster, "Local");
    drop(pods);
    let deployment = Deployment::start(cluster, &manifest, &["--probe"]).unwrap();

    // The status says that no pod is ready: what follows is the probes' doing.
    deployment.wait_for_endpoints("web", &all).unwrap();
    expect_health(&deployment, 0, n_local).unwrap();
    expect_answers(&deployment, true);

    signals[0].set(false);
    deployment.wait_for_endpoints("web", &but_first).unwrap();
    expect_health(&deployment, 0, n_local - 1).unwrap();
    expect_shown(&deployment, "False").unwrap();
    signals[0].set(true);
    deployment.wait_for_endpoints("web", &all).unwrap();
    expect_health(&deployment, 0, n_local).unwrap();
    expect_shown(&deployment, "True").unwrap();

    // A node without ready pods turns balancers away; the other one does not.
    for at in &local {
        signals[*at].set(false);
    }
    deployment
        .wait_for_endpoints("web", &none_of_first_node)
        .unwrap();
    expect_health(&deployment, 0, 0).unwrap();
    expect_health(&deployment, 1, signals.len() - n_local).unwrap();
    expect_answers(&deployment, true);

    for signal in &signals {
        signal.set(false);
    }
    deployment.wait_for_endpoints("web", &[]).unwrap();
    expect_answers(&deployment, false);
}

#[test]
fn health_check_ports_follow_the_policy() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config::default()).unwrap();
    let n_local = cluster.nodes[0].pods.len();
    let [local, shared] = ["Local", "Cluster"].map(|policy| {
        // Without `--probe` the status decides.
        let text = manifest(&cluster, policy);
        text.text().replace("\"False\"", "\"True\"")
    });
    let deployment = Deployment::start(cluster, &Manifest::default(), &[]).unwrap();
    for _ in 0..2 {
        deployment.write_file("web.yaml", &local).unwrap();
        expect_health(&deployment, 0, n_local).unwrap();
        deployment.write_file("web.yaml", &shared).unwrap();
        let client = &deployment.cluster.client.namespace;
        poll::until(LIMIT, "the port to be closed", || {
            let answer = client.run(|| asked(health_port(&deployment.cluster.nodes[0])));
            Ok(answer.is_err().then_some(()))
        })
        .unwrap();
    }
}

/// What a pod says when it is asked whether it is ready; yes at first. Serves as long as the test's process.
struct Signal(Arc<AtomicBool>);

impl Signal {
    fn start(namespace: &Namespace) -> Self {
        let is_ready = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&is_ready);
        let listener = namespace.run(|| TcpListener::bind(("::", PROBED)).unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who went away needs no answer.
                let _ = answer(stream, asked.load(Ordering::SeqCst));
            }
        });
        Self(is_ready)
    }

    fn set(&self, is_ready: bool) {
        self.0.store(is_ready, Ordering::SeqCst);
    }
}

fn answer(mut stream: TcpStream, is_ready: bool) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.extend(byte);
    }
    let is_asked = request.starts_with(b"GET /ready HTTP/1.1\r\n");
    let status = if is_asked && is_ready { 200 } else { 503 };
    let head = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())
}

/// A service of all pods, which have a probe, and a status that says that they are not ready.
fn manifest(cluster: &Cluster, policy: &str) -> Manifest {
    let health = match policy {
        "Local" => format!("  healthCheckNodePort: {HEALTH}\n"),
        _ => String::new(),
    };
    let [v4, v6] = IPS;
    let service = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: LoadBalancer
  externalTrafficPolicy: {policy}
{health}  ipFamilyPolicy: RequireDualStack
  clusterIP: {v4}
  clusterIPs: [{v4}, \"{v6}\"]
  selector: {{app: web}}
  ports: [{{port: {PORT}, targetPort: {TARGET}, nodePort: 30880}}]
"
    );
    let pods = cluster.pods().map(|(node, pod)| {
        let [v4, v6] = pod.addresses.both();
        format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {}, labels: {{app: web}}}}
spec:
  nodeName: {}
  containers:
  - name: server
    ports: [{{name: probed, containerPort: {PROBED}}}]
    readinessProbe:
      httpGet: {{path: /ready, port: probed}}
      periodSeconds: 1
      failureThreshold: 1
      timeoutSeconds: 5
status:
  phase: Running
  podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]
  conditions: [{{type: Ready, status: \"False\"}}]
",
            pod.name, node.name
        )
    });
    pods.fold(Manifest::default().with(&service), |manifest, pod| {
        manifest.with(&pod)
    })
}

fn health_port(node: &Node) -> [SocketAddr; 2] {
    node.addresses.both().map(|ip| SocketAddr::new(ip, HEALTH))
}

/// Waits until the client outside is told on the health check port of this node that it has so many pods, by both
/// families. Each pod has two addresses.
fn expect_health(deployment: &Deployment, node: usize, n_pods: usize) -> Result<()> {
    let cluster = &deployment.cluster;
    let n_local = 2 * n_pods;
    let status = if n_local > 0 { 200 } else { 503 };
    let mut last = String::new();
    let what = format!("node {node} to have {n_local} endpoints");
    let told = poll::until(LIMIT, &what, || {
        let asked = cluster
            .client
            .namespace
            .run(|| asked(health_port(&cluster.nodes[node])));
        let Ok(answers) = asked else { return Ok(None) };
        last = answers.join("\n");
        let is_wanted = |answer: &String| {
            answer.starts_with(&format!("HTTP/1.1 {status} "))
                && answer.contains(&format!("x-load-balancing-endpoint-weight: {n_local}\r\n"))
                && answer.contains(&format!("\"localEndpoints\":{n_local}"))
        };
        Ok(answers.iter().all(is_wanted).then_some(()))
    });
    told.with_context(|| last)
}

fn asked(addresses: [SocketAddr; 2]) -> Result<Vec<String>> {
    let ask = |address| {
        let mut stream = client::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    addresses.into_iter().map(ask).collect()
}

/// Whether a pod reaches the service.
fn expect_answers(deployment: &Deployment, is_served: bool) {
    let pod = &deployment.cluster.nodes[0].pods[0].namespace;
    for ip in IPS {
        let ip: IpAddr = ip.parse().unwrap();
        let address = SocketAddr::new(ip, PORT);
        poll::until(LIMIT, "the tables to follow", || {
            let hit = pod.run(|| client::tcp_hit(address));
            Ok((hit.is_ok() == is_served).then_some(()))
        })
        .unwrap();
    }
}

/// What a listing says of the first pod.
fn expect_shown(deployment: &Deployment, status: &str) -> Result<()> {
    let balancer = &deployment.balancers[0];
    let name = &deployment.cluster.nodes[0].pods[0].name;
    let arguments = ["get", "pods", name, "-o", "json"];
    let what = format!("{name} to be shown as ready: {status}");
    balancer.fulcrum_until(&arguments, LIMIT, &what, |text| {
        let pod: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let ready = &pod["status"]["conditions"][0];
        ready["type"] == "Ready" && ready["status"] == status
    })?;
    let table = balancer.fulcrum(&["get", "pods", name])?;
    let column = if status == "True" { "1/1" } else { "0/1" };
    anyhow::ensure!(table.contains(column), "{table}");
    Ok(())
}
