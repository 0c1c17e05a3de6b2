//! Services.

use std::net::IpAddr;

use lb_common::net::addr::Family;
use serde_json::{Map, Value, json};

use super::{
    merge::{self, fields},
    meta,
};
use crate::{
    alloc::Addresses,
    model::{
        object::{Kind, Located},
        service::{
            IpFamilyPolicy, IpMode, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy,
        },
    },
};

/// The service as written, with defaults and its addresses; without addresses where it is refused.
pub(super) fn object(located: &Located<Service>, addresses: Option<&Addresses>) -> Value {
    let service = &located.object;
    let written = located.written.value();
    let top = json!({
        "spec": spec(service, addresses),
        "status": {"loadBalancer": {"ingress": ingress(service, &written)}},
    });
    let identity = meta::identity(Kind::Service, &service.meta.name);
    merge::over(merge::over(written, identity), top)
}

/// What is filled in at a load balancer's addresses.
fn ingress(service: &Service, written: &Value) -> Value {
    const INGRESS: &str = "/status/loadBalancer/ingress";
    if service.spec.service_type != ServiceType::LoadBalancer {
        let as_written = written.pointer(INGRESS);
        return as_written.cloned().unwrap_or_default();
    }
    merge::items(written, INGRESS, |point| {
        let lacks_mode = point.get("ip").is_some() && point.get("ipMode").is_none();
        let mode = lacks_mode.then(|| IpMode::Vip.to_string());
        fields([("ipMode", json!(mode))])
    })
}

fn spec(service: &Service, addresses: Option<&Addresses>) -> Value {
    let spec = &service.spec;
    let affinity = spec.affinity_timeout_s;
    let policy = |policy: Option<TrafficPolicy>| policy.map_or(Value::Null, policy_name);
    let mut shown = fields([
        ("type", json!(spec.service_type.to_string())),
        ("ports", ports(&spec.ports, addresses)),
        ("sessionAffinity", json!(service.shown_session_affinity())),
        (
            "sessionAffinityConfig",
            affinity.map_or(Value::Null, |s| json!({"clientIP": {"timeoutSeconds": s}})),
        ),
        (
            "allocateLoadBalancerNodePorts",
            json!(spec.allocate_node_ports),
        ),
        (
            "externalTrafficPolicy",
            policy(service.shown_external_traffic_policy()),
        ),
        (
            "internalTrafficPolicy",
            policy(service.shown_internal_traffic_policy()),
        ),
    ]);
    if let Some(shown) = shown.as_object_mut() {
        shown.extend(cluster_ips(service, addresses));
        if let Some(addresses) = addresses {
            let number = json!(addresses.health_check_node_port);
            shown.insert("healthCheckNodePort".to_owned(), number);
        }
    }
    shown
}

fn ports(ports: &[ServicePort], addresses: Option<&Addresses>) -> Value {
    let port = |port: &ServicePort| {
        let target = match &port.target_port {
            TargetPort::Number(number) => json!(number),
            TargetPort::Name(name) => json!(&**name),
        };
        fields([
            ("port", json!(port.port)),
            ("protocol", json!(port.protocol)),
            ("targetPort", target),
            (
                "nodePort",
                json!(addresses.and_then(|it| it.node_ports.get(&*port.name))),
            ),
        ])
    };
    match ports {
        [] => Value::Null,
        ports => ports.iter().map(port).collect(),
    }
}

fn policy_name(policy: TrafficPolicy) -> Value {
    json!(match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    })
}

/// `clusterIP` to `ipFamilyPolicy`. An alias has none of them.
fn cluster_ips(service: &Service, addresses: Option<&Addresses>) -> Map<String, Value> {
    const FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    let values = match addresses {
        _ if service.is_external_name() => [const { Value::Null }; 4],
        None => return Map::new(),
        Some(addresses) => {
            let ips: Vec<String> = if service.is_headless() {
                vec!["None".to_owned()]
            } else {
                addresses.ips.iter().map(IpAddr::to_string).collect()
            };
            let families: Vec<String> = addresses.families.iter().map(Family::to_string).collect();
            [
                json!(ips.first()),
                json!(ips),
                json!(families),
                json!(family_policy(service)),
            ]
        }
    };
    let named = FIELDS.into_iter().map(str::to_owned).zip(values);
    named.collect()
}

fn family_policy(service: &Service) -> &'static str {
    match service.spec.ip_family_policy {
        None | Some(IpFamilyPolicy::SingleStack) => "SingleStack",
        Some(IpFamilyPolicy::PreferDualStack) => "PreferDualStack",
        Some(IpFamilyPolicy::RequireDualStack) => "RequireDualStack",
    }
}
