//! `fulcrum flows`: real connections as they are listed, and what becomes of those that are taken out.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use lb_tests::{
    balancer::Balancer,
    client::{self, UdpMode},
    deployment::Deployment,
    manifest::{Manifest, Port, Service},
    netns::{Namespace, require_root},
    place::Place,
    poll,
    server::Server,
    topology::{Cluster, Config},
};
use serde_json::Value;

const PORT: u16 = 80;
const TARGET: u16 = 8080;
/// Served by a pod of the same node, and by one of another.
const WEB: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const DB: [&str; 2] = ["10.96.0.20", "fd00:10:96::14"];
const LIMIT: Duration = Duration::from_secs(20);
/// Nothing came in this time: nothing comes.
const SILENCE: Duration = Duration::from_millis(500);

/// A connection that has a place is open in this time.
const AT_ONCE: Duration = Duration::from_millis(100);

struct Scene {
    deployment: Deployment,
    _servers: Vec<Server>,
}

impl Scene {
    fn new() -> Self {
        let config = Config {
            pods: vec![2, 1],
            ..Config::default()
        };
        let cluster = Cluster::new(&config).unwrap();
        let servers = cluster.pods();
        let servers = servers
            .map(|(_, pod)| Server::echo(&pod.namespace, TARGET).unwrap())
            .collect();
        let manifest = Manifest::default()
            .with(&service("web", WEB))
            .with_pods_of(&cluster, &["pod-1-1"], "web")
            .with(&service("db", DB))
            .with_pods_of(&cluster, &["pod-2-1"], "db");
        let deployment = Deployment::start(cluster, &manifest, &[]).unwrap();
        Self {
            deployment,
            _servers: servers,
        }
    }

    fn client(&self) -> &Namespace {
        &self.deployment.cluster.nodes[0].pods[1].namespace
    }

    fn agent(&self) -> &Balancer {
        &self.deployment.balancers[0]
    }

    /// What is listed with these flags.
    fn list(&self, flags: &[&str]) -> Vec<Value> {
        let arguments = [&["flows", "-o", "json"], flags].concat();
        rows(&self.agent().fulcrum(&arguments).unwrap())
    }
}

fn service(name: &str, ips: [&str; 2]) -> Service {
    Service {
        name: name.to_owned(),
        cluster_ips: ips.map(|ip| ip.parse().unwrap()).into(),
        selector: Some(name.to_owned()),
        ports: vec![
            Port::new("TCP", PORT, TARGET),
            Port::new("UDP", PORT, TARGET),
        ],
    }
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

fn rows(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap()
}

/// An open connection on which a word went there and back, twice.
fn connected(scene: &Scene, ip: &str) -> TcpStream {
    let mut stream = scene.client().run(|| client::connect(at(ip)).unwrap());
    for _ in 0..2 {
        assert!(is_echoed(&mut stream));
    }
    stream
}

fn is_echoed(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 4];
    stream.write_all(b"word").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"word"
}

#[test]
fn connections_are_listed_as_they_are() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    for (family, (web, db)) in WEB.into_iter().zip(DB).enumerate() {
        let web_stream = connected(&scene, web);
        let _db_stream = connected(&scene, db);
        let all = scene.list(&["--protocol", "tcp", "--to", web]);
        let [row] = &all[..] else {
            panic!("one connection to {web}: {all:?}");
        };
        let own = web_stream.local_addr().unwrap().to_string();
        let backend = scene.deployment.cluster.nodes[0].pods[0].addresses.both()[family];
        for (key, value) in [
            ("family", ["IPv4", "IPv6"][family].to_owned()),
            ("protocol", "TCP".to_owned()),
            ("client", own),
            ("to", at(web).to_string()),
            ("backend", SocketAddr::new(backend, TARGET).to_string()),
            ("pod", "default/pod-1-1".to_owned()),
            ("node", "local".to_owned()),
            ("service", "default/web:tcp".to_owned()),
            ("state", "established".to_owned()),
        ] {
            assert_eq!(row[key], value, "{key} of {row}");
        }
        assert_eq!(row["source"], Value::Null, "its own address: {row}");
        for side in ["by_client", "by_backend"] {
            // Handshake and two words.
            let packets = row[side]["packets"].as_u64().unwrap();
            assert!((3..20).contains(&packets), "{side} of {row}");
            assert!(row[side]["bytes"].as_u64().unwrap() > packets * 40, "{row}");
        }
        assert!(row["age_s"].as_u64().unwrap() < 20, "{row}");
        assert!(row["expires_in_s"].as_u64().unwrap() > 80_000, "{row}");

        let remote = scene.list(&["--service", "default/db", "--state", "established"]);
        let there: Vec<_> = remote
            .iter()
            .filter(|row| row["to"] == at(db).to_string())
            .collect();
        assert_eq!(there.len(), 1, "{remote:?}");
        assert_eq!(there[0]["node"], "remote");
        assert!(
            remote.iter().all(|row| row["service"] == "default/db:tcp"),
            "{remote:?}"
        );
    }
    filters(&scene);
}

