//! Connections in trouble, end to end: backends that are replaced, restart or misbehave, ports that come again, floods.
//!
//! Two nodes with pods, a client outside that reaches services by the first node, real sockets. Nothing is timed: what
//! would take a second longer shows as a retransmission that the client's kernel counts.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod boom;
mod floods;
mod handover;
mod inherited;
mod killed;
mod marks;
mod minute;
mod moving;
mod ports;
mod restart;
mod reuse;
mod room;
mod scene;
mod sctp;
mod stack;
mod takeover;
mod unbroken;
mod upgrade;
