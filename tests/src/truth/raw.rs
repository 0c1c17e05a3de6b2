//! The form of the tables as written.

use std::{collections::BTreeSet, net::IpAddr, net::SocketAddr};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::IgnoredAny};
use serde_yaml::Value;

use super::{
    Case, DEFAULT_PORT, Expect, Flags, Flow, Node, Protocol, SourceClass, case::locals_of,
};

/// A table. Keys that say where a fact comes from are for readers and not looked at.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default, rename = "meta")]
    _meta: IgnoredAny,
    /// Flags and facts of cases that give none of their own.
    defaults: Option<Defaults>,
    cases: Vec<RawCase>,
    #[serde(default, rename = "conntrack_cases")]
    _conntrack_cases: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    node: Node,
    flags: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    id: String,
    #[serde(rename = "description")]
    _description: IgnoredAny,
    node: Option<Node>,
    #[serde(default)]
    flags: Value,
    #[serde(default)]
    services: Vec<Value>,
    #[serde(default)]
    endpointslices: Vec<Value>,
    flows: Vec<RawFlow>,
    #[serde(default, rename = "test")]
    _test: IgnoredAny,
    #[serde(default, rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default, rename = "sources")]
    _sources: IgnoredAny,
    #[serde(default, rename = "previous")]
    _previous: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawFlow {
    name: String,
    source_class: String,
    #[serde(default = "tcp")]
    protocol: String,
    #[serde(rename = "sourceIP")]
    source_ip: IpAddr,
    source_port: Option<u16>,
    #[serde(rename = "destIP")]
    dest_ip: IpAddr,
    dest_port: u16,
    expect: RawExpect,
    #[serde(default)]
    masquerade: bool,
    list: Option<String>,
    frontend: Option<String>,
    service: Option<String>,
    #[serde(default, rename = "backends")]
    _backends: IgnoredAny,
    #[serde(default, rename = "sources")]
    _sources: IgnoredAny,
    #[serde(default, rename = "variants")]
    _variants: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawExpect {
    Endpoints(BTreeSet<SocketAddr>),
    Word(String),
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// The cases of a table.
pub(super) fn parse(text: &str) -> Result<Vec<Case>> {
    let mut table: Value = serde_yaml::from_str(text)?;
    table.apply_merge()?;
    let table: Table = serde_yaml::from_value(table)?;
    let defaults = &table.defaults;
    let cases = table.cases.into_iter();
    cases
        .map(|case| {
            let id = case.id.clone();
            settle(case, defaults.as_ref()).with_context(|| id)
        })
        .collect()
}

/// A case with everything that it leaves to the defaults.
fn settle(raw: RawCase, defaults: Option<&Defaults>) -> Result<Case> {
    let node = raw
        .node
        .or_else(|| Some(defaults?.node.clone()))
        .context("neither the case nor the defaults have `node`")?;
    let flags = merged(defaults.map(|defaults| &defaults.flags), raw.flags);
    let flags: Flags = serde_yaml::from_value(flags).context("`flags`")?;
    let flows = raw.flows.into_iter();
    let flows = flows
        .map(|flow| {
            let name = flow.name.clone();
            settle_flow(flow, &node).with_context(|| name)
        })
        .collect::<Result<_>>()?;
    Ok(Case {
        id: raw.id,
        locals: locals_of(&raw.endpointslices, &node.name),
        node,
        flags,
        services: raw.services,
        slices: raw.endpointslices,
        flows,
    })
}

fn merged(defaults: Option<&Value>, own: Value) -> Value {
    let (Some(Value::Mapping(defaults)), Value::Mapping(own)) = (defaults, &own) else {
        return match (own, defaults) {
            (Value::Null, Some(defaults)) => defaults.clone(),
            (own, _) => own,
        };
    };
    let mut all = defaults.clone();
    all.extend(own.clone());
    Value::Mapping(all)
}

fn settle_flow(raw: RawFlow, node: &Node) -> Result<Flow> {
    let class = match raw.source_class.as_str() {
        "pod" => SourceClass::Pod,
        "node" => SourceClass::Node,
        "localhost" => SourceClass::Localhost,
        "external" | "other" => SourceClass::External,
        other => bail!("the source class {other:?}"),
    };
    let protocol = match raw.protocol.as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => bail!("the protocol {other:?}"),
    };
    let expect = match raw.expect {
        RawExpect::Endpoints(candidates) => Expect::Forward(candidates),
        RawExpect::Word(word) => match word.as_str() {
            "REJECT" => Expect::Reject,
            "DROP" => Expect::Drop,
            "ACCEPT" => Expect::Local,
            "none" if node.local_ips.contains(&raw.dest_ip) => Expect::Local,
            "none" => Expect::Pass,
            other => bail!("the expectation {other:?}"),
        },
    };
    Ok(Flow {
        name: raw.name,
        class,
        protocol,
        from: SocketAddr::new(raw.source_ip, raw.source_port.unwrap_or(DEFAULT_PORT)),
        to: SocketAddr::new(raw.dest_ip, raw.dest_port),
        expect,
        masquerade: raw.masquerade,
        list: raw.list,
        frontend: raw.frontend,
        service: raw.service,
    })
}
