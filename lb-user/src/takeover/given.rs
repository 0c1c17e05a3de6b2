//! What must be changed in connection tracking that it has a connection of ours: a decision, from one listing of it.

use std::collections::BTreeMap;

use lb_common::net::ip::proto;

use super::entry::{Entry, Tuple, tcp_state};

/// An entry is renewed when it lasts for no more seconds than that: longer than from the listing of one pass to that of the next.
/// Netfilter does not meet its packets as long as programs do, so nobody else renews it.
const SOON: u32 = 60;

/// Which connections a pass is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Those that netfilter meets nothing of; of others, that the node's ports are taken.
    Apart,
    /// All.
    All,
    /// All, and nobody changes the tables any more.
    Last,
}

/// A connection, and who meets its packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// What the stack has for its first end.
    pub(super) forwarded: Tuple,
    /// Netfilter meets its packets, translated.
    pub(super) is_met: bool,
    /// The node itself has dialled.
    pub(super) is_own: bool,
    /// It has ended, so long ago that nobody has to know of it who does not know of it yet.
    pub(super) is_past: bool,
}

/// What connection tracking has.
#[derive(Debug, Default)]
pub(super) struct Known {
    by_original: BTreeMap<Tuple, Entry>,
    by_reply: BTreeMap<Tuple, Entry>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It has the connection, or must not have it.
    Nothing,
    /// It has the connection, in another state.
    Update,
    /// It has the connection, but not for long any more.
    Renew,
    /// The entry is made, after those to which these belong have gone.
    Create(Vec<Tuple>),
}

impl Known {
    pub(super) fn new(entries: &[Entry]) -> Self {
        Self {
            by_original: entries.iter().map(|it| (it.original, *it)).collect(),
            by_reply: entries.iter().map(|it| (it.reply, *it)).collect(),
        }
    }

    /// What has to be done so that nobody else's connection has these answers: only the time may be renewed of one that is there.
    pub(super) fn announcement(&self, announced: &Entry) -> Step {
        match self.by_reply.get(&announced.reply) {
            None => Step::Create(Vec::new()),
            Some(known) if known.original == announced.original => renewed(known, announced),
            Some(_) => Step::Nothing,
        }
    }

    /// What a pass has to do about a connection.
    pub(super) fn step(&self, held: &Held, scope: Scope) -> Step {
        let entry = &held.entry;
        let known = self.by_original.get(&entry.original);
        let has_ended_with_us = entry.tcp_state == Some(tcp_state::TIME_WAIT);
        match known {
            Some(known) if known.reply == entry.reply => {
                let is_behind = scope == Scope::Last
                    && has_ended_with_us
                    && known.tcp_state == Some(tcp_state::ESTABLISHED);
                return if is_behind {
                    Step::Update
                } else {
                    renewed(known, entry)
                };
            }
            // The same client has begun another connection since: what is over is not asked for again by anybody, and
            // what was begun when nobody else could is not another's.
            Some(_) if has_ended_with_us && !held.is_own => return Step::Nothing,
            // While one entry was exchanged for the other, a datagram was given another backend.
            Some(known) if known.is_translated() && (held.is_own || scope == Scope::Last) => {
                return Step::Nothing;
            }
            None if held.is_past => return Step::Nothing,
            _ => {}
        }
        let mut deleted: Vec<Tuple> = known.map(|known| known.original).into_iter().collect();
        if held.is_met {
            // As netfilter has met it, or as whoever had its ports before: what comes next is this one's.
            let ours = [held.forwarded, entry.reply.reversed()];
            let seen = ours.iter().filter_map(|tuple| self.by_original.get(tuple));
            deleted.extend(seen.filter(|it| !it.is_translated()).map(|it| it.original));
        }
        let is_datagram = entry.original.protocol == proto::UDP;
        if let Some(other) = self.by_reply.get(&entry.reply)
            && (!other.is_translated() || has_ended(other) || is_datagram)
        {
            deleted.push(other.original);
        }
        deleted.sort_unstable();
        deleted.dedup();
        Step::Create(deleted)
    }
}

fn renewed(known: &Entry, held: &Entry) -> Step {
    if known.seconds <= SOON && known.seconds < held.seconds {
        Step::Renew
    } else {
        Step::Nothing
    }
}

