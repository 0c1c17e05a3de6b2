//! The compiler from manifests to the desired state: one test per behaviour.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::net::addr::Family;

use super::*;
use crate::{
    desired::{self, DesiredPort, FrontendKind, PortName, Protocol},
    source::{Change, manifest},
    store::Store,
};

mod categorize;
mod explain;
mod external;
mod follow;
mod health;
mod order;
mod reference;
mod slices;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
";

fn pod(name: &str, ip: &str, rest: &str) -> String {
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: web}}}}
spec:
  nodeName: n1
  containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]
status: {{podIP: {ip}{rest}}}
"
    )
}

/// A slice of the service `web`, port `http`, with these endpoints in flow style.
fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 8080}}]
endpoints: [{endpoints}]
"
    )
}

fn facts() -> NodeFacts {
    let parse = |text: &str| text.parse().expect("a prefix");
    NodeFacts {
        name: "n1".to_owned(),
        service_cidrs: vec![parse("10.96.0.0/16"), parse("fd00:10:96::/112")],
        pod_cidrs: vec![parse("10.244.0.0/16")],
        addresses: BTreeSet::new(),
        ..NodeFacts::default()
    }
}

fn snapshot(text: &str) -> Arc<Snapshot> {
    let parsed = manifest::parse("m.yaml", text);
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    let mut store = Store::new([]);
    for located in parsed.objects {
        store.apply(Change::Upsert(located));
    }
    store.snapshot()
}

fn compiled(text: &str) -> Compiled {
    compile(&snapshot(text), &facts(), &Allocations::default())
}

/// Endpoints of the port `http` of `web`: address, then `S` serving, `C` in the cluster list, `E` and
/// `I` in the local lists, `L` local.
fn http(compiled: &Compiled) -> Vec<String> {
    let name = PortName {
        namespace: "default".into(),
        service: "web".into(),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    };
    backends(&compiled.desired.ports[&name].backends)
}

fn backends(backends: &BTreeMap<SocketAddr, desired::Endpoint>) -> Vec<String> {
    let short = |(address, e): (&SocketAddr, &desired::Endpoint)| {
        let flags = [
            (e.serving, 'S'),
            (e.in_cluster, 'C'),
            (e.in_external_local, 'E'),
            (e.in_internal_local, 'I'),
            (e.local, 'L'),
        ];
        let flags: String = flags
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, flag)| flag)
            .collect();
        format!("{address} {flags}")
    };
    backends.iter().map(short).collect()
}

fn messages(compiled: &Compiled) -> Vec<String> {
    compiled.findings.iter().map(Finding::to_string).collect()
}

#[test]
fn a_service_with_pods_is_served_on_every_port() {
    let compiled = compiled(&format!(
        "{SERVICE}{}{}",
        pod("a", "10.244.0.1", ""),
        pod("b", "10.244.0.2", "")
    ));
    assert_eq!(messages(&compiled), Vec::<String>::new());
    let ports: Vec<_> = compiled
        .desired
        .ports
        .iter()
        .map(|(name, port)| {
            let mut frontends = port.frontends.iter();
            let own = frontends.find(|it| it.kind == FrontendKind::ClusterIp);
            let frontend = own.expect("one frontend");
            (
                name.to_string(),
                format!("{}:{}", frontend.addr, frontend.port),
                backends(&port.backends),
            )
        })
        .collect();
    let list = |port: u16| {
        vec![
            format!("10.244.0.1:{port} SCL"),
            format!("10.244.0.2:{port} SCL"),
        ]
    };
    assert_eq!(
        ports,
        [
            (
                "default/web:dns UDP IPv4".to_owned(),
                "10.96.0.10:53".to_owned(),
                list(5353)
            ),
            (
                "default/web:http TCP IPv4".to_owned(),
                "10.96.0.10:80".to_owned(),
                list(8080)
            ),
        ]
    );
}

#[test]
fn a_service_without_endpoints_keeps_its_frontends() {
    let compiled = compiled(SERVICE);
    assert_eq!(compiled.desired.ports.len(), 2);
    assert_eq!(http(&compiled), Vec::<String>::new());
}

