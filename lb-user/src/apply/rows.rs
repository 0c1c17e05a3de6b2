//! The maps as `fulcrum maps` shows them: a list of all, and the rows of one.
//!
//! Reads pins, so it works with no agent running. Shows only what is in use: no free backend, no
//! unused slot, no flow that is not published. Each row is read once; rows that change meanwhile may
//! be from different moments. Never writes.

use std::{collections::BTreeMap, fs, io, os::fd::AsFd as _, os::fd::AsRawFd as _, path::Path};

use aya::maps::{DevMapHash, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, FlowSlot, Fragment, HeldPiece, NextHop, PlaceKey, Plain,
        Reason, Service, ServiceKey, SlotLayout, SlotRange, Source, SourceKey, former::FormerSlot,
        map, place::NODE_SPACE, takeover,
    },
    flow::{
        Direction,
        slot::{SlotFlags, StateWord},
    },
    fragment::shelf::State,
    net::addr::{Addr, Addr4, Addr6},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    bpf::{place, typed},
    dialled_rows::dialled,
    dump::{Names, flag_names, frontend_flag_names},
    flow_rows::FlowRows,
    layout::{MapError, MapKind, SHAPES, errno, open_flow_table, open_pinned, shape_of},
    pod::Raw,
};
use crate::{
    plan::{FrontendKey, display_key},
    sys::Rows,
};

/// Rows under columns, for people and for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Names of the columns; the keys in JSON.
    pub columns: Vec<&'static str>,
    /// One value per column.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    /// The cells as text, row by row.
    pub fn cells(&self) -> impl Iterator<Item = Vec<String>> + '_ {
        self.rows.iter().map(|row| row.iter().map(cell).collect())
    }

    /// An array with one object per row.
    pub fn to_json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let columns = self.columns.iter().map(|column| (*column).to_owned());
            Value::Object(columns.zip(row.iter().cloned()).collect())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

/// One map in the list of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapInfo {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Entries that it can hold.
    pub max_entries: u32,
    /// Entries in use, as [`dump_rows`] shows them.
    pub entries: usize,
    /// Bytes of kernel memory, where the kernel tells.
    pub memory: Option<u64>,
}

/// All maps that are pinned in a directory.
pub fn maps_table(pin_dir: &Path) -> Result<Vec<MapInfo>, MapError> {
    SHAPES
        .iter()
        .map(|shape| {
            let (map, layout) = open(pin_dir, shape.name)?;
            let kernel = |source| MapError::Kernel {
                name: shape.name,
                source,
            };
            let info = map.info().map_err(|error| kernel(errno(error)))?;
            let memory = memory(&map);
            Ok(MapInfo {
                name: shape.name,
                kind: shape.kind,
                key_size: shape.key_size,
                value_size: info.value_size(),
                max_entries: info.max_entries(),
                entries: rows(map, layout, shape.name, &|_| None)?.rows.len(),
                memory,
            })
        })
        .collect()
}

/// The rows of one pinned map that are in use.
pub fn dump_rows(pin_dir: &Path, name: &str, names: Names<'_>) -> Result<Table, MapError> {
    let name = shape_of(name)?.name;
    let (map, layout) = open(pin_dir, name)?;
    rows(map, layout, name, names)
}

/// A pinned map, and the layout of its slots if it is a flow table.
fn open(pin_dir: &Path, name: &str) -> Result<(MapData, SlotLayout), MapError> {
    if name == map::FLOWS4 || name == map::FLOWS6 {
        open_flow_table(pin_dir, name)
    } else {
        Ok((open_pinned(pin_dir, name)?, SlotLayout::OWN))
    }
}

