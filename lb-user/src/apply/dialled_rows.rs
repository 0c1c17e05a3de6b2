//! What sockets have dialled, as rows.

use std::net::SocketAddr;

use aya::maps::{HashMap, MapData};
use lb_common::{
    abi::{Dialled, DialledKey, Plain, dialled::BACKEND_OF},
    net::addr::Addr,
};
use serde_json::json;

use super::{pod::Raw, rows::Table};

/// A row for each entry, by socket; entries that go meanwhile end the list.
pub(super) fn dialled<A: Addr>(map: &HashMap<MapData, Raw<DialledKey<A>>, Raw<Dialled<A>>>) -> Table
where
    DialledKey<A>: Plain,
{
    let mut entries: Vec<_> = map.iter().map_while(Result::ok).collect();
    entries.sort_unstable_by_key(|(Raw(key), _)| *key);
    let row = |(Raw(key), Raw(other)): (Raw<DialledKey<A>>, Raw<Dialled<A>>)| {
        let [high, low] = key.socket.map(u64::from);
        let asks = if key.asks == BACKEND_OF {
            "backend"
        } else {
            "service"
        };
        let end = |addr: A, port| json!(SocketAddr::new(addr.to_ip(), port).to_string());
        vec![
            json!(high << 32 | low),
            json!(key.proto),
            end(key.addr, key.port),
            json!(asks),
            end(other.addr, other.port),
            json!(other.backend),
            json!(other.generation),
        ]
    };
    Table {
        columns: vec![
            "socket",
            "protocol",
            "of",
            "asks",
            "is",
            "backend",
            "generation",
        ],
        rows: entries.into_iter().map(row).collect(),
    }
}
