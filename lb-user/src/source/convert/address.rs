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
            remarks.error(
                field,
                format!("`{text}` is no IP address; write it as 10.0.0.1 or fd00::1"),
            );
            None
        }
    }
}

/// The address of an endpoint: one that another node can reach.
///
/// As in the API, multicast is refused on the link only; elsewhere it is worth a warning.
pub(super) fn endpoint_ip(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let ip = ip(text, field, remarks)?;
    if let Some(wrong) = unreachable(ip) {
        let message = format!("{ip} is {wrong}, which no other node can reach; use another");
        remarks.error(field, message);
        return None;
    }
    if ip.is_multicast() {
        let message = format!("{ip} is a multicast address, from which nothing answers");
        remarks.warning(field, message);
    }
    Some(ip)
}

/// A service's own address. No range of a cluster has addresses of special use.
pub(super) fn cluster_ip(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpAddr> {
    let ip = ip(text, field, remarks)?;
    let multicast = ip.is_multicast().then_some("a multicast address");
    match unreachable(ip).or(multicast) {
        Some(wrong) => {
            let message = format!("{ip} is {wrong}, which no service can have; use another");
            remarks.error(field, message);
            None
        }
        None => Some(ip),
    }
}

/// Why an address has no meaning beyond one node or link.
fn unreachable(ip: IpAddr) -> Option<&'static str> {
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (
            v6.is_unicast_link_local(),
            v6.segments()[0] & 0xff0f == 0xff02,
        ),
    };
    match ip {
        _ if ip.is_unspecified() => Some("the unspecified address"),
        _ if ip.is_loopback() => Some("a loopback address"),
        _ if link_local => Some("a link-local address"),
        _ if link_multicast => Some("a link-local multicast address"),
        _ => None,
    }
}

/// The prefix in a field. Bits after its length are refused.
pub(super) fn cidr(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpNet> {
    let net = prefix(text, field, remarks)?;
    if net.addr() != net.network() {
        let message = format!("`{text}` has bits after its length; write {}", net.trunc());
        remarks.error(field, message);
        return None;
    }
    Some(net)
}

/// A prefix to compare addresses with: bits after its length are cut off with a warning, as every proxy does. The API
/// server refuses them in new objects since 1.36.
pub(super) fn range(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpNet> {
    let net = prefix(text, field, remarks)?;
    let cut = net.trunc();
    if cut != net {
        let message =
            format!("`{text}` has bits after its length and is read as {cut}; write that");
        remarks.warning(field, message);
    }
    Some(cut)
}

fn prefix(text: &str, field: &str, remarks: &mut Remarks) -> Option<IpNet> {
    let no_prefix = || format!("`{text}` is no prefix; write it as 10.0.0.0/24");
    let Some((address, length)) = text.split_once('/') else {
        remarks.error(field, no_prefix());
        return None;
    };
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length_number = length.parse().ok().filter(|_| digits);
    let mut of_address = Remarks::default();
    let ip = ip(address, field, &mut of_address);
    let net = ip
        .zip(length_number)
        .map(|(ip, length)| IpNet::new(ip, length));
    let Some(Ok(net)) = net else {
        remarks.error(field, no_prefix());
        return None;
    };
    let padded_length = length.len() > 1 && length.starts_with('0');
    if padded_length || !of_address.into_inner().is_empty() {
        let message = format!("`{text}` has leading zeros and is read as {net}; write that");
        remarks.warning(field, message);
    }
    Some(net)
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
    }

    #[test]
    fn addresses_that_no_other_node_can_reach_are_refused() {
        let cases = [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("fe80::1", true, true),
            ("169.254.1.1", true, true),
            ("0.0.0.0", true, true),
            ("::", true, true),
            ("224.0.0.1", true, true),
            ("ff02::1", true, true),
            ("224.0.1.1", false, true),
            ("ff05::1", false, true),
            ("240.0.0.1", false, false),
            ("10.0.0.1", false, false),
        ];
        for (text, no_endpoint, no_service) in cases {
            let read = |of: fn(&str, &str, &mut Remarks) -> Option<IpAddr>| {
                of(text, "f", &mut Remarks::default()).is_none()
            };
            assert_eq!(read(endpoint_ip), no_endpoint, "{text}");
            assert_eq!(read(cluster_ip), no_service, "{text}");
        }
    }

    #[test]
    fn prefixes_have_no_bits_after_their_length() {
        let of = |text: &str| {
            let mut remarks = Remarks::default();
            let net = cidr(text, "f", &mut remarks).map(|net| net.to_string());
            (net, remarks.texts())
        };
        assert_eq!(of("10.1.0.0/16"), (Some("10.1.0.0/16".to_owned()), vec![]));
        assert_eq!(of("fd00::/64"), (Some("fd00::/64".to_owned()), vec![]));
        for zeros in ["10.01.0.0/16", "10.1.0.0/016"] {
            let (net, texts) = of(zeros);
            assert_eq!(net.as_deref(), Some("10.1.0.0/16"));
            let expected = format!(
                "warning f: `{zeros}` has leading zeros and is read as 10.1.0.0/16; write that"
            );
            assert_eq!(texts, [expected]);
        }
        assert_eq!(
            of("10.1.2.3/16"),
            (
                None,
                vec![
                    "error f: `10.1.2.3/16` has bits after its length; write 10.1.0.0/16"
                        .to_owned()
                ]
            )
        );
        for wrong in [
            "10.1.2.3",
            "10.1.2.3/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "a/8",
            "::ffff:1.2.3.0/120",
        ] {
            let (net, texts) = of(wrong);
            assert_eq!(net, None, "{wrong}");
            assert_eq!(
                texts,
                [format!(
                    "error f: `{wrong}` is no prefix; write it as 10.0.0.0/24"
                )]
            );
        }
    }
}
