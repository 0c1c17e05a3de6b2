//! Flow tables of an earlier agent that get another size, with their flows, before anybody uses them.
//!
//! Two things ask for it. An agent may have been killed while a table grew: some flows are in the larger one alone, so that
//! is filled up with the others and takes its place. And the operator may ask for another size than that of the table
//! that is there. What cannot be done is said, and the table stays as it is: an agent never fails for it.

use std::path::Path;

use lb_common::net::addr::Family;

use super::{
    LoaderError,
    form::{self, Found},
    growth::{Origin, Pass, flow_table},
    inherit::Inheritance,
    object::{self, Facts},
    pin,
};
use crate::{
    causes::with_causes,
    config::{FlowTableSizes, Mode},
};

/// Gives the flow tables that are taken over the sizes that they shall have.
pub(super) fn settle(inherited: &mut Inheritance, facts: Facts, maps: &Path) {
    for family in [Family::V4, Family::V6] {
        let Some(found) = inherited.flow_table_size(family) else {
            continue;
        };
        if let Some(size) = begun(maps, family) {
            tracing::info!(%family, from = found, to = size, "an earlier agent was about to let the flow table grow");
            resize(inherited, facts, maps, (family, size));
        }
        let found = inherited.flow_table_size(family).unwrap_or(found);
        let wanted = facts.flow_table.of_earlier(found);
        if wanted != found {
            tracing::info!(%family, from = found, to = wanted, "the flow table gets the size that is asked for");
            resize(inherited, facts, maps, (family, wanted));
        }
    }
    pin::abandon_growth(maps);
}

/// Positions of the table that a family's is growing into.
fn begun(maps: &Path, family: Family) -> Option<u32> {
    let name = flow_table(family);
    let wanted = form::wanted().ok()?.get(name).copied()?;
    let Ok(Found::Map(found)) = form::found(&pin::growing(maps).join(name)) else {
        return None;
    };
    let size = found.max_entries;
    let is_alike = found
        == form::Form {
            max_entries: size,
            ..wanted
        };
    (is_alike && FlowTableSizes::is_fit(size)).then_some(size)
}

fn resize(inherited: &mut Inheritance, facts: Facts, maps: &Path, (family, size): (Family, u32)) {
    match try_resize(inherited, facts, maps, (family, size)) {
        Ok(Pass {
            moved, kept: lost, ..
        }) => {
            tracing::info!(%family, size, flows = moved, lost, "flows carried over");
            inherited.note_flow_table(family, size);
        }
        Err(error) => {
            tracing::error!(
                %family,
                size,
                error = with_causes(&error),
                "the flow table keeps the size that it has"
            );
            pin::abandon_growth(maps);
        }
    }
}

fn try_resize(
    inherited: &Inheritance,
    facts: Facts,
    maps: &Path,
    (family, size): (Family, u32),
) -> Result<Pass, LoaderError> {
    let sizes = inherited.flow_table_sizes(facts.flow_table.size);
    let origin = Origin {
        node: object::node_config(facts, sizes, inherited.hash_key())?,
        maps: maps.to_owned(),
        tracer: pin::tracer(maps),
        mode: Mode::Tc,
        ifindex: facts.host.near,
    };
    origin.resize(family, size)
}
