//! What `get` prints of objects: whole tables, as kubectl has them.

use std::time::Duration;

use clap::Parser;
use serde_json::json;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    get: GetArgs,
}

fn args(line: &[&str]) -> GetArgs {
    let line = std::iter::once("get").chain(line.iter().copied());
    Line::try_parse_from(line).expect("valid").get
}

/// The time of these tests: an hour after the objects were made.
fn now() -> SystemTime {
    let made = humantime::parse_rfc3339("2024-01-01T00:00:00Z").expect("literal");
    made + Duration::from_hours(1)
}

fn meta(name: &str) -> Value {
    json!({"name": name, "namespace": "default", "creationTimestamp": "2024-01-01T00:00:00Z"})
}

/// What `get` prints of objects, in the columns that `line` asks for.
fn shown(line: &[&str], kind: Kind, objects: &[Value]) -> String {
    let args = args(line);
    let columns = columns(&args, kind);
    let rows: Vec<Row> = objects
        .iter()
        .map(|object| columns.row(object, now()))
        .collect();
    let mut found = Found::new(&args, false);
    found.table(columns, rows.iter(), now());
    found.text(false).expect("a table")
}

fn services() -> [Value; 5] {
    let service = |name: &str, spec: Value, status: Value| json!({"metadata": meta(name), "spec": spec, "status": status});
    let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    let ingress = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.org"}, {"ip": "203.0.113.5"}]}});
    [
        service(
            "web",
            json!({
                "type": "ClusterIP", "clusterIPs": ["10.96.0.10", "fd00::a"], "ports": [{"port": 80, "protocol": "TCP"}],
                "selector": {"tier": "front", "app": "web"},
            }),
            json!({}),
        ),
        service(
            "node",
            json!({
                "type": "NodePort", "clusterIPs": ["10.96.0.11"], "ports": ports, "externalIPs": ["192.0.2.1", "192.0.2.2"],
            }),
            json!({}),
        ),
        service(
            "lb",
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.12"], "ports": ports}),
            ingress,
        ),
        service(
            "alias",
            json!({"type": "ExternalName", "externalName": "db.example.org"}),
            json!({}),
        ),
        service(
            "headless",
            json!({"type": "ClusterIP", "clusterIPs": ["None"]}),
            json!({}),
        ),
    ]
}

#[test]
fn services_have_kubectls_columns() {
    let expected = "\
NAME       TYPE           CLUSTER-IP   EXTERNAL-IP           PORT(S)               AGE
web        ClusterIP      10.96.0.10   <none>                80/TCP                60m
node       NodePort       10.96.0.11   192.0.2.1,192.0.2.2   80/TCP,53:30053/UDP   60m
lb         LoadBalancer   10.96.0.12   203.0.113.5,l...      80/TCP,53:30053/UDP   60m
alias      ExternalName   <none>       db.example.org        <none>                60m
headless   ClusterIP      None         <none>                <none>                60m
";
    assert_eq!(shown(&["svc"], Kind::Service, &services()), expected);
}

#[test]
fn wide_services_have_selectors_and_all_namespaces_have_a_column() {
    let expected = "\
NAMESPACE   NAME   TYPE           CLUSTER-IP   EXTERNAL-IP                  PORT(S)               AGE   SELECTOR
default     web    ClusterIP      10.96.0.10   <none>                       80/TCP                60m   app=web,tier=front
default     lb     LoadBalancer   10.96.0.12   203.0.113.5,lb.example.org   80/TCP,53:30053/UDP   60m   <none>
";
    let [web, _, lb, ..] = services();
    assert_eq!(
        shown(&["svc", "-A", "-o", "wide"], Kind::Service, &[web, lb]),
        expected
    );
}

#[test]
fn a_load_balancer_without_addresses_is_pending() {
    let lb = json!({"metadata": meta("lb"), "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.12"]}});
    let mut with_external = lb.clone();
    with_external["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    let text = shown(
        &["svc", "--no-headers"],
        Kind::Service,
        &[lb, with_external],
    );
    let expected = "\
lb    LoadBalancer   10.96.0.12   <pending>   <none>   60m
lb    LoadBalancer   10.96.0.12   192.0.2.1   <none>   60m
";
    assert_eq!(text, expected);
}

