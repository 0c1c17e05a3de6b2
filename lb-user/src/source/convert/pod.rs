//! Pods.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1 as core;

use super::{Remarks, address, meta, name, port, protocol};
use crate::{
    model::{
        object::{Kind, family_of},
        pod::{Condition, Container, ContainerPort, Pod},
    },
    shared_text::shared,
    source::spelling,
};

mod probe;

/// A Pod.
pub(crate) fn pod(raw: core::Pod, remarks: &mut Remarks) -> Pod {
    let terminating = raw.metadata.deletion_timestamp.is_some();
    let meta = meta(Kind::Pod, raw.metadata, remarks);
    if raw
        .spec
        .as_ref()
        .is_some_and(|spec| spec.containers.is_empty())
    {
        let message = "there is none; an API server refuses such a pod, which is used here by its address alone";
        remarks.warning("spec.containers", message);
    }
    let spec = raw.spec.unwrap_or_default();
    let status = raw.status.unwrap_or_default();
    want_names(&spec, remarks);
    want_words(&spec, &status, remarks);
    Pod {
        meta,
        ips: ips(&status, remarks),
        host_ips: host_ips(&status, remarks),
        ready: is_ready(&status),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating,
        host_network: spec.host_network.unwrap_or(false),
        containers: containers(&spec, &status, remarks),
        started_s: status.start_time.map(|time| time.0.as_second()),
        readiness_gates: gates(spec.readiness_gates.unwrap_or_default(), remarks),
        node_name: given(spec.node_name.as_deref()).map(shared),
        hostname: given(spec.hostname.as_deref()).map(Into::into),
        subdomain: given(spec.subdomain.as_deref()).map(shared),
        phase: status.phase.as_deref().map(shared),
        conditions: status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .map(|condition| Condition {
                name: shared(&condition.type_),
                status: shared(&condition.status),
            })
            .collect(),
    }
}

fn gates(raw: Vec<core::PodReadinessGate>, remarks: &mut Remarks) -> Vec<String> {
    for (index, gate) in raw.iter().enumerate() {
        let field = format!("spec.readinessGates[{index}].conditionType");
        name::want_qualified(&gate.condition_type, "type of a condition", &field, remarks);
    }
    raw.into_iter().map(|gate| gate.condition_type).collect()
}

/// A text that says something.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn want_names(spec: &core::PodSpec, remarks: &mut Remarks) {
    if let Some(node_name) = given(spec.node_name.as_deref()) {
        name::want_subdomain(node_name, "a Node", "spec.nodeName", remarks);
    }
    for (text, field) in [
        (&spec.hostname, "spec.hostname"),
        (&spec.subdomain, "spec.subdomain"),
    ] {
        if let Some(text) = given(text.as_deref()) {
            name::want_label(text, "a host", field, remarks);
        }
    }
}

/// Words that decide what becomes of the pod. The API takes any status.
fn want_words(spec: &core::PodSpec, status: &core::PodStatus, remarks: &mut Remarks) {
    const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
    const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];
    const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
    let wrong = |text: Option<&str>, what: &str, words: &[&str]| {
        let text = text.filter(|text| !text.is_empty() && !words.contains(text))?;
        let hint = spelling::hint(text, words.iter().copied());
        Some(format!(
            "`{text}` is no {what}; use {}{hint}",
            words.join(", ")
        ))
    };
    let policy = spec.restart_policy.as_deref();
    if let Some(message) = wrong(policy, "policy", &POLICIES) {
        remarks.error("spec.restartPolicy", message);
    }
    if let Some(message) = wrong(status.phase.as_deref(), "phase of a pod", &PHASES) {
        remarks.warning("status.phase", message);
    }
    for (index, condition) in status.conditions.iter().flatten().enumerate() {
        let field = format!("status.conditions[{index}]");
        if condition.type_.eq_ignore_ascii_case("Ready") && condition.type_ != "Ready" {
            let message = format!("`{}` is not used (did you mean `Ready`?)", condition.type_);
            remarks.warning(&format!("{field}.type"), message);
        }
        if let Some(message) = wrong(Some(&condition.status), "status of a condition", &STATUSES) {
            remarks.warning(&format!("{field}.status"), message);
        }
    }
}

