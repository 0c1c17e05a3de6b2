//! The tables in the kernel.
//!
//! Families are written once and bound to their maps in one place. Every map was checked against the
//! layout before it gets here. The maps outlive this value: it holds references, the pins hold the maps.

use std::{collections::BTreeMap, fmt, io, net::IpAddr, path::Path};

use aya::{
    Ebpf,
    maps::{self, HashMap, LpmTrie, Map, MapData, lpm_trie::Key},
};
use ipnet::IpNet;
use lb_common::{
    abi::{
        Affinity, AffinityKey, Backend, PlaceKey, Plain, Service, ServiceKey, SlotRange, Source,
        SourceKey, map, place::SPACE_BITS,
    },
    net::addr::{Addr, Addr4, Addr6, Family},
};

use super::{
    layout::{MapError, check, errno, open_pinned, shape_of},
    lbmaps::{Access, IsLive, LbMaps, TableError},
    pod::Raw,
};
use crate::{
    desired::Place,
    plan::{Area, BackendId, BackendRow, Capacity, FrontendKey, SourceId, SourceRow, display_key},
    sys::{Rows, wait_for_readers},
};

/// See the module.
#[derive(Debug)]
pub struct BpfMaps {
    v4: FamilyMaps<Addr4>,
    v6: FamilyMaps<Addr6>,
    slots: MapData,
    capacity: Capacity,
}

impl BpfMaps {
    /// The maps that are pinned in a directory.
    pub fn open(pin_dir: &Path) -> Result<Self, MapError> {
        Self::from_source(|name| open_pinned(pin_dir, name))
    }

    /// The same, but those that are to grow from where larger ones are pinned.
    pub fn open_beside(pin_dir: &Path, larger: &Path) -> Result<Self, MapError> {
        Self::from_source(|name| {
            let is_larger = Capacity::default().entries(name).is_some();
            open_pinned(if is_larger { larger } else { pin_dir }, name)
        })
    }

    /// The maps of a loaded object, which hands them over.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Self::from_source(|name| {
            let shape = shape_of(name)?;
            let unknown = || MapError::Unknown {
                name: name.to_owned(),
            };
            let map = ebpf.take_map(name).ok_or_else(unknown)?;
            let (Map::Array(map) | Map::HashMap(map) | Map::LpmTrie(map)) = map else {
                return Err(unknown());
            };
            check(&map, shape)?;
            Ok(map)
        })
    }

    fn from_source(
        mut source: impl FnMut(&'static str) -> Result<MapData, MapError>,
    ) -> Result<Self, MapError> {
        let (v4, room4) = FamilyMaps::new(&NAMES4, &mut source)?;
        let (v6, room6) = FamilyMaps::new(&NAMES6, &mut source)?;
        let slots = source(map::SLOTS)?;
        let capacity = Capacity {
            services: room4.services.min(room6.services),
            slots: max_entries(map::SLOTS, &slots)?,
            backends: room4.backends.min(room6.backends),
            places: room4.places.min(room6.places),
        };
        Ok(Self {
            v4,
            v6,
            slots,
            capacity,
        })
    }
}

