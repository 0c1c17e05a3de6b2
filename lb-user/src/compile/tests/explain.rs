//! Why an endpoint is not in a list.

use serde_json::json;

use super::*;
use crate::compile::explain::{List, PortChoice, explain};

fn explained(text: &str, zone: Option<&str>) -> Vec<PortChoice> {
    let snapshot = snapshot(text);
    let facts = NodeFacts {
        zone: zone.map(str::to_owned),
        ..facts()
    };
    let compiled = compile(&snapshot, &facts, &Allocations::default());
    let name = ObjectName::new("default", "web");
    let choices = explain(&snapshot, &facts, &name, &compiled.addresses[&name]);
    agree(&choices, &compiled);
    choices
}

/// What is explained is what is served.
fn agree(choices: &[PortChoice], compiled: &Compiled) {
    let ports = compiled.desired.ports.iter();
    let of = |choice: &PortChoice| {
        let mut ports = ports.clone().filter(|(name, _)| {
            (&*name.port, name.protocol, name.family)
                == (&*choice.name, choice.protocol, choice.family)
        });
        ports.next().expect("a port of this name").1
    };
    for choice in choices {
        let served = &of(choice).backends;
        for endpoint in &choice.endpoints {
            let is_in = served.get(&endpoint.address).copied().unwrap_or_default();
            let lists = [
                (is_in.in_cluster, List::Cluster),
                (is_in.in_external_local, List::ExternalLocal),
                (is_in.in_internal_local, List::InternalLocal),
            ];
            let lists: BTreeSet<_> = lists
                .into_iter()
                .filter_map(|(is_in, list)| is_in.then_some(list))
                .collect();
            assert_eq!(endpoint.lists, lists, "{endpoint:?}");
            let told: BTreeSet<_> = endpoint.reasons.keys().copied().collect();
            let others: BTreeSet<_> = choice.lists.difference(&lists).copied().collect();
            assert_eq!(told, others, "{endpoint:?}");
        }
    }
}

/// The reasons of the port `http`, by the last byte of the address.
fn reasons(choices: &[PortChoice]) -> Vec<String> {
    let choice = choices.iter().find(|choice| choice.name == "http");
    let endpoints = choice.expect("the port").endpoints.iter();
    let reasons = endpoints.flat_map(|endpoint| {
        let last = endpoint.address.to_string();
        let last = last
            .trim_start_matches("10.1.2.")
            .trim_end_matches(":8080")
            .to_owned();
        let reasons = endpoint.reasons.iter();
        reasons.map(move |(list, reason)| format!("{last} {list}: {reason}"))
    });
    reasons.collect()
}

#[test]
fn every_endpoint_that_is_left_out_has_its_reason() {
    let service = SERVICE.replace(
        "spec:\n",
        "spec:\n  type: NodePort\n  externalTrafficPolicy: Local\n",
    );
    let endpoints = "{addresses: [10.1.2.1], nodeName: n1, conditions: {ready: false}}, \
                     {addresses: [10.1.2.2], nodeName: n1, conditions: {ready: false, terminating: true}}, \
                     {addresses: [10.1.2.3], nodeName: n1, conditions: {ready: false, serving: false, terminating: true}}, \
                     {addresses: [10.1.2.4], nodeName: n2}, {addresses: [10.1.2.5]}";
    let choices = explained(&[&service, slice("s", endpoints).as_str()].concat(), None);
    assert_eq!(
        reasons(&choices),
        [
            "1 cluster: not ready",
            "1 external-local: not ready",
            "2 cluster: terminating, and others are ready",
            "3 cluster: terminating, and does not serve any more",
            "3 external-local: terminating, and does not serve any more",
            "4 external-local: on node n2; the policy Local keeps to n1",
            "5 external-local: no node name: remote everywhere",
        ]
    );
}

#[test]
fn hints_are_told_with_what_they_are_for() {
    let endpoints = "{addresses: [10.1.2.1], hints: {forZones: [{name: a}]}}, \
                     {addresses: [10.1.2.2], hints: {forZones: [{name: b}, {name: c}]}}";
    let text = [SERVICE, &slice("s", endpoints)].concat();
    assert_eq!(
        reasons(&explained(&text, Some("a"))),
        ["2 cluster: its hints are for zone b, c, this node is in a"]
    );
    assert_eq!(reasons(&explained(&text, None)), Vec::<String>::new());
    let nodes = text
        .replace("forZones", "forNodes")
        .replace("name: a}", "name: n1}");
    assert_eq!(
        reasons(&explained(&nodes, None)),
        ["2 cluster: its hints are for node b, c, this is n1"]
    );
}

#[test]
fn it_is_plain_data() {
    let target = "{addresses: [10.1.2.1], nodeName: n1, targetRef: {kind: Pod, name: p}}";
    let choices = explained(&[SERVICE, &slice("s", target)].concat(), None);
    let first = serde_json::to_value(&choices[0]).expect("plain data");
    assert_eq!(
        first,
        json!({
            "name": "http", "port": 80, "protocol": "TCP", "family": "IPv4", "lists": ["cluster"],
            "endpoints": [{
                "address": "10.1.2.1:8080", "node": "n1", "target": "Pod p", "local": true,
                "weight": 1, "lists": ["cluster"], "reasons": {},
            }],
        })
    );
    let unserved = SERVICE.replace("clusterIP: 10.96.0.10", "clusterIP: None");
    assert_eq!(explained(&unserved, None), []);
}
