//! Attributes of netlink messages, written and read; those of nfnetlink have numbers in network byte order.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlaBuffer, NlasIterator,
};

/// Length of `struct nfgenmsg`, and of `struct genlmsghdr`.
const HEADER: usize = 4;
/// Length of an attribute's header.
const ATTRIBUTE: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// A message of a subsystem of `linux/netfilter/nfnetlink.h`, or of a family of `linux/genetlink.h`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl Message {
    /// `family` is an `AF_*` or `NFPROTO_*`, 0 for all; `resource` is the subsystem in messages about batches, else 0.
    pub(crate) fn new(kind: u16, family: u8, resource: u16, attributes: &[Vec<u8>]) -> Self {
        let [high, low] = resource.to_be_bytes();
        let mut payload = vec![family, 0, high, low];
        payload.extend(attributes.concat());
        Self { kind, payload }
    }

    /// One of generic netlink: a family's number, and its command.
    pub(crate) fn generic(family: u16, command: u8, attributes: &[Vec<u8>]) -> Self {
        Self::new(family, command, 0, attributes)
    }

    /// What was given as such; none in a message that is cut short.
    pub(crate) fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    pub(crate) fn attributes(&self) -> &[u8] {
        self.payload.get(HEADER..).unwrap_or_default()
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.payload.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.payload);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: header.message_type,
            payload: payload.to_vec(),
        })
    }
}

/// One attribute.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(ATTRIBUTE + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds others.
pub(crate) fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &attributes.concat())
}

pub(crate) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

pub(crate) fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

/// The bytes of an address, in network byte order.
pub(crate) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// The value of an attribute, if it is there.
pub(crate) fn find(buffer: &[u8], kind: u16) -> Option<&[u8]> {
    let whole = NlasIterator::new(buffer).map_while(Result::ok);
    let mut found = whole.filter(|nla: &NlaBuffer<&[u8]>| nla.kind() == kind);
    let nla = found.next()?;
    let length = usize::from(nla.length());
    nla.into_inner().get(ATTRIBUTE..length)
}

pub(crate) fn find_u32(buffer: &[u8], kind: u16) -> Option<u32> {
    let value = find(buffer, kind)?.try_into().ok()?;
    Some(u32::from_be_bytes(value))
}

pub(crate) fn find_u16(buffer: &[u8], kind: u16) -> Option<u16> {
    let value = find(buffer, kind)?.try_into().ok()?;
    Some(u16::from_be_bytes(value))
}

pub(crate) fn find_addr(buffer: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    if let Some(value) = find(buffer, v4) {
        let octets: [u8; 4] = value.try_into().ok()?;
        return Some(octets.into());
    }
    let octets: [u8; 16] = find(buffer, v6)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again_whatever_its_length() {
        let bytes = [
            attribute(1, &[7]),
            nested(2, &[number(1, 0x0102_0304), text(3, "ab")]),
            attribute(4, &[1, 2]),
        ]
        .concat();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(find(&bytes, 1), Some(&[7][..]));
        let inner = find(&bytes, 2).expect("it is there");
        assert_eq!(find_u32(inner, 1), Some(0x0102_0304));
        assert_eq!(find(inner, 3), Some(&b"ab\0"[..]));
        assert_eq!(find_u16(&bytes, 4), Some(0x0102));
        assert_eq!(find(&bytes, 5), None);
    }

    #[test]
    fn what_is_cut_off_is_not_there() {
        let bytes = attribute(1, &[7; 8]);
        for length in 0..bytes.len() {
            assert_eq!(find(&bytes[..length], 1), None, "{length}");
        }
    }
}
