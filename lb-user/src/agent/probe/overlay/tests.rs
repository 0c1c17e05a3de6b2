//! Pods as ready as their probes say.

use std::time::Duration;

use super::*;
use crate::{
    agent::probe::{target::Question, url::Url},
    model::{object::ObjectName, probe::Scheme},
    source::{Change, manifest},
    store::Store,
};

/// A pod of these containers, whose status has an address and these further fields, in flow style.
fn snapshot(containers: &str, status: &str) -> Arc<Snapshot> {
    of(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec: {{containers: [{containers}]}}
status: {{podIP: 10.244.0.1{status}}}
"
    ))
}

fn of(text: &str) -> Arc<Snapshot> {
    let parsed = manifest::parse("m.yaml", text);
    assert_eq!(parsed.rejected.len(), 0, "{:?}", parsed.findings);
    let mut store = Store::new([]);
    for located in parsed.objects {
        store.apply(Change::Upsert(located));
    }
    store.snapshot()
}

const HTTP: &str = "{name: a, ports: [{name: http, containerPort: 8080}],
    readinessProbe: {httpGet: {port: http, path: /ready}}}";

/// What all targets say.
fn all(overlay: &Overlay, ready: bool) -> Readiness {
    let verdict = |target: &Arc<Target>| Verdict {
        target: Arc::clone(target),
        probed: Probed {
            ready,
            failure: None,
        },
    };
    let targets = overlay.targets.iter();
    targets
        .map(|(key, target)| (key.clone(), verdict(target)))
        .collect()
}

fn is_ready(overlay: &Overlay) -> bool {
    let name = ObjectName::new("default", "web");
    overlay.snapshot.pods[&name].object.ready
}

/// Ready before the first answer, and with all probes saying yes, and no.
fn course(snapshot: &Arc<Snapshot>) -> [bool; 3] {
    let before = Overlay::new(snapshot, &Readiness::new());
    let [yes, no] = [true, false].map(|it| Overlay::new(snapshot, &all(&before, it)));
    [&before, &yes, &no].map(is_ready)
}

#[test]
fn a_probe_decides_whatever_the_status_says() {
    for status in [
        "",
        ", conditions: [{type: Ready, status: 'False'}]",
        ", conditions: [{type: Ready, status: 'True'}]",
    ] {
        let snapshot = snapshot(HTTP, status);
        assert_eq!(course(&snapshot), [false, true, false], "{status}");
    }
}

#[test]
fn containers_without_probe_are_as_ready_as_their_status() {
    let two = format!("{HTTP}, {{name: b}}");
    let cases = [
        ("", [false, true, false]),
        (", conditions: [{type: Ready, status: 'False'}]", [false; 3]),
        (
            ", conditions: [{type: Ready, status: 'False'}],
             containerStatuses: [{name: b, ready: true, restartCount: 0, image: i, imageID: i}]",
            [false, true, false],
        ),
        (
            ", containerStatuses: [{name: b, ready: false, restartCount: 0, image: i, imageID: i}]",
            [false; 3],
        ),
    ];
    for (status, expected) in cases {
        assert_eq!(course(&snapshot(&two, status)), expected, "{status}");
    }
}

#[test]
fn sidecars_count_and_all_probes_must_say_yes() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: a, readinessProbe: {tcpSocket: {port: 1}}}]
  initContainers:
  - {name: once}
  - {name: side, restartPolicy: Always, readinessProbe: {grpc: {port: 2}}}
status: {podIP: 10.244.0.1}
";
    let snapshot = of(text);
    assert_eq!(course(&snapshot), [false, true, false]);
    let mut readiness = all(&Overlay::new(&snapshot, &Readiness::new()), true);
    for verdict in readiness.values_mut().take(1) {
        verdict.probed.ready = false;
    }
    assert!(!is_ready(&Overlay::new(&snapshot, &readiness)));
}

