//! A packet in a vector, from its IP header on, with the checksum rules of the XDP host.
//!
//! It also carries the sum that a device which checks packets itself would have left for the kernel
//! (`CHECKSUM_COMPLETE`), corrected as the TC host's helpers correct it, so that a test can tell
//! whether the datapath reported all that it changed.

use bytemuck::Pod;

use crate::{
    datapath::Packet,
    net::{
        csum::{self, Delta},
        ip::proto,
        udp,
    },
};

/// A packet; equal to another if all its bytes are.
#[derive(Clone, Debug)]
pub struct FakePacket {
    bytes: Vec<u8>,
    /// The sum over all bytes, complemented, as the device and then the datapath reported it.
    device_sum: u16,
    /// Payload of each packet that segmentation offload will cut this one into; 0: it leaves whole.
    segment_size: u32,
}

impl FakePacket {
    /// The packet whose IP header begins with the first of `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        let device_sum = csum::checksum(&bytes, 0);
        Self {
            bytes,
            device_sum,
            segment_size: 0,
        }
    }

    /// A packet that the device will cut into ones of `size` bytes of payload.
    #[must_use]
    pub fn cut_into(self, size: u32) -> Self {
        Self {
            segment_size: size,
            ..self
        }
    }

    /// The bytes from the IP header on.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be made into something that a builder refuses to make.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// True if every checksum that the packet carries is right; a UDP checksum of zero is none.
    ///
    /// For whole packets of TCP or UDP; false for any other.
    pub fn checksums_valid(&self) -> bool {
        match self.bytes.first().map(|first| first >> 4) {
            Some(4) => self.is_ipv4_valid(),
            Some(6) => self.is_ipv6_valid(),
            _ => false,
        }
    }

    /// True if the device's sum, corrected by what the datapath reported, is the sum of the bytes.
    pub fn device_sum_valid(&self) -> bool {
        let sum = csum::checksum(&self.bytes, 0);
        sum == self.device_sum || sum ^ self.device_sum == 0xffff && matches!(sum, 0 | 0xffff)
    }

    fn is_ipv4_valid(&self) -> bool {
        let header = usize::from(self.bytes[0] & 0x0f) * 4;
        let (Some(ip), Some(segment)) = (self.bytes.get(..header), self.bytes.get(header..)) else {
            return false;
        };
        header >= 20 && csum::checksum(ip, 0) == 0 && is_segment_valid(segment, &ip[12..20], ip[9])
    }

    fn is_ipv6_valid(&self) -> bool {
        match (self.bytes.get(..40), self.bytes.get(40..)) {
            (Some(ip), Some(segment)) => is_segment_valid(segment, &ip[8..40], ip[6]),
            _ => false,
        }
    }
}

impl PartialEq for FakePacket {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for FakePacket {}

fn is_segment_valid(segment: &[u8], addresses: &[u8], protocol: u8) -> bool {
    let at = udp::CHECK_AT as usize;
    match protocol {
        proto::UDP if segment.get(at..at + 2) == Some(&[0, 0]) => true,
        proto::TCP | proto::UDP => {
            csum::checksum(segment, pseudo_header(addresses, protocol, segment.len())) == 0
        }
        _ => false,
    }
}

/// The sum of a pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1), in memory order.
///
/// The two families lay length and protocol out differently, which does not alter the sum.
pub(super) fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> u64 {
    let mut tail = [0; 12];
    tail[..8].copy_from_slice(&(len as u64).to_be_bytes());
    tail[11] = protocol;
    csum::sum(&tail, csum::sum(addresses, 0))
}

impl Packet for FakePacket {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn segment_len(&self, len: u32, headers: u32) -> u32 {
        match self.segment_size {
            0 => len,
            size => (headers + size).min(len),
        }
    }

    fn read<T: Pod>(&self, at: u32) -> Option<T> {
        let bytes = self.bytes.get(at as usize..)?.get(..size_of::<T>())?;
        Some(bytemuck::pod_read_unaligned(bytes))
    }

    fn write<T: Pod>(&mut self, at: u32, value: T) -> Option<()> {
        let bytes = self
            .bytes
            .get_mut(at as usize..)?
            .get_mut(..size_of::<T>())?;
        bytes.copy_from_slice(bytemuck::bytes_of(&value));
        Some(())
    }

    fn change_sum(&mut self, change: Delta) {
        self.device_sum = change.apply(self.device_sum);
    }

    fn copy(&self, words: &mut [u32], len: u32) -> Option<()> {
        let bytes = self.bytes.get(..len as usize)?;
        bytemuck::cast_slice_mut(words)
            .get_mut(..len as usize)?
            .copy_from_slice(bytes);
        Some(())
    }

    fn replace(&mut self, words: &[u32], len: u32) -> Option<()> {
        let bytes = bytemuck::cast_slice::<_, u8>(words).get(..len as usize)?;
        *self = Self::new(bytes.to_vec());
        Some(())
    }

    fn update_checksum(
        &mut self,
        at: u32,
        addresses: Delta,
        header: Delta,
        zero_is_none: bool,
    ) -> Option<()> {
        let old = u16::from_ne_bytes(self.read::<[u8; 2]>(at)?);
        self.write(
            at,
            addresses
                .and(header)
                .update(old, zero_is_none)
                .to_ne_bytes(),
        )?;
        // The checksum takes the header's change out of the sum again and, as the addresses are no part
        // of what it stands in, their change once more than it came in.
        self.device_sum = match old {
            0 if zero_is_none => header.apply(self.device_sum),
            _ => !addresses.apply(!self.device_sum),
        };
        Some(())
    }
}
