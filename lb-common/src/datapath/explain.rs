//! The decision about one packet without anything done: no flow, no counter, no rewrite.
//!
//! The same code decides, over tables whose [`Tables::DRY`] is true. A known flow does not hide what the service
//! would say: both are told.

use super::{
    Call, Decision, Packet, Tables, Via, Work,
    follow::{self, Followed, OnLoss},
    open,
    parse::{self, Parsed},
};
use crate::{
    abi::{NextHop, Reason, next_hop::NextHopRef},
    flow::{Direction, table::FlowTable},
    net::{addr::Addr, ip::Piece},
};

/// What is decided, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What becomes of the packet.
    pub decision: Decision,
    /// Which direction of a known flow it is.
    pub flow: Option<Direction>,
    /// What a new connection would come to; [`Work::call`] has its particulars.
    pub service: Result<(), Decision>,
}

/// Decides about a packet. What it would become is in [`Work::flow`], where it would be sent in [`Work::hop`].
///
/// A next hop that cannot be found does not alter the decision.
#[inline(always)]
pub fn explain<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Explained {
    work.call = Call::default();
    let parsed = parse::parse(packet, work);
    let reason = match parsed {
        Err(reason) => Some(reason),
        // A fragment's way hangs on what came before it.
        _ if work.ip.piece != Piece::Whole => Some(Reason::PassFragment),
        Ok(Parsed::Ports) => None,
        Ok(Parsed::Icmp) => Some(Reason::PassProtocol),
    };
    if let Some(reason) = reason {
        let decision = Decision::Pass(reason);
        return Explained {
            decision,
            flow: None,
            service: Err(decision),
        };
    }
    work.now = tables.now();
    let service = open::call(work, tables);
    let decision = match service {
        Ok(()) => route(work, tables),
        Err(decision) => decision,
    };
    let on_loss = if decision.is_for_want_of_backends() {
        OnLoss::Stay
    } else {
        OnLoss::OpenAnew
    };
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    if let Some((table, found)) = table.find_anywhere(&work.key)
        && !found.slot.flags().foreign()
        && let Followed::Decided(followed) = follow::follow(work, tables, &table, &found, on_loss)
    {
        return Explained {
            decision: followed,
            flow: Some(found.slot.flags().direction()),
            service,
        };
    }
    Explained {
        decision,
        flow: None,
        service,
    }
}

/// The way of a new connection's first packet.
#[inline(always)]
fn route<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> Decision {
    let way = open::find_way(work, tables);
    if way.is_err() {
        work.hop = NextHop::default();
    }
    open::masquerade(work, tables);
    let via = match work.flow.next_hop {
        NextHopRef::HOST => Via::Host,
        _ => way.unwrap_or(Via::Kernel),
    };
    Decision::Send(Reason::Open, via)
}
