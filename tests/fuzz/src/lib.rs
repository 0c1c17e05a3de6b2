//! The targets as functions: what libFuzzer calls, and what replays its corpus without it.

pub mod targets;
