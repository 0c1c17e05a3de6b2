//! The way back: every connection of ours becomes one of connection tracking's, before our programs go.
//!
//! In this order, so that every packet is translated at every moment, and by one and the same mapping:
//!
//! 1. What pods and outsiders have dialled becomes an entry beside the flow. Netfilter does not meet their packets as long
//!    as programs do, so either translation will do, on each device for itself. Of the node's own connections it is said
//!    that their ports are taken, and what is begun meanwhile has ports that nobody else gives away
//!    ([`takeover::APART`]): answers to the other proxy's connections must not be taken for those to ours.
//! 2. New connections are left to the other proxy, those of the node itself by netfilter ([`super::bypass`]), all others by
//!    the datapath ([`takeover::TO`]). From now on no flow is added.
//! 3. What came meanwhile follows, pass by pass. What netfilter meets translated, the node's own connections among it,
//!    has an entry already, which is exchanged for the right one; then its flow goes, as its packets would belong to two entries.
//! 4. When a pass finds nothing to do, programs may go ([`Handover::finish`] comes after that): the tables
//!    change no more, and are gone through once again.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use lb_common::{
    abi::{FlowSlot, Plain, next_hop::NextHopRef, takeover},
    flow::{
        Direction, FlowKey,
        clock::{self as ticks, Tick, seconds},
    },
    net::{
        addr::Addr,
        ip::{Ends, proto},
    },
};

use super::{
    TakeoverError,
    bypass::{Bypass, Place, Purpose},
    conntrack::Conntrack,
    entry::{Entry, Tuple, tcp_state},
    given::{Held, Known, Scope, Step},
    proxy::Proxy,
    services::Services,
    word::Word,
};
use crate::{
    clock,
    flows::{
        self, FlowTables, Table, Visitor,
        connection::{Connection, Stage},
        memory::Access,
    },
    loader::facts,
    sys::wait_for_readers,
};

/// More passes are of no use: what is left then is taken by somebody else.
const PASSES: usize = 16;
/// A connection that ended so long ago sends nothing any more.
const QUIET: u32 = seconds(10);

/// A flow younger than that may be half there.
const NEW: Tick = 2;

/// Seconds that entries last without a packet. The first packet that netfilter meets makes it connection tracking's own
/// (`nf_conntrack_*_timeout`); until then they must outlast what is left of the handover, so none is shorter than [`SHORT`].
mod timeout {
    pub(super) const ESTABLISHED: u32 = 24 * 3600;
    pub(super) const CLOSING: u32 = 3600;
    pub(super) const SHORT: u32 = 120;
}

/// Connections on their way to another proxy.
#[derive(Debug)]
pub struct Handover {
    proxy: Proxy,
    tables: FlowTables,
    services: Services,
    bypass: Bypass,
    given: Given,
}

/// What has become of connections that were handed over.
#[derive(Debug, Default)]
pub struct Given {
    /// Connection tracking has so many.
    pub n_given: usize,
    /// It has refused so many, which end with our programs.
    pub n_refused: usize,
    /// Why, of the first of them.
    pub cause: Option<io::Error>,
}

impl Handover {
    /// Hands over what is in the tables that are pinned in `pins`, if another proxy's rules are there. No agent runs.
    ///
    /// # Errors
    /// Connection tracking has no room for them, or cannot be written; all goes on as before.
    pub fn begin(
        pins: &Path,
        run_dir: &Path,
        near: Option<String>,
    ) -> Result<Option<Self>, TakeoverError> {
        let Some(proxy) = Proxy::find().map_err(TakeoverError::Rules)? else {
            return Ok(None);
        };
        if !pins.is_dir() {
            return Ok(None);
        }
        let node = facts::read(pins).map_err(TakeoverError::Facts)?;
        let mut handover = Self {
            proxy,
            tables: FlowTables::open(pins, node, Access::Write)?,
            services: Services::read(pins)?,
            bypass: Bypass::of(run_dir),
            given: Given::default(),
        };
        handover.expect_room()?;
        let mut word = Word::open(pins)?;
        word.set(word.get()? | takeover::APART)?;
        wait_for_readers();
        // The second is about what has come while the first went through all of them.
        handover.pass(Scope::Apart)?;
        handover.pass(Scope::Apart)?;
        if let Some(near) = near {
            let place = Place {
                near,
                node_ports: crate::alloc::PortRange::default(),
            };
            let installed = handover.bypass.install(Purpose::Give, &place);
            installed.map_err(TakeoverError::Bypass)?;
        }
        word.set(takeover::FROM | takeover::TO | takeover::APART)?;
        wait_for_readers();
        for _ in 0..PASSES {
            if handover.pass(Scope::All)? == 0 {
                break;
            }
        }
        Ok(Some(handover))
    }

