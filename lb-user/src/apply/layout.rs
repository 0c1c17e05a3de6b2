//! The shape of every map, and the check that a pinned map has it.
//!
//! aya reads and writes as many bytes as its types have, whatever the map's are: a pin of another layout
//! would corrupt memory. So no map is touched before its type and sizes were compared with these.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use aya::maps::{self, MapData, MapType};
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, Dialled, DialledKey, FlowSlot, Fragment, HeldPiece,
        LAYOUT_VERSION, NextHop, PlaceKey, Service, ServiceKey, SlotLayout, Source, SourceKey,
        former::{self, FormerSlot},
        map,
    },
    net::addr::{Addr4, Addr6},
};
use serde::Serialize;
use thiserror::Error;

/// Types of maps that are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_DEVMAP_HASH`.
    DevMapHash,
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hash => "hash",
            Self::LruHash => "lru_hash",
            Self::Array => "array",
            Self::PerCpuArray => "percpu_array",
            Self::LpmTrie => "lpm_trie",
            Self::DevMapHash => "devmap_hash",
        })
    }
}

impl From<MapKind> for String {
    fn from(kind: MapKind) -> Self {
        kind.to_string()
    }
}

/// What a map is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Name of the map and of its pin.
    pub name: &'static str,
    /// Type of the map.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
}

/// The directory beside the tables' for flow tables of the former layout, as long as they are in use.
pub const FORMER: &str = "former";

/// All maps, in the order of [`map::ALL`].
pub const SHAPES: [Shape; map::ALL.len()] = [
    shape::<ServiceKey<Addr4>, Service>(map::SERVICES4, MapKind::Hash),
    shape::<ServiceKey<Addr6>, Service>(map::SERVICES6, MapKind::Hash),
    shape::<u32, u32>(map::SLOTS, MapKind::Array),
    shape::<u32, Backend<Addr4>>(map::BACKENDS4, MapKind::Array),
    shape::<u32, Backend<Addr6>>(map::BACKENDS6, MapKind::Array),
    shape::<u32, FlowSlot<Addr4>>(map::FLOWS4, MapKind::Array),
    shape::<u32, FlowSlot<Addr6>>(map::FLOWS6, MapKind::Array),
    shape::<u32, NextHop>(map::NEXT_HOPS, MapKind::Array),
    shape::<u32, u64>(map::COUNTERS, MapKind::PerCpuArray),
    shape::<(u32, PlaceKey<Addr4>), u32>(map::PLACES4, MapKind::LpmTrie),
    shape::<(u32, PlaceKey<Addr6>), u32>(map::PLACES6, MapKind::LpmTrie),
    shape::<AffinityKey<Addr4>, Affinity>(map::AFFINITY4, MapKind::Hash),
    shape::<AffinityKey<Addr6>, Affinity>(map::AFFINITY6, MapKind::Hash),
    shape::<SourceKey, Source<Addr4>>(map::SOURCES4, MapKind::Hash),
    shape::<SourceKey, Source<Addr6>>(map::SOURCES6, MapKind::Hash),
    shape::<u32, Fragment<Addr4>>(map::FRAGMENTS4, MapKind::Array),
    shape::<u32, Fragment<Addr6>>(map::FRAGMENTS6, MapKind::Array),
    shape::<u32, HeldPiece>(map::PIECES, MapKind::Array),
    shape::<u32, u32>(map::TAKEOVER, MapKind::Array),
    shape::<u32, [u32; 2]>(map::XDP_DEVICES, MapKind::DevMapHash),
    shape::<u32, u32>(map::PEER_DEVICES, MapKind::Hash),
    shape::<u32, u32>(map::CONNECTIONS4, MapKind::Array),
    shape::<u32, u32>(map::CONNECTIONS6, MapKind::Array),
    shape::<DialledKey<Addr4>, Dialled<Addr4>>(map::DIALLED4, MapKind::LruHash),
    shape::<DialledKey<Addr6>, Dialled<Addr6>>(map::DIALLED6, MapKind::LruHash),
];

