//! NAME ENDPOINTS AGE, and of slices NAME ADDRESSTYPE PORTS ENDPOINTS AGE.

use serde_json::Value;

use crate::cli::object::{NONE, address_with_port, first_three, list, number, text, texts};

pub(super) const NARROW: &[&str] = &["NAME", "ENDPOINTS", "AGE"];
pub(super) const SLICE_NARROW: &[&str] = &["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"];

pub(super) fn cells(object: &Value) -> Vec<String> {
    let subsets = list(object, "/subsets");
    let listed = first_three(subsets.iter().flat_map(subset));
    let endpoints = if subsets.is_empty() {
        NONE.to_owned()
    } else {
        listed
    };
    vec![
        text(object, "/metadata/name").to_owned(),
        endpoints,
        String::new(),
    ]
}

/// Every ready address with every port; TCP and UDP of one number are two, as kubectl has it.
fn subset(subset: &Value) -> Vec<String> {
    let addresses = || {
        list(subset, "/addresses")
            .iter()
            .map(|address| text(address, "/ip"))
    };
    match list(subset, "/ports") {
        [] => addresses().map(str::to_owned).collect(),
        ports => ports
            .iter()
            .filter_map(|port| number(port, "/port"))
            .flat_map(|port| addresses().map(move |ip| address_with_port(ip, port)))
            .collect(),
    }
}

pub(super) fn slice_cells(object: &Value) -> Vec<String> {
    let port = |port: &Value| match (number(port, "/port"), text(port, "/name")) {
        (Some(number), _) => number.to_string(),
        (None, name) if port.get("name").is_some() => name.to_owned(),
        (None, _) => "*".to_owned(),
    };
    let ports = list(object, "/ports").iter().map(port);
    let endpoints = list(object, "/endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| texts(endpoint, "/addresses"));
    vec![
        text(object, "/metadata/name").to_owned(),
        text(object, "/addressType").to_owned(),
        or_unset(first_three(ports)),
        or_unset(first_three(addresses.map(str::to_owned))),
        String::new(),
    ]
}

fn or_unset(text: String) -> String {
    if text.is_empty() {
        "<unset>".to_owned()
    } else {
        text
    }
}
