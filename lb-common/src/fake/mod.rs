//! The host's datapath: tables in memory, packets in vectors, a clock and luck that tests set.
//!
//! It runs the same code as the kernel does, for unit, property and model tests, fuzzing and
//! simulation. One [`FakeNode`] is what a node's maps are; [`FakeTables`] is one program attached to one
//! of its devices. Guaranteed: the same calls give the same result, always; nothing here reads a
//! clock, an environment or a file. What it never does: decide anything about a packet.

mod cut;
mod error;
mod node;
mod packet;
mod slots;
mod sockets;
mod spec;

pub use error::error_about;
pub use node::{FakeHop, FakeNode, FakeTables, Outcome};
pub use packet::FakePacket;
pub use slots::{AtomicWord, FakePair, FakeSlots, FakeWordRows, FakeWords, StdWord};
pub use sockets::FakeSockets;
pub use spec::{PacketSpec, Transport};
