//! ICMP about flows: errors about packets that were translated here, and echo requests to service addresses.
//!
//! An error quotes the packet as it was when the error was made, that is after its translation. Turned round, what is
//! quoted is the key of the slot whose packets go where the error goes: an error about a packet of the client's goes
//! the way of the answers, one about an answer the way of the client's packets. Where that slot sends its packets the
//! error is sent as well, and both its own addresses and the quoted packet become what their receiver knows
//! (RFC 5508 section 4). A flow is neither prolonged nor altered by it: anybody can make an error up.
//!
//! Errors are never answered with errors (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).

use super::{Decision, Hook, Packet, Progress, Role, Tables, Via, Work, deliver, hops};
use crate::{
    abi::{Reason, ServiceKey, next_hop::NextHopRef, node::features, place},
    flow::{Direction, table::FlowTable},
    net::{
        addr::Addr,
        csum::Delta,
        icmp::{self, Message, Quote},
        ip::{Ends, IpHeader},
        letter,
        udp::Udp,
    },
};

/// TTL or hop limit of an echo reply.
const TTL: u8 = 64;

/// An ICMP message, besides what [`Work`] knows of any packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Letterhead<A> {
    /// Its own addresses, as it came.
    pub old: Ends<A>,
    /// Its own addresses, as it leaves.
    pub new: Ends<A>,
    /// Of an error: where the packet that it quotes has its transport header, bytes from the error's IP header.
    pub l4: u32,
    /// Where that packet ends, by its own account.
    pub end: u32,
}

/// Takes an ICMP message through.
///
/// A call of its own in the BPF object, beside those for packets of flows, and its steps are calls one after the other.
#[inline(never)]
pub(super) fn related<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    match decide(packet, tables, work) {
        Progress::Related => translate(packet, tables, work),
        Progress::Echo => reply(packet, tables, work),
        done => done,
    }
}

/// Decides about an ICMP message: [`Work::decision`], if it becomes another one.
#[inline(never)]
fn decide<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    // The type of an echo reply stands for what is too short to have one.
    let [kind, _] = packet
        .read::<[u8; 2]>(work.ip.l4)
        .unwrap_or([A::Header::ECHO_REPLY, 0]);
    let message = A::Header::message(kind);
    let decision = match message {
        Message::Other => Decision::Pass(Reason::PassProtocol),
        _ if T::HOOK == Hook::Xdp => Decision::Pass(Reason::PassToTc),
        Message::Echo => echo(tables, work),
        Message::Error | Message::TimeExceeded => {
            packet.reach(icmp::REACH);
            error(packet, tables, work, message)
        }
    };
    work.decision = decision;
    let (reason, progress) = match decision {
        // The stack would send it round in circles: its route leads here.
        Decision::Pass(_) if tables.role() == Role::Host => {
            (Reason::DropNotService, Progress::Dropped)
        }
        Decision::Pass(reason) => (reason, Progress::Passed),
        Decision::Drop(reason) | Decision::Reject(reason) => (reason, Progress::Dropped),
        Decision::Send(Reason::EchoAnswered, _) => return Progress::Echo,
        Decision::Send(..) => return Progress::Related,
    };
    tables.count(reason);
    progress
}

