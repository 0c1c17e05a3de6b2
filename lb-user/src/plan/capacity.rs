//! How much the tables hold, and how large they should be for what there is.
//!
//! There is room for twice as much as is known when a table is made, and on small nodes for much more. When little of it is left
//! a larger table takes its place ([`super::room`]).

use lb_common::{
    abi::{capacity, map},
    net::addr::Family,
};

use super::step::family_of;
use crate::desired::Desired;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Frontends per family.
    pub services: u32,
    /// Slots, both families together.
    pub slots: u32,
    /// Rows of backends per family; row 0 is never used.
    pub backends: u32,
    /// Prefixes of all spaces together, per family.
    pub places: u32,
}

/// Room for so many times as much as there is.
const HEADROOM: usize = 2;
/// Slots per backend: those of a list, and those of the one that takes its place before it is free.
const SLOTS_PER_BACKEND: usize = 2;
/// The largest table, in entries: what a row's 20 bytes make of it is 320 MiB.
pub(super) const MOST: usize = 1 << 24;

impl Default for Capacity {
    fn default() -> Self {
        Self {
            services: capacity::SERVICES,
            slots: capacity::SLOTS,
            backends: capacity::BACKENDS,
            places: capacity::PLACES,
        }
    }
}

impl Capacity {
    /// How large tables should be that are made for this state; never smaller than by default.
    pub fn of(desired: &Desired) -> Self {
        let [mut frontends, mut backends] = [[0; 2]; 2];
        for (name, port) in &desired.ports {
            let of_family = |counts: &mut [usize; 2], count| match name.family {
                Family::V4 => counts[0] += count,
                Family::V6 => counts[1] += count,
            };
            of_family(&mut frontends, port.frontends.len());
            of_family(&mut backends, port.backends.len());
        }
        let mut places = [0; 2];
        for net in desired.places.keys() {
            match family_of(net.addr()) {
                Family::V4 => places[0] += 1,
                Family::V6 => places[1] += 1,
            }
        }
        let least = Self::default();
        let of_larger = |counts: [usize; 2]| counts[0].max(counts[1]);
        Self {
            services: fitting(of_larger(frontends), least.services),
            slots: fitting(
                backends.iter().sum::<usize>() * SLOTS_PER_BACKEND,
                least.slots,
            ),
            backends: fitting(of_larger(backends), least.backends),
            places: fitting(of_larger(places), least.places),
        }
    }

    /// Entries of a table by its name; nothing where its size follows from something else.
    pub fn entries(mut self, name: &str) -> Option<u32> {
        self.entries_mut(name).copied()
    }

    /// The same, to be changed.
    pub(super) fn entries_mut(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            map::SERVICES4 | map::SERVICES6 => &mut self.services,
            map::SLOTS => &mut self.slots,
            map::BACKENDS4 | map::BACKENDS6 | map::CONNECTIONS4 | map::CONNECTIONS6 => {
                &mut self.backends
            }
            map::PLACES4 | map::PLACES6 => &mut self.places,
            _ => return None,
        })
    }

    /// Tables that hold what either of two would.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        Self {
            services: self.services.max(other.services),
            slots: self.slots.max(other.slots),
            backends: self.backends.max(other.backends),
            places: self.places.max(other.places),
        }
    }

    /// Whether a table of this name and size does: any that was made for what there was.
    pub fn is_fit(name: &str, entries: u32) -> bool {
        let least = Self::default().entries(name);
        least.is_some_and(|least| entries >= least && entries.is_power_of_two())
    }
}

/// Entries of a table with room for so much, twice; a power of two.
pub(super) fn fitting(count: usize, least: u32) -> u32 {
    let wanted = count.saturating_mul(HEADROOM).min(MOST);
    let wanted = u32::try_from(wanted.next_power_of_two()).unwrap_or(u32::MAX);
    wanted.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::testing::{desired, endpoint, port};

    #[test]
    fn tables_have_room_for_twice_what_there_is_and_never_less_than_by_default() {
        assert_eq!(Capacity::of(&Desired::default()), Capacity::default());
        let ports = (0..40_000_u32).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            let addr = format!("10.96.{high}.{low}:80");
            let backends = (0..7).map(|port| format!("10.244.{high}.{low}:{port}"));
            let backends: Vec<_> = backends.collect();
            let backends: Vec<_> = backends
                .iter()
                .map(|addr| (addr.as_str(), endpoint("serving,cluster")))
                .collect();
            port(&format!("s{number}"), &[&addr], &backends)
        });
        let capacity = Capacity::of(&desired(ports));
        let expected = Capacity {
            services: 131_072,
            slots: 2_097_152,
            backends: 1_048_576,
            ..Capacity::default()
        };
        assert_eq!(capacity, expected);
        assert_eq!(capacity.entries(map::BACKENDS6), Some(1_048_576));
        assert_eq!(capacity.entries(map::FLOWS4), None);
    }

    #[test]
    fn a_table_does_of_any_size_that_may_have_been_made() {
        let fits = |size| Capacity::is_fit(map::SERVICES4, size);
        let fits = [32_768, 65_536, 65_537, 131_072].map(fits);
        assert_eq!(fits, [false, true, false, true]);
        assert!(!Capacity::is_fit(map::FLOWS4, 65_536));
    }
}