#[test]
fn readiness_gates_are_asked_of_the_status_where_it_has_conditions() {
    let gated = |status: &str| {
        of(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  readinessGates: [{{conditionType: example.com/gate}}]
  containers: [{{name: a, readinessProbe: {{grpc: {{port: 1}}}}}}]
status: {{podIP: 10.244.0.1{status}}}
"
        ))
    };
    assert_eq!(course(&gated("")), [false, true, false]);
    assert_eq!(
        course(&gated(", conditions: [{type: Ready, status: 'True'}]")),
        [false; 3]
    );
    let open = ", conditions: [{type: example.com/gate, status: 'True'}]";
    assert_eq!(course(&gated(open)), [false, true, false]);
}

#[test]
fn commands_are_not_run_and_the_status_decides() {
    let exec = "{name: a, readinessProbe: {exec: {command: ['true']}}}";
    for (status, ready) in [
        ("", true),
        (", conditions: [{type: Ready, status: 'False'}]", false),
    ] {
        let snapshot = snapshot(exec, status);
        let overlay = Overlay::new(&snapshot, &Readiness::new());
        assert_eq!(is_ready(&overlay), ready);
        assert_eq!(overlay.targets, Targets::new());
        let said: Vec<String> = overlay.findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "m.yaml:2: warning: Pod default/web: spec.containers[].readinessProbe.exec: the command of container \
                 `a` is not run, since nothing here gets inside; the pod's status decides. Use httpGet, tcpSocket or \
                 grpc"
            ]
        );
    }
}

#[test]
fn a_port_that_the_container_does_not_have_is_told_and_never_ready() {
    let snapshot = snapshot(&HTTP.replace("port: http", "port: htpp"), "");
    let overlay = Overlay::new(&snapshot, &Readiness::new());
    assert!(!is_ready(&overlay));
    assert_eq!(overlay.targets, Targets::new());
    let said = overlay.findings[0].to_string();
    let expected = "container `a` has no port `htpp` and is never ready; name one so in its `ports` (did you \
                    mean `http`?)";
    assert!(said.ends_with(expected), "{said}");
}

#[test]
fn pods_without_probes_and_those_that_ended_stay_as_they_are() {
    let without = snapshot("{name: a}", "");
    let ended = snapshot(HTTP, ", phase: Succeeded");
    for snapshot in [without, ended] {
        let overlay = Overlay::new(&snapshot, &Readiness::new());
        assert!(Arc::ptr_eq(&overlay.snapshot, &snapshot));
        assert_eq!(overlay.targets, Targets::new());
    }
}

#[test]
fn the_pods_primary_address_is_asked_and_ports_are_found_by_name() {
    let overlay = Overlay::new(&snapshot(HTTP, ""), &Readiness::new());
    let target = overlay.targets.values().next().expect("one target");
    let expected = Question::Http {
        url: Url::new(Scheme::Http, "10.244.0.1", 8080, "/ready"),
        headers: Vec::new(),
    };
    assert_eq!(target.question, expected);
    assert_eq!(target.period, Duration::from_secs(10));
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {hostNetwork: true, containers: [{name: a, readinessProbe: {grpc: {port: 1}}}]}
status: {hostIP: 192.0.2.1}
";
    let overlay = Overlay::new(&of(text), &Readiness::new());
    let target = overlay.targets.values().next().expect("one target");
    let expected = Question::Grpc {
        address: "192.0.2.1:1".parse().expect("literal"),
        service: String::new(),
    };
    assert_eq!(target.question, expected);
}

#[test]
fn what_was_found_out_about_another_target_counts_for_nothing() {
    let before = Overlay::new(&snapshot(HTTP, ""), &Readiness::new());
    let readiness = all(&before, true);
    let labelled = of(&"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: another}}
spec: {containers: [HTTP]}
status: {podIP: 10.244.0.1, phase: Running}
"
    .replace("HTTP", HTTP));
    assert!(is_ready(&Overlay::new(&labelled, &readiness)));
    let moved = of("
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [HTTP]}
status: {podIP: 10.244.0.2}
"
    .replace("HTTP", HTTP)
    .as_str());
    assert!(!is_ready(&Overlay::new(&moved, &readiness)));
    let changed = snapshot(&HTTP.replace("/ready", "/live"), "");
    assert!(!is_ready(&Overlay::new(&changed, &readiness)));
}