#[test]
fn both_families_are_served_apart() {
    let text = SERVICE.replace("clusterIP: 10.96.0.10", "ipFamilyPolicy: RequireDualStack");
    let ips = ", podIPs: [{ip: 10.244.0.1}, {ip: 'fd00:244::1'}]";
    let compiled = compiled(&format!("{text}{}", pod("a", "10.244.0.1", ips)));
    assert_eq!(compiled.desired.ports.len(), 4);
    for (name, port) in &compiled.desired.ports {
        for address in port.backends.keys() {
            assert_eq!(address.is_ipv6(), name.family == Family::V6, "{name}");
        }
        assert_eq!(port.backends.len(), 1, "{name}");
    }
    let addresses: Vec<_> = compiled.addresses.values().collect();
    assert_eq!(addresses.len(), 1);
    assert_eq!(addresses[0].ips.len(), 2);
}

#[test]
fn unready_and_finished_pods_take_no_connections() {
    let text = [
        SERVICE,
        &pod("a", "10.244.0.1", ""),
        &pod(
            "b",
            "10.244.0.2",
            ", conditions: [{type: Ready, status: 'False'}]",
        ),
        &pod("c", "10.244.0.3", ", phase: Succeeded"),
    ]
    .concat();
    assert_eq!(http(&compiled(&text)), ["10.244.0.1:8080 SCL"]);
    let publish = text.replace(
        "spec:\n  clusterIP",
        "spec:\n  publishNotReadyAddresses: true\n  clusterIP",
    );
    assert_eq!(
        http(&compiled(&publish)),
        ["10.244.0.1:8080 SCL", "10.244.0.2:8080 SCL"]
    );
}

#[test]
fn a_terminating_pod_serves_only_while_no_other_is_ready() {
    let leaving = pod("a", "10.244.0.1", "").replace(
        "{name: a,",
        "{name: a, deletionTimestamp: '2026-01-01T00:00:00Z',",
    );
    assert_eq!(
        http(&compiled(&[SERVICE, &leaving].concat())),
        ["10.244.0.1:8080 SCL"]
    );
    let both = [SERVICE, &leaving, &pod("b", "10.244.0.2", "")].concat();
    assert_eq!(
        http(&compiled(&both)),
        ["10.244.0.1:8080 SL", "10.244.0.2:8080 SCL"]
    );
}

#[test]
fn named_target_ports_are_resolved_per_pod() {
    let other = pod("b", "10.244.0.2", "").replace("8080", "9090");
    let lacking = pod("c", "10.244.0.3", "").replace("name: http", "name: other");
    let compiled = compiled(&[SERVICE, &pod("a", "10.244.0.1", ""), &other, &lacking].concat());
    assert_eq!(
        http(&compiled),
        ["10.244.0.1:8080 SCL", "10.244.0.2:9090 SCL"]
    );
    let messages = messages(&compiled);
    assert_eq!(messages.len(), 1);
    assert!(
        messages[0].contains("spec.ports[0].targetPort: 1 of 3 matching pods"),
        "{messages:?}"
    );
    assert!(messages[0].contains("default/c"), "{messages:?}");
}

#[test]
fn terminating_endpoints_serve_when_no_ready_endpoint_exists() {
    let terminating = "{addresses: [10.244.0.1], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}";
    let gone =
        "{addresses: [10.244.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    let only = compiled(&[SERVICE, &slice("s", &format!("{terminating}, {gone}"))].concat());
    assert_eq!(http(&only), ["10.244.0.1:8080 SCL"]);
    let ready = "{addresses: [10.244.0.9]}";
    let both = compiled(&[SERVICE, &slice("s", &format!("{terminating}, {ready}"))].concat());
    assert_eq!(http(&both), ["10.244.0.1:8080 SL", "10.244.0.9:8080 SC"]);
}

#[test]
fn the_fallback_to_terminating_endpoints_is_judged_for_the_node_alone() {
    let text = SERVICE.replace(
        "spec:\n",
        "spec:\n  type: NodePort\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n",
    );
    let endpoints = "{addresses: [10.244.0.1], nodeName: n1, conditions: {ready: false, terminating: true}}, {addresses: [10.244.1.1], nodeName: n2}";
    let compiled = compiled(&[&text, slice("s", endpoints).as_str()].concat());
    assert_eq!(
        http(&compiled),
        ["10.244.0.1:8080 SEIL", "10.244.1.1:8080 SC"]
    );
}

