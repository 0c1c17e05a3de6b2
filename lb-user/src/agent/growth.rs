//! Tables grow when they have to: flow tables by the phases of [`lb_common::flow::growth`], those of services as [`super::room`]
//! says. One at a time, as programs know the tables that they were loaded with.
//!
//! Owns no device: the programs of each phase go to whoever does, one phase after the other, and between two of them every
//! run of the earlier programs has ended.

use std::{
    convert::Infallible,
    fmt::Debug,
    future,
    sync::Arc,
    time::{Duration, Instant},
};

use lb_common::{abi::NodeConfig, net::addr::Family};
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use super::{joined, packets::Packets, room::Room};
use crate::{
    apply::{FlowTableLook, MapError},
    causes::with_causes,
    config::FlowTableSizes,
    loader::{
        LoaderError, Unfinished,
        attach::Programs,
        growth::{Begun, Carrier, GrowthError, Origin, Phase, Stage},
    },
    plan::Capacity,
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
    /// What an earlier agent began.
    unfinished: Option<Unfinished>,
    sizes: FlowTableSizes,
    swaps: mpsc::Sender<Swap>,
    packets: Option<Arc<Packets>>,
    room: Room,
    /// When tables of services may be tried again that could not grow.
    next_try: Instant,
    look: FlowTableLook,
    /// It was told that there is no room to grow into.
    is_told: bool,
}

impl Growth {
    /// Of the tables that programs were loaded with.
    pub fn new(
        origin: Origin,
        unfinished: Option<Unfinished>,
        sizes: FlowTableSizes,
        swaps: mpsc::Sender<Swap>,
        packets: Option<Arc<Packets>>,
        room: Room,
    ) -> Self {
        Self {
            origin,
            unfinished,
            sizes,
            swaps,
            packets,
            room,
            next_try: Instant::now(),
            look: FlowTableLook::default(),
            is_told: false,
        }
    }

    /// Finishes what an earlier agent began, then looks for ever, and grows. The devices have the programs at hand.
    pub async fn follow(mut self) -> Infallible {
        if let Some(unfinished) = self.unfinished.take() {
            self.go_on(unfinished).await;
        }
        for family in [Family::V4, Family::V6] {
            let found = self.origin.flow_table_size(family);
            let wanted = self.sizes.of_earlier(found);
            if wanted != found {
                tracing::info!(%family, from = found, to = wanted, "the flow table gets the size that is asked for");
                self.try_grow(family, wanted).await;
            }
        }
        loop {
            time::sleep(LOOK).await;
            self.try_make_room().await;
            let Some((family, reason)) = self.need().await else {
                continue;
            };
            let size = self.origin.flow_table_size(family);
            let wanted = if self.origin.is_former(family) {
                tracing::info!(%family, reason, "the flow table is replaced");
                size
            } else if size < self.sizes.max {
                let wanted = size.saturating_mul(2).min(self.sizes.max);
                tracing::info!(%family, from = size, to = wanted, reason, "the flow table grows");
                wanted
            } else {
                self.tell(family, reason, size);
                continue;
            };
            if !self.try_grow(family, wanted).await {
                time::sleep(RETRY).await;
            }
        }
    }

    /// Lets the tables of services grow, if they should.
    async fn try_make_room(&mut self) {
        let Some(tables) = self.room.need().filter(|_| self.next_try <= Instant::now()) else {
            return;
        };
        tracing::info!(?tables, "the tables of services grow");
        if let Err(error) = self.make_room(tables).await {
            self.origin.abandon_larger();
            self.next_try = Instant::now() + RETRY;
            tracing::error!(
                error = with_causes(&error),
                "the tables of services keep their size; tried again in a minute"
            );
        }
    }

