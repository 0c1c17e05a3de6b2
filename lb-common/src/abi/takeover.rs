//! Which of two proxies has what, while connections change hands: one word, read where a flow would be opened.
//!
//! A table and no load-time fact, since it changes while programs run.

/// Another proxy's connections are still translated by connection tracking: what belongs to no flow of ours, in the
/// middle of a connection, goes on to the stack untouched.
pub const FROM: u32 = 1 << 0;
/// The other proxy has what is new: flows that are known go on, no other is opened for pods and for those outside.
pub const TO: u32 = 1 << 1;
/// The other proxy is about to get what is new: whoever gets a source port of the node's from now on gets one of
/// [`APART_PORTS`], which it gives to nobody, as long as it does not know all others that are taken.
pub const APART: u32 = 1 << 3;
/// All devices have had their programs, so that what is opened is answered. Only the agent reads it.
pub const UP: u32 = 1 << 2;

/// First and number of the ports of [`APART`]: `nf_nat` chooses ports below 1024 only for clients that have such ports
/// themselves.
pub const APART_PORTS: (u32, u32) = (512, 512);
