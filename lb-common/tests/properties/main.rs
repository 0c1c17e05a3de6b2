//! What holds for any packet of any kind of flow, in any order.
//!
//! Random and bounded; a failure prints what it was shrunk to, and `PROPTEST_RNG_SEED` repeats a run.

mod directions;
mod fast;
mod flood;
mod kinds;
mod mutated;
mod rewritten;
mod wire;
#[expect(
    dead_code,
    reason = "the world of the datapath's own tests, which use the rest"
)]
#[path = "../datapath/world.rs"]
mod world;
