//! Addresses for clients outside.

use super::*;
use crate::desired::FrontendKind;

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    let parse = |text: &&str| text.parse().expect("literal");
    texts.iter().map(parse).collect()
}

fn facts_of_node() -> NodeFacts {
    NodeFacts {
        addresses: addresses(&["192.0.2.1", "198.51.100.1", "2001:db8::1"]),
        primary: addresses(&["192.0.2.1", "2001:db8::1"]),
        ..facts()
    }
}

fn on_node(text: &str) -> Compiled {
    compile(&snapshot(text), &facts_of_node(), &Allocations::default())
}

/// `ADDRESS:PORT` of every address for clients outside, by service port.
fn outside(compiled: &Compiled) -> Vec<String> {
    let mut frontends = Vec::new();
    for (name, port) in &compiled.desired.ports {
        let own = [
            FrontendKind::ClusterIp,
            FrontendKind::AnyPort,
            FrontendKind::Address,
        ];
        let outside = port.frontends.iter();
        let outside = outside.filter(|frontend| !own.contains(&frontend.kind));
        frontends.extend(outside.map(|f| format!("{name} {} {}", f.addr, f.port)));
    }
    frontends
}

/// The same, and what was found.
fn external(text: &str) -> (Vec<String>, Vec<String>) {
    let compiled = on_node(text);
    (outside(&compiled), messages(&compiled))
}

fn service(name: &str, ip: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{clusterIP: {ip}, {rest}}}}}\n---\n"
    )
}

#[test]
fn a_node_port_is_on_every_address_of_the_node_of_the_services_family() {
    let spec = "type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    let (frontends, findings) = external(&service("web", "10.96.0.10", spec));
    assert_eq!(
        frontends,
        [
            "default/web TCP IPv4 192.0.2.1 30080",
            "default/web TCP IPv4 198.51.100.1 30080"
        ]
    );
    assert_eq!(findings, Vec::<String>::new());
    let (frontends, _) = external(&service("web", "'fd00:10:96::10'", spec));
    assert_eq!(frontends, ["default/web TCP IPv6 2001:db8::1 30080"]);
}

#[test]
fn a_load_balancer_has_its_addresses_but_those_of_a_proxy() {
    let service = service(
        "web",
        "10.96.0.10",
        "type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}], externalIPs: [203.0.113.7]",
    );
    let with = |mode: &str| {
        let status = format!(
            ", status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.9{mode}}}, {{hostname: lb.example}}]}}}}}}\n---\n"
        );
        external(&service.replace("}\n---\n", &status))
    };
    let both = [
        "default/web TCP IPv4 203.0.113.7 80",
        "default/web TCP IPv4 203.0.113.9 80",
    ];
    assert_eq!(with(""), (both.map(str::to_owned).to_vec(), Vec::new()));
    assert_eq!(with(", ipMode: VIP").0, both);
    assert_eq!(with(", ipMode: Proxy").0, both[..1]);
}

/// One entry an address, whoever shares it; the node answers at its own addresses, and a `ClusterIP` has its entry.
#[test]
fn addresses_for_clients_outside_answer_pings() {
    let ports = "ports: [{name: a, port: 80}, {name: b, port: 81}]";
    let ips = "externalIPs: [203.0.113.7, 192.0.2.1, 10.96.0.11]";
    let first = service("first", "10.96.0.10", &format!("{ports}, {ips}"));
    let other = "ports: [{port: 90}], externalIPs: [203.0.113.7, 203.0.113.8]";
    let second = service("second", "10.96.0.11", other);
    let compiled = on_node(&(first + &second));
    let mut addresses = Vec::new();
    for (name, port) in &compiled.desired.ports {
        let frontends = port.frontends.iter();
        let alone = frontends.filter(|frontend| frontend.kind == FrontendKind::Address);
        addresses.extend(alone.map(|it| format!("{name} {}:{}", it.addr, it.port)));
    }
    let expected = [
        "default/first:a TCP IPv4 203.0.113.7:0",
        "default/second TCP IPv4 203.0.113.8:0",
    ];
    assert_eq!(addresses, expected);
}