/// `status.podIPs`. Where `status.podIP` says otherwise it is right, as kubelets of old wrote it alone.
fn ips(status: &core::PodStatus, remarks: &mut Remarks) -> Vec<IpAddr> {
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    let mut ips: Vec<IpAddr> = (0..)
        .zip(listed)
        .filter_map(|(index, pod_ip): (usize, _)| {
            address::endpoint_ip(&pod_ip.ip, &format!("status.podIPs[{index}].ip"), remarks)
        })
        .collect();
    let families: BTreeSet<_> = ips.iter().copied().map(family_of).collect();
    if families.len() < ips.len() {
        let message = "several addresses are of one family; write one per family";
        remarks.error("status.podIPs", message);
    }
    if let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty())
        && let Some(ip) = address::endpoint_ip(text, "status.podIP", remarks)
        && ips.first() != Some(&ip)
    {
        if let Some(first) = ips.first() {
            let message =
                format!("{ip} is not the first of `podIPs`, which is {first}; only {ip} is used");
            remarks.warning("status.podIP", message);
        }
        ips = vec![ip];
    }
    ips
}

fn host_ips(status: &core::PodStatus, remarks: &mut Remarks) -> Vec<IpAddr> {
    let listed = status.host_ips.as_deref().unwrap_or_default();
    let listed = listed.iter().map(|host_ip| host_ip.ip.as_str());
    let mut texts: Vec<&str> = listed.collect();
    if texts.is_empty() {
        texts.extend(status.host_ip.as_deref());
    }
    // Nothing but a listing looks at them.
    let mut of_list = Remarks::default();
    let ips = texts
        .iter()
        .filter(|text| !text.is_empty())
        .filter_map(|text| address::ip(text, "status.hostIPs", &mut of_list))
        .collect();
    remarks.take_as_warnings(of_list);
    ips
}

fn is_ready(status: &core::PodStatus) -> bool {
    let Some(conditions) = status.conditions.as_ref().filter(|list| !list.is_empty()) else {
        return true;
    };
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Containers, and init containers that stay (sidecars): where the endpoint slice controller looks up
/// names of ports. Init containers that end are checked and left out.
fn containers(
    spec: &core::PodSpec,
    status: &core::PodStatus,
    remarks: &mut Remarks,
) -> Vec<Container> {
    let mut names = BTreeSet::new();
    let mut convert = |list: &[core::Container], field: &str, statuses: Option<&Vec<_>>| {
        let mut containers = Vec::new();
        for (index, raw) in list.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if !names.insert(raw.name.clone()) {
                let message = format!("`{}` names another container already", raw.name);
                remarks.error(&format!("{field}.name"), message);
            }
            containers.push(container(raw, spec, &field, statuses, remarks));
        }
        containers
    };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let mut all = convert(
        &spec.containers,
        "spec.containers",
        status.container_statuses.as_ref(),
    );
    let mut sidecars = convert(
        init,
        "spec.initContainers",
        status.init_container_statuses.as_ref(),
    );
    sidecars.retain(|container| container.is_sidecar);
    all.append(&mut sidecars);
    all
}

fn container(
    raw: &core::Container,
    spec: &core::PodSpec,
    field: &str,
    statuses: Option<&Vec<core::ContainerStatus>>,
    remarks: &mut Remarks,
) -> Container {
    name::want_label(&raw.name, "a container", &format!("{field}.name"), remarks);
    let status = statuses.and_then(|list| list.iter().find(|status| status.name == raw.name));
    let is_init = field.starts_with("spec.initContainers");
    let is_sidecar = is_init && raw.restart_policy.as_deref() == Some("Always");
    let readiness_probe = raw.readiness_probe.as_ref().and_then(|probe| {
        let field = format!("{field}.readinessProbe");
        if is_init && !is_sidecar {
            let message = "an init container that ends has none; leave it out or write `restartPolicy: Always`";
            remarks.error(&field, message);
        }
        probe::probe(probe, &field, remarks)
    });
    Container {
        name: raw.name.clone(),
        ports: ports(raw, spec, field, remarks),
        is_sidecar,
        readiness_probe,
        probed: None,
        ready: status.map(|status| status.ready),
        restarts: status.map_or(0, |status| u32::try_from(status.restart_count).unwrap_or(0)),
    }
}

