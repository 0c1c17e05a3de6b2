//! What the tables serve, as far as connections must be told apart.

use std::{collections::BTreeMap, net::SocketAddr, path::Path};

use lb_common::flow::slot::BackendRef;

use super::{
    TakeoverError,
    entry::{Entry, Tuple},
};
use crate::apply::{BpfMaps, LbMaps as _};

/// Frontends and backends.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Ids of services, by protocol and address.
    frontends: BTreeMap<(u8, SocketAddr), u32>,
    /// By service and address.
    backends: BTreeMap<(u32, SocketAddr), BackendRef>,
}

impl Services {
    /// Those of the tables in a directory.
    pub(super) fn read(pins: &Path) -> Result<Self, TakeoverError> {
        let maps = BpfMaps::open(pins)?;
        let frontends = maps.services()?;
        let frontends = frontends.iter().filter(|(key, _)| key.proto != 0);
        let frontends = frontends
            .map(|(key, service)| ((key.proto, SocketAddr::new(key.addr, key.port)), service.id));
        let backends = maps.backends()?;
        let backends = backends.iter().filter(|(_, row)| row.service != 0);
        let backends = backends.map(|(id, row)| {
            let chosen = BackendRef {
                id: id.id,
                generation: row.generation,
            };
            ((row.service, SocketAddr::new(row.addr, row.port)), chosen)
        });
        Ok(Self {
            frontends: frontends.collect(),
            backends: backends.collect(),
        })
    }

    /// Whether this is what a client of a service sends.
    pub(super) fn is_served(&self, original: &Tuple) -> bool {
        self.service(original).is_some()
    }

    /// The backend of a connection that somebody else has translated.
    pub(super) fn backend(&self, entry: &Entry) -> Option<BackendRef> {
        let service = self.service(&entry.original)?;
        self.backends.get(&(service, entry.reply.source)).copied()
    }

    fn service(&self, original: &Tuple) -> Option<u32> {
        let frontend = (original.protocol, original.destination);
        self.frontends.get(&frontend).copied()
    }
}
