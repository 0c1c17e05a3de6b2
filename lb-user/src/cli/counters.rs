//! `fulcrum counters`: how many packets went which way, and why.

use std::process::ExitCode;

use clap::Args;
use lb_common::abi::map;

use super::{
    Place, maps,
    output::{self, Format},
};
use crate::apply::{Table, dump_rows};

/// The column that says how often.
const COUNT: &str = "count";

/// Flags of `counters`.
#[derive(Args, Debug)]
pub(super) struct CountersArgs {
    /// Show also what never happened
    #[arg(long)]
    all: bool,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn counters(args: &CountersArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let mut table = dump_rows(&place.pins(), map::COUNTERS, &|_| None)?;
    if !args.all {
        drop_zeros(&mut table);
    }
    if table.rows.is_empty() && args.output == Format::Table {
        eprintln!("Nothing counted yet; --all shows what can be.");
    } else {
        output::print(&maps::rows(&table, args.output)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn drop_zeros(table: &mut Table) {
    let column = table.columns.iter().position(|name| *name == COUNT);
    table.rows.retain(|row| {
        let count = column.and_then(|column| row.get(column));
        count.is_none_or(|count| count.as_u64() != Some(0))
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_never_happened_is_left_out() {
        let mut table = Table {
            columns: vec!["reason", COUNT],
            rows: vec![
                vec![json!("open"), json!(3)],
                vec![json!("drop_ttl"), json!(0)],
            ],
        };
        drop_zeros(&mut table);
        assert_eq!(table.rows, [[json!("open"), json!(3)]]);
    }
}