#[test]
fn slices_are_merged_and_the_better_duplicate_wins() {
    let terminating = "{addresses: [10.244.0.1], conditions: {ready: false, terminating: true}}";
    let ready = "{addresses: [10.244.0.1], nodeName: n1}, {addresses: [10.244.0.2]}";
    let expected = ["10.244.0.1:8080 SCL", "10.244.0.2:8080 SC"];
    for (first, second) in [(terminating, ready), (ready, terminating)] {
        let text = [SERVICE, &slice("s1", first), &slice("s2", second)].concat();
        assert_eq!(http(&compiled(&text)), expected);
    }
}

#[test]
fn slices_of_other_names_types_and_without_port_are_ignored() {
    let endpoint = "{addresses: [10.244.0.1]}";
    let good = slice("s", endpoint);
    assert_eq!(http(&compiled(&[SERVICE, &good].concat())).len(), 1);
    let wrong = [
        ("port: 8080", "appProtocol: x"),
        ("name: http", "name: https"),
        ("name: http", "protocol: UDP, name: http"),
        ("addressType: IPv4", "addressType: FQDN"),
        ("service-name: web", "service-name: other"),
        (
            "service-name: web",
            "service-name: web, service.kubernetes.io/headless: x",
        ),
        ("{name: s,", "{name: s, namespace: other,"),
    ];
    for (from, to) in wrong {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        assert_eq!(
            http(&compiled(&[SERVICE, &text].concat())),
            Vec::<String>::new(),
            "{text}"
        );
    }
}

#[test]
fn endpoints_are_mirrored_for_a_service_without_selector() {
    let endpoints = "
---
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses: [{ip: 192.0.2.1}, {ip: 192.0.2.2, nodeName: n1}]
  notReadyAddresses: [{ip: 192.0.2.3}]
  ports: [{name: http, port: 8080}]
";
    let selectorless = SERVICE.replace("  selector: {app: web}\n", "");
    let mirrored = compiled(&[&selectorless, endpoints].concat());
    // The mirroring controller does not say whether the third serves, which means that it does.
    assert_eq!(
        http(&mirrored),
        [
            "192.0.2.1:8080 SC",
            "192.0.2.2:8080 SCL",
            "192.0.2.3:8080 S"
        ]
    );
    let skip = endpoints.replace(
        "{name: web}",
        "{name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}",
    );
    assert_eq!(
        http(&compiled(&[&selectorless, skip.as_str()].concat())),
        Vec::<String>::new()
    );
    let selected = compiled(&[SERVICE, endpoints].concat());
    assert_eq!(http(&selected), Vec::<String>::new());
    assert!(
        messages(&selected)[0].contains("Endpoints default/web: not used"),
        "{selected:?}"
    );
}

#[test]
fn the_work_of_a_clusters_controllers_is_not_done_twice() {
    let written = slice("web-abc", "{addresses: [10.244.0.9]}").replace(
        "service-name: web}",
        "service-name: web, endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io}",
    );
    let text = [SERVICE, &pod("a", "10.244.0.1", ""), &written].concat();
    assert_eq!(http(&compiled(&text)), ["10.244.0.9:8080 SC"]);
    let mirrored = written.replace(
        "endpointslice-controller",
        "endpointslicemirroring-controller",
    );
    let endpoints = "
---
{apiVersion: v1, kind: Endpoints, metadata: {name: web}, subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{name: http, port: 1}]}]}
";
    let selectorless = SERVICE.replace("  selector: {app: web}\n", "");
    let text = [&selectorless, endpoints, &mirrored].concat();
    assert_eq!(http(&compiled(&text)), ["10.244.0.9:8080 SC"]);
    let by_hand = slice("mine", "{addresses: [10.244.0.9]}");
    let text = [SERVICE, &pod("a", "10.244.0.1", ""), &by_hand].concat();
    assert_eq!(
        http(&compiled(&text)),
        ["10.244.0.1:8080 SCL", "10.244.0.9:8080 SC"]
    );
}

#[test]
fn services_of_nobody_or_of_others_have_no_place_in_the_datapath() {
    let label = |label: &str| {
        SERVICE.replace(
            "{name: web}",
            &format!("{{name: web, labels: {{{label}: x}}}}"),
        )
    };
    let cases = [
        SERVICE.replace("clusterIP: 10.96.0.10", "clusterIP: None"),
        SERVICE.replace(
            "clusterIP: 10.96.0.10",
            "type: ExternalName\n  externalName: a.example",
        ),
        label("service.kubernetes.io/service-proxy-name"),
        label("service.kubernetes.io/headless"),
    ];
    for text in cases {
        let compiled = compiled(&text);
        assert_eq!(compiled.desired.ports.len(), 0, "{text}");
        assert_eq!(compiled.addresses.len(), 1, "{text}");
    }
}

