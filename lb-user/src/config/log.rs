//! What is logged, and how; the level can change while the agent runs.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Flags of the log.
#[expect(
    clippy::doc_markdown,
    reason = "the fields' documentation is help text for a terminal"
)]
#[derive(Args, Clone, Debug)]
pub struct LogFlags {
    /// Least level that is logged: error, warn, info, debug or trace; or one per module, as in info,lb_user=debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// One line per event
    Text,
    /// One JSON object per line
    Json,
}

/// No level of a log.
#[derive(Debug, thiserror::Error)]
#[error("--log-level {level:?}: not a level and not a filter")]
pub struct LogLevelError {
    level: String,
    source: ParseError,
}

/// The log of this process.
pub struct Log {
    set: Box<dyn Fn(EnvFilter) -> bool + Send>,
}

impl LogFlags {
    /// Whether there is such a level.
    pub fn check(&self) -> Result<(), LogLevelError> {
        filter(&self.log_level).map(drop)
    }

    /// Starts the log of this process, once.
    pub fn start(&self) -> Result<Log, LogLevelError> {
        let filter = filter(&self.log_level)?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => {
                let log = log.with_target(false).with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Ok(Log::new(move |filter| handle.reload(filter).is_ok()))
            }
            LogFormat::Json => {
                let log = log.json().with_filter_reloading();
                let handle = log.reload_handle();
                log.init();
                Ok(Log::new(move |filter| handle.reload(filter).is_ok()))
            }
        }
    }
}

impl Log {
    fn new(set: impl Fn(EnvFilter) -> bool + Send + 'static) -> Self {
        Self { set: Box::new(set) }
    }

    /// Takes another level, which [`LogFlags::check`] has found to be one.
    pub fn set_level(&self, level: &str) -> Result<(), LogLevelError> {
        if !(self.set)(filter(level)?) {
            tracing::error!(level, "the log keeps its level");
        }
        Ok(())
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    EnvFilter::try_new(level).map_err(|source| LogLevelError {
        level: level.to_owned(),
        source,
    })
}
