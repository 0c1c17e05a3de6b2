//! What a socket of the node's own gets when it dials a service: a backend, before there is any packet.
//!
//! The same tables and the same rules as for a packet of the node's own ([`super::Role::Host`]), so that it makes no difference
//! which of the two ways was taken. Whatever cannot be decided, or could not be kept, without seeing packets is left to
//! them: affinity and source ranges ask for the client's address, which the socket does not have yet; a count of
//! connections asks for their end; a connected datagram socket cannot be given another backend later; and where nobody
//! serves the answer is the packets'. Nothing here refuses anything.
//!
//! A Maglev table is used as a list: its places are drawn by lot. That another node would choose the same is of use to packets
//! that may come by either; a socket's own never change their node.
//!
//! Nothing is kept in [`super::Work`]: sockets dial in the context of processes, which packets and other processes interrupt.

use super::{
    Tables,
    policy::{Client, list},
};
use crate::{
    abi::{
        Backend, Dialled, DialledKey, Reason, Service, ServiceKey, backend_flags,
        dialled::{BACKEND_OF, SERVICE_OF},
        place, service_flags, takeover,
    },
    net::{addr::Addr, ip::proto},
    select,
};

/// What sockets have dialled, kept by the host.
pub trait Sockets<A: Addr> {
    /// The other end of what a socket has dialled, copied; false: it is not known.
    fn recall(&self, key: &DialledKey<A>, into: &mut Dialled<A>) -> bool;
    /// Notes it; false: there was no room.
    fn note(&self, key: &DialledKey<A>, other: &Dialled<A>) -> bool;
}

/// A socket that dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// What tells it from all others that there are and were.
    pub cookie: u64,
    /// Whether it may be given a backend: TCP, or UDP that is not and will not be connected; and neither its source nor its
    /// device is given.
    pub is_free: bool,
}

/// What becomes of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialling {
    /// It is for no service: it goes on as it is.
    Elsewhere,
    /// It is left to the socket's packets, as it is.
    Left,
    /// It goes to a backend that the socket gets now.
    Given,
    /// A datagram goes to the backend that the socket has.
    Kept,
    /// A datagram goes to another backend than those before, which serves no more.
    Moved,
}

impl Dialling {
    /// What is counted.
    #[inline(always)]
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Elsewhere => None,
            Self::Left => Some(Reason::DialLeft),
            Self::Given => Some(Reason::DialGiven),
            Self::Kept => Some(Reason::DialKept),
            Self::Moved => Some(Reason::DialMoved),
        }
    }

    /// True if the address that was dialled is replaced.
    #[inline(always)]
    pub fn is_direct(self) -> bool {
        matches!(self, Self::Given | Self::Kept | Self::Moved)
    }
}

/// Decides about what a socket dials, or where it sends a datagram; where that is direct, `to` becomes the backend.
#[inline(always)]
pub fn dial<A: Addr, T: Tables<A>, S: Sockets<A>>(
    tables: &T,
    sockets: &S,
    socket: Socket,
    to: &mut ServiceKey<A>,
) -> Dialling {
    let frontend = *to;
    let mut service = Service::default();
    if !tables.service(&frontend, &mut service) {
        return Dialling::Elsewhere;
    }
    if !socket.is_free || is_for_packets(tables, &service, &frontend) {
        return Dialling::Left;
    }
    let is_datagram = frontend.proto == proto::UDP;
    let mut known = Dialled::default();
    let asks = DialledKey::new(
        socket.cookie,
        (frontend.addr, frontend.port),
        frontend.proto,
        BACKEND_OF,
    );
    let is_known = is_datagram && sockets.recall(&asks, &mut known);
    if is_known
        && let Some(backend) = still_serves(tables, service.id, &known)
        && name(sockets, socket, &frontend, (known.backend, &backend))
    {
        (to.addr, to.port) = (backend.addr, backend.port);
        return Dialling::Kept;
    }
    let Some((id, backend)) = settle(tables, &frontend, &mut service) else {
        return Dialling::Left;
    };
    if !name(sockets, socket, &frontend, (id, &backend)) {
        return Dialling::Left;
    }
    if is_datagram && !sockets.note(&asks, &record((backend.addr, backend.port), (id, &backend))) {
        return Dialling::Left;
    }
    (to.addr, to.port) = (backend.addr, backend.port);
    if is_known {
        Dialling::Moved
    } else {
        Dialling::Given
    }
}

