//! `fulcrum get`: what the running agent makes of the manifests, as kubectl shows a cluster.

use std::{collections::BTreeMap, process::ExitCode, time::SystemTime};

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{
    Place,
    columns::{Columns, Row},
    output::{self, Widths},
    resource::{self, Target},
    yaml,
};
use crate::{
    control::{
        Name, Query,
        client::{Event, Objects, objects},
        selector::Selector,
    },
    model::object::Kind,
};

/// Flags of `get`.
#[derive(Args, Debug)]
pub(super) struct GetArgs {
    /// What to show: services (svc), endpoints (ep), endpointslices, pods (po) or nodes (no), several with commas
    /// between; then names. Or TYPE/NAME each
    #[arg(required = true, value_name = "TYPE [NAME...]|TYPE/NAME")]
    what: Vec<String>,

    #[command(flatten)]
    scope: Scope,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Form::Table)]
    output: Form,

    /// Go on: show what changes, until interrupted
    #[arg(long, short)]
    watch: bool,

    /// Leave the header away
    #[arg(long)]
    no_headers: bool,
}

/// Where to look, and for what.
#[derive(Args, Debug)]
pub(super) struct Scope {
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

    /// Show only objects with these labels, as in app=web,tier!=db or `zone in (a, b)`
    #[arg(
        long,
        short = 'l',
        value_name = "LABELS",
        default_value = "",
        hide_default_value = true
    )]
    selector: Selector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// kubectl's columns
    Table,
    /// The same and more
    Wide,
    /// Kubernetes objects as JSON
    Json,
    /// Kubernetes objects as YAML
    Yaml,
    /// TYPE/NAME only
    Name,
}

impl Scope {
    /// Whether names and the rest go together.
    pub(super) fn check(&self, targets: &[Target]) -> anyhow::Result<()> {
        let has_names = targets.iter().any(|target| !target.names.is_empty());
        if has_names && self.all_namespaces {
            bail!(
                "a name is looked for in one namespace; give --namespace instead of --all-namespaces"
            );
        }
        if has_names && !self.selector.is_empty() {
            bail!("objects are chosen by name or by labels, not by both");
        }
        Ok(())
    }

    pub(super) fn query(&self, target: &Target, watch: bool) -> Query {
        Query {
            kind: target.kind,
            namespace: self.namespace(target.kind).map(str::to_owned),
            names: target.names.clone(),
            selector: self.selector.clone(),
            watch,
        }
    }

    /// The namespace that is looked in; none where it is all of them, or the kind has none.
    pub(super) fn namespace(&self, kind: Kind) -> Option<&str> {
        (kind.is_namespaced() && !self.all_namespaces).then_some(&self.namespace)
    }

    /// ` in namespace X`, where that is so.
    pub(super) fn place(&self, kind: Kind) -> String {
        let namespace = self.namespace(kind);
        namespace.map_or_else(String::new, |namespace| {
            format!(" in namespace {namespace}")
        })
    }
}

pub(super) fn get(args: &GetArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let targets = resource::targets(&args.what)?;
    args.scope.check(&targets)?;
    match targets.as_slice() {
        [target] if args.watch => follow(args, target, place),
        _ if args.watch => bail!("only objects of one type can be watched at a time"),
        _ => show(args, &targets, place),
    }
}

/// What there is now.
fn show(args: &GetArgs, targets: &[Target], place: &Place) -> anyhow::Result<ExitCode> {
    let now = SystemTime::now();
    let mut found = Found::new(args, targets.len() > 1);
    let mut missing = Vec::new();
    for target in targets {
        let mut told = objects(&place.run_dir(), args.scope.query(target, false))?;
        let names = found.take(target, &mut told, now)?;
        let is_missing = |name: &&String| !names.contains(name);
        missing.extend(target.names.iter().filter(is_missing).map(|name| {
            let place = args.scope.place(target.kind);
            format!(
                "{} {name:?} not found{place}",
                resource::plural(target.kind)
            )
        }));
    }
    let is_one = matches!(targets, [target] if target.names.len() == 1);
    if !is_one || missing.is_empty() {
        output::print(&found.text(is_one)?)?;
    }
    if missing.is_empty()
        && found.is_empty()
        && args.output != Form::Json
        && args.output != Form::Yaml
    {
        eprintln!("{}", nothing(args, targets));
    }
    for message in &missing {
        eprintln!("error: {message}");
    }
    Ok(if missing.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn nothing(args: &GetArgs, targets: &[Target]) -> String {
    let namespace = targets
        .iter()
        .find_map(|target| args.scope.namespace(target.kind));
    match namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".to_owned(),
    }
}

/// What was found, in the form that was asked for.
struct Found<'a> {
    args: &'a GetArgs,
    has_several_types: bool,
    /// A table per type.
    tables: Vec<String>,
    objects: Vec<Value>,
    names: String,
}

