//! What an earlier agent left pinned, and what becomes of it.
//!
//! A map is taken over if it is like the object wants it and if everything that it relies on is taken over as well; any
//! other is removed and made anew, and the log says which one and why. All this is found out before the object is loaded:
//! aya takes whatever it finds at a pin.
//!
//! # What relies on what
//!
//! * The *tables of services* (services, slots, backends, places, sources) number each other's entries, and one ledger is
//!   restored from all of them: if one goes, all go. They go too if they contradict themselves.
//! * *Flows*, *affinity* and what sockets have *dialled* name backends by id and generation, which begin anew with the tables of services. Flows also
//!   name next hops by index and generation, and lie where the hash key has put them, which is pinned in `node`.
//! * *Fragments* and the pieces that wait for them are one thing.
//! * Everything else stands alone. Nothing relies on flows, so that one family's may go without the other's.
//!
//! Whatever relies on others is removed before them: an agent that is killed in between leaves nothing that the next one
//! would take over wrongly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::{Path, PathBuf},
};

use lb_common::{
    abi::{NodeConfig, map, node::features},
    net::addr::Family,
};

use super::{
    facts,
    form::{self, Form, Found},
    growth::flow_table,
    object::{ObjectError, Terms},
    pin,
};
use crate::{
    apply::{self, BpfMaps, LbMaps as _, former_value_size},
    causes::with_causes,
    config::FlowTableSizes,
    desired::Desired,
    plan::Capacity,
};

/// The facts, which are pinned beside the maps.
const NODE: &str = "node";

const SERVICES: [&str; 9] = [
    map::SERVICES4,
    map::SERVICES6,
    map::SLOTS,
    map::BACKENDS4,
    map::BACKENDS6,
    map::PLACES4,
    map::PLACES6,
    map::SOURCES4,
    map::SOURCES6,
];
const FLOWS: [&str; 2] = [map::FLOWS4, map::FLOWS6];
const FRAGMENTS: [&str; 3] = [map::FRAGMENTS4, map::FRAGMENTS6, map::PIECES];

/// What a map relies on.
fn grounds(name: &str) -> impl Iterator<Item = &'static str> {
    let (all, more): (&[&str], &[&str]) = match name {
        map::FLOWS4 | map::FLOWS6 => (&SERVICES, &[map::NEXT_HOPS, NODE]),
        map::AFFINITY4
        | map::AFFINITY6
        | map::CONNECTIONS4
        | map::CONNECTIONS6
        | map::DIALLED4
        | map::DIALLED6 => (&SERVICES, &[]),
        name if SERVICES.contains(&name) => (&SERVICES, &[]),
        name if FRAGMENTS.contains(&name) => (&FRAGMENTS, &[]),
        _ => (&[], &[]),
    };
    all.iter().chain(more).copied()
}

/// The maps in the order in which they are removed.
fn dependents_first() -> impl Iterator<Item = &'static str> {
    let is_ground = |name: &&str| SERVICES.contains(name) || *name == map::NEXT_HOPS;
    let all = map::ALL.into_iter();
    let dependents = all.clone().filter(move |name| !is_ground(name));
    dependents.chain(all.filter(is_ground))
}

/// Why a map is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there.
    Absent,
    /// What is pinned there is no map of a type that is in use.
    NoMap,
    /// It is another one.
    Other {
        /// What is there.
        found: Form,
        /// What should be.
        wanted: Form,
    },
    /// What it relies on is not taken over.
    Groundless(&'static str),
    /// The tables of services contradict themselves.
    Damaged(String),
}

/// What is taken over.
#[derive(Clone, Debug, Default)]
pub struct Inheritance {
    /// What is not, by name.
    faults: BTreeMap<&'static str, Fault>,
    /// Whether there was anything at all.
    is_any: bool,
    /// Where the flows lie that are taken over.
    hash_key: Option<[u32; 12]>,
    /// What programs must know to follow the flows: [`features::LEAVING`], if some of them may need it, and which of their
    /// tables have the former layout.
    features: u32,
    /// Positions of the flow tables that are taken over.
    flow_tables: BTreeMap<&'static str, u32>,
}

