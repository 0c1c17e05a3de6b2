//! When tables of services become too small: how large others should be that take their place.
//!
//! Ids, slots and versions stay what they are, so both contain the same and a program may use either.

use lb_common::{
    abi::{SlotRange, map},
    net::addr::Family,
};

use super::{
    capacity::{Capacity, fitting},
    ledger::{Ledger, last_service},
    refusal::{Refusal, RefusalReason},
    step::{Area, FrontendKey},
};
use crate::desired::Desired;

/// A table is too small when so many quarters of it are in use.
const QUARTERS: usize = 3;

impl Ledger {
    /// How large tables should be instead of those that there are: because something of this state did not find room, or soon
    /// will not. None while they do, or if they are as large as tables get.
    pub fn wanted(&self, desired: &Desired, refused: &[Refusal]) -> Option<Capacity> {
        let mut wanted = self.capacity;
        let mut grow = |table, used: usize| {
            if let Some(entries) = wanted.entries_mut(table) {
                *entries = fitting(used, *entries);
            }
        };
        for (table, used, size) in self.in_use() {
            if used.saturating_mul(4) > size as usize * QUARTERS {
                grow(table, used);
            }
        }
        // Where there are gaps but none that is long enough, half of them is as good as taken.
        let n_slots = self.capacity.slots;
        let mut slots = self.free.slots.n_taken(n_slots).max(n_slots / 2) as usize;
        for refusal in refused {
            match refusal.reason {
                RefusalReason::Full {
                    table: map::SLOTS,
                    needed,
                    ..
                }
                | RefusalReason::NoTable { needed, .. } => {
                    slots = slots.saturating_add(needed);
                    grow(map::SLOTS, slots);
                }
                RefusalReason::Full {
                    table,
                    needed,
                    capacity,
                } => grow(table, needed.saturating_add(capacity as usize / 2)),
                RefusalReason::OtherFamily { .. } | RefusalReason::FrontendTaken { .. } => {}
            }
        }
        let is_short = wanted != self.capacity;
        is_short.then(|| wanted.joined(Capacity::of(desired)))
    }

    /// The same picture in larger tables.
    pub fn grow(&mut self, capacity: Capacity) {
        let capacity = self.capacity.joined(capacity);
        let slots = SlotRange {
            base: self.capacity.slots,
            count: capacity.slots - self.capacity.slots,
        };
        if slots.count > 0 {
            self.free.slots.give_back(slots);
        }
        self.free.services.extend_to(last_service(capacity));
        let last_backend = capacity.backends.saturating_sub(1);
        for family in [Family::V4, Family::V6] {
            self.free.backends(family).extend_to(last_backend);
        }
        self.capacity = capacity;
    }

    /// By table, one for both families: entries in use, of the family that has more of them, and entries that there are.
    fn in_use(&self) -> [(&'static str, usize, u32); 4] {
        let Capacity {
            services,
            slots,
            backends,
            places,
        } = self.capacity;
        let free = &self.free;
        // Where both families together are few, they need not be told apart.
        let n_services = of_larger(self.services.len(), services, || {
            let is_v4 = |key: &&FrontendKey| key.addr.is_ipv4();
            let n_v4 = self.services.keys().filter(is_v4).count();
            n_v4.max(self.services.len() - n_v4)
        });
        let n_places = of_larger(self.places.len(), places, || {
            let is_v4 = |area: &&Area| area.net.addr().is_ipv4();
            let n_v4 = self.places.keys().filter(is_v4).count();
            n_v4.max(self.places.len() - n_v4)
        });
        let n_backends = free.backends4.n_taken().max(free.backends6.n_taken());
        [
            (map::SERVICES4, n_services, services),
            (map::SLOTS, free.slots.n_taken(slots) as usize, slots),
            (map::BACKENDS4, n_backends, backends),
            (map::PLACES4, n_places, places),
        ]
    }
}

/// Entries of both families if they are few for a table of one; else of the larger family, which is dearer to know.
fn of_larger(both: usize, size: u32, count: impl FnOnce() -> usize) -> usize {
    if both.saturating_mul(4) <= size as usize * QUARTERS {
        both
    } else {
        count()
    }
}
