//! Guards: who may dial the frontends that name one.
//!
//! A guard is a space of its own in the table of prefixes. It is written whole before the first entry names
//! it and never altered after; other source ranges are another guard. So a reader sees the old ranges or
//! the new ones, never a mixture. When no entry names it any more it rests like slots do, and goes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_common::{
    abi::{Service, map, place},
    net::addr::Family,
};

use super::{
    ledger::Ledger,
    permit::Blocked,
    refusal::RefusalReason,
    step::{Area, FrontendKey, Step, family_of},
};
use crate::desired::Place;

/// One guard.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// The service port whose frontends it guards.
    pub(super) service: u32,
    /// Who may come in.
    pub(super) nets: BTreeSet<IpNet>,
    /// Entries that name it.
    pub(super) users: usize,
    pub(super) stage: Stage,
}

/// The life of a guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// No entry has named it yet.
    Fresh,
    /// Entries name it.
    Used,
    /// No entry names it; readers in flight may hold one that did.
    Resting,
    /// Nobody asks for it.
    Rested,
}

/// A prefix of a guard.
fn area(guard: u32, net: IpNet) -> Area {
    Area { space: guard, net }
}

impl Ledger {
    /// The guard with these ranges for a service port: one that is there, or a fresh one. 0: everybody may come in.
    ///
    /// One that is in use comes to rest with the last frontend that leaves it, maybe before another one is put
    /// there. So it serves again only if it is among those on which a frontend `stays`.
    pub(super) fn claim_guard(
        &mut self,
        (service, family): (u32, Family),
        nets: &BTreeSet<IpNet>,
        stays: &BTreeSet<u32>,
    ) -> Result<u32, RefusalReason> {
        if nets.is_empty() {
            return Ok(place::NODE_SPACE);
        }
        let there = self.guards.iter().find(|(id, guard)| {
            let serves = guard.stage == Stage::Fresh || stays.contains(id);
            serves && guard.service == service && guard.nets == *nets
        });
        if let Some((id, _)) = there {
            return Ok(*id);
        }
        let is_of_family = |net: &IpNet| family_of(net.addr()) == family;
        let written = self.places.keys().filter(|area| is_of_family(&area.net));
        let claimed = self.guards.iter().flat_map(|(id, guard)| {
            let waits = guard.stage == Stage::Fresh;
            guard
                .nets
                .iter()
                .filter(move |_| waits)
                .map(|net| area(*id, *net))
        });
        let claimed =
            claimed.filter(|area| is_of_family(&area.net) && !self.places.contains_key(area));
        if written.count() + claimed.count() + nets.len() > self.capacity.places as usize {
            let table = match family {
                Family::V4 => map::PLACES4,
                Family::V6 => map::PLACES6,
            };
            return Err(RefusalReason::Full {
                table,
                needed: nets.len(),
                capacity: self.capacity.places,
            });
        }
        let id = self.next_guard();
        let guard = Guard {
            service,
            nets: nets.clone(),
            users: 0,
            stage: Stage::Fresh,
        };
        self.guards.insert(id, guard);
        Ok(id)
    }

    /// Gives up guards of a service port that no entry ever named.
    pub(super) fn unclaim_guards(
        &mut self,
        service: u32,
        wanted: impl Fn(&BTreeSet<IpNet>) -> bool,
    ) {
        let guards = self
            .guards
            .values_mut()
            .filter(|guard| guard.service == service);
        for guard in guards.filter(|guard| guard.stage == Stage::Fresh && !wanted(&guard.nets)) {
            guard.stage = Stage::Rested;
        }
        let places = &self.places;
        self.guards.retain(|id, guard| {
            let is_written = guard
                .nets
                .iter()
                .any(|net| places.contains_key(&area(*id, *net)));
            guard.stage != Stage::Rested || is_written
        });
    }

    /// An id that no guard has.
    fn next_guard(&mut self) -> u32 {
        loop {
            self.last_guard = self.last_guard.wrapping_add(1);
            let is_free =
                self.last_guard != place::NODE_SPACE && !self.guards.contains_key(&self.last_guard);
            if is_free {
                return self.last_guard;
            }
        }
    }

