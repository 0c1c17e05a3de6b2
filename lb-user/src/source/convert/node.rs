//! Nodes.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;

use super::{Remarks, address, meta};
use crate::{
    model::{
        node::Node,
        object::{Kind, family_of},
    },
    source::spelling,
};

/// The taint of a node that the cluster's autoscaler is about to remove.
const TAINT_LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node. The addresses of types that are IP addresses are kept in order.
pub(crate) fn node(raw: core::Node, remarks: &mut Remarks) -> Node {
    let is_deleted = raw.metadata.deletion_timestamp.is_some();
    let meta = meta(Kind::Node, raw.metadata, remarks);
    let spec = raw.spec.unwrap_or_default();
    let mut taints = spec.taints.iter().flatten();
    let addresses = raw.status.and_then(|status| status.addresses);
    Node {
        meta,
        is_leaving: is_deleted || taints.any(|taint| taint.key == TAINT_LEAVING),
        pod_cidrs: pod_cidrs(&spec, remarks),
        addresses: ips(&addresses.unwrap_or_default(), remarks),
    }
}

/// `spec.podCIDRs`. Where `spec.podCIDR` says otherwise it is right, as controllers of old wrote it alone.
fn pod_cidrs(spec: &core::NodeSpec, remarks: &mut Remarks) -> Vec<IpNet> {
    const LIST: &str = "spec.podCIDRs";
    let listed = spec.pod_cidrs.as_deref().unwrap_or_default();
    let single = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
    if let Some(single) = single
        && listed.first().is_none_or(|first| first != single)
    {
        if let Some(first) = listed.first() {
            let message = format!(
                "`{single}` is not the first of `podCIDRs`, which is `{first}`; only `{single}` is used"
            );
            remarks.warning("spec.podCIDR", message);
        }
        return Vec::from_iter(address::cidr(single, "spec.podCIDR", remarks));
    }
    let cidrs: Vec<IpNet> = (0..)
        .zip(listed)
        .filter_map(|(index, text): (usize, _)| {
            address::cidr(text, &format!("{LIST}[{index}]"), remarks)
        })
        .collect();
    let families: BTreeSet<_> = cidrs.iter().map(|cidr| family_of(cidr.addr())).collect();
    if families.len() < cidrs.len() {
        remarks.error(
            LIST,
            "several prefixes are of one family; write one per family",
        );
    }
    cidrs
}

/// Types of addresses that a cluster gives nodes.
const TYPES: [&str; 5] = [
    "InternalIP",
    "ExternalIP",
    "Hostname",
    "InternalDNS",
    "ExternalDNS",
];

/// The API takes any text for an address; one that is none is left out.
fn ips(addresses: &[core::NodeAddress], remarks: &mut Remarks) -> Vec<IpAddr> {
    let mut of_status = Remarks::default();
    for (index, raw) in addresses.iter().enumerate() {
        if let Some(near) = spelling::nearest(&raw.type_, TYPES).filter(|near| *near != raw.type_) {
            let message = format!("`{}` is not used (did you mean `{near}`?)", raw.type_);
            remarks.warning(&format!("status.addresses[{index}].type"), message);
        }
    }
    let ips = addresses
        .iter()
        .enumerate()
        .filter(|(_, address)| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|(index, raw)| {
            let field = format!("status.addresses[{index}].address");
            address::ip(&raw.address, &field, &mut of_status)
        })
        .collect();
    remarks.take_as_warnings(of_status);
    ips
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prefixes_come_from_the_list_or_the_single_field() {
        let mut remarks = Remarks::default();
        let mut of = |spec| {
            let raw = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z"}},
                "spec": spec,
                "status": {"addresses": [{"type": "Hostname", "address": "n"},
                                         {"type": "InternalIP", "address": "192.0.2.1"}]}});
            node(
                serde_json::from_value(raw).expect("a node by type"),
                &mut remarks,
            )
        };
        let single = of(json!({"podCIDR": "10.1.0.0/24"}));
        assert_eq!(single.pod_cidrs.len(), 1);
        assert_eq!(single.zone().map(|it| &**it), Some("z"));
        assert_eq!(single.addresses.len(), 1);
        let both =
            of(json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}));
        assert_eq!(both.pod_cidrs.len(), 2);
        assert!(remarks.into_inner().is_empty());
    }

    #[test]
    fn a_node_leaves_when_it_is_deleted_or_its_autoscaler_says_so() {
        let is_leaving = |metadata, taints| {
            let raw = json!({"metadata": metadata, "spec": {"taints": taints}});
            let raw = serde_json::from_value(raw).expect("a node by type");
            node(raw, &mut Remarks::default()).is_leaving
        };
        let name = json!({"name": "n"});
        let taint = |key| json!([{"key": "other", "effect": "NoSchedule"}, {"key": key, "effect": "NoSchedule"}]);
        assert!(!is_leaving(name.clone(), json!(null)));
        assert!(!is_leaving(
            name.clone(),
            taint("node.kubernetes.io/unschedulable")
        ));
        assert!(is_leaving(name, taint(TAINT_LEAVING)));
        let deleted = json!({"name": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(is_leaving(deleted, json!(null)));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let said = |spec: serde_json::Value| {
            let mut remarks = Remarks::default();
            let raw = json!({"metadata": {"name": "n"}, "spec": spec,
                "status": {"addresses": [{"type": "Hostname", "address": "any text"}]}});
            let node = node(
                serde_json::from_value(raw).expect("a node by type"),
                &mut remarks,
            );
            (node.pod_cidrs.len(), remarks.texts())
        };
        let cases = [
            (
                json!({"podCIDRs": ["10.1.2.3/16"]}),
                0,
                "error spec.podCIDRs[0]: `10.1.2.3/16` has bits after its length; write 10.1.0.0/16",
            ),
            (
                json!({"podCIDRs": ["10.1.0.0/16", "10.2.0.0/16"]}),
                2,
                "error spec.podCIDRs: several prefixes are of one family; write one per family",
            ),
            (
                json!({"podCIDR": "10.1.0.0/16", "podCIDRs": ["10.2.0.0/16"]}),
                1,
                "warning spec.podCIDR: `10.1.0.0/16` is not the first of `podCIDRs`, which is \
                 `10.2.0.0/16`; only `10.1.0.0/16` is used",
            ),
        ];
        for (spec, count, expected) in cases {
            assert_eq!(said(spec), (count, vec![expected.to_owned()]));
        }
    }

    #[test]
    fn an_address_that_is_none_is_left_out() {
        let mut remarks = Remarks::default();
        let raw = json!({"metadata": {"name": "n"},
            "status": {"addresses": [{"type": "InternalIP", "address": "x"}]}});
        let raw = serde_json::from_value(raw).expect("a node by type");
        assert_eq!(node(raw, &mut remarks).addresses, Vec::<IpAddr>::new());
        assert_eq!(
            remarks.texts(),
            [
                "warning status.addresses[0].address: `x` is no IP address; write it as 10.0.0.1 or fd00::1; it \
              is not used"
            ]
        );
    }
}
