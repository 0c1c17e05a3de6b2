//! Endpoints.

use serde_json::Value;

use super::text::{Text, or_unset, scalar};
use crate::cli::object::{list, or_none, text};

pub(super) fn describe(object: &Value) -> String {
    let mut shown = Text::default();
    shown.name(object);
    shown.labels_and_annotations(object);
    shown.line(0, "Subsets:");
    for subset in list(object, "/subsets") {
        let ips = |pointer| {
            let addresses = list(subset, pointer).iter();
            let ips: Vec<&str> = addresses.map(|address| text(address, "/ip")).collect();
            or_none(ips.join(","))
        };
        shown.field(1, "Addresses", ips("/addresses"));
        shown.field(1, "NotReadyAddresses", ips("/notReadyAddresses"));
        ports(subset, &mut shown, 1);
        shown.line(0, "");
    }
    shown.finish()
}

/// A table of ports, where there are any.
pub(super) fn ports(object: &Value, shown: &mut Text, level: usize) {
    let ports = list(object, "/ports");
    if ports.is_empty() {
        return;
    }
    shown.line(level, "Ports:");
    shown.line(level + 1, "Name\tPort\tProtocol");
    shown.line(level + 1, "----\t----\t--------");
    for port in ports {
        let number = match scalar(port, "/port") {
            none if none.is_empty() => "<unset>".to_owned(),
            number => number,
        };
        let (name, protocol) = (or_unset(port, "/name"), text(port, "/protocol"));
        shown.line(level + 1, format_args!("{name}\t{number}\t{protocol}"));
    }
}
