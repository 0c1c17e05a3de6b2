//! Probes against real servers.

mod following;
mod questions;
mod servers;

use std::time::Duration;

use super::{target::Target, *};
use crate::agent::probe::tally::Thresholds;

/// One that is asked without pause, and has this long to answer.
fn target(question: Question, timeout: Duration) -> Target {
    Target {
        uid: None,
        started_s: None,
        question,
        initial_delay: Duration::ZERO,
        period: Duration::from_millis(1),
        timeout,
        thresholds: Thresholds {
            success: 1,
            failure: 1,
        },
    }
}

#[test]
fn a_delay_counts_from_the_start_of_the_pod_where_that_is_known() {
    let question = Question::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 1,
    };
    let now = UNIX_EPOCH + Duration::from_secs(1000);
    for (started_s, expected) in [
        (None, 30),
        (Some(990), 20),
        (Some(900), 0),
        (Some(2000), 30),
        (Some(-1), 30),
    ] {
        let target = Target {
            started_s,
            initial_delay: Duration::from_secs(30),
            ..target(question.clone(), Duration::from_secs(1))
        };
        let delay = delay(&target, now);
        assert_eq!(delay, Duration::from_secs(expected), "{started_s:?}");
    }
}
