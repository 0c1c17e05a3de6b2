//! What an operator is told of, once when it begins and once when it is over.
//!
//! Pure: counts and fill levels go in, sentences come out.

use std::{collections::BTreeMap, fmt, time::Duration};

use lb_common::abi::Reason;

use super::census::Census;
use crate::alloc::PortRange;

/// A counter that has not risen for so long is at rest.
const REST: Duration = Duration::from_mins(1);
/// Percent of a flow table above which is said that it fills, where it cannot grow any more.
const FULL: u32 = 75;
/// The same where it can, and should have.
const FULLER: u32 = 90;
/// Percent below which it is said that it has room again.
const ROOMY: u32 = 70;

/// What was chosen when the agent started: the numbers that advice names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions of each family's flow table.
    pub flow_table_size: u32,
    /// Positions that it may grow to.
    pub flow_table_max: u32,
    /// Clients per family that affinity is remembered of.
    pub affinity_size: u32,
    /// Source ports for masqueraded connections.
    pub snat_ports: PortRange,
}

/// A counter that ought not to rise.
struct Rule {
    reason: Reason,
    /// What it means, and what to do.
    advice: fn(&Limits) -> String,
}

const RULES: [Rule; 6] = [
    Rule {
        reason: Reason::DropFlowTableFull,
        advice: |limits| {
            format!(
                "new connections find no place in the flow table: {}",
                more_places(limits)
            )
        },
    },
    Rule {
        reason: Reason::DropPortInUse,
        advice: |limits| {
            format!(
                "new connections find no source port towards their backend: {}",
                more_ports(limits)
            )
        },
    },
    Rule {
        reason: Reason::PortUnrested,
        advice: |limits| {
            format!(
                "source ports are used again sooner than a backend may have forgotten them: {}",
                more_ports(limits)
            )
        },
    },
    Rule {
        reason: Reason::FlowDisplaced,
        advice: |limits| {
            format!(
                "connections that were never answered give way to new ones: a flood, or {}",
                more_places(limits)
            )
        },
    },
    Rule {
        reason: Reason::AffinityFull,
        advice: |limits| {
            format!(
                "there is no room to remember clients' backends: raise --affinity-size {}",
                limits.affinity_size
            )
        },
    },
    Rule {
        reason: Reason::DropFragment,
        advice: |_| {
            "fragments come without their first one, or too many at once: path-MTU discovery at the senders, or \
             smaller datagrams, avoid them"
                .to_owned()
        },
    },
];

fn more_places(limits: &Limits) -> String {
    let Limits {
        flow_table_size,
        flow_table_max,
        ..
    } = limits;
    format!("raise --flow-table-size {flow_table_size} or --flow-table-max {flow_table_max}")
}

fn more_ports(limits: &Limits) -> String {
    let ports = limits.snat_ports;
    format!("widen --snat-ports {ports}, or give the uplinks more node addresses")
}

/// A sentence for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// It has begun.
    Begun(String),
    /// It is over.
    Over(String),
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun(text) | Self::Over(text) => f.write_str(text),
        }
    }
}

/// What was told, and what holds.
#[derive(Debug, Default)]
pub struct Alarms {
    counters: BTreeMap<&'static str, Counter>,
    full: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
struct Counter {
    seen: u64,
    rise: Option<Rise>,
}

#[derive(Debug)]
struct Rise {
    /// The count before it.
    before: u64,
    /// When it last rose.
    last: Duration,
    text: String,
}

impl Alarms {
    /// Takes what was counted before anybody looked as given.
    pub fn begin(&mut self, count: impl Fn(Reason) -> u64) {
        for rule in &RULES {
            let counter = self.counters.entry(rule.reason.name()).or_default();
            counter.seen = count(rule.reason);
        }
    }

    /// Takes a look at the counters at a moment, since whatever beginning.
    pub fn counters(
        &mut self,
        now: Duration,
        limits: &Limits,
        count: impl Fn(Reason) -> u64,
    ) -> Vec<Message> {
        let looks = RULES.iter().filter_map(|rule| {
            let counter = self.counters.entry(rule.reason.name()).or_default();
            counter.look(now, count(rule.reason), rule, limits)
        });
        looks.collect()
    }

    /// Takes a look at how full the tables are.
    pub fn fill(&mut self, limits: &Limits, tables: &[Census]) -> Vec<Message> {
        let mut messages = Vec::new();
        for table in tables {
            let name = table.family.to_string();
            let percent = table.percent();
            let full = if table.positions < limits.flow_table_max {
                FULLER
            } else {
                FULL
            };
            if percent > full && !self.full.contains_key(&name) {
                let text = format!(
                    "the {name} flow table fills: {table}; when it is full, new connections are dropped: {}",
                    more_places(limits)
                );
                messages.push(Message::Begun(text.clone()));
                self.full.insert(name, text);
            } else if percent < ROOMY && self.full.remove(&name).is_some() {
                let text = format!("the {name} flow table has room again: {table}");
                messages.push(Message::Over(text));
            }
        }
        messages
    }

