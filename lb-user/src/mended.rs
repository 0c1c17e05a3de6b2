//! How often something was put back that something else had removed or changed, by kind.
//!
//! One list for the whole process, as long as it lives: whoever mends says so in the log and counts it here, and `fulcrum
//! status` shows it.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// What can be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    /// A program on a device.
    Program,
    /// A device of the pair, or one of its properties.
    Device,
    /// A sysctl of the pair.
    Setting,
    /// An address of the pair.
    Address,
    /// A neighbour behind the pair.
    Neighbour,
    /// A route to the pair.
    Route,
    /// An entry of a frontend.
    Service,
    /// A range of slots.
    Slots,
    /// A row of a backend.
    Backend,
    /// An entry of a prefix.
    Place,
    /// An entry of an address that stands in for clients'.
    Source,
}

/// All of them, in the order in which they are shown.
const ALL: [Thing; 11] = [
    Thing::Program,
    Thing::Device,
    Thing::Setting,
    Thing::Address,
    Thing::Neighbour,
    Thing::Route,
    Thing::Service,
    Thing::Slots,
    Thing::Backend,
    Thing::Place,
    Thing::Source,
];

static COUNTS: [AtomicU64; ALL.len()] = [const { AtomicU64::new(0) }; ALL.len()];

impl Thing {
    /// Its name, as `fulcrum status` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Device => "device",
            Self::Setting => "setting",
            Self::Address => "address",
            Self::Neighbour => "neighbour",
            Self::Route => "route",
            Self::Service => "service",
            Self::Slots => "slots",
            Self::Backend => "backend",
            Self::Place => "place",
            Self::Source => "source",
        }
    }
}

/// Counts one more.
pub fn count(thing: Thing) {
    for (other, count) in ALL.iter().zip(&COUNTS) {
        if *other == thing {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What was put back so far, by name; what never was is left out.
pub fn counts() -> BTreeMap<&'static str, u64> {
    let counts = COUNTS.iter().map(|count| count.load(Ordering::Relaxed));
    let named = ALL.iter().map(|thing| thing.name()).zip(counts);
    named.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_back_is_counted_by_name() {
        let before = counts().get("source").copied().unwrap_or(0);
        count(Thing::Source);
        count(Thing::Source);
        assert_eq!(counts()["source"], before + 2);
    }
}
