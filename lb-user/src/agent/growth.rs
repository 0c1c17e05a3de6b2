//! The flow table grows when it has to: when it is told, by the phases of [`lb_common::flow::growth`].
//!
//! Owns no device: the programs of each phase go to whoever does, one phase after the other, and between two of them every
//! run of the earlier programs has ended.

use std::{convert::Infallible, sync::Arc, time::Duration};

use lb_common::net::addr::Family;
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use super::{joined, packets::Packets};
use crate::{
    apply::{FlowTableLook, MapError},
    causes::with_causes,
    loader::{
        LoaderError,
        attach::Programs,
        growth::{Carrier, GrowthError, Origin, Phase, Stage},
    },
    sys::wait_for_readers,
};

/// Time between two looks at the tables.
const LOOK: Duration = Duration::from_secs(1);
/// Time until a growth that failed is tried again.
const RETRY: Duration = Duration::from_mins(1);
/// Passes that move flows at most: what changes at the moment of each of them is not to be had.
const MAX_PASSES: u32 = 16;

/// Programs that shall take the place of those on the devices.
#[derive(Debug)]
pub struct Swap {
    /// These.
    pub programs: Programs,
    /// Told when no device has any others.
    pub done: oneshot::Sender<()>,
}

/// See the module.
#[derive(Debug)]
pub struct Growth {
    origin: Origin,
    /// Flow positions per family that there may be at most.
    max: u32,
    swaps: mpsc::Sender<Swap>,
    packets: Option<Arc<Packets>>,
    look: FlowTableLook,
    /// It was told that there is no room to grow into.
    is_told: bool,
}

impl Growth {
    /// Of the tables that programs were loaded with, up to `max` positions per family.
    pub fn new(
        origin: Origin,
        max: u32,
        swaps: mpsc::Sender<Swap>,
        packets: Option<Arc<Packets>>,
    ) -> Self {
        Self {
            origin,
            max,
            swaps,
            packets,
            look: FlowTableLook::default(),
            is_told: false,
        }
    }

    /// Looks for ever, and grows.
    pub async fn follow(mut self) -> Infallible {
        loop {
            time::sleep(LOOK).await;
            let Some((family, reason)) = self.need().await else {
                continue;
            };
            let size = self.origin.flow_table_size(family);
            if size >= self.max {
                self.tell(family, reason, size);
                continue;
            }
            let wanted = size.saturating_mul(2).min(self.max);
            tracing::info!(%family, from = size, to = wanted, reason, "the flow table grows");
            if let Err(error) = self.grow(family, wanted).await {
                self.origin.abandon();
                tracing::error!(
                    error = with_causes(&error),
                    size,
                    "the flow table cannot grow; if memory is short, set --flow-table-max {size}"
                );
                time::sleep(RETRY).await;
            }
        }
    }

    /// Why the table should be larger.
    async fn need(&mut self) -> Option<(Family, &'static str)> {
        let mut look = std::mem::take(&mut self.look);
        let (maps, node) = (self.origin.maps.clone(), self.origin.node);
        let work = task::spawn_blocking(move || {
            let need: Result<_, MapError> = look.need(&maps, &node);
            (look, need)
        });
        let (look, need) = joined(work.await).await;
        self.look = look;
        need.unwrap_or_else(|error| {
            tracing::warn!(error = with_causes(&error), "cannot look at the flow table");
            None
        })
    }

    fn tell(&mut self, family: Family, reason: &'static str, size: u32) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(
                %family,
                reason,
                size,
                "the flow table has grown as far as it may; raise --flow-table-max for more connections"
            );
        }
    }

    /// Grows a family's table to `size` positions. Everything that may be refused comes before the first device is touched.
    async fn grow(&mut self, family: Family, size: u32) -> Result<(), LoaderError> {
        self.origin.abandon();
        let announced = self.load(Phase::Announced, family, size).await?;
        let diverted = self.load(Phase::Diverted, family, size).await?;
        let grown = self.load(Phase::Grown, family, size).await?;
        let node = grown.node;
        self.enter(Phase::Announced, announced).await;
        let carrier = self.enter(Phase::Diverted, diverted).await;
        if let Some(carrier) = carrier {
            self.carry(carrier, self.origin.flow_table_size(family))
                .await;
        }
        self.enter(Phase::Grown, grown).await;
        while let Err(error) = self.origin.finish(node) {
            tracing::error!(
                error = with_causes(&error),
                "the flow table has grown, but its pins do not say so"
            );
            time::sleep(RETRY).await;
        }
        self.is_told = false;
        tracing::info!(%family, size, "the flow table has grown");
        Ok(())
    }

    async fn load(&self, phase: Phase, family: Family, size: u32) -> Result<Stage, LoaderError> {
        let origin = self.origin.clone();
        // The verifier takes its time.
        joined(task::spawn_blocking(move || origin.load(phase, family, size)).await).await
    }

    /// Puts the programs of a phase in the place of the earlier ones; returns when none of these runs any more.
    async fn enter(&self, phase: Phase, stage: Stage) -> Option<Carrier> {
        let (done, is_done) = oneshot::channel();
        let programs = stage.programs;
        // Refused when the agent is going down, as is the wait.
        let _ = self.swaps.send(Swap { programs, done }).await;
        let _ = is_done.await;
        if let Some(packets) = &self.packets {
            packets.ask(stage.tracer);
        }
        wait().await;
        tracing::info!(?phase, "programs swapped");
        stage.carrier
    }

    /// Carries the flows over, until nothing is left that a pass moves. A flow that finds no room is lost.
    async fn carry(&self, carrier: Carrier, size: u32) {
        let carrier = Arc::new(carrier);
        let mut n_moved = 0;
        let mut n_pass = 0;
        while n_pass < MAX_PASSES {
            let pass = {
                let carrier = Arc::clone(&carrier);
                joined(task::spawn_blocking(move || carrier.pass(size)).await).await
            };
            // What the programs have noted meanwhile in slots that they had found before.
            wait().await;
            match pass {
                Ok(pass) => {
                    n_pass += 1;
                    n_moved += pass.moved;
                    if pass.moved == 0 && (pass.kept == 0 || n_pass > 2) {
                        let kept = pass.kept;
                        tracing::info!(
                            flows = n_moved,
                            lost = kept,
                            passes = n_pass,
                            "flows carried over"
                        );
                        return;
                    }
                }
                // As long as both tables are known, no flow is lost.
                Err(error) => refused(&error).await,
            }
        }
        tracing::warn!(
            flows = n_moved,
            "flows carried over, but for some that changed all the time"
        );
    }
}

async fn refused(error: &GrowthError) {
    tracing::error!(
        error = with_causes(error),
        "flows cannot be carried over for now"
    );
    time::sleep(LOOK).await;
}

/// Returns when every program that was running at the call has ended.
async fn wait() {
    joined(task::spawn_blocking(wait_for_readers).await).await;
}
