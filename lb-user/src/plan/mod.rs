//! From what the tables should say to the ordered writes that make them say it.
//!
//! Pure: a plan is a value, made out of [`Desired`] and the [`Ledger`]'s picture of the tables. It costs
//! what changed, never what exists. A service port is planned whole or refused by name; then it keeps
//! what it had. Nothing is ever written in place that a reader may be looking at.
//!
//! # The order of writes, and why every prefix of it is safe
//!
//! A reader (a packet that opens a flow) copies the entry of a frontend, reads one slot of the range
//! that the entry names, reads the backend that the slot names, and accepts it if the backend's row
//! names the entry's service. Each of these reads sees one write as a whole. Between them anything may
//! happen. For one service port the steps are, in this order:
//!
//! 1. *New backends*, in rows that nobody has. No slot names them, so nobody reads them. Flags that are
//!    added to a backend are added here; none is taken away.
//! 2. *A fresh range of slots*, which no entry names. Its ids are those of rows that are written.
//! 3. *The one entry*, replaced by one write, under a version that it never had. Before this write a
//!    reader sees the old state whole, after it the new state whole; there is no third. Several
//!    frontends of one port are switched one after the other and share one range. An entry that moves
//!    from one service port to another is replaced like any other, not removed and made again.
//! 4. *Backends that left* lose all their flags, so that UDP flows leave them with the next packet; flags
//!    that were lost by others go as well. Only now, because until 3 the entry listed them.
//!
//! **Readers in flight** have copied the old entry and read on after step 3. What they may still read is
//! the old range and the rows that it names. So nothing of that is written until they have gone: the
//! range, the ids of retired backends and the id of a service that left *rest*. A retired row keeps
//! address, port and service: a reader in flight gets a backend that was its service's when it came.
//! [`Step::Grace`] waits for a full RCU grace period, which is longer than any program that was running
//! when it began. After it, and not before, ranges and service ids are free, and rows are emptied
//! ([`Step::FreeBackend`]), which makes their ids free. An id that is given to another endpoint gets the
//! next generation, by which the flows that remember it notice.
//!
//! Slots and ids that were set aside but never shown by an entry were never read. They need no rest.
//!
//! **The kernel recycles hash elements under readers**, so a copy of a deleted entry may be torn. That is
//! the reader's to find out: it looks the entry up again and compares id and version. Versions are
//! taken from one counter, so an entry that was removed and made again differs too.
//!
//! **Partial failure.** A step is carried out only if the ledger permits it, that is, if what it relies
//! on was carried out: slots before the entry, the entry before the clean-up, the rest before the reuse.
//! A step that is left out leaves a shorter sequence of the same order, for which the same argument
//! holds. The next plan compares with what was carried out and contains what is missing.
//!
//! **One grace period per plan**, at its end and only if something rests. If ids or slots run out while
//! others rest or are about to, the service ports concerned are [deferred](Plan::deferred): the plan
//! ends with its grace period and the next plan finds the room.
//!
//! In full tables one thing is lost: a frontend that moves to a service port for which there is no room
//! goes with its old owner. Everywhere else a frontend that is wanted before and after never goes.

mod capacity;
mod claims;
mod delta;
mod guard;
mod ids;
mod ledger;
mod lists;
mod maglev;
mod permit;
mod port;
mod ranges;
mod recipe;
mod refusal;
mod restore;
mod room;
mod sources;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use lb_common::{
    abi::{map, place},
    net::addr::Family,
};

pub use self::{
    capacity::Capacity,
    delta::Delta,
    ledger::Ledger,
    permit::Blocked,
    refusal::{Refusal, RefusalReason, Subject},
    restore::{Damaged, Fault, Found},
    step::{
        Area, BackendId, BackendRow, FrontendKey, SourceId, SourceRow, Step, display_key,
        family_of, frontend_key,
    },
};
use self::{
    ledger::Stage,
    lists::first_slot,
    port::{Change, Entries, Planned, removal},
};
use crate::desired::{Desired, Place, PortName};

/// What is to be done, what will not be done, and what must wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in their order.
    pub steps: Vec<Step>,
    /// What is refused, by name.
    pub refused: Vec<Refusal>,
    /// What finds no room until this plan's grace period is over: plan again after it.
    pub deferred: Vec<Refusal>,
}

