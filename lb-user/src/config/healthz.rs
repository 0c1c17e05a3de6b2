//! `--healthz-bind-address`: where the agent is asked how it fares.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// kube-proxy's port, which load balancers outside ask by default.
const PORT: u16 = 10256;
/// What is written where nobody shall ask.
const NONE: &str = "none";

/// An address with a port, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthzAddress(pub Option<SocketAddr>);

/// A value that says no address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a port as in 0.0.0.0:{PORT} or [::1]:{PORT}, and not {NONE}")]
pub struct HealthzAddressError;

impl Default for HealthzAddress {
    fn default() -> Self {
        Self(Some((Ipv4Addr::UNSPECIFIED, PORT).into()))
    }
}

impl fmt::Display for HealthzAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str(NONE),
        }
    }
}

impl FromStr for HealthzAddress {
    type Err = HealthzAddressError;

    /// An address without a port has the usual one, as with kube-proxy.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NONE {
            return Ok(Self(None));
        }
        let bare = text.parse::<IpAddr>().map(|ip| (ip, PORT).into());
        let address: SocketAddr = text.parse().or(bare).map_err(|_| HealthzAddressError)?;
        // The kernel would choose one, and nobody would know which.
        if address.port() == 0 {
            return Err(HealthzAddressError);
        }
        Ok(Self(Some(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (text, shown) in [
            ("0.0.0.0:10256", "0.0.0.0:10256"),
            ("[::]:1234", "[::]:1234"),
            ("192.0.2.1", "192.0.2.1:10256"),
            ("::1", "[::1]:10256"),
            ("none", "none"),
        ] {
            let address: HealthzAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), shown);
        }
        assert_eq!(HealthzAddress::default().to_string(), "0.0.0.0:10256");
        for text in [
            "",
            "None",
            "10256",
            ":10256",
            "host:1",
            "0.0.0.0:0",
            "0.0.0.0:65536",
        ] {
            assert_eq!(
                text.parse::<HealthzAddress>(),
                Err(HealthzAddressError),
                "{text}"
            );
        }
    }
}
