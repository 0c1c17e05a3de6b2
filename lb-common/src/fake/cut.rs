//! Datagrams cut into fragments and put together again, byte by byte from the RFCs.

use super::FakePacket;
use crate::net::csum;

/// Next-header value of a fragment (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// Length of an IPv6 header, bytes.
const IPV6_LEN: usize = 40;

impl FakePacket {
    /// The fragments of a packet without extension headers, each with up to `size` bytes of payload.
    ///
    /// # Panics
    /// If `size` is no multiple of eight, or the packet is not IP.
    pub fn cut(&self, size: usize, id: u32) -> Vec<Self> {
        assert!(size.is_multiple_of(8) && size > 0, "{size} bytes a piece");
        let (header, payload) = self.bytes().split_at(self.header_len());
        let chunks = payload.chunks(size).enumerate();
        let count = payload.len().div_ceil(size);
        chunks
            .map(|(at, chunk)| piece(header, chunk, at * size, at + 1 < count, id))
            .collect()
    }

    /// The datagram that these are the fragments of, in any order.
    ///
    /// # Panics
    /// If they are not all of one, or a checksum of an IPv4 header is wrong.
    pub fn join(pieces: &[Self]) -> Self {
        let mut parts: Vec<_> = pieces.iter().map(Self::part).collect();
        parts.sort_by_key(|(offset, ..)| *offset);
        let mut payload = Vec::new();
        for (offset, part, _, _) in &parts {
            assert_eq!(*offset, payload.len(), "a gap");
            payload.extend(part);
        }
        let id = parts[0].3;
        assert!(parts.iter().all(|(.., other)| *other == id));
        let last = parts.len() - 1;
        assert!(
            parts
                .iter()
                .enumerate()
                .all(|(at, part)| part.2 == (at < last))
        );
        let first = pieces
            .iter()
            .min_by_key(|piece| piece.part().0)
            .expect("one");
        let mut header = first.bytes()[..first.header_len()].to_vec();
        if header[0] >> 4 == 4 {
            set_length(&mut header, payload.len());
            header[6..8].fill(0);
            sign(&mut header);
        } else {
            header[6] = first.bytes()[IPV6_LEN];
            header[4..6].copy_from_slice(&short(payload.len()));
        }
        Self::new([header, payload].concat())
    }

    /// Where it begins, what it carries, whether something follows, and the identification.
    fn part(&self) -> (usize, Vec<u8>, bool, u32) {
        let bytes = self.bytes();
        let header = self.header_len();
        if bytes[0] >> 4 == 4 {
            assert_eq!(csum::checksum(&bytes[..header], 0), 0, "header checksum");
            let frag = u16::from_be_bytes([bytes[6], bytes[7]]);
            let id = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
            let offset = usize::from(frag & 0x1fff) * 8;
            return (offset, bytes[header..].to_vec(), frag & 0x2000 != 0, id);
        }
        assert_eq!(bytes[6], FRAGMENT);
        let mut numbers = bytes[header + 4..header + 8].iter().copied();
        let id = u32::from_be_bytes(std::array::from_fn(|_| numbers.next().expect("four")));
        let frag = u16::from_be_bytes([bytes[header + 2], bytes[header + 3]]);
        let payload = bytes[header + 8..].to_vec();
        (usize::from(frag & 0xfff8), payload, frag & 1 != 0, id)
    }

    fn header_len(&self) -> usize {
        match self.bytes()[0] {
            first if first >> 4 == 4 => usize::from(first & 0x0f) * 4,
            first => {
                assert_eq!(first >> 4, 6, "not IP");
                IPV6_LEN
            }
        }
    }
}

fn piece(header: &[u8], payload: &[u8], offset: usize, more: bool, id: u32) -> FakePacket {
    let mut header = header.to_vec();
    if header[0] >> 4 == 4 {
        set_length(&mut header, payload.len());
        header[4..6].copy_from_slice(&short(id as usize & 0xffff));
        let more = if more { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&short((offset / 8) | more));
        sign(&mut header);
        return FakePacket::new([&header, payload].concat());
    }
    let [high, low] = short(offset | usize::from(more));
    let mut extension = vec![header[6], 0, high, low];
    extension.extend(id.to_be_bytes());
    header[6] = FRAGMENT;
    header[4..6].copy_from_slice(&short(8 + payload.len()));
    FakePacket::new([&header, &extension, payload].concat())
}

fn set_length(header: &mut [u8], payload: usize) {
    let len = header.len() + payload;
    header[2..4].copy_from_slice(&short(len));
}

fn sign(header: &mut [u8]) {
    header[10..12].fill(0);
    let check = csum::checksum(header, 0);
    header[10..12].copy_from_slice(&check.to_ne_bytes());
}

fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).expect("16 bits").to_be_bytes()
}
