//! Connections that the stack forwards (`--forward stack`): netfilter's order of things.
//!
//! A packet's destination is rewritten when it comes in and its source when it leaves, in both directions. So whoever
//! looks at forwarded packets in between, as firewalls and policy engines do, sees who talks to whom, and the answers as
//! answers. By the two hooks a connection goes through:
//!
//! | | comes in | forwarded as | leaves |
//! | --- | --- | --- | --- |
//! | request | client -> service | client -> backend | client -> backend |
//! | answer | backend -> client | backend -> client | service -> client |
//!
//! That is one flow, whose answers are rewritten on their way out. If the client's address must give way as well, a
//! second flow, which is [`SlotFlags::LEAVING`], goes on from where the first one ends:
//!
//! | | comes in | forwarded as | leaves |
//! | --- | --- | --- | --- |
//! | request | client -> service | client -> backend | node -> backend |
//! | answer | backend -> node | backend -> client | service -> client |
//!
//! The first packet opens it on its way out, by the device that the stack has chosen.

use super::{Decision, Role, Tables, Work, deliver};
use crate::{
    abi::{Reason, node::features},
    flow::{Direction, slot::SlotFlags, table::FlowTable},
    net::addr::Addr,
};

/// True if the stack forwards what comes by this device.
#[inline(always)]
pub(super) fn is_left_to_stack<A: Addr, T: Tables<A>>(tables: &T) -> bool {
    tables.node().features & features::FORWARD_STACK != 0
        && matches!(tables.role(), Role::Pod | Role::Uplink)
}

/// True if nothing begins on the way out. Asked where each program's role is a constant: most have nothing of what follows.
#[inline(always)]
pub(super) fn is_nothing<A: Addr, T: Tables<A>>(tables: &T) -> bool {
    tables.role() == Role::Egress && tables.node().features & features::LEAVING == 0
}

/// Notes the flow that exchanges the source of a packet on its way out, if its source must give way.
///
/// # Errors
/// It is somebody else's traffic, or needs nothing more.
#[inline(always)]
pub(super) fn begin<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Result<(), Decision> {
    let nothing = Err(Decision::Pass(Reason::PassNoService));
    if !is_masqueraded(work, tables) {
        return nothing;
    }
    // The device is chosen; what is asked for is the source that its way prefers.
    let _ = deliver::resolve(work, tables, Direction::Original);
    let Work {
        key,
        flow,
        source,
        search,
        ..
    } = work;
    // A client on another node that dials itself by this one has its answers from there as well.
    let is_hairpin = key.ends.src == key.ends.dst && flow.local;
    let own = match tables.hairpin_addr() {
        addr if is_hairpin && !addr.is_unspecified() => addr,
        _ if !source.is_unspecified() => *source,
        _ => tables.node_addr(),
    };
    if own.is_unspecified() {
        return nothing;
    }
    search.is_node = u32::from(!is_hairpin);
    search.preferred = own;
    flow.source = SlotFlags::LEAVING;
    flow.rewrite.ends.src = own;
    Ok(())
}

/// True if the packet is one of a flow that came in, and whose source must give way; its backend is noted.
#[inline(always)]
fn is_masqueraded<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> bool {
    let Work { key, flow, .. } = work;
    flow.rewrite.ends = key.ends;
    flow.rewrite.sport = key.sport;
    flow.rewrite.dport = key.dport;
    flow.rewrite.answered_by(key.proto, &mut flow.reply);
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    let Some((table, found)) = table.find_anywhere(&work.flow.reply) else {
        return false;
    };
    let flags = found.slot.flags();
    work.flow.backend = found.slot.backend();
    work.flow.local = flags.local();
    flags.direction() == Direction::Reply && flags.masqueraded() && table.is_still(&found)
}
