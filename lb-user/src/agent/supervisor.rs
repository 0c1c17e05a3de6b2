//! What the service manager that started the agent is told: that it serves, how it fares, that it ends, that it is alive.
//!
//! The protocol is [sd_notify(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html); where
//! `NOTIFY_SOCKET` is not set nothing is said. The watchdog has no task of its own: only who holds the controller
//! between two reconciliations can feed it, so an agent whose control loop is stuck is not taken for a live one.

use std::{convert::Infallible, future, io, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{self, Instant, Interval, MissedTickBehavior},
};

use super::{Published, controller::Controller, devices::DeviceView};
use crate::{apply::LbMaps, loader::device::Role};

/// The watchdog is fed so many times before it would bite.
const FEEDS: u32 = 2;

/// Says that the programs are on the devices and the tables are full.
pub(super) fn ready() {
    say(&[NotifyState::Ready]);
}

/// Says that the agent ends because it was told to.
pub(super) fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Tells in one line what is served, whenever that changes, for ever.
pub(super) async fn follow(
    mut view: watch::Receiver<Published>,
    mut devices: watch::Receiver<Vec<DeviceView>>,
) -> Infallible {
    let mut told = String::new();
    loop {
        let status = status(&view.borrow_and_update(), &devices.borrow_and_update());
        if status != told {
            say(&[NotifyState::Status(&status)]);
            told = status;
        }
        let changed = tokio::select! {
            changed = view.changed() => changed,
            changed = devices.changed() => changed,
        };
        if changed.is_err() {
            // The agent is going down.
            return future::pending().await;
        }
    }
}

/// The line that `systemctl status` shows.
fn status(view: &Published, devices: &[DeviceView]) -> String {
    let Some(view) = view else {
        return "waiting for the manifests' first listing".to_owned();
    };
    // `fulcrum status` tells of sockets; without programs there their packets are served all the same.
    let devices = devices.iter().filter(|it| it.role != Role::Sockets);
    let (served, unserved): (Vec<_>, Vec<_>) = devices.partition(|it| it.error.is_none());
    let (n_devices, n_unserved) = (served.len(), unserved.len());
    let mut parts = vec![
        counted(view.snapshot.services.len(), "service"),
        counted(n_devices, "device"),
    ];
    if n_unserved > 0 {
        parts.push(format!("{} not served", counted(n_unserved, "device")));
    }
    if !view.troubles.is_empty() {
        let troubles = counted(view.troubles.len(), "trouble");
        parts.push(format!("{troubles} (fulcrum status)"));
    }
    parts.join(", ")
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// When the service manager's watchdog is to be fed next; never, if it has none for this process.
#[derive(Debug)]
pub(super) struct Watchdog {
    due: Option<Interval>,
}

impl Watchdog {
    /// The watchdog that the service manager keeps for this process, by `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn of_this_process() -> Self {
        Self::new(sd_notify::watchdog_enabled())
    }

    fn new(limit: Option<Duration>) -> Self {
        let every = limit.map(|limit| limit / FEEDS);
        // A time of nothing is no time that anybody could keep.
        let every = every.filter(|every| !every.is_zero());
        let due = every.map(|every| {
            let mut due = time::interval_at(Instant::now(), every);
            // Who was late does not hurry afterwards.
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            due
        });
        Self { due }
    }

    /// Waits until food is due. Nothing is lost if it is dropped meanwhile.
    pub(super) async fn hungry(&mut self) {
        match &mut self.due {
            Some(due) => drop(due.tick().await),
            None => future::pending().await,
        }
    }
}

/// Feeds the watchdog. Whoever can show the controller has come back from the last reconciliation.
pub(super) fn feed<M: LbMaps>(_proof: &Controller<M>) {
    say(&[NotifyState::Watchdog]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        log(&error);
    }
}

fn log(error: &io::Error) {
    tracing::warn!(%error, "the service manager cannot be told how the agent fares; is NOTIFY_SOCKET right?");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::agent::{devices::DeliveryView, view::View};

    fn device(error: Option<&str>) -> DeviceView {
        DeviceView {
            name: "eth0".to_owned(),
            role: Role::Uplink,
            hooks: None,
            no_xdp: None,
            delivery: DeliveryView::default(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn the_status_is_one_line_that_counts_what_is_served() {
        assert_eq!(
            status(&None, &[]),
            "waiting for the manifests' first listing"
        );
        let quiet = Some(Arc::new(View::default()));
        assert_eq!(status(&quiet, &[device(None)]), "0 services, 1 device");
        let troubled = View {
            troubles: vec!["full".to_owned(), "worse".to_owned()],
            ..View::default()
        };
        assert_eq!(
            status(
                &Some(Arc::new(troubled)),
                &[device(None), device(None), device(Some("busy"))]
            ),
            "0 services, 2 devices, 1 device not served, 2 troubles (fulcrum status)"
        );
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_at_half_its_time_and_never_if_there_is_none() {
        for limit in [None, Some(Duration::ZERO), Some(Duration::from_nanos(1))] {
            assert!(Watchdog::new(limit).due.is_none(), "{limit:?}");
        }
        let watchdog = Watchdog::new(Some(Duration::from_secs(30)));
        let due = watchdog.due.expect("a watchdog");
        assert_eq!(due.period(), Duration::from_secs(15));
        let mut idle = Watchdog::new(None);
        assert!(futures_util::FutureExt::now_or_never(idle.hungry()).is_none());
    }
}
