//! Which service a connection belongs to.

use std::collections::BTreeMap;

use lb_common::abi::Service;

use super::connection::Connection;
use crate::{
    apply::{LbMaps, TableError},
    plan::{BackendId, BackendRow, FrontendKey},
};

/// What the tables say of backends and service addresses at one moment.
#[derive(Debug, Default)]
pub struct Owners {
    backends: BTreeMap<BackendId, BackendRow>,
    services: BTreeMap<FrontendKey, Service>,
}

impl Owners {
    /// Reads the tables.
    pub fn read(maps: &impl LbMaps) -> Result<Self, TableError> {
        Ok(Self {
            backends: maps.backends()?,
            services: maps.services()?,
        })
    }

    /// The id of the service port: the one that the connection's backend serves, or where that is nobody's any more the
    /// one that has the dialled address now.
    pub fn service(&self, connection: &Connection) -> Option<u32> {
        let Connection {
            family,
            protocol,
            dialled,
            backend_ref,
            ..
        } = *connection;
        let id = backend_ref.id;
        let backend = self.backends.get(&BackendId { family, id });
        let backend = backend.filter(|row| row.generation == backend_ref.generation);
        let of_backend = backend.map(|row| row.service).filter(|id| *id != 0);
        of_backend.or_else(|| {
            let key = FrontendKey {
                addr: dialled.ip(),
                port: dialled.port(),
                proto: protocol,
                pad: 0,
            };
            self.services.get(&key).map(|service| service.id)
        })
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{flow::slot::BackendRef, net::addr::Family};

    use super::*;
    use crate::flows::connection::{Sent, Stage};

    const ID: BackendId = BackendId {
        family: Family::V4,
        id: 7,
    };

    fn service_of(generation: u16, owner: u32) -> Option<u32> {
        let at = |text: &str| text.parse::<std::net::SocketAddr>().expect("literal");
        let backend = BackendRow {
            addr: at("10.244.2.2:0").ip(),
            service: owner,
            port: 8080,
            generation: 3,
            flags: 0,
        };
        let dialled = at("10.96.0.10:80");
        let key = FrontendKey {
            addr: dialled.ip(),
            port: 80,
            proto: 6,
            pad: 0,
        };
        let service = Service {
            id: 21,
            ..Service::default()
        };
        let owners = Owners {
            backends: [(ID, backend)].into(),
            services: [(key, service)].into(),
        };
        owners.service(&Connection {
            family: Family::V4,
            protocol: 6,
            client: at("10.244.1.9:40000"),
            dialled,
            backend: at("10.244.2.2:8080"),
            source: at("10.244.1.9:40000"),
            backend_ref: BackendRef { id: 7, generation },
            stage: Stage::Established,
            age: 0,
            remaining: 0,
            by_client: Sent::default(),
            by_backend: Sent::default(),
            is_local: false,
        })
    }

    #[test]
    fn a_connection_belongs_to_the_service_of_its_backend_while_that_is_the_same() {
        assert_eq!(service_of(3, 20), Some(20));
        assert_eq!(
            service_of(2, 20),
            Some(21),
            "the number is another endpoint's"
        );
        assert_eq!(service_of(3, 0), Some(21), "the number is nobody's");
    }
}