/// An error about a packet of a known flow goes where that packet's answers go.
#[inline(always)]
fn error<A: Addr, P: Packet, T: Tables<A>>(
    packet: &P,
    tables: &T,
    work: &mut Work<A>,
    message: Message,
) -> Decision {
    work.icmp.old = work.key.ends;
    if read_quote(packet, work).is_none() {
        return Decision::Pass(Reason::PassNoService);
    }
    work.now = tables.now();
    let node = tables.node();
    let table = FlowTable::new(tables.slots(), tables.flow_mask(), node, work.now);
    let Some((table, found)) = table.find_anywhere(&work.key) else {
        return Decision::Pass(Reason::PassNoService);
    };
    let direction = found.slot.flags().direction();
    let backend = found.slot.backend();
    let next_hop = found.slot.next_hop();
    found.slot.rewrite(&mut work.flow.rewrite);
    // On the way out are errors of the node's own, about packets that it received or could not send on, and those that
    // the stack has forwarded; they go the right way already. Errors from the node's own server that come by any other device are forged.
    let is_out = tables.role() == Role::Egress;
    let may_leave = (direction == Direction::Reply) != found.slot.flags().leaving();
    let is_own = may_leave && work.icmp.old.dst == work.flow.rewrite.ends.dst;
    let is_forged = may_leave && next_hop == NextHopRef::STACK && !is_out;
    let is_foreign = found.slot.flags().foreign();
    if is_out && !is_own || is_forged || is_foreign || !table.is_still(&found) {
        return Decision::Pass(Reason::PassNoService);
    }
    name_sender(work, message);
    if is_out {
        return Decision::Send(Reason::HitError, Via::Stack);
    }
    let way = deliver::known(work, tables, next_hop).unwrap_or_else(|| {
        let way = deliver::resolve(work, tables, direction);
        found
            .slot
            .replace_next_hop(backend, next_hop, work.flow.next_hop);
        way
    });
    match way {
        Ok(via) => Decision::Send(Reason::HitError, via),
        Err(reason) => Decision::Drop(reason),
    }
}

/// Reads the packet that an error quotes, and notes the key of the packets that would answer it. `None`: there is
/// none, or it was not sent by whom the error is sent to.
#[inline(always)]
fn read_quote<A: Addr, P: Packet>(packet: &P, work: &mut Work<A>) -> Option<()> {
    let Work { key, ip, icmp, .. } = work;
    let at = ip.l4 + icmp::QUOTE_AT;
    if at + 4 * A::Header::WORDS as u32 > icmp::REACH {
        return None;
    }
    let quote = A::Header::quoted(packet, at, &mut icmp.new)?;
    if quote.l4 + icmp::QUOTED_LEAST > ip.len || icmp.new.src != icmp.old.dst {
        return None;
    }
    // Every protocol that has ports begins with them.
    let ports = packet.read::<Udp>(quote.l4)?;
    key.ends = icmp.new.reversed();
    key.sport = u16::from_be_bytes(ports.dport);
    key.dport = u16::from_be_bytes(ports.sport);
    key.proto = quote.proto;
    icmp.l4 = quote.l4;
    icmp.end = quote.end;
    Some(())
}

/// Notes from whom the error is: from the other end as the receiver knows it, else it might be held back as a
/// stranger's; but a router that ends a packet's hops keeps its name, since a trace asks for it.
#[inline(always)]
fn name_sender<A: Addr>(work: &mut Work<A>, message: Message) {
    let Work {
        key, flow, icmp, ..
    } = work;
    let is_router = icmp.old.src != key.ends.src;
    icmp.new = flow.rewrite.ends;
    if is_router && message == Message::TimeExceeded {
        icmp.new.src = icmp.old.src;
    }
}

/// An echo request to an address that a service has, and no machine.
#[inline(always)]
fn echo<A: Addr, T: Tables<A>>(tables: &T, work: &mut Work<A>) -> Decision {
    let is_off = tables.node().features & features::ECHO == 0;
    let role = tables.role();
    if is_off || role == Role::Egress || work.key.ends.src.is_group_or_none() {
        return Decision::Pass(Reason::PassProtocol);
    }
    let place = tables.place(work.key.ends.dst);
    if place == place::NODE {
        return Decision::Pass(Reason::PassProtocol);
    }
    work.frontend = ServiceKey::new(work.key.ends.dst, 0, 0);
    if tables.stamp(&work.frontend).is_none() {
        return if place == place::SERVICES {
            Decision::Drop(Reason::DropUnallocated)
        } else {
            Decision::Pass(Reason::PassProtocol)
        };
    }
    work.now = tables.now();
    if !work.letter.resets.spend(work.now, letter::RESETS_PER_SPAN) {
        tables.count(Reason::AnswerLimited);
        return Decision::Reject(Reason::RejectNotServed);
    }
    work.icmp.old = work.key.ends;
    work.icmp.new = work.key.ends.reversed();
    Decision::Send(Reason::EchoAnswered, Via::Host)
}

