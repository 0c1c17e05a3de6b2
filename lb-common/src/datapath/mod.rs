//! What happens to a packet: the whole story on one screen.
//!
//! Decide first, write second: [`follow`] and [`open`] compute what becomes of the packet as values,
//! in [`Work`]; [`rewrite`] is the only code that edits one. A packet that is not understood goes on untouched and
//! counted; none is passed on half rewritten.

mod answer;
mod deliver;
mod explain;
mod follow;
mod open;
mod parse;
mod policy;
mod ports;
mod rewrite;
mod work;

pub use deliver::Route;
pub use explain::{Explained, explain};
pub use policy::{Call, Client, List};
pub use ports::{Hook, HopMemory, Packet, Role, Tables};
pub use work::Work;

use crate::{
    abi::Reason,
    flow::table::{Existing, FlowTable},
    net::addr::Addr,
};
use answer::Answer;
use follow::{Followed, OnLoss};

/// What the host must do with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it to whatever comes next; it was not touched.
    Pass,
    /// Drop it.
    Drop,
    /// It was rewritten: send it where `Via` says.
    Send(Via),
    /// It has become an answer to its sender: send it back by the device that it came by.
    Back,
}

/// How a rewritten packet is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// To a known neighbour, [`Work::hop`]: write both MACs and redirect.
    Neighbour,
    /// By the device of [`Work::hop`] through the kernel's neighbour table, which resolves and confirms the
    /// neighbour.
    Kernel,
    /// Its own way through the stack, which it may go on with as it is now.
    Stack,
    /// To the host's stack by the ingress of the host's own device ([`crate::abi::NodeConfig::host_ifindex`]).
    Host,
}

/// What becomes of a packet; nothing was written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Untouched to whatever comes next.
    Pass(Reason),
    /// Dropped, and an answer sent that says so.
    Reject(Reason),
    /// Dropped.
    Drop(Reason),
    /// Rewritten as [`Work::flow`] says and sent to [`Work::hop`].
    Send(Reason, Via),
}

impl Decision {
    /// True if nobody could take the place of the backend that a flow has.
    fn is_for_want_of_backends(self) -> bool {
        matches!(
            self,
            Self::Pass(Reason::PassNoService)
                | Self::Reject(_)
                | Self::Drop(
                    Reason::DropNoLocalBackend
                        | Reason::DropServiceChanged
                        | Reason::DropUnallocated
                )
        )
    }
}

/// A decision that was carried out; an answer is yet to be made.
type Carried = Result<Verdict, Answer>;

/// What the first look at a packet gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glance {
    /// All is decided and done.
    Done(Carried),
    /// Not a packet of a known flow.
    Miss,
    /// The flow that was found has to be opened anew, if anybody serves it.
    Anew,
}

/// Takes one packet of family `A` through the datapath and counts its outcome.
///
/// A known flow is followed; else a service address opens one; else the packet is not ours. In the BPF
/// object the two are calls one after the other, not one inside the other: together their stack frames
/// are more than the kernel allows, and the hit path stays small.
#[inline(always)]
pub fn process<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Verdict {
    match forward(packet, tables, work) {
        Ok(verdict) => verdict,
        Err(answer) => answer::answer(packet, tables, work, answer),
    }
}

#[inline(always)]
fn forward<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Carried {
    let existing = match glance(packet, tables, work, OnLoss::OpenAnew) {
        Glance::Done(carried) => return carried,
        Glance::Miss => Existing::Keep,
        Glance::Anew => Existing::Replace,
    };
    let decision = match open::call(work, tables) {
        Ok(()) => open::open(work, tables, existing),
        Err(decision) => decision,
    };
    if existing == Existing::Replace
        && decision.is_for_want_of_backends()
        && let Glance::Done(carried) = glance(packet, tables, work, OnLoss::Stay)
    {
        return carried;
    }
    finish(decision, packet, tables, work)
}

/// The hit path: headers, flow, rewrite.
#[inline(never)]
fn glance<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    on_loss: OnLoss,
) -> Glance {
    if let Err(reason) = parse::parse(packet, work) {
        return Glance::Done(carry_out(Decision::Pass(reason), packet, tables, work));
    }
    work.now = tables.now();
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), &node.hash_key, work.now);
    let Some(found) = table.find(&work.key) else {
        return Glance::Miss;
    };
    match follow::follow(work, tables, &table, &found, on_loss) {
        Followed::Decided(decision) => Glance::Done(carry_out(decision, packet, tables, work)),
        Followed::Recycled => Glance::Miss,
        Followed::Lost => Glance::Anew,
    }
}

/// The end of the miss path.
#[inline(never)]
fn finish<A: Addr, P: Packet, T: Tables<A>>(
    decision: Decision,
    packet: &mut P,
    tables: &T,
    work: &Work<A>,
) -> Carried {
    carry_out(decision, packet, tables, work)
}

/// Second, write: the decision becomes a verdict, and the packet what the decision says.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    decision: Decision,
    packet: &mut P,
    tables: &T,
    work: &Work<A>,
) -> Carried {
    let (reason, carried) = match decision {
        // The stack would send it round in circles: its route leads here.
        Decision::Pass(_) if tables.role() == Role::Host => {
            (Reason::DropNotService, Ok(Verdict::Drop))
        }
        Decision::Pass(reason) => (reason, Ok(Verdict::Pass)),
        // Only TC can answer.
        Decision::Reject(_) if T::HOOK == Hook::Xdp => (Reason::PassToTc, Ok(Verdict::Pass)),
        Decision::Reject(reason) => (reason, Err(Answer::Refusal)),
        Decision::Drop(reason) => match answer::due(reason, work) {
            Some(answer) if T::HOOK == Hook::Tc => (reason, Err(answer)),
            _ => (reason, Ok(Verdict::Drop)),
        },
        Decision::Send(reason, via) => {
            match rewrite::rewrite(packet, work, hops(via, tables.role())) {
                Some(()) => (reason, Ok(Verdict::Send(via))),
                None => (Reason::DropEdit, Ok(Verdict::Drop)),
            }
        }
    };
    tables.count(reason);
    carried
}

/// How many hops the way takes: none to or through the host's own stack, none for what the host itself sends.
#[inline(always)]
fn hops(via: Via, role: Role) -> u8 {
    u8::from(matches!(via, Via::Neighbour | Via::Kernel) && !role.is_host())
}