impl LbMaps for BpfMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }

    fn put_service(&mut self, key: &FrontendKey, service: &Service) -> Result<(), TableError> {
        match key.addr {
            IpAddr::V4(addr) => self.v4.put_service(addr.into(), key, service),
            IpAddr::V6(addr) => self.v6.put_service(addr.into(), key, service),
        }
    }

    fn delete_service(&mut self, key: &FrontendKey) -> Result<(), TableError> {
        match key.addr {
            IpAddr::V4(addr) => self.v4.delete_service(addr.into(), key),
            IpAddr::V6(addr) => self.v6.delete_service(addr.into(), key),
        }
    }

    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError> {
        let mut services = self.v4.services()?;
        services.append(&mut self.v6.services()?);
        Ok(services)
    }

    fn write_slots(&mut self, base: u32, ids: &[u32]) -> Result<(), TableError> {
        let rows = Rows::of(&self.slots).and_then(|rows| rows.write(base, ids));
        rows.map_err(|error| refused(Access::Write, map::SLOTS, base, error))
    }

    fn slots(&self, range: SlotRange) -> Result<Vec<u32>, TableError> {
        let SlotRange { base, count } = range;
        let rows = Rows::of(&self.slots).and_then(|rows| rows.read(base, count));
        rows.map_err(|error| refused(Access::Read, map::SLOTS, base, error))
    }

    fn put_backend(&mut self, id: BackendId, row: &BackendRow) -> Result<(), TableError> {
        match row.addr {
            IpAddr::V4(addr) => self.v4.put_backends(id.id, &[row_at(addr.into(), row)]),
            IpAddr::V6(addr) => self.v6.put_backends(id.id, &[row_at(addr.into(), row)]),
        }
    }

    fn put_backends(&mut self, first: BackendId, rows: &[BackendRow]) -> usize {
        let written = match first.family {
            Family::V4 => {
                let addr = |addr| match addr {
                    IpAddr::V4(addr) => Some(addr.into()),
                    IpAddr::V6(_) => None,
                };
                self.v4.put_backends(first.id, &rows_of(rows, addr))
            }
            Family::V6 => {
                let addr = |addr| match addr {
                    IpAddr::V6(addr) => Some(addr.into()),
                    IpAddr::V4(_) => None,
                };
                self.v6.put_backends(first.id, &rows_of(rows, addr))
            }
        };
        // An array has room for all its rows: the kernel refuses all or nothing.
        written.map_or(0, |()| rows.len())
    }

    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError> {
        let mut backends = self.v4.backends()?;
        backends.append(&mut self.v6.backends()?);
        Ok(backends)
    }

    fn put_place(&mut self, area: Area, place: Place) -> Result<(), TableError> {
        let (addr, code) = (area.net.addr(), place.code());
        let result = match addr {
            IpAddr::V4(addr) => self.v4.places.insert(&prefix(area, addr.into()), code, 0),
            IpAddr::V6(addr) => self.v6.places.insert(&prefix(area, addr.into()), code, 0),
        };
        result.map_err(|error| refused(Access::Write, places_of(addr), area, errno(error)))
    }

    fn delete_place(&mut self, area: Area) -> Result<(), TableError> {
        let addr = area.net.addr();
        let result = match addr {
            IpAddr::V4(addr) => self.v4.places.remove(&prefix(area, addr.into())),
            IpAddr::V6(addr) => self.v6.places.remove(&prefix(area, addr.into())),
        };
        absent_is_gone(result)
            .map_err(|error| refused(Access::Delete, places_of(addr), area, error))
    }

    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError> {
        let mut places = self.v4.places()?;
        places.append(&mut self.v6.places()?);
        Ok(places)
    }

    fn put_source(&mut self, id: SourceId, row: &SourceRow) -> Result<(), TableError> {
        match row.addr {
            IpAddr::V4(addr) => self.v4.put_source(id, addr.into(), row.count),
            IpAddr::V6(addr) => self.v6.put_source(id, addr.into(), row.count),
        }
    }

    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError> {
        match id.family {
            Family::V4 => self.v4.delete_source(id),
            Family::V6 => self.v6.delete_source(id),
        }
    }

    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError> {
        let mut sources = self.v4.sources()?;
        sources.append(&mut self.v6.sources()?);
        Ok(sources)
    }

    fn sweep_affinity(&mut self, is_live: IsLive<'_>) -> Result<usize, TableError> {
        Ok(self.v4.sweep_affinity(is_live)? + self.v6.sweep_affinity(is_live)?)
    }

    fn grace(&mut self) -> Result<(), TableError> {
        wait_for_readers();
        Ok(())
    }
}

/// Names of one family's maps.
#[derive(Debug)]
struct MapNames {
    services: &'static str,
    backends: &'static str,
    places: &'static str,
    affinity: &'static str,
    sources: &'static str,
}

const NAMES4: MapNames = MapNames {
    services: map::SERVICES4,
    backends: map::BACKENDS4,
    places: map::PLACES4,
    affinity: map::AFFINITY4,
    sources: map::SOURCES4,
};
const NAMES6: MapNames = MapNames {
    services: map::SERVICES6,
    backends: map::BACKENDS6,
    places: map::PLACES6,
    affinity: map::AFFINITY6,
    sources: map::SOURCES6,
};

/// The maps of one family.
struct FamilyMaps<A: Addr> {
    names: &'static MapNames,
    services: HashMap<MapData, Raw<ServiceKey<A>>, Raw<Service>>,
    backends: MapData,
    places: LpmTrie<MapData, Raw<PlaceKey<A>>, u32>,
    affinity: HashMap<MapData, Raw<AffinityKey<A>>, Raw<Affinity>>,
    sources: HashMap<MapData, Raw<SourceKey>, Raw<Source<A>>>,
}

