//! Signals that ask to end, taken one by one, so that a program removes what it has made before it ends.

use std::{
    io,
    sync::mpsc::{self, Receiver},
    thread,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// Signals that ask to end, taken one by one instead of ending the process with everything left behind.
#[derive(Debug)]
pub struct Signals(Receiver<Signal>);

impl Signals {
    /// To be called before any thread is started: threads inherit what is blocked. Children do not.
    pub fn catch() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .collect();
        signals.thread_block().context("block signals")?;
        let (caught, signals_caught) = mpsc::channel();
        let wait = move || {
            while let Ok(signal) = signals.wait() {
                if caught.send(signal).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(wait)
            .context("wait for signals")?;
        Ok(Self(signals_caught))
    }

    /// Fails if a signal has come.
    pub fn check(&self) -> Result<()> {
        match self.0.try_recv() {
            Ok(signal) => bail!("ended by {signal}"),
            Err(_) => Ok(()),
        }
    }

    /// Waits for a signal.
    pub fn wait(&self) -> Result<()> {
        self.0
            .recv()
            .map(drop)
            .map_err(io::Error::other)
            .context("wait for a signal")
    }
}
