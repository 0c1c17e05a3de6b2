//! Slices as a cluster's controllers would write them, whole.

use std::{borrow::Cow, fmt::Write as _};

use super::*;
use crate::{
    alloc::{self, Pools},
    compile::slices::Sources,
    model::endpoint::{AddressType, EndpointPort, EndpointSlice},
};

/// The slices of every service, one line each and one per endpoint; names without what is made up.
fn written(text: &str) -> Vec<String> {
    let snapshot = snapshot(text);
    let facts = facts();
    let pools = Pools {
        cidrs: &facts.service_cidrs,
        node_ports: facts.node_port_range,
        is_strict: false,
        gives_nothing: false,
    };
    let allocated = alloc::allocate(&snapshot.services, pools, &Allocations::default());
    let mut findings = Vec::new();
    let sources = Sources::new(&snapshot);
    let mut lines = Vec::new();
    for (name, service) in &snapshot.services {
        let addresses = &allocated.addresses[name];
        for slice in sources.slices(&snapshot, service, &addresses.families, &mut findings) {
            lines.push(head(&slice));
            lines.extend(slice.endpoints.iter().map(endpoint));
        }
    }
    lines
}

fn head(slice: &EndpointSlice) -> String {
    let kind = match slice.address_type {
        AddressType::Ip(family) => family.to_string(),
        AddressType::Fqdn => "FQDN".to_owned(),
    };
    let port = |port: &EndpointPort| {
        let number = port
            .port
            .map_or_else(|| "-".to_owned(), |number| number.to_string());
        let app = port.app_protocol.as_deref().unwrap_or_default();
        format!("{}:{number}/{}{app}", port.name, port.protocol)
    };
    let ports: Vec<_> = slice.ports.iter().map(port).collect();
    let own = |key: &str| key.contains("managed-by") || key.contains("service-name");
    let labels = slice.meta.labels.iter().filter(|(key, _)| !own(key));
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{kind} [{}] {{{}}}", ports.join(" "), labels.join(","))
}

fn endpoint(endpoint: &crate::model::endpoint::Endpoint) -> String {
    let mut line = "  ".to_owned();
    let ips: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    line.push_str(&ips.join(","));
    let given = endpoint.given;
    for (letter, condition) in [
        ('r', given.ready),
        ('s', given.serving),
        ('t', given.terminating),
    ] {
        match condition {
            Some(true) => write!(line, " {letter}").expect("text"),
            Some(false) => write!(line, " !{letter}").expect("text"),
            None => {}
        }
    }
    let texts = [
        ("node", endpoint.node_name.as_deref().map(str::to_owned)),
        ("host", endpoint.hostname.as_deref().map(str::to_owned)),
        ("zone", endpoint.zone.as_deref().map(str::to_owned)),
        (
            "target",
            endpoint
                .target
                .as_ref()
                .map(|t| format!("{t} {} {:?}", t.namespace, t.uid)),
        ),
        (
            "hints",
            endpoint
                .hints
                .as_ref()
                .map(|h| format!("{:?}{:?}", h.zones, h.nodes)),
        ),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            write!(line, " {name}={text}").expect("text");
        }
    }
    line
}

const PODS: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: a, uid: u-a, labels: {app: web}}
spec:
  nodeName: n1
  hostname: first
  subdomain: web
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
status:
  podIPs: [{ip: 10.244.0.1}, {ip: 'fd00::1'}]
  conditions: [{type: Ready, status: 'True'}]
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}, deletionTimestamp: '2026-01-01T00:00:00Z'}
spec:
  nodeName: n2
  hostname: second
  subdomain: other
  containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]
status: {podIP: 10.244.0.2, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: 10.244.0.3, conditions: [{type: Ready, status: 'False'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: d, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080, protocol: UDP}]}]}
status: {podIP: 10.244.0.4, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: failed, labels: {app: web}}
status: {podIP: 10.244.0.5, phase: Failed}
---
apiVersion: v1
kind: Pod
metadata: {name: pending, labels: {app: web}}
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
";

fn service(rest: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, labels: {{app: web, service.kubernetes.io/headless: x}}}}
spec:
  selector: {{app: web}}
  ports:
  - {{name: web, port: 80, targetPort: http, appProtocol: http}}
  - {{name: dns, port: 53, protocol: UDP, targetPort: 5353}}
{rest}"
    )
}

