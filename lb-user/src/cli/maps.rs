//! `fulcrum maps`: the tables as they are in the kernel.
//!
//! Reads the pins and needs no running agent; one that runs adds the names of what the tables number.

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;

use super::{
    Place,
    output::{self, Format},
};
use crate::{
    apply::{MapInfo, Table, dump_rows, maps_table},
    control::{Request, client::ask},
};

/// Flags of `maps`.
#[derive(Args, Debug)]
pub(super) struct MapsArgs {
    /// The map whose content is shown; without one, all maps are listed
    name: Option<String>,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn maps(args: &MapsArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let pins = place.pins();
    let text = match &args.name {
        None => list(&maps_table(&pins)?, args.output)?,
        Some(name) => {
            // Without an agent the numbers speak for themselves.
            let names: BTreeMap<u32, String> =
                ask(&place.run_dir(), Request::Names).unwrap_or_default();
            let table = dump_rows(&pins, name, &|id| names.get(&id).cloned())?;
            rows(&table, args.output)?
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The rows of one map; for programs one object per row.
pub(super) fn rows(table: &Table, format: Format) -> anyhow::Result<String> {
    let text = format.structured(&table.to_json())?;
    Ok(text.unwrap_or_else(|| {
        let header: Vec<String> = table.columns.iter().map(|name| title(name)).collect();
        output::table(&header, &table.cells().collect::<Vec<_>>())
    }))
}

fn list(maps: &[MapInfo], format: Format) -> anyhow::Result<String> {
    if let Some(text) = format.structured(&maps)? {
        return Ok(text);
    }
    let header = [
        "NAME",
        "TYPE",
        "KEY",
        "VALUE",
        "ENTRIES",
        "MAX-ENTRIES",
        "MEMORY",
    ];
    let rows: Vec<Vec<String>> = maps
        .iter()
        .map(|map| {
            vec![
                map.name.to_owned(),
                map.kind.to_string(),
                map.key_size.to_string(),
                map.value_size.to_string(),
                map.entries.to_string(),
                map.max_entries.to_string(),
                map.memory.map_or_else(|| "-".to_owned(), output::bytes),
            ]
        })
        .collect();
    Ok(output::table(&header, &rows))
}

/// The head of a column: `service_id` becomes `SERVICE-ID`.
fn title(column: &str) -> String {
    column.to_uppercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_stand_under_titles() {
        let table = Table {
            columns: vec!["id", "service_id"],
            rows: vec![
                vec![json!(1), json!("default/web")],
                vec![json!(2), json!(null)],
            ],
        };
        let text = rows(&table, Format::Table).expect("printable");
        assert_eq!(text, "ID    SERVICE-ID\n1     default/web\n2     -\n");
        let text = rows(&table, Format::Json).expect("printable");
        let back: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(back[0], json!({"id": 1, "service_id": "default/web"}));
    }
}
