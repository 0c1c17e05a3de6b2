//! Nodes.

use k8s_openapi::api::core::v1 as core;

use super::{Remarks, address, meta};
use crate::model::{node::Node, object::Kind};

/// A Node. The addresses of types that are IP addresses are kept in order.
pub(crate) fn node(raw: core::Node, remarks: &mut Remarks) -> Node {
    let meta = meta(Kind::Node, raw.metadata, remarks);
    let spec = raw.spec.unwrap_or_default();
    let listed = spec.pod_cidrs.unwrap_or_default();
    let pod_cidrs = if listed.is_empty() {
        spec.pod_cidr
            .iter()
            .filter_map(|text| address::cidr(text, "spec.podCIDR", remarks))
            .collect()
    } else {
        (0..)
            .zip(&listed)
            .filter_map(|(index, text): (usize, _)| {
                address::cidr(text, &format!("spec.podCIDRs[{index}]"), remarks)
            })
            .collect()
    };
    let addresses = (0..)
        .zip(
            raw.status
                .and_then(|status| status.addresses)
                .unwrap_or_default(),
        )
        .filter(|(_, address)| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
        .filter_map(|(index, raw): (usize, _)| {
            address::ip(
                &raw.address,
                &format!("status.addresses[{index}].address"),
                remarks,
            )
        })
        .collect();
    Node {
        meta,
        addresses,
        pod_cidrs,
    }
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
        assert_eq!(single.zone(), Some("z"));
        assert_eq!(single.addresses.len(), 1);
        let both =
            of(json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"]}));
        assert_eq!(both.pod_cidrs.len(), 2);
        assert!(remarks.into_inner().is_empty());
    }
}
