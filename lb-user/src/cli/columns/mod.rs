//! kubectl's columns for each kind of object.

use std::time::SystemTime;

use serde_json::Value;

use super::object;
use crate::{control::Name, model::object::Kind};

mod endpoints;
mod node;
mod pod;
mod service;

pub(super) use node::roles;

/// How the columns of a kind are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Columns {
    kind: Kind,
    is_wide: bool,
    has_namespace: bool,
}

/// One object's cells. The age is made when the row is shown.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: Name,
    created: Option<SystemTime>,
    cells: Vec<String>,
}

/// The column that stays empty until a row is shown.
const AGE: &str = "AGE";

impl Columns {
    pub(super) fn new(kind: Kind, is_wide: bool, is_everywhere: bool) -> Self {
        Self {
            kind,
            is_wide,
            has_namespace: is_everywhere && kind.is_namespaced(),
        }
    }

    /// The header.
    pub(super) fn header(self) -> Vec<String> {
        let namespace = self.has_namespace.then_some("NAMESPACE");
        let names = namespace.into_iter().chain(self.own());
        names.map(str::to_owned).collect()
    }

    fn own(self) -> Vec<&'static str> {
        let (narrow, wide): (&[_], &[_]) = match self.kind {
            Kind::Service => (service::NARROW, service::WIDE),
            Kind::Endpoints => (endpoints::NARROW, &[]),
            Kind::EndpointSlice => (endpoints::SLICE_NARROW, &[]),
            Kind::Pod => (pod::NARROW, pod::WIDE),
            Kind::Node => (node::NARROW, node::WIDE),
        };
        let wide = if self.is_wide { wide } else { &[] };
        narrow.iter().chain(wide).copied().collect()
    }

    /// The row of an object.
    pub(super) fn row(self, object: &Value, now: SystemTime) -> Row {
        let mut cells = match self.kind {
            Kind::Service => service::cells(object, self.is_wide),
            Kind::Endpoints => endpoints::cells(object),
            Kind::EndpointSlice => endpoints::slice_cells(object),
            Kind::Pod => pod::cells(object, now),
            Kind::Node => node::cells(object),
        };
        cells.truncate(self.own().len());
        Row {
            name: Name::of(object),
            created: object::time(object, "/metadata/creationTimestamp"),
            cells,
        }
    }

    /// What is printed of a row; `kind_first` puts the kind before the name.
    pub(super) fn show(self, row: &Row, now: SystemTime, kind_first: bool) -> Vec<String> {
        let mut cells = row.cells.clone();
        let age = self.own().iter().position(|name| *name == AGE);
        if let Some(cell) = age.and_then(|age| cells.get_mut(age)) {
            *cell = object::age(row.created, now);
        }
        if let Some(name) = cells.first_mut().filter(|_| kind_first) {
            *name = format!("{}/{name}", super::resource::qualified(self.kind));
        }
        if self.has_namespace {
            cells.insert(0, row.name.namespace.clone());
        }
        cells
    }
}