/// Writes what [`related`] has decided: the error as its receiver knows the flow.
#[inline(never)]
fn translate<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    let Decision::Send(_, via) = work.decision else {
        return Progress::Dropped;
    };
    let (reason, progress) = match write_error(packet, work, hops(via, tables.role())) {
        Some(()) => (Reason::HitError, Progress::Rewritten),
        None => (Reason::DropEdit, Progress::Dropped),
    };
    tables.count(reason);
    progress
}

#[inline(always)]
fn write_error<A: Addr, P: Packet>(packet: &mut P, work: &Work<A>, hops: u8) -> Option<()> {
    let Work {
        key,
        ip,
        flow,
        icmp,
        ..
    } = work;
    let new = &flow.rewrite;
    let own = A::Header::write(packet, &icmp.old, &icmp.new, hops)?;
    let at = ip.l4 + icmp::QUOTE_AT;
    let (old_ends, new_ends) = (key.ends.reversed(), new.ends.reversed());
    let (addresses, written) = A::Header::write_quoted(packet, at, &old_ends, &new_ends)?;
    let old_ports = ports(key.dport, key.sport);
    let new_ports = ports(new.dport, new.sport);
    packet.write(icmp.l4, new_ports.to_ne_bytes())?;
    let header = Delta::replace(old_ports, new_ports);
    let mut written = written.and(header);
    let quote = Quote {
        proto: key.proto,
        l4: icmp.l4,
        end: icmp.end,
    };
    if let Some((at, zero_is_none)) = quote.check(ip.len) {
        let before = u16::from_ne_bytes(packet.read::<[u8; 2]>(at)?);
        let after = addresses.and(header).update(before, zero_is_none);
        packet.write(at, after.to_ne_bytes())?;
        written = written.and(Delta::replace(before.into(), after.into()));
    }
    sum_up::<A, P>(packet, ip.l4, own, written)
}

/// Writes the answer to an echo request: the same, to its sender.
#[inline(never)]
fn reply<A: Addr, P: Packet, T: Tables<A>>(
    packet: &mut P,
    tables: &T,
    work: &mut Work<A>,
) -> Progress {
    let (reason, progress) = match write_reply(packet, work) {
        Some(()) if tables.role().is_host() => (Reason::EchoAnswered, Progress::Rewritten),
        Some(()) => (Reason::EchoAnswered, Progress::Returned),
        None => (Reason::DropEdit, Progress::Dropped),
    };
    tables.count(reason);
    progress
}

#[inline(always)]
fn write_reply<A: Addr, P: Packet>(packet: &mut P, work: &Work<A>) -> Option<()> {
    let Work { ip, icmp, .. } = work;
    let [kind, code] = packet.read::<[u8; 2]>(ip.l4)?;
    let hops = ip.ttl.wrapping_sub(TTL);
    let own = A::Header::write(packet, &icmp.old, &icmp.new, hops)?;
    let reply = [A::Header::ECHO_REPLY, code];
    packet.write(ip.l4, reply)?;
    let written = Delta::replace(
        u16::from_ne_bytes([kind, code]).into(),
        u16::from_ne_bytes(reply).into(),
    );
    sum_up::<A, P>(packet, ip.l4, own, written)
}

/// Brings the checksum of an ICMP message up to date: its addresses are part of it in one family only.
#[inline(always)]
fn sum_up<A: Addr, P: Packet>(packet: &mut P, l4: u32, own: Delta, written: Delta) -> Option<()> {
    let pseudo = if A::Header::HAS_ICMP_PSEUDO {
        own
    } else {
        Delta::default()
    };
    packet.update_checksum(l4 + icmp::CHECK_AT, pseudo, written, false)
}

/// Both ports as they stand at the beginning of a transport header, a word in memory order.
#[inline(always)]
fn ports(sport: u16, dport: u16) -> u32 {
    let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}
