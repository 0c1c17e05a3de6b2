//! Another proxy's connections in our flow tables: there they are known as such, and nobody opens them a second time or
//! takes their source ports.

use std::{collections::BTreeSet, path::Path};

use lb_common::{
    abi::{FlowSlot, Plain},
    flow::{
        Direction, FlowKey, Rewrite,
        slot::{SlotFlags, State},
        table::{Existing, NewFlow},
    },
    net::{
        addr::Addr,
        ip::{Ends, proto},
    },
};

use super::{
    TakeoverError,
    abandoned::Abandoned,
    conntrack::Conntrack,
    entry::{Entry, tcp_state},
    services::Services,
};
use crate::{
    clock,
    flows::{FlowTables, Table, Visitor, memory::Access},
    loader::facts,
};

/// Whether what is not there any more is looked for: that takes a walk through the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    No,
    /// What connection tracking has forgotten is taken out.
    Forgotten,
    /// All of them are taken out.
    All,
}

/// What has become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Adopted {
    /// How many such connections there are.
    pub(super) n_left: usize,
    /// The tables say it now; else they could not be written at this moment.
    pub(super) is_done: bool,
}

/// Makes the flow tables in a directory say what connection tracking says of our services' connections.
pub(super) fn adopt(
    pins: &Path,
    walk: Walk,
    abandoned: &mut Abandoned,
) -> Result<Adopted, TakeoverError> {
    let services = Services::read(pins)?;
    let is_wanted = |entry: &Entry| {
        entry.is_translated() && !has_ended(entry) && services.is_served(&entry.original)
    };
    let entries = Conntrack::open().and_then(|mut table| table.entries(is_wanted));
    let entries = entries.map_err(TakeoverError::conntrack)?;
    let node = facts::read(pins).map_err(TakeoverError::Facts)?;
    let tables = FlowTables::open(pins, node, Access::Write)?;
    // What is carried from one table to another at this moment would be put where nobody looks for it.
    let is_done = !tables.are_growing();
    if is_done {
        let now = clock::now().map_err(TakeoverError::Clock)?;
        let mut adoption = Adoption {
            services: &services,
            entries: &entries,
            walk,
            abandoned,
        };
        tables.each(now, &mut adoption);
    }
    Ok(Adopted {
        n_left: entries.len(),
        is_done,
    })
}

struct Adoption<'a> {
    services: &'a Services,
    entries: &'a [Entry],
    walk: Walk,
    abandoned: &'a mut Abandoned,
}

impl Visitor for Adoption<'_> {
    type Output = ();

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>)
    where
        FlowSlot<A>: Plain,
    {
        let mut known = BTreeSet::new();
        for entry in self.entries {
            let flow = self.services.backend(entry).and_then(|backend| {
                let mut flow = flow::<A>(entry)?;
                flow.1.backend = backend;
                Some(flow)
            });
            if let Some((key, flow)) = flow
                && self.walk != Walk::All
            {
                known.insert(key);
                put(table, &key, flow, is_established(entry));
            }
        }
        if self.walk == Walk::No {
            return;
        }
        self.abandoned.free(table);
        for position in 0..=table.last() {
            let Some(found) = table.at(position) else {
                continue;
            };
            let flags = found.slot.flags();
            if flags.foreign()
                && flags.direction() == Direction::Original
                && !known.contains(&found.slot.key())
            {
                table.take_out(&found);
            }
        }
    }
}

