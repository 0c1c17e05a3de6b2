//! fulcrum's userspace: what the tables should contain, and the agent that makes it so.
//!
//! ```text
//! source -> store -> compile (pure) -> plan (pure, ordered) -> apply -> maps
//! ```

pub mod agent;
pub mod alloc;
pub mod apply;
pub mod causes;
pub mod check;
pub mod cli;
pub mod clock;
pub mod compile;
pub mod config;
pub mod control;
pub mod desired;
pub mod flows;
pub mod loader;
pub mod mended;
pub mod model;
pub mod plan;
pub mod shared_map;
pub mod shared_text;
pub mod small_map;
pub mod small_set;
pub mod source;
pub mod store;
pub mod sys;
pub mod takeover;
pub mod trace;