#[test]
fn every_protocol_is_served() {
    let text = SERVICE.replace("protocol: UDP", "protocol: SCTP");
    let compiled = compiled(&text);
    let protocols: Vec<_> = compiled
        .desired
        .ports
        .keys()
        .map(|it| it.protocol)
        .collect();
    assert_eq!(protocols, [Protocol::Sctp, Protocol::Tcp]);
    assert_eq!(messages(&compiled), Vec::<String>::new());
}

#[test]
fn one_port_of_a_service_has_whatever_else_is_dialled_at_its_addresses() {
    let text = SERVICE.replace("clusterIP: 10.96.0.10", "ipFamilyPolicy: RequireDualStack");
    let compiled = compiled(&text);
    let mut rest = Vec::new();
    for (name, port) in &compiled.desired.ports {
        let any = port.frontends.iter();
        let any = any.filter(|frontend| frontend.kind == FrontendKind::AnyPort);
        rest.extend(any.map(|it| (&*name.port, it.addr, it.port)));
    }
    let addresses = &compiled.addresses[&ObjectName::new("default", "web")];
    let expected: Vec<_> = addresses
        .ips
        .iter()
        .map(|addr| ("http", *addr, 0))
        .collect();
    assert_eq!(rest, expected);
}

#[test]
fn policies_are_those_of_the_service() {
    let policies = |text: &str| {
        let compiled = compiled(text);
        let port = compiled.desired.ports.values().next().expect("a port");
        (port.external_local, port.internal_local)
    };
    assert_eq!(policies(SERVICE), (false, false));
    let local = SERVICE.replace("spec:\n", "spec:\n  internalTrafficPolicy: Local\n");
    assert_eq!(policies(&local), (false, true));
    let both = local.replace(
        "spec:\n",
        "spec:\n  type: NodePort\n  externalTrafficPolicy: Local\n",
    );
    assert_eq!(policies(&both), (true, true));
}

#[test]
fn a_refused_address_stops_no_other_service() {
    let twin = SERVICE.replace("{name: web}", "{name: web2}");
    let compiled = compiled(&[SERVICE, "---", &twin].concat());
    assert_eq!(compiled.desired.ports.len(), 2);
    assert_eq!(compiled.addresses.len(), 1);
    assert_eq!(compiled.findings.len(), 1);
}

#[test]
fn affinity_has_its_timeout() {
    let text = SERVICE.replace("spec:\n", "spec:\n  sessionAffinity: ClientIP\n");
    assert!(
        compiled(&text)
            .desired
            .ports
            .values()
            .all(|port| port.affinity_timeout_s == 10_800)
    );
}

#[test]
fn pod_prefixes_come_from_the_node_and_from_node_objects() {
    let node = "{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDRs: [10.245.0.0/24, 'fd00:245::/64']}}";
    let prefixes: Vec<_> = compiled(node)
        .desired
        .places
        .iter()
        .map(|(net, place)| format!("{net} {place}"))
        .collect();
    assert_eq!(
        prefixes,
        [
            "10.96.0.0/16 services",
            "10.244.0.0/16 pods",
            "10.245.0.0/24 pods",
            "fd00:10:96::/112 services",
            "fd00:245::/64 pods"
        ]
    );
}

#[test]
fn the_nodes_own_addresses_are_the_nodes_also_inside_a_prefix_of_pods() {
    let node =
        "{apiVersion: v1, kind: Node, metadata: {name: n2}, spec: {podCIDRs: [10.244.1.1/32]}}";
    let facts = NodeFacts {
        addresses: ["10.244.1.1", "127.0.0.1", "2001:db8::1"]
            .map(|addr| addr.parse().expect("literal"))
            .into(),
        ..facts()
    };
    let places = compile(&snapshot(node), &facts, &Allocations::default())
        .desired
        .places;
    let places: Vec<_> = places
        .iter()
        .map(|(net, place)| format!("{net} {place}"))
        .collect();
    assert_eq!(
        places,
        [
            "10.96.0.0/16 services",
            "10.244.0.0/16 pods",
            "10.244.1.1/32 node",
            "2001:db8::1/128 node",
            "fd00:10:96::/112 services"
        ]
    );
}
