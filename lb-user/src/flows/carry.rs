//! What the program `carry` does, done by this process: the flows of one mapped table taken over into another.
//!
//! For a growth of the release before that nobody of it will finish. Its programs are on the devices and know both tables.

use std::path::Path;

use lb_common::{
    abi::{FlowSlot, NodeConfig, Plain, SlotLayout},
    flow::{
        FlowKey,
        growth::Carried,
        table::{FlowTable, NewFlow, Slots},
    },
    net::addr::Addr,
};

use super::memory::{Access, FlowMemory, SlotWords};
use crate::{apply::MapError, clock, sys::wait_for_readers};

/// Passes at most: what changes at the moment of each of them is not to be had.
const MAX_PASSES: usize = 16;

/// Both tables: the one that flows are taken into, and the other.
struct Pair<'m, A> {
    into: &'m FlowMemory<A>,
    from: &'m FlowMemory<A>,
}

impl<'m, A: Addr> Slots<A> for Pair<'m, A>
where
    FlowSlot<A>: Plain,
{
    type Words = SlotWords<'m>;

    fn words(&self, position: u32, base: u64) -> Option<SlotWords<'m>> {
        let memory = if base == 0 { self.into } else { self.from };
        Slots::<A>::words(&memory, position, 0)
    }
}

/// Takes the flows of the table that is pinned at `from` over into the one at `into`, both of the former layout; returns how
/// many could not be. `node`: what the programs on the devices were loaded with.
pub fn carry<A: Addr>(
    (name, from, into): (&'static str, &Path, &Path),
    node: &NodeConfig,
) -> Result<u32, MapError>
where
    FlowSlot<A>: Plain,
{
    let open = |path| FlowMemory::<A>::open_at(path, name, SlotLayout::FORMER, Access::Write);
    let (from, into) = (open(from)?, open(into)?);
    let clock = |source| MapError::Kernel { name, source };
    let mut n_kept = 0;
    for _ in 0..MAX_PASSES {
        let (n_moved, kept) = pass(&from, &into, node, clock::now().map_err(clock)?);
        n_kept = kept;
        // What the programs have noted meanwhile in slots that they had found before.
        wait_for_readers();
        if n_moved == 0 {
            break;
        }
    }
    Ok(n_kept)
}

/// One pass: how many flows were taken over, and how many could not be.
fn pass<A: Addr>(
    from: &FlowMemory<A>,
    into: &FlowMemory<A>,
    node: &NodeConfig,
    now: u32,
) -> (u32, u32)
where
    FlowSlot<A>: Plain,
{
    let pair = Pair { into, from };
    let table = FlowTable::new(&pair, into.mask(), node, now);
    let (mut key, mut flow) = (FlowKey::default(), NewFlow::default());
    let (mut n_moved, mut n_kept) = (0, 0);
    for position in 0..from.positions() {
        match table.carry(position, &mut key, &mut flow) {
            Carried::Moved => n_moved += 1,
            Carried::Kept => n_kept += 1,
            Carried::Nothing | Carried::Merged => {}
        }
    }
    (n_moved, n_kept)
}

#[cfg(test)]
mod tests {
    use lb_common::{flow::table::Existing, net::addr::Addr4};

    use super::{
        super::testing::{OTHER, WEB, memory_in},
        *,
    };

    #[test]
    fn flows_are_found_in_the_other_table_and_taken_out_of_their_own() {
        const NOW: u32 = 1_000;
        let from = memory_in::<Addr4>(64, SlotLayout::FORMER);
        let into = memory_in::<Addr4>(128, SlotLayout::FORMER);
        let node = NodeConfig {
            other_mask4: from.mask(),
            ..NodeConfig::DEFAULT
        };
        let old = &from;
        let old = FlowTable::new(&old, from.mask(), &NodeConfig::DEFAULT, NOW);
        for spec in [WEB, OTHER] {
            spec.open(&old, Existing::Keep);
        }
        assert_eq!(pass(&from, &into, &node, NOW), (2, 0));
        assert_eq!(pass(&from, &into, &node, NOW), (0, 0), "merged");
        let new = &into;
        let new = FlowTable::new(&new, into.mask(), &NodeConfig::DEFAULT, NOW);
        for spec in [WEB, OTHER] {
            assert_eq!(spec.is_there(&new), [true; 2]);
            assert_eq!(spec.is_there(&old), [false; 2]);
        }
    }
}
