//! The rows of a flow table, in whichever layout it is.

use std::io;

use aya::maps::MapData;
use lb_common::{
    abi::{
        FlowSlot, Plain, SlotLayout,
        former::{FormerSlot, current},
    },
    net::addr::Addr,
};

use crate::sys::Rows;

/// See the module.
#[derive(Debug)]
pub(super) enum FlowRows<'a, A> {
    Own(Rows<'a, FlowSlot<A>>),
    Former(Rows<'a, FormerSlot<A>>),
}

impl<'a, A: Addr> FlowRows<'a, A>
where
    FlowSlot<A>: Plain,
    FormerSlot<A>: Plain,
{
    /// Those of `map`; an error of kind `InvalidInput`: it is no such table.
    pub(super) fn of(map: &'a MapData, layout: SlotLayout) -> io::Result<Self> {
        Ok(if layout.is_former() {
            Self::Former(Rows::of(map)?)
        } else {
            Self::Own(Rows::of(map)?)
        })
    }

    /// How many there are.
    #[allow(
        clippy::match_same_arms,
        reason = "of different types where there is a former layout"
    )]
    pub(super) fn len(&self) -> u32 {
        match self {
            Self::Own(rows) => rows.len(),
            Self::Former(rows) => rows.len(),
        }
    }

    /// So many from a position on.
    pub(super) fn read(&self, start: u32, count: u32) -> io::Result<Vec<FlowSlot<A>>> {
        match self {
            Self::Own(rows) => rows.read(start, count),
            Self::Former(rows) => {
                let slots = rows.read(start, count)?;
                Ok(slots.into_iter().map(current).collect())
            }
        }
    }
}