impl<A: Addr> FamilyMaps<A>
where
    ServiceKey<A>: Plain,
    Backend<A>: Plain,
    PlaceKey<A>: Plain,
    AffinityKey<A>: Plain,
{
    /// The maps, and how much they hold.
    fn new(
        names: &'static MapNames,
        source: &mut impl FnMut(&'static str) -> Result<MapData, MapError>,
    ) -> Result<(Self, Capacity), MapError> {
        let services = source(names.services)?;
        let backends = source(names.backends)?;
        let places = source(names.places)?;
        let capacity = Capacity {
            services: max_entries(names.services, &services)?,
            slots: 0,
            backends: max_entries(names.backends, &backends)?,
            places: max_entries(names.places, &places)?,
        };
        let maps = Self {
            names,
            services: typed(names.services, Map::HashMap(services))?,
            backends,
            places: typed(names.places, Map::LpmTrie(places))?,
            affinity: typed(names.affinity, Map::HashMap(source(names.affinity)?))?,
            sources: typed(names.sources, Map::HashMap(source(names.sources)?))?,
        };
        Ok((maps, capacity))
    }

    fn put_service(
        &mut self,
        addr: A,
        key: &FrontendKey,
        service: &Service,
    ) -> Result<(), TableError> {
        let raw = Raw(ServiceKey::new(addr, key.port, key.proto));
        let result = self.services.insert(raw, Raw(*service), 0);
        let table = self.names.services;
        result.map_err(|error| refused(Access::Write, table, display_key(key), errno(error)))
    }

    fn delete_service(&mut self, addr: A, key: &FrontendKey) -> Result<(), TableError> {
        // As it was found: others may have written where nothing should be.
        let raw = ServiceKey {
            pad: key.pad,
            ..ServiceKey::new(addr, key.port, key.proto)
        };
        let result = self.services.remove(&Raw(raw));
        let table = self.names.services;
        absent_is_gone(result)
            .map_err(|error| refused(Access::Delete, table, display_key(key), error))
    }

    fn services(&self) -> Result<BTreeMap<FrontendKey, Service>, TableError> {
        let entry = |entry: Result<(Raw<ServiceKey<A>>, Raw<Service>), maps::MapError>| {
            let (Raw(key), Raw(service)) = entry
                .map_err(|error| refused(Access::Read, self.names.services, "*", errno(error)))?;
            let ServiceKey {
                addr,
                port,
                proto,
                pad,
            } = key;
            Ok((
                ServiceKey {
                    addr: addr.to_ip(),
                    port,
                    proto,
                    pad,
                },
                service,
            ))
        };
        self.services.iter().map(entry).collect()
    }

    fn put_backends(&mut self, first: u32, rows: &[Backend<A>]) -> Result<(), TableError> {
        let result = Rows::of(&self.backends).and_then(|there| there.write(first, rows));
        result.map_err(|error| refused(Access::Write, self.names.backends, first, error))
    }

    fn backends(&self) -> Result<BTreeMap<BackendId, BackendRow>, TableError> {
        let rows = Rows::<Backend<A>>::of(&self.backends);
        let rows = rows
            .and_then(|rows| rows.read(0, rows.len()))
            .map_err(|error| refused(Access::Read, self.names.backends, "*", error))?;
        let used = (0..)
            .zip(rows)
            .filter(|(_, row)| row.service != 0 || row.generation != 0);
        let row = |(id, row): (u32, Backend<A>)| {
            let Backend {
                addr,
                service,
                port,
                generation,
                flags,
            } = row;
            let row = Backend {
                addr: addr.to_ip(),
                service,
                port,
                generation,
                flags,
            };
            (
                BackendId {
                    family: A::FAMILY,
                    id,
                },
                row,
            )
        };
        Ok(used.map(row).collect())
    }

    /// Removes what nobody goes by any more. The datapath writes meanwhile; an entry that it has just renewed may
    /// go too, and then its client's next connection is given a backend like any other.
    fn sweep_affinity(&mut self, is_live: IsLive<'_>) -> Result<usize, TableError> {
        let table = self.names.affinity;
        let mut stale = Vec::new();
        for entry in &self.affinity {
            // Entries come and go under the walk.
            let Ok((Raw(key), Raw(given))) = entry else {
                break;
            };
            if !is_live(key.service, given.last_opened) {
                stale.push(key);
            }
        }
        for key in &stale {
            let result = self.affinity.remove(&Raw(*key));
            absent_is_gone(result)
                .map_err(|error| refused(Access::Delete, table, key.client, error))?;
        }
        Ok(stale.len())
    }

    fn put_source(&mut self, id: SourceId, addr: A, count: u32) -> Result<(), TableError> {
        let row = Raw(Source { addr, count });
        let result = self.sources.insert(Raw(id.key), row, 0);
        result.map_err(|error| refused(Access::Write, self.names.sources, id, errno(error)))
    }

    fn delete_source(&mut self, id: SourceId) -> Result<(), TableError> {
        absent_is_gone(self.sources.remove(&Raw(id.key)))
            .map_err(|error| refused(Access::Delete, self.names.sources, id, error))
    }

    fn sources(&self) -> Result<BTreeMap<SourceId, SourceRow>, TableError> {
        let table = self.names.sources;
        let entry = |entry: Result<(Raw<SourceKey>, Raw<Source<A>>), maps::MapError>| {
            let (Raw(key), Raw(Source { addr, count })) =
                entry.map_err(|error| refused(Access::Read, table, "*", errno(error)))?;
            let family = A::FAMILY;
            let addr = addr.to_ip();
            Ok((SourceId { family, key }, Source { addr, count }))
        };
        self.sources.iter().map(entry).collect()
    }

    fn places(&self) -> Result<BTreeMap<Area, Place>, TableError> {
        let table = self.names.places;
        let entries = self.places.iter().map(|entry| {
            let entry = entry.map_err(|error| refused(Access::Read, table, "*", errno(error)))?;
            place(&entry).map_err(|error| refused(Access::Read, table, "*", error))
        });
        entries.collect()
    }
}

impl<A: Addr> fmt::Debug for FamilyMaps<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FamilyMaps")
            .field("names", self.names)
            .finish_non_exhaustive()
    }
}

