//! Rules of slices and Endpoints: a fragment, and what is said of it.

use lb_common::net::addr::Family;
use serde_json::{Value, json};

use super::*;
use crate::{
    desired::Protocol,
    model::endpoint::{AddressType, Conditions, EndpointSlice, GivenConditions},
};

fn slice_of(value: Value) -> (Option<EndpointSlice>, Vec<String>) {
    let mut remarks = Remarks::default();
    let raw = serde_json::from_value(value).expect("a slice by type");
    let slice = slice(raw, &mut remarks);
    (slice.filter(|_| !remarks.reject()), remarks.texts())
}

/// A good slice but for these fields.
fn slice_with(fields: &Value) -> Value {
    let mut slice = json!({
        "metadata": {"name": "s", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"port": 80}],
    });
    for (key, value) in fields.as_object().expect("an object") {
        slice[key] = value.clone();
    }
    slice
}

fn endpoints_said(subset: &Value) -> Vec<String> {
    let mut remarks = Remarks::default();
    let raw = json!({"metadata": {"name": "web"}, "subsets": [subset]});
    let raw = serde_json::from_value(raw).expect("Endpoints by type");
    endpoints(raw, &mut remarks);
    remarks.texts()
}

#[test]
fn nil_fields_get_their_meaning() {
    let (slice, said) = slice_of(slice_with(&json!({
        "addressType": "IPv6",
        "endpoints": [{"addresses": ["fd00::7"], "conditions": {"ready": false}}],
        "ports": [{"port": 80}, {"name": "none", "appProtocol": "example.com/x"}],
    })));
    assert_eq!(said, Vec::<String>::new());
    let slice = slice.expect("a good slice");
    assert_eq!(slice.service().map(|it| &**it), Some("web"));
    assert_eq!(slice.address_type, AddressType::Ip(Family::V6));
    let endpoint = slice.endpoints[0].clone();
    let conditions = Conditions {
        ready: false,
        ..Conditions::READY
    };
    assert_eq!(endpoint.conditions, conditions);
    let given = GivenConditions {
        ready: Some(false),
        ..GivenConditions::default()
    };
    assert_eq!(endpoint.given, given);
    assert_eq!(slice.ports[0].protocol, Protocol::Tcp);
    assert_eq!((slice.ports[0].port, slice.ports[1].port), (Some(80), None));
    assert_eq!(
        slice.ports[1].app_protocol.as_deref(),
        Some("example.com/x")
    );
}

#[test]
fn every_field_of_an_endpoint_is_kept() {
    let (slice, said) = slice_of(slice_with(&json!({"endpoints": [{
        "addresses": ["10.0.0.1", "10.0.0.2"], "nodeName": "n.1", "hostname": "h", "zone": "z",
        "targetRef": {"kind": "Pod", "name": "p", "namespace": "a", "uid": "u"},
        "deprecatedTopology": {"a": "b"},
        "hints": {"forZones": [{"name": "z"}], "forNodes": [{"name": "n.1"}]}}]})));
    assert_eq!(said, Vec::<String>::new());
    let slice = slice.expect("a good slice");
    let endpoint = slice.endpoints[0].clone();
    assert_eq!(endpoint.addresses.len(), 2);
    assert_eq!(endpoint.hostname.as_deref(), Some("h"));
    let target = endpoint.target.expect("a target");
    assert_eq!(
        (target.to_string().as_str(), &*target.namespace),
        ("Pod p", "a")
    );
    let hints = endpoint.hints.expect("hints");
    assert_eq!(
        (hints.zones, hints.nodes),
        (["z".into()].into(), ["n.1".into()].into())
    );
}

