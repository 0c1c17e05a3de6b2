//! fulcrum's datapath: everything about a packet that has one right answer.
//!
//! Wire formats, checksum arithmetic, backend choice, the flow table's algorithm, flow state and the
//! decision itself live here once, for both address families and for three hosts: the kernel
//! (`lb-ebpf`), tests and tools in userspace ([`fake`]), model checkers. What the code asks of its
//! host is two traits, [`datapath::Packet`] and [`datapath::Tables`].
//!
//! What is never here: unsafe code, allocation, panics that survive into the BPF object, aya, and
//! anything that knows Kubernetes objects.

#![cfg_attr(not(any(test, feature = "fake")), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "a word is cut up into fields, a sum folded, a hash masked: to truncate is what is meant"
)]
#![expect(
    clippy::inline_always,
    reason = "BPF allows 512 bytes of stack over a call chain: what is a call and what is not is a design decision"
)]

pub mod abi;
pub mod datapath;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod net;
pub mod select;
