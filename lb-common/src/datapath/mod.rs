//! What happens to a packet: the whole story on one screen.
//!
//! Decide first, write second: [`follow`] and [`open`] compute what becomes of the packet as values,
//! in [`Work`]; [`rewrite`] is the only code that edits one. A packet that is not understood goes on untouched and
//! counted; none is passed on half rewritten.

mod answer;
mod deliver;
pub mod dial;
mod explain;
mod fast;
mod follow;
mod fragment;
mod leave;
mod open;
mod parse;
mod policy;
mod ports;
mod related;
mod rewrite;
mod source;
mod work;

pub use answer::Answer;
pub use deliver::{Route, recollect, remember};
pub use explain::{Explained, explain};
pub use policy::{Call, Client, List};
pub use ports::{Hook, HopMemory, Packet, Released, Role, Tables};
pub use source::{Tried, try_source};
pub use work::Work;

use crate::{
    abi::{Reason, takeover},
    flow::{
        slot::State,
        table::{Existing, FlowTable},
    },
    net::{addr::Addr, ip::Piece},
};
use follow::{Followed, OnLoss};
use fragment::Early;

/// What the host must do with the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
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
    /// To a known neighbour, [`Work::hop`]: write both MACs and redirect; what comes in goes past the device's host side
    /// where the neighbour is a pod that allows it ([`crate::abi::NextHop::is_straight`]).
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

impl Default for Decision {
    fn default() -> Self {
        Self::Pass(Reason::PassNotIp)
    }
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

/// How far a packet has come. Without any content, since in the BPF object parts that are not written would hold
/// whatever a register held before, pointers too, and the verifier refuses to see one come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Progress {
    /// Left as it was.
    Passed,
    /// Dropped.
    Dropped,
    /// Rewritten, to be sent as [`Work::decision`] says.
    Rewritten,
    /// Rewritten, for the neighbour that is noted.
    Sent,
    /// Dropped, and [`Work::answer`] is due.
    Due,
    /// Its headers were read, and it may be anything.
    Read,
    /// Not a packet of a known flow.
    Missed,
    /// Its flow has to be opened anew, if anybody serves it.
    Lost,
    /// ICMP, of which [`related`] knows more.
    Icmp,
    /// An ICMP error to be rewritten as [`Work::decision`] says.
    Related,
    /// An echo request to be answered.
    Echo,
    /// It has become its own answer.
    Returned,
    /// A later fragment of a datagram whose first one has not come, or without a flow.
    Early,
}

/// Takes one packet of family `A` through the datapath and counts its outcome.
///
/// A packet of a connection in progress takes the fast path ([`fast`]). Else a known flow is followed; else a service address
/// opens one; else the packet is not ours. In the BPF object these are calls one after the other, not one inside the other:
/// together their stack frames are more than the kernel allows, and the hit path stays small.
#[inline(always)]
pub fn process<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Verdict {
    work.verdict = match forward(packet, tables, work) {
        Progress::Sent => return Verdict::Send(Via::Neighbour),
        Progress::Dropped => Verdict::Drop,
        Progress::Due => answer::answer(packet, tables, work),
        Progress::Rewritten => match work.decision {
            Decision::Send(_, via) => Verdict::Send(via),
            _ => Verdict::Drop,
        },
        Progress::Returned => Verdict::Back,
        _ => Verdict::Pass,
    };
    // Only now is there a flow for those that follow it, or have come before.
    if T::HOOK == Hook::Tc && work.ip.piece == Piece::First {
        fragment::first(tables, work);
    }
    work.verdict
}

#[inline(always)]
fn forward<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    match fast::forward(packet, tables, work) {
        Progress::Read => {}
        Progress::Icmp => return related::related(packet, tables, work),
        done => return done,
    }
    let mut existing = Existing::Keep;
    let is_known_now = match glance(packet, tables, work, OnLoss::OpenAnew) {
        Progress::Missed => false,
        Progress::Lost => {
            existing = Existing::Replace;
            false
        }
        Progress::Early => match fragment::early(packet, tables, work) {
            Early::Held => return Progress::Dropped,
            Early::Refused => return finish(packet, tables, work),
            Early::Known => true,
        },
        done => return done,
    };
    if !is_known_now {
        if leave::is_nothing(tables) {
            work.decision = Decision::Pass(Reason::PassNoService);
        } else if open::choose(work, tables) {
            open::open(work, tables, existing);
        }
    }
    let is_unserved = existing == Existing::Replace && work.decision.is_for_want_of_backends();
    if is_known_now || is_unserved {
        work.now = tables.now();
        let followed = glance(packet, tables, work, OnLoss::Stay);
        if !matches!(
            followed,
            Progress::Missed | Progress::Lost | Progress::Early
        ) {
            return followed;
        }
    }
    finish(packet, tables, work)
}