impl<'a> Found<'a> {
    fn new(args: &'a GetArgs, has_several_types: bool) -> Self {
        Self {
            args,
            has_several_types,
            tables: Vec::new(),
            objects: Vec::new(),
            names: String::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.objects.is_empty() && self.names.is_empty()
    }

    /// Takes the objects of a target; gives back their names.
    fn take(
        &mut self,
        target: &Target,
        told: &mut Objects,
        now: SystemTime,
    ) -> anyhow::Result<Vec<String>> {
        let columns = columns(self.args, target.kind);
        let mut rows: Vec<(usize, Row, Option<Value>)> = Vec::new();
        loop {
            match told.event()? {
                Event::Object(object) => {
                    let row = columns.row(&object, now);
                    let wanted = target.names.iter().position(|name| *name == row.name.name);
                    let keeps_object = matches!(self.args.output, Form::Json | Form::Yaml);
                    rows.push((
                        wanted.unwrap_or_default(),
                        row,
                        keeps_object.then_some(object),
                    ));
                }
                Event::Deleted(_) => {}
                Event::Listed => break,
            }
        }
        rows.sort_by(|(a, left, _), (b, right, _)| (a, &left.name).cmp(&(b, &right.name)));
        let names = rows
            .iter()
            .map(|(_, row, _)| row.name.name.clone())
            .collect();
        match self.args.output {
            Form::Table | Form::Wide => {
                self.table(columns, rows.iter().map(|(_, row, _)| row), now);
            }
            Form::Json | Form::Yaml => {
                self.objects
                    .extend(rows.into_iter().filter_map(|(.., object)| object));
            }
            Form::Name => {
                for (_, row, _) in &rows {
                    self.names.push_str(&qualified(target.kind, &row.name));
                }
            }
        }
        Ok(names)
    }

    fn table<'r>(
        &mut self,
        columns: Columns,
        rows: impl Iterator<Item = &'r Row>,
        now: SystemTime,
    ) {
        let mut lines: Vec<_> = rows
            .map(|row| columns.show(row, now, self.has_several_types))
            .collect();
        if lines.is_empty() {
            return;
        }
        if !self.args.no_headers {
            lines.insert(0, columns.header());
        }
        self.tables.push(Widths::default().lay(&lines));
    }

    fn text(&self, is_one: bool) -> anyhow::Result<String> {
        Ok(match (self.args.output, self.objects.as_slice()) {
            (Form::Table | Form::Wide, _) => self.tables.join("\n"),
            (Form::Name, _) => self.names.clone(),
            (Form::Json, [object]) if is_one => output::indented_json(object)?,
            (Form::Json, objects) => output::indented_json(&list(objects))?,
            (Form::Yaml, [object]) if is_one => yaml::document(object),
            (Form::Yaml, objects) => yaml::document(&list(objects)),
        })
    }
}

fn list(objects: &[Value]) -> Value {
    json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
}

fn columns(args: &GetArgs, kind: Kind) -> Columns {
    Columns::new(kind, args.output == Form::Wide, args.scope.all_namespaces)
}

fn qualified(kind: Kind, name: &Name) -> String {
    format!("{}/{}\n", resource::qualified(kind), name.name)
}

/// What there is, and every change after it.
fn follow(args: &GetArgs, target: &Target, place: &Place) -> anyhow::Result<ExitCode> {
    let mut told = objects(&place.run_dir(), args.scope.query(target, true))?;
    let mut followed = Followed::new(args, target.kind);
    loop {
        let event = told.event()?;
        let text = followed.text(event, SystemTime::now())?;
        if !text.is_empty() && !output::print_more(&text)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// A listing that goes on.
struct Followed {
    form: Form,
    kind: Kind,
    columns: Columns,
    /// Whether the header is still to come.
    needs_header: bool,
    widths: Widths,
    /// The last row of every object: what is shown of one that goes.
    rows: BTreeMap<Name, Row>,
    /// Whether everything that was there has been told.
    is_listed: bool,
}

impl Followed {
    fn new(args: &GetArgs, kind: Kind) -> Self {
        Self {
            form: args.output,
            kind,
            columns: columns(args, kind),
            needs_header: !args.no_headers,
            widths: Widths::default(),
            rows: BTreeMap::new(),
            is_listed: false,
        }
    }

    /// What is printed of an event.
    fn text(&mut self, event: Event, now: SystemTime) -> anyhow::Result<String> {
        match (event, self.form) {
            (Event::Object(object), Form::Json) => {
                output::indented_json(&object).map_err(Into::into)
            }
            (Event::Object(object), Form::Yaml) => Ok(format!("---\n{}", yaml::document(&object))),
            (Event::Object(object), form) => {
                let row = self.columns.row(&object, now);
                let text = match form {
                    Form::Name => qualified(self.kind, &row.name),
                    _ if self.is_listed => self.lines([&row], now),
                    _ => String::new(),
                };
                self.rows.insert(row.name.clone(), row);
                Ok(text)
            }
            (Event::Deleted(name), Form::Name) => Ok(qualified(self.kind, &name)),
            (Event::Deleted(name), _) => {
                let row = self.rows.remove(&name);
                Ok(row.map_or_else(String::new, |row| self.lines([&row], now)))
            }
            (Event::Listed, Form::Table | Form::Wide) => {
                self.is_listed = true;
                let rows = std::mem::take(&mut self.rows);
                let text = self.lines(rows.values(), now);
                self.rows = rows;
                Ok(text)
            }
            (Event::Listed, _) => Ok(String::new()),
        }
    }

    fn lines<'r>(&mut self, rows: impl IntoIterator<Item = &'r Row>, now: SystemTime) -> String {
        let mut lines: Vec<_> = rows
            .into_iter()
            .map(|row| self.columns.show(row, now, false))
            .collect();
        if self.needs_header && !lines.is_empty() {
            self.needs_header = false;
            lines.insert(0, self.columns.header());
        }
        self.widths.lay(&lines)
    }
}

/// What `get` prints of the objects of one kind in one namespace.
pub fn table(kind: Kind, objects: &[Value]) -> String {
    let now = SystemTime::now();
    let columns = Columns::new(kind, false, false);
    let rows = objects
        .iter()
        .map(|object| columns.show(&columns.row(object, now), now, false));
    let lines: Vec<_> = std::iter::once(columns.header()).chain(rows).collect();
    Widths::default().lay(&lines)
}

#[cfg(test)]
mod tests;
