//! The walk through the flow tables: what is counted, and what the operator is told before it hurts.

use std::{
    convert::Infallible,
    path::PathBuf,
    time::{Duration, Instant},
};

use lb_common::{abi::NodeConfig, net::addr::Family};
use serde::Serialize;
use tokio::{sync::watch, task, time};

use crate::{
    apply::{MapError, counts},
    causes::with_causes,
    clock,
    config::Config,
    flows::{
        FlowTables,
        alarm::{Alarms, Limits, Message},
        census::{self, Census},
        memory::Access,
        tally,
    },
    loader::{Datapath, facts},
};

/// Time between two looks at the counters.
const LOOK: Duration = Duration::from_secs(2);
/// Every so many looks the tables are walked through.
const LOOKS_PER_WALK: u32 = 15;

/// What the walk has found, for those who ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// How many connections there are, by family; empty before the first walk.
    pub tables: Vec<Census>,
    /// What was chosen when the agent started.
    pub sizes: Option<Sizes>,
    /// What the operator was told and still holds.
    #[serde(skip)]
    pub troubles: Vec<String>,
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Positions of each family's flow table.
    pub flow_table_size: u32,
    /// Positions that it may grow to.
    pub flow_table_max: u32,
    /// Clients per family that affinity is remembered of.
    pub affinity_size: u32,
}

/// The walk.
#[derive(Debug)]
pub(super) struct Walk {
    pins: PathBuf,
    limits: Limits,
    start: Instant,
    n_looks: u32,
    alarms: Alarms,
    report: FlowReport,
}

impl Walk {
    /// Of the tables of a datapath.
    pub(super) fn new(datapath: &Datapath, config: &Config) -> Self {
        let pins = datapath.maps().to_owned();
        let sizes =
            [Family::V4, Family::V6].map(|family| datapath.origin().flow_table_size(family));
        // Those of an earlier agent may be larger than what the flags or the memory would have them be.
        let flow_table_size = sizes[0].max(sizes[1]);
        let flow_table_max = config.flow_table.max.max(flow_table_size);
        let affinity_size = config.flows.affinity_size;
        tracing::info!(flow_table_size, flow_table_max, affinity_size, "sizes");
        Self {
            pins,
            limits: Limits {
                flow_table_size,
                flow_table_max,
                affinity_size,
                snat_ports: config.flows.snat_ports,
            },
            start: Instant::now(),
            n_looks: 0,
            alarms: Alarms::default(),
            report: FlowReport {
                sizes: Some(Sizes {
                    flow_table_size,
                    flow_table_max,
                    affinity_size,
                }),
                ..FlowReport::default()
            },
        }
    }

    /// Looks for ever, and tells.
    pub(super) async fn follow(mut self, reports: watch::Sender<FlowReport>) -> Infallible {
        let mut ticks = time::interval(LOOK);
        // After a pause of the whole machine one look says as much as many.
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // On a thread of its own: there may be many slots.
            let work = task::spawn_blocking(move || {
                if let Err(error) = self.look() {
                    tracing::warn!(
                        error = with_causes(&error),
                        "cannot look at the connections"
                    );
                }
                self
            });
            self = super::joined(work.await).await;
            super::replace(&reports, self.report.clone());
        }
    }

    fn look(&mut self) -> Result<(), MapError> {
        let counts = counts(&self.pins)?;
        let of = |reason| counts.get(&reason).copied().unwrap_or_default();
        if self.n_looks == 0 {
            // What an earlier agent has counted is no news.
            self.alarms.begin(of);
        }
        let mut messages = self.alarms.counters(self.start.elapsed(), &self.limits, of);
        if self.n_looks.is_multiple_of(LOOKS_PER_WALK) {
            let tables = self.walk()?;
            messages.extend(self.alarms.fill(&self.limits, &tables));
            self.report.tables = tables;
        }
        self.n_looks = self.n_looks.wrapping_add(1);
        for message in messages {
            match message {
                Message::Begun(text) => tracing::warn!("{text}"),
                Message::Over(text) => tracing::info!("{text}"),
            }
        }
        self.report.troubles = self.alarms.standing();
        Ok(())
    }

    fn walk(&self) -> Result<Vec<Census>, MapError> {
        let node = facts::read(&self.pins).unwrap_or(NodeConfig::DEFAULT);
        let tables = FlowTables::open(&self.pins, node, Access::Read)?;
        match clock::now() {
            Ok(now) => {
                tally::put_right(&self.pins, &tables, now)?;
                Ok(census::count(&tables, now))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the clock");
                Ok(self.report.tables.clone())
            }
        }
    }
}
