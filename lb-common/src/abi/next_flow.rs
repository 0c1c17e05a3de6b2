//! `flows` in a layout that no release has: what an upgrade must be able to take connections over into.

use super::Plain;
use crate::net::addr::{Addr4, Addr6};

/// [`super::flow::FlowSlot`] with its fields in another order and one more among them, so that slots are longer as well.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the layout that is in use")]
pub struct FlowSlot<A> {
    pub bytes: u64,
    pub packets: u32,
    pub last_seen: u32,
    pub dst: A,
    pub src: A,
    pub proto: u8,
    pub pad: u8,
    pub flags: u16,
    pub sport: u16,
    pub dport: u16,
    pub state: u32,
    /// What this layout is for: nobody reads it.
    pub more: [u32; 3],
    pub generation: u16,
    pub next_hop: u16,
    pub backend: u32,
    pub twin: u32,
    pub new_dst: A,
    pub home: u32,
    pub new_src: A,
    pub new_sport: u16,
    pub new_dport: u16,
}

const _: () = assert!(size_of::<FlowSlot<Addr4>>() == 128);
const _: () = assert!(size_of::<FlowSlot<Addr6>>() == 128);
impl Plain for FlowSlot<Addr4> {}
impl Plain for FlowSlot<Addr6> {}