/// Plans what turns the tables of the ledger's picture into the desired ones.
pub fn plan(desired: &Desired, ledger: &mut Ledger) -> Plan {
    let mut plan = Plan::default();
    let (ports, wanted) = accept(desired, &mut plan.refused);
    let refused = plan
        .refused
        .iter()
        .map(|refusal| refusal.subject.clone())
        .collect();

    let mut entries = Entries::new(ledger);
    let removals = removals(ledger, &ports, &refused, &wanted, &mut entries);
    let (changes, mut no_room) = changes(ledger, &ports, &wanted, &mut entries, &mut plan.refused);
    let places = Delta::between(places(desired), node_places(ledger), PartialEq::eq);

    let frees = !removals.is_empty()
        || !ledger.is_at_rest()
        || !places.delete.is_empty()
        || changes.iter().any(|change| change.frees(ledger));
    let put = |(net, place)| Step::PutPlace(Area::of_node(net), place);
    let updated = places
        .update
        .iter()
        .map(|(net, place, _)| (*net, *place))
        .map(put);
    plan.steps.extend(updated);
    plan.steps.extend(sources::steps(desired, ledger));
    plan.steps
        .extend(room_for(ledger, &places.create, &mut no_room).map(put));
    order(&mut plan.steps, removals, changes);
    plan.steps.extend(
        places
            .delete
            .into_iter()
            .map(|(net, _)| Step::DeletePlace(Area::of_node(net))),
    );
    rest(&mut plan.steps, ledger);
    plan.no_room(no_room, frees);
    plan
}

/// Plans what [`plan()`] would, if nothing but these service ports differs from what the ledger's tables were last made to say.
/// `None`: something else is to be done as well, or refused.
pub fn plan_ports(
    desired: &Desired,
    names: &BTreeSet<PortName>,
    ledger: &mut Ledger,
) -> Option<Plan> {
    if !ledger.is_at_rest() {
        return None;
    }
    let ports = names.iter().map(|name| (name, desired.ports.get(name)));
    let ports = ports.filter_map(|(name, port)| Some((name, port?)));
    let dialled = ports.filter(|(_, port)| !port.frontends.is_empty());
    let ports = dialled.map(|(name, port)| Planned::new(name, port).ok());
    let ports: Vec<_> = ports.collect::<Option<_>>()?;
    let wanted = apart(&ports, names, ledger)?;

    let mut entries = Entries::new(ledger);
    let stay: BTreeSet<_> = ports.iter().map(|port| port.name).collect();
    let leave = names.iter().filter(|name| !stay.contains(name));
    let leaving: BTreeSet<u32> = leave.filter_map(|name| ledger.service_id(name)).collect();
    let removals = leave_all(leaving, ledger, &wanted, &mut entries);
    let mut plan = Plan::default();
    let (changes, no_room) = changes(ledger, &ports, &wanted, &mut entries, &mut plan.refused);
    let frees = !removals.is_empty() || changes.iter().any(|change| change.frees(ledger));
    order(&mut plan.steps, removals, changes);
    rest(&mut plan.steps, ledger);
    plan.no_room(no_room, frees);
    Some(plan)
}