#[test]
fn endpoints_list_three_and_count_the_rest_port_by_port() {
    let address = |n: u32| json!({"ip": format!("10.244.1.{n}")});
    let two = json!([address(1), address(2)]);
    let ports = json!([{"port": 8080, "protocol": "TCP"}, {"port": 8080, "protocol": "UDP"}]);
    let objects = [
        json!({"metadata": meta("both"), "subsets": [{"addresses": two, "ports": ports}]}),
        json!({"metadata": meta("one"), "subsets": [{"addresses": [address(1)], "ports": ports}]}),
        json!({"metadata": meta("six"), "subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": ports}]}),
        json!({"metadata": meta("portless"), "subsets": [{"addresses": two}]}),
        json!({"metadata": meta("unready"), "subsets": [{"notReadyAddresses": two, "ports": ports}]}),
        json!({"metadata": meta("none")}),
    ];
    let expected = "\
NAME       ENDPOINTS                                                     AGE
both       10.244.1.1:8080,10.244.1.2:8080,10.244.1.1:8080 + 1 more...   60m
one        10.244.1.1:8080,10.244.1.1:8080                               60m
six        [fd00::1]:8080,[fd00::1]:8080                                 60m
portless   10.244.1.1,10.244.1.2                                         60m
unready                                                                  60m
none       <none>                                                        60m
";
    assert_eq!(shown(&["ep"], Kind::Endpoints, &objects), expected);
}

#[test]
fn slices_have_kubectls_columns() {
    let endpoints: Vec<Value> = (1..=5)
        .map(|n| json!({"addresses": [format!("10.244.1.{n}")]}))
        .collect();
    let objects = [
        json!({
            "metadata": meta("web-1"), "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080}, {"name": "all"}, {}],
        }),
        json!({"metadata": meta("empty"), "addressType": "IPv6", "endpoints": [], "ports": []}),
    ];
    let expected = "\
NAME    ADDRESSTYPE   PORTS        ENDPOINTS                                        AGE
web-1   IPv4          8080,all,*   10.244.1.1,10.244.1.2,10.244.1.3 + 2 more...   60m
empty   IPv6          <unset>      <unset>                                        60m
"
    .replace(
        "ENDPOINTS                                        AGE",
        "ENDPOINTS                                      AGE",
    );
    assert_eq!(
        shown(&["endpointslices"], Kind::EndpointSlice, &objects),
        expected
    );
}

/// A pod with one container in this state.
fn pod(name: &str, phase: &str, status: &Value) -> Value {
    json!({
        "metadata": meta(name),
        "spec": {"containers": [{"name": "c"}]},
        "status": {"phase": phase, "containerStatuses": [status]},
    })
}

#[test]
fn pods_have_kubectls_columns() {
    let running = json!({"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let restarted = json!({
        "name": "c", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2024-01-01T00:55:00Z"}},
    });
    let ended = |end: Value| json!({"name": "c", "ready": false, "restartCount": 0, "state": {"terminated": end}});
    let mut deleted = pod("deleted", "Running", &running);
    deleted["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:59:00Z");
    let objects = [
        pod("running", "Running", &running),
        pod("crashing", "Running", &restarted),
        pod(
            "done",
            "Succeeded",
            &ended(json!({"exitCode": 0, "reason": "Completed"})),
        ),
        pod(
            "killed",
            "Failed",
            &ended(json!({"exitCode": 137, "signal": 9})),
        ),
        pod("failed", "Failed", &ended(json!({"exitCode": 2}))),
        deleted,
        json!({"metadata": meta("by-hand"), "spec": {"containers": [{"name": "c"}, {"name": "d"}]}, "status": {"podIP": "10.244.1.1"}}),
    ];
    let expected = "\
NAME       READY   STATUS             RESTARTS     AGE
running    1/1     Running            0            60m
crashing   0/1     CrashLoopBackOff   3 (5m ago)   60m
done       0/1     Completed          0            60m
killed     0/1     Signal:9           0            60m
failed     0/1     ExitCode:2         0            60m
deleted    1/1     Terminating        0            60m
by-hand    0/2     <unknown>          0            60m
";
    assert_eq!(shown(&["po"], Kind::Pod, &objects), expected);
}

