//! Descriptions of objects against what kubectl 1.33 prints of the same objects (`testdata`).

use serde::Deserialize;
use serde_json::json;

use super::*;

/// The objects that `testdata` describes.
fn objects() -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(include_str!("testdata/objects.yaml"));
    documents
        .map(|document| Value::deserialize(document).expect("an object"))
        .collect()
}

fn described(kind: Kind, name: &str) -> String {
    let all = objects();
    let object = all
        .iter()
        .find(|object| object["kind"] == kind.name() && object["metadata"]["name"] == name)
        .expect("the object");
    let related = match kind {
        Kind::Service => "EndpointSlice",
        _ => "Pod",
    };
    let related = all.iter().filter(|object| object["kind"] == related);
    Related::of(related.cloned().collect()).text(kind, &Name::of(object), object)
}

macro_rules! as_kubectl {
    ($($test:ident: $kind:ident $name:literal = $file:literal;)*) => {$(
        #[test]
        fn $test() {
            assert_eq!(described(Kind::$kind, $name), include_str!(concat!("testdata/", $file)));
        }
    )*};
}

as_kubectl! {
    a_dual_stack_service: Service "web" = "service-web.txt";
    a_load_balancer_with_everything: Service "lb" = "service-lb.txt";
    an_alias: Service "alias" = "service-alias.txt";
    endpoints_with_subsets: Endpoints "web" = "endpoints-web.txt";
    endpoints_without_subsets: Endpoints "bare" = "endpoints-bare.txt";
    a_slice: EndpointSlice "web-1" = "endpointslice-web-1.txt";
    an_empty_slice: EndpointSlice "empty" = "endpointslice-empty.txt";
    a_pod_with_everything: Pod "web-1" = "pod-web-1.txt";
    a_pod_with_nothing: Pod "bare" = "pod-bare.txt";
}

#[test]
fn a_node_has_kubectls_layout_but_for_leases_and_sums() {
    let pods = Related::of(vec![json!({
        "metadata": {"namespace": "default", "name": "web-1"},
        "spec": {"nodeName": "n1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    })]);
    let object = objects()
        .into_iter()
        .find(|object| object["metadata"]["name"] == "n1")
        .expect("the node");
    let expected = "\
Name:               n1
Roles:              control-plane
Labels:             a=b
                    node-role.kubernetes.io/control-plane=
Annotations:        x: y
CreationTimestamp:  Mon, 01 Jan 2024 00:00:00 +0000
Taints:             k:NoSchedule
Unschedulable:      false
Conditions:
  Type    Status  LastHeartbeatTime                 LastTransitionTime                Reason         Message
  ----    ------  -----------------                 ------------------                ------         -------
  Ready   True    Mon, 01 Jan 2024 00:00:00 +0000   Mon, 01 Jan 2024 00:00:00 +0000   KubeletReady   kubelet is posting ready status
Addresses:
  InternalIP:  192.168.0.1
  Hostname:    n1
Capacity:
  cpu:     4
  memory:  8Gi
Allocatable:
  cpu:     4
  memory:  8Gi
System Info:
  Machine ID:                 m
  System UUID:                u
  Boot ID:                    b
  Kernel Version:             6.1.0
  OS Image:                   Debian 12
  Operating System:           linux
  Architecture:               amd64
  Container Runtime Version:  containerd://2.0
  Kubelet Version:            v1.34.1
PodCIDR:                      10.244.1.0/24
PodCIDRs:                     10.244.1.0/24,fd00:244:1::/64
Non-terminated Pods:          (1 in total)
  Namespace                   Name   Ready  Age
  ---------                   ----   -----  ---
  default                     web-1  True   <unknown>
Events:                       <none>
";
    assert_eq!(pods.text(Kind::Node, &Name::of(&object), &object), expected);
}

/// Fields that kubectl 1.33 did not print yet.
#[test]
fn newer_fields_of_services_stand_where_newer_versions_have_them() {
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http", "appProtocol": "kubernetes.io/h2c"}],
            "trafficDistribution": "PreferSameZone",
        },
    });
    let text = Related::of(Vec::new()).text(Kind::Service, &Name::of(&service), &service);
    let port =
        "\nTargetPort:            http/TCP\nAppProtocol:           kubernetes.io/h2c\nEndpoints:  ";
    assert!(text.contains(port), "{text}");
    let end = "\nTraffic Distribution:  PreferSameZone\nEvents:                <none>\n";
    assert!(text.ends_with(end), "{text}");
}

/// What the agent says of a service, as it stands in `testdata`.
fn choice() -> Value {
    let list = |list: &str, verdict: &str| json!({"list": list, "verdict": verdict});
    let frontend = |address: &str, kind: &str, inside: Value, outside: Value| json!({"address": address, "kind": kind, "inside": inside, "outside": outside});
    let cluster = || list("cluster", "forward");
    let unplaced = "no node name: remote everywhere";
    let elsewhere = "on node node-2; the policy Local keeps to node-1";
    json!({
        "metadata": {"namespace": "default", "name": "web"},
        "node": "node-1",
        "ports": [
            {
                "name": "http", "port": 80, "protocol": "TCP", "family": "IPv4",
                "affinityTimeout": 10800, "sourceRanges": ["10.0.0.0/8", "192.168.0.0/16"],
                "frontends": [
                    frontend("10.96.0.10:80", "cluster-ip", list("internal-local", "forward"), list("internal-local", "forward")),
                    frontend("10.96.0.10:*", "any-other-port", json!({"list": null, "verdict": "reject"}), json!({"list": null, "verdict": "reject"})),
                    frontend("198.18.0.1:30080", "node-port", cluster(), list("external-local", "forward")),
                ],
                "endpoints": [
                    {
                        "address": "10.244.1.11:8080", "node": "node-1", "target": "Pod web-1", "local": true,
                        "lists": ["cluster", "external-local", "internal-local"], "reasons": {},
                    },
                    {
                        "address": "10.244.2.11:8080", "node": "node-2", "target": null, "local": false,
                        "lists": ["cluster"], "reasons": {"external-local": elsewhere, "internal-local": elsewhere},
                    },
                    {
                        "address": "10.244.2.12:8080", "node": null, "target": "Pod web-3", "local": false, "lists": [],
                        "reasons": {"cluster": "not ready", "external-local": unplaced, "internal-local": unplaced},
                    },
                ],
            },
            {
                "name": "", "port": 53, "protocol": "UDP", "family": "IPv6", "affinityTimeout": 0, "sourceRanges": [],
                "frontends": [
                    frontend("[fd00::a]:53", "cluster-ip", list("cluster", "reject"), list("internal-local", "drop")),
                ],
                "endpoints": [],
            },
        ],
    })
}

#[test]
fn what_the_node_makes_of_a_service_stands_below_kubectls_part() {
    let service =
        json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"type": "ClusterIP"}});
    let name = Name::of(&service);
    let alone = Related::of(Vec::new()).text(Kind::Service, &name, &service);
    let mut related = Related::of(Vec::new());
    related.choices = Ok(BTreeMap::from([(name.clone(), choice())]));
    let text = related.text(Kind::Service, &name, &service);
    let below = text.strip_prefix(&alone).expect("kubectl's part as it was");
    assert_eq!(below, include_str!("testdata/choice-web.txt"));
}

