//! Whether the tables keep up with the manifests: kube-proxy's notion of a healthy proxy.
//!
//! A change that is not carried out is no fault as long as it is young. Pure: times are arguments, ages are told by a
//! clock that nobody sets, and the wall clock is only shown.

use std::time::{Duration, Instant, SystemTime};

/// A change that waits longer than this makes the agent unhealthy: twice kube-proxy's period of synchronisation, 1 min.
const LIMIT: Duration = Duration::from_mins(2);

/// A point in time on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By the clock that only goes forward.
    pub steady: Instant,
    /// By the clock that people read.
    pub wall: SystemTime,
}

impl Moment {
    /// This moment.
    pub fn now() -> Self {
        Self {
            steady: Instant::now(),
            wall: SystemTime::now(),
        }
    }
}

/// What has been carried out, and what waits.
#[derive(Clone, Copy, Debug)]
pub struct Sync {
    /// Since when the oldest change waits.
    waiting: Option<Instant>,
    /// When everything was carried out last; before that, the start.
    done: SystemTime,
}

impl Sync {
    /// At the start, when the first listing waits to be carried out.
    pub fn starting(at: Moment) -> Self {
        Self {
            waiting: Some(at.steady),
            done: at.wall,
        }
    }

    /// A change is known. Those that wait already are older.
    pub fn queue(&mut self, at: Moment) {
        self.waiting.get_or_insert(at.steady);
    }

    /// Everything that is known is carried out.
    pub fn finish(&mut self, at: Moment) {
        *self = Self {
            waiting: None,
            done: at.wall,
        };
    }

    /// Whether nothing has waited for too long.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.waiting
            .is_none_or(|since| now.saturating_duration_since(since) <= LIMIT)
    }

    /// When the tables last said what the manifests say: now, unless something has waited for too long.
    pub fn last_updated(&self, now: Moment) -> SystemTime {
        if self.is_healthy(now.steady) {
            now.wall
        } else {
            self.done
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many seconds after the start, by both clocks.
    fn at(start: Moment, seconds: u64) -> Moment {
        let later = Duration::from_secs(seconds);
        Moment {
            steady: start.steady + later,
            wall: start.wall + later,
        }
    }

    fn is_healthy(sync: &Sync, start: Moment, seconds: u64) -> bool {
        sync.is_healthy(at(start, seconds).steady)
    }

    #[test]
    fn a_change_may_wait_for_two_minutes() {
        let start = Moment::now();
        let mut sync = Sync::starting(start);
        assert!(is_healthy(&sync, start, 120));
        assert!(!is_healthy(&sync, start, 121), "the first listing is late");
        sync.finish(at(start, 200));
        assert!(is_healthy(&sync, start, 100_000), "nothing waits");
        sync.queue(at(start, 100_000));
        assert!(is_healthy(&sync, start, 100_120));
        assert!(!is_healthy(&sync, start, 100_121));
    }

    #[test]
    fn a_later_change_does_not_make_an_earlier_one_younger() {
        let start = Moment::now();
        let mut sync = Sync::starting(start);
        sync.finish(start);
        sync.queue(at(start, 10));
        sync.queue(at(start, 100));
        assert!(!is_healthy(&sync, start, 131));
    }

    #[test]
    fn the_time_that_is_shown_is_now_unless_something_is_late() {
        let start = Moment::now();
        let mut sync = Sync::starting(start);
        sync.finish(at(start, 5));
        let now = at(start, 1_000);
        assert_eq!(sync.last_updated(now), now.wall);
        sync.queue(at(start, 10));
        assert_eq!(sync.last_updated(now), at(start, 5).wall);
    }

    #[test]
    fn a_wall_clock_that_jumps_makes_nothing_late() {
        let start = Moment::now();
        let mut sync = Sync::starting(start);
        sync.finish(start);
        sync.queue(start);
        let day = Duration::from_hours(24);
        for wall in [start.wall + day, start.wall - day] {
            let now = Moment {
                wall,
                ..at(start, 1)
            };
            assert_eq!(sync.last_updated(now), wall);
        }
    }
}
