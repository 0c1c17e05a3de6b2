//! IP addresses and prefixes as old manifests may spell them.
//!
//! Leading zeros are decimal, as Kubernetes has always read them ("172.30.0.041" ends in 41); the API
//! server refuses them in new objects since 1.36, so that they are used with a warning.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::Remarks;

/// The address in a field.
pub(super) fn ip(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let (ip, padded) = match text.parse() {
        Ok(ip) => (Some(ip), false),
        Err(_) => (padded(text), true),
    };
    match ip {
        Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            remarks.error(
                field,
                format!("`{text}` is an IPv4 address in IPv6 form; write it plainly"),
            );
            None
        }
        Some(ip) => {
            if padded {
                let message = format!("`{text}` has leading zeros and is read as {ip}; write that");
                remarks.warning(field, message);
            }
            Some(ip)
        }
        None => {
            remarks.error(field, format!("`{text}` is no IP address"));
            None
        }
    }
}

/// The address of an endpoint: one that another node can reach.
pub(super) fn endpoint_ip(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let ip = ip(text, field, remarks)?;
    let wrong = match ip {
        _ if ip.is_unspecified() => "unspecified",
        _ if ip.is_loopback() => "a loopback address",
        _ if ip.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_link_local() => "a link-local address",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "a link-local address",
        _ => return Some(ip),
    };
    remarks.error(
        field,
        format!("{ip} is {wrong}, which no other node can reach"),
    );
    None
}

/// The prefix in a field, host bits cleared.
pub(super) fn cidr(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpNet> {
    let parts = text
        .split_once('/')
        .and_then(|(ip, len)| Some((ip, len.parse::<u8>().ok()?)));
    let net = parts.and_then(|(address, len)| {
        let ip = ip(address, field, &mut Remarks::default())?;
        IpNet::new(ip, len).ok()
    });
    if net.is_none() {
        remarks.error(
            field,
            format!("`{text}` is no prefix; write it as 10.0.0.0/24"),
        );
    }
    net.map(|net| net.trunc())
}

fn padded(text: &str) -> Option<IpAddr> {
    let mut octets = text.split('.').map(|part| {
        let digits =
            !part.is_empty() && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u8>().ok()).flatten()
    });
    let (Some(Some(a)), Some(Some(b)), Some(Some(c)), Some(Some(d)), None) = (
        octets.next(),
        octets.next(),
        octets.next(),
        octets.next(),
        octets.next(),
    ) else {
        return None;
    };
    Some(Ipv4Addr::new(a, b, c, d).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<IpAddr>, Vec<super::super::Remark>) {
        let mut remarks = Remarks::default();
        (ip(text, "f", &mut remarks), remarks.into_inner())
    }

    #[test]
    fn leading_zeros_are_decimal_and_warned_of() {
        let (ip, remarks) = read("172.30.0.041");
        assert_eq!(ip, Some(Ipv4Addr::new(172, 30, 0, 41).into()));
        assert_eq!(remarks.len(), 1);
        assert_eq!(read("10.0.0.1").1, []);
        assert_eq!(read("fd00::1").1, []);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "10.0.0",
            "10.0.0.1.2",
            "10.0.0.256",
            "0x10.0.0.1",
            "a",
            "::ffff:1.2.3.4",
        ] {
            let (ip, remarks) = read(text);
            assert_eq!(ip, None, "{text}");
            assert_eq!(remarks.len(), 1, "{text}");
        }
        for text in [
            "127.0.0.1",
            "::1",
            "fe80::1",
            "169.254.1.1",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert_eq!(
                endpoint_ip(text, "f", &mut Remarks::default()),
                None,
                "{text}"
            );
        }
    }

    #[test]
    fn prefixes_lose_their_host_bits() {
        let net = cidr("10.1.2.3/16", "f", &mut Remarks::default()).expect("a prefix");
        assert_eq!(net.to_string(), "10.1.0.0/16");
        assert_eq!(cidr("10.1.2.3", "f", &mut Remarks::default()), None);
        assert_eq!(cidr("10.1.2.3/33", "f", &mut Remarks::default()), None);
    }
}
