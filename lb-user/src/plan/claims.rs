//! What a plan asks the ledger to set aside: ids and slots for what it is about to write.
//!
//! None of it is visible in a table. What was set aside and not used (the plan was refused, failed or
//! was never carried out) is taken back when the same service port is planned again.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::{abi::SlotRange, net::addr::Family};

use super::{
    ledger::{Block, Ledger, Port, Stage, Tenancy},
    lists::Lists,
    recipe::Recipe,
    step::{BackendId, FrontendKey, family_of},
};
use crate::desired::PortName;

impl Ledger {
    /// The id of a service port, a new one if need be; `None`: there is none left.
    pub(super) fn claim_port(&mut self, name: &PortName) -> Option<u32> {
        if let Some(id) = self.service_id(name) {
            if let Some(port) = self.ports.get_mut(&id) {
                port.stage = Stage::Wanted;
            }
            return Some(id);
        }
        let id = self.free.services.take()?;
        let port = Port::new(Some(name.clone()));
        self.ports.insert(id, Box::new(port));
        self.ids.insert(name.clone(), id);
        Some(id)
    }

    /// Gives a service port up that has nothing in the tables.
    pub(super) fn unclaim_port(&mut self, service: u32) {
        if let Some(port) = self.ports.remove(&service) {
            if let Some(name) = port.name {
                self.ids.remove(&name);
            }
            self.free.services.untake(service);
        }
    }

    /// An id for a new endpoint; `None`: there is none left.
    pub(super) fn claim_backend(&mut self, service: u32, endpoint: SocketAddr) -> Option<Tenancy> {
        let family = family_of(endpoint.ip());
        let id = BackendId {
            family,
            id: self.free.backends(family).take()?,
        };
        let generation = self
            .generations
            .get(&id)
            .copied()
            .unwrap_or(0)
            .wrapping_add(1);
        let tenancy = Tenancy { id, generation };
        if let Some(port) = self.ports.get_mut(&service) {
            port.backends.insert(endpoint, tenancy);
        }
        Some(tenancy)
    }

    /// Takes ids back from endpoints whose rows were never written.
    pub(super) fn unclaim_backends(&mut self, service: u32, wanted: impl Fn(&SocketAddr) -> bool) {
        let Some(port) = self.ports.get_mut(&service) else {
            return;
        };
        let rows = &self.backends;
        let unwritten = |tenancy: &Tenancy| {
            rows.get(&tenancy.id)
                .is_none_or(|row| row.generation != tenancy.generation)
        };
        let unused = port.backends.extract_if(.., |endpoint, tenancy| {
            unwritten(tenancy) && !wanted(endpoint)
        });
        for (_, Tenancy { id, .. }) in unused {
            self.free.backends(id.family).untake(id.id);
        }
    }

    /// The lists of a recipe: those that were made of it before, if it is the same.
    pub(super) fn lists(&mut self, service: u32, recipe: Recipe) -> Lists {
        let Some(port) = self.ports.get_mut(&service) else {
            return recipe.lists();
        };
        let made = port.made.as_deref().filter(|(made, _)| *made == recipe);
        if let Some((_, lists)) = made {
            return lists.clone();
        }
        let lists = recipe.lists();
        if recipe.is_dear() {
            port.made = Some(Box::new((recipe, lists.clone())));
        }
        lists
    }

    /// Slots for the lists; `None`: there is no gap of that length.
    pub(super) fn claim_block(&mut self, service: u32, lists: Lists) -> Option<u32> {
        let base = self.free.slots.take(lists.len())?;
        if let Some(port) = self.ports.get_mut(&service) {
            port.blocks.insert(
                base,
                Block {
                    lists,
                    written: false,
                    users: 0,
                },
            );
        }
        Some(base)
    }

    /// Takes slots back that no entry ever pointed to.
    pub(super) fn unclaim_blocks(&mut self, service: u32, wanted: impl Fn(&Lists) -> bool) {
        let Some(port) = self.ports.get_mut(&service) else {
            return;
        };
        let unused = port
            .blocks
            .extract(|_, block| block.users == 0 && !wanted(&block.lists));
        for (base, block) in unused {
            self.free.slots.give_back(SlotRange {
                base,
                count: block.lists.len(),
            });
        }
    }

    /// The version of the next entry. Never that of an entry that a reader in flight may hold.
    pub(super) fn next_version(&mut self) -> u32 {
        self.version = self.version.wrapping_add(1);
        self.version
    }

    /// Number of entries of one family.
    pub(super) fn n_services(&self, family: Family) -> usize {
        let unspecified6 = FrontendKey {
            addr: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            port: 0,
            proto: 0,
            pad: 0,
        };
        let n_6 = self.services.range(unspecified6..).count();
        match family {
            Family::V4 => self.services.len() - n_6,
            Family::V6 => n_6,
        }
    }
}