    /// The prefixes of a guard that are yet to be written.
    pub(super) fn unwritten(&self, guard: u32) -> impl Iterator<Item = Step> + '_ {
        let nets = self
            .guards
            .get(&guard)
            .into_iter()
            .flat_map(|guard| &guard.nets);
        let areas = nets.map(move |net| area(guard, *net));
        let areas = areas.filter(|area| !self.places.contains_key(area));
        areas.map(|area| Step::PutPlace(area, Place::Allowed))
    }

    /// The removal of the guards that no entry names after `steps`, to be done after their grace period.
    pub(super) fn idle_guards(&self, steps: &[Step]) -> Vec<Step> {
        let mut users: BTreeMap<u32, usize> = self
            .guards
            .iter()
            .map(|(id, guard)| (*id, guard.users))
            .collect();
        let mut entries: BTreeMap<FrontendKey, u32> = BTreeMap::new();
        for step in steps {
            let (key, new) = match step {
                Step::PutService { key, service } => (key, service.guard),
                Step::DeleteService { key, .. } => (key, place::NODE_SPACE),
                _ => continue,
            };
            let known = self
                .services
                .get(key)
                .map_or(place::NODE_SPACE, |old| old.guard);
            let old = entries.insert(*key, new).unwrap_or(known);
            users
                .entry(old)
                .and_modify(|users| *users = users.saturating_sub(1));
            users.entry(new).and_modify(|users| *users += 1);
        }
        let idle = self
            .guards
            .iter()
            .filter(|(id, guard)| guard.stage != Stage::Fresh && users.get(id) == Some(&0));
        let areas = idle.flat_map(|(id, guard)| guard.nets.iter().map(|net| area(*id, *net)));
        let written = areas.filter(|area| self.places.contains_key(area));
        written.map(Step::DeletePlace).collect()
    }

    /// Whether a prefix may be written: those of guards only before anybody asks for them.
    pub(super) fn permits_put_place(&self, area: &Area) -> Result<(), Blocked> {
        let guard = self.guards.get(&area.space);
        let is_fresh =
            |guard: &Guard| guard.stage == Stage::Fresh && guard.nets.contains(&area.net);
        if area.space == place::NODE_SPACE || guard.is_some_and(is_fresh) {
            Ok(())
        } else {
            Err(Blocked::NoSuchGuard)
        }
    }

    /// Whether a prefix may be removed: those of guards only when nobody asks for them any more.
    pub(super) fn permits_delete_place(&self, area: &Area) -> Result<(), Blocked> {
        let guard = self.guards.get(&area.space);
        let is_rested = guard.is_some_and(|guard| guard.stage == Stage::Rested);
        if area.space == place::NODE_SPACE || is_rested {
            Ok(())
        } else {
            Err(Blocked::NotRested)
        }
    }

    /// Whether the guard that an entry names is the service port's and written whole.
    pub(super) fn permits_guard(&self, service: &Service) -> Result<(), Blocked> {
        if service.guard == place::NODE_SPACE {
            return Ok(());
        }
        let guard = self
            .guards
            .get(&service.guard)
            .ok_or(Blocked::NoSuchGuard)?;
        let is_whole = guard
            .nets
            .iter()
            .all(|net| self.places.contains_key(&area(service.guard, *net)));
        if guard.service == service.id && is_whole && guard.stage <= Stage::Used {
            Ok(())
        } else {
            Err(Blocked::NoSuchGuard)
        }
    }

    /// Notes that an entry names a guard.
    pub(super) fn use_guard(&mut self, guard: u32) {
        if let Some(guard) = self.guards.get_mut(&guard) {
            guard.users += 1;
            guard.stage = Stage::Used;
        }
    }

    /// Notes that an entry no longer names it.
    pub(super) fn leave_guard(&mut self, guard: u32) {
        if let Some(guard) = self.guards.get_mut(&guard) {
            guard.users = guard.users.saturating_sub(1);
            if guard.users == 0 {
                guard.stage = Stage::Resting;
            }
        }
    }

    /// Whether readers may still ask for a guard that no entry names.
    pub(super) fn has_resting_guards(&self) -> bool {
        self.guards
            .values()
            .any(|guard| guard.stage == Stage::Resting)
    }

    /// Notes that the readers have gone.
    pub(super) fn rest_guards(&mut self) {
        for guard in self
            .guards
            .values_mut()
            .filter(|guard| guard.stage == Stage::Resting)
        {
            guard.stage = Stage::Rested;
        }
    }

    /// Notes that a prefix is gone.
    pub(super) fn forget_place(&mut self, gone: &Area) {
        self.places.remove(gone);
        let Some(guard) = self.guards.get(&gone.space) else {
            return;
        };
        let mut nets = guard.nets.iter();
        if !nets.any(|net| self.places.contains_key(&area(gone.space, *net))) {
            self.guards.remove(&gone.space);
        }
    }

    /// The guards of tables that an earlier agent has left behind.
    pub(super) fn restore_guards(&mut self) {
        for area in self
            .places
            .keys()
            .filter(|area| area.space != place::NODE_SPACE)
        {
            let guard = self.guards.entry(area.space).or_insert_with(|| Guard {
                service: 0,
                nets: BTreeSet::new(),
                users: 0,
                stage: Stage::Rested,
            });
            guard.nets.insert(area.net);
        }
        for service in self.services.values() {
            if let Some(guard) = self.guards.get_mut(&service.guard) {
                guard.service = service.id;
                guard.users += 1;
                guard.stage = Stage::Used;
            }
            self.last_guard = self.last_guard.max(service.guard);
        }
        let last = self.guards.keys().next_back().copied();
        self.last_guard = self.last_guard.max(last.unwrap_or(0));
    }
}
