//! What `fulcrum trace` is asked about flows in a batch, and what its answers in JSON must hold.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Answer, Case, Expect, Flow};

/// All keys of an answer, whatever its verdict.
const KEYS: [&str; 15] = [
    "backend",
    "candidates",
    "destination",
    "existing_flow",
    "frontend",
    "list",
    "masquerade",
    "name",
    "next_hop",
    "reason",
    "service",
    "source",
    "steps",
    "verdict",
    "error",
];

/// One line of a batch, with its end.
pub fn question(flow: &Flow) -> String {
    let question = json!({
        "name": flow.name,
        "in": flow.class.way_in(),
        "from": flow.from.to_string(),
        "to": flow.to.to_string(),
        "protocol": flow.protocol.to_string(),
    });
    format!("{question}\n")
}

/// An answer with all that belongs to it.
pub fn read(case: &Case, flow: &Flow, line: &Value) -> Result<Answer> {
    whole(line)?;
    ensure!(
        line["name"] == json!(flow.name),
        "the answer to another flow"
    );
    let outcome = match line["verdict"].as_str() {
        Some("forward") => Expect::Forward(candidates(line)?),
        Some("reject") => Expect::Reject,
        Some("drop") => Expect::Drop,
        Some("local") => Expect::Local,
        Some("pass") => Expect::Pass,
        other => bail!("the verdict {other:?}"),
    };
    let mut sources = Vec::new();
    if matches!(outcome, Expect::Forward(_)) {
        sources.push(forwarded(flow, line)?);
    }
    for (key, expected) in [
        ("list", &flow.list),
        ("frontend", &flow.frontend),
        ("service", &flow.service),
    ] {
        if let Some(expected) = expected {
            ensure!(line[key] == json!(expected), "{key} is not {expected}");
        }
    }
    ensure!(
        outcome != Expect::Local || case.is_local(flow.to.ip()),
        "local, but no address of the node"
    );
    Ok(Answer { outcome, sources })
}

/// Fails unless the answer has every key, and null exactly where a key does not apply.
pub fn whole(line: &Value) -> Result<()> {
    let object = line.as_object().context("the answer is no object")?;
    if let Some(error) = object.get("error").filter(|error| !error.is_null()) {
        bail!("the error {error}");
    }
    for key in KEYS.into_iter().filter(|key| *key != "error") {
        ensure!(object.contains_key(key), "there is no key {key:?}");
    }
    let unknown: Vec<&String> = object
        .keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .collect();
    ensure!(unknown.is_empty(), "unknown keys {unknown:?}");
    ensure!(
        line["reason"].is_string(),
        "`reason` is no name of a counter"
    );
    ensure!(
        line["steps"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty()),
        "`steps` is no list with a step"
    );
    let is_forward = line["verdict"] == "forward";
    for key in ["backend", "source", "destination"] {
        ensure!(
            line[key].is_string() == is_forward && (is_forward || line[key].is_null()),
            "{key:?} is {} of a packet whose verdict is {}",
            line[key],
            line["verdict"]
        );
    }
    ensure!(
        line["masquerade"].is_boolean() || line["masquerade"].is_null(),
        "`masquerade` is neither true nor false"
    );
    ensure!(
        !is_forward || line["masquerade"].is_boolean(),
        "`masquerade` of a forwarded packet"
    );
    let of_service = ["service", "frontend"].map(|key| line[key].is_string());
    ensure!(
        of_service[0] == of_service[1],
        "`service` and `frontend` come together"
    );
    ensure!(
        !is_forward || of_service[0],
        "a forwarded packet has a service"
    );
    Ok(())
}

/// The backend that was chosen, one of the candidates, and whether the source is another one.
fn forwarded(flow: &Flow, line: &Value) -> Result<(SocketAddr, bool)> {
    let address = |key: &str| -> Result<SocketAddr> {
        let text = line[key].as_str().context(key.to_owned())?;
        text.parse().with_context(|| format!("{key} {text:?}"))
    };
    let backend = address("backend")?;
    ensure!(
        candidates(line)?.contains(&backend),
        "the backend is no candidate"
    );
    ensure!(
        address("destination")? == backend,
        "the packet does not go to its backend"
    );
    let is_masqueraded = line["masquerade"] == json!(true);
    let source = address("source")?;
    ensure!(
        (source.ip() != flow.from.ip()) == is_masqueraded || flow.class.is_host(),
        "`source` and `masquerade` contradict each other"
    );
    Ok((backend, is_masqueraded))
}

/// The candidates, which are sorted (as texts or as addresses) and written as `1.2.3.4:80` and `[fd00::1]:80`.
fn candidates(line: &Value) -> Result<BTreeSet<SocketAddr>> {
    let list = line["candidates"]
        .as_array()
        .context("`candidates` is no list")?;
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    let all: BTreeSet<SocketAddr> = texts
        .iter()
        .map(|text| {
            text.parse()
                .with_context(|| format!("the candidate {text:?}"))
        })
        .collect::<Result<_>>()?;
    let written: Vec<String> = all.iter().map(SocketAddr::to_string).collect();
    let is_sorted = texts == written || texts.is_sorted() && texts.len() == written.len();
    ensure!(is_sorted, "{texts:?} are not sorted");
    let odd = texts
        .iter()
        .find(|text| !written.iter().any(|other| other == *text));
    ensure!(odd.is_none(), "{odd:?} is not how an address is written");
    Ok(all)
}