/// Node addresses that answer on the node port of a service of both families.
fn answering(addresses_of_node: &[&str], chosen: NodePortAddresses) -> Vec<String> {
    let facts = NodeFacts {
        addresses: addresses(addresses_of_node),
        node_port_addresses: chosen,
        ..facts_of_node()
    };
    let spec =
        "type: NodePort, ipFamilyPolicy: RequireDualStack, ports: [{port: 80, nodePort: 30080}]";
    let snapshot = snapshot(&service("web", "10.96.0.10", spec));
    let compiled = compile(&snapshot, &facts, &Allocations::default());
    let ports = compiled.desired.ports.values();
    let frontends = ports.flat_map(|port| &port.frontends);
    let of_node = frontends.filter(|frontend| frontend.kind == FrontendKind::NodePort);
    of_node.map(|frontend| frontend.addr.to_string()).collect()
}

#[test]
fn the_nodes_addresses_that_answer_on_node_ports_are_chosen() {
    let own = [
        "192.0.2.1",
        "198.51.100.1",
        "127.0.0.1",
        "2001:db8::1",
        "2001:db8:1::1",
        "::1",
        "fe80::1",
    ];
    let inside = |prefixes: &[&str]| {
        let parse = |text: &&str| text.parse().expect("literal");
        NodePortAddresses::Inside(prefixes.iter().map(parse).collect())
    };
    let all6 = ["2001:db8::1", "2001:db8:1::1"];
    let cases = [
        (
            NodePortAddresses::All,
            vec!["127.0.0.1", "192.0.2.1", "198.51.100.1", all6[0], all6[1]],
        ),
        (NodePortAddresses::Primary, vec!["192.0.2.1", all6[0]]),
        (
            inside(&["192.0.2.0/24", "2001:db8:1::/48"]),
            vec!["192.0.2.1", all6[1]],
        ),
        (
            inside(&["127.0.0.0/8", "::/0"]),
            vec!["127.0.0.1", all6[0], all6[1]],
        ),
        (
            inside(&["198.51.100.0/24"]),
            vec!["198.51.100.1", all6[0], all6[1]],
        ),
        (inside(&["203.0.113.0/24", "::1/128"]), vec![]),
    ];
    for (chosen, expected) in cases {
        assert_eq!(answering(&own, chosen.clone()), expected, "{chosen:?}");
    }
}

#[test]
fn node_ports_are_allocated_and_the_same_for_both_families_and_protocols() {
    let spec = "type: NodePort, ipFamilyPolicy: RequireDualStack, \
                ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]";
    let compiled = on_node(&service("dns", "10.96.0.10", spec));
    let numbers: BTreeSet<_> = outside(&compiled)
        .iter()
        .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    assert_eq!(outside(&compiled).len(), 6);
}

#[test]
fn an_explicit_node_port_outside_of_the_range_is_used_with_a_warning() {
    let spec = "type: NodePort, ports: [{port: 80, nodePort: 3001}]";
    let text = service("web", "10.96.0.10", spec);
    let (frontends, findings) = external(&text);
    assert_eq!(frontends.len(), 2);
    assert_eq!(
        findings,
        [
            "m.yaml:1: warning: Service default/web: spec.ports[0].nodePort: 3001 is outside of the range of node \
             ports (30000-32767); it is used"
        ]
    );
    let facts = NodeFacts {
        is_strict: true,
        ..facts_of_node()
    };
    let strict = compile(&snapshot(&text), &facts, &Allocations::default());
    assert_eq!(strict.desired.ports.len(), 0);
    assert!(messages(&strict)[0].contains("error"), "{strict:?}");
}

/// Source ranges of the service's first port of a family.
fn ranges(given: &str, ingress: &str, family: Family) -> Vec<String> {
    let spec = format!(
        "type: LoadBalancer, ipFamilyPolicy: RequireDualStack, loadBalancerSourceRanges: [{given}], ports: [{{port: 80}}]"
    );
    let status = format!(", status: {{loadBalancer: {{ingress: [{ingress}]}}}}}}\n---\n");
    let text = service("web", "10.96.0.10", &spec).replace("}\n---\n", &status);
    let compiled = on_node(&text);
    let ports = compiled.desired.ports.iter();
    let mut of_family = ports.filter(|(name, _)| name.family == family);
    let (_, port) = of_family.next().expect("a port");
    port.source_ranges.iter().map(IpNet::to_string).collect()
}

