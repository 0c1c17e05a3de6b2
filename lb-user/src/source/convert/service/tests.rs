//! Rules of services, as a table: a fragment of a manifest, and what is said of it.

use lb_common::net::addr::Family;
use serde_json::{Value, json};

use super::*;
use crate::{
    desired::Protocol,
    model::{
        object::Labels,
        service::{
            Ingress, IpFamilyPolicy, IpMode, ServicePort, TargetPort, TrafficDistribution,
            TrafficPolicy,
        },
    },
};

mod old_objects;

fn judge(raw: Value) -> (Option<Service>, Vec<String>) {
    let mut remarks = Remarks::default();
    let raw = serde_json::from_value(raw).expect("a service by type");
    let service = service(raw, &mut remarks);
    (service.filter(|_| !remarks.reject()), remarks.texts())
}

fn of_spec(spec: &Value) -> (Option<Service>, Vec<String>) {
    judge(json!({"metadata": {"name": "web"}, "spec": spec}))
}

/// A spec that is good but for these fields.
fn with(fields: &Value) -> Value {
    let mut spec = json!({"ports": [{"port": 80}]});
    for (key, value) in fields.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    spec
}

/// The service of a spec that is good but for these fields, which are good as well.
fn good(fields: &Value) -> Service {
    let (service, said) = of_spec(&with(fields));
    assert_eq!(said, Vec::<String>::new(), "{fields}");
    service.expect("nothing is said of it")
}

/// Wants each fragment to be refused for this reason alone.
fn refused(cases: impl IntoIterator<Item = (Value, &'static str)>) {
    for (fields, expected) in cases {
        let (service, said) = of_spec(&with(&fields));
        assert_eq!(said, [format!("error {expected}")], "{fields}");
        assert_eq!(service, None, "{fields}");
    }
}

#[test]
fn what_is_not_given_has_its_default() {
    let expected = ServiceSpec {
        service_type: ServiceType::ClusterIp,
        cluster_ips: ClusterIps::Allocate,
        ports: [ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            target_port: TargetPort::Number(80),
            node_port: None,
            app_protocol: None,
        }]
        .into(),
        selector: Labels::new(),
        ip_families: [].into(),
        ip_family_policy: Some(IpFamilyPolicy::SingleStack),
        affinity_timeout_s: None,
        internal_traffic_policy: TrafficPolicy::Cluster,
        external_traffic_policy: TrafficPolicy::Cluster,
        publish_not_ready_addresses: false,
        external_name: None,
        external_ips: [].into(),
        load_balancer_ip: None,
        load_balancer_source_ranges: [].into(),
        load_balancer_class: None,
        allocate_node_ports: None,
        health_check_node_port: None,
        traffic_distribution: None,
        algorithm: None,
        maglev_size: None,
    };
    let service = good(&json!({}));
    assert_eq!(service.spec, expected);
    assert_eq!(service.shown_external_traffic_policy(), None);
    assert_eq!(
        service.shown_internal_traffic_policy(),
        Some(TrafficPolicy::Cluster)
    );
    assert_eq!(service.shown_session_affinity(), "None");
    // An empty text and a zero are as good as nothing.
    let empty = json!({"type": "", "clusterIP": "", "sessionAffinity": "", "externalTrafficPolicy": "",
        "ports": [{"port": 80, "protocol": "", "targetPort": 0, "nodePort": 0, "name": ""}]});
    assert_eq!(good(&empty).spec, expected);
    let empty_target = json!({"ports": [{"port": 80, "targetPort": ""}]});
    assert_eq!(good(&empty_target).spec, expected);
}

#[test]
fn defaults_depend_on_other_fields() {
    let affine = good(&json!({"sessionAffinity": "ClientIP"}));
    assert_eq!(affine.spec.affinity_timeout_s, Some(10_800));
    let empty_config =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}});
    assert_eq!(good(&empty_config).spec.affinity_timeout_s, Some(10_800));
    let policy = |fields| {
        let service = good(&fields);
        service.shown_external_traffic_policy()
    };
    assert_eq!(
        policy(json!({"type": "NodePort"})),
        Some(TrafficPolicy::Cluster)
    );
    assert_eq!(
        policy(json!({"externalIPs": ["192.0.2.1"]})),
        Some(TrafficPolicy::Cluster)
    );
    let balanced = good(&json!({"type": "LoadBalancer"}));
    assert_eq!(balanced.spec.allocate_node_ports, Some(true));
    let families = |fields| good(&fields).spec.ip_family_policy;
    assert_eq!(
        families(json!({"clusterIP": "None"})),
        Some(IpFamilyPolicy::RequireDualStack)
    );
    assert_eq!(
        families(json!({"clusterIP": "None", "selector": {"a": "b"}})),
        Some(IpFamilyPolicy::SingleStack)
    );
}

