//! Objects as they are shown, and read again.

use std::{ops::ControlFlow, sync::Arc};

use serde_json::{Value, json};

use super::*;
use crate::{
    alloc::Allocations,
    compile::{NodeFacts, compile},
    model::pod::Probed,
    source::{Change, manifest},
    store::Store,
};

fn snapshot(text: &str) -> Arc<Snapshot> {
    let parsed = manifest::parse("m", text);
    let mut store = Store::new([]);
    for located in parsed.objects {
        store.apply(Change::Upsert(located));
    }
    store.snapshot()
}

/// The objects of a kind as a node shows them that allocates out of 10.96.0.0/16 and `fd00:96::/112`.
fn shown(snapshot: &Snapshot, kind: Kind) -> Vec<Value> {
    let facts = NodeFacts {
        name: "n1".to_owned(),
        service_cidrs: vec![
            "10.96.0.0/16".parse().expect("literal"),
            "fd00:96::/112".parse().expect("literal"),
        ],
        ..NodeFacts::default()
    };
    let compiled = compile(snapshot, &facts, &Allocations::default());
    let view = View {
        snapshot,
        addresses: &compiled.addresses,
        since: &|_| Some("2024-01-01T00:00:00Z".to_owned()),
    };
    let mut objects = Vec::new();
    view.each(kind, &|_, _| true, &mut |object| {
        objects.push(object);
        ControlFlow::Continue(())
    });
    objects
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, labels: {team: a}, annotations: {note: kept}}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: web}}
spec: {nodeName: n1, containers: [{name: c, image: nginx, ports: [{containerPort: 8080}]}]}
status: {podIP: 10.244.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {containers: [{name: c}]}
status: {podIPs: [{ip: 10.244.1.1}], conditions: [{type: Ready, status: 'False'}]}
";

#[test]
fn a_service_is_shown_as_written_with_defaults_and_addresses() {
    let objects = shown(&snapshot(WEB), Kind::Service);
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "web", "namespace": "default", "labels": {"team": "a"}, "annotations": {"note": "kept"},
            "creationTimestamp": "2024-01-01T00:00:00Z",
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app": "web"},
            "ports": [
                {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "appProtocol": "http"},
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            ],
        },
        "status": {"loadBalancer": {}},
    });
    assert_eq!(objects, [expected]);
}

#[test]
fn addresses_of_load_balancers_have_a_mode_and_names_have_none() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, ports: [{port: 80}]}
status:
  loadBalancer:
    ingress: [{ip: 203.0.113.5}, {ip: 203.0.113.6, ipMode: Proxy}, {hostname: lb.example.org}]
";
    let service = shown(&snapshot(text), Kind::Service).remove(0);
    assert_eq!(
        service["status"]["loadBalancer"]["ingress"],
        json!([
            {"ip": "203.0.113.5", "ipMode": "VIP"},
            {"ip": "203.0.113.6", "ipMode": "Proxy"},
            {"hostname": "lb.example.org"},
        ])
    );
}

