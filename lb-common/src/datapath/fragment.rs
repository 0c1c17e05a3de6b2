//! Fragments: later ones have no ports, and follow the first one of their datagram.
//!
//! A first fragment is taken for the packet that it is the beginning of; then its ports are noted. A later one that
//! finds them has the same flow: its addresses are rewritten, and nothing else, since the checksum is in the first. One
//! that comes before the first is kept until that comes, and then let in again by the device that it came by.

use super::{Decision, Packet, Released, Role, Tables, Verdict, Work};
use crate::{
    abi::{PieceKey, Reason, place},
    fragment::{record::Known, shelf::Claim},
    net::{
        addr::Addr,
        ip::{IpHeader, Piece, proto},
    },
};

/// What came of a later fragment whose datagram is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Early {
    /// It is kept.
    Held,
    /// It is not, and [`Work::decision`] says what becomes of it.
    Refused,
    /// The first has just come.
    Known,
}

/// Completes the key of a later fragment out of what its first one has told; false: nothing is known of that.
#[inline(always)]
pub(super) fn recall<A: Addr, T: Tables<A>>(work: &mut Work<A>, tables: &T) -> bool {
    work.known = Known(tables.recall(&work.key, work.ip.id, work.now));
    let known = work.known;
    if known.is_known() {
        work.key.sport = known.sport();
        work.key.dport = known.dport();
        work.key.proto = known.proto();
    }
    known.is_known()
}

/// Keeps a later fragment whose first one has not come yet. Without a flow, it goes its way; inside a service CIDR
/// there is none to go.
///
/// It is published before the records are asked again, and a first one asks for what is kept after it has written its
/// record: whichever is later sees the other.
#[inline(never)]
pub(super) fn early<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
) -> Early {
    let place = tables.place(work.key.ends.dst);
    work.decision = if place == place::SERVICES {
        Decision::Drop(Reason::DropFragment)
    } else {
        Decision::Pass(Reason::PassFragment)
    };
    // The node's own stack sends the first one first. Of options for the receiver one cannot say what follows them.
    if work.known.is_known() || !keeps(tables.role()) || !proto::has_ports(work.ip.proto) {
        return Early::Refused;
    }
    name(work);
    let claim = Claim(tables.hold(packet, &work.datagram, work.now));
    if claim.was_held() {
        tables.count(Reason::DropFragment);
    }
    if !claim.is_some() {
        // There is no room: what is not for this node either is probably nobody's business here.
        if place == place::NODE {
            work.decision = Decision::Drop(Reason::DropFragment);
        }
        return Early::Refused;
    }
    if recall(work, tables) && tables.take_back(claim.0) {
        return Early::Known;
    }
    tables.count(Reason::FragmentHeld);
    Early::Held
}

/// True where fragments are kept.
#[inline(always)]
fn keeps(role: Role) -> bool {
    !matches!(role, Role::Egress | Role::Loopback)
}

/// Notes a first fragment, which has had its flow, and lets those in that have waited for it. A packet that is lost
/// over that is dropped.
#[inline(never)]
pub(super) fn first<A: Addr, T: Tables<A>>(tables: &T, work: &mut Work<A>) {
    tables.note(&work.key, work.ip.id, work.now);
    if !keeps(tables.role()) {
        return;
    }
    name(work);
    match tables.release(&work.datagram, work.now) {
        Released::None => {}
        Released::Some => tables.count(Reason::FragmentsReleased),
        Released::Damaged => {
            tables.count(Reason::DropEdit);
            work.verdict = Verdict::Drop;
        }
    }
}

/// True for a datagram whose checksum cannot be made: that of SCTP covers the ports and all that follows them.
#[inline(always)]
pub(super) fn is_beyond_repair<A: Addr>(work: &Work<A>) -> bool {
    work.ip.piece != Piece::Whole && work.ip.proto == proto::SCTP
}

#[inline(always)]
fn name<A: Addr>(work: &mut Work<A>) {
    let of_protocol = if A::Header::PIECES_NAME_PROTOCOL {
        u32::from(work.ip.proto)
    } else {
        0
    };
    work.datagram = PieceKey {
        src: work.key.ends.src.words(),
        dst: work.key.ends.dst.words(),
        id: work.ip.id,
        kind: u32::from(A::Header::ETHER_TYPE) << 16 | of_protocol,
    };
}
