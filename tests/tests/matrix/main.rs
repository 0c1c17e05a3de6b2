//! The matrix: every place that a connection can come from, dialling every kind of address, answered at every place.
//!
//! A cell is one combination, named `<client>/<address>/<backend>/<family>`; TCP with a payload both ways, several
//! connections, and UDP are in each. One test is one kind of cluster with many cells: all of them are run, and each that
//! fails is reported by name. The cells of [`direct`] need no agent: they show that the clusters themselves are right.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod clients;
mod direct;
mod host;
mod stack;

use std::io::{self, Write};

use lb_tests::{
    stage::{Cell, Stage},
    topology::Config,
};

/// Two pods on the first node, one of which dials, and one on the second.
fn two_nodes() -> Config {
    Config {
        pods: vec![2, 1],
        ..Config::default()
    }
}

/// Runs those cells whose addresses are served; the others are named, past libtest, which keeps what passing tests
/// print.
fn run(config: &Config, cells: &[Cell]) {
    let (served, waiting): (Vec<Cell>, Vec<Cell>) = cells.iter().partition(|cell| cell.is_served());
    if !waiting.is_empty() {
        let names: Vec<String> = waiting.iter().map(ToString::to_string).collect();
        let message = format!("not served yet: {}\n", names.join(" "));
        // Nobody to tell if standard error is closed.
        let _ = io::stderr().write_all(message.as_bytes());
    }
    let stage = Stage::new(config, &[]).unwrap();
    if let Err(error) = stage.run(&served) {
        panic!("{error:#}");
    }
}
