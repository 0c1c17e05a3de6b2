//! What the agent's node makes of a service, below what kubectl would print.

use serde_json::Value;

use super::text::{Text, scalar};
use crate::cli::object::{NONE, list, number, or_none, pairs, text, texts};

/// `service` is the object, `choice` what the agent says about it.
pub(super) fn describe(service: &Value, choice: &Value) -> String {
    let mut shown = Text::default();
    shown.line(0, format_args!("On this node ({}):", text(choice, "/node")));
    let ports = list(choice, "/ports");
    if ports.is_empty() {
        shown.line(1, why_nothing(service));
    }
    for port in ports {
        self::port(port, &mut shown);
    }
    shown.lay_out()
}

/// The same where the agent does not tell.
pub(super) fn unknown(reason: &str) -> String {
    format!("On this node:\n  not known: {reason}\n")
}

fn why_nothing(service: &Value) -> &'static str {
    if text(service, "/spec/type") == "ExternalName" {
        "Not served: it is another name of something, for DNS alone."
    } else if text(service, "/spec/clusterIP") == "None" {
        "Not served: it is headless, its endpoints are for DNS alone."
    } else if pairs(service, "/metadata/labels")
        .iter()
        .any(|(key, _)| LABELS.contains(key))
    {
        "Not served: its labels leave it to others."
    } else {
        "Not served: `fulcrum status` says why."
    }
}

/// Labels that keep a service out of the tables.
const LABELS: [&str; 2] = [
    crate::model::service::LABEL_HEADLESS,
    crate::model::service::LABEL_PROXY_NAME,
];

fn port(port: &Value, shown: &mut Text) {
    let (number, protocol) = (scalar(port, "/port"), text(port, "/protocol"));
    let family = text(port, "/family");
    let name = match text(port, "/name") {
        "" => String::new(),
        name => format!("{name}, "),
    };
    shown.line(1, format_args!("Port {name}{number}/{protocol}, {family}:"));
    if let Some(algorithm) = algorithm(port) {
        shown.line(2, algorithm);
    }
    let timeout = self::number(port, "/affinityTimeout").filter(|seconds| *seconds > 0);
    if let Some(seconds) = timeout {
        shown.line(
            2,
            format_args!(
                "Session affinity: by client address, for {seconds} s after its last connection"
            ),
        );
    }
    let ranges = texts(port, "/sourceRanges");
    if !ranges.is_empty() {
        let ranges = ranges.join(", ");
        shown.line(
            2,
            format_args!("Source ranges of the load balancer's addresses: {ranges}"),
        );
    }
    frontends(port, shown);
    endpoints(port, shown);
}

/// An older agent does not say.
fn algorithm(port: &Value) -> Option<String> {
    let name = text(port, "/algorithm");
    match number(port, "/maglevSize") {
        _ if name.is_empty() => None,
        Some(size) if name == "maglev" => {
            Some(format!("Algorithm: {name}, tables of {size} places"))
        }
        _ => Some(format!("Algorithm: {name}")),
    }
}

fn frontends(port: &Value, shown: &mut Text) {
    shown.line(2, "Frontends:");
    shown.line(3, "Address\tKind\tFor pods and this node\tFor others");
    shown.line(3, "-------\t----\t----------------------\t----------");
    for frontend in list(port, "/frontends") {
        let cells = [
            text(frontend, "/address").to_owned(),
            text(frontend, "/kind").to_owned(),
            answer(port, frontend, "/inside"),
            answer(port, frontend, "/outside"),
        ];
        shown.line(3, cells.join("\t"));
    }
}

/// A list, or what becomes of clients that have none, or an empty one.
fn answer(port: &Value, frontend: &Value, pointer: &str) -> String {
    let name = text(frontend, &format!("{pointer}/list"));
    match text(frontend, &format!("{pointer}/verdict")) {
        "drop" => format!("{name}: dropped, all are elsewhere"),
        "reject" if name.is_empty() => "rejected".to_owned(),
        "reject" => format!("{name}: rejected, there is none"),
        _ => format!(
            "{name} ({} of {})",
            in_list(port, name),
            list(port, "/endpoints").len()
        ),
    }
}

fn in_list(port: &Value, name: &str) -> usize {
    let endpoints = list(port, "/endpoints").iter();
    endpoints
        .filter(|endpoint| texts(endpoint, "/lists").contains(&name))
        .count()
}

fn endpoints(port: &Value, shown: &mut Text) {
    let endpoints = list(port, "/endpoints");
    if endpoints.is_empty() {
        shown.line(2, format_args!("Endpoints: {NONE}"));
        return;
    }
    shown.line(2, "Endpoints:");
    let is_weighed = |endpoint: &Value| !matches!(number(endpoint, "/weight"), None | Some(1));
    let are_weighed = endpoints.iter().any(is_weighed);
    let column = |title| if are_weighed { title } else { "" };
    let (title, line) = (column("\tWeight"), column("\t------"));
    shown.line(
        3,
        format_args!("Address\tTarget\tNode{title}\tIn\tNot in, because"),
    );
    shown.line(
        3,
        format_args!("-------\t------\t----{line}\t--\t---------------"),
    );
    for endpoint in endpoints {
        let or_none = |pointer| or_none(text(endpoint, pointer).to_owned());
        let mut cells = vec![
            text(endpoint, "/address").to_owned(),
            or_none("/target"),
            or_none("/node"),
            self::or_none(texts(endpoint, "/lists").join(", ")),
            reasons(endpoint),
        ];
        if are_weighed {
            let weight = number(endpoint, "/weight").unwrap_or(1);
            cells.insert(3, weight.to_string());
        }
        shown.line(3, cells.join("\t"));
    }
}

/// `LIST, LIST: REASON; LIST: REASON`.
fn reasons(endpoint: &Value) -> String {
    let reasons = pairs(endpoint, "/reasons");
    let groups = reasons.chunk_by(|(_, a), (_, b)| a == b).map(|group| {
        let lists: Vec<&str> = group.iter().map(|(list, _)| *list).collect();
        let reason = group.first().map_or(NONE, |(_, reason)| reason);
        format!("{}: {reason}", lists.join(", "))
    });
    or_none(groups.collect::<Vec<_>>().join("; "))
}
