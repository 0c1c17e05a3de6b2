//! IPv4 header (RFC 791). Options are carried along unread.

use bytemuck::{Pod, Zeroable};

use super::{
    addr::Addr4,
    csum::Delta,
    eth::ether_type,
    ip::{Ends, Ip, IpHeader, proto},
};
use crate::{abi::Reason, datapath::Packet};

/// The header without options, on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv4 {
    /// Version, and header length in words.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_len: [u8; 2],
    /// Names the fragments of one datagram.
    pub id: [u8; 2],
    /// Three flags, thirteen bits of offset.
    pub frag: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: u8,
    /// Checksum of the header.
    pub check: [u8; 2],
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

/// "More fragments" and the offset: zero in a packet that is whole.
const FRAGMENT: u16 = 0x3fff;
/// Where the part that a router rewrites begins.
const TAIL_AT: u32 = 8;

/// TTL to destination: what changes on the way through.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Tail {
    ttl: u8,
    proto: u8,
    check: [u8; 2],
    src: [u8; 4],
    dst: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4>() == 20 && align_of::<Ipv4>() == 1);
const _: () = assert!(size_of::<Tail>() == 12);

impl IpHeader for Ipv4 {
    type Addr = Addr4;
    const ETHER_TYPE: u16 = ether_type::IPV4;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, ends: &mut Ends<Addr4>) -> Result<Ip, Reason> {
        let Some(header) = packet.read::<Self>(0) else {
            return Err(Reason::PassMalformed);
        };
        let l4 = u32::from(header.version_ihl & 0x0f) * 4;
        let len = match u32::from(u16::from_be_bytes(header.total_len)) {
            // Segmentation offload beyond 64 KiB ("BIG TCP") leaves the field zero.
            0 if packet.len() > u32::from(u16::MAX) => packet.len(),
            len => len,
        };
        if header.version_ihl >> 4 != 4 || l4 < 20 || len < l4 || len > packet.len() {
            return Err(Reason::PassMalformed);
        }
        if u16::from_be_bytes(header.frag) & FRAGMENT != 0 {
            return Err(Reason::PassFragment);
        }
        if header.proto != proto::TCP && header.proto != proto::UDP {
            return Err(Reason::PassProtocol);
        }
        ends.src = Addr4 {
            be32: u32::from_ne_bytes(header.src),
        };
        ends.dst = Addr4 {
            be32: u32::from_ne_bytes(header.dst),
        };
        Ok(Ip {
            proto: header.proto,
            ttl: header.ttl,
            l4,
            len,
        })
    }

    #[inline(always)]
    fn write<P: Packet>(packet: &mut P, old: &Ends<Addr4>, new: &Ends<Addr4>) -> Option<Delta> {
        let mut tail = packet.read::<Tail>(TAIL_AT)?;
        let ttl = tail.ttl.wrapping_sub(1);
        let addresses = old.delta(new);
        let hops = Delta::replace(
            u32::from(u16::from_ne_bytes([tail.ttl, tail.proto])),
            u32::from(u16::from_ne_bytes([ttl, tail.proto])),
        );
        let check = addresses.and(hops).apply(u16::from_ne_bytes(tail.check));
        tail.ttl = ttl;
        tail.check = check.to_ne_bytes();
        tail.src = new.src.be32.to_ne_bytes();
        tail.dst = new.dst.be32.to_ne_bytes();
        // The header sums to zero before and after: a checksum over the whole packet does not change.
        packet.write(TAIL_AT, tail)?;
        Some(addresses)
    }
}