/// All frontends that these ports want, if nobody else wants one of them; of others, the tables say who does.
fn apart(
    ports: &[Planned<'_>],
    names: &BTreeSet<PortName>,
    ledger: &Ledger,
) -> Option<BTreeSet<FrontendKey>> {
    let mut wanted = BTreeSet::new();
    for key in ports.iter().flat_map(Planned::keys) {
        let holder = ledger.services.get(key);
        let holder = holder.map(|entry| ledger.name(entry.id));
        let is_others = holder.is_some_and(|name| !name.is_some_and(|name| names.contains(name)));
        if is_others || !wanted.insert(*key) {
            return None;
        }
    }
    Some(wanted)
}

impl Plan {
    /// Takes what finds no room; `frees`: some comes free by this plan.
    fn no_room(&mut self, no_room: Vec<Refusal>, frees: bool) {
        if frees {
            self.deferred = no_room;
        } else {
            self.refused.extend(no_room);
        }
    }
}

/// The service ports that can be planned, and the frontends that they want. Of two that want one
/// frontend the first by name gets it; compile has resolved this by age before.
fn accept<'a>(
    desired: &'a Desired,
    refused: &mut Vec<Refusal>,
) -> (Vec<Planned<'a>>, BTreeSet<FrontendKey>) {
    let mut owners: BTreeMap<FrontendKey, &PortName> = BTreeMap::new();
    let mut accepted = Vec::new();
    // Without a frontend nobody can come: such a port has nothing in the tables.
    let dialled = desired
        .ports
        .iter()
        .filter(|(_, port)| !port.frontends.is_empty());
    for (name, port) in dialled {
        let planned = Planned::new(name, port).and_then(|planned| {
            let taken = planned
                .keys()
                .find_map(|key| Some((key, *owners.get(key)?)));
            let Some((key, owner)) = taken else {
                return Ok(planned);
            };
            let frontend = display_key(key);
            Err(RefusalReason::FrontendTaken {
                frontend,
                owner: owner.clone(),
            })
        });
        match planned {
            Ok(planned) => {
                owners.extend(planned.keys().map(|key| (*key, name)));
                accepted.push(planned);
            }
            Err(reason) => {
                refused.push(Refusal {
                    subject: Subject::Port(name.clone()),
                    reason,
                });
            }
        }
    }
    (accepted, owners.into_keys().collect())
}

/// The changes of service ports that nobody wants any more.
fn removals(
    ledger: &mut Ledger,
    ports: &[Planned<'_>],
    refused: &BTreeSet<Subject>,
    wanted: &BTreeSet<FrontendKey>,
    entries: &mut Entries,
) -> Vec<Change> {
    let stay: BTreeSet<_> = ports.iter().map(|port| port.name).collect();
    let leaves = |name: &Option<PortName>| match name {
        Some(name) => !stay.contains(name) && !refused.contains(&Subject::Port(name.clone())),
        None => true,
    };
    let there = ledger
        .ports
        .iter()
        .filter(|(_, port)| port.stage <= Stage::Leaving);
    let leaving = there
        .filter(|(_, port)| leaves(&port.name))
        .map(|(service, _)| *service)
        .collect();
    leave_all(leaving, ledger, wanted, entries)
}

/// The changes of service ports that go.
fn leave_all(
    leaving: BTreeSet<u32>,
    ledger: &mut Ledger,
    wanted: &BTreeSet<FrontendKey>,
    entries: &mut Entries,
) -> Vec<Change> {
    for key in leaving
        .iter()
        .filter_map(|id| ledger.ports.get(id))
        .flat_map(|port| &port.keys)
    {
        if !wanted.contains(key) {
            entries.remove(family_of(key.addr), 1);
        }
    }
    leaving
        .into_iter()
        .map(|service| removal(ledger, service))
        .collect()
}

/// The changes of the service ports that are wanted, and those for which there is no room. `refused` has what is done
/// otherwise than it is wanted.
fn changes(
    ledger: &mut Ledger,
    ports: &[Planned<'_>],
    wanted: &BTreeSet<FrontendKey>,
    entries: &mut Entries,
    refused: &mut Vec<Refusal>,
) -> (Vec<Change>, Vec<Refusal>) {
    let refusal = |port: &Planned<'_>, reason| Refusal {
        subject: Subject::Port(port.name.clone()),
        reason,
    };
    let mut no_room = Vec::new();
    let mut fitting = Vec::new();
    // For all before the first step exists: what the ledger keeps shall not stand in memory between steps that go soon.
    for port in ports {
        match port.set_aside(ledger, entries, wanted) {
            Ok(set_aside) => fitting.push((port, set_aside)),
            Err(reason) => no_room.push(refusal(port, reason)),
        }
    }
    let mut changes = Vec::new();
    for (port, set_aside) in fitting {
        let change = port.change(ledger, set_aside);
        refused.extend(change.lacking.clone().map(|reason| refusal(port, reason)));
        changes.push(change);
    }
    (changes, no_room)
}

/// The steps of all changes. Who gives a frontend to another service port is cleaned up at the very end:
/// until then the frontend's entry is still its own.
fn order(steps: &mut Vec<Step>, removals: Vec<Change>, changes: Vec<Change>) {
    let put = |step: &Step| match step {
        Step::PutService { key, .. } => Some(*key),
        _ => None,
    };
    let switched: BTreeSet<_> = changes
        .iter()
        .flat_map(|change| change.switch.iter().filter_map(put))
        .collect();
    let is_taken = |step: &Step| match step {
        Step::DeleteService { key, .. } => switched.contains(key),
        _ => false,
    };
    let mut last = Vec::new();
    for mut change in removals.into_iter().chain(changes) {
        let n_given_up = change.give_up.len();
        change.give_up.retain(|step| !is_taken(step));
        let loses_one = change.give_up.len() < n_given_up;
        steps.extend(change.prepare);
        // Before the entries that are made, so that a full table has room for them.
        steps.extend(change.give_up);
        steps.extend(change.switch);
        if loses_one {
            last.extend(change.clean_up);
        } else {
            steps.extend(change.clean_up);
        }
    }
    steps.extend(last);
}

/// The prefixes for which there is room.
fn room_for<'a>(
    ledger: &Ledger,
    create: &'a [(IpNet, Place)],
    no_room: &mut Vec<Refusal>,
) -> impl Iterator<Item = (IpNet, Place)> + use<'a> {
    let capacity = ledger.capacity.places;
    let n_there = |family| {
        ledger
            .places
            .keys()
            .filter(|area| family_of(area.net.addr()) == family)
            .count()
    };
    let mut room = [Family::V4, Family::V6]
        .map(|family| (family, (capacity as usize).saturating_sub(n_there(family))));
    let mut fitting = Vec::new();
    for (net, place) in create {
        let [v4, v6] = &mut room;
        let (table, (_, room)) = match family_of(net.addr()) {
            Family::V4 => (map::PLACES4, v4),
            Family::V6 => (map::PLACES6, v6),
        };
        if *room > 0 {
            *room -= 1;
            fitting.push((*net, *place));
        } else {
            let reason = RefusalReason::Full {
                table,
                needed: 1,
                capacity,
            };
            no_room.push(Refusal {
                subject: Subject::Place(*net, *place),
                reason,
            });
        }
    }
    fitting.into_iter()
}

