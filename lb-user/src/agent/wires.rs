//! What the agent's tasks tell each other, and by which channels.
//!
//! ```text
//! sources, devices, probes, health checks, configuration ── News ──► reconciliation ── Told ──► devices, probes, health checks, askers
//! ```

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, Interval},
};

use super::{
    Published,
    controller::Controller,
    devices::{Channels, DeviceView},
    flows::FlowReport,
    growth::Swap,
    health::{
        self, Health, Troubles,
        sync::{Moment, Sync},
    },
    node::{Demand, Own},
    probe::{overlay::Readiness, target::Targets},
    reload::{ConfigurationView, Telling},
    room::{self, Larger, Room},
    supervisor::{self, Watchdog},
    with_loopback,
};
use crate::{apply::LbMaps, config::reload::Live, plan::Capacity, source::ScanResult};

/// Time between two sweeps of the tables.
const SWEEP: Duration = Duration::from_secs(30);
/// Time between two looks at a part of the tables, of which there are five.
const AUDIT: Duration = Duration::from_secs(1);
/// The pause is at least so many times as long as the look was: a large table takes no more than a hundredth of a CPU.
const AUDIT_FACTOR: u32 = 100;

/// Every channel, by who holds which end.
pub(super) struct Wires {
    pub(super) channels: Channels,
    pub(super) told: Told,
    pub(super) news: News,
    pub(super) shown: Shown,
    pub(super) probing: Probing,
    pub(super) checking: Checking,
    /// The ends of what lets tables grow.
    pub(super) growing: (mpsc::Sender<Swap>, Room),
    /// What follows the configuration file.
    pub(super) telling: Telling,
    /// What the walk through the flow tables finds.
    pub(super) reports: watch::Sender<FlowReport>,
}

/// Where the outcome of a reconciliation is published.
pub(super) struct Told {
    pub(super) view: watch::Sender<Published>,
    pub(super) demand: watch::Sender<Demand>,
    pub(super) targets: watch::Sender<Targets>,
    pub(super) health: watch::Sender<Health>,
    pub(super) sync: watch::Sender<Sync>,
    /// How large the tables should be.
    pub(super) wanted: watch::Sender<Option<Capacity>>,
}

/// What those who ask are told.
pub(super) struct Shown {
    pub(super) view: watch::Receiver<Published>,
    pub(super) devices: watch::Receiver<Vec<DeviceView>>,
    pub(super) flows: watch::Receiver<FlowReport>,
    pub(super) configuration: watch::Receiver<ConfigurationView>,
}

/// The probes' ends.
pub(super) struct Probing {
    pub(super) targets: watch::Receiver<Targets>,
    pub(super) readiness: watch::Sender<Readiness>,
}

/// The health check ports' ends.
pub(super) struct Checking {
    pub(super) state: health::State,
    pub(super) troubles: watch::Sender<Troubles>,
}

impl Checking {
    fn new(state: health::State, troubles: watch::Sender<Troubles>) -> Self {
        Self { state, troubles }
    }
}

impl Wires {
    /// Channels beside that of the sources' `looks`; the node has these addresses, and `live` holds at the start.
    pub(super) fn new(looks: mpsc::Receiver<ScanResult>, own: Own, live: Live) -> Self {
        let (view_in, view) = watch::channel(None);
        let (views, devices) = watch::channel(Vec::new());
        let (demand_in, demand) = watch::channel(Demand::default());
        let (addresses_in, addresses) = watch::channel(own);
        let (targets_in, targets) = watch::channel(Targets::new());
        let (readiness_in, readiness) = watch::channel(Readiness::new());
        let (health_in, health) = watch::channel(Health::default());
        let (sync_in, sync) = watch::channel(Sync::starting(Moment::now()));
        let (swaps_in, swaps) = mpsc::channel(1);
        let (reports, flows) = watch::channel(FlowReport::default());
        let (live_in, live) = watch::channel(live);
        let (configuration_in, configuration) = watch::channel(ConfigurationView::default());
        let (troubles_in, troubles) = watch::channel(Troubles::new());
        let (wanted, larger, room) = room::channels();
        Self {
            channels: Channels {
                views,
                addresses: addresses_in,
                demand,
                swaps,
                live: live.clone(),
            },
            told: Told {
                view: view_in,
                demand: demand_in,
                targets: targets_in,
                health: health_in,
                sync: sync_in,
                wanted,
            },
            news: News {
                looks,
                addresses,
                readiness,
                troubles,
                live,
                larger,
                sweeps: time::interval(SWEEP),
                audit: Instant::now() + AUDIT,
                watchdog: Watchdog::of_this_process(),
            },
            shown: Shown {
                view,
                devices,
                flows,
                configuration,
            },
            probing: Probing {
                targets,
                readiness: readiness_in,
            },
            checking: Checking::new(health::State { health, sync }, troubles_in),
            growing: (swaps_in, room),
            telling: Telling {
                live: live_in,
                view: configuration_in,
            },
            reports,
        }
    }
}