fn rows(
    map: MapData,
    layout: SlotLayout,
    name: &'static str,
    names: Names<'_>,
) -> Result<Table, MapError> {
    let result = match name {
        map::SERVICES4 => services::<Addr4>(&typed(name, Map::HashMap(map))?, names),
        map::SERVICES6 => services::<Addr6>(&typed(name, Map::HashMap(map))?, names),
        map::SLOTS => slots(&map),
        map::BACKENDS4 => backends::<Addr4>(&map, names),
        map::BACKENDS6 => backends::<Addr6>(&map, names),
        map::FLOWS4 => flows::<Addr4>(&map, layout),
        map::FLOWS6 => flows::<Addr6>(&map, layout),
        map::NEXT_HOPS => next_hops(&map),
        map::COUNTERS => counters(&typed(name, Map::PerCpuArray(map))?),
        map::PLACES4 => places::<Addr4>(&typed(name, Map::LpmTrie(map))?),
        map::PLACES6 => places::<Addr6>(&typed(name, Map::LpmTrie(map))?),
        map::AFFINITY4 => Ok(affinity::<Addr4>(&typed(name, Map::HashMap(map))?, names)),
        map::AFFINITY6 => Ok(affinity::<Addr6>(&typed(name, Map::HashMap(map))?, names)),
        map::SOURCES4 => sources::<Addr4>(&typed(name, Map::HashMap(map))?),
        map::SOURCES6 => sources::<Addr6>(&typed(name, Map::HashMap(map))?),
        map::FRAGMENTS4 => fragments::<Addr4>(&map),
        map::FRAGMENTS6 => fragments::<Addr6>(&map),
        map::PIECES => pieces(&map),
        map::TAKEOVER => takeover(&map),
        map::XDP_DEVICES => xdp_devices(&typed(name, Map::DevMapHash(map))?),
        map::PEER_DEVICES => peer_devices(&typed(name, Map::HashMap(map))?),
        map::CONNECTIONS4 | map::CONNECTIONS6 => connections(&map),
        map::DIALLED4 => Ok(dialled::<Addr4>(&typed(name, Map::LruHashMap(map))?)),
        map::DIALLED6 => Ok(dialled::<Addr6>(&typed(name, Map::LruHashMap(map))?)),
        _ => {
            return Err(MapError::Unknown {
                name: name.to_owned(),
            });
        }
    };
    result.map_err(|source| MapError::Kernel { name, source })
}

fn services<A: Addr>(
    map: &HashMap<MapData, Raw<ServiceKey<A>>, Raw<Service>>,
    names: Names<'_>,
) -> io::Result<Table>
where
    ServiceKey<A>: Plain,
{
    let entries: Result<Vec<_>, _> = map.iter().collect();
    let mut entries = entries.map_err(errno)?;
    entries.sort_unstable_by_key(|(Raw(key), _)| (key.addr.to_ip(), key.port, key.proto));
    let row = |(Raw(key), Raw(service)): (Raw<ServiceKey<A>>, Raw<Service>)| {
        let ServiceKey {
            addr,
            port,
            proto,
            pad,
        } = key;
        let frontend = FrontendKey {
            addr: addr.to_ip(),
            port,
            proto,
            pad,
        };
        vec![
            json!(display_key(&frontend)),
            json!(names(service.id)),
            json!(service.id),
            json!(service.version),
            range(service.cluster),
            range(service.external_local),
            range(service.internal_local),
            json!(frontend_flag_names(service.flags)),
            json!(service.affinity_timeout_s),
            json!((service.guard != 0).then_some(service.guard)),
        ]
    };
    Ok(Table {
        columns: vec![
            "frontend",
            "service",
            "id",
            "version",
            "cluster",
            "external_local",
            "internal_local",
            "flags",
            "affinity_timeout_s",
            "guard",
        ],
        rows: entries.into_iter().map(row).collect(),
    })
}

fn takeover(map: &MapData) -> io::Result<Table> {
    let bits = [
        (takeover::FROM, "from"),
        (takeover::TO, "to"),
        (takeover::UP, "up"),
    ];
    let row = |(_, word): (u32, u32)| {
        let set = bits.iter().filter(|(bit, _)| word & bit != 0);
        let names: Vec<_> = set.map(|(_, name)| *name).collect();
        vec![json!(names.join(","))]
    };
    Ok(Table {
        columns: vec!["state"],
        rows: used::<u32>(map, |word| *word != 0)?.map(row).collect(),
    })
}

