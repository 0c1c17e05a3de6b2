//! The tables against the picture of them: what something else has changed is written again.
//!
//! Nobody but [`super::run`] writes tables, so what differs from the ledger was changed by somebody who had no business
//! there. One part is looked at a time; who asks decides how often.

use std::collections::BTreeMap;

use lb_common::abi::SlotRange;

use super::{
    freed,
    lbmaps::{LbMaps, TableError},
};
use crate::{
    mended::Thing,
    plan::{BackendId, BackendRow, FrontendKey, Ledger, display_key},
};

/// A part of the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Entries of frontends.
    #[default]
    Services,
    /// Slots that entries point to.
    Slots,
    /// Rows of backends.
    Backends,
    /// Prefixes.
    Places,
    /// Addresses that stand in for clients'.
    Sources,
}

impl Part {
    /// The one to look at next; after as many as there are it is the same again.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Services => Self::Slots,
            Self::Slots => Self::Backends,
            Self::Backends => Self::Places,
            Self::Places => Self::Sources,
            Self::Sources => Self::Services,
        }
    }
}

/// Something that was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// What it is.
    pub thing: Thing,
    /// Which one, with the service port that it belongs to.
    pub name: String,
    /// Whether it was there though nobody wants it.
    pub is_stranger: bool,
}

/// Writes again what differs from the ledger in a part of the tables, and removes what the ledger does not know.
///
/// # Errors
/// The tables could not be read or written; what was mended before that stays so.
pub fn audit(part: Part, ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    match part {
        Part::Services => services(ledger, maps),
        Part::Slots => slots(ledger, maps),
        Part::Backends => backends(ledger, maps),
        Part::Places => places(ledger, maps),
        Part::Sources => sources(ledger, maps),
    }
}

fn services(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    let name = |key: &FrontendKey, service| {
        let port = ledger.name(service).map(ToString::to_string);
        named(&display_key(key), port)
    };
    let there = maps.services()?;
    let (changed, strange) = differences(ledger.services(), &there);
    let mut mends = Vec::new();
    for (key, service) in changed {
        maps.put_service(key, service)?;
        mends.push(Mend::changed(Thing::Service, name(key, service.id)));
    }
    for key in strange {
        maps.delete_service(key)?;
        mends.push(Mend::strange(Thing::Service, name(key, 0)));
    }
    Ok(mends)
}

fn slots(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    let wanted: Vec<(SlotRange, Vec<u32>)> = ledger.slots().collect();
    let base = wanted.iter().map(|(range, _)| range.base).min();
    let end = wanted.iter().map(|(range, _)| range.base + range.count);
    let (Some(base), Some(end)) = (base, end.max()) else {
        return Ok(Vec::new());
    };
    // One read, and not one for each range: there are as many as service ports.
    let count = end - base;
    let there = maps.slots(SlotRange { base, count })?;
    let mut mends = Vec::new();
    for (range, ids) in wanted {
        let from = (range.base - base) as usize;
        if there.get(from..from + ids.len()) != Some(&ids) {
            maps.write_slots(range.base, &ids)?;
            let last = range.base + range.count.saturating_sub(1);
            let name = format!("{}-{last}", range.base);
            mends.push(Mend::changed(Thing::Slots, name));
        }
    }
    Ok(mends)
}

fn backends(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    let name = |id: &BackendId, row: &BackendRow| {
        let port = ledger.name(row.service).map(ToString::to_string);
        named(&format!("{} {}", id.family, id.id), port)
    };
    let mut there = maps.backends()?;
    // The rest is free rows that remember their generation.
    there.retain(|id, row| row.service != 0 || ledger.backends().contains_key(id));
    let (changed, strange) = differences(ledger.backends(), &there);
    let mut mends = Vec::new();
    for (id, row) in changed {
        maps.put_backend(*id, row)?;
        mends.push(Mend::changed(Thing::Backend, name(id, row)));
    }
    for id in strange {
        let free = freed(*id, ledger.generation(*id));
        maps.put_backend(*id, &free)?;
        mends.push(Mend::strange(Thing::Backend, name(id, &free)));
    }
    Ok(mends)
}

fn places(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    let there = maps.places()?;
    let (changed, strange) = differences(ledger.places(), &there);
    let mut mends = Vec::new();
    for (area, place) in changed {
        maps.put_place(*area, *place)?;
        mends.push(Mend::changed(Thing::Place, area.to_string()));
    }
    for area in strange {
        maps.delete_place(*area)?;
        mends.push(Mend::strange(Thing::Place, area.to_string()));
    }
    Ok(mends)
}

fn sources(ledger: &Ledger, maps: &mut impl LbMaps) -> Result<Vec<Mend>, TableError> {
    let there = maps.sources()?;
    let (changed, strange) = differences(ledger.sources(), &there);
    let mut mends = Vec::new();
    for (id, row) in changed {
        maps.put_source(*id, row)?;
        mends.push(Mend::changed(Thing::Source, id.to_string()));
    }
    for id in strange {
        maps.delete_source(*id)?;
        mends.push(Mend::strange(Thing::Source, id.to_string()));
    }
    Ok(mends)
}

/// What is missing or different, and the keys of what is there for nobody.
fn differences<'a, K: Ord, V: PartialEq>(
    wanted: impl IntoIterator<Item = (&'a K, &'a V), IntoIter: Clone>,
    there: &'a BTreeMap<K, V>,
) -> (Vec<(&'a K, &'a V)>, Vec<&'a K>) {
    let wanted = wanted.into_iter();
    // Both are sorted.
    let mut keys = wanted.clone().map(|(key, _)| key).peekable();
    let is_strange = |key: &&K| {
        while keys.next_if(|wanted| wanted < key).is_some() {}
        keys.peek() != Some(key)
    };
    let differs = |(key, value): &(&K, &V)| there.get(key) != Some(value);
    (
        wanted.filter(differs).collect(),
        there.keys().filter(is_strange).collect(),
    )
}

fn named(entry: &str, port: Option<String>) -> String {
    match port {
        Some(port) => format!("{entry} of {port}"),
        None => entry.to_owned(),
    }
}

impl Mend {
    fn changed(thing: Thing, name: String) -> Self {
        Self {
            thing,
            name,
            is_stranger: false,
        }
    }

    fn strange(thing: Thing, name: String) -> Self {
        Self {
            thing,
            name,
            is_stranger: true,
        }
    }
}