/// Puts a flow into the table that is not there yet, or moves it on. It lives as long as connection tracking says.
fn put<A: Addr>(table: &Table<'_, A>, key: &FlowKey<A>, mut flow: NewFlow<A>, established: bool)
where
    FlowSlot<A>: Plain,
{
    if table.find(key).is_none() {
        // Refused: one of its directions is that of a connection of our own, or is being opened at this moment.
        let _ = table.open(key, &mut flow, Existing::Keep);
    }
    let Some(found) = table.find(key).filter(|it| it.slot.flags().foreign()) else {
        return;
    };
    if found.word.state() == State::HalfOpen && established {
        table.advance(&found, State::Established);
    }
    found.slot.set_last_seen(table.now());
    if let Some(twin) = table.twin_of(&found) {
        twin.slot.set_last_seen(table.now());
    }
}

/// The flow of an entry, if it is of this family; without its backend.
fn flow<A: Addr>(entry: &Entry) -> Option<(FlowKey<A>, NewFlow<A>)> {
    let Entry {
        original, reply, ..
    } = entry;
    let ends = |src: std::net::SocketAddr, dst: std::net::SocketAddr| {
        Some(Ends {
            src: A::from_ip(src.ip())?,
            dst: A::from_ip(dst.ip())?,
        })
    };
    let key = FlowKey {
        ends: ends(original.source, original.destination)?,
        sport: original.source.port(),
        dport: original.destination.port(),
        proto: original.protocol,
    };
    let rewrite = Rewrite {
        ends: ends(reply.destination, reply.source)?,
        sport: reply.destination.port(),
        dport: reply.source.port(),
    };
    let flow = NewFlow {
        rewrite,
        source: SlotFlags::FOREIGN,
        ..NewFlow::default()
    };
    Some((key, flow))
}

/// Whether a SYN would be that of another connection. A datagram's flow stays half open: its time must not be longer than
/// that of connection tracking.
fn is_established(entry: &Entry) -> bool {
    match entry.original.protocol {
        proto::TCP => entry
            .tcp_state
            .is_some_and(|state| (tcp_state::ESTABLISHED..=tcp_state::LAST_ACK).contains(&state)),
        proto::UDP => false,
        _ => true,
    }
}

fn has_ended(entry: &Entry) -> bool {
    let is_over = |state| (tcp_state::TIME_WAIT..=tcp_state::CLOSE).contains(&state);
    entry.tcp_state.is_some_and(is_over)
}

#[cfg(test)]
mod tests {
    use lb_common::net::addr::{Addr4, Addr6};

    use super::*;
    use crate::takeover::entry::Tuple;

    fn entry(protocol: u8, state: Option<u8>) -> Entry {
        let tuple = |source: &str, destination: &str| Tuple {
            protocol,
            source: source.parse().expect("literal"),
            destination: destination.parse().expect("literal"),
        };
        Entry {
            original: tuple("10.1.0.9:40000", "10.96.0.10:80"),
            reply: tuple("10.2.0.3:8080", "192.0.2.1:1024"),
            tcp_state: state,
            seconds: 120,
        }
    }

    #[test]
    fn a_flow_is_what_the_client_sends_and_what_becomes_of_it() {
        let (key, flow) = flow::<Addr4>(&entry(proto::TCP, Some(3))).expect("of the family");
        let addr = |text: &str| Addr4::from_ip(text.parse().expect("literal")).expect("IPv4");
        assert_eq!(key.ends.src, addr("10.1.0.9"));
        assert_eq!((key.sport, key.dport, key.proto), (40_000, 80, 6));
        assert_eq!(flow.rewrite.ends.src, addr("192.0.2.1"));
        assert_eq!(flow.rewrite.ends.dst, addr("10.2.0.3"));
        assert_eq!((flow.rewrite.sport, flow.rewrite.dport), (1024, 8080));
        assert!(flow.source.foreign());
        assert!(super::flow::<Addr6>(&entry(proto::TCP, Some(3))).is_none());
    }

    #[test]
    fn states_are_those_that_a_syn_is_judged_by() {
        for (state, established, ended) in [
            (1, false, false),
            (2, false, false),
            (3, true, false),
            (6, true, false),
            (7, false, true),
            (8, false, true),
            (9, false, false),
        ] {
            let entry = entry(proto::TCP, Some(state));
            assert_eq!(is_established(&entry), established, "{state}");
            assert_eq!(has_ended(&entry), ended, "{state}");
        }
        assert!(!is_established(&entry(proto::UDP, None)));
        assert!(is_established(&entry(proto::SCTP, None)));
    }
}