fn xdp_devices(map: &DevMapHash<MapData>) -> io::Result<Table> {
    devices(map.keys().collect())
}

fn peer_devices(map: &HashMap<MapData, u32, u32>) -> io::Result<Table> {
    devices(map.keys().collect())
}

fn devices(indexes: Result<Vec<u32>, aya::maps::MapError>) -> io::Result<Table> {
    let mut indexes = indexes.map_err(errno)?;
    indexes.sort_unstable();
    let rows = indexes.into_iter().map(|index| vec![json!(index)]);
    Ok(Table {
        columns: vec!["device"],
        rows: rows.collect(),
    })
}

fn slots(map: &MapData) -> io::Result<Table> {
    let used = used::<u32>(map, |id| *id != 0)?;
    let rows = used
        .map(|(slot, id)| vec![json!(slot), json!(id)])
        .collect();
    Ok(Table {
        columns: vec!["slot", "backend"],
        rows,
    })
}

fn connections(map: &MapData) -> io::Result<Table> {
    // One that is off may be below 0.
    let used = used::<u32>(map, |count| *count != 0)?;
    let rows = used
        .map(|(id, count)| vec![json!(id), json!(count.cast_signed())])
        .collect();
    Ok(Table {
        columns: vec!["backend", "connections"],
        rows,
    })
}

