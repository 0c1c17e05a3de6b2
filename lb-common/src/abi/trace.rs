//! `trace_record`: what the program `trace` says about one packet.
//!
//! Written by that program only, one run at a time, and read by who ran it. Not pinned, and no part of the layout:
//! the program and its reader are of one build.

use super::{NextHop, Plain, Service, SlotRange};

/// Values of [`TraceRecord::decision`] and [`TraceRecord::service_decision`].
pub mod decision {
    /// Untouched to whatever comes next.
    pub const PASS: u32 = 0;
    /// Dropped.
    pub const DROP: u32 = 1;
    /// Dropped, and an answer sent that says so.
    pub const REJECT: u32 = 2;
    /// Rewritten and sent.
    pub const SEND: u32 = 3;
}

/// Values of [`TraceRecord::flow`].
pub mod flow {
    /// No known flow.
    pub const NONE: u32 = 0;
    /// Client to backend.
    pub const ORIGINAL: u32 = 1;
    /// Backend to client.
    pub const REPLY: u32 = 2;
}

/// What would become of a packet, and why.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceRecord {
    /// What becomes of it: [`decision`].
    pub decision: u32,
    /// [`super::Reason`] of it.
    pub reason: u32,
    /// What a new connection would come to: [`decision`].
    pub service_decision: u32,
    /// [`super::Reason`] of that.
    pub service_reason: u32,
    /// Which direction of a known flow it is: [`flow`].
    pub flow: u32,
    /// [`crate::datapath::Client`].
    pub client: u32,
    /// [`crate::datapath::List`].
    pub list: u32,
    /// The list's slots.
    pub range: SlotRange,
    /// 1: the client has the backend that it had before.
    pub is_affine: u32,
    /// 1: its source gives way to one of this node's.
    pub is_masqueraded: u32,
    /// The frontend; id 0: none.
    pub service: Service,
    /// Source address after the rewrite, the words of [`crate::net::addr::Addr::words`].
    pub new_src: [u32; 4],
    /// Destination address after the rewrite.
    pub new_dst: [u32; 4],
    /// Source port after the rewrite, host byte order.
    pub new_sport: u32,
    /// Destination port after the rewrite, host byte order.
    pub new_dport: u32,
    /// Where it is sent; device 0: not known.
    pub hop: NextHop,
    /// [`super::place`] of the destination as it came.
    pub place: u32,
}

/// Bits of the mark that the program is run with.
pub mod mark {
    /// [`crate::datapath::Role`], in the low bits.
    pub const ROLE: u32 = 0xff;
    /// Nothing is asked of the machine: no route, no socket.
    pub const ALONE: u32 = 1 << 8;
}

impl Plain for TraceRecord {}