#[test]
fn init_containers_and_gates_show_in_a_pods_status() {
    let with_init = |name: &str, init: Value, statuses: Value| {
        json!({
            "metadata": meta(name),
            "spec": {"containers": [{"name": "c"}], "initContainers": init},
            "status": {"phase": "Pending", "initContainerStatuses": statuses},
        })
    };
    let init = json!([{"name": "i"}, {"name": "j"}]);
    let side = json!([{"name": "s", "restartPolicy": "Always"}]);
    let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
    let mut sidecar = with_init(
        "sidecar",
        side,
        json!([{"name": "s", "started": true, "ready": true, "restartCount": 2}]),
    );
    sidecar["status"]["phase"] = json!("Running");
    sidecar["status"]["containerStatuses"] =
        json!([{"name": "c", "ready": true, "restartCount": 1, "state": {"running": {}}}]);
    let gated = json!({
        "metadata": meta("gated"),
        "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]},
    });
    let objects = [
        with_init(
            "second",
            init.clone(),
            json!([done, {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]),
        ),
        with_init(
            "broken",
            init.clone(),
            json!([{"name": "i", "state": {"terminated": {"exitCode": 1}}}]),
        ),
        with_init(
            "pulling",
            init,
            json!([{"name": "i", "state": {"waiting": {"reason": "ErrImagePull"}}}]),
        ),
        sidecar,
        gated,
    ];
    let expected = "\
second    0/1   Init:1/2            0     60m
broken    0/1   Init:ExitCode:1     0     60m
pulling   0/1   Init:ErrImagePull   0     60m
sidecar   2/2   Running             3     60m
gated     0/0   SchedulingGated     0     60m
";
    assert_eq!(
        shown(&["po", "--no-headers"], Kind::Pod, &objects),
        expected
    );
}

#[test]
fn wide_pods_have_addresses_nodes_and_gates() {
    let mut pod = pod(
        "web",
        "Running",
        &json!({"name": "c", "ready": true, "state": {"running": {}}}),
    );
    pod["spec"]["nodeName"] = json!("n1");
    pod["spec"]["readinessGates"] =
        json!([{"conditionType": "example.org/a"}, {"conditionType": "example.org/b"}]);
    pod["status"]["podIPs"] = json!([{"ip": "10.244.1.1"}, {"ip": "fd00::1"}]);
    pod["status"]["conditions"] = json!([{"type": "example.org/a", "status": "True"}]);
    let bare = json!({"metadata": meta("bare"), "status": {"phase": "Pending"}});
    let expected = "\
NAME   READY   STATUS    RESTARTS   AGE   IP           NODE     NOMINATED NODE   READINESS GATES
web    1/1     Running   0          60m   10.244.1.1   n1       <none>           1/2
bare   0/0     Pending   0          60m   <none>       <none>   <none>           <none>
";
    assert_eq!(
        shown(&["po", "-o", "wide"], Kind::Pod, &[pod, bare]),
        expected
    );
}

#[test]
fn nodes_have_kubectls_columns() {
    let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
    let mut full = json!({
        "metadata": meta("n1"),
        "spec": {"unschedulable": true},
        "status": {
            "conditions": ready("True"),
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.168.0.1"}],
            "nodeInfo": {
                "kubeletVersion": "v1.34.1", "osImage": "Debian 12", "kernelVersion": "6.1.0",
                "containerRuntimeVersion": "containerd://2.0",
            },
        },
    });
    full["metadata"]["labels"] = json!({
        "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge",
    });
    let down = json!({"metadata": meta("n2"), "status": {"conditions": ready("Unknown")}});
    let bare = json!({"metadata": {"name": "n3"}});
    let expected = "\
NAME   STATUS                     ROLES                       AGE         VERSION
n1     Ready,SchedulingDisabled   control-plane,edge,worker   60m         v1.34.1
n2     NotReady                   <none>                      60m$
n3     Unknown                    <none>                      <unknown>$
"
    .replace("60m$", "60m         ")
    .replace("<unknown>$", "<unknown>   ");
    let objects = [full.clone(), down, bare];
    assert_eq!(shown(&["no", "-A"], Kind::Node, &objects), expected);
    let expected = "\
n1    Ready,SchedulingDisabled   control-plane,edge,worker   60m   v1.34.1   192.168.0.1   <none>   Debian 12   6.1.0   containerd://2.0
";
    assert_eq!(
        shown(&["no", "-o", "wide", "--no-headers"], Kind::Node, &[full]),
        expected
    );
}

#[test]
fn a_watch_prints_the_table_and_then_the_rows_that_change() {
    let args = args(&["ep", "-w"]);
    let mut followed = Followed::new(&args, Kind::Endpoints);
    let endpoints = |name: &str, ip: &str| json!({"metadata": meta(name), "subsets": [{"addresses": [{"ip": ip}]}]});
    let mut text = |event| followed.text(event, now()).expect("a text");
    assert_eq!(text(Event::Object(endpoints("b", "10.0.0.1"))), "");
    assert_eq!(text(Event::Object(endpoints("a", "10.0.0.2"))), "");
    let table = "\
NAME   ENDPOINTS   AGE
a      10.0.0.2    60m
b      10.0.0.1    60m
";
    assert_eq!(text(Event::Listed), table);
    assert_eq!(
        text(Event::Object(endpoints("a", "10.0.0.3"))),
        "a      10.0.0.3    60m\n"
    );
    assert_eq!(
        text(Event::Object(endpoints("longer-name", "1.1.1.1"))),
        "longer-name   1.1.1.1     60m\n"
    );
    let name = Name {
        namespace: "default".to_owned(),
        name: "a".to_owned(),
    };
    assert_eq!(
        text(Event::Deleted(name.clone())),
        "a             10.0.0.3    60m\n"
    );
    assert_eq!(text(Event::Deleted(name)), "", "it is gone already");
}

#[test]
fn a_watch_of_nothing_prints_its_header_with_the_first_row() {
    let mut followed = Followed::new(&args(&["no", "-w"]), Kind::Node);
    assert_eq!(followed.text(Event::Listed, now()).expect("a text"), "");
    let node = json!({"metadata": meta("n1")});
    let text = followed.text(Event::Object(node), now()).expect("a text");
    assert!(text.starts_with("NAME   STATUS"), "{text}");
}

#[test]
fn objects_are_watched_one_document_each() {
    let node = || Event::Object(json!({"kind": "Node", "metadata": {"name": "n1"}}));
    let text = |form: &str| {
        let mut followed = Followed::new(&args(&["no", "-w", "-o", form]), Kind::Node);
        let first = followed.text(node(), now()).expect("a text");
        let gone = Name {
            namespace: String::new(),
            name: "n1".to_owned(),
        };
        first + &followed.text(Event::Deleted(gone), now()).expect("a text")
    };
    assert_eq!(text("yaml"), "---\nkind: Node\nmetadata:\n  name: n1\n");
    assert_eq!(text("name"), "node/n1\nnode/n1\n");
    assert!(text("json").starts_with("{\n    \"kind\""));
}

#[test]
fn several_types_have_their_tables_one_below_the_other() {
    let args = args(&["svc,no"]);
    let mut found = Found::new(&args, true);
    for (kind, object) in [
        (Kind::Service, services()[4].clone()),
        (Kind::Node, json!({"metadata": meta("n1")})),
    ] {
        let columns = columns(&args, kind);
        found.table(columns, [columns.row(&object, now())].iter(), now());
    }
    let expected = "\
NAME               TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE
service/headless   ClusterIP   None         <none>        <none>    60m

NAME      STATUS    ROLES    AGE   VERSION
node/n1   Unknown   <none>   60m$
"
    .replace('$', "   ");
    assert_eq!(found.text(false).expect("tables"), expected);
}

#[test]
fn objects_are_printed_alone_or_as_a_list() {
    let text = |form: &str, is_one| {
        let args = args(&["svc", "-o", form]);
        let mut found = Found::new(&args, false);
        found
            .objects
            .push(json!({"kind": "Service", "b": "80", "a": "yes"}));
        found.text(is_one).expect("a text")
    };
    assert_eq!(
        text("json", true),
        "{\n    \"a\": \"yes\",\n    \"b\": \"80\",\n    \"kind\": \"Service\"\n}\n"
    );
    let list: Value = serde_json::from_str(&text("json", false)).expect("JSON");
    assert_eq!(
        (&list["kind"], &list["items"][0]["b"]),
        (&json!("List"), &json!("80"))
    );
    assert_eq!(
        text("yaml", true),
        "a: \"yes\"\nb: \"80\"\nkind: Service\n",
        "texts stay texts for YAML 1.1 as well"
    );
    let expected = "apiVersion: v1\nitems:\n- a: \"yes\"\n  b: \"80\"\n  kind: Service\nkind: List\nmetadata:\n  resourceVersion: \"\"\n";
    assert_eq!(text("yaml", false), expected);
}

#[test]
fn names_and_labels_and_all_namespaces_do_not_go_together() {
    let check = |line: &[&str]| {
        let args = args(line);
        let targets = resource::targets(&args.what).expect("valid");
        args.scope
            .check(&targets)
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(&["svc", "web", "-n", "a"]), Ok(()));
    assert_eq!(check(&["svc", "-A", "-l", "app=web"]), Ok(()));
    assert!(check(&["svc", "web", "-A"]).is_err_and(|error| error.contains("one namespace")));
    assert!(check(&["svc/web", "-l", "a=b"]).is_err_and(|error| error.contains("not by both")));
    let wrong = Line::try_parse_from(["get", "svc", "-l", "a b c"]);
    assert!(wrong.is_err_and(|error| error.to_string().contains("is no requirement")));
}

#[test]
fn no_objects_are_told_with_the_namespace_that_was_looked_in() {
    let nothing = |line: &[&str]| {
        let args = args(line);
        nothing(&args, &resource::targets(&args.what).expect("valid"))
    };
    assert_eq!(
        nothing(&["svc"]),
        "No resources found in default namespace."
    );
    assert_eq!(
        nothing(&["svc", "-n", "a"]),
        "No resources found in a namespace."
    );
    assert_eq!(nothing(&["svc", "-A"]), "No resources found");
    assert_eq!(nothing(&["nodes"]), "No resources found");
}
