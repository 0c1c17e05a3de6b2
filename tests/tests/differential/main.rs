//! The same packets through the datapath on the host and through the real programs in the kernel: what they become, what
//! is done with them, what is counted, and at the end what stands in the flow tables.
//!
//! An episode is a node without flows and a few hundred packets, of connections that open, go on, are answered and end,
//! many of them spoiled. The host's clock is set to the kernel's before each packet; an episode in which the kernel's
//! clock moved during a packet says nothing more and ends. A failure names the seed of its episode:
//! `FULCRUM_SEED=... cargo xtask test prog differential` begins with that one.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of tests fail as tests do: with a line number"
)]

mod episode;
mod forge;
mod luck;
mod stage;

use std::{
    env,
    time::{Duration, Instant},
};

use episode::{Ended, Tally};
use lb_common::net::addr::{Addr4, Addr6};
use stage::Stage;

/// Packets of a run.
const PACKETS: usize = 24_000;
/// A run takes seconds. On a machine that is slow or busy with other things episodes are cut short again and again: it may
/// then end with fewer packets after this time, but not with less than [`LEAST`].
const PATIENCE: Duration = Duration::from_secs(55);
const LEAST: usize = 1_000;
/// Nobody is that slow.
const LIMIT: Duration = Duration::from_mins(10);

#[test]
fn the_kernel_and_the_host_make_the_same_of_every_packet() {
    let Some(mut stage) = Stage::new() else {
        return;
    };
    let seed = env::var("FULCRUM_SEED").map_or(1, |seed| seed.parse().expect("FULCRUM_SEED"));
    println!("FULCRUM_SEED={seed}");
    let start = Instant::now();
    let mut tally = Tally::default();
    for seed in seed.. {
        let ended = episode::run::<Addr4>(&mut stage, seed, &mut tally)
            .and_then(|()| episode::run::<Addr6>(&mut stage, seed, &mut tally));
        if let Err(Ended::Different(what)) = ended {
            panic!("FULCRUM_SEED={seed}: {what}");
        }
        let limit = if tally.compared < LEAST {
            LIMIT
        } else {
            PATIENCE
        };
        if tally.compared >= PACKETS || start.elapsed() > limit {
            break;
        }
    }
    println!("{tally:?} in {:?}", start.elapsed());
    assert!(tally.compared >= LEAST, "{tally:?}");
    tally.is_worth_something();
}
