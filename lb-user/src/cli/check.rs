//! `fulcrum check`: can this machine run fulcrum?

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::{
    Place,
    output::{self, Format},
};
use crate::{
    check::{self, facts::Facts},
    config,
};

/// Flags of `check`.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Devices that lead out of the node, as for `run` [default: those of the default routes]
    #[arg(long, value_name = "DEVICE|GLOB", value_delimiter = ',')]
    uplink: Vec<String>,

    /// The form of the result
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(super) fn check(args: &CheckArgs, place: &Place) -> anyhow::Result<ExitCode> {
    let uplinks = config::patterns("uplink", &args.uplink)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let facts = runtime.block_on(Facts::gather(&place.bpffs, uplinks));
    let items = check::items(&facts);
    let text = match args.output {
        Format::Table => items
            .iter()
            .flat_map(|item| [item.to_string(), "\n".to_owned()])
            .collect(),
        Format::Json => output::json(&items)?,
    };
    output::print(&text)?;
    Ok(if check::has_failed(&items) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
