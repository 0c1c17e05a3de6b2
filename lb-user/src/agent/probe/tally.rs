//! From answers to readiness: how many in a row decide.
//!
//! Pure. What a kubelet does: not ready before the first success, and a row of answers of one kind counts once
//! it is long enough.

/// How many answers in a row decide; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// So many successes make ready.
    pub success: u32,
    /// So many failures end that.
    pub failure: u32,
}

/// What the answers so far come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    thresholds: Thresholds,
    ready: bool,
    /// The last answer, and how many of its kind came in a row.
    row: Option<(bool, u32)>,
}

impl Tally {
    /// Before the first answer: not ready.
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            thresholds,
            ready: false,
            row: None,
        }
    }

    /// Whether it is ready after one answer more.
    pub fn take(&mut self, success: bool) -> bool {
        let length = match self.row {
            Some((last, length)) if last == success => length.saturating_add(1),
            _ => 1,
        };
        self.row = Some((success, length));
        let Thresholds {
            success: needed_for_ready,
            failure: needed_for_unready,
        } = self.thresholds;
        let needed = if success {
            needed_for_ready
        } else {
            needed_for_unready
        };
        if length >= needed {
            self.ready = success;
        }
        self.ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readiness after each of the answers, `+` and `-` in both texts.
    fn course(success: u32, failure: u32, answers: &str) -> String {
        let mut tally = Tally::new(Thresholds { success, failure });
        let sign = |ready| if ready { '+' } else { '-' };
        answers
            .chars()
            .map(|answer| sign(tally.take(answer == '+')))
            .collect()
    }

    #[test]
    fn a_row_of_answers_decides_once_it_is_long_enough() {
        let cases = [
            (1, 3, "-+----+", "-+++--+"),
            (1, 1, "+-+-", "+-+-"),
            (3, 1, "++++-+++", "--++---+"),
            (2, 2, "+-+-++-+--", "-----++++-"),
            (1, 3, "+--+--+---", "+++++++++-"),
        ];
        for (success, failure, answers, expected) in cases {
            assert_eq!(course(success, failure, answers), expected, "{answers}");
        }
    }

    #[test]
    fn nothing_is_ready_before_the_first_success() {
        assert_eq!(course(1, u32::MAX, "---"), "---");
    }
}