/// What else can be asked about the connections above.
fn filters(scene: &Scene) {
    let of_web = scene.list(&["--service", "default/web:udp"]);
    assert!(of_web.is_empty(), "nobody has used UDP: {of_web:?}");
    let socket = scene.client().run(|| {
        let socket = client::udp_socket(UdpMode::Connected, at(WEB[0])).unwrap();
        client::echoed_datagram(&socket, b"hello").unwrap();
        socket
    });
    let of_web = scene.list(&["--service", "default/web:udp"]);
    assert_eq!(of_web.len(), 1);
    assert_eq!(
        of_web[0]["client"],
        socket.local_addr().unwrap().to_string()
    );
    assert_eq!(of_web[0]["protocol"], "UDP");
    let pod = scene.deployment.cluster.nodes[0].pods[1].addresses.both()[0].to_string();
    assert!(!scene.list(&["--from", &pod]).is_empty());
    assert_eq!(scene.list(&["--from", &pod, "--limit", "1"]).len(), 1);
    assert!(scene.list(&["--from", "192.0.2.0/24"]).is_empty());
    let table = scene.agent().fulcrum(&["flows", "-o", "wide"]).unwrap();
    assert!(table.starts_with("PROTOCOL "), "{table}");
    assert!(table.contains("default/web:udp"), "{table}");
    assert!(
        scene
            .agent()
            .fulcrum(&["flows", "--service", "default/none"])
            .is_err()
    );
    // The agent's own walk counts the same.
    let has_counted = |status: &str| {
        let status: Value = serde_json::from_str(status).unwrap();
        let tables = status["flows"]["tables"].as_array();
        tables.is_some_and(|tables| {
            tables.len() == 2 && tables.iter().all(|table| table["positions"] == 262_144)
        })
    };
    let what = "the tables to be counted";
    let status = ["status", "-o", "json"];
    scene
        .agent()
        .fulcrum_until(&status, LIMIT, what, has_counted)
        .unwrap();
}

#[test]
fn a_connection_that_is_taken_out_ends_and_the_others_live_on() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    for (web, db) in WEB.into_iter().zip(DB) {
        let mut taken = connected(&scene, web);
        let mut left = connected(&scene, db);
        let mut same = connected(&scene, web);
        let own = taken.local_addr().unwrap().to_string();
        let delete = [
            "flows",
            "delete",
            "--service",
            "default/web",
            "--from",
            &own,
        ];
        let dry = [&delete[..], &["--dry-run"]].concat();
        assert_eq!(
            scene.agent().fulcrum(&dry).unwrap(),
            "1 connection would be removed\n"
        );
        assert!(is_echoed(&mut taken), "nothing was done");
        assert_eq!(
            scene.agent().fulcrum(&delete).unwrap(),
            "1 connection removed\n"
        );
        assert_eq!(
            scene.agent().fulcrum(&delete).unwrap(),
            "0 connections removed\n"
        );
        taken.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(!is_echoed(&mut taken), "it has no flow any more");
        for other in [&mut left, &mut same] {
            assert!(is_echoed(other), "it was not meant");
        }
        drop(taken);
        // Whoever comes next is served as before.
        drop(connected(&scene, web));
    }
    let error = scene.agent().fulcrum(&["flows", "delete"]).unwrap_err();
    assert!(format!("{error:#}").contains("--all"), "{error:#}");
    assert!(!scene.list(&[]).is_empty());
    let all = scene
        .agent()
        .fulcrum(&["flows", "delete", "--all"])
        .unwrap();
    assert!(all.ends_with("connections removed\n"), "{all}");
    assert_eq!(scene.list(&[]), Vec::<Value>::new());
}

