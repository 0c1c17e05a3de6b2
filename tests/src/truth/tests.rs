//! The tables as they stand, and what a runner's answer is worth.

use super::*;

fn flow(expect: Expect) -> Flow {
    Flow {
        name: "flow".to_owned(),
        class: SourceClass::External,
        protocol: Protocol::Tcp,
        from: "203.0.113.2:40000".parse().unwrap(),
        to: "1.2.3.4:80".parse().unwrap(),
        expect,
        masquerade: true,
        list: None,
        frontend: None,
        service: None,
    }
}

#[test]
fn the_tables_read_whole() {
    let upstream = load("packetflow.yaml").unwrap();
    assert_eq!(upstream.len(), 12);
    let flows: usize = upstream.iter().map(|case| case.flows.len()).sum();
    assert_eq!(flows, 69);
    assert!(!load("truthtable.yaml").unwrap().is_empty());
}

#[test]
fn a_destination_that_is_no_service_is_the_nodes_or_nobodys() {
    let cases = load("packetflow.yaml").unwrap();
    let expect = |id: &str| {
        let case = cases.iter().find(|case| case.id == id).unwrap();
        case.flows[0].expect.clone()
    };
    assert_eq!(
        expect("HealthCheckNodePort/after-service-delete"),
        Expect::Local
    );
    assert_eq!(expect("TracePacket/six-services"), Expect::Pass);
}

#[test]
fn a_manifest_is_a_document_per_object() {
    let cases = load("packetflow.yaml").unwrap();
    let manifest = cases[0].manifest().unwrap();
    assert_eq!(manifest.matches("kind: Service\n").count(), 6);
    assert_eq!(manifest.matches("kind: EndpointSlice\n").count(), 5);
    assert!(manifest.starts_with("---\napiVersion: v1\n"), "{manifest}");
}

#[test]
fn a_wrong_answer_is_told_from_a_right_one() {
    let cases = load("packetflow.yaml").unwrap();
    let case = cases.iter().find(|case| case.id == "LoadBalancer").unwrap();
    let backend: SocketAddr = "10.180.0.1:80".parse().unwrap();
    let forward = Expect::Forward([backend].into());
    let answer = |outcome: &Expect, is_masqueraded| Answer {
        outcome: outcome.clone(),
        sources: vec![(backend, is_masqueraded)],
    };
    let flow = flow(forward.clone());
    let exact = Masquerade::KubeProxy;
    case.judge(&flow, exact, &answer(&forward, true)).unwrap();
    case.judge(&flow, exact, &answer(&forward, false))
        .unwrap_err();
    case.judge(&flow, exact, &answer(&Expect::Drop, true))
        .unwrap_err();
    // The backend is on this node: its answer comes back by itself.
    case.judge(&flow, Masquerade::AsNeeded, &answer(&forward, false))
        .unwrap();
}

#[test]
fn as_needed_never_leaves_out_what_is_needed() {
    let cases = load("packetflow.yaml").unwrap();
    let case = cases
        .iter()
        .find(|case| case.id == "ExternalTrafficPolicyCluster")
        .unwrap();
    let remote: SocketAddr = "10.180.0.1:80".parse().unwrap();
    let needs = |flow: &Flow, backend| case.expects_masquerade(flow, backend, Masquerade::AsNeeded);
    let outside = flow(Expect::Reject);
    assert_eq!(needs(&outside, remote), Some(true));
    let hairpin = Flow {
        class: SourceClass::Pod,
        from: SocketAddr::new(remote.ip(), DEFAULT_PORT),
        masquerade: false,
        ..outside.clone()
    };
    assert_eq!(needs(&hairpin, remote), Some(true));
    let loopback = Flow {
        class: SourceClass::Localhost,
        from: "127.0.0.1:40000".parse().unwrap(),
        ..outside
    };
    assert_eq!(needs(&loopback, remote), Some(true));
}

#[test]
fn health_is_that_of_ready_endpoints_here() {
    let cases = load("truthtable.yaml").unwrap();
    let health = |id: &str| {
        let case = cases.iter().find(|case| case.id == id).unwrap();
        [30_000, 30_001].map(|port| case.health(port))
    };
    assert_eq!(health("TerminatingEndpoints/Local/ready"), [Some(2), None]);
    assert_eq!(
        health("TerminatingEndpoints/Local/only-terminating"),
        [Some(0), None]
    );
    assert_eq!(health("TerminatingEndpoints/Cluster/ready"), [None; 2]);
}
