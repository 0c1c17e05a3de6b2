//! Nodes.

use serde_json::{Value, json};

/// `podCIDR` is the first of `podCIDRs`; the API fills in either out of the other.
pub(super) fn defaults(written: &Value) -> Value {
    let single = written.pointer("/spec/podCIDR");
    let listed = written.pointer("/spec/podCIDRs").and_then(Value::as_array);
    let spec = match (single, listed.and_then(|cidrs| cidrs.first())) {
        (Some(cidr), None) => json!({"podCIDRs": [cidr]}),
        (None, Some(first)) => json!({"podCIDR": first}),
        _ => json!({}),
    };
    json!({"spec": spec})
}