#[test]
fn connections_are_taken_out_while_thousands_come_and_go() {
    if !require_root() {
        return;
    }
    let scene = Scene::new();
    let mut left = connected(&scene, DB[0]);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            scene.client().run(|| {
                for n in 0..400_u32 {
                    // Cut off in the middle, or not: never another's answer.
                    let sent = n.to_be_bytes();
                    if let Ok(mut stream) = client::connect(at(WEB[0])) {
                        stream
                            .set_read_timeout(Some(Duration::from_millis(100)))
                            .unwrap();
                        let mut answer = [0; 4];
                        if stream.write_all(&sent).is_ok() && stream.read_exact(&mut answer).is_ok()
                        {
                            assert_eq!(answer, sent);
                        }
                    }
                }
            });
        });
        let mut n_rounds = 0;
        while !client.is_finished() || n_rounds == 0 {
            let to = ["flows", "delete", "--service", "default/web"];
            scene.agent().fulcrum(&to).unwrap();
            assert!(is_echoed(&mut left), "it was not meant");
            n_rounds += 1;
        }
        client.join().unwrap();
    });
    drop(connected(&scene, WEB[0]));
}

#[test]
fn the_tables_are_read_with_no_agent() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new();
    let _stream = connected(&scene, WEB[0]);
    let balancer = scene.deployment.balancers.remove(0);
    let place: Place = balancer.place().clone();
    balancer.kill().unwrap();
    let output = place
        .fulcrum(&["flows", "-o", "json", "--protocol", "tcp"])
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let rows = rows(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["service"], Value::Null);
    assert!(rows[0]["service_id"].as_u64().unwrap() > 0, "{rows:?}");
    let output = place
        .fulcrum(&["flows", "--service", "default/web"])
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && message.contains("--service"),
        "{message}"
    );
}

#[test]
fn what_ought_not_to_rise_is_told_with_the_flag_that_helps() {
    if !require_root() {
        return;
    }
    let cluster = Cluster::new(&Config {
        pods: vec![2],
        ..Config::default()
    })
    .unwrap();
    let _server = Server::echo(&cluster.nodes[0].pods[0].namespace, TARGET).unwrap();
    let manifest =
        Manifest::default()
            .with(&service("web", WEB))
            .with_pods_of(&cluster, &["pod-1-1"], "web");
    let flags = ["--flow-table-size=64", "--flow-table-max=64"];
    let deployment = Deployment::start(cluster, &manifest, &flags).unwrap();
    let client = &deployment.cluster.nodes[0].pods[1].namespace;
    // Answered and kept open: none of them gives way, and sixty-four places are thirty-two connections.
    let streams: Vec<_> = client.run(|| {
        (0..60)
            .filter_map(|_| client::try_connect(at(WEB[0]), AT_ONCE).unwrap_or_default())
            .map(|mut stream| is_echoed(&mut stream).then_some(stream))
            .take_while(Option::is_some)
            .take(40)
            .collect()
    });
    assert!(streams.len() < 33, "{} fit", streams.len());
    let agent = &deployment.balancers[0];
    let told = || agent.log().contains("drop_flow_table_full rises");
    poll::until(LIMIT, "the log to name the flag", || {
        Ok(told().then_some(()))
    })
    .unwrap();
    let log = agent.log();
    assert!(
        log.contains("raise --flow-table-size 64 or --flow-table-max 64"),
        "{log}"
    );
    let status = agent.fulcrum(&["status"]).unwrap();
    assert!(status.contains("drop_flow_table_full rises"), "{status}");
}
