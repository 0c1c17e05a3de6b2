//! The flow table on the host: against a model, nearly full, and raced under a model checker.

mod abandoned;
mod carried;
mod fill;
mod growth;
mod invariant;
mod keys;
mod model;
mod preempted;
mod races;
mod stopped;
mod taken_out;
