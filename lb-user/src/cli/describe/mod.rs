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
        client::{self, AskError, Event, Objects},
        selector::Selector,
    },
    model::{endpoint::LABEL_SERVICE_NAME, object::Kind},
};

mod choice;
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
    Ok(take_all(client::objects(&place.run_dir(), query)?)?)
}

fn take_all(mut told: Objects) -> Result<BTreeMap<Name, Value>, AskError> {
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
struct Related {
    objects: Vec<Value>,
    /// What the agent's node makes of services; why it does not say.
    choices: Result<BTreeMap<Name, Value>, String>,
}

impl Related {
    /// These objects, and nothing about the node.
    fn of(objects: Vec<Value>) -> Self {
        Self {
            objects,
            choices: Ok(BTreeMap::new()),
        }
    }

    fn new<'a>(
        args: &DescribeArgs,
        kind: Kind,
        place: &Place,
        found: impl ExactSizeIterator<Item = &'a Value>,
    ) -> anyhow::Result<Self> {
        let namespace = args.scope.namespace(kind).map(str::to_owned);
        match kind {
            _ if found.len() == 0 => Ok(Self::of(Vec::new())),
            Kind::Service => {
                let mut names: Vec<String> = found.map(|object| Name::of(object).name).collect();
                // Beyond what a request holds, all are asked for.
                if names.len() > MAX_NAMES {
                    names.clear();
                }
                let selector = match names.as_slice() {
                    [] => Selector::default(),
                    names => format!("{LABEL_SERVICE_NAME} in ({})", names.join(",")).parse()?,
                };
                let slices = Query {
                    namespace: namespace.clone(),
                    selector,
                    ..Query::all(Kind::EndpointSlice)
                };
                let services = Query {
                    namespace,
                    names,
                    ..Query::all(kind)
                };
                Ok(Self {
                    objects: take(slices, place)?.into_values().collect(),
                    choices: choices(services, place)?,
                })
            }
            Kind::Node => {
                let pods = take(Query::all(Kind::Pod), place)?;
                Ok(Self::of(pods.into_values().collect()))
            }
            Kind::Endpoints | Kind::EndpointSlice | Kind::Pod => Ok(Self::of(Vec::new())),
        }
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
                let slices: Vec<&Value> = self.objects.iter().filter(is_its).collect();
                let mut text = service::describe(object, &slices);
                if let Some(here) = self.here(name, object) {
                    text.push('\n');
                    text.push_str(&here);
                }
                text
            }
            Kind::Endpoints => endpoints::describe(object),
            Kind::EndpointSlice => slice::describe(object),
            Kind::Pod => pod::describe(object),
            Kind::Node => {
                let is_its = |pod: &&Value| super::object::text(pod, "/spec/nodeName") == name.name;
                let pods: Vec<&Value> = self.objects.iter().filter(is_its).collect();
                node::describe(object, &pods)
            }
        }
    }

    /// What the node makes of a service.
    fn here(&self, name: &Name, object: &Value) -> Option<String> {
        match &self.choices {
            Ok(choices) => Some(choice::describe(object, choices.get(name)?)),
            Err(reason) => Some(choice::unknown(reason)),
        }
    }
}

/// What the agent's node makes of services, or why the agent does not say: an older one does not know the question.
fn choices(query: Query, place: &Place) -> anyhow::Result<Result<BTreeMap<Name, Value>, String>> {
    match take_all(client::choices(&place.run_dir(), query)?) {
        Err(AskError::Refused { message, .. }) => Ok(Err(message)),
        found => Ok(Ok(found?)),
    }
}

/// Names that a selector in a request has room for, however long they are.
const MAX_NAMES: usize = 100;

#[cfg(test)]
mod tests;
