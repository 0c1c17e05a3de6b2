//! Who forwards: what the flag leaves to what is found on the node.

use crate::{
    causes::with_causes,
    check::{legacy, nftables, policy},
    config::{Config, Forward, Modes},
};

/// What becomes of the flags `--forward` and `--mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The stack forwards.
    pub by_stack: bool,
    /// Where uplinks are met.
    pub modes: Modes,
}

impl Forwarding {
    /// Looks at the node if the flag leaves it to that; the log says what is chosen and why.
    pub fn choose(config: &Config) -> Self {
        let by_stack = match config.forward {
            Forward::Direct => false,
            Forward::Stack => true,
            Forward::Auto => filter().is_some_and(|filter| {
                tracing::info!(
                    because = filter,
                    "the stack forwards, as --forward auto says"
                );
                true
            }),
        };
        if !by_stack {
            let modes = config.modes.clone();
            return Self { by_stack, modes };
        }
        if config.modes.ask_for_xdp() {
            tracing::warn!("--mode xdp is not used: what the stack forwards is met at TC");
        }
        let modes = Modes::TC;
        Self { by_stack, modes }
    }
}

/// What makes the stack forward: rules for forwarded packets that do anything, or that nobody can read.
fn filter() -> Option<String> {
    match nftables::read() {
        Ok(rules) => policy::first_filter(&rules, &legacy::read()),
        Err(error) => Some(format!(
            "the rules of nftables cannot be read: {}",
            with_causes(&error)
        )),
    }
}