fn has_ended(entry: &Entry) -> bool {
    entry
        .tcp_state
        .is_some_and(|state| (tcp_state::TIME_WAIT..=tcp_state::CLOSE).contains(&state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(protocol: u8, source: &str, destination: &str) -> Tuple {
        Tuple {
            protocol,
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
        }
    }

    const CLIENT: &str = "10.1.0.9:40000";
    const VIP: &str = "10.96.0.10:80";
    const BACKEND: &str = "10.2.0.3:8080";
    const OTHER: &str = "10.2.0.4:8080";
    const NODE: &str = "192.0.2.1:1024";

    fn entry(protocol: u8, dialled: &str, backend: &str, source: &str, state: u8) -> Entry {
        Entry {
            original: tuple(protocol, CLIENT, dialled),
            reply: tuple(protocol, backend, source),
            tcp_state: (protocol == proto::TCP).then_some(state),
            seconds: 120,
        }
    }

    /// A connection of ours to `BACKEND` from the node's port.
    fn held(protocol: u8, state: u8) -> Held {
        Held {
            entry: entry(protocol, VIP, BACKEND, NODE, state),
            forwarded: tuple(protocol, CLIENT, BACKEND),
            is_met: false,
            is_own: false,
            is_past: false,
        }
    }

    fn step(known: &[Entry], held: &Held, scope: Scope) -> Step {
        Known::new(known).step(held, scope)
    }

    const LIVE: u8 = tcp_state::ESTABLISHED;
    const OVER: u8 = tcp_state::TIME_WAIT;
    const SCOPES: [Scope; 3] = [Scope::Apart, Scope::All, Scope::Last];

    #[test]
    fn what_nobody_has_is_made_unless_it_ended_long_ago() {
        for scope in SCOPES {
            for protocol in [proto::TCP, proto::UDP] {
                let held = held(protocol, LIVE);
                assert_eq!(step(&[], &held, scope), Step::Create(vec![]));
            }
            let mut past = held(proto::TCP, OVER);
            past.is_past = true;
            assert_eq!(step(&[], &past, scope), Step::Nothing);
        }
    }

    #[test]
    fn what_is_there_is_brought_up_to_date_at_last() {
        for scope in SCOPES {
            let (live, over) = (held(proto::TCP, LIVE), held(proto::TCP, OVER));
            assert_eq!(step(&[live.entry], &live, scope), Step::Nothing);
            let expected = if scope == Scope::Last {
                Step::Update
            } else {
                Step::Nothing
            };
            assert_eq!(step(&[live.entry], &over, scope), expected);
            let mut past = over;
            past.is_past = true;
            assert_eq!(step(&[live.entry], &past, scope), expected);
        }
    }

    #[test]
    fn what_nobody_else_renews_is_renewed_before_it_runs_out() {
        for (left, expected) in [
            (120, Step::Nothing),
            (61, Step::Nothing),
            (60, Step::Renew),
            (0, Step::Renew),
        ] {
            let held = held(proto::UDP, 0);
            let known = Entry {
                seconds: left,
                ..held.entry
            };
            for scope in SCOPES {
                assert_eq!(step(&[known], &held, scope), expected, "{left}");
            }
            let known = Known::new(&[known]);
            assert_eq!(known.announcement(&held.entry), expected, "{left}");
        }
        let mut short = held(proto::UDP, 0);
        short.entry.seconds = 30;
        assert_eq!(step(&[short.entry], &short, Scope::All), Step::Nothing);
    }

    #[test]
    fn only_answers_that_nobody_has_are_announced() {
        let held = held(proto::UDP, 0);
        let announced = Entry {
            original: held.entry.reply.reversed(),
            ..held.entry
        };
        let step = |known: &[Entry]| Known::new(known).announcement(&announced);
        assert_eq!(step(&[]), Step::Create(vec![]));
        assert_eq!(step(&[held.entry]), Step::Nothing);
    }

    #[test]
    fn what_was_given_another_backend_meanwhile_stays_with_it() {
        for (is_own, scope, stays) in [
            (false, Scope::Apart, false),
            (false, Scope::All, false),
            (false, Scope::Last, true),
            (true, Scope::All, true),
            (true, Scope::Last, true),
        ] {
            let mut ours = held(proto::UDP, 0);
            ours.is_own = is_own;
            let theirs = entry(proto::UDP, VIP, OTHER, NODE, 0);
            let expected = if stays {
                Step::Nothing
            } else {
                Step::Create(vec![theirs.original])
            };
            assert_eq!(
                step(&[theirs], &ours, scope),
                expected,
                "{is_own} {scope:?}"
            );
        }
        let newer = entry(proto::TCP, VIP, OTHER, NODE, LIVE);
        let over = held(proto::TCP, OVER);
        assert_eq!(step(&[newer], &over, Scope::All), Step::Nothing);
    }

    #[test]
    fn what_netfilter_has_met_is_exchanged() {
        let mut own = held(proto::TCP, LIVE);
        own.is_own = true;
        own.is_met = true;
        let as_dialled = entry(proto::TCP, VIP, VIP, CLIENT, LIVE);
        let as_forwarded = entry(proto::TCP, BACKEND, BACKEND, CLIENT, LIVE);
        let announced = Entry {
            original: own.entry.reply.reversed(),
            ..own.entry
        };
        let known = [as_dialled, as_forwarded, announced];
        let mut originals = known.map(|it| it.original).to_vec();
        originals.sort_unstable();
        assert_eq!(step(&known, &own, Scope::All), Step::Create(originals));
        own.is_met = false;
        let mut originals = vec![as_dialled.original, announced.original];
        originals.sort_unstable();
        assert_eq!(step(&known, &own, Scope::All), Step::Create(originals));
    }

    #[test]
    fn a_live_connection_of_the_others_keeps_its_answers_and_an_ended_one_does_not() {
        let with = |protocol, state| Entry {
            original: tuple(protocol, "10.1.0.10:1", VIP),
            ..entry(protocol, VIP, BACKEND, NODE, state)
        };
        for (protocol, state, gives_way) in [
            (proto::TCP, LIVE, false),
            (proto::TCP, OVER, true),
            (proto::UDP, 0, true),
        ] {
            let other = with(protocol, state);
            let expected = gives_way.then_some(other.original).into_iter().collect();
            let step = step(&[other], &held(protocol, LIVE), Scope::All);
            assert_eq!(step, Step::Create(expected), "{protocol} {state}");
        }
    }
}
