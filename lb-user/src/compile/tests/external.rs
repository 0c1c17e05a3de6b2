//! Addresses for clients outside.

use super::*;
use crate::desired::FrontendKind;

/// `ADDRESS:PORT` of every address for clients outside, by service port, and what was found.
fn external(text: &str) -> (Vec<String>, Vec<String>) {
    let facts = NodeFacts {
        addresses: ["192.0.2.1", "198.51.100.1", "2001:db8::1"]
            .map(|addr| addr.parse().expect("literal"))
            .into(),
        ..facts()
    };
    let compiled = compile(&snapshot(text), &facts, &Allocations::default());
    let mut frontends = Vec::new();
    for (name, port) in &compiled.desired.ports {
        let outside = port.frontends.iter();
        let outside = outside.filter(|frontend| frontend.kind != FrontendKind::ClusterIp);
        frontends.extend(outside.map(|f| format!("{name} {} {}", f.addr, f.port)));
    }
    (frontends, messages(&compiled))
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

#[test]
fn what_would_let_in_what_the_service_keeps_out_is_not_served() {
    let ranges = service(
        "web",
        "10.96.0.10",
        "type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], ports: [{port: 80, nodePort: 30080}]",
    );
    let status = ", status: {loadBalancer: {ingress: [{ip: 203.0.113.9}]}}}\n---\n";
    let (frontends, findings) = external(&ranges.replace("}\n---\n", status));
    assert_eq!(
        frontends.len(),
        2,
        "node ports are never guarded: {frontends:?}"
    );
    assert!(
        findings[0].contains("warning: Service default/web: spec.loadBalancerSourceRanges"),
        "{findings:?}"
    );
    let local = service(
        "web",
        "10.96.0.10",
        "type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080}]",
    );
    let (frontends, findings) = external(&local);
    assert_eq!(frontends, Vec::<String>::new());
    assert!(
        findings[0].contains("warning: Service default/web: spec.externalTrafficPolicy"),
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
