//! Whether the flow table is large enough: what it has refused, and how full it is.
//!
//! How full it is is found out from a sample: keys are spread evenly by their hash, so some thousand places tell of all of them,
//! and looking costs the same however large the table is.

use std::{io, path::Path};

use aya::maps::{Map, PerCpuArray};
use lb_common::{
    abi::{FlowSlot, NodeConfig, Plain, Reason, former::FormerSlot, map},
    flow::{
        clock::{Tick, age, row},
        slot::{SlotFlags, StateWord},
    },
    net::addr::{Addr, Addr4, Addr6, Family},
};

use crate::clock;

use super::{
    bpf::typed,
    flow_rows::FlowRows,
    layout::{MapError, errno, open_flow_table, open_pinned},
};

/// Places of a sample, in runs of neighbours.
const RUNS: u32 = 16;
const RUN: u32 = 256;
/// What is full enough to want more, in thousandths.
const FULL: usize = 750;

/// Looks at the tables, and what the one before has seen.
#[derive(Debug, Default)]
pub struct FlowTableLook {
    /// Connections refused, when they were last counted.
    refused: Option<u64>,
}

impl FlowTableLook {
    /// Which of the flow tables that are pinned in a directory should be larger and why, if any should; `node` says how
    /// long flows live. What was refused is not counted by family: it was so in the fuller one.
    pub fn need(
        &mut self,
        pins: &Path,
        node: &NodeConfig,
    ) -> Result<Option<(Family, &'static str)>, MapError> {
        let refused = refused(pins)?;
        let before = self.refused.replace(refused).unwrap_or(refused);
        let v4 = fill::<Addr4>(pins, map::FLOWS4, node)?;
        let v6 = fill::<Addr6>(pins, map::FLOWS6, node)?;
        let (family, fill) = if v6 > v4 {
            (Family::V6, v6)
        } else {
            (Family::V4, v4)
        };
        let reason = if refused > before {
            Some("connections were refused for want of room")
        } else if fill > FULL {
            Some("more than three quarters of the places are taken")
        } else {
            None
        };
        Ok(reason.map(|reason| (family, reason)))
    }
}

fn refused(pins: &Path) -> Result<u64, MapError> {
    let name = map::COUNTERS;
    let counters: PerCpuArray<_, u64> = typed(name, Map::PerCpuArray(open_pinned(pins, name)?))?;
    let counts = counters
        .get(&(Reason::DropFlowTableFull as u32), 0)
        .map_err(|error| MapError::Kernel {
            name,
            source: errno(error),
        })?;
    Ok(counts.iter().sum())
}

/// How many of a table's places hold live flows, in thousandths.
fn fill<A: Addr>(pins: &Path, name: &'static str, node: &NodeConfig) -> Result<usize, MapError>
where
    FlowSlot<A>: Plain,
    FormerSlot<A>: Plain,
{
    let refused = |source| MapError::Kernel { name, source };
    let (slots, layout) = open_flow_table(pins, name)?;
    let rows = FlowRows::<A>::of(&slots, layout).map_err(refused)?;
    let now = clock::now().map_err(refused)?;
    let sample = sample(&rows).map_err(refused)?;
    let live = sample.iter().filter(|slot| is_live(slot, node, now));
    Ok(live.count() * 1000 / sample.len().max(1))
}

/// Some of the table's places; all of a small one.
fn sample<A: Addr>(rows: &FlowRows<'_, A>) -> io::Result<Vec<FlowSlot<A>>>
where
    FlowSlot<A>: Plain,
    FormerSlot<A>: Plain,
{
    let len = rows.len();
    if len <= RUNS * RUN {
        return rows.read(0, len);
    }
    let mut sample = Vec::new();
    for _ in 0..RUNS {
        let any = getrandom::u32().map_err(io::Error::other)?;
        sample.extend(rows.read(any % (len - RUN), RUN)?);
    }
    Ok(sample)
}

/// True if a flow is there and its time is not up; the other direction is not asked.
fn is_live<A>(slot: &FlowSlot<A>, node: &NodeConfig, now: Tick) -> bool {
    let word = StateWord(slot.state);
    let row = row(slot.proto, word, SlotFlags(slot.flags));
    let limit = node.lifetimes.get(row).copied().unwrap_or_default();
    word.published() && age(now, slot.last_seen) <= limit
}
