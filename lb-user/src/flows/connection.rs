//! One connection as its slots tell it.

use std::{fmt, net::SocketAddr};

use clap::ValueEnum;
use lb_common::{
    flow::{
        Direction, FlowKey, Rewrite,
        clock::{Tick, age, row},
        slot::{BackendRef, SlotFlags, State, StateWord},
        table::{FlowTable, Found, Slots},
    },
    net::addr::{Addr, Family},
};
use serde::Serialize;

/// How often a slot is read that is given to another connection meanwhile.
const TRIES: usize = 4;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Only the client was heard, or it has not gone on after the first answer
    HalfOpen,
    /// Both sides were heard
    Established,
    /// One side has finished (TCP)
    Closing,
    /// Both sides have finished, or one has reset (TCP)
    Closed,
    /// Opened anew elsewhere: what the old backend still sends is translated for a while
    Orphan,
}

impl Stage {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Orphan => "orphan",
        }
    }

    fn of(word: StateWord, flags: SlotFlags) -> Self {
        match word.state() {
            _ if flags.orphan() => Self::Orphan,
            State::Established => Self::Established,
            State::Closing => Self::Closing,
            State::Closed => Self::Closed,
            _ => Self::HalfOpen,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one side has sent; approximate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets.
    pub packets: u32,
    /// L3 bytes.
    pub bytes: u64,
}

/// A live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The family of all its addresses.
    pub family: Family,
    /// IANA protocol number.
    pub protocol: u8,
    /// Who began it.
    pub client: SocketAddr,
    /// What the client dialled.
    pub dialled: SocketAddr,
    /// Where that leads.
    pub backend: SocketAddr,
    /// Whom the backend takes for the client.
    pub source: SocketAddr,
    /// The backend's number.
    pub backend_ref: BackendRef,
    /// How far it has come.
    pub stage: Stage,
    /// Time since the last packet of either direction.
    pub age: Tick,
    /// Time that is left to it without another packet.
    pub remaining: Tick,
    /// What the client has sent.
    pub by_client: Sent,
    /// What the backend has sent.
    pub by_backend: Sent,
    /// Whether the backend runs on this node.
    pub is_local: bool,
}

impl Connection {
    /// The connection whose original direction, or whose orphan, lives at a position.
    pub fn at<A: Addr, S: Slots<A>>(table: &FlowTable<'_, A, S>, position: u32) -> Option<Self> {
        for _ in 0..TRIES {
            let found = table.at(position)?;
            let flags = found.slot.flags();
            let is_listed = flags.direction() == Direction::Original || flags.orphan();
            // The flow whose source it exchanges tells of it.
            let is_listed =
                is_listed && !flags.leaving() && !flags.foreign() && table.lives(&found);
            let connection = is_listed.then(|| Self::read(table, &found));
            if table.is_still(&found) {
                return connection;
            }
        }
        None
    }

    /// Whether this is the same connection, at whatever moment both were seen.
    pub fn is(&self, other: &Self) -> bool {
        let ends = |it: &Self| (it.protocol, it.client, it.dialled, it.backend, it.source);
        ends(self) == ends(other) && (self.stage == Stage::Orphan) == (other.stage == Stage::Orphan)
    }

    /// Whether the backend sees another source than the client's own.
    pub fn is_masqueraded(&self) -> bool {
        self.source != self.client
    }

    fn read<A: Addr, S: Slots<A>>(table: &FlowTable<'_, A, S>, found: &Found<A, S::Words>) -> Self {
        let half = Half::read(found, table.now());
        let twin = table
            .twin_of(found)
            .map(|twin| Half::read(&twin, table.now()));
        let flags = found.slot.flags();
        let limit = table.lifetime(row(half.key.proto, found.word, flags));
        let age = twin
            .as_ref()
            .map_or(half.age, |twin| half.age.min(twin.age));
        let back = twin.map(|twin| twin.sent).unwrap_or_default();
        let (there, rewritten) = ends(&half.key, &half.rewrite);
        // Of an orphan only the answers' direction is left: what arrives is the backend's.
        let (client, dialled, source, backend, by_client, by_backend) = match flags.direction() {
            Direction::Original => (
                there.src,
                there.dst,
                rewritten.src,
                rewritten.dst,
                half.sent,
                back,
            ),
            Direction::Reply => (
                rewritten.dst,
                rewritten.src,
                there.dst,
                there.src,
                back,
                half.sent,
            ),
        };
        let source = if flags.masqueraded() {
            left_as(table, &half, flags.direction()).unwrap_or(source)
        } else {
            source
        };
        Self {
            family: A::FAMILY,
            protocol: half.key.proto,
            client,
            dialled,
            backend,
            source,
            backend_ref: found.slot.backend(),
            stage: Stage::of(found.word, flags),
            age,
            remaining: limit.saturating_sub(age),
            by_client,
            by_backend,
            is_local: flags.local(),
        }
    }
}

/// The source with which the requests of a connection leave that the stack has forwarded: another flow exchanges it.
fn left_as<A: Addr, S: Slots<A>>(
    table: &FlowTable<'_, A, S>,
    half: &Half<A>,
    direction: Direction,
) -> Option<SocketAddr> {
    // As the stack has it: what the request becomes, or what the answer answers.
    let key = half.key;
    let forwarded = match direction {
        Direction::Original => FlowKey {
            ends: half.rewrite.ends,
            sport: half.rewrite.sport,
            dport: half.rewrite.dport,
            proto: key.proto,
        },
        Direction::Reply => FlowKey {
            ends: key.ends.reversed(),
            sport: key.dport,
            dport: key.sport,
            proto: key.proto,
        },
    };
    let found = table.find(&forwarded)?;
    let leaving = Half::read(&found, table.now());
    let is_it = found.slot.flags().leaving() && table.is_still(&found);
    is_it.then(|| ends(&leaving.key, &leaving.rewrite).1.src)
}

/// One direction, read word by word.
struct Half<A> {
    key: FlowKey<A>,
    rewrite: Rewrite<A>,
    age: Tick,
    sent: Sent,
}

impl<A: Addr> Half<A> {
    fn read<M: lb_common::flow::slot::Words>(found: &Found<A, M>, now: Tick) -> Self {
        let mut rewrite = Rewrite::default();
        found.slot.rewrite(&mut rewrite);
        let (packets, bytes) = found.slot.counted();
        Self {
            key: found.slot.key(),
            rewrite,
            age: age(now, found.slot.last_seen()),
            sent: Sent { packets, bytes },
        }
    }
}

/// Source and destination.
struct Pair {
    src: SocketAddr,
    dst: SocketAddr,
}

fn ends<A: Addr>(key: &FlowKey<A>, rewrite: &Rewrite<A>) -> (Pair, Pair) {
    let pair = |ends: &lb_common::net::ip::Ends<A>, sport, dport| Pair {
        src: SocketAddr::new(ends.src.to_ip(), sport),
        dst: SocketAddr::new(ends.dst.to_ip(), dport),
    };
    (
        pair(&key.ends, key.sport, key.dport),
        pair(&rewrite.ends, rewrite.sport, rewrite.dport),
    )
}
