//! From looks of sources to tables and views.

use std::time::Duration;

use super::*;
use crate::{
    agent::probe::overlay::Verdict,
    apply::{FakeMaps, Faults, FaultyMaps, dump},
    model::{
        object::{Kind, ObjectName},
        pod::Probed,
    },
    source::stdin,
};

mod audited;
mod followed;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.2]}]
";

fn controller<M: LbMaps>(maps: M) -> (Controller<M>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run_dir = Arc::new(RunDir::open(dir.path()).expect("free"));
    let facts = NodeFacts {
        name: "n1".to_owned(),
        service_cidrs: vec!["10.96.0.0/12".parse().expect("literal")],
        pod_cidrs: vec!["10.244.0.0/16".parse().expect("literal")],
        addresses: BTreeSet::new(),
        ..NodeFacts::default()
    };
    let source = stdin::NAME.to_owned();
    (
        Controller::waiting(source, facts, run_dir, Allocations::default()).fill(maps),
        dir,
    )
}

fn look(text: &str) -> ScanResult {
    stdin::read_from(text.as_bytes()).expect("readable")
}

/// A service of this name is gone.
fn without(name: &str) -> ScanResult {
    let reference = ObjectRef {
        kind: Kind::Service,
        name: ObjectName::new("default", name),
    };
    ScanResult {
        changes: vec![Change::Delete(reference)],
        findings: Vec::new(),
    }
}

fn tables<M: LbMaps>(controller: &Controller<M>) -> String {
    dump(&controller.maps, &|_| None).expect("readable tables")
}

#[test]
fn nothing_is_written_before_the_first_listing_is_complete() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    let mut partial = look(WEB);
    partial
        .changes
        .retain(|change| !matches!(change, Change::Synced(_)));
    controller.absorb(partial);
    assert!(!controller.reconcile(SystemTime::now()).is_incomplete);
    assert!(!controller.is_synced());
    assert_eq!(controller.maps.n_writes(), 0);

    controller.absorb(look(WEB));
    controller.reconcile(SystemTime::now());
    assert!(controller.is_synced());
    let tables = tables(&controller);
    assert!(tables.contains("10.96.0.10:80/TCP"), "{tables}");
    assert!(tables.contains("10.244.1.2:8080"), "{tables}");
}

#[test]
fn service_addresses_and_pods_prefixes_are_asked_of_the_node() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    assert_eq!(
        controller.reconcile(SystemTime::now()).demand,
        Demand::default()
    );
    controller.absorb(look(WEB));
    let demand = controller.reconcile(SystemTime::now()).demand;
    let expected = Demand {
        services: Arc::new(["10.96.0.10".parse().expect("literal")].into()),
        pod_cidrs: ["10.244.0.0/16".parse().expect("literal")].into(),
    };
    assert_eq!(demand, expected);
}

#[test]
fn node_ports_are_on_every_address_of_the_node_and_ask_for_no_route() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    let node_port = WEB.replace(
        "ports: [{port: 80}]",
        "type: NodePort, ports: [{port: 80, nodePort: 30080}]",
    );
    controller.absorb(look(&node_port));
    for own in ["192.0.2.1", "192.0.2.2"] {
        let own = ["127.0.0.1", own].map(|addr| addr.parse().expect("literal"));
        controller.relocate(own.into());
        let demand = controller.reconcile(SystemTime::now()).demand;
        assert_eq!(
            *demand.services,
            ["10.96.0.10".parse().expect("literal")].into()
        );
        let tables = tables(&controller);
        let answering = tables
            .lines()
            .filter(|line| line.contains(":30080/TCP"))
            .count();
        assert_eq!(answering, 2, "{tables}");
        assert!(
            own.iter()
                .all(|addr| tables.contains(&format!("{addr}:30080"))),
            "{tables}"
        );
        assert!(!tables.contains("PLACE 127.0.0.1"), "{tables}");
    }
}

#[test]
fn the_nodes_addresses_are_followed() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    controller.absorb(look(WEB));
    controller.reconcile(SystemTime::now());
    assert!(!tables(&controller).contains(" node"));
    controller.relocate(["192.0.2.1".parse().expect("literal")].into());
    controller.reconcile(SystemTime::now());
    let tables = tables(&controller);
    assert!(tables.contains("PLACE 192.0.2.1/32 node\n"), "{tables}");
}

