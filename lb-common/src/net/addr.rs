//! IP addresses as the tables hold them: native words in network byte order.
//!
//! This is the only place that knows four bytes from sixteen. Everything else in this crate is
//! generic over [`Addr`]. Words, not byte arrays: a key of bytes at an odd offset of the BPF stack is
//! refused by the verifier, and four single-byte loads are dearer than one word.

use core::{
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::net::{ip::IpHeader, ipv4::Ipv4, ipv6::Ipv6};

/// The two address families, each with its own tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address of one family, plain data of 4 or 16 bytes aligned to 4.
pub trait Addr: Copy + Eq + Ord + Hash + Default + fmt::Debug + fmt::Display + 'static {
    /// The family that this type stands for.
    const FAMILY: Family;
    /// The IP header that carries such addresses.
    type Header: IpHeader<Addr = Self>;
    /// The address's words in memory order, network byte order inside each; unused words are zero.
    fn words(self) -> [u32; 4];
    /// The address of which [`Addr::words`] are these.
    fn from_words(words: [u32; 4]) -> Self;
    /// The address out of the standard library's type, if the family is this one.
    fn from_ip(ip: IpAddr) -> Option<Self>;
    /// The address as the standard library's type.
    fn to_ip(self) -> IpAddr;
    /// True for 0.0.0.0 and `::`.
    fn is_unspecified(self) -> bool;
    /// True for 127.0.0.0/8 and `::1`.
    fn is_loopback(self) -> bool;
    /// True for what no single machine can have: multicast, broadcast, 0.0.0.0 and `::`.
    fn is_group_or_none(self) -> bool;
}

/// An IPv4 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr4 {
    /// The four bytes as they stand on the wire, read as one native word.
    pub be32: u32,
}

/// An IPv6 address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr6 {
    /// The sixteen bytes as they stand on the wire, read as four native words.
    pub be32: [u32; 4],
}

const _: () = assert!(size_of::<Addr4>() == 4 && align_of::<Addr4>() == 4);
const _: () = assert!(size_of::<Addr6>() == 16 && align_of::<Addr6>() == 4);

impl Addr6 {
    /// The IPv4 address that this one stands for, if it is one of `::ffff:0:0/96`.
    #[inline(always)]
    pub fn to_mapped(self) -> Option<Addr4> {
        let [a, b, c, be32] = self.be32;
        (a | b | (c ^ 0xffff_u32.to_be()) == 0).then_some(Addr4 { be32 })
    }

    /// The address that stands for an IPv4 address where only those of IPv6 are written.
    #[inline(always)]
    pub fn from_mapped(addr: Addr4) -> Self {
        Self {
            be32: [0, 0, 0xffff_u32.to_be(), addr.be32],
        }
    }
}

impl Addr for Addr4 {
    const FAMILY: Family = Family::V4;
    type Header = Ipv4;

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.be32, 0, 0, 0]
    }

    #[inline(always)]
    fn from_words([be32, ..]: [u32; 4]) -> Self {
        Self { be32 }
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(ip.into()),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V4(self.into())
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self.be32 == 0
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        u32::from_be(self.be32) >> 24 == 127
    }

    #[inline(always)]
    fn is_group_or_none(self) -> bool {
        self.is_unspecified() || u32::from_be(self.be32) >> 24 >= 224
    }
}

impl Addr for Addr6 {
    const FAMILY: Family = Family::V6;
    type Header = Ipv6;

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.be32
    }

    #[inline(always)]
    fn from_words(be32: [u32; 4]) -> Self {
        Self { be32 }
    }

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(ip.into()),
        }
    }

    fn to_ip(self) -> IpAddr {
        IpAddr::V6(self.into())
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        let [a, b, c, d] = self.be32;
        a | b | c | d == 0
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.be32;
        a | b | c | (d ^ 1_u32.to_be()) == 0
    }

    #[inline(always)]
    fn is_group_or_none(self) -> bool {
        let [a, ..] = self.be32;
        self.is_unspecified() || u32::from_be(a) >> 24 == 0xff
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self {
            be32: u32::from_ne_bytes(ip.octets()),
        }
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        addr.be32.to_ne_bytes().into()
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        let bytes = ip.octets();
        Self {
            be32: core::array::from_fn(|word| {
                u32::from_ne_bytes(core::array::from_fn(|byte| bytes[word * 4 + byte]))
            }),
        }
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(addr: Addr6) -> Self {
        let bytes: [u8; 16] =
            core::array::from_fn(|byte| addr.be32[byte / 4].to_ne_bytes()[byte % 4]);
        bytes.into()
    }
}

impl fmt::Display for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Display for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_wire_bytes() {
        let v4: Ipv4Addr = "10.96.0.1".parse().expect("literal");
        assert_eq!(Addr4::from(v4).be32.to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(Ipv4Addr::from(Addr4::from(v4)), v4);
        let v6: Ipv6Addr = "fd00:10:96::1".parse().expect("literal");
        assert_eq!(Addr6::from(v6).be32[0].to_ne_bytes(), [0xfd, 0, 0, 0x10]);
        assert_eq!(Ipv6Addr::from(Addr6::from(v6)), v6);
        assert_eq!(Addr6::from(v6).to_string(), "fd00:10:96::1");
    }

    #[test]
    fn an_address_of_the_other_family_is_refused() {
        assert_eq!(Addr4::from_ip("::1".parse().expect("literal")), None);
        assert_eq!(Addr6::from_ip("127.0.0.1".parse().expect("literal")), None);
    }

    #[test]
    fn an_ipv4_address_may_be_written_as_one_of_ipv6() {
        let v4 = Addr4::from(Ipv4Addr::new(10, 96, 0, 1));
        let written = Addr6::from_mapped(v4);
        assert_eq!(written.to_string(), "::ffff:10.96.0.1");
        assert_eq!(written.to_mapped(), Some(v4));
        for other in ["::10.96.0.1", "::fffe:10.96.0.1", "1::ffff:0:1", "fd00::1"] {
            let other = Addr6::from(other.parse::<Ipv6Addr>().expect("literal"));
            assert_eq!(other.to_mapped(), None, "{other}");
        }
    }
}
