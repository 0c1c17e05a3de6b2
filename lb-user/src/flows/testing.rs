//! Flow tables in files, with connections that `lb-common` opened.

use std::{fs::File, net::SocketAddr, os::fd::AsFd as _};

use lb_common::{
    abi::{FlowSlot, NodeConfig, Plain, SlotLayout},
    flow::{
        FlowKey, Rewrite,
        clock::Tick,
        slot::{BackendRef, SlotFlags, State},
        table::{Existing, FlowTable, NewFlow},
    },
    net::{
        addr::{Addr, Addr4, Addr6},
        ip::Ends,
    },
};

use super::{
    FlowTables, Table,
    memory::{Access, FlowMemory},
};

/// The moment at which tests begin.
pub(super) const NOW: Tick = 1_000_000;
pub(super) const POSITIONS: u32 = 1 << 10;
const TCP: u8 = 6;

/// Both tables, empty.
pub(super) fn tables() -> FlowTables {
    FlowTables {
        v4: vec![memory::<Addr4>(POSITIONS)],
        v6: vec![memory::<Addr6>(POSITIONS)],
        node: NodeConfig::DEFAULT,
    }
}

/// Another table, empty and twice as large.
pub(super) fn larger() -> FlowMemory<Addr4> {
    memory(2 * POSITIONS)
}

fn memory<A: Addr>(positions: u32) -> FlowMemory<A>
where
    FlowSlot<A>: Plain,
{
    memory_in(positions, SlotLayout::OWN)
}

/// An empty table in some layout.
pub(super) fn memory_in<A: Addr>(positions: u32, layout: SlotLayout) -> FlowMemory<A>
where
    FlowSlot<A>: Plain,
{
    let file: File = tempfile::tempfile().expect("a temporary file");
    let n_bytes = positions as usize * layout.slot_size::<A>();
    file.set_len(n_bytes as u64).expect("room");
    FlowMemory::map(file.as_fd(), (positions, layout), Access::Write).expect("mapped")
}

/// One connection, its addresses as texts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spec {
    pub(super) client: &'static str,
    pub(super) dialled: &'static str,
    pub(super) backend: &'static str,
    pub(super) source: &'static str,
    pub(super) id: u32,
    /// How its source is exchanged.
    pub(super) kind: SlotFlags,
}

pub(super) const WEB: Spec = Spec {
    client: "10.244.1.9:40000",
    dialled: "10.96.0.10:80",
    backend: "10.244.2.2:8080",
    source: "10.244.1.9:40000",
    id: 7,
    kind: SlotFlags(0),
};

pub(super) const OTHER: Spec = Spec {
    client: "10.244.1.9:40001",
    source: "10.244.1.9:40001",
    ..WEB
};

pub(super) const WEB6: Spec = Spec {
    client: "[fd00:1::9]:40000",
    dialled: "[fd00:96::10]:80",
    backend: "[fd00:2::2]:8080",
    source: "[fd00:1::1]:61000",
    id: 7,
    kind: SlotFlags(0),
};

impl Spec {
    fn key<A: Addr>(&self) -> FlowKey<A> {
        let (client, dialled) = (at(self.client), at(self.dialled));
        FlowKey {
            ends: Ends {
                src: addr(client),
                dst: addr(dialled),
            },
            sport: client.port(),
            dport: dialled.port(),
            proto: TCP,
        }
    }

    fn flow<A: Addr>(&self) -> NewFlow<A> {
        let (source, backend) = (at(self.source), at(self.backend));
        NewFlow {
            rewrite: Rewrite {
                ends: Ends {
                    src: addr(source),
                    dst: addr(backend),
                },
                sport: source.port(),
                dport: backend.port(),
            },
            backend: BackendRef {
                id: self.id,
                generation: 1,
            },
            local: true,
            source: self.kind,
            ..NewFlow::default()
        }
    }

    /// Opens it, as the first packet does.
    pub(super) fn open<A: Addr>(&self, table: &Table<'_, A>, existing: Existing)
    where
        FlowSlot<A>: Plain,
    {
        let opened = table.open(&self.key(), &mut self.flow(), existing);
        opened.expect("there is room");
    }

    /// Moves it on, as a packet of the client's does.
    pub(super) fn advance<A: Addr>(&self, table: &Table<'_, A>, state: State)
    where
        FlowSlot<A>: Plain,
    {
        let found = table.find(&self.key()).expect("it is open");
        found.slot.set_last_seen(table.now());
        found.slot.count(100);
        table.advance(&found, state);
    }

    /// Whether its packets are translated, and the answers.
    pub(super) fn is_there<A: Addr>(&self, table: &Table<'_, A>) -> [bool; 2]
    where
        FlowSlot<A>: Plain,
    {
        let mut reply = FlowKey::default();
        self.flow().rewrite.answered_by(TCP, &mut reply);
        [self.key(), reply].map(|key| table.find(&key).is_some())
    }
}

/// Does something with one family's table at a moment.
pub(super) fn with4<T>(
    tables: &FlowTables,
    now: Tick,
    work: impl FnOnce(&Table<'_, Addr4>) -> T,
) -> T {
    let memory = &tables.v4[0];
    work(&FlowTable::new(&memory, memory.mask(), &tables.node, now))
}

/// The same for IPv6.
pub(super) fn with6<T>(
    tables: &FlowTables,
    now: Tick,
    work: impl FnOnce(&Table<'_, Addr6>) -> T,
) -> T {
    let memory = &tables.v6[0];
    work(&FlowTable::new(&memory, memory.mask(), &tables.node, now))
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn addr<A: Addr>(addr: SocketAddr) -> A {
    A::from_ip(addr.ip()).expect("of the family")
}