#[test]
fn every_field_is_kept() {
    let service = good(&json!({
        "type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
        "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
        "ports": [{"name": "a", "port": 80, "targetPort": "http", "nodePort": 30080, "appProtocol": "kubernetes.io/h2c"}],
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_400}},
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local", "healthCheckNodePort": 32_000,
        "loadBalancerSourceRanges": [" 10.0.0.0/8 ", "fd00::/8"], "loadBalancerClass": "example.com/a",
        "loadBalancerIP": "192.0.2.7", "allocateLoadBalancerNodePorts": false,
        "trafficDistribution": "PreferSameNode", "publishNotReadyAddresses": true}));
    let spec = service.spec;
    assert_eq!(*spec.ip_families, [Family::V4, Family::V6]);
    assert_eq!(spec.ip_family_policy, Some(IpFamilyPolicy::PreferDualStack));
    assert_eq!(
        spec.ports[0].app_protocol.as_deref(),
        Some("kubernetes.io/h2c")
    );
    assert_eq!(spec.ports[0].node_port, Some(30_080));
    assert_eq!(spec.affinity_timeout_s, Some(86_400));
    assert_eq!(spec.health_check_node_port, Some(32_000));
    assert_eq!(spec.load_balancer_source_ranges.len(), 2);
    assert_eq!(spec.load_balancer_class.as_deref(), Some("example.com/a"));
    assert_eq!(spec.load_balancer_ip.as_deref(), Some("192.0.2.7"));
    assert_eq!(spec.allocate_node_ports, Some(false));
    assert_eq!(
        spec.traffic_distribution,
        Some(TrafficDistribution::PreferSameNode)
    );
    assert!(spec.publish_not_ready_addresses);
}

#[test]
fn ports_are_checked_one_by_one() {
    let ports = |ports: Value| json!({"ports": ports});
    refused([
        (
            ports(json!([])),
            "spec.ports: the field is missing; a service needs at least one port",
        ),
        (
            ports(json!([{"port": 0}])),
            "spec.ports[0].port: the field is missing or 0; use 1 to 65535",
        ),
        (
            ports(json!([{"port": 70_000}])),
            "spec.ports[0].port: 70000 is no port; use 1 to 65535",
        ),
        (
            ports(json!([{"port": 80, "protocol": "tcp"}])),
            "spec.ports[0].protocol: `tcp` is no protocol; use TCP, UDP or SCTP (did you mean `TCP`?)",
        ),
        (
            ports(json!([{"port": 80, "targetPort": "8080"}])),
            "spec.ports[0].targetPort: `8080` is text; write the number without quotes",
        ),
        (
            ports(json!([{"port": 80, "targetPort": "a_b"}])),
            "spec.ports[0].targetPort: `a_b` is no name for a container port; use at most 15 lower-case \
             letters, digits and single `-`, one letter at least",
        ),
        (
            ports(json!([{"port": 80, "targetPort": -1}])),
            "spec.ports[0].targetPort: -1 is no port; use 1 to 65535",
        ),
        (
            ports(json!([{"port": 80, "nodePort": 30_080}])),
            "spec.ports[0].nodePort: a service of type ClusterIP has no node port; leave 30080 out or write \
             `type: NodePort`",
        ),
        (
            ports(json!([{"port": 80, "name": "A"}])),
            "spec.ports[0].name: `A` is no name for a port; use at most 63 lower-case letters, digits and \
             `-`, and begin and end with a letter or digit",
        ),
        (
            ports(json!([{"port": 80, "name": "a"}, {"port": 81}])),
            "spec.ports[1].name: the field is missing; each of several ports needs a name",
        ),
        (
            ports(json!([{"port": 80, "name": "a"}, {"port": 81, "name": "a"}])),
            "spec.ports[1].name: `a` names another port already; choose another name",
        ),
        (
            ports(json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}])),
            "spec.ports[1].port: 80/TCP stands here already; leave one out",
        ),
        (
            ports(json!([{"port": 80, "appProtocol": "a b"}])),
            "spec.ports[0].appProtocol: `a b` is no name for a protocol; use at most 63 letters, digits, \
             `-`, `_` and `.`, and begin and end with a letter or digit; a DNS name and `/` may stand before",
        ),
    ]);
}

