//! Tables of services become larger while packets pass, and whoever lets them grow may end at any time.

use std::{net::SocketAddr, time::Duration};

use lb_tests::{
    balancer::{Balancer, Manifests},
    client,
    netns::require_root,
    poll,
};
use serde_json::Value;

use crate::{
    scene::{PORT, Scene, TARGET},
    unbroken::expect_nothing_lost,
};

/// What an agent says on the way to larger tables.
const STEPS: [&str; 2] = [
    "the tables of services grow ",
    "programs swapped phase=\"larger tables\"",
];
const GROWN: &str = "the tables of services have grown ";
/// Each step begins with the verifier, which shares the processors with all the clients, and what failed is tried again after a
/// minute.
const LIMIT: Duration = Duration::from_mins(5);
/// As many as `slots` has at first, both families together.
const MAGLEV_SIZE: u32 = 524_288;
const WIDE: [&str; 2] = ["10.96.0.77", "fd00:10:96::77"];

/// A service for whose lists there is no room.
fn wide(scene: &Scene) -> String {
    let mut text = format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata:\n\
        \x20 name: wide\n\
        \x20 annotations: {{fulcrum.dev/algorithm: maglev, fulcrum.dev/maglev-size: '{MAGLEV_SIZE}'}}\n\
         spec:\n\
        \x20 clusterIP: {0}\n\
        \x20 clusterIPs: ['{0}', '{1}']\n\
        \x20 ipFamilyPolicy: RequireDualStack\n\
        \x20 ports: [{{name: web, port: {PORT}, targetPort: {TARGET}}}]\n",
        WIDE[0], WIDE[1]
    );
    for (family, kind) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let addresses = ["pod-1-1", "pod-2-1"].map(|name| scene.pod_addr(name, family));
        let [one, other] = addresses.map(|ip| format!("{{addresses: ['{ip}']}}"));
        let slice = format!(
            "---\n\
             apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata: {{name: wide-{family}, labels: {{kubernetes.io/service-name: wide}}}}\n\
             addressType: {kind}\n\
             ports: [{{name: web, port: {TARGET}}}]\n\
             endpoints: [{one}, {other}]\n"
        );
        text.push_str(&slice);
    }
    text
}

fn log_says(agent: &Balancer, line: &str) {
    let what = format!("the agent to say {line:?}");
    let is_said = || Ok(agent.log().contains(line).then_some(()));
    poll::until(LIMIT, &what, is_said).unwrap();
}

/// Asks for more than there is room for, and kills the first node's agent at each step on the way to it.
fn outgrow(scene: &Scene, agents: &mut Vec<Balancer>, settle: &dyn Fn(&str)) {
    let node = &scene.deployment.cluster.nodes[0];
    let manifests = scene.deployment.path("");
    let place = agents[0].place().clone();
    scene
        .deployment
        .write_file("wide.yaml", &wide(scene))
        .unwrap();
    for step in STEPS {
        let agent = agents.remove(0);
        log_says(&agent, step);
        agent.kill().unwrap();
        settle(&format!("after an end at {step:?}"));
        let next = Balancer::start_at(&place, node, Manifests::Path(&manifests), &[]);
        agents.insert(0, next.unwrap());
    }
    // Unless the one before had come to it.
    let grown = poll::until(LIMIT, "the tables to have grown", || {
        let is_grown = n_slots(&agents[0]) > u64::from(2 * MAGLEV_SIZE);
        Ok((is_grown && refused(&agents[0]).is_empty()).then_some(()))
    });
    let agent = &agents[0];
    grown.unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", refused(agent), agent.log()));
    settle("with larger tables");
}

fn n_slots(agent: &Balancer) -> u64 {
    let maps: Value = of_json(agent, &["maps"]);
    let mut maps = maps.as_array().unwrap().iter();
    let slots = maps.find(|map| map["name"] == "slots").unwrap();
    slots["max_entries"].as_u64().unwrap()
}

/// What has no room in the tables of services.
fn refused(agent: &Balancer) -> Vec<String> {
    let status = of_json(agent, &["status"]);
    let troubles = status["troubles"].as_array().unwrap().iter();
    let troubles = troubles.map(|trouble| trouble.as_str().unwrap());
    troubles
        .filter(|trouble| trouble.contains("do not fit into table"))
        .map(str::to_owned)
        .collect()
}

fn of_json(agent: &Balancer, arguments: &[&str]) -> Value {
    let text = agent.fulcrum(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text.unwrap()).unwrap()
}

#[test]
fn services_that_have_no_room_get_some_and_nobody_notices() {
    if !require_root() {
        return;
    }
    let mut scene = Scene::new(&["pod-1-1", "pod-2-1"], &[]);
    assert_eq!(n_slots(scene.agent()), u64::from(2 * MAGLEV_SIZE));
    expect_nothing_lost(&mut scene, outgrow);
    // An agent that nobody kills lets its own grow.
    log_says(&scene.deployment.balancers[1], GROWN);
    for (_, namespace) in scene.clients() {
        for ip in WIDE {
            let front = SocketAddr::new(ip.parse().unwrap(), PORT);
            let server = namespace.run(|| client::tcp_hit(front)).unwrap();
            assert!(["pod-1-1", "pod-2-1"].contains(&&*server), "{server}");
        }
    }
    // What is written now is written where packets read it.
    scene.serve(&["pod-1-2"]);
    for (name, namespace, front) in scene.ways(PORT) {
        let server = namespace.run(|| client::tcp_hit(front)).unwrap();
        assert_eq!(server, "pod-1-2", "{name}");
    }
    scene.deployment.expect_no_drops().unwrap();
}