/// Where news comes from. What is replaced before somebody looks is never seen: only what holds now counts.
pub(super) struct News {
    pub(super) looks: mpsc::Receiver<ScanResult>,
    /// The node's own addresses.
    pub(super) addresses: watch::Receiver<Own>,
    pub(super) readiness: watch::Receiver<Readiness>,
    /// Of the health check ports.
    pub(super) troubles: watch::Receiver<Troubles>,
    /// What of the configuration can change.
    pub(super) live: watch::Receiver<Live>,
    /// Tables to go over to.
    pub(super) larger: mpsc::Receiver<Box<Larger>>,
    /// When the tables are swept.
    pub(super) sweeps: Interval,
    /// When the tables are compared with what was written there.
    pub(super) audit: Instant,
    /// Who must hear of the control loop now and then.
    pub(super) watchdog: Watchdog,
}

/// What the control loop has to do.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Something is known that was not.
    News,
    /// It is time to clear the tables of what nobody goes by any more.
    Sweep,
    /// It is time to look whether the tables are what they should be.
    Audit,
    /// There are larger tables to go over to.
    Larger(Box<Larger>),
}

impl News {
    /// Waits for the next news and hands it to the controller, or until it is time for something else.
    pub(super) async fn arrive<M: LbMaps>(&mut self, controller: &mut Controller<M>) -> Arrival {
        loop {
            tokio::select! {
                // It was no news.
                () = self.watchdog.hungry() => {
                    supervisor::feed(controller);
                    continue;
                }
                _ = self.sweeps.tick() => return Arrival::Sweep,
                () = time::sleep_until(self.audit) => return Arrival::Audit,
                larger = next(&mut self.larger) => return Arrival::Larger(larger),
                look = next(&mut self.looks) => controller.absorb(look),
                own = changed(&mut self.addresses) => {
                    controller.relocate(with_loopback(own.addresses));
                    controller.stand_in(own.stand_ins);
                }
                readiness = changed(&mut self.readiness) => controller.probed(readiness),
                live = changed(&mut self.live) => controller.configure(live),
                troubles = changed(&mut self.troubles) => controller.hear(health::texts(&troubles)),
            }
            return Arrival::News;
        }
    }

    /// Notes that a look at the tables took so long.
    pub(super) fn audited(&mut self, took: Duration) {
        self.audit = Instant::now() + AUDIT.max(took * AUDIT_FACTOR);
    }

    /// The next look of a source.
    pub(super) async fn look(&mut self) -> ScanResult {
        next(&mut self.looks).await
    }
}

/// What comes next; waits for ever when there is nothing left to come.
async fn next<T>(things: &mut mpsc::Receiver<T>) -> T {
    match things.recv().await {
        Some(thing) => thing,
        None => std::future::pending().await,
    }
}

/// A value, when it has changed.
async fn changed<T: Clone>(values: &mut watch::Receiver<T>) -> T {
    match values.changed().await {
        Ok(()) => values.borrow_and_update().clone(),
        Err(_) => std::future::pending().await,
    }
}