/// A row with its address as the table has it.
fn row_at<A: Addr>(addr: A, row: &BackendRow) -> Backend<A> {
    let BackendRow {
        addr: _,
        service,
        port,
        generation,
        flags,
    } = *row;
    Backend {
        addr,
        service,
        port,
        generation,
        flags,
    }
}

/// Rows of one family; those of the other are none of its table.
fn rows_of<A: Addr>(rows: &[BackendRow], addr: impl Fn(IpAddr) -> Option<A>) -> Vec<Backend<A>> {
    let rows = rows.iter();
    rows.filter_map(|row| Some(row_at(addr(row.addr)?, row)))
        .collect()
}

/// What an entry of a trie says.
pub(super) fn place<A: Addr>(
    (key, code): &(Key<Raw<PlaceKey<A>>>, u32),
) -> io::Result<(Area, Place)>
where
    PlaceKey<A>: Plain,
{
    let Raw(PlaceKey { space, addr }) = key.data();
    let len = key.prefix_len().saturating_sub(SPACE_BITS);
    let len = u8::try_from(len).map_err(io::Error::other)?;
    let net = IpNet::new(addr.to_ip(), len).map_err(io::Error::other)?;
    let area = Area { space, net };
    let unknown = || io::Error::other(format!("{area}: {code} is no place that is known"));
    Ok((area, Place::of(*code).ok_or_else(unknown)?))
}

fn prefix<A: Addr>(area: Area, addr: A) -> Key<Raw<PlaceKey<A>>>
where
    PlaceKey<A>: Plain,
{
    let space = area.space;
    let bits = SPACE_BITS + u32::from(area.net.prefix_len());
    Key::new(bits, Raw(PlaceKey { space, addr }))
}

fn places_of(addr: IpAddr) -> &'static str {
    match addr {
        IpAddr::V4(_) => map::PLACES4,
        IpAddr::V6(_) => map::PLACES6,
    }
}

/// A map as aya's type for it.
pub(super) fn typed<T: TryFrom<Map, Error = maps::MapError>>(
    name: &'static str,
    map: Map,
) -> Result<T, MapError> {
    T::try_from(map).map_err(|error| MapError::Kernel {
        name,
        source: errno(error),
    })
}

fn max_entries(name: &'static str, map: &MapData) -> Result<u32, MapError> {
    let info = map.info().map_err(|error| MapError::Kernel {
        name,
        source: errno(error),
    })?;
    Ok(info.max_entries())
}

/// Removing what is not there is no error.
fn absent_is_gone(result: Result<(), maps::MapError>) -> io::Result<()> {
    match result.map_err(errno) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn refused(
    access: Access,
    table: &'static str,
    key: impl fmt::Display,
    source: io::Error,
) -> TableError {
    TableError {
        access,
        table,
        key: key.to_string(),
        source,
    }
}