#[test]
fn protocols_share_a_number() {
    let ports = |ports: Value| json!({"ports": ports});
    let several = json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b", "protocol": "UDP"},
                         {"port": 80, "name": "c", "protocol": "SCTP"}]);
    assert_eq!(good(&ports(several)).spec.ports.len(), 3);
}

#[test]
fn all_faults_of_a_port_are_told() {
    let (_, said) =
        of_spec(&json!({"ports": [{"port": 0, "protocol": "x", "targetPort": 0, "name": "A"}]}));
    let fields: Vec<_> = said
        .iter()
        .filter_map(|text| text.split(' ').nth(1))
        .collect();
    assert_eq!(
        fields,
        [
            "spec.ports[0].name:",
            "spec.ports[0].port:",
            "spec.ports[0].protocol:"
        ]
    );
}

#[test]
fn node_ports_are_ports_and_told_apart() {
    refused([
        (
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 70_000}]}),
            "spec.ports[0].nodePort: 70000 is no port; use 1 to 65535",
        ),
        (
            json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30_000},
                                                 {"name": "b", "port": 81, "nodePort": 30_000}]}),
            "spec.ports[1].nodePort: 30000/TCP is another port's already; choose another",
        ),
        (
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": -1}),
            "spec.healthCheckNodePort: -1 is no port; use 1 to 65535",
        ),
    ]);
    good(
        &json!({"type": "NodePort", "ports": [{"name": "a", "port": 53, "nodePort": 30_000},
                                               {"name": "b", "port": 53, "nodePort": 30_000, "protocol": "UDP"}]}),
    );
}

#[test]
fn addresses_and_families_agree() {
    refused([
        (
            json!({"clusterIP": "10.0.0.300"}),
            "spec.clusterIP: `10.0.0.300` is no IP address; write it as 10.0.0.1 or fd00::1",
        ),
        (
            json!({"clusterIP": "::ffff:10.0.0.1"}),
            "spec.clusterIP: `::ffff:10.0.0.1` is an IPv4 address in IPv6 form; write it plainly",
        ),
        (
            json!({"clusterIP": "127.0.0.1"}),
            "spec.clusterIP: 127.0.0.1 is a loopback address, which no service can have; use another",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            "spec.clusterIP: `10.0.0.1` is not the first of `clusterIPs`, which is `10.0.0.2`",
        ),
        (
            json!({"clusterIPs": ["10.0.0.1"]}),
            "spec.clusterIPs: the list needs `clusterIP` beside it; write `clusterIP: 10.0.0.1` as well",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"],
                   "ipFamilyPolicy": "PreferDualStack"}),
            "spec.clusterIPs: 10.0.0.1 and 10.0.0.2 are of one family; write one per family",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1", "10.0.0.2"],
                   "ipFamilyPolicy": "PreferDualStack"}),
            "spec.clusterIPs: 3 addresses are too many; write one per family",
        ),
    ]);
}

#[test]
fn none_stands_alone_and_families_stand_in_order() {
    refused([
        (
            json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.2"]}),
            "spec.clusterIPs: `None` stands alone; leave out what follows it",
        ),
        (
            json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2", "None"]}),
            "spec.clusterIPs[1]: `None` is no IP address; write it as 10.0.0.1 or fd00::1",
        ),
        (
            json!({"clusterIP": "None", "type": "NodePort"}),
            "spec.clusterIP: a service of type NodePort cannot be headless; leave out `None` or the type",
        ),
        (
            json!({"clusterIP": "None", "type": "LoadBalancer"}),
            "spec.clusterIP: a service of type LoadBalancer cannot be headless; leave out `None` or the type",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: 10.0.0.1 stands where `ipFamilies[0]` has IPv6; use one order in both",
        ),
        (
            json!({"ipFamilies": ["IPv5"]}),
            "spec.ipFamilies[0]: `IPv5` is no family; use IPv4 or IPv6 (did you mean `IPv4`?)",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv4"]}),
            "spec.ipFamilies[1]: IPv4 stands here already; leave it out",
        ),
        (
            json!({"ipFamilyPolicy": "DualStack"}),
            "spec.ipFamilyPolicy: `DualStack` is no policy; use SingleStack, PreferDualStack or \
             RequireDualStack",
        ),
        (
            json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: SingleStack has one family, but `ipFamilies` has two; write \
             PreferDualStack or RequireDualStack",
        ),
        (
            json!({"ipFamilies": ["IPv6", "IPv4"]}),
            "spec.ipFamilyPolicy: SingleStack, which it is where not given, has one family, but \
             `ipFamilies` has two; write PreferDualStack or RequireDualStack",
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
            "spec.ipFamilyPolicy: SingleStack, which it is where not given, has one family, but \
             `clusterIPs` has two; write PreferDualStack or RequireDualStack",
        ),
    ]);
}

