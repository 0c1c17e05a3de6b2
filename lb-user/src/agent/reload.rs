//! The configuration file, followed: on SIGHUP and on change it is read again, and what is new in it is told.

use std::{convert::Infallible, path::PathBuf};

use serde::Serialize;
use tokio::{signal::unix::Signal, sync::watch, task};

use super::{joined, replace};
use crate::{
    causes::with_causes,
    config::{
        keys::KeyChange,
        log::Log,
        reload::{Given, GivenError, Live, Reloaded},
    },
    source::touch::{Touch, WatchError},
};

/// The configuration file, as `fulcrum status` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigurationView {
    /// The file; absent if the command line says everything.
    pub file: Option<PathBuf>,
    /// Why it could not be read last, or is no good.
    pub error: Option<String>,
    /// What in it takes effect with the next start.
    pub waiting: Vec<Waiting>,
}

/// A key whose value in the file takes effect with the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The key.
    pub key: String,
    /// The value that holds.
    pub value: String,
    /// The value in the file.
    pub next: String,
}

/// Whom a reload tells.
#[derive(Debug)]
pub struct Telling {
    /// What can change while the agent runs.
    pub live: watch::Sender<Live>,
    /// The file, for those who ask.
    pub view: watch::Sender<ConfigurationView>,
}

/// What reads the configuration again.
#[derive(Debug)]
pub struct Reload {
    given: Given,
    log: Log,
    telling: Telling,
    touch: Option<Touch>,
    /// What was told to be wrong.
    told: Option<String>,
}

impl Reload {
    /// Sees changes of the file from now on.
    pub fn new(given: Given, log: Log, telling: Telling) -> Result<Self, WatchError> {
        let touch = given.path().map(Touch::new).transpose()?;
        Ok(Self {
            given,
            log,
            telling,
            touch,
            told: None,
        })
    }

    /// Reads the file again whenever it may have changed, or somebody asks for it by a signal; for ever.
    pub async fn follow(mut self, hangups: &mut Signal) -> Infallible {
        let mut is_asked = false;
        loop {
            self = self.look(is_asked).await;
            is_asked = match &mut self.touch {
                None => hangups.recv().await.is_some(),
                Some(touch) => tokio::select! {
                    _ = hangups.recv() => true,
                    () = touch.wait() => false,
                },
            };
        }
    }

    /// Reads the file, on a thread of its own. Who asked is answered also if nothing is new.
    async fn look(self, is_asked: bool) -> Self {
        if self.touch.is_none() {
            if is_asked {
                tracing::info!(
                    "SIGHUP: there is no configuration file to read again; start with --config to have one"
                );
            }
            return self;
        }
        let work = task::spawn_blocking(move || {
            let mut this = self;
            let read = this.given.reload();
            (this, read)
        });
        let (mut this, read) = joined(work.await).await;
        match read {
            Ok(reloaded) => this.take(reloaded, is_asked),
            Err(error) => this.refuse(&error, is_asked),
        }
        this.show();
        this
    }

    fn take(&mut self, reloaded: Reloaded, is_asked: bool) {
        let Reloaded {
            live,
            log_level,
            changes,
            news,
            withdrawn,
        } = reloaded;
        let was_refused = self.told.take().is_some();
        // Before anything is said of it.
        if let Err(error) = self.log.set_level(&log_level) {
            tracing::error!(error = with_causes(&error), "the log keeps its level");
        }
        replace(&self.telling.live, live);
        for KeyChange { key, old, new } in &changes {
            tracing::info!(key, old, new, "configuration reloaded: takes effect");
        }
        for KeyChange { key, old, new } in &news {
            tracing::warn!(
                key,
                old,
                new,
                "configuration reloaded: takes effect at the next start"
            );
        }
        for KeyChange { key, old, .. } in &withdrawn {
            tracing::info!(
                key,
                value = old,
                "configuration reloaded: is again as it runs"
            );
        }
        let is_news = !(changes.is_empty() && news.is_empty() && withdrawn.is_empty());
        if !is_news && (is_asked || was_refused) {
            let file = self.given.path().map(tracing::field::debug);
            tracing::info!(file, "configuration reloaded: nothing is new");
        }
    }

    fn refuse(&mut self, error: &GivenError, is_asked: bool) {
        let text = with_causes(error);
        if is_asked || self.told.as_ref() != Some(&text) {
            let file = self.given.path().map(tracing::field::debug);
            tracing::error!(
                file,
                error = text,
                "configuration not reloaded: nothing changes"
            );
        }
        self.told = Some(text);
    }

    fn show(&self) {
        let waiting = self.given.waiting().iter().cloned();
        let waiting = waiting.map(|KeyChange { key, old, new }| Waiting {
            key,
            value: old,
            next: new,
        });
        let view = ConfigurationView {
            file: self.given.path().map(PathBuf::from),
            error: self.told.clone(),
            waiting: waiting.collect(),
        };
        replace(&self.telling.view, view);
    }
}
