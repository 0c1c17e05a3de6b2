//! ICMP errors as a receiver reads them: whole packets, with everything checked that a stack checks.
//!
//! Independent of the datapath's own code on purpose: what both got wrong together would not show.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};

/// What an error says is wrong with the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is larger than the next way takes: this many bytes.
    TooBig(u32),
    /// It may not go on.
    TimeExceeded,
}

/// An ICMP error of either family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who sent it.
    pub from: IpAddr,
    /// To whom.
    pub to: IpAddr,
    /// What it says.
    pub kind: Kind,
    /// The beginning of the packet that it is about.
    pub quote: Vec<u8>,
}

/// Bytes of an ICMP header of either family.
const ICMP: usize = 8;
/// Longest ICMP error over IPv4 (RFC 1812 section 4.3.2.3).
const MAX_V4: usize = 576;
/// Longest ICMP error over IPv6 (RFC 4443 section 2.4 (c)).
const MAX_V6: usize = 1280;

/// Whether a packet is a Too Big or time exceeded, right or not.
pub fn is_error(packet: &[u8]) -> bool {
    match packet {
        [0x45, rest @ ..] => {
            rest.get(8) == Some(&1) && matches!(rest.get(19..21), Some([3, 4] | [11, 0]))
        }
        [first, rest @ ..] if first >> 4 == 6 => {
            rest.get(5) == Some(&58) && matches!(rest.get(39), Some(2 | 3))
        }
        _ => false,
    }
}

/// Reads an error, from its IP header on; fails where a stack would not accept it.
pub fn read(packet: &[u8]) -> Result<IcmpError> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => read_v4(packet),
        Some(6) => read_v6(packet),
        _ => bail!("not an IP packet"),
    }
}

/// Fails unless `error` quotes the beginning of `sent`, and as much of it as it may.
pub fn check_quote(error: &IcmpError, sent: &[u8]) -> Result<()> {
    let most = match error.from {
        IpAddr::V4(_) => MAX_V4 - 20 - ICMP,
        IpAddr::V6(_) => MAX_V6 - 40 - ICMP,
    };
    let quoted = error.quote.len();
    ensure!(
        quoted == sent.len().min(most),
        "{quoted} bytes are quoted of {}, at most {most} may be",
        sent.len()
    );
    let wrong = (0..quoted).find(|at| error.quote[*at] != sent[*at]);
    if let Some(at) = wrong {
        bail!(
            "the quote differs from byte {at} on:\n  quoted {:02x?}\n  sent   {:02x?}",
            &error.quote[..quoted.min(64)],
            &sent[..quoted.min(64)]
        );
    }
    Ok(())
}

fn read_v4(packet: &[u8]) -> Result<IcmpError> {
    let (header, icmp) = packet.split_at_checked(20).context("no whole header")?;
    ensure!(header[0] == 0x45, "a header with options");
    ensure!(word(header, 2) == packet.len(), "the length is wrong");
    ensure!(sum(&[header]) == 0xffff, "the header's checksum is wrong");
    ensure!(sum(&[icmp]) == 0xffff, "the checksum is wrong");
    let (fields, quote) = icmp.split_at_checked(ICMP).context("no whole error")?;
    let kind = match fields {
        [3, 4, ..] => Kind::TooBig(u32::try_from(word(fields, 6))?),
        [11, 0, ..] => Kind::TimeExceeded,
        _ => bail!("type {} code {}", fields[0], fields[1]),
    };
    let address = |at: usize| {
        let bytes: [u8; 4] = header[at..at + 4].try_into()?;
        Ok::<_, anyhow::Error>(Ipv4Addr::from(bytes).into())
    };
    Ok(IcmpError {
        from: address(12)?,
        to: address(16)?,
        kind,
        quote: quote.into(),
    })
}

fn read_v6(packet: &[u8]) -> Result<IcmpError> {
    let (header, icmp) = packet.split_at_checked(40).context("no whole header")?;
    ensure!(word(header, 4) == icmp.len(), "the length is wrong");
    let next = [0, 0, 0, header[6]];
    let len = u32::try_from(icmp.len())?.to_be_bytes();
    ensure!(
        sum(&[&header[8..], &len, &next, icmp]) == 0xffff,
        "the checksum is wrong"
    );
    let (fields, quote) = icmp.split_at_checked(ICMP).context("no whole error")?;
    let number = u32::try_from((word(fields, 4) << 16) | word(fields, 6))?;
    let kind = match fields {
        [2, 0, ..] => Kind::TooBig(number),
        [3, 0, ..] => Kind::TimeExceeded,
        _ => bail!("type {} code {}", fields[0], fields[1]),
    };
    let address = |at: usize| {
        let bytes: [u8; 16] = header[at..at + 16].try_into()?;
        Ok::<_, anyhow::Error>(Ipv6Addr::from(bytes).into())
    };
    Ok(IcmpError {
        from: address(8)?,
        to: address(24)?,
        kind,
        quote: quote.into(),
    })
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

/// The one's-complement sum over these parts; all but the last have an even length (RFC 1071).
fn sum(parts: &[&[u8]]) -> u64 {
    let bytes = parts.concat();
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Too Big of 1400 about 28 bytes that begin with 0x45, as a Linux router sent it.
    fn too_big() -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 3, 4, 0, 0, 0, 0, 5,
            120, 0x45,
        ];
        packet.resize(56, 7);
        let (header, icmp) = packet.split_at_mut(20);
        for (part, at) in [(header, 10), (icmp, 2)] {
            let checksum = u16::try_from(!sum(&[part]) & 0xffff).unwrap();
            part[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        packet
    }

    #[test]
    fn an_error_is_read_and_its_checksums_are_looked_at() {
        let packet = too_big();
        assert!(is_error(&packet));
        let error = read(&packet).unwrap();
        assert_eq!(error.kind, Kind::TooBig(1400));
        assert_eq!(error.to, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(error.quote.len(), 28);
        for at in [4, 26, 40] {
            let mut wrong = packet.clone();
            wrong[at] ^= 1;
            assert!(read(&wrong).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_quote_is_the_beginning_of_what_was_sent_and_as_long_as_it_may_be() {
        let error = read(&too_big()).unwrap();
        check_quote(&error, &error.quote).unwrap();
        let longer = [&error.quote[..], &[1]].concat();
        assert!(check_quote(&error, &longer).is_err());
        let mut other = error.quote.clone();
        other[9] ^= 1;
        assert!(check_quote(&error, &other).is_err());
    }
}
