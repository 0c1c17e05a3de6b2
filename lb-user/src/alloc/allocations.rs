//! What services were given before: kept between runs, so that they find it again.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::net::addr::Family;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    model::object::{ObjectName, family_of},
    shared_map::SharedMap,
};

/// Addresses and node ports by service, kept between runs; in a file by `NAMESPACE/NAME`. A copy costs little.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocations(pub(super) SharedMap<ObjectName, Held>);

impl Serialize for Allocations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, held)| (name.to_string(), held)))
    }
}

impl<'de> Deserialize<'de> for Allocations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<String, Held>::deserialize(deserializer)?;
        let named = entries.into_iter().map(|(name, held)| {
            let (namespace, name) = name.split_once('/').ok_or_else(|| {
                let what = format!("{name:?} is no service; each is written NAMESPACE/NAME");
                D::Error::custom(what)
            })?;
            Ok((ObjectName::new(namespace, name), held))
        });
        named.collect::<Result<_, _>>().map(Self)
    }
}

/// What one service has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub(super) struct Held {
    pub(super) ips: Vec<IpAddr>,
    /// By the name of the service's port.
    pub(super) node_ports: BTreeMap<String, u16>,
    /// Also while the service has no use for it, so that it is the same one afterwards.
    pub(super) health_check_node_port: Option<u16>,
}

/// The form in a file: a list of addresses where there is nothing else, which is all that there once was.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Ips(Vec<IpAddr>),
    #[serde(rename_all = "camelCase")]
    All {
        ips: Vec<IpAddr>,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        node_ports: BTreeMap<String, u16>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_check_node_port: Option<u16>,
    },
}

impl From<Written> for Held {
    fn from(written: Written) -> Self {
        match written {
            Written::Ips(ips) => Self {
                ips,
                ..Self::default()
            },
            Written::All {
                ips,
                node_ports,
                health_check_node_port,
            } => Self {
                ips,
                node_ports,
                health_check_node_port,
            },
        }
    }
}

impl From<Held> for Written {
    fn from(held: Held) -> Self {
        let Held {
            ips,
            node_ports,
            health_check_node_port,
        } = held;
        if node_ports.is_empty() && health_check_node_port.is_none() {
            return Self::Ips(ips);
        }
        Self::All {
            ips,
            node_ports,
            health_check_node_port,
        }
    }
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The address of a family.
    pub(super) fn ip(&self, family: Family) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| family_of(*ip) == family)
    }

    pub(super) fn has_number(&self, number: u16) -> bool {
        self.node_ports.values().any(|it| *it == number)
            || self.health_check_node_port == Some(number)
    }
}

impl Allocations {
    /// What a service had; nothing if it was not there.
    pub(super) fn of(&self, service: &ObjectName) -> Option<&Held> {
        self.0.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_old_is_still_read_and_written_where_it_says_everything() {
        let old = r#"{"default/web":["10.96.1.2","fd00::2"]}"#;
        let read: Allocations = serde_json::from_str(old).expect("the form of old");
        assert_eq!(serde_json::to_string(&read).expect("plain data"), old);
        let new = r#"{"default/web":{"ips":["10.96.1.2"],"nodePorts":{"":30080,"dns":30053},"healthCheckNodePort":31000}}"#;
        let read: Allocations = serde_json::from_str(new).expect("the form of now");
        assert_eq!(
            read.0[&ObjectName::new("default", "web")].node_ports["dns"],
            30_053
        );
        assert_eq!(serde_json::to_string(&read).expect("plain data"), new);
    }

    #[test]
    fn what_names_no_service_is_said() {
        let read = serde_json::from_str::<Allocations>(r#"{"web":[]}"#);
        let error = read.expect_err("no namespace").to_string();
        assert!(error.contains("\"web\" is no service"), "{error}");
    }
}