/// The grace period, if anything needs it, and the rows that may be emptied after it.
fn rest(steps: &mut Vec<Step>, ledger: &Ledger) {
    let mut rests = !ledger.resting.is_empty() || ledger.has_resting_guards();
    let gone = ledger.rested.iter().chain(&ledger.resting.backends);
    let generation = |id| ledger.backends.get(id).map_or(0, |row| row.generation);
    let mut gone: BTreeMap<BackendId, u16> = gone.map(|id| (*id, generation(id))).collect();
    for step in steps.iter() {
        match step {
            Step::RetireBackend { id, row } => {
                rests = true;
                gone.insert(*id, row.generation);
            }
            Step::DeleteService { .. } => rests = true,
            Step::PutService { key, service } => {
                let old = ledger.services.get(key);
                rests |= old.is_some_and(|old| {
                    old.id != service.id
                        || first_slot(old) != first_slot(service)
                        || old.guard != service.guard
                });
            }
            _ => {}
        }
    }
    let idle = ledger.idle_guards(steps);
    if rests {
        steps.push(Step::Grace);
    }
    steps.extend(idle);
    let free = |(id, generation)| Step::FreeBackend { id, generation };
    steps.extend(gone.into_iter().map(free));
}

/// What lies where.
fn node_places(ledger: &Ledger) -> impl Iterator<Item = (IpNet, Place)> + '_ {
    let places = ledger.places.iter();
    let of_node = places.filter(|(area, _)| area.space == place::NODE_SPACE);
    of_node.map(|(area, place)| (area.net, *place))
}

/// What shall lie where, by prefixes without host bits.
fn places(desired: &Desired) -> BTreeMap<IpNet, Place> {
    let places = desired.places.iter();
    places.map(|(net, place)| (net.trunc(), *place)).collect()
}