/// Why a map cannot be used.
#[derive(Debug, Error)]
pub enum MapError {
    /// There is no such map.
    #[error("there is no map {name}; the maps are: {}", map::ALL.join(", "))]
    Unknown {
        /// The name that was given.
        name: String,
    },
    /// It is not pinned here.
    #[error("map {name} is not pinned at {path}: {source}; is this the agent's --run-dir?")]
    NotPinned {
        /// The map.
        name: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is of another layout.
    #[error(
        "map {name} is {found}, but {expected} in layout version {LAYOUT_VERSION}; it was made by another \
             release: use that one, start the agent of this one, or remove it by `fulcrum cleanup`"
    )]
    OtherLayout {
        /// The map.
        name: &'static str,
        /// What it is like.
        found: String,
        /// What it should be like.
        expected: String,
    },
    /// The kernel refused.
    #[error("map {name}: {source}")]
    Kernel {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Opens a pinned map and checks that it has the shape that its name stands for.
pub fn open_pinned(pin_dir: &Path, name: &str) -> Result<MapData, MapError> {
    let shape = shape_of(name)?;
    let path = pin_dir.join(shape.name);
    let map = MapData::from_pin(&path).map_err(|error| MapError::NotPinned {
        name: shape.name,
        path,
        source: errno(error),
    })?;
    check(&map, shape)?;
    Ok(map)
}

/// Opens a pinned flow table, and tells the layout of its slots. Until flows are taken out of the table of the release
/// before, that one is pinned in a directory beside ([`FORMER`]) and there is none here.
pub fn open_flow_table(pin_dir: &Path, name: &str) -> Result<(MapData, SlotLayout), MapError> {
    let shape = shape_of(name)?;
    let own = open_pinned(pin_dir, name);
    let path = pin_dir.with_file_name(FORMER).join(name);
    let is_own = !matches!(own, Err(MapError::NotPinned { .. }));
    if is_own || former::VERSION.is_none() || !path.exists() {
        return Ok((own?, SlotLayout::OWN));
    }
    let map = MapData::from_pin(&path).map_err(|error| MapError::NotPinned {
        name: shape.name,
        path,
        source: errno(error),
    })?;
    let former = Shape {
        value_size: former_value_size(name),
        ..*shape
    };
    check(&map, &former)?;
    Ok((map, SlotLayout::FORMER))
}

/// Bytes of a value of a flow table in the former layout.
pub fn former_value_size(name: &str) -> u32 {
    if name == map::FLOWS6 {
        n_bytes::<FormerSlot<Addr6>>()
    } else {
        n_bytes::<FormerSlot<Addr4>>()
    }
}

/// The shape of the map of this name.
pub(super) fn shape_of(name: &str) -> Result<&'static Shape, MapError> {
    let unknown = || MapError::Unknown {
        name: name.to_owned(),
    };
    SHAPES
        .iter()
        .find(|shape| shape.name == name)
        .ok_or_else(unknown)
}

/// Whether the kernel's map has this shape.
pub(super) fn check(map: &MapData, shape: &Shape) -> Result<(), MapError> {
    let name = shape.name;
    let info = map.info().map_err(|error| MapError::Kernel {
        name,
        source: errno(error),
    })?;
    let (key_size, value_size) = (info.key_size(), info.value_size());
    let kind = match info.map_type() {
        Ok(MapType::Hash) => Some(MapKind::Hash),
        Ok(MapType::LruHash) => Some(MapKind::LruHash),
        Ok(MapType::Array) => Some(MapKind::Array),
        Ok(MapType::PerCpuArray) => Some(MapKind::PerCpuArray),
        Ok(MapType::LpmTrie) => Some(MapKind::LpmTrie),
        Ok(MapType::DevMapHash) => Some(MapKind::DevMapHash),
        _ => None,
    };
    let found = kind.map(|kind| Shape {
        name,
        kind,
        key_size,
        value_size,
    });
    if found.as_ref() == Some(shape) {
        return Ok(());
    }
    let kind = kind.map_or_else(|| "of another type".to_owned(), |kind| kind.to_string());
    let found = format!("{kind} with keys of {key_size} and values of {value_size} bytes");
    let Shape {
        kind,
        key_size,
        value_size,
        ..
    } = shape;
    let expected = format!("{kind} with keys of {key_size} and values of {value_size} bytes");
    Err(MapError::OtherLayout {
        name,
        found,
        expected,
    })
}

/// The kernel's error inside aya's.
pub(super) fn errno(error: maps::MapError) -> io::Error {
    match error {
        maps::MapError::SyscallError(error) => error.io_error,
        maps::MapError::IoError(error) => error,
        maps::MapError::KeyNotFound | maps::MapError::ElementNotFound => {
            io::Error::from_raw_os_error(libc::ENOENT)
        }
        maps::MapError::OutOfBounds { .. } => io::Error::from_raw_os_error(libc::E2BIG),
        error => io::Error::other(error),
    }
}

const fn shape<K, V>(name: &'static str, kind: MapKind) -> Shape {
    Shape {
        name,
        kind,
        key_size: n_bytes::<K>(),
        value_size: n_bytes::<V>(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "there is no conversion that can fail in constants"
)]
const fn n_bytes<T>() -> u32 {
    assert!(size_of::<T>() <= u16::MAX as usize);
    size_of::<T>() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_has_a_shape_in_the_order_of_the_list() {
        assert_eq!(SHAPES.map(|shape| shape.name), map::ALL);
    }

    #[test]
    fn a_map_that_does_not_exist_is_answered_with_those_that_do() {
        let error = shape_of("service4").expect_err("no such map").to_string();
        assert!(
            error
                .starts_with("there is no map service4; the maps are: services4, services6, slots"),
            "{error}"
        );
    }
}