#[test]
fn the_addresses_that_stand_in_for_clients_are_followed() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    let external = WEB.replace("spec: {", "spec: {externalIPs: [192.0.2.7], ");
    controller.absorb(look(&external));
    let mut sources = |stand_ins: &[(u32, &[&str])]| {
        let parsed = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().expect("literal"))
                .collect()
        };
        let stand_ins = stand_ins
            .iter()
            .map(|(device, texts)| (*device, parsed(texts)));
        controller.stand_in(stand_ins.collect());
        controller.reconcile(SystemTime::now());
        let tables = tables(&controller);
        let lines = tables.lines().filter(|line| line.starts_with("SOURCE"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(sources(&[]), [""; 0]);
    assert_eq!(
        sources(&[
            (3, &["192.0.2.1", "192.0.2.7", "192.0.2.2"]),
            (4, &["fd00::1", "10.96.0.10"])
        ]),
        [
            "SOURCE device=3 0/2 192.0.2.1",
            "SOURCE device=3 1/2 192.0.2.2",
            "SOURCE device=4 0/1 fd00::1",
        ],
        "a service's address is the service's"
    );
    assert_eq!(
        sources(&[(3, &["192.0.2.2"])]),
        ["SOURCE device=3 0/1 192.0.2.2"]
    );
    assert_eq!(sources(&[]), [""; 0]);
}

#[test]
fn the_view_names_what_the_tables_number() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    controller.absorb(look(WEB));
    let view = controller.reconcile(SystemTime::now()).view;
    let id = controller
        .maps
        .services()
        .expect("readable")
        .values()
        .next()
        .map(|row| row.id);
    let name = view
        .ports
        .get(&id.expect("one service"))
        .expect("its name")
        .to_string();
    assert_eq!(name, "default/web TCP IPv4");
    let shown = |kind| view.objects(kind).remove(0);
    assert_eq!(shown(Kind::Service)["spec"]["clusterIP"], "10.96.0.10");
    assert_eq!(
        shown(Kind::EndpointSlice)["endpoints"][0]["addresses"][0],
        "10.244.1.2"
    );
}

#[test]
fn addresses_that_were_given_are_on_disk() {
    let (mut controller, dir) = controller(FakeMaps::default());
    let allocated = WEB.replace("clusterIP: 10.96.0.10, ", "");
    controller.absorb(look(&allocated));
    let view = controller.reconcile(SystemTime::now()).view;
    let kept = std::fs::read_to_string(dir.path().join("allocations.json")).expect("kept");
    let service = view.objects(Kind::Service).remove(0);
    let given = service["spec"]["clusterIP"].as_str().expect("an address");
    assert!(kept.contains(given), "{kept}");
}

#[test]
fn what_the_kernel_refuses_is_tried_again_and_told_once() {
    let refuse = FaultyMaps::new(FakeMaps::default(), Faults::Always, libc::EPERM);
    let (mut controller, _dir) = controller(refuse);
    controller.absorb(look(WEB));
    let first = controller.reconcile(SystemTime::now());
    assert!(first.is_incomplete);
    let second = controller.reconcile(SystemTime::now());
    assert!(second.is_incomplete);
    assert!(!first.view.troubles.is_empty());
    assert_eq!(
        first.view.troubles, second.view.troubles,
        "the same text, so logged once"
    );
}

const PROBED: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: a, readinessProbe: {tcpSocket: {port: 8080}}}]}
status: {podIP: 10.244.0.1, conditions: [{type: Ready, status: 'True'}]}
";

#[test]
fn without_probes_the_status_decides_and_nobody_is_asked() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    controller.absorb(look(PROBED));
    let outcome = controller.reconcile(SystemTime::now());
    assert!(tables(&controller).contains("10.244.0.1:8080"));
    assert_eq!(outcome.targets, Targets::new());
    let n_local: Vec<_> = outcome
        .health
        .checks
        .values()
        .map(|it| it.n_local)
        .collect();
    assert_eq!((n_local, outcome.health.is_leaving), (vec![1], false));
}

#[test]
fn endpoints_come_and_go_with_what_probes_find_out() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    controller.probed(Readiness::new());
    controller.absorb(look(PROBED));
    let outcome = controller.reconcile(SystemTime::now());
    assert_eq!(outcome.targets.len(), 1);
    assert!(!tables(&controller).contains("10.244.0.1:8080"));
    for ready in [true, false] {
        let failure = None;
        let verdict = |target: &Arc<_>| Verdict {
            target: Arc::clone(target),
            probed: Probed { ready, failure },
        };
        let [(key, target)] = Vec::from_iter(&outcome.targets)[..] else {
            panic!("one target");
        };
        controller.probed(Readiness::from([(key.clone(), verdict(target))]));
        let next = controller.reconcile(SystemTime::now());
        assert_eq!(tables(&controller).contains("10.244.0.1:8080"), ready);
        assert_eq!(next.targets, outcome.targets, "the same is asked on");
        let checks = next.health.checks.values();
        let n_local: Vec<_> = checks.map(|it| it.n_local).collect();
        assert_eq!(n_local, [usize::from(ready)]);
    }
}

