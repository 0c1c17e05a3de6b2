//! Slots that an agent had claimed when it was killed: whoever wants the same key would wait for it for ever.
//!
//! Programs are not stopped in the middle of a packet, so what stays claimed for seconds is nobody's.

use std::collections::BTreeMap;

use lb_common::{
    abi::{FlowSlot, Plain},
    flow::{
        clock::{Tick, age, seconds},
        slot::StateWord,
    },
    net::addr::{Addr, Family},
};

use crate::flows::Table;

/// No program has a slot for so long, however busy the machine is.
const LONGEST: Tick = seconds(5);

/// Slots that were claimed at the last look, with the moment when each was seen so first.
#[derive(Debug, Default)]
pub(super) struct Abandoned(BTreeMap<(Family, u32), (StateWord, Tick)>);

impl Abandoned {
    /// Looks through a table, and frees what has been claimed for too long.
    pub(super) fn free<A: Addr>(&mut self, table: &Table<'_, A>)
    where
        FlowSlot<A>: Plain,
    {
        let mut claimed = BTreeMap::new();
        for position in 0..=table.last() {
            let Some(word) = table.claimed_at(position) else {
                continue;
            };
            let place = (A::FAMILY, position);
            let known = self.0.get(&place).filter(|(known, _)| *known == word);
            let since = known.map_or(table.now(), |(_, since)| *since);
            if age(table.now(), since) < LONGEST {
                claimed.insert(place, (word, since));
            } else if table.free_abandoned(position, word) {
                tracing::info!(family = %A::FAMILY, position, "freed a place that an agent was killed with");
            }
        }
        self.0.retain(|(family, _), _| *family != A::FAMILY);
        self.0.extend(claimed);
    }
}