#[test]
fn every_type_of_service_has_its_defaults() {
    let service = |spec: &str| {
        let text =
            format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{{spec}}}}}");
        shown(&snapshot(&text), Kind::Service).remove(0)
    };
    let dual = service("ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]");
    assert_eq!(dual["spec"]["clusterIPs"].as_array().map(Vec::len), Some(2));
    assert_eq!(dual["spec"]["clusterIP"], dual["spec"]["clusterIPs"][0]);
    assert_eq!(dual["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let headless = service("clusterIP: None, selector: {a: b}");
    assert_eq!(headless["spec"]["clusterIP"], "None");
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let sticky = service("sessionAffinity: ClientIP, ports: [{port: 80}]");
    assert_eq!(
        sticky["spec"]["sessionAffinityConfig"],
        json!({"clientIP": {"timeoutSeconds": 10800}})
    );
    let balanced = service("type: LoadBalancer, ports: [{port: 80, nodePort: 30080}]");
    assert_eq!(balanced["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["spec"]["ports"][0]["nodePort"], 30080);
    let pending = &balanced["status"]["loadBalancer"];
    assert_eq!(*pending, json!({}));
    assert_eq!(balanced["spec"]["healthCheckNodePort"], Value::Null);
    let local = service("type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]");
    let number = |pointer: &str| local.pointer(pointer).and_then(Value::as_u64);
    let (node_port, health) = (
        number("/spec/ports/0/nodePort"),
        number("/spec/healthCheckNodePort"),
    );
    let range = 30_000..=32_767;
    assert!(node_port.is_some_and(|it| range.contains(&it)), "{local}");
    assert!(health.is_some_and(|it| range.contains(&it)), "{local}");
    assert_ne!(node_port, health);
    let unused = service("type: LoadBalancer, healthCheckNodePort: 30000, ports: [{port: 80}]");
    assert_eq!(unused["spec"]["healthCheckNodePort"], Value::Null);
    let without =
        service("type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]");
    assert_eq!(without["spec"]["allocateLoadBalancerNodePorts"], false);
    assert_eq!(without["spec"]["ports"][0]["nodePort"], Value::Null);
    let alias = service("type: ExternalName, externalName: a.example");
    let spec = alias["spec"].as_object().expect("a spec");
    assert_eq!(
        spec.keys().collect::<Vec<_>>(),
        ["externalName", "sessionAffinity", "type"]
    );
}

#[test]
fn a_service_without_an_address_is_shown_as_written() {
    let text = WEB.replace("clusterIP: 10.96.0.10", "ipFamilies: [IPv4]")
        + "
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {clusterIP: 10.96.0.7, ports: [{port: 80}]}
";
    let objects = shown(&snapshot(&text), Kind::Service);
    let clash = &objects[1]["spec"];
    assert_eq!(
        (&clash["clusterIP"], clash.get("clusterIPs")),
        (&json!("10.96.0.7"), None)
    );
    assert!(
        objects[2]["spec"]["clusterIPs"][0].is_string(),
        "the others go on"
    );
}

#[test]
fn endpoints_and_slices_follow_from_pods() {
    let snapshot = snapshot(WEB);
    let endpoints = shown(&snapshot, Kind::Endpoints);
    let target = |name: &str| json!({"kind": "Pod", "name": name, "namespace": "default"});
    let expected = json!([{
        "addresses": [{"ip": "10.244.1.2", "nodeName": "n1", "targetRef": target("b")}],
        "notReadyAddresses": [{"ip": "10.244.1.1", "targetRef": target("a")}],
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ],
    }]);
    assert_eq!(endpoints.len(), 1);
    assert_eq!(strip_uids(&endpoints[0]["subsets"]), expected);
    assert_eq!(endpoints[0]["metadata"]["labels"]["team"], "a");
    let slices = shown(&snapshot, Kind::EndpointSlice);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["apiVersion"], "discovery.k8s.io/v1");
    assert_eq!(
        slices[0]["metadata"]["labels"]["kubernetes.io/service-name"],
        "web"
    );
    assert_eq!(slices[0]["endpoints"].as_array().map(Vec::len), Some(2));
}

/// Without what only some versions of a target have.
fn strip_uids(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| !matches!(key.as_str(), "uid" | "apiVersion"))
            .map(|(key, value)| (key.clone(), strip_uids(value)))
            .collect(),
        Value::Array(items) => items.iter().map(strip_uids).collect(),
        other => other.clone(),
    }
}

#[test]
fn endpoints_that_were_written_are_shown_as_they_were() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: legacy}
spec: {clusterIP: 10.96.0.50, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: legacy}
subsets: [{addresses: [{ip: 192.0.2.10}], ports: [{port: 8000}]}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: alone}
subsets: []
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: legacy}}
addressType: FQDN
endpoints: [{addresses: [a.example]}]
ports: [{port: 80}]
";
    let snapshot = snapshot(text);
    let endpoints = shown(&snapshot, Kind::Endpoints);
    let names: Vec<&Value> = endpoints.iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["alone", "legacy"]);
    let subsets = json!([{"addresses": [{"ip": "192.0.2.10"}], "ports": [{"port": 8000, "protocol": "TCP"}]}]);
    assert_eq!(endpoints[1]["subsets"], subsets);
    let slices = shown(&snapshot, Kind::EndpointSlice);
    let by_hand = slices
        .iter()
        .find(|it| it["metadata"]["name"] == "by-hand")
        .expect("the slice that was written");
    assert_eq!(by_hand["endpoints"][0], json!({"addresses": ["a.example"]}));
    assert_eq!(
        by_hand["ports"][0],
        json!({"name": "", "port": 80, "protocol": "TCP"})
    );
    assert_eq!(slices.len(), 2, "and the one that mirrors the endpoints");
}