#[test]
fn troubles_of_other_tasks_are_shown_while_they_last() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    controller.absorb(look(WEB));
    controller.hear(["a port is taken".to_owned()].into());
    let view = controller.reconcile(SystemTime::now()).view;
    assert_eq!(view.troubles, ["a port is taken"]);
    controller.hear(BTreeSet::new());
    let view = controller.reconcile(SystemTime::now()).view;
    assert_eq!(view.troubles, Vec::<String>::new());
}

#[test]
fn age_counts_from_the_first_sight_of_an_object() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    let start = SystemTime::UNIX_EPOCH;
    let key = ObjectRef {
        kind: Kind::Service,
        name: ObjectName::new("default", "web"),
    };
    controller.absorb(look(WEB));
    controller.reconcile(start);
    let view = controller.reconcile(start + Duration::from_secs(5)).view;
    assert_eq!(view.seen.get(&key), Some(&start));
}

#[test]
fn what_an_earlier_agent_left_is_taken_over_when_the_first_listing_is_complete() {
    let (mut first, _dir) = controller(FakeMaps::default());
    first.absorb(look(WEB));
    first.reconcile(SystemTime::UNIX_EPOCH);
    let left = tables(&first);
    let (mut second, _dir) = controller(first.maps);
    let n_writes = second.maps.n_writes();
    second.reconcile(SystemTime::UNIX_EPOCH);
    assert_eq!(tables(&second), left, "nobody has said yet what is wanted");
    second.absorb(look(WEB));
    assert!(!second.reconcile(SystemTime::UNIX_EPOCH).is_incomplete);
    assert_eq!(tables(&second), left);
    assert_eq!(second.maps.n_writes(), n_writes, "all was right already");
    let (mut third, _dir) = controller(second.maps);
    third.absorb(look("apiVersion: v1\nkind: Service\nmetadata: {name: none}\nspec: {clusterIP: 10.96.0.11, ports: [{port: 1}]}"));
    third.reconcile(SystemTime::UNIX_EPOCH);
    let now = tables(&third);
    assert!(
        !now.contains("10.96.0.10:80") && now.contains("10.96.0.11:1"),
        "{now}"
    );
}

#[test]
fn tables_that_contradict_themselves_are_left_alone_and_told_of() {
    let mut maps = FakeMaps::new(Capacity::default());
    let key = crate::plan::FrontendKey {
        addr: "10.96.0.10".parse().expect("literal"),
        port: 80,
        proto: 6,
        pad: 0,
    };
    maps.put_service(&key, &lb_common::abi::Service::default())
        .expect("room");
    let (mut controller, _dir) = controller(maps);
    controller.absorb(look(WEB));
    for _ in 0..2 {
        let outcome = controller.reconcile(SystemTime::UNIX_EPOCH);
        assert!(outcome.is_incomplete, "it is tried again");
        let told = "the tables cannot be taken over: the entry of 10.96.0.10:80/TCP names a service that cannot be";
        assert_eq!(outcome.view.troubles, [told]);
        assert_eq!(controller.maps.n_writes(), 1);
    }
}

#[test]
fn only_the_agents_own_node_makes_it_leave() {
    let (mut controller, _dir) = controller(FakeMaps::default());
    let leaving = |name| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec:\n  taints:\n  - {{key: \
             ToBeDeletedByClusterAutoscaler, effect: NoSchedule}}\n"
        )
    };
    for (name, expected) in [("n2", false), ("n1", true)] {
        controller.absorb(look(&leaving(name)));
        let health = controller.reconcile(SystemTime::now()).health;
        assert_eq!(health.is_leaving, expected, "{name}");
    }
}

#[test]
fn a_full_table_is_named_with_its_size_and_keeps_what_it_has_until_there_is_room() {
    // Two of a service: its port, and its address for all other ports.
    let capacity = Capacity {
        services: 3,
        ..Capacity::default()
    };
    let (mut controller, _dir) = controller(FakeMaps::new(capacity));
    controller.absorb(look(WEB));
    assert!(!controller.reconcile(SystemTime::now()).is_incomplete);
    let second = WEB
        .replace("web", "second")
        .replace("10.96.0.10", "10.96.0.30");
    controller.absorb(look(&format!("{WEB}---{second}")));
    let outcome = controller.reconcile(SystemTime::now());
    assert!(!outcome.is_incomplete, "only another state can help");
    let troubles = outcome.view.troubles.join("\n");
    for part in ["default/second", "services4", "which holds 3"] {
        assert!(troubles.contains(part), "{part}: {troubles}");
    }
    assert!(tables(&controller).contains("10.96.0.10:80/TCP"));
    controller.absorb(without("web"));
    let is_complete = || !controller.reconcile(SystemTime::now()).is_incomplete;
    assert!(
        std::iter::repeat_with(is_complete)
            .take(3)
            .any(|is_complete| is_complete)
    );
    let tables = tables(&controller);
    assert!(
        tables.contains("10.96.0.30:80/TCP") && !tables.contains("10.96.0.10"),
        "{tables}"
    );
}