fn ports(
    raw: &core::Container,
    spec: &core::PodSpec,
    field: &str,
    remarks: &mut Remarks,
) -> Vec<ContainerPort> {
    let mut names = BTreeSet::new();
    let mut ports = Vec::new();
    for (index, raw) in raw.ports.iter().flatten().enumerate() {
        let of = |part: &str| format!("{field}.ports[{index}].{part}");
        let name = raw.name.clone().filter(|text| !text.is_empty());
        if let Some(name) = &name {
            name::want_port_name(name, &of("name"), remarks);
            if !names.insert(name.clone()) {
                let message = format!("`{name}` names another port already; choose another name");
                remarks.error(&of("name"), message);
            }
        }
        let protocol = protocol(raw.protocol.as_deref(), &of("protocol"), remarks);
        let number = port(raw.container_port, &of("containerPort"), remarks);
        let host_port = raw.host_port.filter(|number| *number != 0);
        if let Some(host_port) = host_port {
            port(host_port, &of("hostPort"), remarks);
            if spec.host_network == Some(true) && host_port != raw.container_port {
                let message = format!(
                    "{host_port} is not `containerPort`, {}, which it is with `hostNetwork`; leave it out",
                    raw.container_port
                );
                remarks.error(&of("hostPort"), message);
            }
        }
        ports.extend(number.map(|port| ContainerPort {
            name,
            port,
            protocol,
        }));
    }
    ports
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::desired::Protocol;

    fn pod_of(spec: &Value, status: &Value) -> (Pod, Vec<String>) {
        let mut remarks = Remarks::default();
        let raw = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let raw = serde_json::from_value(raw).expect("a pod by type");
        let pod = pod(raw, &mut remarks);
        (pod, remarks.texts())
    }

    fn with_status(status: &Value) -> (Pod, Vec<String>) {
        let ports = json!([{"name": "http", "containerPort": 8080}, {"containerPort": 9}]);
        pod_of(
            &json!({"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]}),
            status,
        )
    }

    #[test]
    fn a_pod_is_ready_by_condition_or_where_there_are_none_at_all() {
        let ready = |status: &Value| with_status(status).0.ready;
        assert!(ready(&json!({"podIP": "10.0.0.1"})));
        assert!(!ready(
            &json!({"conditions": [{"type": "Ready", "status": "False"}]})
        ));
        assert!(!ready(
            &json!({"conditions": [{"type": "Initialized", "status": "True"}]})
        ));
        assert!(ready(
            &json!({"conditions": [{"type": "Ready", "status": "True"}]})
        ));
    }

    #[test]
    fn addresses_come_from_the_list_or_the_single_field() {
        let both = json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
        assert_eq!(with_status(&both).0.ips.len(), 2);
        assert_eq!(with_status(&json!({"podIP": "10.0.0.1"})).0.ips.len(), 1);
        let (pod, said) =
            with_status(&json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}]}));
        assert_eq!(pod.ips, [IpAddr::from([10, 0, 0, 2])]);
        assert_eq!(
            said,
            [
                "warning status.podIP: 10.0.0.2 is not the first of `podIPs`, which is 10.0.0.1; only 10.0.0.2 \
              is used"
            ]
        );
        let twice = json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]});
        assert_eq!(
            with_status(&twice).1,
            ["error status.podIPs: several addresses are of one family; write one per family"]
        );
        let (pod, said) = with_status(&json!({"hostIP": "192.0.2.1", "hostIPs": [{"ip": "x"}]}));
        assert_eq!(pod.host_ips, Vec::<IpAddr>::new());
        assert!(
            said[0].starts_with("warning status.hostIPs: `x` is no IP address"),
            "{said:?}"
        );
    }

    #[test]
    fn ports_are_looked_up_by_name_in_containers_and_sidecars() {
        let spec = json!({
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080},
                                                   {"containerPort": 9}]}],
            "initContainers": [
                {"name": "i", "ports": [{"name": "once", "containerPort": 1}]},
                {"name": "s", "restartPolicy": "Always",
                 "ports": [{"name": "http", "containerPort": 2}, {"name": "side", "containerPort": 3}]}]});
        let status = json!({"phase": "Running", "containerStatuses": [
            {"name": "c", "ready": true, "restartCount": 2, "image": "i", "imageID": "i"}]});
        let (pod, said) = pod_of(&spec, &status);
        assert_eq!(said, Vec::<String>::new());
        assert_eq!(
            pod.port("http", Protocol::Tcp),
            Some(8080),
            "containers come first"
        );
        assert_eq!(pod.port("side", Protocol::Tcp), Some(3));
        assert_eq!(pod.port("once", Protocol::Tcp), None);
        assert_eq!(pod.port("http", Protocol::Udp), None);
        assert_eq!(pod.port("", Protocol::Tcp), None);
        let names: Vec<_> = pod
            .containers
            .iter()
            .map(|c| (&*c.name, c.is_sidecar))
            .collect();
        assert_eq!(names, [("c", false), ("s", true)]);
        assert_eq!(
            (pod.containers[0].ready, pod.containers[0].restarts),
            (Some(true), 2)
        );
        assert_eq!(pod.phase.as_deref(), Some("Running"));
    }

    #[test]
    fn words_that_are_nearly_right_are_told() {
        let status = json!({"phase": "running", "conditions": [{"type": "ready", "status": "True"},
                                                               {"type": "Ready", "status": "true"}]});
        let spec = json!({"restartPolicy": "always", "containers": [{"name": "c"}]});
        let expected = [
            "error spec.restartPolicy: `always` is no policy; use Always, OnFailure, Never (did you mean `Always`?)",
            "warning status.phase: `running` is no phase of a pod; use Pending, Running, Succeeded, Failed, \
             Unknown (did you mean `Running`?)",
            "warning status.conditions[0].type: `ready` is not used (did you mean `Ready`?)",
            "warning status.conditions[1].status: `true` is no status of a condition; use True, False, Unknown \
             (did you mean `True`?)",
        ];
        assert_eq!(pod_of(&spec, &status).1, expected);
    }

    #[test]
    fn a_pod_without_containers_is_used_with_a_warning() {
        assert_eq!(
            pod_of(&json!({"containers": []}), &json!({})).1,
            [
                "warning spec.containers: there is none; an API server refuses such a pod, which is used here \
              by its address alone"
            ]
        );
    }

    fn expect_refusal(spec: &Value, expected: &str) {
        let said = pod_of(spec, &json!({})).1;
        assert_eq!(said.len(), 1, "{said:?}");
        let expected = format!("error {expected}");
        assert!(said[0].starts_with(&expected), "{said:?}");
    }

    #[test]
    fn what_readiness_rests_on_is_checked() {
        let cases = [
            (
                json!({"containers": [{"name": "c"}],
                       "initContainers": [{"name": "i", "readinessProbe": {"grpc": {"port": 1}}}]}),
                "spec.initContainers[0].readinessProbe: an init container that ends has none; leave it out or \
                 write `restartPolicy: Always`",
            ),
            (
                json!({"containers": [{"name": "c", "readinessProbe": {}}]}),
                "spec.containers[0].readinessProbe: it asks for nothing; ",
            ),
            (
                json!({"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "a b"}]}),
                "spec.readinessGates[0].conditionType: `a b` is no type of a condition",
            ),
        ];
        for (spec, expected) in cases {
            expect_refusal(&spec, expected);
        }
    }

    #[test]
    fn faulty_fields_are_refused() {
        let port = |port: Value| json!({"containers": [{"name": "c", "ports": [port]}]});
        let cases = [
            (
                json!({"nodeName": "N", "containers": [{"name": "c"}]}),
                "spec.nodeName: `N` is no name for a Node",
            ),
            (
                json!({"hostname": "a.b", "containers": [{"name": "c"}]}),
                "spec.hostname: `a.b` is no name for a host",
            ),
            (
                json!({"subdomain": "A", "containers": [{"name": "c"}]}),
                "spec.subdomain: `A` is no name for a host",
            ),
            (
                json!({"containers": [{"name": "C"}]}),
                "spec.containers[0].name: `C` is no name for a container",
            ),
            (
                json!({"containers": [{"name": "c"}, {"name": "c"}]}),
                "spec.containers[1].name: `c` names another container already",
            ),
            (
                port(json!({"containerPort": 0})),
                "spec.containers[0].ports[0].containerPort: the field is missing or 0; use 1 to 65535",
            ),
            (
                port(json!({"containerPort": 1, "name": "A"})),
                "spec.containers[0].ports[0].name: `A` is no name for a container port",
            ),
            (
                port(json!({"containerPort": 1, "protocol": "udp"})),
                "spec.containers[0].ports[0].protocol: `udp` is no protocol; use TCP, UDP or SCTP (did you \
                 mean `UDP`?)",
            ),
            (
                port(json!({"containerPort": 1, "hostPort": 70_000})),
                "spec.containers[0].ports[0].hostPort: 70000 is no port; use 1 to 65535",
            ),
            (
                json!({"hostNetwork": true,
                       "containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 2}]}]}),
                "spec.containers[0].ports[0].hostPort: 2 is not `containerPort`, 1, which it is with \
                 `hostNetwork`; leave it out",
            ),
            (
                json!({"containers": [{"name": "c", "ports": [{"name": "a", "containerPort": 1},
                                                              {"name": "a", "containerPort": 2}]}]}),
                "spec.containers[0].ports[1].name: `a` names another port already; choose another name",
            ),
        ];
        for (spec, expected) in cases {
            expect_refusal(&spec, expected);
        }
    }
}