    /// Gives the larger tables the names of those that they replace. Until that is done nobody writes either.
    pub(super) async fn settle(&mut self, tables: Capacity) {
        while let Err(error) = self.origin.settle(tables) {
            tracing::error!(
                error = with_causes(&error),
                "services cannot change: their tables have grown, but the pins do not say so"
            );
            time::sleep(LOOK).await;
        }
        if let Some(packets) = &self.packets
            && let Err(error) = packets.reopen(&self.origin.maps)
        {
            tracing::warn!(
                error = with_causes(&error),
                "`fulcrum trace` speaks of the tables that were in use before"
            );
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn room(&mut self) -> &mut Room {
        &mut self.room
    }

    /// Returns whether the table has the size.
    async fn try_grow(&mut self, family: Family, size: u32) -> bool {
        let found = self.origin.flow_table_size(family);
        let Err(error) = self.grow(family, size).await else {
            return true;
        };
        self.origin.abandon();
        tracing::error!(
            error = with_causes(&error),
            size = found,
            "the flow table keeps its size; if memory is short, set --flow-table-max {found}"
        );
        false
    }

    /// Goes on where an earlier agent ended.
    async fn go_on(&mut self, unfinished: Unfinished) {
        let Unfinished {
            begun:
                Begun {
                    phase,
                    family,
                    size,
                },
            carrier,
            node,
        } = unfinished;
        // Programs of the earlier agent may still be running.
        wait().await;
        let result = match phase {
            Phase::Announced => self.divert(family, size).await,
            Phase::Diverted => self.conclude(family, size, carrier).await,
            Phase::Grown => {
                self.finish(node, (family, size)).await;
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::error!(
                error = with_causes(&error),
                "the growth that an earlier agent began cannot be finished; both tables stay in use until the next start"
            );
            future::pending::<()>().await;
        }
    }

    /// Why the table should be another.
    async fn need(&mut self) -> Option<(Family, &'static str)> {
        let mut families = [Family::V4, Family::V6].into_iter();
        if let Some(family) = families.find(|family| self.origin.is_former(*family)) {
            return Some((family, "it has the layout of the release before"));
        }
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

    /// Gives a family's table `size` positions. What may be refused comes before the first device is touched, as far as it is
    /// not written down already what devices have.
    async fn grow(&mut self, family: Family, size: u32) -> Result<(), LoaderError> {
        self.origin.abandon();
        let announced = self.load(Phase::Announced, family, size).await?;
        let diverted = self.load(Phase::Diverted, family, size).await?;
        let grown = self.load(Phase::Grown, family, size).await?;
        self.origin.enter(&announced.node)?;
        self.swap(Phase::Announced, announced).await;
        self.insist(&diverted.node).await;
        let carrier = self.swap(Phase::Diverted, diverted).await;
        self.carry_all(carrier, family).await;
        self.enter_grown(grown, (family, size)).await;
        Ok(())
    }

    /// The rest of it, from the second phase on.
    async fn divert(&mut self, family: Family, size: u32) -> Result<(), LoaderError> {
        let diverted = self.load(Phase::Diverted, family, size).await?;
        let grown = self.load(Phase::Grown, family, size).await?;
        self.insist(&diverted.node).await;
        let carrier = self.swap(Phase::Diverted, diverted).await;
        self.carry_all(carrier, family).await;
        self.enter_grown(grown, (family, size)).await;
        Ok(())
    }

    /// The rest of it, once all devices have the programs of the second phase.
    async fn conclude(
        &mut self,
        family: Family,
        size: u32,
        carrier: Option<Carrier>,
    ) -> Result<(), LoaderError> {
        let grown = self.load(Phase::Grown, family, size).await?;
        self.carry_all(carrier, family).await;
        self.enter_grown(grown, (family, size)).await;
        Ok(())
    }

    async fn enter_grown(&mut self, grown: Stage, table: (Family, u32)) {
        let node = grown.node;
        self.insist(&node).await;
        self.swap(Phase::Grown, grown).await;
        self.finish(node, table).await;
    }

    async fn carry_all(&self, carrier: Option<Carrier>, family: Family) {
        if let Some(carrier) = carrier {
            let size = self.origin.flow_table_size(family);
            self.carry(carrier, size).await;
        }
    }

    async fn finish(&mut self, node: NodeConfig, (family, size): (Family, u32)) {
        while let Err(error) = self.origin.finish(node) {
            tracing::error!(
                error = with_causes(&error),
                "the flow table has grown, but its pins do not say so"
            );
            time::sleep(RETRY).await;
        }
        self.is_told = false;
        tracing::info!(%family, size, "the flow table has grown");
    }

    /// Writes down which programs devices get next. Without that nobody could go on after a sudden end; so it is tried until it
    /// is done, and meanwhile the devices have those of the phase before.
    async fn insist(&self, node: &NodeConfig) {
        while let Err(error) = self.origin.enter(node) {
            tracing::error!(
                error = with_causes(&error),
                "the flow table cannot go on growing for now"
            );
            time::sleep(RETRY).await;
        }
    }

    async fn load(&self, phase: Phase, family: Family, size: u32) -> Result<Stage, LoaderError> {
        let origin = self.origin.clone();
        // The verifier takes its time.
        joined(task::spawn_blocking(move || origin.load(phase, family, size)).await).await
    }

    /// Puts the programs of a phase in the place of the earlier ones; returns when none of these runs any more.
    pub(super) async fn swap(&self, phase: impl Debug, stage: Stage) -> Option<Carrier> {
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
