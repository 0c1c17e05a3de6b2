//! Room for services: how those who write the tables and those who load the programs go over to larger tables together.
//!
//! ```text
//! reconciliation  wants larger ones                    writes all into them, then nothing            goes on, on these
//! growth                          makes them, loads                                programs swapped
//! ```
//!
//! Between being filled and being in use both tables say the same and nobody writes either, so packets may meet programs of both.

use lb_common::abi::map;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
};

use super::{
    controller::Controller,
    growth::Growth,
    joined,
    supervisor::{self, Watchdog},
};
use crate::{
    apply::{BpfMaps, MapError, TableError},
    causes::with_causes,
    loader::{LoaderError, growth::Stage},
    plan::Capacity,
};

/// Empty tables, and the two words that are to be said.
#[derive(Debug)]
pub struct Larger {
    tables: BpfMaps,
    /// They say all that the others say.
    filled: oneshot::Sender<()>,
    /// No program uses the others any more.
    in_use: oneshot::Receiver<()>,
}

/// What lets tables of services grow.
#[derive(Debug)]
pub struct Room {
    wanted: watch::Receiver<Option<Capacity>>,
    offers: mpsc::Sender<Box<Larger>>,
    /// What was made last: who wants no more has not heard of it yet.
    made: Capacity,
}

/// Why tables stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The programs for larger ones cannot be loaded, or the tables not made.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// They cannot be opened, or counts not be copied.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// They were not filled; who should have has said why.
    #[error("the larger tables could not be filled")]
    Unfilled,
}

/// What lets tables of services grow, and the ends of who writes them: how large they should be, and those to go over to.
pub fn channels() -> (
    watch::Sender<Option<Capacity>>,
    mpsc::Receiver<Box<Larger>>,
    Room,
) {
    let (wanted_in, wanted) = watch::channel(None);
    let (offers, larger) = mpsc::channel(1);
    let room = Room {
        wanted,
        offers,
        made: Capacity::default(),
    };
    (wanted_in, larger, room)
}

impl Room {
    /// How large tables should be instead of those that there are.
    pub fn need(&self) -> Option<Capacity> {
        let wanted = *self.wanted.borrow();
        wanted.filter(|wanted| wanted.joined(self.made) != self.made)
    }
}

impl Growth {
    /// Puts larger tables of services in the place of those in use; until the devices have their programs, nothing has happened.
    pub(super) async fn make_room(&mut self, tables: Capacity) -> Result<(), RoomError> {
        let origin = self.origin().clone();
        let load = move || -> Result<(Stage, BpfMaps), RoomError> {
            let stage = origin.load_larger(tables)?;
            let tables = origin.larger_tables()?;
            origin.copy_counts()?;
            Ok((stage, tables))
        };
        let (stage, empty) = joined(task::spawn_blocking(load).await).await?;
        let (filled, is_filled) = oneshot::channel();
        let (in_use, is_in_use) = oneshot::channel();
        let offer = Box::new(Larger {
            tables: empty,
            filled,
            in_use: is_in_use,
        });
        // Refused when the agent is going down, as is the wait.
        let _ = self.room().offers.send(offer).await;
        is_filled.await.map_err(|_| RoomError::Unfilled)?;
        self.swap("larger tables", stage).await;
        self.settle(tables).await;
        self.room().made = tables;
        // Likewise.
        let _ = in_use.send(());
        let entries = |name| tables.entries(name).unwrap_or_default();
        tracing::info!(
            services = entries(map::SERVICES4),
            slots = entries(map::SLOTS),
            backends = entries(map::BACKENDS4),
            places = entries(map::PLACES4),
            "the tables of services have grown"
        );
        Ok(())
    }
}

/// Writes all into larger tables and goes on with these when no program uses the others any more; stays with the others if that
/// does not come about.
pub(super) async fn go_over(
    controller: Controller<BpfMaps>,
    larger: Box<Larger>,
    watchdog: &mut Watchdog,
) -> Controller<BpfMaps> {
    let Larger {
        mut tables,
        filled,
        mut in_use,
    } = *larger;
    // There may be many entries.
    let fill = move || -> (Controller<BpfMaps>, Result<BpfMaps, TableError>) {
        let written = controller.write_anew(&mut tables);
        (controller, written.map(|()| tables))
    };
    let (mut controller, tables) = joined(task::spawn_blocking(fill).await).await;
    let tables = match tables {
        Ok(tables) => tables,
        Err(error) => {
            tracing::warn!(
                error = with_causes(&error),
                "larger tables cannot be filled"
            );
            return controller;
        }
    };
    // Refused if nobody waits for it, as is the wait then.
    let _ = filled.send(());
    let is_in_use = loop {
        tokio::select! {
            said = &mut in_use => break said.is_ok(),
            () = watchdog.hungry() => supervisor::feed(&controller),
        }
    };
    if is_in_use {
        controller.go_over_to(tables);
    }
    controller
}