    /// Whom they are given to.
    pub fn proxy(&self) -> Proxy {
        self.proxy
    }

    /// The rest, when no program meets packets any more.
    pub fn finish(mut self) -> Result<Given, TakeoverError> {
        wait_for_readers();
        let last = self.pass(Scope::Last);
        let freed = self.free_stranded().map_err(TakeoverError::conntrack);
        last.and(freed)?;
        Ok(self.given)
    }

    /// What the node itself has sent us would go nowhere from now on: the other proxy only looks at what is new.
    fn free_stranded(&self) -> io::Result<()> {
        let mut conntrack = Conntrack::open()?;
        let is_stranded =
            |entry: &Entry| !entry.is_translated() && self.services.is_served(&entry.original);
        for entry in conntrack.entries(is_stranded)? {
            conntrack.delete(&entry.original)?;
        }
        Ok(())
    }

    /// Refuses what would end connections for which there is no room, and keep what is new from beginning.
    fn expect_room(&self) -> Result<(), TakeoverError> {
        let Some(room) = room() else { return Ok(()) };
        let now = clock_now()?;
        let n: usize = self.tables.each(now, &mut Count).into_iter().sum();
        if n > room {
            return Err(TakeoverError::NoRoom { n, room });
        }
        Ok(())
    }

    /// Goes through all connections; returns how many had to be changed.
    fn pass(&mut self, scope: Scope) -> Result<usize, TakeoverError> {
        let mut conntrack = Conntrack::open().map_err(TakeoverError::conntrack)?;
        let entries = conntrack.entries(|_| true);
        let entries = entries.map_err(TakeoverError::conntrack)?;
        let now = clock_now()?;
        let mut pass = Pass {
            scope,
            conntrack,
            known: Known::new(&entries),
            n_changed: 0,
            given: Given::default(),
        };
        self.tables.each(now, &mut pass);
        let n_given = self.given.n_given + pass.given.n_given;
        tracing::debug!(
            ?scope,
            changed = pass.n_changed,
            given = pass.given.n_given,
            refused = pass.given.n_refused,
            "handed over"
        );
        // What one pass was refused the next one asks for again.
        self.given = Given {
            n_given,
            ..pass.given
        };
        Ok(pass.n_changed)
    }
}

fn clock_now() -> Result<Tick, TakeoverError> {
    clock::now().map_err(TakeoverError::Clock)
}

/// How many more connections connection tracking takes; `None`: nobody says.
fn room() -> Option<usize> {
    let read = |name| {
        let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
        text.ok()?.trim().parse::<usize>().ok()
    };
    Some(read("max")?.saturating_sub(read("count")?))
}

/// How many connections there are to hand over.
struct Count;

impl Visitor for Count {
    type Output = usize;

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>) -> usize
    where
        FlowSlot<A>: Plain,
    {
        flows::connections(table)
            .filter(|(position, connection)| held(table, *position, connection).is_some())
            .count()
    }
}

struct Pass {
    scope: Scope,
    conntrack: Conntrack,
    known: Known,
    n_changed: usize,
    given: Given,
}

impl Visitor for Pass {
    type Output = ();

    fn visit<A: Addr>(&mut self, table: &Table<'_, A>)
    where
        FlowSlot<A>: Plain,
    {
        if self.scope != Scope::Apart {
            clear(table);
        }
        for (position, connection) in flows::connections(table) {
            let Some(held) = held(table, position, &connection) else {
                continue;
            };
            if self.scope == Scope::Apart && held.is_met {
                let announced = self.announce(&held);
                self.note(announced.err());
                continue;
            }
            match self.give(&held) {
                Ok(true) if held.is_met => forget(table, position, &connection, &held),
                given => self.note(given.err()),
            }
        }
    }
}

impl Pass {
    /// One that is refused is not a reason to give up all others.
    fn note(&mut self, refused: Option<io::Error>) {
        let Some(error) = refused else { return };
        self.given.n_refused += 1;
        self.given.cause.get_or_insert(error);
    }