/// Why nothing can be taken over.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The object does not parse.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The kernel does not say what is there.
    #[error(
        "cannot look at the pin {path} of an earlier agent; run as root or with CAP_BPF and CAP_NET_ADMIN"
    )]
    Look {
        /// The pin.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// A pin that does not do could not be removed.
    #[error("cannot remove the pin {path} of an earlier agent")]
    Remove {
        /// The pin.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

/// What is found at all pins, and how it should be.
struct Estate {
    found: BTreeMap<&'static str, Found>,
    /// Flow tables that are of the former layout.
    former: BTreeSet<&'static str>,
    wanted: BTreeMap<&'static str, Form>,
    node: Option<NodeConfig>,
}

impl Inheritance {
    /// Looks at the pins in a directory, and removes what cannot be taken over; the log says what and why.
    pub(super) fn enter(maps: &Path, terms: &Terms) -> Result<Self, InheritError> {
        let mut wanted = form::wanted()?;
        for (name, size) in [
            (map::AFFINITY4, terms.affinity_size),
            (map::AFFINITY6, terms.affinity_size),
            (map::DIALLED4, terms.dialled_size()),
            (map::DIALLED6, terms.dialled_size()),
        ] {
            if let Some(form) = wanted.get_mut(name) {
                form.max_entries = size;
            }
        }
        let mut found = BTreeMap::new();
        let mut former = BTreeSet::new();
        for name in map::ALL {
            let mut what = look(maps.join(name))?;
            if what == Found::Nothing && FLOWS.contains(&name) {
                what = look(pin::former(maps).join(name))?;
                former.extend((what != Found::Nothing).then_some(name));
            }
            found.insert(name, what);
        }
        let node = facts::read(maps).ok();
        let estate = Estate {
            found,
            former,
            wanted,
            node,
        };
        let mut inheritance = estate.judge();
        if !inheritance.lacks(&SERVICES)
            && let Some(damage) = damage(maps)
        {
            inheritance = estate.without_services(&damage);
        }
        inheritance.tell();
        inheritance.clear(maps)?;
        Ok(inheritance)
    }

    /// Positions of a family's flow table, if it is taken over.
    pub fn flow_table_size(&self, family: Family) -> Option<u32> {
        self.flow_tables.get(flow_table(family)).copied()
    }

    /// Positions of both families' flow tables; `size`: of those that are made.
    pub(super) fn flow_table_sizes(&self, size: u32) -> [u32; 2] {
        [Family::V4, Family::V6].map(|family| self.flow_table_size(family).unwrap_or(size))
    }

    /// The secret of the flow hash by which flows lie where they do, if any are taken over.
    pub fn hash_key(&self) -> Option<[u32; 12]> {
        self.hash_key
    }

    /// The bits of [`features`] that the flows need which are taken over.
    pub(super) fn features(&self) -> u32 {
        self.features
    }

    /// Whether a flow table is taken over that has the former layout.
    fn is_former(&self, name: &str) -> bool {
        let mut families = [Family::V4, Family::V6].into_iter();
        families.any(|family| {
            name == flow_table(family) && self.features & features::former(family) != 0
        })
    }

    fn lacks(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.faults.contains_key(name))
    }

    fn tell(&self) {
        if !self.is_any {
            return;
        }
        for (name, fault) in &self.faults {
            tracing::warn!("map {name} is made anew: {fault}");
        }
        if self.lacks(&[map::FLOWS4]) || self.lacks(&[map::FLOWS6]) {
            tracing::warn!("connections of an earlier agent are forgotten");
        }
        let maps = map::ALL.len() - self.faults.len();
        tracing::info!(maps, "took over the tables of an earlier agent");
    }

    fn clear(&self, maps: &Path) -> Result<(), InheritError> {
        for name in dependents_first().filter(|name| self.faults.contains_key(name)) {
            remove(maps.join(name))?;
        }
        for name in FLOWS.iter().filter(|name| !self.is_former(name)) {
            remove(pin::former(maps).join(name))?;
        }
        Ok(())
    }
}

impl Estate {
    fn judge(&self) -> Inheritance {
        let own: BTreeMap<_, _> = map::ALL
            .into_iter()
            .filter_map(|name| Some((name, self.fault(name)?)))
            .collect();
        self.settle(&own)
    }

    fn without_services(&self, damage: &str) -> Inheritance {
        let damaged = SERVICES.map(|name| (name, Fault::Damaged(damage.to_owned())));
        let own = map::ALL.into_iter();
        let own = own.filter_map(|name| Some((name, self.fault(name)?)));
        self.settle(&own.chain(damaged).collect())
    }

    /// Adds those maps that rely on others which do not do.
    fn settle(&self, own: &BTreeMap<&'static str, Fault>) -> Inheritance {
        let is_missing = |ground: &&str| match *ground {
            NODE => self.node.is_none(),
            name => own.contains_key(name),
        };
        let mut faults = own.clone();
        for name in map::ALL {
            if let Some(ground) = grounds(name).find(is_missing) {
                faults.entry(name).or_insert(Fault::Groundless(ground));
            }
        }
        let taken = |name: &&str| !faults.contains_key(name);
        let flow_tables: BTreeMap<_, _> = FLOWS
            .into_iter()
            .filter(taken)
            .filter_map(|name| match self.found.get(name) {
                Some(Found::Map(form)) => Some((name, form.max_entries)),
                _ => None,
            })
            .collect();
        let node = self.node.filter(|_| !flow_tables.is_empty());
        let former = [Family::V4, Family::V6].into_iter().filter(|family| {
            let name = flow_table(*family);
            flow_tables.contains_key(name) && self.former.contains(name)
        });
        let leaving = node.map_or(0, |node| node.features & features::LEAVING);
        Inheritance {
            is_any: self.found.values().any(|found| *found != Found::Nothing),
            hash_key: node.map(|node| node.hash_key),
            features: former.fold(leaving, |bits, family| bits | features::former(family)),
            flow_tables,
            faults,
        }
    }

    /// What is wrong with a map itself.
    fn fault(&self, name: &str) -> Option<Fault> {
        let wanted = self.wanted.get(name).copied()?;
        let found = match self.found.get(name)? {
            Found::Nothing => return Some(Fault::Absent),
            Found::Stranger => return Some(Fault::NoMap),
            Found::Map(found) => *found,
        };
        let size = found.max_entries;
        let mut wanted = wanted;
        if FLOWS.contains(&name) && FlowTableSizes::is_fit(size) {
            // It may have grown.
            wanted.max_entries = size;
        }
        if Capacity::is_fit(name, size) {
            // Made for what there was. What it has no room for is told; another one would end connections.
            wanted.max_entries = size;
        }
        if self.former.contains(name) {
            wanted.value_size = former_value_size(name);
        }
        (found != wanted).then_some(Fault::Other { found, wanted })
    }
}

fn look(path: PathBuf) -> Result<Found, InheritError> {
    form::found(&path).map_err(|source| InheritError::Look { path, source })
}

fn remove(path: PathBuf) -> Result<(), InheritError> {
    pin::gone(fs::remove_file(&path)).map_err(|source| InheritError::Remove { path, source })
}

/// What is wrong with tables of services that are all as they should be, if anything is.
fn damage(maps: &Path) -> Option<String> {
    let mut tables = match BpfMaps::open(maps) {
        Ok(tables) => tables,
        Err(error) => return Some(with_causes(&error)),
    };
    let nothing = Desired::default();
    let capacity = tables.capacity();
    let restored = apply::restore(&mut tables, &nothing, capacity);
    restored.err().map(|error| with_causes(&error))
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not pinned"),
            Self::NoMap => f.write_str("its pin is no map of a known type"),
            Self::Other { found, wanted } => write!(f, "it is {found}, and should be {wanted}"),
            Self::Groundless(NODE) => {
                f.write_str("the facts beside it, by which its entries are found, cannot be read")
            }
            Self::Groundless(ground) => {
                write!(f, "it relies on {ground}, which is made anew")
            }
            Self::Damaged(damage) => write!(f, "the tables are damaged: {damage}"),
        }
    }
}

#[cfg(test)]
mod tests;