/// Fields of a slice that make it wrong, and what is said.
fn faulty_slices() -> Vec<(Value, &'static str)> {
    let endpoint = |fields: Value| json!({"endpoints": [fields]});
    let of = |address: &str| json!({"endpoints": [{"addresses": [address]}]});
    vec![
        (
            json!({"addressType": ""}),
            "error addressType: the field is missing; write IPv4, IPv6 or FQDN",
        ),
        (
            json!({"addressType": "IPv5"}),
            "error addressType: `IPv5` is no type of address; use IPv4, IPv6 or FQDN (did you mean `IPv4`?)",
        ),
        (
            endpoint(json!({"addresses": []})),
            "error endpoints[0].addresses: the field is missing; an endpoint has at least one address",
        ),
        (
            endpoint(json!({"addresses": vec!["10.0.0.1"; 101]})),
            "error endpoints[0].addresses: 101 entries are too many; use at most 100",
        ),
        (
            json!({"endpoints": vec![json!({"addresses": ["10.0.0.1"]}); 1001]}),
            "error endpoints: 1001 entries are too many; use at most 1000",
        ),
        (
            of("fd00::7"),
            "error endpoints[0].addresses[0]: fd00::7 is no IPv4 address, but `addressType` says IPv4; use \
             one slice per family",
        ),
        (
            of("a"),
            "error endpoints[0].addresses[0]: `a` is no IP address; write it as 10.0.0.1 or fd00::1",
        ),
        (
            of("127.0.0.1"),
            "error endpoints[0].addresses[0]: 127.0.0.1 is a loopback address, which no other node can \
             reach; use another",
        ),
        (
            of("169.254.0.1"),
            "error endpoints[0].addresses[0]: 169.254.0.1 is a link-local address, which no other node can \
             reach; use another",
        ),
    ]
}

/// As [`faulty_slices`], for what is not an address.
fn faulty_details() -> Vec<(Value, &'static str)> {
    let endpoint = |fields: Value| json!({"endpoints": [fields]});
    vec![
        (
            endpoint(json!({"addresses": ["10.0.0.1"], "hostname": "a.b"})),
            "error endpoints[0].hostname: `a.b` is no name for a host; use at most 63 lower-case letters, \
             digits and `-`, and begin and end with a letter or digit",
        ),
        (
            endpoint(json!({"addresses": ["10.0.0.1"], "nodeName": "N"})),
            "error endpoints[0].nodeName: `N` is no name for a Node; use at most 253 lower-case letters, \
             digits, `-` and `.`, and begin and end each part with a letter or digit",
        ),
        (
            endpoint(
                json!({"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "z"}, {"name": "z"}]}}),
            ),
            "error endpoints[0].hints.forZones[1].name: `z` stands here already; leave it out",
        ),
        (
            endpoint(json!({"addresses": ["10.0.0.1"],
                "hints": {"forNodes": (0..9).map(|n| json!({"name": n.to_string()})).collect::<Vec<_>>()}})),
            "error endpoints[0].hints.forNodes: 9 entries are too many; use at most 8",
        ),
        (
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["localhost"]}]}),
            "error endpoints[0].addresses[0]: `localhost` is no full host name; write it as db.example.com, \
             in lower case",
        ),
        (
            json!({"ports": [{"port": 80}, {"port": 81}]}),
            "error ports[1].name: the field is missing, as it is in another port; give each port a name",
        ),
        (
            json!({"ports": [{"port": 80, "name": "A"}]}),
            "error ports[0].name: `A` is no name for a port; use at most 63 lower-case letters, digits and \
             `-`, and begin and end with a letter or digit",
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "tcp"}]}),
            "error ports[0].protocol: `tcp` is no protocol; use TCP, UDP or SCTP (did you mean `TCP`?)",
        ),
        (
            json!({"ports": [{"port": 80, "appProtocol": "a b"}]}),
            "error ports[0].appProtocol: `a b` is no name for a protocol; use at most 63 letters, digits, \
             `-`, `_` and `.`, and begin and end with a letter or digit; a DNS name and `/` may stand before",
        ),
    ]
}