#[test]
fn pods_become_endpoints_in_slices_by_their_ports() {
    assert_eq!(
        written(&[&service("  clusterIP: 10.96.0.10"), PODS].concat()),
        [
            "IPv4 [web:8080/TCPhttp dns:5353/UDP] {app=web}",
            "  10.244.0.1 r s !t node=n1 host=first zone=z1 target=Pod a default Some(\"u-a\")",
            "  10.244.0.3 !r !s !t target=Pod c default None",
            "IPv4 [web:9090/TCPhttp dns:5353/UDP] {app=web}",
            "  10.244.0.2 !r s t node=n2 target=Pod b default None",
            "IPv4 [dns:5353/UDP] {app=web}",
            "  10.244.0.4 r s !t target=Pod d default None",
        ]
    );
}

#[test]
fn services_publish_what_is_not_ready_and_headless_ones_say_so() {
    let published =
        service("  clusterIP: None\n  ipFamilies: [IPv6]\n  publishNotReadyAddresses: true");
    assert_eq!(
        written(&[&published, PODS].concat()),
        [
            "IPv6 [web:8080/TCPhttp dns:5353/UDP] {app=web,service.kubernetes.io/headless=}",
            "  fd00::1 r s !t node=n1 host=first zone=z1 target=Pod a default Some(\"u-a\")",
        ]
    );
    let published = service("  publishNotReadyAddresses: true");
    let lines = written(&[&published, PODS].concat());
    assert!(
        lines.contains(&"  10.244.0.3 r !s !t target=Pod c default None".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"  10.244.0.2 r s t node=n2 target=Pod b default None".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn a_family_without_endpoints_has_an_empty_slice() {
    let both = service("  ipFamilyPolicy: RequireDualStack");
    assert_eq!(written(&both), ["IPv4 [] {app=web}", "IPv6 [] {app=web}"]);
}

#[test]
fn a_headless_service_without_ports_has_endpoints_without_ports() {
    let text = "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: None}
";
    let lines = written(&[text, PODS].concat());
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[0], "IPv4 [] {service.kubernetes.io/headless=}");
}

#[test]
fn traffic_distribution_becomes_hints_of_ready_endpoints() {
    let hints = |distribution: &str| {
        let text = service(&format!("  trafficDistribution: {distribution}"));
        let lines = written(&[&text, PODS].concat());
        let hint = |line: &String| line.split_once(" hints=").map(|(_, hint)| hint.to_owned());
        lines.iter().filter_map(hint).collect::<Vec<_>>()
    };
    assert_eq!(hints("PreferClose"), ["[\"z1\"][]"]);
    assert_eq!(hints("PreferSameZone"), ["[\"z1\"][]"]);
    assert_eq!(hints("PreferSameNode"), ["[\"z1\"][\"n1\"]"]);
}

#[test]
fn a_slice_has_at_most_a_hundred_endpoints_and_a_name_that_stays() {
    let pods: String = (0..250)
        .map(|n| pod(&format!("p{n:03}"), &format!("10.244.1.{n}"), ""))
        .collect();
    let text = [SERVICE, &pods].concat();
    let slices = |text: &str| {
        let snapshot = snapshot(text);
        let sources = Sources::new(&snapshot);
        let service = snapshot.services.values().next().expect("one service");
        let slices = sources.slices(&snapshot, service, &[Family::V4], &mut Vec::new());
        slices.into_iter().map(Cow::into_owned).collect::<Vec<_>>()
    };
    let all = slices(&text);
    let sizes: Vec<_> = all.iter().map(|slice| slice.endpoints.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
    let names: BTreeSet<_> = all.iter().map(|slice| slice.meta.name.clone()).collect();
    assert_eq!(names.len(), 3);
    for name in &names {
        let (prefix, suffix) = name.name.rsplit_once('-').expect("a suffix");
        assert_eq!((prefix, suffix.len()), ("web", 5), "{name}");
    }
    // One pod less: the first slice is still the same object.
    let fewer = slices(&text.replace("p249, labels: {app: web}", "p249, labels: {app: x}"));
    assert_eq!(fewer[0].meta, all[0].meta);
    // A name that somebody else has is not used twice.
    let taken = slice(&all[0].meta.name.name, "");
    let others = slices(&[&text, taken.as_str()].concat());
    let names: BTreeSet<_> = others.iter().map(|slice| slice.meta.name.clone()).collect();
    assert_eq!(names.len(), 4);
}

const BARE: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{name: a, port: 80}, {name: b, port: 81}]}
---
apiVersion: v1
kind: Endpoints
metadata:
  name: web
  labels: {x: z}
  annotations: {note: kept, endpoints.kubernetes.io/last-change-trigger-time: dropped}
";

#[test]
fn endpoints_are_mirrored_by_their_ports_and_families() {
    let subsets = "subsets:
- addresses: [{ip: 192.0.2.1, hostname: h, nodeName: n1}, {ip: '2001:db8::1'}]
  ports: [{name: a, port: 8080, appProtocol: http}]
- addresses: [{ip: 192.0.2.1}, {ip: '2001:db8::1'}]
  ports: [{name: b, port: 8081}]
- notReadyAddresses: [{ip: 192.0.2.2, targetRef: {kind: Pod, name: p, namespace: default, uid: u}}]
  ports: [{name: b, port: 8081}]
";
    assert_eq!(
        written(&[BARE, subsets].concat()),
        [
            // The first subset's ports and those of the two others differ in their addresses.
            "IPv4 [a:8080/TCPhttp] {x=z}",
            "  192.0.2.1 r node=n1 host=h",
            "IPv6 [a:8080/TCPhttp] {x=z}",
            "  2001:db8::1 r",
            "IPv4 [b:8081/TCP] {x=z}",
            "  192.0.2.1 r node=n1 host=h",
            "  192.0.2.2 !r target=Pod p default Some(\"u\")",
            "IPv6 [b:8081/TCP] {x=z}",
            "  2001:db8::1 r",
        ]
    );
}

#[test]
fn ports_of_the_same_addresses_share_a_slice_and_not_ready_wins() {
    let subsets = "subsets:
- {addresses: [{ip: 192.0.2.1}], ports: [{name: a, port: 1}]}
- {addresses: [{ip: 192.0.2.1}], ports: [{name: b, port: 2}]}
- {addresses: [{ip: 192.0.2.9}], notReadyAddresses: [{ip: 192.0.2.9}], ports: [{name: a, port: 3}]}
";
    assert_eq!(
        written(&[BARE, subsets].concat()),
        [
            "IPv4 [a:1/TCP b:2/TCP] {x=z}",
            "  192.0.2.1 r",
            "IPv4 [a:3/TCP] {x=z}",
            "  192.0.2.9 !r",
        ]
    );
}

#[test]
fn locks_and_what_asks_for_it_are_not_mirrored() {
    let subsets = "subsets: [{addresses: [{ip: 192.0.2.1}], ports: [{name: a, port: 1}]}]\n";
    assert_eq!(written(&[BARE, subsets].concat()).len(), 2);
    let cases = [
        (
            "{x: z}",
            "{endpointslice.kubernetes.io/skip-mirror: 'true'}",
        ),
        ("note: kept", "control-plane.alpha.kubernetes.io/leader: x"),
        ("spec: {", "spec: {selector: {no: pod}, clusterIP: None, "),
    ];
    for (from, to) in cases {
        let lines = written(&[BARE, subsets].concat().replace(from, to));
        assert!(
            !lines.iter().any(|line| line.contains("192.0.2.1")),
            "{to}: {lines:?}"
        );
    }
    let other = [BARE, subsets]
        .concat()
        .replace("{x: z}", "{endpointslice.kubernetes.io/skip-mirror: 'no'}");
    assert_eq!(written(&other).len(), 2);
}

#[test]
fn more_than_a_thousand_addresses_are_cut_off() {
    let addresses: Vec<_> = (0..1010)
        .map(|n| format!("{{ip: 192.0.{}.{}}}", 2 + n / 250, 1 + n % 250))
        .collect();
    let subsets = format!(
        "subsets: [{{addresses: [{}], ports: [{{name: a, port: 1}}]}}]\n",
        addresses.join(", ")
    );
    let text = [BARE, &subsets].concat();
    assert_eq!(written(&text).len(), 1001);
    let said = messages(&compiled(&text));
    assert_eq!(
        said,
        [
            "m.yaml:6: warning: Endpoints default/web: subsets: 1010 addresses have the same ports, and 1000 of \
          them are used; write EndpointSlices for more"
        ]
    );
}

#[test]
fn a_port_name_that_is_nearly_right_is_told() {
    let text = [
        SERVICE,
        &pod("a", "10.244.0.1", "").replace("name: http", "name: htp"),
    ]
    .concat();
    let said = messages(&compiled(&text));
    assert_eq!(
        said,
        [
            "m.yaml:2: warning: Service default/web: spec.ports[0].targetPort: 1 of 1 matching pods have no \
          container port `http` (TCP) and do not answer on it, among them default/a; name one so in \
          `spec.containers[].ports` (did you mean `htp`?)"
        ]
    );
}
