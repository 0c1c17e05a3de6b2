//! Kubernetes objects as this program understands them: defaults applied, values checked.
//!
//! Everything behind `source` works on these types. They are plain values: nothing here reads a
//! clock, a file or a socket, and no type of a Kubernetes client library appears.

pub mod endpoint;
pub mod finding;
pub mod node;
pub mod object;
pub mod pod;
pub mod probe;
pub mod service;
pub mod written;