/// A packet whose headers were read: its flow, if there is one, and its rewrite.
#[inline(never)]
fn glance<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    on_loss: OnLoss,
) -> Progress {
    let is_later = work.ip.piece == Piece::Later;
    if T::HOOK == Hook::Xdp && work.ip.piece != Piece::Whole {
        return carry_out(Decision::Pass(Reason::PassToTc), packet, tables, work);
    }
    if is_later && !fragment::recall(work, tables) {
        return Progress::Early;
    }
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    let Some((table, found)) = table.find_anywhere(&work.key) else {
        return missed(is_later);
    };
    // A later fragment begins nothing.
    let on_loss = if is_later { OnLoss::Stay } else { on_loss };
    if found.slot.flags().foreign() {
        return if T::HOOK == Hook::Xdp {
            carry_out(Decision::Pass(Reason::PassToTc), packet, tables, work)
        } else if follow::begins_anew(work, tables, &found, on_loss) {
            Progress::Lost
        } else {
            carry_out(Decision::Pass(Reason::PassTakeover), packet, tables, work)
        };
    }
    match follow::follow(work, tables, &table, &found, on_loss) {
        Followed::Decided(decision) => carry_out(decision, packet, tables, work),
        Followed::Missed => missed(is_later),
        Followed::Lost => {
            if tables.takeover() & takeover::TO != 0 && !tables.role().is_host() {
                // The other proxy gets the connection, and must have all of its packets.
                found
                    .slot
                    .exchange(found.word, found.word.with(State::Empty));
            }
            Progress::Lost
        }
    }
}

/// What a packet without a flow is: a later fragment opens none.
#[inline(always)]
fn missed(is_later: bool) -> Progress {
    if is_later {
        Progress::Early
    } else {
        Progress::Missed
    }
}

/// The end of the miss path.
#[inline(never)]
fn finish<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    carry_out(work.decision, packet, tables, work)
}

/// Second, write: the decision is carried out, and the packet becomes what it says.
#[inline(always)]
fn carry_out<A: Addr, P: Packet, T: Tables<A>>(
    decision: Decision,
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    let (reason, progress) = match decision {
        // The stack would send it round in circles: its route leads here.
        Decision::Pass(_) if tables.role() == Role::Host => {
            (Reason::DropNotService, Progress::Dropped)
        }
        Decision::Pass(reason) => (reason, Progress::Passed),
        // Only TC can answer.
        Decision::Reject(_) if T::HOOK == Hook::Xdp => (Reason::PassToTc, Progress::Passed),
        Decision::Reject(reason) => {
            work.answer = Answer::Refusal;
            (reason, Progress::Due)
        }
        Decision::Drop(reason) => match answer::due(reason) {
            Some(answer) if T::HOOK == Hook::Tc => {
                work.answer = answer;
                (reason, Progress::Due)
            }
            _ => (reason, Progress::Dropped),
        },
        Decision::Send(reason, via) => {
            work.decision = decision;
            let hops = hops(via, tables.role());
            match rewrite::rewrite(packet, &work.key, &work.ip, &work.flow.rewrite, hops) {
                Some(()) => (reason, Progress::Rewritten),
                None if fragment::is_beyond_repair(work) => {
                    (Reason::DropFragment, Progress::Dropped)
                }
                None => (Reason::DropEdit, Progress::Dropped),
            }
        }
    };
    tables.count(reason);
    progress
}

/// How many hops the way takes: none to or through the host's own stack, none for what the host itself sends.
#[inline(always)]
fn hops(via: Via, role: Role) -> u8 {
    u8::from(matches!(via, Via::Neighbour | Via::Kernel) && !role.is_host())
}