    /// What holds now.
    pub fn standing(&self) -> Vec<String> {
        let rises = self.counters.values();
        let rises = rises.filter_map(|counter| Some(counter.rise.as_ref()?.text.clone()));
        rises.chain(self.full.values().cloned()).collect()
    }
}

impl Counter {
    fn look(&mut self, now: Duration, count: u64, rule: &Rule, limits: &Limits) -> Option<Message> {
        let before = std::mem::replace(&mut self.seen, count);
        let name = rule.reason.name();
        match &mut self.rise {
            None if count > before => {
                let text = format!("{name} rises: {}", (rule.advice)(limits));
                self.rise = Some(Rise {
                    before,
                    last: now,
                    text: text.clone(),
                });
                let n = count - before;
                Some(Message::Begun(format!("{text} ({n} packets so far)")))
            }
            Some(rise) if count > before => {
                rise.last = now;
                None
            }
            Some(rise) if now.saturating_sub(rise.last) >= REST => {
                let n = count.saturating_sub(rise.before);
                self.rise = None;
                let text = format!("{name} is at rest again: {n} packets in all");
                Some(Message::Over(text))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::net::addr::Family;

    use super::*;

    const LIMITS: Limits = Limits {
        flow_table_size: 65_536,
        flow_table_max: 262_144,
        affinity_size: 77,
        snat_ports: PortRange::SNAT,
    };

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn a_rise_is_told_once_and_its_end_once() {
        let mut alarms = Alarms::default();
        let mut look = |s, n| {
            let of = |reason| {
                if reason == Reason::DropFlowTableFull {
                    n
                } else {
                    0
                }
            };
            alarms.counters(seconds(s), &LIMITS, of)
        };
        assert_eq!(look(0, 0), []);
        let begun = Message::Begun(
            "drop_flow_table_full rises: new connections find no place in the flow table: raise --flow-table-size \
             65536 or --flow-table-max 262144 (3 packets so far)"
                .to_owned(),
        );
        assert_eq!(look(2, 3), [begun]);
        assert_eq!(look(4, 9), [], "once for one rise");
        assert_eq!(look(63, 9), [], "it may go on");
        let over = "drop_flow_table_full is at rest again: 9 packets in all".to_owned();
        assert_eq!(look(64, 9), [Message::Over(over)]);
        assert_eq!(look(200, 9), []);
        let again = look(202, 10);
        assert!(
            matches!(&again[..], [Message::Begun(text)] if text.ends_with("(1 packets so far)")),
            "{again:?}"
        );
    }

    #[test]
    fn what_holds_is_listed_as_long_as_it_does() {
        let mut alarms = Alarms::default();
        alarms.counters(seconds(0), &LIMITS, |_| 0);
        alarms.counters(seconds(1), &LIMITS, |_| 1);
        assert_eq!(alarms.standing().len(), RULES.len());
        alarms.counters(seconds(61), &LIMITS, |_| 1);
        assert_eq!(alarms.standing(), [""; 0]);
    }

    #[test]
    fn every_rule_says_what_helps() {
        for (reason, help) in [
            (Reason::DropFlowTableFull, "--flow-table-size 65536"),
            (Reason::DropPortInUse, "--snat-ports 61000-65535"),
            (Reason::PortUnrested, "more node addresses"),
            (Reason::FlowDisplaced, "--flow-table-max 262144"),
            (Reason::AffinityFull, "--affinity-size 77"),
            (Reason::DropFragment, "smaller datagrams"),
        ] {
            let rule = RULES.iter().find(|rule| rule.reason == reason);
            let advice = (rule.expect("it has a rule").advice)(&LIMITS);
            assert!(advice.contains(help), "{}: {advice}", reason.name());
        }
    }

    #[test]
    fn a_table_that_fills_is_told_before_it_is_full() {
        let mut alarms = Alarms::default();
        let mut fill = |live| {
            let limits = Limits {
                flow_table_max: 100,
                ..LIMITS
            };
            let table = Census {
                family: Family::V6,
                positions: 100,
                live,
                half_open: 0,
                established: live,
                ending: 0,
                expired: 0,
            };
            let told = Alarms::default().fill(&LIMITS, &[table]);
            assert_eq!(told.is_empty(), live <= 90, "it may grow: {told:?}");
            alarms.fill(&limits, &[table])
        };
        assert_eq!(fill(75), []);
        let told = fill(76);
        assert!(
            matches!(&told[..], [Message::Begun(text)] if text.starts_with("the IPv6 flow table fills: 76 of 100 places, 76 %")
                && text.contains("--flow-table-size 65536")),
            "{told:?}"
        );
        assert_eq!(fill(91), [], "told already");
        assert_eq!(fill(71), [], "it may be back soon");
        let over = "the IPv6 flow table has room again: 69 of 100 places, 69 %".to_owned();
        assert_eq!(fill(69), [Message::Over(over)]);
        assert_eq!(fill(69), []);
    }
}
