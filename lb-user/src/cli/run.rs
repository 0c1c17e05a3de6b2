//! `fulcrum run`: the agent in the foreground.

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{Place, output};
use crate::{
    agent::{self, Settings},
    config::Flags,
};

/// Flags of `run`.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    flags: Flags,

    /// Least level that is logged: error, warn, info, debug or trace; or one per module, as in info,lb_user=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,

    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// One line per event
    Text,
    /// One JSON object per line
    Json,
}

pub(super) fn run(args: RunArgs, place: &Place) -> anyhow::Result<ExitCode> {
    log(&args.log_level, args.log_format)?;
    let config = args.flags.check()?;
    let settings = Settings {
        config,
        run_dir: place.run_dir.clone(),
        bpffs: place.bpffs.clone(),
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

fn log(level: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level)
        .with_context(|| format!("--log-level {level:?}: not a level and not a filter"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.with_target(false).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