/// Replaces the other end of a socket's connection, or of a datagram that it receives, by what the socket has dialled; false:
/// it has dialled nothing else.
#[inline(always)]
pub fn dialled_as<A: Addr, S: Sockets<A>>(
    sockets: &S,
    cookie: u64,
    end: &mut ServiceKey<A>,
) -> bool {
    let key = DialledKey::new(cookie, (end.addr, end.port), end.proto, SERVICE_OF);
    let mut service = Dialled::default();
    if !sockets.recall(&key, &mut service) {
        return false;
    }
    (end.addr, end.port) = (service.addr, service.port);
    true
}

/// True if only packets can tell who gets what, or connections are changing hands.
#[inline(always)]
fn is_for_packets<A: Addr, T: Tables<A>>(
    tables: &T,
    service: &Service,
    frontend: &ServiceKey<A>,
) -> bool {
    service.affinity_timeout_s != 0
        || service.guard != 0
        || service.flags & service_flags::LEAST_CONNECTIONS != 0
        || tables.takeover() & (takeover::FROM | takeover::TO) != 0
        || frontend.proto == proto::UDP && is_of_node(tables, service, frontend.addr)
}

/// True if the service is dialled at an address of the node's own. A datagram there may be for a connected socket of the
/// node's, which packets find by their source.
#[inline(always)]
fn is_of_node<A: Addr, T: Tables<A>>(tables: &T, service: &Service, addr: A) -> bool {
    service.flags & service_flags::CLUSTER_IP == 0
        && (service.flags & service_flags::NODE_PORT != 0 || tables.place(addr) == place::NODE)
}

/// The backend that a socket was given at this service, if it serves: as a flow's would be kept.
#[inline(always)]
fn still_serves<A: Addr, T: Tables<A>>(
    tables: &T,
    service: u32,
    known: &Dialled<A>,
) -> Option<Backend<A>> {
    let backend = tables.backend(known.backend)?;
    let is_same = backend.service == service && backend.generation == known.generation;
    (is_same && backend.flags & backend_flags::SERVING != 0).then_some(backend)
}

/// Picks a backend that is this service's at this moment, as the datapath does for a packet (`open`). `None`: nobody serves, the
/// service is just changing, or its answer would be taken for another's; packets will see.
#[inline(always)]
fn settle<A: Addr, T: Tables<A>>(
    tables: &T,
    frontend: &ServiceKey<A>,
    service: &mut Service,
) -> Option<(u32, Backend<A>)> {
    let mut picked = pick(tables, service);
    if tables.stamp(frontend) != Some((service.id, service.version)) || picked.is_none() {
        // One retry, by the same argument.
        if !tables.service(frontend, service) || is_for_packets(tables, service, frontend) {
            return None;
        }
        picked = pick(tables, service);
        if tables.stamp(frontend) != Some((service.id, service.version)) {
            return None;
        }
    }
    let (id, backend) = picked?;
    // Packets to it would be taken for the clients' of a service once more.
    let end = ServiceKey::new(backend.addr, backend.port, frontend.proto);
    tables.stamp(&end).is_none().then_some((id, backend))
}

#[inline(always)]
fn pick<A: Addr, T: Tables<A>>(tables: &T, service: &Service) -> Option<(u32, Backend<A>)> {
    let range = list(service.flags, Client::Host).range(service);
    let id = tables.slot(select::uniform(range, tables.random())?)?;
    let backend = tables.backend(id)?;
    (backend.service == service.id).then_some((id, backend))
}

/// Sees to it that the backend's answers are known by the name of what was dialled. False: there is no room, or the socket
/// knows this backend by another service already, and nobody could tell its answers apart.
#[inline(always)]
fn name<A: Addr, S: Sockets<A>>(
    sockets: &S,
    socket: Socket,
    frontend: &ServiceKey<A>,
    (id, backend): (u32, &Backend<A>),
) -> bool {
    let key = DialledKey::new(
        socket.cookie,
        (backend.addr, backend.port),
        frontend.proto,
        SERVICE_OF,
    );
    let mut known = Dialled::default();
    // A connection is its socket's only one.
    if frontend.proto == proto::UDP && sockets.recall(&key, &mut known) {
        return known.addr == frontend.addr && known.port == frontend.port;
    }
    sockets.note(&key, &record((frontend.addr, frontend.port), (id, backend)))
}

#[inline(always)]
fn record<A: Addr>((addr, port): (A, u16), (id, backend): (u32, &Backend<A>)) -> Dialled<A> {
    Dialled {
        addr,
        backend: id,
        port,
        generation: backend.generation,
    }
}