#[test]
fn source_ranges_are_those_of_a_cluster() {
    let both = "{ip: 203.0.113.9}, {ip: '2001:db8:9::9'}";
    let cases: [(&str, &str, Family, &[&str]); 11] = [
        ("198.51.100.0/25", both, Family::V4, &["198.51.100.0/25"]),
        (
            "' 198.51.100.0/25 '",
            both,
            Family::V4,
            &["198.51.100.0/25"],
        ),
        ("198.51.100.7/25", both, Family::V4, &["198.51.100.0/25"]),
        // None of the family: open.
        ("198.51.100.0/25", both, Family::V6, &[]),
        ("'2001:db8:5::/48'", both, Family::V4, &[]),
        // The zero prefix of the family: open; that of the other does not matter.
        ("198.51.100.0/25, 0.0.0.0/0", both, Family::V4, &[]),
        (
            "198.51.100.0/25, '::/0'",
            both,
            Family::V4,
            &["198.51.100.0/25"],
        ),
        // The node's own address: the load balancer's address may be its source.
        (
            "192.0.2.0/24",
            both,
            Family::V4,
            &["192.0.2.0/24", "203.0.113.9/32"],
        ),
        (
            "'2001:db8::/64'",
            both,
            Family::V6,
            &["2001:db8::/64", "2001:db8:9::9/128"],
        ),
        // An address that is not captured is not guarded.
        (
            "192.0.2.0/24",
            "{ip: 203.0.113.9, ipMode: Proxy}",
            Family::V4,
            &[],
        ),
        ("192.0.2.0/24", "", Family::V4, &[]),
    ];
    for (given, ingress, family, expected) in cases {
        assert_eq!(
            ranges(given, ingress, family),
            expected,
            "{given} {ingress}"
        );
    }
}

#[test]
fn an_address_of_several_kinds_is_the_one_that_is_guarded() {
    let spec = "type: LoadBalancer, externalIPs: [203.0.113.9, 192.0.2.1], \
                ports: [{port: 30080, nodePort: 30080}]";
    let status = ", status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}}\n---\n";
    let text = service("web", "10.96.0.10", spec).replace("}\n---\n", status);
    let compiled = on_node(&text);
    let port = compiled.desired.ports.values().next().expect("a port");
    let kinds: BTreeMap<_, _> = port
        .frontends
        .iter()
        .map(|f| (f.addr.to_string(), f.kind))
        .collect();
    assert_eq!(kinds["203.0.113.9"], FrontendKind::LoadBalancer);
    assert_eq!(kinds["192.0.2.1"], FrontendKind::ExternalIp);
    assert_eq!(kinds["198.51.100.1"], FrontendKind::NodePort);
    assert_eq!(messages(&compiled), Vec::<String>::new());
}

#[test]
fn an_address_and_port_belong_to_one_port_of_a_service() {
    let spec = "type: NodePort, externalIPs: [192.0.2.1], \
                ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 30080, nodePort: 30081}]";
    let (frontends, findings) = external(&service("web", "10.96.0.10", spec));
    let to_first = |line: &&String| line.contains("192.0.2.1 30080");
    assert_eq!(
        frontends.iter().filter(to_first).count(),
        1,
        "{frontends:?}"
    );
    assert!(
        findings[0]
            .contains("192.0.2.1 port 30080/TCP belongs to port `a` of this service already"),
        "{findings:?}"
    );
}

#[test]
fn an_address_and_port_belong_to_one_service_and_a_cluster_ip_to_its_own() {
    let services = [
        service(
            "a",
            "10.96.0.10",
            "ports: [{port: 80}], externalIPs: [10.96.0.12, 203.0.113.7]",
        ),
        service(
            "b",
            "10.96.0.11",
            "ports: [{port: 80}], externalIPs: [203.0.113.7]",
        ),
        service("c", "10.96.0.12", "ports: [{port: 80}]"),
    ];
    let (frontends, findings) = external(&services.concat());
    assert_eq!(frontends, ["default/a TCP IPv4 203.0.113.7 80"]);
    let taken = |addr, holder| {
        format!("spec.externalIPs: {addr} port 80/TCP belongs to Service default/{holder} already")
    };
    for (finding, part) in findings
        .iter()
        .zip([taken("10.96.0.12", "c"), taken("203.0.113.7", "a")])
    {
        assert!(finding.contains(&part), "{finding}");
    }
    assert_eq!(findings.len(), 2);
}