#[test]
fn pods_and_nodes_are_shown_as_written_with_the_addresses_that_follow() {
    let text = format!(
        "{WEB}---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1, annotations: {{a: b}}}}\nspec: {{podCIDR: 10.244.1.0/24}}\n"
    );
    let snapshot = snapshot(&text);
    let pods = shown(&snapshot, Kind::Pod);
    assert_eq!(pods[0]["status"]["podIP"], "10.244.1.1");
    assert_eq!(pods[1]["status"]["podIPs"], json!([{"ip": "10.244.1.2"}]));
    let container = &pods[1]["spec"]["containers"][0];
    assert_eq!(container["image"], "nginx");
    assert_eq!(
        container["ports"][0],
        json!({"containerPort": 8080, "protocol": "TCP"})
    );
    let nodes = shown(&snapshot, Kind::Node);
    assert_eq!(nodes[0]["spec"]["podCIDRs"], json!(["10.244.1.0/24"]));
    assert_eq!(nodes[0]["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(nodes[0]["metadata"].get("namespace"), None);
}

/// Everything that is shown reads as a manifest, and is shown the same again.
#[test]
fn what_is_shown_can_be_read_again() {
    let text = format!("{WEB}---\napiVersion: v1\nkind: Node\nmetadata: {{name: n1}}\n");
    let first = snapshot(&text);
    let all = |snapshot: &Snapshot| -> Vec<Value> {
        let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Pod, Kind::Node];
        kinds
            .into_iter()
            .flat_map(|kind| shown(snapshot, kind))
            .collect()
    };
    let objects = all(&first);
    for text in [
        serde_json::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))
            .expect("JSON"),
        serde_yaml::to_string(&json!({"apiVersion": "v1", "kind": "List", "items": objects}))
            .expect("YAML"),
    ] {
        let parsed = manifest::parse("m", &text);
        assert_eq!(parsed.findings, [], "{text}");
        let mut store = Store::new([]);
        for located in parsed.objects {
            store.apply(Change::Upsert(located));
        }
        assert_eq!(all(&store.snapshot()), objects);
    }
    for endpoints in shown(&first, Kind::Endpoints) {
        let parsed = manifest::parse("m", &endpoints.to_string());
        assert_eq!((parsed.objects.len(), parsed.findings.len()), (1, 0));
    }
}

#[test]
fn who_has_seen_enough_gets_no_more() {
    let snapshot = snapshot(WEB);
    let view = View {
        snapshot: &snapshot,
        addresses: &SharedMap::new(),
        since: &|_| None,
    };
    for (kind, most) in [(Kind::Pod, 1), (Kind::Service, 1), (Kind::Node, 0)] {
        let mut n_objects = 0;
        view.each(kind, &|_, _| true, &mut |_| {
            n_objects += 1;
            ControlFlow::Break(())
        });
        assert_eq!(n_objects, most, "{kind}");
    }
    let mut names = Vec::new();
    view.each(Kind::Pod, &|name, _| &*name.name == "b", &mut |object| {
        names.push(object["metadata"]["name"].clone());
        ControlFlow::Continue(())
    });
    assert_eq!(names, ["b"]);
}

#[test]
fn a_probed_pod_shows_what_its_probes_say() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  containers: [{name: a, readinessProbe: {grpc: {port: 1}}}, {name: b}]
status:
  podIP: 10.0.0.1
  conditions: [{type: Ready, status: 'True', reason: x}, {type: Initialized, status: 'True'}]
  containerStatuses: [{name: b, ready: true, restartCount: 3, image: i, imageID: i}]
";
    let mut snapshot = Snapshot::clone(&snapshot(text));
    for located in snapshot.pods.values_mut() {
        let pod = &mut Arc::make_mut(located).object;
        pod.ready = false;
        pod.containers[0].probed = Some(Probed {
            ready: false,
            failure: Some("nobody answers".to_owned()),
        });
    }
    let pod = shown(&snapshot, Kind::Pod).remove(0);
    assert_eq!(
        pod["status"]["conditions"],
        json!([
            {"type": "Ready", "status": "False", "message": "container a: nobody answers"},
            {"type": "Initialized", "status": "True"},
        ])
    );
    assert_eq!(
        pod["status"]["containerStatuses"],
        json!([
            {"name": "a", "ready": false, "started": true, "restartCount": 0, "state": {"running": {}}},
            {"name": "b", "ready": true, "restartCount": 3, "image": "i", "imageID": "i"},
        ])
    );
}
