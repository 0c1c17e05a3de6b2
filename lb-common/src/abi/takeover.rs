//! Which of two proxies has what, while connections change hands: one word, read where a flow would be opened.
//!
//! A table and no load-time fact, since it changes while programs run.

/// Another proxy's connections are still translated by connection tracking: what belongs to no flow of ours, in the
/// middle of a connection, goes on to the stack untouched.
pub const FROM: u32 = 1 << 0;
/// The other proxy has what is new: flows that are known go on, no other is opened for pods and for those outside.
pub const TO: u32 = 1 << 1;
/// All devices have had their programs, so that what is opened is answered. Only the agent reads it.
pub const UP: u32 = 1 << 2;