    /// Lets connection tracking know that a connection of the node's own has its port towards the backend, as if it had
    /// dialled that.
    fn announce(&mut self, held: &Held) -> io::Result<()> {
        if !held.is_own {
            return Ok(());
        }
        let taken = Entry {
            original: held.entry.reply.reversed(),
            ..held.entry
        };
        match self.known.announcement(&taken) {
            Step::Create(_) => {}
            Step::Renew => return self.conntrack.renew(&taken),
            Step::Nothing | Step::Update => return Ok(()),
        }
        match self.conntrack.create(&taken) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) => {}
            Ok(()) => self.n_changed += 1,
        }
        Ok(())
    }

    /// Makes sure that connection tracking has it; false: not yet.
    fn give(&mut self, held: &Held) -> io::Result<bool> {
        let entry = &held.entry;
        let deleted = match self.known.step(held, self.scope) {
            Step::Nothing => return Ok(true),
            Step::Update => return self.conntrack.update(entry).map(|()| true),
            Step::Renew => return self.conntrack.renew(entry).map(|()| true),
            Step::Create(deleted) => deleted,
        };
        for tuple in &deleted {
            self.conntrack.delete(tuple)?;
        }
        match self.conntrack.create(entry) {
            Ok(()) => {
                self.n_changed += 1;
                self.given.n_given += 1;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.n_changed += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes out what only translates answers: an answer to the other proxy's connection must not be taken for one of those.
fn clear<A: Addr>(table: &Table<'_, A>)
where
    FlowSlot<A>: Plain,
{
    for position in 0..=table.last() {
        let Some(found) = table.at(position) else {
            continue;
        };
        let flags = found.slot.flags();
        // The other direction of a flow that is being opened comes at once.
        let is_new = ticks::age(table.now(), found.slot.last_seen()) < NEW;
        let may_be_alone = flags.direction() == Direction::Reply && !is_new;
        if flags.orphan() || may_be_alone && table.twin_of(&found).is_none() {
            table.take_out(&found);
        }
    }
}

/// What is to be known of a connection; nothing of one that has nothing to hand over.
fn held<A: Addr>(table: &Table<'_, A>, position: u32, connection: &Connection) -> Option<Held>
where
    FlowSlot<A>: Plain,
{
    let Connection {
        protocol,
        client,
        dialled,
        backend,
        source,
        stage,
        age,
        ..
    } = *connection;
    let found = table.at(position)?;
    let back = table.twin_of(&found)?.slot.next_hop();
    let is_refused = found.slot.flags().reset();
    let (state, seconds) = match (protocol, stage) {
        (_, Stage::Orphan) => return None,
        (proto::TCP, Stage::Closed | Stage::HalfOpen) if is_refused || stage == Stage::Closed => {
            (tcp_state::TIME_WAIT, timeout::SHORT)
        }
        (proto::TCP, Stage::HalfOpen) => (tcp_state::ESTABLISHED, timeout::SHORT),
        (proto::TCP, Stage::Closing) => (tcp_state::ESTABLISHED, timeout::CLOSING),
        (proto::TCP, _) => (tcp_state::ESTABLISHED, timeout::ESTABLISHED),
        (proto::UDP, _) => (0, timeout::SHORT),
        // Its verification tags, which connection tracking goes by, are not in the table.
        _ => return None,
    };
    let back_is_host = back == NextHopRef::HOST;
    // The node's own ports rest, so that the other proxy does not take them either; a client's are its own affair.
    let has_port_of_node = source != client || back_is_host;
    let is_past = state == tcp_state::TIME_WAIT && age > QUIET && !has_port_of_node;
    let tuple = |source: SocketAddr, destination| Tuple {
        protocol,
        source,
        destination,
    };
    let is_met = |hop| matches!(hop, NextHopRef::STACK | NextHopRef::HOST);
    Some(Held {
        entry: Entry {
            original: tuple(client, dialled),
            reply: tuple(backend, source),
            tcp_state: (protocol == proto::TCP).then_some(state),
            seconds,
        },
        forwarded: tuple(client, backend),
        is_met: is_met(found.slot.next_hop()) || is_met(back),
        is_own: back_is_host,
        is_past,
    })
}

/// Takes a connection out of the table that connection tracking has now, with the flow that exchanges its source.
fn forget<A: Addr>(table: &Table<'_, A>, position: u32, connection: &Connection, held: &Held)
where
    FlowSlot<A>: Plain,
{
    flows::take_out(table, position, connection);
    let Tuple {
        protocol,
        source,
        destination,
    } = held.forwarded;
    let ends = A::from_ip(source.ip()).zip(A::from_ip(destination.ip()));
    let Some((src, dst)) = ends else { return };
    let key = FlowKey {
        ends: Ends { src, dst },
        sport: source.port(),
        dport: destination.port(),
        proto: protocol,
    };
    if let Some(found) = table.find(&key)
        && found.slot.flags().leaving()
    {
        table.take_out(&found);
    }
}

/// Where an agent of `run_dir` has its tables.
pub fn pins(bpffs: &Path, run_dir: &Path) -> PathBuf {
    crate::loader::pin::maps(bpffs, run_dir)
}
