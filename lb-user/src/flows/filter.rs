//! Which connections are meant.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use super::connection::{Connection, Stage};
use crate::desired::Protocol;

/// What a connection must be like; what is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Service ids of the tables.
    pub services: Option<BTreeSet<u32>>,
    /// The client.
    pub from: Option<End>,
    /// What it dialled.
    pub to: Option<End>,
    /// The backend.
    pub backend: Option<End>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// How far it has come: one of these, if any are given.
    pub stages: Vec<Stage>,
}

/// One end of connections: an address or a prefix, and with an address perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    net: IpNet,
    port: Option<u16>,
}

/// A service as flags name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    namespace: String,
    name: String,
    /// The port's name.
    port: Option<String>,
}

/// Why a text names no end or no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No end.
    #[error("not an address; write IP, IP:PORT, [IPv6]:PORT or a prefix as in 10.244.0.0/16")]
    End,
    /// No service.
    #[error(
        "not a service; write NAMESPACE/NAME or NAMESPACE/NAME:PORT, where PORT is a port's name"
    )]
    Service,
}

impl Filter {
    /// Whether a connection is meant; `service` is the id of the service that it belongs to, where that is known.
    pub fn matches(&self, connection: &Connection, service: impl FnOnce() -> Option<u32>) -> bool {
        let is_at = |end: &Option<End>, addr| end.is_none_or(|end| end.contains(addr));
        let protocol = self.protocol.map(Protocol::number);
        protocol.is_none_or(|protocol| protocol == connection.protocol)
            && (self.stages.is_empty() || self.stages.contains(&connection.stage))
            && is_at(&self.from, connection.client)
            && is_at(&self.to, connection.dialled)
            && is_at(&self.backend, connection.backend)
            && self
                .services
                .as_ref()
                .is_none_or(|wanted| service().is_some_and(|id| wanted.contains(&id)))
    }
}

impl End {
    fn contains(&self, addr: SocketAddr) -> bool {
        self.net.contains(&addr.ip()) && self.port.is_none_or(|port| port == addr.port())
    }
}

impl FromStr for End {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            let (net, port) = (addr.ip().into(), Some(addr.port()));
            return Ok(Self { net, port });
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let addr = bare.unwrap_or(text).parse::<IpAddr>().map(IpNet::from);
        let net = addr.or_else(|_| text.parse::<IpNet>());
        Ok(Self {
            // As people copy it from a device: the address and its prefix.
            net: net.map_err(|_| FilterError::End)?.trunc(),
            port: None,
        })
    }
}

impl ServiceName {
    /// Whether this is what an agent calls a service port: `NAMESPACE/NAME[:PORT] PROTOCOL FAMILY`.
    pub fn names(&self, text: &str) -> bool {
        let text = text.split(' ').next().unwrap_or_default();
        text.parse::<Self>().is_ok_and(|it| {
            let is_port = self.port.is_none() || self.port == it.port;
            is_port && (&self.namespace, &self.name) == (&it.namespace, &it.name)
        })
    }
}

impl FromStr for ServiceName {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, rest) = text.split_once('/').ok_or(FilterError::Service)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        let is_word = |text: &str| !text.is_empty() && !text.contains(['/', ':']);
        if !is_word(namespace) || !is_word(name) || !port.is_none_or(is_word) {
            return Err(FilterError::Service);
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port: port.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::net::addr::Family;

    use super::*;

    fn connection() -> Connection {
        let at = |text: &str| text.parse().expect("literal");
        Connection {
            family: Family::V4,
            protocol: 6,
            client: at("10.244.1.9:40000"),
            dialled: at("10.96.0.10:80"),
            backend: at("10.244.2.2:8080"),
            source: at("192.0.2.1:61000"),
            backend_ref: lb_common::flow::slot::BackendRef::default(),
            stage: Stage::Established,
            age: 0,
            remaining: 0,
            by_client: super::super::connection::Sent::default(),
            by_backend: super::super::connection::Sent::default(),
            is_local: false,
        }
    }

    fn end(text: &str) -> End {
        text.parse().expect("an end")
    }

    #[test]
    fn ends_are_addresses_with_and_without_ports_and_prefixes() {
        for (text, meant) in [
            ("10.244.1.9", true),
            ("10.244.1.9:40000", true),
            ("10.244.1.9:40001", false),
            ("10.244.0.0/16", true),
            ("10.244.1.1/16", true),
            ("10.245.0.0/16", false),
            ("[fd00::1]:40000", false),
            ("fd00::/8", false),
            ("[fd00::1]", false),
        ] {
            let filter = Filter {
                from: Some(end(text)),
                ..Filter::default()
            };
            assert_eq!(filter.matches(&connection(), || None), meant, "{text}");
        }
        for text in ["", "10.244.1", "10.244.1.9:", "10.0.0.0/8:80", "web"] {
            assert_eq!(text.parse::<End>(), Err(FilterError::End), "{text}");
        }
    }

    type Change = fn(&mut Filter);

    #[test]
    fn every_part_of_a_filter_counts() {
        let is_meant = |service, change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.matches(&connection(), || service)
        };
        assert!(is_meant(None, |_| {}));
        let changes: [(Change, bool); 10] = [
            (|filter| filter.to = Some(end("10.96.0.10:80")), true),
            (|filter| filter.to = Some(end("10.244.2.2")), false),
            (|filter| filter.backend = Some(end("10.244.2.2")), true),
            (|filter| filter.backend = Some(end("10.244.1.9")), false),
            (|filter| filter.protocol = Some(Protocol::Tcp), true),
            (|filter| filter.protocol = Some(Protocol::Udp), false),
            (
                |filter| filter.stages = vec![Stage::Closed, Stage::Established],
                true,
            ),
            (|filter| filter.stages = vec![Stage::Closed], false),
            (|filter| filter.services = Some([3, 7].into()), true),
            (|filter| filter.services = Some([3].into()), false),
        ];
        for (n, (change, meant)) in changes.into_iter().enumerate() {
            assert_eq!(is_meant(Some(7), change), meant, "change {n}");
        }
        let of_seven: fn(&mut Filter) = |filter| filter.services = Some([7].into());
        assert!(!is_meant(None, of_seven), "nobody knows whose it is");
    }

    #[test]
    fn services_have_a_namespace_and_perhaps_a_port() {
        let name = |text: &str| text.parse::<ServiceName>();
        for text in ["web", "/web", "a/", "a/b/c", "a/b:", "a/:http", ""] {
            assert_eq!(name(text), Err(FilterError::Service), "{text}");
        }
        let is = |text: &str, of_agent: &str| name(text).expect(text).names(of_agent);
        assert!(is("a/web", "a/web:http TCP IPv4") && is("a/web:http", "a/web:http TCP IPv6"));
        assert!(is("a/web", "a/web UDP IPv4") && !is("a/web:http", "a/web TCP IPv4"));
        assert!(!is("a/web", "b/web TCP IPv4") && !is("a/web", "a/web-2 TCP IPv4"));
    }
}
