//! The goals: ratios of what one interleaved run measured, and whether they are met.

use serde::{Deserialize, Serialize};

use crate::{measure::Measure, report::Report, stats::Ratio};

/// A side of a ratio.
#[derive(Clone, Copy, Debug)]
struct Side {
    name: &'static str,
    services: Services,
}

/// With how many services.
#[derive(Clone, Copy, Debug)]
enum Services {
    None,
    One,
    Many,
}

/// When a ratio is good.
#[derive(Clone, Copy, Debug)]
enum Limit {
    /// It is at most this.
    AtMost(f64),
    /// It is at least this.
    AtLeast(f64),
    /// Its interval holds 1, or it is at most this.
    SameOrAtMost(f64),
}

/// A goal.
#[derive(Clone, Copy, Debug)]
struct Goal {
    measure: Measure,
    ours: Side,
    theirs: Side,
    limit: Limit,
}

/// What became of a goal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The goal in words.
    pub(crate) goal: String,
    /// What was found.
    pub(crate) ratio: Ratio,
    /// What it shall be.
    pub(crate) limit: String,
    /// Whether it is.
    pub(crate) is_met: bool,
}

const fn with(name: &'static str, services: Services) -> Side {
    Side { name, services }
}

const fn goal(measure: Measure, ours: Side, theirs: Side, limit: Limit) -> Goal {
    Goal {
        measure,
        ours,
        theirs,
        limit,
    }
}

const XDP: Side = with("xdp", Services::One);
const TC: Side = with("tc", Services::One);
const CONNECT_TIME: Side = with("connect-time", Services::One);
const NFTABLES: Side = with("nftables", Services::One);
const FORWARDING: Side = with("forwarding", Services::None);

const GOALS: [Goal; 17] = {
    use Limit::{AtLeast, AtMost, SameOrAtMost};
    use Measure::{
        Connection, EstablishedFew, EstablishedMany, FirstPacket, Load, RunHitMany, RunHitMost,
        RunHitOne, Stream,
    };
    use Services::{Many, None, One};
    const PEER: Side = with("xdp lru-fib", None);
    const PROGRAM: Side = with("xdp", None);
    [
        goal(EstablishedFew, XDP, NFTABLES, AtMost(0.20)),
        goal(EstablishedMany, XDP, NFTABLES, AtMost(0.20)),
        goal(FirstPacket, XDP, NFTABLES, AtMost(0.15)),
        goal(EstablishedFew, TC, NFTABLES, AtMost(0.60)),
        goal(EstablishedFew, TC, FORWARDING, AtMost(1.0)),
        goal(Connection, TC, FORWARDING, AtMost(1.05)),
        goal(Connection, CONNECT_TIME, FORWARDING, AtMost(1.05)),
        goal(Stream, TC, FORWARDING, AtLeast(0.97)),
        goal(
            EstablishedFew,
            with("xdp", Many),
            with("xdp", One),
            SameOrAtMost(1.05),
        ),
        goal(
            FirstPacket,
            with("xdp", Many),
            with("xdp", One),
            SameOrAtMost(1.05),
        ),
        goal(
            EstablishedFew,
            with("tc", Many),
            with("tc", One),
            SameOrAtMost(1.05),
        ),
        goal(
            FirstPacket,
            with("tc", Many),
            with("tc", One),
            SameOrAtMost(1.05),
        ),
        goal(
            Connection,
            with("tc", Many),
            with("tc", One),
            SameOrAtMost(1.05),
        ),
        goal(Load, with("tc", Many), with("nftables", Many), AtMost(0.02)),
        goal(RunHitOne, PROGRAM, PEER, AtMost(0.40)),
        goal(RunHitMany, PROGRAM, PEER, AtMost(0.45)),
        goal(RunHitMost, PROGRAM, PEER, AtMost(0.60)),
    ]
};

/// What became of all goals whose figures there are; `many` is the larger number of services.
pub(crate) fn marks(report: &Report, many: u32) -> Vec<Mark> {
    let mark = |goal: &Goal| goal.judge(report, many);
    GOALS.iter().filter_map(mark).collect()
}

impl Goal {
    fn judge(&self, report: &Report, many: u32) -> Option<Mark> {
        let samples = |side: Side| {
            let row = report.row(self.measure, side.name, side.services.number(many))?;
            Some(row.samples.as_slice())
        };
        let ratio = Ratio::paired(samples(self.ours)?, samples(self.theirs)?)?;
        let title = self.measure.title();
        let [ours, theirs] = [self.ours, self.theirs].map(|side| side.title(many));
        Some(Mark {
            goal: format!("{title}: {ours} / {theirs}"),
            ratio,
            limit: self.limit.title(),
            is_met: self.limit.is_met(ratio),
        })
    }
}

impl Side {
    fn title(self, many: u32) -> String {
        match self.services {
            Services::None => self.name.to_owned(),
            Services::One | Services::Many => {
                format!(
                    "{} {}",
                    self.name,
                    crate::table::grouped(self.services.number(many))
                )
            }
        }
    }
}

impl Services {
    fn number(self, many: u32) -> u32 {
        match self {
            Self::None => 0,
            Self::One => 1,
            Self::Many => many,
        }
    }
}

impl Limit {
    fn is_met(self, ratio: Ratio) -> bool {
        let Ratio { median, low, high } = ratio;
        match self {
            Self::AtMost(limit) => median <= limit,
            Self::AtLeast(limit) => median >= limit,
            Self::SameOrAtMost(limit) => median <= limit || (low <= 1.0 && 1.0 <= high),
        }
    }

    fn title(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {limit:.2}"),
            Self::AtLeast(limit) => format!(">= {limit:.2}"),
            Self::SameOrAtMost(limit) => format!("holds 1.00, or <= {limit:.2}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(low: f64, median: f64, high: f64) -> Ratio {
        Ratio { median, low, high }
    }

    #[test]
    fn a_goal_is_met_by_the_median() {
        let close = ratio(0.1, 0.2, 0.3);
        assert!(Limit::AtMost(0.2).is_met(close));
        assert!(!Limit::AtMost(0.19).is_met(close));
        assert!(Limit::AtLeast(0.2).is_met(close));
        assert!(!Limit::AtLeast(0.21).is_met(close));
    }

    #[test]
    fn what_shall_be_the_same_may_be_better_or_uncertain_but_not_surely_worse() {
        let limit = Limit::SameOrAtMost(1.05);
        assert!(limit.is_met(ratio(0.8, 0.9, 0.95)));
        assert!(limit.is_met(ratio(0.9, 1.2, 1.5)));
        assert!(limit.is_met(ratio(1.01, 1.05, 1.1)));
        assert!(!limit.is_met(ratio(1.01, 1.06, 1.1)));
    }
}
