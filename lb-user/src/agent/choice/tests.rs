//! What is said of services in a small cluster: `node-1` is this node.

use lb_common::net::addr::Family;

use super::*;
use crate::{
    alloc::Allocations,
    compile::{self, NodeFacts},
    desired::Protocol,
    model::object::Kind,
    small_set::SmallSet,
    source::{Change, manifest},
    store::Store,
};

/// What is said of a service `web` with this `spec`, and a ready endpoint on each of these nodes.
fn said(spec: &str, nodes: &[&str]) -> Vec<Value> {
    let endpoint = |(number, node): (usize, &&str)| {
        format!("\n- {{addresses: [10.244.0.{number}], nodeName: {node}}}")
    };
    let endpoints: String = (1..).zip(nodes).map(endpoint).collect();
    let text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{ports: [{{name: http, port: 80}}], {spec}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: {endpoints}
"
    );
    let mut store = Store::new([]);
    for located in manifest::parse("m", &text).objects {
        store.apply(Change::Upsert(located));
    }
    let snapshot = store.snapshot();
    let facts = NodeFacts {
        name: "node-1".to_owned(),
        service_cidrs: vec!["10.96.0.0/12".parse().expect("literal")],
        ..NodeFacts::default()
    };
    let view = View {
        addresses: compile::compile(&snapshot, &facts, &Allocations::default()).addresses,
        served: served(DesiredPort {
            frontends: frontends(),
            external_local: spec.contains("externalTrafficPolicy: Local"),
            internal_local: spec.contains("internalTrafficPolicy: Local"),
            ..DesiredPort::default()
        }),
        snapshot,
        facts,
        ..View::default()
    };
    let mut said = Vec::new();
    each(&view, &Query::all(Kind::Service), &mut |object| {
        said.push(object);
        ControlFlow::Continue(())
    });
    said
}

/// An address of each kind.
fn frontends() -> SmallSet<Frontend> {
    [
        ("10.96.0.10", 80, FrontendKind::ClusterIp),
        ("10.96.0.10", 0, FrontendKind::AnyPort),
        ("198.18.0.1", 30080, FrontendKind::NodePort),
        ("203.0.113.5", 80, FrontendKind::LoadBalancer),
        ("203.0.113.6", 80, FrontendKind::ExternalIp),
    ]
    .map(|(addr, port, kind)| Frontend {
        addr: addr.parse().expect("literal"),
        port,
        kind,
    })
    .into()
}

/// As what stands in the tables for the one port.
fn served(port: DesiredPort) -> Served {
    let name = PortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    [(name, port)].into()
}

/// `KIND INSIDE OUTSIDE` of each address.
fn answers(spec: &str, nodes: &[&str]) -> Vec<String> {
    let said = said(spec, nodes);
    let frontends = said[0]["ports"][0]["frontends"].as_array().expect("a list");
    let answer = |answer: &Value| {
        let list = answer["list"].as_str().unwrap_or("-");
        format!("{list}={}", answer["verdict"].as_str().unwrap_or("-"))
    };
    let line = |it: &Value| {
        let kind = it["kind"].as_str().unwrap_or("-");
        format!(
            "{kind} {} {}",
            answer(&it["inside"]),
            answer(&it["outside"])
        )
    };
    frontends.iter().map(line).collect()
}

/// The lines of [`answers`] where all addresses for clients outside have the same answers.
fn expected(cluster_ip: &str, external: &str) -> Vec<String> {
    [
        ("cluster-ip", cluster_ip),
        ("node-port", external),
        ("load-balancer", external),
        ("external-ip", external),
        ("any-other-port", "-=reject -=reject"),
    ]
    .map(|(kind, answers)| format!("{kind} {answers}"))
    .into()
}

#[test]
fn without_policies_everybody_uses_the_list_of_the_cluster() {
    for (nodes, verdict) in [(&["node-1", "node-2"][..], "forward"), (&[], "reject")] {
        let all = format!("cluster={verdict} cluster={verdict}");
        assert_eq!(answers("type: LoadBalancer", nodes), expected(&all, &all));
    }
}

#[test]
fn the_external_policy_is_for_clients_outside_and_not_for_the_cluster_ip() {
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local";
    for (nodes, inside, outside) in [
        (&["node-1", "node-2"][..], "forward", "forward"),
        (&["node-2"], "forward", "drop"),
        (&[], "reject", "reject"),
    ] {
        let cluster_ip = format!("cluster={inside} cluster={inside}");
        let external = format!("cluster={inside} external-local={outside}");
        assert_eq!(answers(spec, nodes), expected(&cluster_ip, &external));
    }
}

#[test]
fn the_internal_policy_is_for_the_cluster_ip_whoever_dials_it() {
    let spec = "type: LoadBalancer, internalTrafficPolicy: Local";
    for (nodes, all, local) in [
        (&["node-1", "node-2"][..], "forward", "forward"),
        (&["node-2"], "forward", "drop"),
        (&[], "reject", "reject"),
    ] {
        let cluster_ip = format!("internal-local={local} internal-local={local}");
        let external = format!("cluster={all} cluster={all}");
        assert_eq!(answers(spec, nodes), expected(&cluster_ip, &external));
    }
}

#[test]
fn addresses_are_told_with_their_ports_and_endpoints_with_the_reasons() {
    let said = said(
        "type: LoadBalancer, externalTrafficPolicy: Local",
        &["node-2"],
    );
    assert_eq!(
        said[0]["metadata"],
        json!({"namespace": "default", "name": "web"})
    );
    assert_eq!(said[0]["node"], "node-1");
    let port = &said[0]["ports"][0];
    let frontends = port["frontends"].as_array().expect("a list").iter();
    let addresses: Vec<&Value> = frontends.map(|it| &it["address"]).collect();
    assert_eq!(
        addresses,
        [
            "10.96.0.10:80",
            "198.18.0.1:30080",
            "203.0.113.5:80",
            "203.0.113.6:80",
            "10.96.0.10:*"
        ]
    );
    assert_eq!(port["name"], "http");
    let endpoint = &port["endpoints"][0];
    assert_eq!(endpoint["address"], "10.244.0.1:8080");
    assert_eq!(endpoint["lists"], json!(["cluster"]));
    let reasons = endpoint["reasons"].as_object().expect("a map");
    assert_eq!(reasons.keys().collect::<Vec<_>>(), ["external-local"]);
}

#[test]
fn a_service_that_has_no_place_in_the_tables_has_no_ports() {
    assert_eq!(
        said("clusterIP: None", &["node-1"]),
        [json!({
            "metadata": {"namespace": "default", "name": "web"},
            "node": "node-1",
            "ports": [],
        })]
    );
}