#[test]
fn a_service_that_is_not_served_says_why() {
    let choice = json!({"node": "node-1", "ports": []});
    for (service, why) in [
        (json!({"spec": {"type": "ExternalName"}}), "another name"),
        (json!({"spec": {"clusterIP": "None"}}), "headless"),
        (
            json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}}),
            "labels",
        ),
        (json!({}), "`fulcrum status` says why"),
    ] {
        let text = choice::describe(&service, &choice);
        assert!(
            text.starts_with("On this node (node-1):\n  Not served: ") && text.contains(why),
            "{text}"
        );
    }
}

#[test]
fn an_agent_that_does_not_know_the_question_costs_only_the_answer() {
    let service = json!({"metadata": {"namespace": "default", "name": "web"}});
    let mut related = Related::of(Vec::new());
    related.choices = Err("cannot be answered".to_owned());
    let text = related.text(Kind::Service, &Name::of(&service), &service);
    assert!(
        text.ends_with("\nOn this node:\n  not known: cannot be answered\n"),
        "{text}"
    );
}

#[test]
fn what_a_manifest_does_not_say_is_unknown() {
    let pod = json!({"metadata": {"name": "a", "namespace": "b"}});
    let text = Related::of(Vec::new()).text(Kind::Pod, &Name::of(&pod), &pod);
    assert!(text.contains("\nStatus:       <unknown>\n"), "{text}");
}

#[test]
fn nothing_in_an_object_commands_the_terminal() {
    let service = json!({
        "metadata": {"name": "a", "annotations": {"x": "\u{1b}]0;title\u{7}\r"}},
    });
    let text = Related::of(Vec::new()).text(Kind::Service, &Name::of(&service), &service);
    assert!(text.contains("x: ^[]0;title\\u{7}\\r\n"), "{text}");
}

#[test]
fn only_the_service_of_the_slices_namespace_and_label_has_them() {
    let slice = |namespace: &str, service: &str, ip: &str| {
        json!({
            "metadata": {
                "name": "s", "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv6",
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": [ip]}],
        })
    };
    let related = Related::of(vec![
        slice("default", "web", "fd00::1"),
        slice("other", "web", "fd00::2"),
        slice("default", "db", "fd00::3"),
    ]);
    let service = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]},
    });
    let text = related.text(Kind::Service, &Name::of(&service), &service);
    assert!(
        text.contains("\nEndpoints:         [fd00::1]:80\n"),
        "{text}"
    );
}
