//! Readiness without a kubelet: the agent runs the readiness probes of Pod manifests itself (`--probe`).
//!
//! ```text
//! snapshot ──► overlay (pure) ──► pods as ready as their probes say ──► compile, listings
//!                │      ▲
//!        targets ▼      │ readiness
//!               tasks, one per probe: ask, count (tally, pure), tell
//! ```
//!
//! Each agent asks all pods, also those of other nodes: there is nobody else who would tell it about them. Nothing
//! waits for a probe: what is not known yet is not ready.

mod connect;
mod grpc;
mod http;
pub mod overlay;
pub mod tally;
pub mod target;
pub mod url;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{self, MissedTickBehavior},
};

use self::{
    overlay::{Readiness, Verdict},
    tally::Tally,
    target::{Key, Question, Target, Targets},
};
use crate::model::pod::Probed;

/// What probes call themselves.
const AGENT_NAME: &str = concat!("fulcrum-probe/", env!("CARGO_PKG_VERSION"));
/// Probes that wait for an answer at one time; each has a socket.
const MAX_IN_FLIGHT: usize = 256;

/// What came of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It answered as it should; with a remark if there is one to make.
    Success { note: Option<String> },
    /// It did not, and why; the same text each time.
    Failure(String),
}

impl Outcome {
    fn success() -> Self {
        Self::Success { note: None }
    }
}

/// Runs the probes of `targets`, and follows their changes for ever. Dropping the future ends all of them.
pub async fn follow(
    targets: watch::Receiver<Targets>,
    readiness: watch::Sender<Readiness>,
) -> Infallible {
    follow_within(targets, readiness, MAX_IN_FLIGHT).await
}

async fn follow_within(
    mut targets: watch::Receiver<Targets>,
    readiness: watch::Sender<Readiness>,
    max_in_flight: usize,
) -> Infallible {
    let in_flight = Arc::new(Semaphore::new(max_in_flight));
    let mut running: BTreeMap<Key, Running> = BTreeMap::new();
    loop {
        let wanted = targets.borrow_and_update().clone();
        running.retain(|key, probe| {
            let stays = wanted.get(key).is_some_and(|it| *it == probe.target);
            if !stays {
                forget(&readiness, key);
            }
            stays
        });
        for (key, target) in wanted {
            if let Entry::Vacant(place) = running.entry(key) {
                let probe = Probe {
                    key: place.key().clone(),
                    target,
                    readiness: readiness.clone(),
                    in_flight: Arc::clone(&in_flight),
                };
                place.insert(probe.start());
            }
        }
        if targets.changed().await.is_err() {
            // Nobody is left who would want something else.
            return std::future::pending().await;
        }
    }
}

/// A task that ends when this is dropped.
struct Running {
    target: Arc<Target>,
    task: JoinHandle<Infallible>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One probe.
struct Probe {
    key: Key,
    target: Arc<Target>,
    readiness: watch::Sender<Readiness>,
    in_flight: Arc<Semaphore>,
}

impl Probe {
    fn start(self) -> Running {
        let verdict = Verdict {
            target: Arc::clone(&self.target),
            probed: Probed::default(),
        };
        // That it is not ready yet is what everybody thinks of one that is not known.
        self.readiness.send_if_modified(|known| {
            known.insert(self.key.clone(), verdict);
            false
        });
        Running {
            target: Arc::clone(&self.target),
            task: tokio::spawn(self.run()),
        }
    }

    async fn run(self) -> Infallible {
        let mut tally = Tally::new(self.target.thresholds);
        time::sleep(delay(&self.target, SystemTime::now())).await;
        let mut ticks = time::interval(self.target.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let outcome = self.ask().await;
            let ready = tally.take(matches!(outcome, Outcome::Success { .. }));
            self.tell(ready, outcome);
        }
    }

    /// Asks once. The time that is waited for a turn is not the asked one's.
    async fn ask(&self) -> Outcome {
        let Ok(_turn) = self.in_flight.acquire().await else {
            return std::future::pending().await;
        };
        ask(&self.target).await
    }

    fn tell(&self, ready: bool, outcome: Outcome) {
        let Key { pod, container } = &self.key;
        let failure = match outcome {
            Outcome::Success { note } => {
                if let Some(note) = note {
                    tracing::debug!(%pod, %container, note, "readiness probe succeeded");
                }
                None
            }
            Outcome::Failure(cause) => Some(cause),
        };
        let probed = Probed { ready, failure };
        let is_mine = |verdict: &&mut Verdict| Arc::ptr_eq(&verdict.target, &self.target);
        self.readiness.send_if_modified(|known| {
            let Some(verdict) = known.get_mut(&self.key).filter(is_mine) else {
                return false;
            };
            if verdict.probed == probed {
                return false;
            }
            let is_change = verdict.probed.ready != ready;
            if is_change {
                tracing::info!(%pod, %container, ready, "readiness changed");
            }
            if let Some(cause) = probed.failure.as_ref()
                && verdict.probed.failure.as_ref() != Some(cause)
            {
                tracing::info!(%pod, %container, cause, "readiness probe failed");
            }
            verdict.probed = probed;
            // Why it is not ready is news, too; a slip that does not count yet is not.
            is_change || !ready
        });
    }
}

fn forget(readiness: &watch::Sender<Readiness>, key: &Key) {
    readiness.send_if_modified(|known| {
        known.remove(key);
        false
    });
}

/// How long it is until a target may be asked: what is left of its delay, if its start is known.
fn delay(target: &Target, now: SystemTime) -> Duration {
    let age = target.started_s.and_then(|seconds| {
        let started = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?);
        now.duration_since(started).ok()
    });
    target.initial_delay.saturating_sub(age.unwrap_or_default())
}

async fn ask(target: &Target) -> Outcome {
    let answer = async {
        match &target.question {
            Question::Http { url, headers } => http::get(url, headers).await,
            Question::Tcp { host, port } => match connect::tcp(host, *port).await {
                Ok(_) => Outcome::success(),
                Err(error) => {
                    Outcome::Failure(format!("cannot connect to {host} port {port}: {error}"))
                }
            },
            Question::Grpc { address, service } => {
                grpc::check(*address, service, target.timeout).await
            }
        }
    };
    match time::timeout(target.timeout, answer).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!("no answer within {:?}", target.timeout)),
    }
}

#[cfg(test)]
mod tests;
