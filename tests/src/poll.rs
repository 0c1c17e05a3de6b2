//! Waiting for a condition, with a deadline.
//!
//! The only place of the harness that pauses; a test that waits says for what and how long. On a machine that is slow
//! throughout, an emulated one for example, all limits are longer, in proportion.

use std::{
    env,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Short enough to go unnoticed, long enough to leave the processor to what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// How many times slower than usual everything may be.
const PATIENCE_VARIABLE: &str = "FULCRUM_PATIENCE";

/// A limit as it is on this machine.
pub fn patiently(limit: Duration) -> Duration {
    limit.saturating_mul(patience())
}

/// How many of what goes on all the time this machine carries beside the rest; at least one.
pub fn modestly(count: usize) -> usize {
    let patience = usize::try_from(patience()).unwrap_or(usize::MAX);
    (count / patience).max(1)
}

fn patience() -> u32 {
    static PATIENCE: OnceLock<u32> = OnceLock::new();
    *PATIENCE.get_or_init(|| factor(env::var(PATIENCE_VARIABLE).ok().as_deref()))
}

fn factor(given: Option<&str>) -> u32 {
    let given = given.and_then(|given| given.parse().ok());
    given.unwrap_or(1).max(1)
}

/// Asks until `condition` gives a value; `what` completes "waited ... for".
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = patiently(limit);
    let start = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if start.elapsed() >= limit {
            bail!("waited {limit:?} for {what}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_asked_until_it_holds() {
        let mut asked = 0;
        let value = until(Duration::from_secs(10), "three questions", || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn limits_are_as_written_unless_the_machine_is_said_to_be_slow() {
        assert_eq!([None, Some(""), Some("0"), Some("x")].map(factor), [1; 4]);
        assert_eq!(factor(Some("10")), 10);
    }

    #[test]
    fn the_deadline_names_what_did_not_happen() {
        let result = until(Duration::ZERO, "the impossible", || Ok(None::<()>));
        assert_eq!(
            result.unwrap_err().to_string(),
            "waited 0ns for the impossible"
        );
    }

    #[test]
    fn an_error_ends_the_wait() {
        let result = until(Duration::MAX / 4, "nothing", || bail!("broken"));
        let result: Result<()> = result;
        assert_eq!(result.unwrap_err().to_string(), "broken");
    }
}
