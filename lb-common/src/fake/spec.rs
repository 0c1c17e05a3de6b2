//! Packets made from what a test cares about; all else, checksums above all, is as it should be.

use super::packet::{FakePacket, pseudo_header};
use crate::{
    flow::FlowKey,
    net::{
        addr::{Addr, Family},
        csum,
        ip::{Ends, proto},
        tcp, udp,
    },
};

/// What stands in the transport header besides ports and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP with these control bits.
    Tcp(u8),
    /// UDP.
    Udp,
    /// UDP without a checksum.
    UdpUnchecked,
}

/// What a packet is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec<A> {
    /// Addresses.
    pub ends: Ends<A>,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// TCP or UDP.
    pub transport: Transport,
    /// TTL or hop limit.
    pub ttl: u8,
    /// A router may cut it into fragments; ignored for IPv6.
    pub may_fragment: bool,
    /// IPv4 options, a multiple of four bytes up to 40; ignored for IPv6.
    pub options: Vec<u8>,
    /// What follows the transport header.
    pub payload: Vec<u8>,
}

impl<A: Addr> PacketSpec<A> {
    /// A packet with a TTL of 64, without options, and with a short payload of an odd length.
    pub fn new(src: (A, u16), dst: (A, u16), transport: Transport) -> Self {
        Self {
            ends: Ends {
                src: src.0,
                dst: dst.0,
            },
            sport: src.1,
            dport: dst.1,
            transport,
            ttl: 64,
            may_fragment: false,
            options: Vec::new(),
            payload: b"fulcrum".to_vec(),
        }
    }

    /// The flow that the packet belongs to.
    pub fn key(&self) -> FlowKey<A> {
        let proto = match self.transport {
            Transport::Tcp(_) => proto::TCP,
            Transport::Udp | Transport::UdpUnchecked => proto::UDP,
        };
        FlowKey {
            ends: self.ends,
            sport: self.sport,
            dport: self.dport,
            proto,
        }
    }

    /// The packet.
    pub fn packet(&self) -> FakePacket {
        let addresses = [bytes(self.ends.src), bytes(self.ends.dst)].concat();
        let segment = self.segment(&addresses);
        FakePacket::new([self.ip_header(&addresses, segment.len()), segment].concat())
    }

    fn segment(&self, addresses: &[u8]) -> Vec<u8> {
        let mut segment = [self.sport.to_be_bytes(), self.dport.to_be_bytes()].concat();
        let check_at = match self.transport {
            Transport::Tcp(flags) => {
                segment.extend([
                    0,
                    0,
                    0,
                    1,
                    0,
                    0,
                    0,
                    2,
                    5 << 4,
                    flags,
                    0xff,
                    0xff,
                    0,
                    0,
                    0,
                    0,
                ]);
                tcp::CHECK_AT
            }
            Transport::Udp | Transport::UdpUnchecked => {
                let len = length(8 + self.payload.len());
                segment.extend([len[0], len[1], 0, 0]);
                udp::CHECK_AT
            }
        };
        segment.extend(&self.payload);
        let protocol = self.key().proto;
        let seed = pseudo_header(addresses, protocol, segment.len());
        let check = match (self.transport, csum::checksum(&segment, seed)) {
            (Transport::UdpUnchecked, _) => 0,
            (Transport::Udp, 0) => 0xffff,
            (_, check) => check,
        };
        segment[check_at as usize..][..2].copy_from_slice(&check.to_ne_bytes());
        segment
    }

    fn ip_header(&self, addresses: &[u8], segment: usize) -> Vec<u8> {
        let protocol = self.key().proto;
        if A::FAMILY == Family::V6 {
            let len = length(segment);
            let fixed = [0x60, 0, 0, 0, len[0], len[1], protocol, self.ttl];
            return [&fixed[..], addresses].concat();
        }
        let words = 5 + self.options.len() / 4;
        assert!(
            self.options.len().is_multiple_of(4) && words <= 15,
            "{} bytes of IPv4 options: must be a multiple of four up to 40",
            self.options.len()
        );
        let len = length(words * 4 + segment);
        let version_ihl = 0x40 | words.to_le_bytes()[0];
        // Not a fragment.
        let dont_fragment = if self.may_fragment { 0 } else { 0x40 };
        let fixed = [
            version_ihl,
            0,
            len[0],
            len[1],
            0x12,
            0x34,
            dont_fragment,
            0,
            self.ttl,
            protocol,
            0,
            0,
        ];
        let mut header = [&fixed[..], addresses, &self.options].concat();
        let check = csum::checksum(&header, 0);
        header[10..12].copy_from_slice(&check.to_ne_bytes());
        header
    }
}

/// A length as headers carry it: zero where segmentation offload goes beyond 64 KiB ("BIG TCP").
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(0).to_be_bytes()
}

fn bytes<A: Addr>(addr: A) -> Vec<u8> {
    addr.words()[..size_of::<A>() / 4]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::addr::{Addr4, Addr6};

    const CLIENT4: (Addr4, u16) = (
        Addr4 {
            be32: u32::from_ne_bytes([10, 0, 0, 1]),
        },
        1024,
    );
    const SERVER4: (Addr4, u16) = (
        Addr4 {
            be32: u32::from_ne_bytes([10, 0, 0, 2]),
        },
        53,
    );

    #[test]
    fn a_datagram_is_what_a_capture_shows() {
        let spec = PacketSpec {
            payload: vec![0xab],
            ..PacketSpec::new(CLIENT4, SERVER4, Transport::Udp)
        };
        let expected = [
            0x45, 0x00, 0x00, 0x1d, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0x14, 0x9a, // IPv4
            10, 0, 0, 1, 10, 0, 0, 2, // addresses
            0x04, 0x00, 0x00, 0x35, 0x00, 0x09, 0x3c, 0xa4, 0xab, // UDP
        ];
        assert_eq!(spec.packet().bytes(), expected);
    }

    #[test]
    fn any_flipped_bit_under_a_checksum_is_noticed() {
        let v6 = |n: u32| {
            (
                Addr6 {
                    be32: [0xfd, 0, 0, n.to_be()],
                },
                80,
            )
        };
        let packets = [
            PacketSpec::new(CLIENT4, SERVER4, Transport::Udp).packet(),
            PacketSpec::new(CLIENT4, SERVER4, Transport::Tcp(0x10)).packet(),
            PacketSpec::new(v6(1), v6(2), Transport::Tcp(0x10)).packet(),
        ];
        for packet in packets {
            assert!(packet.checksums_valid());
            // The fields of an IPv6 header before the addresses stand under no checksum.
            let first = if packet.bytes()[0] >> 4 == 6 { 8 } else { 0 };
            for bit in first * 8..packet.bytes().len() * 8 {
                let mut damaged = packet.clone();
                damaged.bytes_mut()[bit / 8] ^= 1 << (bit % 8);
                assert!(!damaged.checksums_valid(), "bit {bit}");
                assert!(!damaged.device_sum_valid(), "bit {bit}");
            }
        }
    }
}
