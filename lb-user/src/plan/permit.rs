//! What must have happened before a step, told from the ledger's picture of the tables.
//!
//! This is what keeps a partly failed plan safe: the steps that remain are asked one by one.

use std::{collections::BTreeMap, net::SocketAddr};

use lb_common::abi::Service;
use thiserror::Error;

use super::{
    ledger::{Ledger, Tenancy},
    lists::first_slot,
    step::{BackendId, BackendRow, Step},
};

/// Why a step must be left out: something before it was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Blocked {
    /// The service port has no such id.
    #[error("the service port no longer has this id")]
    NoSuchPort,
    /// The endpoint has no such id.
    #[error("the endpoint no longer has this id")]
    NoSuchBackend,
    /// The slots belong to nobody or are in use.
    #[error("the slots are not free for it")]
    SlotsInUse,
    /// The entry would point to slots that are not written.
    #[error("its slots are not written")]
    SlotsNotWritten,
    /// The entry would list a backend that is not written so.
    #[error("a backend in its slots is not written")]
    BackendNotWritten,
    /// An entry still lists the backend.
    #[error("a frontend still lists it")]
    StillListed,
    /// The frontend's entry is another service's.
    #[error("the frontend belongs to another service")]
    EntryElsewhere,
    /// The guard is not there, or not written whole.
    #[error("its source ranges are not written")]
    NoSuchGuard,
    /// Readers in flight may still hold it.
    #[error("it has not rested for a grace period")]
    NotRested,
}

impl Ledger {
    /// The service that a step is about.
    pub fn service_of(&self, step: &Step) -> Option<u32> {
        match step {
            Step::WriteBackend { row, .. } | Step::RetireBackend { row, .. } => Some(row.service),
            Step::WriteSlots { service, .. } | Step::DeleteService { service, .. } => {
                Some(*service)
            }
            Step::PutService { service, .. } => Some(service.id),
            Step::FreeBackend { id, .. } => self.backends.get(id).map(|row| row.service),
            Step::PutPlace(area, _) | Step::DeletePlace(area) => {
                self.guards.get(&area.space).map(|guard| guard.service)
            }
            Step::Grace | Step::PutSource(..) | Step::DeleteSource(_) => None,
        }
    }

    /// Whether all that the step relies on has happened.
    pub fn permits(&self, step: &Step) -> Result<(), Blocked> {
        match step {
            Step::WriteBackend { id, row } | Step::RetireBackend { id, row } => {
                self.permits_backend(*id, row)
            }
            Step::WriteSlots { service, base, ids } => {
                let port = self.ports.get(service).ok_or(Blocked::NoSuchPort)?;
                let block = port.blocks.get(base).ok_or(Blocked::SlotsInUse)?;
                let unseen = block.users == 0 && block.lists.ids() == ids;
                unseen.then_some(()).ok_or(Blocked::SlotsInUse)
            }
            Step::PutService { service, .. } => self.permits_service(service),
            Step::DeleteService { key, service } => {
                let theirs = self
                    .services
                    .get(key)
                    .is_some_and(|entry| entry.id == *service);
                theirs.then_some(()).ok_or(Blocked::EntryElsewhere)
            }
            Step::FreeBackend { id, .. } => self
                .rested
                .contains(id)
                .then_some(())
                .ok_or(Blocked::NotRested),
            Step::PutPlace(area, _) => self.permits_put_place(area),
            Step::DeletePlace(area) => self.permits_delete_place(area),
            Step::Grace | Step::PutSource(..) | Step::DeleteSource(_) => Ok(()),
        }
    }

    /// A row is its endpoint's, and takes no backend out of a list that an entry still shows.
    fn permits_backend(&self, id: BackendId, row: &BackendRow) -> Result<(), Blocked> {
        let port = self.ports.get(&row.service).ok_or(Blocked::NoSuchPort)?;
        let tenancy = port.backends.get(&SocketAddr::new(row.addr, row.port));
        if tenancy
            != Some(&Tenancy {
                id,
                generation: row.generation,
            })
        {
            return Err(Blocked::NoSuchBackend);
        }
        let listed = port.blocks.values().filter(|block| block.users > 0);
        let needed = listed.fold(0, |flags, block| flags | block.lists.flags_of(id.id));
        if row.flags & needed == needed {
            Ok(())
        } else {
            Err(Blocked::StillListed)
        }
    }

    /// An entry points to written slots, all of them with backends that are in the list in question.
    fn permits_service(&self, service: &Service) -> Result<(), Blocked> {
        let port = self.ports.get(&service.id).ok_or(Blocked::NoSuchPort)?;
        self.permits_guard(service)?;
        let Some(base) = first_slot(service) else {
            return Ok(());
        };
        let block = port.blocks.get(&base).filter(|block| block.written);
        let block = block.ok_or(Blocked::SlotsNotWritten)?;
        let [cluster, external_local, internal_local] = block.lists.ranges(base);
        if [cluster, external_local, internal_local]
            != [
                service.cluster,
                service.external_local,
                service.internal_local,
            ]
        {
            return Err(Blocked::SlotsNotWritten);
        }
        let mut written = BTreeMap::new();
        for Tenancy { id, .. } in port.backends.values() {
            if let Some(row) = self.backends.get(id) {
                written.insert(id.id, row.flags);
            }
        }
        let members = block.lists.members();
        let ready = members.iter().all(|(id, listed)| {
            written
                .get(id)
                .is_some_and(|flags| flags & listed == *listed)
        });
        if ready {
            Ok(())
        } else {
            Err(Blocked::BackendNotWritten)
        }
    }
}
