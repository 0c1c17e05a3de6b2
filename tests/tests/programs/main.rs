//! The real programs in the kernel, one packet at a time: what they return, the bytes they leave, what they count.
//!
//! Each test has a network namespace and an object of its own. Whole frames are compared, with ones that were built
//! from scratch, and whole sets of counters.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod answers;
mod dial;
mod drops;
mod errors;
mod exchanges;
mod fixture;
mod fragments;
mod host;
mod layer3;
mod least;
mod loaders;
mod maglev;
mod many;
mod offload;
mod passes;
mod straight;
mod tags;
mod takeover;
mod xdp;
