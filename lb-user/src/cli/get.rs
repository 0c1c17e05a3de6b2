//! `fulcrum get`: what the running agent makes of the manifests, in kubectl's columns.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::Value;

use super::{Place, output};
use crate::control::{Filter, Request, client::ask};

/// Flags of `get`.
#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// What to show
    #[arg(value_enum)]
    resource: Resource,

    /// Show only the object of this name
    #[arg(conflicts_with = "all_namespaces")]
    name: Option<String>,

    /// The namespace to look in
    #[arg(
        long,
        short,
        value_name = "NS",
        default_value = "default",
        conflicts_with = "all_namespaces"
    )]
    namespace: String,

    /// Look in all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Resource {
    /// Services
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Endpoints by service
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// kubectl's columns
    Table,
    /// The same and more
    Wide,
    /// JSON for programs
    Json,
}

/// The parts of a service that are columns.
#[derive(Deserialize)]
struct ServiceRow {
    namespace: String,
    name: String,
    #[serde(rename = "type")]
    service_type: String,
    cluster_ip: String,
    external_ip: String,
    ports: String,
    age_s: Option<u64>,
    selector: BTreeMap<String, String>,
}

/// The parts of endpoints that are columns.
#[derive(Deserialize)]
struct EndpointsRow {
    namespace: String,
    name: String,
    endpoints: String,
    age_s: Option<u64>,
    ready: Vec<String>,
}

/// Columns and rows, the namespace's first.
struct Columns {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

pub(super) fn get(args: GetArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let namespace = (!args.all_namespaces).then_some(args.namespace);
    let filter = Filter {
        namespace: namespace.clone(),
        name: args.name.clone(),
    };
    let request = match args.resource {
        Resource::Services => Request::Services(filter),
        Resource::Endpoints => Request::Endpoints(filter),
    };
    let found: Vec<Value> = ask(&place.run_dir(), request)?;
    match (&args.name, &namespace) {
        (Some(name), Some(namespace)) if found.is_empty() => {
            bail!(
                "{} {name:?} not found in namespace {namespace}",
                args.resource.plural()
            )
        }
        _ if args.output == Form::Json => output::print(&output::json(&found)?)?,
        (_, Some(namespace)) if found.is_empty() => {
            eprintln!("No resources found in {namespace} namespace.");
        }
        _ if found.is_empty() => eprintln!("No resources found"),
        _ => {
            let is_wide = args.output == Form::Wide;
            let columns = args.resource.columns(found, is_wide).context(
                "the agent's rows are not understood; use the binary that it was started from",
            )?;
            output::print(&columns.render(args.all_namespaces))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Resource {
    fn plural(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
        }
    }

    fn columns(self, rows: Vec<Value>, is_wide: bool) -> serde_json::Result<Columns> {
        match self {
            Self::Services => services(rows, is_wide),
            Self::Endpoints => endpoints(rows, is_wide),
        }
    }
}

impl Columns {
    fn render(mut self, with_namespace: bool) -> String {
        if !with_namespace {
            self.header.remove(0);
            for row in &mut self.rows {
                row.remove(0);
            }
        }
        output::table(&self.header, &self.rows)
    }
}

/// What `get services` prints of one namespace, made of rows as the agent gives them.
pub fn services_table(rows: Vec<Value>) -> serde_json::Result<String> {
    Ok(services(rows, false)?.render(false))
}

/// What `get endpoints` prints of one namespace, made of rows as the agent gives them.
pub fn endpoints_table(rows: Vec<Value>) -> serde_json::Result<String> {
    Ok(endpoints(rows, false)?.render(false))
}

fn services(rows: Vec<Value>, is_wide: bool) -> serde_json::Result<Columns> {
    let mut header = vec![
        "NAMESPACE",
        "NAME",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL-IP",
        "PORT(S)",
        "AGE",
    ];
    if is_wide {
        header.push("SELECTOR");
    }
    let cells = |value: Value| {
        let row: ServiceRow = serde_json::from_value(value)?;
        let mut cells = vec![
            row.namespace,
            row.name,
            row.service_type,
            row.cluster_ip,
            row.external_ip,
            row.ports,
            age(row.age_s),
        ];
        if is_wide {
            let selector: Vec<String> = row
                .selector
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            cells.push(or_none(selector.join(",")));
        }
        Ok(cells)
    };
    Ok(Columns {
        header,
        rows: rows
            .into_iter()
            .map(cells)
            .collect::<serde_json::Result<_>>()?,
    })
}

/// The wide form names all endpoints, of both families.
fn endpoints(rows: Vec<Value>, is_wide: bool) -> serde_json::Result<Columns> {
    let cells = |value: Value| {
        let row: EndpointsRow = serde_json::from_value(value)?;
        let endpoints = if is_wide {
            or_none(row.ready.join(","))
        } else {
            row.endpoints
        };
        Ok(vec![row.namespace, row.name, endpoints, age(row.age_s)])
    };
    let header = vec!["NAMESPACE", "NAME", "ENDPOINTS", "AGE"];
    Ok(Columns {
        header,
        rows: rows
            .into_iter()
            .map(cells)
            .collect::<serde_json::Result<_>>()?,
    })
}

fn age(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "<unknown>".to_owned(), output::age)
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service() -> Value {
        json!({
            "namespace": "default", "name": "hostname", "type": "ClusterIP",
            "cluster_ip": "10.96.0.10", "external_ip": "<none>", "ports": "80/TCP",
            "created": null, "selector": {"app": "hostname", "tier": "web"},
            "cluster_ips": ["10.96.0.10", "fd00::a"], "age_s": 5,
        })
    }

    #[test]
    fn services_have_kubectls_columns() {
        let columns = services(vec![service()], false).expect("rows");
        let expected = "\
NAME       TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE
hostname   ClusterIP   10.96.0.10   <none>        80/TCP    5s
";
        assert_eq!(columns.render(false), expected);
    }

    #[test]
    fn wide_services_have_their_selector_and_all_namespaces_theirs() {
        let columns = services(vec![service()], true).expect("rows");
        let expected = "\
NAMESPACE   NAME       TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE   SELECTOR
default     hostname   ClusterIP   10.96.0.10   <none>        80/TCP    5s    app=hostname,tier=web
";
        assert_eq!(columns.render(true), expected);
    }

    #[test]
    fn endpoints_have_kubectls_columns() {
        let row = json!({
            "namespace": "default", "name": "hostname", "endpoints": "10.244.1.2:8080",
            "ready": ["10.244.1.2:8080", "[fd00::2]:8080"], "age_s": null,
        });
        let columns = endpoints(vec![row.clone()], false).expect("rows");
        let expected = "\
NAME       ENDPOINTS         AGE
hostname   10.244.1.2:8080   <unknown>
";
        assert_eq!(columns.render(false), expected);
        let wide = endpoints(vec![row], true).expect("rows").render(false);
        assert!(wide.contains("10.244.1.2:8080,[fd00::2]:8080"), "{wide}");
    }

    #[test]
    fn a_row_of_another_build_is_an_error() {
        assert!(services(vec![json!({"name": "x"})], false).is_err());
    }
}
