//! How failing writes are tried again: a few times per step, and a few times in all.
//!
//! Only what may pass is tried again; a full table or a missing capability is not. When everything
//! fails, the whole run still ends soon.

use std::{thread, time::Duration};

use super::lbmaps::TableError;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries per step, the first included.
    pub attempts: u32,
    /// Pause between two tries of a step.
    pub backoff: Duration,
    /// Tries of one run beyond the first ones; when they are used up, each step has one try.
    pub budget: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Duration::from_millis(5),
            budget: 32,
        }
    }
}

/// The tries of one run.
#[derive(Debug)]
pub(super) struct Tries<'a> {
    limits: &'a Retry,
    n_left: u32,
}

impl<'a> Tries<'a> {
    pub(super) fn new(limits: &'a Retry) -> Self {
        let n_left = limits.budget;
        Self { limits, n_left }
    }

    /// Calls until it succeeds or must be given up; then the last error.
    pub(super) fn call(
        &mut self,
        mut call: impl FnMut() -> Result<(), TableError>,
    ) -> Result<(), TableError> {
        let mut n_more = self.limits.attempts.saturating_sub(1);
        loop {
            match call() {
                Err(error) if error.is_transient() && n_more > 0 && self.n_left > 0 => {
                    n_more -= 1;
                    self.n_left -= 1;
                    thread::sleep(self.limits.backoff);
                }
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::apply::Access;

    const LIMITS: Retry = Retry {
        attempts: 3,
        backoff: Duration::ZERO,
        budget: 3,
    };

    fn fails(errno: i32, n_calls: &mut u32) -> Result<(), TableError> {
        *n_calls += 1;
        let source = io::Error::from_raw_os_error(errno);
        Err(TableError {
            access: Access::Write,
            table: "slots",
            key: "0".to_owned(),
            source,
        })
    }

    #[test]
    fn what_may_pass_is_tried_again_until_the_budget_is_used_up() {
        let mut tries = Tries::new(&LIMITS);
        let n_calls = [(); 3].map(|()| {
            let mut n_calls = 0;
            tries
                .call(|| fails(libc::ENOMEM, &mut n_calls))
                .expect_err("it always fails");
            n_calls
        });
        assert_eq!(n_calls, [3, 2, 1]);
    }

    #[test]
    fn a_full_table_is_not_tried_again() {
        let mut n_calls = 0;
        let error = Tries::new(&LIMITS).call(|| fails(libc::E2BIG, &mut n_calls));
        assert_eq!(n_calls, 1);
        assert_eq!(
            error.expect_err("it always fails").to_string(),
            "cannot write slots[0]: Argument list too long (os error 7); the table is full, remove \
             services or endpoints"
        );
    }
}
