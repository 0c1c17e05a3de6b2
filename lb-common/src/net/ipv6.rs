//! IPv6 header (RFC 8200). It has no checksum of its own.

use bytemuck::{Pod, Zeroable};

use super::{
    addr::{Addr, Addr6},
    csum::{self, Delta},
    eth::ether_type,
    icmp::{IcmpError, Letter},
    ip::{Ends, Ip, IpHeader, proto},
};
use crate::{abi::Reason, datapath::Packet};

/// Length of the fixed header, bytes.
const LEN: u32 = 40;
/// Next-header value of `ICMPv6`.
const ICMP: u8 = 58;
/// Hop limit of packets that are made here.
const HOPS: u8 = 64;
/// RFC 4443 section 3.2.
const TOO_BIG: u8 = 2;
/// RFC 4443 section 3.3.
const TIME_EXCEEDED: u8 = 3;
/// Next-header value of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// Where next header and hop limit stand.
const HOPS_AT: u32 = 6;
/// Where the source address stands.
const SRC_AT: u32 = 8;
/// Where the destination address stands.
const DST_AT: u32 = 24;

/// The header on the wire.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_label: [u8; 4],
    /// Length of what follows the header, bytes.
    pub payload_len: [u8; 2],
    /// Protocol of the payload, or of the first extension header.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: [[u8; 4]; 4],
    /// Destination address.
    pub dst: [[u8; 4]; 4],
}

const _: () = assert!(size_of::<Ipv6>() == 40 && align_of::<Ipv6>() == 1);

impl IpHeader for Ipv6 {
    type Addr = Addr6;
    const ETHER_TYPE: u16 = ether_type::IPV6;
    const QUOTE_AT: usize = 12;
    /// RFC 4443 section 2.4 (c): as much as fits into 1280 bytes.
    const QUOTE_MAX: u32 = 1280 - 48;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, ends: &mut Ends<Addr6>) -> Result<Ip, Reason> {
        let Some(header) = packet.read::<Self>(0) else {
            return Err(Reason::PassMalformed);
        };
        let len = match u32::from(u16::from_be_bytes(header.payload_len)) {
            // Segmentation offload beyond 64 KiB ("BIG TCP") leaves the field zero.
            0 if packet.len() > u32::from(u16::MAX) => packet.len(),
            payload => LEN + payload,
        };
        if header.version_class_label[0] >> 4 != 6 || len > packet.len() {
            return Err(Reason::PassMalformed);
        }
        if header.next_header == FRAGMENT {
            return Err(Reason::PassFragment);
        }
        if header.next_header != proto::TCP && header.next_header != proto::UDP {
            return Err(Reason::PassProtocol);
        }
        ends.src = address(header.src);
        ends.dst = address(header.dst);
        Ok(Ip {
            proto: header.next_header,
            ttl: header.hop_limit,
            may_fragment: false,
            l4: LEN,
            len,
        })
    }

    #[inline(always)]
    fn write<P: Packet>(
        packet: &mut P,
        old: &Ends<Addr6>,
        new: &Ends<Addr6>,
        hops: u8,
    ) -> Option<Delta> {
        let [next_header, hop_limit] = packet.read::<[u8; 2]>(HOPS_AT)?;
        let rest = [next_header, hop_limit.wrapping_sub(hops)];
        packet.write(HOPS_AT, rest)?;
        packet.write(SRC_AT, octets(new.src))?;
        packet.write(DST_AT, octets(new.dst))?;
        let addresses = old.delta(new);
        let change = Delta::replace(
            u32::from(u16::from_ne_bytes([next_header, hop_limit])),
            u32::from(u16::from_ne_bytes(rest)),
        );
        // No checksum of its own that would make up for the change.
        packet.change_sum(addresses.and(change));
        Some(addresses)
    }

    #[inline(always)]
    fn head_error(letter: &mut Letter, ends: &Ends<Addr6>, error: IcmpError, quoted: u32) -> u32 {
        let payload = 8 + quoted;
        let length = u32::from_ne_bytes([(payload >> 8) as u8, payload as u8, ICMP, HOPS]);
        letter.put(0, [u32::from_ne_bytes([0x60, 0, 0, 0]), length]);
        letter.put(2, ends.src.words());
        letter.put(6, ends.dst.words());
        let (kind, mtu) = match error {
            IcmpError::TooBig(mtu) => (TOO_BIG, mtu),
            IcmpError::TimeExceeded => (TIME_EXCEEDED, 0),
        };
        letter.put(10, [u32::from_ne_bytes([kind, 0, 0, 0]), mtu.to_be()]);
        // The pseudo header (RFC 8200 section 8.1): addresses, length, next header.
        let pseudo =
            letter.sum(2, 32) + u64::from(payload.to_be()) + u64::from(u32::from(ICMP).to_be());
        let [low, high] = (!csum::fold16(pseudo + letter.sum(10, payload))).to_ne_bytes();
        letter.put(10, [u32::from_ne_bytes([kind, 0, low, high])]);
        40 + payload
    }
}

#[inline(always)]
fn address(bytes: [[u8; 4]; 4]) -> Addr6 {
    let [a, b, c, d] = bytes;
    Addr6 {
        be32: [
            u32::from_ne_bytes(a),
            u32::from_ne_bytes(b),
            u32::from_ne_bytes(c),
            u32::from_ne_bytes(d),
        ],
    }
}

#[inline(always)]
fn octets(addr: Addr6) -> [[u8; 4]; 4] {
    let [a, b, c, d] = addr.words();
    [
        a.to_ne_bytes(),
        b.to_ne_bytes(),
        c.to_ne_bytes(),
        d.to_ne_bytes(),
    ]
}
