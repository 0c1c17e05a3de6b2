//! `fulcrum describe`: everything about an object, as kubectl lays it out.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::{
    Place,
    get::Scope,
    output,
    resource::{self, Target},
};
use crate::{
    control::{
        Name, Query,
        client::{Event, objects},
        selector::Selector,
    },
    model::{endpoint::LABEL_SERVICE_NAME, object::Kind},
};

mod container;
mod endpoints;
mod node;
mod pod;
mod service;
mod slice;
mod text;
mod volume;

/// Flags of `describe`.
#[derive(Args, Debug)]
pub(super) struct DescribeArgs {
    /// What to describe: a service (svc), endpoints (ep), endpointslice, pod (po) or node (no), and its name or how
    /// that begins; without a name all of them. Or TYPE/NAME each
    #[arg(required = true, value_name = "TYPE [NAME...]|TYPE/NAME")]
    what: Vec<String>,

    #[command(flatten)]
    scope: Scope,
}

pub(super) fn describe(args: &DescribeArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let targets = resource::targets(&args.what)?;
    args.scope.check(&targets)?;
    let mut texts = Vec::new();
    let mut missing = Vec::new();
    for target in &targets {
        let found = find(args, target, place, &mut missing)?;
        let related = Related::new(args, target.kind, place, found.values())?;
        texts.extend(
            found
                .iter()
                .map(|(name, object)| related.text(target.kind, name, object)),
        );
    }
    if texts.is_empty() && missing.is_empty() {
        match args
            .scope
            .namespace(targets.first().map_or(Kind::Node, |target| target.kind))
        {
            Some(namespace) => eprintln!("No resources found in {namespace} namespace."),
            None => eprintln!("No resources found"),
        }
    }
    output::print(&texts.join("\n\n"))?;
    match missing.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        [message] => bail!("{message}"),
        messages => bail!("{}", messages.join("\nerror: ")),
    }
}

/// The objects of these names; where there is none of a name, those whose names begin so.
fn find(
    args: &DescribeArgs,
    target: &Target,
    place: &Place,
    missing: &mut Vec<String>,
) -> anyhow::Result<BTreeMap<Name, Value>> {
    let query = args.scope.query(target, false);
    let mut found = take(query.clone(), place)?;
    let is_found =
        |found: &BTreeMap<Name, Value>, text: &String| found.keys().any(|name| name.name == *text);
    let unknown: Vec<&String> = target
        .names
        .iter()
        .filter(|it| !is_found(&found, it))
        .collect();
    if unknown.is_empty() {
        return Ok(found);
    }
    let all = take(
        Query {
            names: Vec::new(),
            ..query
        },
        place,
    )?;
    for text in unknown {
        let mut beginning = all
            .iter()
            .filter(|(name, _)| name.name.starts_with(text))
            .peekable();
        if beginning.peek().is_none() {
            let (plural, place) = (resource::plural(target.kind), args.scope.place(target.kind));
            missing.push(format!("{plural} {text:?} not found{place}"));
        }
        found.extend(beginning.map(|(name, object)| (name.clone(), object.clone())));
    }
    Ok(found)
}

fn take(query: Query, place: &Place) -> anyhow::Result<BTreeMap<Name, Value>> {
    let mut told = objects(&place.run_dir(), query)?;
    let mut found = BTreeMap::new();
    loop {
        match told.event()? {
            Event::Object(object) => {
                found.insert(Name::of(&object), object);
            }
            Event::Deleted(_) => {}
            Event::Listed => return Ok(found),
        }
    }
}

/// What else a description speaks of: the slices of services, the pods of nodes.
struct Related(Vec<Value>);

impl Related {
    fn new<'a>(
        args: &DescribeArgs,
        kind: Kind,
        place: &Place,
        found: impl ExactSizeIterator<Item = &'a Value>,
    ) -> anyhow::Result<Self> {
        let query = match kind {
            _ if found.len() == 0 => return Ok(Self(Vec::new())),
            Kind::Service => {
                let names: Vec<String> = found.map(|object| Name::of(object).name).collect();
                let selector = format!("{LABEL_SERVICE_NAME} in ({})", names.join(","));
                Query {
                    namespace: args.scope.namespace(kind).map(str::to_owned),
                    // Beyond what a request holds, all slices are asked for.
                    selector: if names.len() > MAX_NAMES {
                        Selector::default()
                    } else {
                        selector.parse()?
                    },
                    ..Query::all(Kind::EndpointSlice)
                }
            }
            Kind::Node => Query::all(Kind::Pod),
            Kind::Endpoints | Kind::EndpointSlice | Kind::Pod => return Ok(Self(Vec::new())),
        };
        Ok(Self(take(query, place)?.into_values().collect()))
    }

    fn text(&self, kind: Kind, name: &Name, object: &Value) -> String {
        match kind {
            Kind::Service => {
                let is_its = |slice: &&Value| {
                    let service = super::object::pairs(slice, "/metadata/labels")
                        .into_iter()
                        .find(|(key, _)| *key == LABEL_SERVICE_NAME);
                    Name::of(slice).namespace == name.namespace
                        && service.is_some_and(|(_, service)| service == name.name)
                };
                let slices: Vec<&Value> = self.0.iter().filter(is_its).collect();
                service::describe(object, &slices)
            }
            Kind::Endpoints => endpoints::describe(object),
            Kind::EndpointSlice => slice::describe(object),
            Kind::Pod => pod::describe(object),
            Kind::Node => {
                let is_its = |pod: &&Value| super::object::text(pod, "/spec/nodeName") == name.name;
                let pods: Vec<&Value> = self.0.iter().filter(is_its).collect();
                node::describe(object, &pods)
            }
        }
    }
}

/// Names that a selector in a request has room for, however long they are.
const MAX_NAMES: usize = 100;

#[cfg(test)]
mod tests;
