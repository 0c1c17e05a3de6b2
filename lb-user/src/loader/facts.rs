//! The node's load-time facts, for whoever reads the tables: pinned beside them, and never altered.

use std::{fs, io, path::Path};

use aya::{
    maps::{Array, IterableMap as _, Map, MapData, MapError},
    pin::PinError,
};
use lb_common::abi::NodeConfig;

use crate::apply::Raw;

/// Pins them.
fn pin(node: &NodeConfig, path: &Path) -> Result<(), PinFactsError> {
    let mut array = Array::<MapData, Raw<NodeConfig>>::create(1, 0)?;
    array.set(0, Raw(*node), 0)?;
    Ok(array.map().pin(path)?)
}

/// Pins them in the place of those that are pinned there, if any are.
pub(super) fn replace(node: &NodeConfig, path: &Path) -> Result<(), PinFactsError> {
    let next = path.with_file_name("node_next");
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    pin(node, &next)?;
    Ok(fs::rename(&next, path)?)
}

/// Why they cannot be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinFactsError {
    /// The kernel refused the map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel refused the pin.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The pin could not be given its name.
    #[error(transparent)]
    Name(#[from] io::Error),
}

/// Those that are pinned beside the tables in a directory; an error: nothing is, or it is of another layout.
pub fn read(pin_dir: &Path) -> io::Result<NodeConfig> {
    read_at(&super::pin::facts(pin_dir))
}

/// Those that are pinned at `path`.
pub(super) fn read_at(path: &Path) -> io::Result<NodeConfig> {
    let map = MapData::from_pin(path).map_err(io::Error::other)?;
    let info = map.info().map_err(io::Error::other)?;
    if info.value_size() as usize != size_of::<NodeConfig>() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let array = Array::<_, Raw<NodeConfig>>::try_from(Map::Array(map)).map_err(io::Error::other)?;
    let Raw(node) = array.get(&0, 0).map_err(io::Error::other)?;
    Ok(node)
}
