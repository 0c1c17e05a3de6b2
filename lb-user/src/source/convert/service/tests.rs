//! Defaults and validation of services, field by field.

use serde_json::{Value, json};

use super::*;

fn service_of(spec: &Value) -> (Option<Service>, Vec<String>) {
    let mut remarks = Remarks::default();
    let raw = json!({"metadata": {"name": "web"}, "spec": spec});
    let raw = serde_json::from_value(raw).expect("a service by type");
    let service = service(raw, &mut remarks);
    let fields = remarks
        .into_inner()
        .into_iter()
        .map(|remark| remark.field)
        .collect();
    (service, fields)
}

/// Fields that a faulty spec is blamed for.
fn blamed(spec: &Value) -> Vec<String> {
    service_of(spec).1
}

/// A spec that is good but for these fields.
fn with(fields: &Value) -> Value {
    let mut spec = json!({"ports": [{"port": 80}]});
    for (key, value) in fields.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    spec
}

#[test]
fn what_is_not_given_has_its_default() {
    let (service, blamed) = service_of(&json!({"ports": [{"port": 80}]}));
    assert_eq!(blamed, Vec::<String>::new());
    let expected = ServiceSpec {
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps::Allocate,
        ports: vec![ServicePort {
            name: String::new(),
            protocol: crate::desired::Protocol::Tcp,
            port: 80,
            target_port: TargetPort::Number(80),
            node_port: None,
        }],
        selector: std::collections::BTreeMap::new(),
        ip_families: Vec::new(),
        ip_family_policy: None,
        affinity_timeout_s: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        publish_not_ready_addresses: false,
        external_name: None,
        external_ips: Vec::new(),
    };
    assert_eq!(service.expect("a good service").spec, expected);
    let (service, _) = service_of(&with(&json!({"sessionAffinity": "ClientIP"})));
    assert_eq!(
        service.expect("a good service").spec.affinity_timeout_s,
        Some(10_800)
    );
}

#[test]
fn ports_are_checked_one_by_one() {
    assert_eq!(blamed(&json!({})), ["spec.ports"]);
    assert_eq!(
        blamed(&json!({"ports": [{"port": 0}]})),
        ["spec.ports[0].port"]
    );
    let cases = [
        (json!([{"port": 70_000}]), "spec.ports[0].port"),
        (
            json!([{"port": 80, "protocol": "tcp"}]),
            "spec.ports[0].protocol",
        ),
        (
            json!([{"port": 80, "targetPort": "8080"}]),
            "spec.ports[0].targetPort",
        ),
        (
            json!([{"port": 80, "targetPort": "a_b"}]),
            "spec.ports[0].targetPort",
        ),
        (
            json!([{"port": 80, "targetPort": -1}]),
            "spec.ports[0].targetPort",
        ),
        (
            json!([{"port": 80, "nodePort": 70_000}]),
            "spec.ports[0].nodePort",
        ),
        (json!([{"port": 80, "name": "A"}]), "spec.ports[0].name"),
        (
            json!([{"port": 80, "name": "a"}, {"port": 81}]),
            "spec.ports[1].name",
        ),
        (
            json!([{"port": 80, "name": "a"}, {"port": 81, "name": "a"}]),
            "spec.ports[1].name",
        ),
        (
            json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
            "spec.ports[1].port",
        ),
    ];
    for (ports, field) in cases {
        assert_eq!(blamed(&json!({"ports": ports})), [field], "{ports}");
    }
}

#[test]
fn fields_that_do_not_go_together_are_refused() {
    let cases = [
        (json!({"type": "NodePrt"}), "spec.type"),
        (json!({"clusterIP": "10.0.0.300"}), "spec.clusterIP"),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            "spec.clusterIP",
        ),
        (
            json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            "spec.clusterIPs",
        ),
        (
            json!({"clusterIPs": ["None", "10.0.0.2"]}),
            "spec.clusterIPs",
        ),
        (
            json!({"clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIP",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}),
            "spec.ipFamilies",
        ),
        (json!({"ipFamilies": ["IPv5"]}), "spec.ipFamilies"),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies"),
        (json!({"ipFamilyPolicy": "Dual"}), "spec.ipFamilyPolicy"),
        (
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy",
        ),
        (
            json!({"externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy",
        ),
        (
            json!({"internalTrafficPolicy": "local"}),
            "spec.internalTrafficPolicy",
        ),
        (
            json!({"sessionAffinity": "ClientIp"}),
            "spec.sessionAffinity",
        ),
        (
            json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            "spec.sessionAffinityConfig",
        ),
        (
            json!({"sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        (json!({"type": "ExternalName"}), "spec.externalName"),
        (json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]"),
    ];
    for (fields, field) in cases {
        assert_eq!(blamed(&with(&fields)), [field], "{fields}");
    }
}

#[test]
fn a_headless_service_and_an_alias_need_no_port() {
    let (service, blamed) = service_of(&json!({"clusterIP": "None"}));
    assert_eq!(blamed, Vec::<String>::new());
    assert!(service.expect("a good service").is_headless());
    let (service, blamed) =
        service_of(&json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(blamed, Vec::<String>::new());
    assert!(service.expect("a good service").is_external_name());
}