#[test]
fn faulty_slices_are_refused() {
    for (fields, expected) in faulty_slices().into_iter().chain(faulty_details()) {
        let (slice, said) = slice_of(slice_with(&fields));
        let errors: Vec<_> = said
            .iter()
            .filter(|text| text.starts_with("error"))
            .collect();
        assert_eq!(errors, [expected]);
        assert_eq!(slice, None);
    }
}

#[test]
fn what_a_proxy_ignores_is_a_warning() {
    let cases = [
        (
            json!({"addressType": "FQDN", "endpoints": [{"addresses": ["db.example.com"]}]}),
            "warning addressType: host names cannot be served; the slice is not used",
        ),
        (
            json!({"metadata": {"name": "s"}}),
            "warning metadata.labels: no label `kubernetes.io/service-name` says which service the slice is \
             for; it is not used",
        ),
        (
            json!({"ports": [{"port": 70_000}]}),
            "warning ports[0].port: 70000 is no port; use 1 to 65535; it is not used",
        ),
        (
            json!({"endpoints": [{"addresses": ["10.180.00.001"]}]}),
            "warning endpoints[0].addresses[0]: `10.180.00.001` has leading zeros and is read as \
             10.180.0.1; write that",
        ),
        (
            json!({"endpoints": [{"addresses": ["239.1.1.1"]}]}),
            "warning endpoints[0].addresses[0]: 239.1.1.1 is a multicast address, from which nothing answers",
        ),
    ];
    for (fields, expected) in cases {
        let (slice, said) = slice_of(slice_with(&fields));
        assert_eq!(said, [expected]);
        assert!(slice.is_some(), "{expected}");
    }
}

#[test]
fn faulty_endpoints_are_refused() {
    let cases = [
        (
            json!({"ports": [{"port": 80}]}),
            "error subsets[0]: there is no address; write some in `addresses` or `notReadyAddresses`",
        ),
        (
            json!({"addresses": [{"ip": "::1"}]}),
            "error subsets[0].addresses[0].ip: ::1 is a loopback address, which no other node can reach; use \
             another",
        ),
        (
            json!({"notReadyAddresses": [{"ip": ""}]}),
            "error subsets[0].notReadyAddresses[0].ip: `` is no IP address; write it as 10.0.0.1 or fd00::1",
        ),
        (
            json!({"addresses": [{"ip": "10.0.0.1", "hostname": "-"}]}),
            "error subsets[0].addresses[0].hostname: `-` is no name for a host; use at most 63 lower-case \
             letters, digits and `-`, and begin and end with a letter or digit",
        ),
        (
            json!({"addresses": [{"ip": "10.0.0.1", "nodeName": ""}]}),
            "error subsets[0].addresses[0].nodeName: `` is no name for a Node; use at most 253 lower-case \
             letters, digits, `-` and `.`, and begin and end each part with a letter or digit",
        ),
        (
            json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a"}, {"port": 81}]}),
            "error subsets[0].ports[1].name: the field is missing; each of several ports needs a name",
        ),
        (
            json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 0}]}),
            "error subsets[0].ports[0].port: the field is missing or 0; use 1 to 65535",
        ),
        (
            json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "ICMP"}]}),
            "error subsets[0].ports[0].protocol: `ICMP` is no protocol; use TCP, UDP or SCTP",
        ),
    ];
    for (subset, expected) in cases {
        assert_eq!(endpoints_said(&subset), [expected]);
    }
}

#[test]
fn endpoints_may_lack_ports_and_readiness() {
    let cases = [
        json!({"addresses": [{"ip": "10.0.0.1"}]}),
        json!({"notReadyAddresses": [{"ip": "fd00::1", "hostname": "", "nodeName": "n"}]}),
        json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "name": "a", "appProtocol": "http"}]}),
    ];
    for subset in cases {
        assert_eq!(endpoints_said(&subset), Vec::<String>::new());
    }
}
