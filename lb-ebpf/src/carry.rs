//! The program that carries flows over into a larger table: one position a run.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use lb_common::{
    abi::growth::{FAMILY6, cell},
    flow::{clock::tick, growth::Carried, table::FlowTable},
    net::addr::{Addr4, Addr6},
};

use crate::{maps::FamilyMaps, memory::KernelSlots, tables::node};

/// Carries the flow at the next position. The context is what stays from run to run: it says the family and the position,
/// and counts what became of the flows.
#[inline(always)]
pub(crate) fn carry(ctx: &TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context lives as long as the program.
    let (family, position) = unsafe { ((*skb).mark, (*skb).cb[cell::POSITION]) };
    let carried = if family == FAMILY6 {
        of_family::<Addr6>(position)
    } else {
        of_family::<Addr4>(position)
    };
    // SAFETY: as above.
    unsafe {
        (*skb).cb[cell::POSITION] = position.wrapping_add(1);
        match carried {
            Carried::Nothing => {}
            Carried::Moved => (*skb).cb[cell::MOVED] += 1,
            Carried::Merged => (*skb).cb[cell::MERGED] += 1,
            Carried::Kept => (*skb).cb[cell::KEPT] += 1,
        }
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn of_family<A: FamilyMaps>(position: u32) -> Carried {
    let Some(work) = A::work().get_ptr_mut(0) else {
        return Carried::Nothing;
    };
    // SAFETY: this CPU's own value; programs on one CPU do not interrupt each other.
    let work = unsafe { &mut *work };
    let node = node();
    // SAFETY: takes nothing.
    let now = tick(unsafe { bpf_ktime_get_coarse_ns() });
    let table = FlowTable::new(&KernelSlots, A::flow_mask(node), node, now);
    table.carry(position, &mut work.key, &mut work.flow)
}