fn backends<A: Addr>(map: &MapData, names: Names<'_>) -> io::Result<Table>
where
    Backend<A>: Plain,
{
    let row = |(id, row): (u32, Backend<A>)| {
        vec![
            json!(id),
            json!(address(row.addr, row.port)),
            json!(names(row.service)),
            json!(row.service),
            json!(row.generation),
            json!(flag_names(row.flags)),
        ]
    };
    let used = used::<Backend<A>>(map, |row| row.service != 0)?;
    Ok(Table {
        columns: vec![
            "id",
            "address",
            "service",
            "service_id",
            "generation",
            "flags",
        ],
        rows: used.map(row).collect(),
    })
}

fn flows<A: Addr>(map: &MapData, layout: SlotLayout) -> io::Result<Table>
where
    FlowSlot<A>: Plain,
    FormerSlot<A>: Plain,
{
    let row = |(position, slot): (u32, FlowSlot<A>)| {
        let flags = SlotFlags(slot.flags);
        let direction = match flags.direction() {
            Direction::Original => "original",
            Direction::Reply => "reply",
        };
        vec![
            json!(position),
            json!(format!("{:?}", StateWord(slot.state).state())),
            json!(direction),
            json!(slot.proto),
            json!(address(slot.src, slot.sport)),
            json!(address(slot.dst, slot.dport)),
            json!(address(slot.new_src, slot.new_sport)),
            json!(address(slot.new_dst, slot.new_dport)),
            json!(slot.backend),
            json!(slot.generation),
            json!(slot.twin),
            json!(slot.last_seen),
            json!(slot.packets),
            json!(slot.bytes),
        ]
    };
    let slots = FlowRows::<A>::of(map, layout)?;
    let slots = slots.read(0, slots.len())?;
    let used = (0..)
        .zip(slots)
        .filter(|(_, slot)| StateWord(slot.state).published());
    Ok(Table {
        columns: vec![
            "position",
            "state",
            "direction",
            "protocol",
            "source",
            "destination",
            "new_source",
            "new_destination",
            "backend",
            "generation",
            "twin",
            "last_seen",
            "packets",
            "bytes",
        ],
        rows: used.map(row).collect(),
    })
}

fn next_hops(map: &MapData) -> io::Result<Table> {
    let row = |(index, hop): (u32, NextHop)| {
        let (dst_mac, src_mac) = hop.split_macs();
        vec![
            json!(index),
            json!(hop.ifindex),
            json!(hop.mtu),
            json!(mac(dst_mac)),
            json!(mac(src_mac)),
            json!(hop.valid_until),
            json!(hop.stamp),
        ]
    };
    let used = used::<NextHop>(map, |hop| hop.ifindex != 0)?;
    Ok(Table {
        columns: vec![
            "index",
            "ifindex",
            "mtu",
            "dst_mac",
            "src_mac",
            "valid_until",
            "stamp",
        ],
        rows: used.map(row).collect(),
    })
}

/// How often each reason was counted, by the pinned counters.
pub fn counts(pin_dir: &Path) -> Result<BTreeMap<Reason, u64>, MapError> {
    let name = map::COUNTERS;
    let counters = Map::PerCpuArray(open_pinned(pin_dir, name)?);
    let counters = typed(name, counters)?;
    let counts = Reason::ALL
        .iter()
        .map(|reason| Ok((*reason, count(&counters, *reason)?)));
    let counts: io::Result<_> = counts.collect();
    counts.map_err(|source| MapError::Kernel { name, source })
}

/// All rows of a pinned array.
pub fn read_rows<V: Plain>(pin_dir: &Path, name: &'static str) -> Result<Vec<V>, MapError> {
    let map = open_pinned(pin_dir, name)?;
    let rows = Rows::of(&map).and_then(|rows| rows.read(0, rows.len()));
    rows.map_err(|source| MapError::Kernel { name, source })
}

/// Writes rows of a pinned array, each where it says.
pub fn write_rows<V: Plain>(
    pin_dir: &Path,
    name: &'static str,
    rows: &[(u32, V)],
) -> Result<(), MapError> {
    let map = open_pinned(pin_dir, name)?;
    let written = Rows::of(&map).and_then(|table| {
        let mut rows = rows.iter();
        rows.try_for_each(|(at, row)| table.write(*at, &[*row]))
    });
    written.map_err(|source| MapError::Kernel { name, source })
}

fn count(map: &PerCpuArray<MapData, u64>, reason: Reason) -> io::Result<u64> {
    let per_cpu = map.get(&(reason as u32), 0).map_err(errno)?;
    Ok(per_cpu.iter().sum())
}

fn counters(map: &PerCpuArray<MapData, u64>) -> io::Result<Table> {
    let row = |reason: &Reason| {
        let count = count(map, *reason)?;
        let kind = format!("{:?}", reason.kind()).to_lowercase();
        let meaning = reason.meaning().trim();
        Ok(vec![
            json!(reason.name()),
            json!(kind),
            json!(count),
            json!(meaning),
        ])
    };
    let rows: io::Result<Vec<_>> = Reason::ALL.iter().map(row).collect();
    Ok(Table {
        columns: vec!["reason", "kind", "count", "meaning"],
        rows: rows?,
    })
}

fn affinity<A: Addr>(
    map: &HashMap<MapData, Raw<AffinityKey<A>>, Raw<Affinity>>,
    names: Names<'_>,
) -> Table
where
    AffinityKey<A>: Plain,
{
    // An entry that goes under the walk ends it.
    let mut entries: Vec<_> = map.iter().map_while(Result::ok).collect();
    entries.sort_unstable_by_key(|(Raw(key), _)| (key.client.to_ip(), key.service));
    let row = |(Raw(key), Raw(given)): (Raw<AffinityKey<A>>, Raw<Affinity>)| {
        vec![
            json!(key.client.to_string()),
            json!(names(key.service)),
            json!(key.service),
            json!(given.backend),
            json!(given.generation),
            json!(given.last_opened),
        ]
    };
    Table {
        columns: vec![
            "client",
            "service",
            "service_id",
            "backend",
            "generation",
            "last_opened",
        ],
        rows: entries.into_iter().map(row).collect(),
    }
}

fn sources<A: Addr>(map: &HashMap<MapData, Raw<SourceKey>, Raw<Source<A>>>) -> io::Result<Table> {
    let entries: Result<Vec<_>, _> = map.iter().collect();
    let mut entries = entries.map_err(errno)?;
    entries.sort_unstable_by_key(|(Raw(key), _)| *key);
    let row = |(Raw(key), Raw(source)): (Raw<SourceKey>, Raw<Source<A>>)| {
        vec![
            json!(key.ifindex),
            json!(key.at),
            json!(source.addr.to_string()),
            json!(source.count),
        ]
    };
    Ok(Table {
        columns: vec!["ifindex", "at", "address", "count"],
        rows: entries.into_iter().map(row).collect(),
    })
}

fn fragments<A: Addr>(map: &MapData) -> io::Result<Table>
where
    Fragment<A>: Plain,
{
    let row = |(position, record): (u32, Fragment<A>)| {
        vec![
            json!(position),
            json!(address(record.src, (record.ports & 0xffff) as u16)),
            json!(address(record.dst, (record.ports >> 16) as u16)),
            json!(record.proto),
            json!(record.id),
            json!(record.seen),
        ]
    };
    let used = used::<Fragment<A>>(map, |record| record.stamp != 0 && record.stamp & 1 == 0)?;
    Ok(Table {
        columns: vec![
            "position",
            "source",
            "destination",
            "protocol",
            "id",
            "seen",
        ],
        rows: used.map(row).collect(),
    })
}

fn pieces(map: &MapData) -> io::Result<Table> {
    let row = |(buffer, piece): (u32, HeldPiece)| {
        let ip = |words: [u32; 4]| match piece.key.kind >> 16 {
            0x0800 => Addr4::from_words(words).to_ip(),
            _ => Addr6::from_words(words).to_ip(),
        };
        vec![
            json!(buffer),
            json!(ip(piece.key.src)),
            json!(ip(piece.key.dst)),
            json!(piece.key.id),
            json!(piece.ifindex),
            json!(piece.len),
            json!(piece.held_at),
        ]
    };
    let used = used::<HeldPiece>(map, |piece| piece.state & 3 == State::Held as u32)?;
    Ok(Table {
        columns: vec![
            "buffer",
            "source",
            "destination",
            "id",
            "ifindex",
            "bytes",
            "held_at",
        ],
        rows: used.map(row).collect(),
    })
}

fn places<A: Addr>(map: &LpmTrie<MapData, Raw<PlaceKey<A>>, u32>) -> io::Result<Table>
where
    PlaceKey<A>: Plain,
{
    let entries = map.iter().map(|entry| place(&entry.map_err(errno)?));
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_unstable();
    let rows = entries
        .into_iter()
        .map(|(area, place)| {
            let guard = (area.space != NODE_SPACE).then_some(area.space);
            vec![
                json!(area.net.to_string()),
                json!(place.to_string()),
                json!(guard),
            ]
        })
        .collect();
    Ok(Table {
        columns: vec!["prefix", "place", "guard"],
        rows,
    })
}

/// The rows of an array that are in use, with their positions.
fn used<V: Plain>(
    map: &MapData,
    is_used: impl Fn(&V) -> bool,
) -> io::Result<impl Iterator<Item = (u32, V)>> {
    let rows = Rows::<V>::of(map)?;
    let rows = rows.read(0, rows.len())?;
    Ok((0..).zip(rows).filter(move |(_, row)| is_used(row)))
}

/// `memlock` in `/proc/self/fdinfo`: since Linux 6.4 what the map really takes, before an estimate.
fn memory(map: &MapData) -> Option<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:"))?
        .trim()
        .parse()
        .ok()
}

fn range(SlotRange { base, count }: SlotRange) -> Value {
    if count == 0 {
        Value::Null
    } else {
        json!(format!("{base}+{count}"))
    }
}

fn address<A: Addr>(addr: A, port: u16) -> String {
    std::net::SocketAddr::new(addr.to_ip(), port).to_string()
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}
