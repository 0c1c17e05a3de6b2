//! What the stack would have told a sender whose packet is dropped here: an ICMP error.
//!
//! The packet is still as the sender sent it, so the error quotes what he knows. At TC only: at XDP such
//! packets are left to TC. Bounded in rate, since one packet costs as much as many.

use super::{Packet, Tables, Verdict, Via, Work};
use crate::{
    abi::Reason,
    net::{
        addr::Addr,
        icmp::IcmpError,
        ip::{Ends, IpHeader},
    },
};

/// The error that a packet dropped for this reason is answered with.
#[inline(always)]
pub(super) fn due<A: Addr>(reason: Reason, work: &Work<A>) -> Option<IcmpError> {
    match reason {
        Reason::DropTooBig => Some(IcmpError::TooBig(work.hop.mtu)),
        Reason::DropTtl => Some(IcmpError::TimeExceeded),
        _ => None,
    }
}

/// Makes the packet an error about itself. A call of its own in the BPF object, after all others.
#[inline(never)]
pub(super) fn answer<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    error: IcmpError,
) -> Verdict {
    if !work.letter.budget.spend(work.now) {
        tables.count(Reason::AnswerLimited);
        return Verdict::Drop;
    }
    if write(packet, tables, work, error).is_none() {
        return Verdict::Drop;
    }
    tables.count(Reason::Answered);
    if tables.role().is_host() {
        Verdict::Send(Via::Host)
    } else {
        Verdict::Back
    }
}

#[inline(always)]
fn write<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
    error: IcmpError,
) -> Option<()> {
    let quoted = work.ip.len.min(A::Header::QUOTE_MAX);
    let quote = work.letter.words.get_mut(A::Header::QUOTE_AT..)?;
    // The checksum goes over whole words.
    *quote.get_mut((quoted / 4) as usize)? = 0;
    packet.copy(quote, quoted)?;
    let ends = Ends {
        src: sender(work, tables, error),
        dst: work.key.ends.src,
    };
    let len = A::Header::head_error(&mut work.letter, &ends, error, quoted);
    packet.replace(&work.letter.words, len)
}

/// A size is told from the address that was dialled; the end of a TTL from the node, as every router
/// does, so that a trace shows it.
#[inline(always)]
fn sender<A: Addr, T: Tables<A>>(work: &Work<A>, tables: &T, error: IcmpError) -> A {
    let node = tables.node_addr();
    if error == IcmpError::TimeExceeded && !node.is_unspecified() {
        node
    } else {
        work.key.ends.dst
    }
}
