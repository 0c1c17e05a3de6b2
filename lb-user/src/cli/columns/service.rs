//! NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli::object::{NONE, UNKNOWN, labels, list, number, or_none, text, texts};

pub(super) const NARROW: &[&str] = &[
    "NAME",
    "TYPE",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "PORT(S)",
    "AGE",
];
pub(super) const WIDE: &[&str] = &["SELECTOR"];

/// Longest list of a load balancer's addresses in the narrow form, in bytes.
const MAX_INGRESS: usize = 16;

pub(super) fn cells(object: &Value, is_wide: bool) -> Vec<String> {
    let cluster_ips = texts(object, "/spec/clusterIPs");
    let ports: Vec<String> = list(object, "/spec/ports").iter().map(port).collect();
    vec![
        text(object, "/metadata/name").to_owned(),
        text(object, "/spec/type").to_owned(),
        (*cluster_ips.first().unwrap_or(&NONE)).to_owned(),
        external_ip(object, is_wide),
        or_none(ports.join(",")),
        String::new(),
        labels(object, "/spec/selector"),
    ]
}

fn external_ip(object: &Value, is_wide: bool) -> String {
    let mut ips = texts(object, "/spec/externalIPs").join(",");
    match text(object, "/spec/type") {
        "ClusterIP" | "NodePort" => or_none(ips),
        "ExternalName" => text(object, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = ingress(object, is_wide);
            if !ingress.is_empty() && !ips.is_empty() {
                ips.insert(0, ',');
            }
            match ingress + &ips {
                none if none.is_empty() => "<pending>".to_owned(),
                all => all,
            }
        }
        _ => UNKNOWN.to_owned(),
    }
}

/// Addresses and names of a load balancer, sorted; cut short in the narrow form, as kubectl does.
fn ingress(object: &Value, is_wide: bool) -> String {
    let points = list(object, "/status/loadBalancer/ingress").iter();
    let name = |point| match text(point, "/ip") {
        "" => text(point, "/hostname"),
        ip => ip,
    };
    let names: BTreeSet<&str> = points.map(name).filter(|name| !name.is_empty()).collect();
    let mut all = names.into_iter().collect::<Vec<_>>().join(",");
    if !is_wide && all.len() > MAX_INGRESS {
        const ELLIPSIS: &str = "...";
        all.truncate(all.floor_char_boundary(MAX_INGRESS - ELLIPSIS.len()));
        all.push_str(ELLIPSIS);
    }
    all
}

fn port(port: &Value) -> String {
    let own = number(port, "/port").unwrap_or_default();
    let protocol = text(port, "/protocol");
    match number(port, "/nodePort") {
        Some(node_port) if node_port > 0 => format!("{own}:{node_port}/{protocol}"),
        _ => format!("{own}/{protocol}"),
    }
}
