//! The only code that edits a packet: new addresses and ports, one hop less, checksums to match.

use super::Packet;
use crate::{
    flow::{FlowKey, Rewrite},
    net::{
        addr::Addr,
        csum::Delta,
        ip::{Ip, IpHeader, Piece, proto},
        sctp, tcp, udp,
    },
};

/// Rewrites a packet of the flow `key` to what it becomes, and takes `hops` off its TTL. `None`: it could not be edited and
/// must be dropped.
#[inline(always)]
pub(super) fn rewrite<A: Addr, P: Packet>(
    packet: &mut P,
    key: &FlowKey<A>,
    ip: &Ip,
    new: &Rewrite<A>,
    hops: u8,
) -> Option<()> {
    let addresses = A::Header::write(packet, &key.ends, &new.ends, hops)?;
    // Ports and checksum are in the first fragment.
    if ip.piece == Piece::Later {
        return Some(());
    }
    let (old, ports) = (
        wire_ports(key.sport, key.dport),
        wire_ports(new.sport, new.dport),
    );
    packet.write(ip.l4, ports)?;
    let (old, ports) = (u32::from_ne_bytes(old), u32::from_ne_bytes(ports));
    let header = Delta::replace(old, ports);
    if ip.proto == proto::SCTP {
        return crc(packet, ip, old, ports);
    }
    let (check_at, zero_is_none) = match ip.proto {
        proto::TCP => (tcp::CHECK_AT, false),
        _ => (udp::CHECK_AT, true),
    };
    packet.update_checksum(ip.l4 + check_at, addresses, header, zero_is_none)
}

/// Brings the checksum of SCTP up to date: no address is part of it. A zero is one that was never made (RFC 9653).
#[inline(always)]
fn crc<P: Packet>(packet: &mut P, ip: &Ip, old: u32, new: u32) -> Option<()> {
    let at = ip.l4 + sctp::CHECK_AT;
    let check = u32::from_le_bytes(packet.read::<[u8; 4]>(at)?);
    let mut change = Delta::replace(old, new);
    // What is to be summed up is not all here.
    if ip.piece != Piece::Whole && old != new && check != 0 {
        return None;
    }
    if old != new && check != 0 {
        let after = P::replace_in_crc(check, old, new, ip.len.saturating_sub(ip.l4));
        change = change.and(Delta::replace(check.to_le(), after.to_le()));
        packet.write(at, after.to_le_bytes())?;
    }
    packet.change_sum(change);
    Some(())
}

/// Both ports as they stand at the beginning of a transport header.
#[inline(always)]
fn wire_ports(sport: u16, dport: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (sport.to_be_bytes(), dport.to_be_bytes());
    [a, b, c, d]
}
