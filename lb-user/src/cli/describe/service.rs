//! Services.

use serde_json::Value;

use super::text::{Text, or_unset, scalar};
use crate::cli::object::{
    NONE, address_with_port, first_three, labels, list, number, or_none, text, texts,
};

/// `slices` are those of the service, in order.
pub(super) fn describe(object: &Value, slices: &[&Value]) -> String {
    let mut shown = Text::default();
    shown.name(object);
    shown.labels_and_annotations(object);
    shown.field(0, "Selector", labels(object, "/spec/selector"));
    shown.field(0, "Type", text(object, "/spec/type"));
    addresses(object, &mut shown);
    for port in list(object, "/spec/ports") {
        self::port(port, slices, &mut shown);
    }
    policies(object, &mut shown);
    shown.finish()
}

fn addresses(object: &Value, shown: &mut Text) {
    let joined = |pointer| texts(object, pointer).join(",");
    shown.given(0, "IP Family Policy", text(object, "/spec/ipFamilyPolicy"));
    shown.field(0, "IP Families", or_none(joined("/spec/ipFamilies")));
    shown.field(0, "IP", text(object, "/spec/clusterIP"));
    shown.field(0, "IPs", or_none(joined("/spec/clusterIPs")));
    shown.given(0, "External IPs", &joined("/spec/externalIPs"));
    shown.given(
        0,
        "Desired LoadBalancer IP",
        text(object, "/spec/loadBalancerIP"),
    );
    shown.given(0, "External Name", text(object, "/spec/externalName"));
    let ingress = list(object, "/status/loadBalancer/ingress")
        .iter()
        .map(ingress);
    shown.given(
        0,
        "LoadBalancer Ingress",
        &ingress.collect::<Vec<_>>().join(", "),
    );
}

fn ingress(point: &Value) -> String {
    match (text(point, "/ip"), text(point, "/ipMode")) {
        ("", _) => text(point, "/hostname").to_owned(),
        (ip, "") => ip.to_owned(),
        (ip, mode) => format!("{ip} ({mode})"),
    }
}

fn port(port: &Value, slices: &[&Value], shown: &mut Text) {
    let (name, protocol) = (or_unset(port, "/name"), text(port, "/protocol"));
    shown.field(
        0,
        "Port",
        format_args!("{name}\t{}/{protocol}", scalar(port, "/port")),
    );
    let target = scalar(port, "/targetPort");
    shown.field(0, "TargetPort", format_args!("{target}/{protocol}"));
    shown.given(0, "AppProtocol", text(port, "/appProtocol"));
    if let Some(node_port) = number(port, "/nodePort").filter(|it| *it != 0) {
        shown.field(
            0,
            "NodePort",
            format_args!("{name}\t{node_port}/{protocol}"),
        );
    }
    shown.field(0, "Endpoints", endpoints(slices, text(port, "/name")));
}

/// The ready endpoints of all slices that have a port of this name.
fn endpoints(slices: &[&Value], port_name: &str) -> String {
    if slices.is_empty() {
        return NONE.to_owned();
    }
    first_three(slices.iter().flat_map(|slice| of_slice(slice, port_name)))
}

fn of_slice(slice: &Value, port_name: &str) -> Vec<String> {
    let ready = || {
        let endpoints = list(slice, "/endpoints").iter();
        endpoints
            .filter(|it| it.pointer("/conditions/ready") != Some(&Value::Bool(false)))
            .filter_map(|it| texts(it, "/addresses").first().copied())
    };
    let ports = list(slice, "/ports");
    if ports.is_empty() {
        return ready().map(str::to_owned).collect();
    }
    ports
        .iter()
        .filter(|port| text(port, "/name") == port_name)
        .filter_map(|port| number(port, "/port"))
        .flat_map(|port| ready().map(move |ip| address_with_port(ip, port)))
        .collect()
}

fn policies(object: &Value, shown: &mut Text) {
    shown.field(0, "Session Affinity", text(object, "/spec/sessionAffinity"));
    for (name, field) in [
        ("External Traffic Policy", "externalTrafficPolicy"),
        ("Internal Traffic Policy", "internalTrafficPolicy"),
    ] {
        shown.given(0, name, text(object, &format!("/spec/{field}")));
    }
    if let Some(port) = number(object, "/spec/healthCheckNodePort").filter(|it| *it != 0) {
        shown.field(0, "HealthCheck NodePort", port);
    }
    let ranges = texts(object, "/spec/loadBalancerSourceRanges").join(",");
    shown.given(0, "LoadBalancer Source Ranges", &ranges);
    shown.given(
        0,
        "Traffic Distribution",
        text(object, "/spec/trafficDistribution"),
    );
}
