//! What one packet's way through the datapath is kept in.
//!
//! BPF allows 512 bytes of stack over a whole chain of calls, less than an IPv6 connection's addresses
//! take when they are copied from call to call. So whatever is larger than a few words lives here: in a
//! per-CPU map value in the kernel, on the stack elsewhere. Programs on one CPU do not interrupt each
//! other, so one area for each CPU is enough.

use super::{Decision, Verdict, answer::Answer, policy::Call, related::Letterhead, source::Search};
use crate::{
    abi::{Affinity, AffinityKey, NextHop, PieceKey, ServiceKey, Source},
    flow::{FlowKey, clock::Tick, table::NewFlow},
    fragment::record::Known,
    net::{ip::Ip, letter::Letter, tcp::Flags},
};

/// One packet's facts and decisions; filled from top to bottom.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<A> {
    /// When the packet came.
    pub now: Tick,
    /// The packet's flow.
    pub key: FlowKey<A>,
    /// The IP header besides the addresses.
    pub ip: Ip,
    /// TCP control bits; those of SCTP's first chunk ([`crate::net::sctp::as_tcp`]); none for UDP.
    pub tcp: Flags,
    /// What a fragment is a fragment of.
    pub datagram: PieceKey,
    /// What its first one has told.
    pub known: Known,
    /// L3 bytes of the largest packet that leaves.
    pub segment_len: u32,
    /// What was dialled, if the packet opens a flow.
    pub frontend: ServiceKey<A>,
    /// Who dials, and what that comes to.
    pub call: Call,
    /// The client of the service, and what it was or is given.
    pub affinity: (AffinityKey<A>, Affinity),
    /// What the packet becomes, and the rest of its flow if it opens one.
    pub flow: NewFlow<A>,
    /// The search for the source that it leaves with.
    pub search: Search<A>,
    /// An address that may stand in for the one of the first choice.
    pub spare: Source<A>,
    /// Where it is sent.
    pub hop: NextHop,
    /// The node's own address that the FIB prefers on the way there; unspecified: it did not say.
    pub source: A,
    /// A next hop from the table, while the one above looks for its place.
    pub entry: NextHop,
    /// Of an ICMP message about a flow: what it is.
    pub icmp: Letterhead<A>,
    /// What becomes of the packet, where it is not known from the first.
    pub decision: Decision,
    /// What the host must do with it. In memory, so that the verifier follows what comes after once, and not for
    /// each verdict.
    pub verdict: Verdict,
    /// What its sender is told.
    pub answer: Answer,
    /// The answer to it.
    pub letter: Letter,
}
