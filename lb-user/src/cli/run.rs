//! `fulcrum run`: the agent in the foreground.

use std::process::ExitCode;

use anyhow::Context;
use clap::ArgMatches;

use super::{Place, output};
use crate::{
    agent::{self, Settings},
    config::reload::{AllFlags, Given},
};

/// Flags of `run`.
pub(super) type RunArgs = AllFlags;

/// Runs the agent by the flags of `matches` and by the configuration file that they name.
pub(super) fn run(matches: &ArgMatches, place: &Place) -> anyhow::Result<ExitCode> {
    let (given, AllFlags { flags, log }) = Given::new(matches)?;
    let log = log.start()?;
    let config = match (flags.check(), given.path()) {
        (Ok(config), _) => config,
        (Err(error), None) => return Err(error.into()),
        (Err(error), Some(path)) => {
            return Err(error)
                .with_context(|| format!("with the configuration file {}", path.display()));
        }
    };
    let settings = Settings {
        config,
        run_dir: place.run_dir.clone(),
        bpffs: place.bpffs.clone(),
        given,
        log,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // One line for whoever started the agent and waits; nobody may be listening.
    let ready = || {
        let _ = output::print("ready\n");
    };
    runtime.block_on(agent::run(settings, ready))?;
    Ok(ExitCode::SUCCESS)
}
