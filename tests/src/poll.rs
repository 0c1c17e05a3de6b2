//! Waiting for a condition, with a deadline.
//!
//! The only place of the harness that pauses; a test that waits says for what and how long.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Short enough to go unnoticed, long enough to leave the processor to what is waited for.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until `condition` gives a value; `what` completes "waited ... for".
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
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
