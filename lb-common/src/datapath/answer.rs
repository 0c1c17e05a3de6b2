//! What the sender of a packet that is dropped here is told: an ICMP error as the stack would have made it, or that
//! nobody serves where it was sent.
//!
//! The packet is still as the sender sent it, so the error quotes what he knows. At TC only: at XDP such
//! packets are left to TC. Bounded in rate, since one packet costs as much as many.

use super::{Packet, Tables, Verdict, Via, Work};
use crate::{
    abi::Reason,
    net::{
        addr::Addr,
        icmp::{self, IcmpError},
        ip::{Ends, IpHeader, Piece, proto},
        letter,
        sctp::{self, Sctp},
        tcp::{self, Tcp},
    },
};

/// What a sender is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Answer {
    /// The packet is larger than its next hop takes.
    TooBig,
    /// Its hops end here.
    TimeExceeded,
    /// Nobody serves there: a reset, an ABORT, or an ICMP error where the protocol has no such thing.
    #[default]
    Refusal,
}

/// The answer to a packet dropped for this reason.
#[inline(always)]
pub(super) fn due(reason: Reason) -> Option<Answer> {
    match reason {
        Reason::DropTooBig => Some(Answer::TooBig),
        Reason::DropTtl => Some(Answer::TimeExceeded),
        _ => None,
    }
}

/// Makes the packet the answer to itself, [`Work::answer`].
///
/// A call of its own in the BPF object, after all others. Which answer it is comes in memory: as an argument each
/// would be one more way for the verifier to follow.
#[inline(never)]
pub(super) fn answer<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Verdict {
    let answer = work.answer;
    // Of a datagram its first fragment tells (RFC 1122 section 3.2.2). Nobody can be told at such an address, or too
    // many would be.
    let is_silent =
        work.ip.piece == Piece::Later || answer == Answer::Refusal && ends_something(packet, work);
    if is_silent || work.key.ends.src.is_group_or_none() {
        return Verdict::Drop;
    }
    let resets = answer == Answer::Refusal && work.key.proto != proto::UDP;
    let has_budget = if resets {
        work.letter.resets.spend(work.now, letter::RESETS_PER_SPAN)
    } else {
        work.letter.errors.spend(work.now, letter::ERRORS_PER_SPAN)
    };
    if !has_budget {
        tables.count(Reason::AnswerLimited);
        return Verdict::Drop;
    }
    let error = match answer {
        Answer::TooBig => Some(IcmpError::TooBig(work.hop.mtu)),
        Answer::TimeExceeded => Some(IcmpError::TimeExceeded),
        Answer::Refusal => (!resets).then_some(IcmpError::PortUnreachable),
    };
    let len = match error {
        Some(error) => quote(packet, tables, work, error),
        None if work.key.proto == proto::TCP => reset(packet, work),
        None => abort(packet, work),
    };
    let Some(len) = len else {
        return Verdict::Drop;
    };
    if packet.replace(&work.letter.words, len).is_none() {
        return Verdict::Drop;
    }
    tables.count(Reason::Answered);
    if tables.role().is_host() {
        Verdict::Send(Via::Host)
    } else {
        Verdict::Back
    }
}

/// True if the packet itself says that there is no connection, or an association's end: who refuses that is never
/// told anything back, or two would go on for ever.
#[inline(always)]
fn ends_something<A: Addr, P: Packet>(packet: &P, work: &Work<A>) -> bool {
    match work.key.proto {
        proto::TCP => work.tcp.rst(),
        proto::SCTP => packet
            .read::<Sctp>(work.ip.l4)
            .is_none_or(|association| association.is_silenced()),
        _ => false,
    }
}

/// A reset of the connection that the segment was to open.
#[inline(always)]
fn reset<A: Addr, P: Packet>(packet: &P, work: &mut Work<A>) -> Option<u32> {
    let segment = packet.read::<Tcp>(work.ip.l4)?;
    let headers = work.ip.l4 + u32::from(segment.offset >> 4) * 4;
    let payload = work.ip.len.saturating_sub(headers);
    let ends = back(work);
    Some(tcp::reset::<A::Header>(
        &mut work.letter,
        &ends,
        &segment,
        payload,
    ))
}

/// The end of the association that the packet was to begin.
#[inline(always)]
fn abort<A: Addr, P: Packet>(packet: &P, work: &mut Work<A>) -> Option<u32> {
    let association = packet.read::<Sctp>(work.ip.l4)?;
    let ends = back(work);
    Some(sctp::abort::<A::Header>(
        &mut work.letter,
        &ends,
        &association,
    ))
}

/// An ICMP error that quotes the packet.
#[inline(always)]
fn quote<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    error: IcmpError,
) -> Option<u32> {
    let quoted = work.ip.len.min(A::Header::QUOTE_MAX);
    let quote = work
        .letter
        .words
        .get_mut(A::Header::WORDS + icmp::WORDS..)?;
    // The checksum goes over whole words.
    *quote.get_mut((quoted / 4) as usize)? = 0;
    packet.copy(quote, quoted)?;
    let node = tables.node_addr();
    let mut ends = back(work);
    // A size is told from the address that was dialled; the end of a TTL from the node, as every router does, so
    // that a trace shows it.
    if error == IcmpError::TimeExceeded && !node.is_unspecified() {
        ends.src = node;
    }
    Some(icmp::head::<A::Header>(
        &mut work.letter,
        &ends,
        error,
        quoted,
        P::sum,
    ))
}

/// From where the packet went to where it came from.
#[inline(always)]
fn back<A: Addr>(work: &Work<A>) -> Ends<A> {
    Ends {
        src: work.key.ends.dst,
        dst: work.key.ends.src,
    }
}
