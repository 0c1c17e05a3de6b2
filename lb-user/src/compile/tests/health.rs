//! Health check ports.

use super::*;

/// A service behind a load balancer that keeps clients' addresses.
const LOCAL: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  clusterIP: 10.96.0.10
  clusterIPs: [10.96.0.10, 'fd00:10:96::a']
  ipFamilyPolicy: RequireDualStack
  ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]
";

/// What is said of it with these endpoints, slice by slice.
fn checked(endpoints: &[&str]) -> Option<HealthCheck> {
    let text = endpoints.iter().enumerate().map(|(index, endpoints)| {
        let family = if endpoints.contains("fd00") {
            "IPv6"
        } else {
            "IPv4"
        };
        slice(&format!("web-{index}"), endpoints)
            .replace("IPv4", family)
            .replace(
                "ports: [{name: http, port: 8080}]",
                "ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}]",
            )
    });
    let text = LOCAL.to_owned() + &text.collect::<String>();
    let name = ObjectName::new("default", "web");
    compiled(&text).health_checks.get(&name).copied()
}

fn n_local(endpoints: &[&str]) -> usize {
    let check = checked(endpoints).expect("a port");
    assert_eq!(check.port, 32000);
    check.n_local
}

#[test]
fn ready_addresses_of_this_node_count_once_over_ports_and_families() {
    assert_eq!(n_local(&[]), 0);
    let here = "{addresses: [10.244.0.1], nodeName: n1}, {addresses: [10.244.0.2], nodeName: n1}";
    assert_eq!(n_local(&[here]), 2);
    assert_eq!(n_local(&[here, here]), 2);
    let sixth = "{addresses: ['fd00:10:244::1'], nodeName: n1}";
    assert_eq!(n_local(&[here, sixth]), 3);
    let elsewhere = "{addresses: [10.244.1.1], nodeName: n2}, {addresses: [10.244.1.2]}";
    assert_eq!(n_local(&[elsewhere]), 0);
}

#[test]
fn only_ready_endpoints_count_though_others_take_traffic() {
    let terminating = "{addresses: [10.244.0.1], nodeName: n1,
        conditions: {ready: false, serving: true, terminating: true}}";
    assert_eq!(n_local(&[terminating]), 0);
    let unready = "{addresses: [10.244.0.1], nodeName: n1, conditions: {ready: false}}";
    assert_eq!(n_local(&[unready]), 0);
}

#[test]
fn a_service_of_another_proxy_has_no_port_here() {
    let text = LOCAL.replace(
        "name: web",
        "name: web, labels: {service.kubernetes.io/service-proxy-name: other}",
    );
    assert_eq!(compiled(LOCAL).health_checks.len(), 1);
    assert_eq!(compiled(&text).health_checks.len(), 0);
}