#[test]
fn leading_zeros_are_decimal() {
    let (service, said) = of_spec(&with(&json!({"clusterIP": "172.30.0.041"})));
    assert_eq!(
        said,
        [
            "warning spec.clusterIP: `172.30.0.041` has leading zeros and is read as 172.30.0.41; write that"
        ]
    );
    let explicit = ClusterIps::Explicit([[172, 30, 0, 41].into()].into());
    assert_eq!(service.expect("used").spec.cluster_ips, explicit);
}

#[test]
fn headless_services_may_lack_ports_and_have_any_families() {
    let (service, said) = of_spec(&json!({"clusterIP": "None"}));
    assert_eq!(said, Vec::<String>::new());
    assert!(service.expect("a good service").is_headless());
    good(&json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6", "IPv4"]}));
}

#[test]
fn an_alias_has_a_host_name_and_nothing_of_a_cluster() {
    let alias = |fields: &Value| {
        let mut fields = fields.clone();
        fields["type"] = json!("ExternalName");
        if fields.get("externalName").is_none() {
            fields["externalName"] = json!("db.example.com");
        }
        fields
    };
    for name in [
        "db.example.com",
        "db.example.com.",
        "db",
        "1.2.3.4.example.com",
    ] {
        let service = good(&alias(&json!({"externalName": name, "ports": []})));
        assert!(service.is_external_name());
        assert_eq!(service.spec.external_name.as_deref(), Some(name));
        assert_eq!(service.spec.ip_family_policy, None);
        assert_eq!(service.shown_internal_traffic_policy(), None);
    }
    let missing =
        "spec.externalName: the field is missing; write the host name that the service stands for";
    let nothing = "a service of type ExternalName has no families; leave the field out";
    let families: &'static str = format!("spec.ipFamilies: {nothing}").leak();
    let policy: &'static str = format!("spec.ipFamilyPolicy: {nothing}").leak();
    refused([
        (alias(&json!({"externalName": ""})), missing),
        (alias(&json!({"externalName": "."})), missing),
        (
            alias(&json!({"externalName": "Db.example.com"})),
            "spec.externalName: `Db.example.com` is no name for a host; use at most 253 lower-case letters, \
             digits, `-` and `.`, and begin and end each part with a letter or digit",
        ),
        (
            alias(&json!({"clusterIP": "10.0.0.1"})),
            "spec.clusterIP: a service of type ExternalName has no address; leave the field out",
        ),
        (
            alias(&json!({"clusterIP": "None"})),
            "spec.clusterIP: a service of type ExternalName has no address; leave the field out",
        ),
        (alias(&json!({"ipFamilies": ["IPv4"]})), families),
        (alias(&json!({"ipFamilyPolicy": "SingleStack"})), policy),
        (
            alias(&json!({"externalTrafficPolicy": "Local"})),
            "spec.externalTrafficPolicy: a service of type ExternalName has no external traffic; leave \
             `Local` out, or write `type: NodePort` or `type: LoadBalancer`",
        ),
    ]);
}

#[test]
fn values_come_from_closed_lists() {
    refused([
        (
            json!({"type": "NodePrt"}),
            "spec.type: `NodePrt` is no type of service; use ClusterIP, NodePort, LoadBalancer or \
             ExternalName (did you mean `NodePort`?)",
        ),
        (
            json!({"sessionAffinity": "ClientIp"}),
            "spec.sessionAffinity: `ClientIp` is no affinity; use ClientIP or None (did you mean `ClientIP`?)",
        ),
        (
            json!({"internalTrafficPolicy": "local"}),
            "spec.internalTrafficPolicy: `local` is no policy; use Cluster or Local (did you mean `Local`?)",
        ),
        (
            json!({"internalTrafficPolicy": ""}),
            "spec.internalTrafficPolicy: `` is no policy; use Cluster or Local",
        ),
        (
            json!({"type": "NodePort", "externalTrafficPolicy": "Node"}),
            "spec.externalTrafficPolicy: `Node` is no policy; use Cluster or Local",
        ),
        (
            json!({"trafficDistribution": "PreferNear"}),
            "spec.trafficDistribution: `PreferNear` is no distribution; use PreferSameZone, PreferSameNode \
             or PreferClose",
        ),
        (
            json!({"sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86_401}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 s is no timeout; use 1 to 86400",
        ),
        (
            json!({"sessionAffinity": "ClientIP",
                   "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 s is no timeout; use 1 to 86400",
        ),
        (
            json!({"selector": {"a b": "c"}}),
            "spec.selector: `a b` is no key for a label; use at most 63 letters, digits, `-`, `_` and `.`, \
             and begin and end with a letter or digit; a DNS name and `/` may stand before",
        ),
        (
            json!({"selector": {"a": "b c"}}),
            "spec.selector.a: `b c` is no value for a label; use at most 63 letters, digits, `-`, `_` and \
             `.`, and begin and end with a letter or digit",
        ),
    ]);
}

#[test]
fn what_is_for_a_load_balancer_is_for_no_other() {
    refused([
        (
            json!({"externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: a service of type ClusterIP has no external traffic; leave `Local` \
             out, or write `type: NodePort` or `type: LoadBalancer`",
        ),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "spec.loadBalancerSourceRanges: a service of type ClusterIP cannot have it; only LoadBalancer can",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1"]}),
            "spec.loadBalancerSourceRanges[0]: `10.0.0.1` is no prefix; write it as 10.0.0.0/24",
        ),
        (
            json!({"type": "NodePort", "loadBalancerClass": "a"}),
            "spec.loadBalancerClass: a service of type NodePort cannot have it; only LoadBalancer can",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerClass": ""}),
            "spec.loadBalancerClass: `` is no name for a class; use at most 63 letters, digits, `-`, `_` \
             and `.`, and begin and end with a letter or digit; a DNS name and `/` may stand before",
        ),
        (
            json!({"allocateLoadBalancerNodePorts": true}),
            "spec.allocateLoadBalancerNodePorts: a service of type ClusterIP cannot have it; only \
             LoadBalancer can",
        ),
        (
            json!({"externalIPs": ["127.0.0.1"]}),
            "spec.externalIPs[0]: 127.0.0.1 is a loopback address, which no other node can reach; use another",
        ),
    ]);
}

#[test]
fn annotations_of_old_are_checked() {
    let judged = |annotations: Value, spec_type: &str| {
        let metadata = json!({"name": "web", "annotations": annotations});
        judge(json!({"metadata": metadata, "spec": with(&json!({"type": spec_type}))})).1
    };
    let ranges =
        |text: &str| json!({"service.beta.kubernetes.io/load-balancer-source-ranges": text});
    assert_eq!(
        judged(ranges("10.0.0.0/8, 192.0.2.0/24 "), "LoadBalancer"),
        Vec::<String>::new()
    );
    assert_eq!(judged(ranges(" "), "LoadBalancer"), Vec::<String>::new());
    assert_eq!(
        judged(ranges("10.0.0.0/8,x"), "LoadBalancer"),
        ["error metadata.annotations: `x` is no prefix; write it as 10.0.0.0/24"]
    );
    assert_eq!(
        judged(ranges("10.0.0.0/8"), "NodePort"),
        [
            "error metadata.annotations: a service of type NodePort cannot have it; only LoadBalancer can"
        ]
    );
    let modes = json!({"service.kubernetes.io/topology-mode": "Auto",
                       "service.kubernetes.io/topology-aware-hints": "disabled"});
    assert_eq!(
        judged(modes, "ClusterIP"),
        [
            "error metadata.annotations: `service.kubernetes.io/topology-mode` says `Auto`, but \
          `service.kubernetes.io/topology-aware-hints` says `disabled`; keep one of them"
        ]
    );
}

#[test]
fn what_the_api_drops_is_a_warning() {
    let (service, said) = of_spec(&with(
        &json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
    ));
    assert_eq!(
        said,
        [
            "warning spec.sessionAffinityConfig: it is not used without `sessionAffinity: ClientIP`; write that \
          or leave it out"
        ]
    );
    assert_eq!(service.expect("used").spec.affinity_timeout_s, None);
}

#[test]
fn a_load_balancers_status_is_read_as_far_as_it_is_right() {
    let judged = |spec_type: &str, ingress: Value| {
        let status = json!({"loadBalancer": {"ingress": ingress}});
        let spec = with(&json!({"type": spec_type}));
        let (service, said) =
            judge(json!({"metadata": {"name": "web"}, "spec": spec, "status": status}));
        (service.expect("the spec is good").ingress, said)
    };
    let (ingress, said) = judged(
        "LoadBalancer",
        json!([{"ip": "192.0.2.1", "ports": [{"port": 80, "protocol": "TCP"}]},
               {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "lb.example.com"}]),
    );
    assert_eq!(said, Vec::<String>::new());
    let texts: Vec<_> = ingress.iter().map(Ingress::to_string).collect();
    assert_eq!(texts, ["192.0.2.1", "192.0.2.2", "lb.example.com"]);
    let modes: Vec<_> = ingress.iter().map(|entry| entry.ip_mode).collect();
    assert_eq!(modes, [Some(IpMode::Vip), Some(IpMode::Proxy), None]);
    assert_eq!(ingress[0].ports[0].port, 80);
    let cases = [
        (
            json!({"ip": "x"}),
            "ip: `x` is no IP address; write it as 10.0.0.1 or fd00::1; it is not used",
        ),
        (
            json!({"hostname": "lb.example.com", "ipMode": "VIP"}),
            "ipMode: `VIP` is of no use without `ip`; it is not used",
        ),
        (
            json!({"ip": "192.0.2.1", "ipMode": "vip"}),
            "ipMode: `vip` is no mode; use VIP or Proxy (did you mean `VIP`?); it is not used",
        ),
        (
            json!({"hostname": "192.0.2.1"}),
            "hostname: `192.0.2.1` is an address; write it in `ip`; it is not used",
        ),
    ];
    for (entry, expected) in cases {
        let (ingress, said) = judged("LoadBalancer", json!([entry]));
        assert_eq!(
            said,
            [format!("warning status.loadBalancer.ingress[0].{expected}")]
        );
        assert_eq!(*ingress, []);
    }
    assert_eq!(
        judged("NodePort", json!([{"ip": "192.0.2.1"}])).1,
        [
            "warning status.loadBalancer.ingress: a service of type NodePort cannot have it; only LoadBalancer \
          can; it is not used"
        ]
    );
}

#[test]
fn a_service_without_spec_is_refused() {
    assert_eq!(
        judge(json!({"metadata": {"name": "web"}})).1,
        ["error spec: the field is missing; a service needs `spec.ports`"]
    );
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let cases = [
        (
            json!({"externalName": "a.b"}),
            "spec.externalName: a service of type ClusterIP does not use it; write `type: ExternalName` or \
             leave it out",
        ),
        (
            json!({"clusterIP": "None", "sessionAffinity": "ClientIP"}),
            "spec.sessionAffinity: a service without a ClusterIP does not use it; leave it out",
        ),
        (
            json!({"clusterIP": "None", "externalIPs": ["192.0.2.1"]}),
            "spec.externalIPs: a service without a ClusterIP does not use it; leave it out",
        ),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "externalIPs": ["192.0.2.1"]}),
            "spec.externalIPs: a service of type ExternalName does not use it; leave it out",
        ),
        (
            json!({"type": "NodePort", "loadBalancerIP": "192.0.2.1"}),
            "spec.loadBalancerIP: a service of type NodePort does not use it; leave it out",
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerIP": "x"}),
            "spec.loadBalancerIP: `x` is no IP address; write it as 10.0.0.1 or fd00::1; it is not used",
        ),
        (
            json!({"type": "ExternalName", "externalName": "10.0.0.1"}),
            "spec.externalName: `10.0.0.1` is taken for a host name, not for an address; for an address \
             write a service without a selector, and an EndpointSlice",
        ),
    ];
    for (fields, expected) in cases {
        let (service, said) = of_spec(&with(&fields));
        assert_eq!(said, [format!("warning {expected}")], "{fields}");
        assert!(service.is_some(), "{fields}");
    }
}

#[test]
fn no_load_balancer_has_the_port_of_kubelets() {
    refused([(
        json!({"type": "LoadBalancer", "ports": [{"port": 10250}]}),
        "spec.ports[0].port: 10250 is the kubelet's port, which no load balancer may have; use another",
    )]);
    good(&json!({"type": "NodePort", "ports": [{"port": 10250}]}));
}
